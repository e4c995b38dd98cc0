"""Ranking tasks: what a language model may know of each user, and the candidates it is to rank."""

import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.errors import DatasetError, SettingError
from hybridrec.evaluation.controls import ratings_of_items
from hybridrec.llm import prompts
from hybridrec.randomness import generator

SHOWN = ("best", "recent", "ends", "mixed")


@dataclass(frozen=True)
class Task:
    """One user's ranking task: the history shown, and the candidates (ids and what is shown of them) in their order."""

    user: Hashable
    history: tuple[prompts.Item, ...]
    candidates: tuple[Hashable, ...]
    items: tuple[prompts.Item, ...]


def item_facts(items: pd.DataFrame, of_items: pd.DataFrame, scale: int) -> pd.Series:
    """What a mode with facts says of each item: genres, mean rating and number of known (never test) ratings.

    ``of_items`` is what ``controls.ratings_of_items`` returned.
    """
    ratings = of_items.assign(mean=of_items["sum"] / of_items["size"])[["mean", "size"]].reindex(items["item"])
    seen = [
        f"mean rating {mean:.1f} of {scale} from {int(size)} ratings" if size > 0 else "no ratings yet"
        for mean, size in ratings.itertuples(index=False)
    ]
    words = [f"{genres}; {text}" if genres else text for genres, text in zip(items["genres"], seen, strict=True)]
    return pd.Series(words, index=items["item"].to_numpy())


def build_tasks(
    users: Iterable[Hashable],
    known: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
    history_length: int = 20,
    scale: int = 5,
    shown: str = "best",
    like: float | None = None,
    item_ratings: pd.DataFrame | None = None,
) -> list[Task]:
    """The task of each user, from what is known of them before the test.

    Args:
        users: whom to rank for.
        known: ratings the model may see (train and validation): user, item, rating, timestamp.
        candidates: user, position, item. The model is shown a user's candidates by position.
        items: item, title, genres.
        history_length: items of the user's own shown.
        scale: the highest rating, named in the facts.
        shown: which of them, and in what order: "mixed": by chance, but always the same of the same user and items;
            "best" (the published one): in decreasing order of rating, newest first
            among equals; "recent": newest first; "ends": in the order of "best" the first half and the last half of
            ``history_length``.
        like: a rating at or above it says that the user likes the item; None: no mode is told of likes.
        item_ratings: all known ratings of each item (``controls.ratings_of_items``), where ``known`` holds those of
            some users only.

    Raises:
        DatasetError: a user without candidates or without history; a candidate that is not among the items, or that a
            user has twice (names the first user, and how many more there are).
        SettingError: an unknown ``shown``.

    Source: Kaur & Shah 2024, section 3.2.
    """
    if shown not in SHOWN:
        raise SettingError(f"shown is {shown!r}; it must be {', '.join(SHOWN)}.")
    users = pd.Series(list(users)).tolist()  # Python's own numbers or text
    wanted = candidates[candidates["user"].isin(users)]
    _refuse(set(users) - set(candidates["user"]), "no candidates")
    _refuse(set(users) - set(known["user"]), "no history")
    _refuse(wanted.loc[~wanted["item"].isin(items["item"]), "user"], "a candidate that is not among the items")
    _refuse(wanted.loc[wanted.duplicated(["user", "item"]), "user"], "a candidate twice")
    of_items = ratings_of_items(known) if item_ratings is None else item_ratings
    titles, facts = items.set_index("item")["title"], item_facts(items, of_items, scale)
    described = {item: prompts.Item(titles[item], facts[item]) for item in titles.index}
    histories = _histories(known[known["user"].isin(users)], history_length, shown)
    lists = wanted.sort_values(["user", "position"]).groupby("user")["item"].agg(list)
    return [
        Task(
            user=user,
            history=tuple(
                replace(
                    described[item],
                    rating=rating,
                    grade=prompts.grade(rating, scale),
                    liked=None if like is None else rating >= like,
                )
                for item, rating in histories[user]
            ),
            candidates=tuple(lists[user]),
            items=tuple(described[item] for item in lists[user]),
        )
        for user in users
    ]


def _histories(known: pd.DataFrame, length: int, shown: str) -> dict[Hashable, list[tuple[Hashable, float]]]:
    """Each user's items that are shown, with their ratings, in order."""
    if shown == "mixed":
        pairs = zip(known["user"], known["item"], strict=True)
        known = known.assign(place=[zlib.crc32(f"{user} {item}".encode()) for user, item in pairs])
    first = {"recent": ["timestamp", "rating"], "mixed": ["place", "timestamp"]}.get(shown, ["rating", "timestamp"])
    rows = known.sort_values(["user", *first, "item"], ascending=[True, False, False, True])
    from_start, number = rows.groupby("user").cumcount(), rows.groupby("user")["item"].transform("size")
    if shown == "ends":
        kept = (from_start < length - length // 2) | (number - from_start <= length // 2)
    else:
        kept = from_start < length
    rows = rows[kept]
    shown_ones = pd.Series(list(zip(rows["item"].tolist(), rows["rating"].tolist(), strict=True)), index=rows.index)
    return shown_ones.groupby(rows["user"]).agg(list).to_dict()


def _refuse(users: Iterable[Any], what: str) -> None:
    if users := set(users):
        first, more = min(users), f" (and {len(users) - 1} more)" if len(users) > 1 else ""
        raise DatasetError(f"user {first}{more} has {what}: leave this user out, or put the table right.")


def with_anothers_history(tasks: Sequence[Task], seed: int) -> list[Task]:
    """The same candidates for the same users, each with the history of another of them.

    Every history is given to one other user. Titles among the user's own candidates are left out of it, as they are in
    no user's own history: a model that repeats what it reads, or avoids it, would rank by that. So a borrowed history
    may be shorter than its owner's.

    Args:
        tasks: of at least two users; of one nobody can borrow, and the list is empty.
        seed: root of who borrows from whom.
    """
    if len(tasks) < 2:
        return []
    ring = generator(seed, "another-history").permutation(len(tasks))  # each borrows from the one before: never oneself
    lenders = dict(zip(ring, np.roll(ring, 1), strict=True))
    borrowed = []
    for place, task in enumerate(tasks):
        own = {item.title for item in task.items}
        history = tasks[lenders[place]].history
        borrowed.append(replace(task, history=tuple(item for item in history if item.title not in own)))
    return borrowed
