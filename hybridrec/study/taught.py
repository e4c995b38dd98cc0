"""The taught model under protocol ``cross`` (notebook 07): what it is asked, how it is judged, what it remembers.

One adapter serves all folds: no user whose list is judged was taught on (``teaching.never_routed``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.errors import ModelError, SettingError
from hybridrec.evaluation import arms, fusion, metrics, statistics
from hybridrec.evaluation import cross as evaluation
from hybridrec.evaluation.cross import OWN, RANDOM, Ranker
from hybridrec.evaluation.lists import Lists
from hybridrec.llm import memory, teach
from hybridrec.llm.lessons import Material
from hybridrec.llm.models import weights
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Model
from hybridrec.randomness import generator, in_random_order
from hybridrec.study import config, cross_answers, cross_arms, cross_tasks, families, models, paths, teaching
from hybridrec.study.cross_answers import Asking, Cross
from hybridrec.study.families import Compared
from hybridrec.study.names import BAR, OWN_RECOMMENDER, TAUGHT, TAUGHT_MEAN, UNTAUGHT
from hybridrec.study.names import IN_CONTEXT as LLM
from hybridrec.study.names import TAUGHT_ANOTHERS as ANOTHERS

_WITHOUT = (arms.ITEM_MEAN, arms.EMBEDDING)  # added to a recommender before the taught model is
# What each recommender is fused with, in turn.
FUSED = ((TAUGHT,), _WITHOUT, (*_WITHOUT, TAUGHT))
GROUPS = ("weak", "inactive")
# How many taught ratings a title has, and how many known ratings a user: the lower ends of what is told apart.
TITLE_BINS = {"0": 0, "1 to 9": 1, "10 to 49": 10, "50 and more": 50}
HISTORY_BINS = {"up to 3": 0, "4 to 7": 4, "8 to 15": 8, "16 to 31": 16, "32 to 47": 32, "48 and more": 48}
MEANS = ["group", "ranker", "n", "auc", "low", "high"]
# Rankers that are shown, from the top; all others are in the table.
SHOWN = (
    *(TAUGHT, ANOTHERS, UNTAUGHT, LLM, TAUGHT_MEAN, arms.ITEM_MEAN, arms.EMBEDDING, arms.STACK, BAR),
    *(OWN_RECOMMENDER, *(fusion.name("recommender", " + ".join(added)) for added in FUSED)),
)
BY = ["ratings", "ranker", "users", "pairs", "auc", "low", "high"]


# --- what is asked ----------------------------------------------------------------------------------------------------


def why_not(experiment: str, model: str, taught: Mapping[str, Any] | None) -> str:
    """Why the taught model is not asked; "" where it is."""
    if taught is None:
        return f"Not run: notebooks/experiments/{experiment}.toml has no table [taught]."
    if not (_folder(experiment, model, taught) / weights.ADAPTER_CARD).is_file():
        return f"Not run: make teach EXPERIMENT={taught.get('adapter_of') or experiment}, then make reproduce."
    return ""


def _folder(experiment: str, model: str, taught: Mapping[str, Any]) -> Path:
    return teaching.folder(taught.get("adapter_of") or experiment, model)


@dataclass(frozen=True)
class Taught:
    """A taught model, and everything that it and the untaught one are asked.

    Attributes:
        asking: of the taught model: its own users, the folds that decide, another user's history.
        dataset: whose recordings these are.
        untaught, recordings: the model as it was, and its answers.
        settings: the table ``[taught]``.
        card: of the adapter.
    """

    asking: Asking
    dataset: str
    untaught: Model
    recordings: Recordings
    settings: config.Taught
    card: dict[str, Any]

    @property
    def cross(self) -> Cross:
        """The folds."""
        return self.asking.cross

    @cached_property
    def material(self) -> Material:
        """What the model was taught, of users who are never routed."""
        return teaching.material(self.cross)

    @cached_property
    def divided(self) -> tuple[list[Any], list[Any]]:
        """Users who were held back, and users who were taught on."""
        return teach.divide(self.material, teach.Teaching(**self.card["settings"]), self.card["seed"])

    @property
    def ratings(self) -> pd.DataFrame:
        """The ratings that were taught: user, item, rating."""
        rows = self.material.ratings
        return rows[rows["user"].isin(self.divided[1])]

    @cached_property
    def same_way(self) -> cross_tasks.Tasks:
        """What the untaught model is asked: judged lists of a sample, in the way of the taught one."""
        able = self.asking.drawn or self.cross.inactive(ratings=self.cross.everybody)
        drawn = in_random_order(able, self.cross.seed, "untaught")[: self.settings.sample]
        return cross_answers.judged_tasks(self.cross, self.asking.chosen, set(drawn))

    @cached_property
    def probes(self) -> dict[str, list[Asked]]:
        """What both are asked to see what they remember (``memory``): by name of the probe."""
        cross, sample, mode = self.cross, self.settings.sample, "rating-lines"
        titles, seed = self.material.items["title"], self.card["seed"]
        held, taught = self.divided
        drawn = in_random_order(taught, seed, "remembered users")[:sample]
        how: dict[str, Any] = {
            "items": self.material.items, "mode": mode, "noun": cross.noun, "scale": cross.rating_scale, "seed": seed,
        }  # fmt: skip
        ratings = self.material.ratings
        return {
            "titles": memory.title_requests(titles, mode, cross.noun, seed, sample),
            "taught users": memory.user_requests(ratings, drawn, **how),
            "taught users, another's list": memory.user_requests(ratings, drawn, **how, another=True),
            "users held back": memory.user_requests(ratings, sorted(held)[:sample], **how),
        }

    def stages(self) -> Iterator[tuple[str, list[Asked], Model, Recordings]]:
        """What is asked, by name, and of whom."""
        todo, cross = self.asking, self.cross
        mine = (todo.model, todo.recordings)
        yield "own history", cross_tasks.asked_in(todo.own, cross), *mine
        yield "folds that decide", cross_tasks.asked_in(todo.deciding, cross), *mine
        yield "another user's history", cross_tasks.asked_in(todo.borrowed, cross), *mine
        yield UNTAUGHT, cross_tasks.asked_in(self.same_way, cross), self.untaught, self.recordings
        for whose, model, recordings in (("taught", *mine), ("untaught", self.untaught, self.recordings)):
            yield f"memory, {whose}", [one for asked in self.probes.values() for one in asked], model, recordings

    def answers(self) -> pd.DataFrame:
        """What is recorded, as TAUGHT, ANOTHERS and UNTAUGHT, in ``cross_answers.COLUMNS``."""
        names = {families.OWN_HISTORY: TAUGHT, families.ANOTHERS: ANOTHERS}
        found = cross_answers.arms(self.asking).replace({"ranker": names})
        other = cross_answers.answers(self.same_way, self.cross, self.untaught, self.recordings)
        return pd.concat([found, cross_answers.as_table([other.assign(ranker=UNTAUGHT)], self.untaught.name)])

    def remembered(self) -> dict[str, pd.DataFrame]:
        """What each probe gives, for ``memory.table``."""
        return {
            whose: pd.concat([memory.values(name, asked, *of) for name, asked in self.probes.items()])
            for whose, of in (
                ("untaught", (self.untaught, self.recordings)),
                ("taught", (self.asking.model, self.asking.recordings)),
            )
        }


def prepare(
    experiment: str,
    dataset: str,
    model: str,
    taught: Mapping[str, Any] | None,
    local: Mapping[str, Any] | None,
    cross: Cross,
) -> Taught | None:
    """The taught model of an experiment; None where it is not asked (``why_not``).

    Args:
        experiment, dataset, model, taught, local: the settings of that name, as a notebook gets them.
        cross: the folds.

    Raises:
        ModelError: the adapter is not whole, or was taught on other ratings than those of users who are never routed
            here. SettingError: it was taught to be asked in another way.
    """
    if taught is None or why_not(experiment, model, taught):
        return None
    settings = config.Taught(**taught)
    where = _folder(experiment, model, taught)
    card = weights.read_card(where)
    way = teaching.way(teach.Teaching(**card["settings"])).name
    if way != settings.way:
        raise SettingError(
            f"[taught]: way is {settings.way!r}, but the model was taught to be asked by {way!r}: set it."
        )
    loaded = {**(local or {}), "dtype": cross_tasks.DTYPE}
    if settings.device is not None:
        loaded["device"] = settings.device
    opened = models.local(models.taught_name(model, settings.adapter_of or experiment), **loaded)
    recordings = models.recordings_for(dataset, opened.name)
    asking = Asking(cross, opened, recordings, (settings.way,), settings.users)
    found = Taught(
        asking, dataset, models.local(model, **loaded), models.recordings_for(dataset, model), settings, card
    )
    if found.material.hash != card["data"]["sha256"]:
        raise ModelError(
            f"{paths.within_root(where)} was taught on other ratings than those of users who are never routed in "
            f"{experiment}: remove that folder, then make teach EXPERIMENT={settings.adapter_of or experiment}."
        )
    return found


def record(todo: Taught) -> pd.DataFrame:
    """Ask for everything that is not recorded yet.

    Returns:
        A row for each stage: model, stage, users, requests, recorded.
    """
    found = [
        {"model": model.name} | cross_answers.record(stage, asked, model, recordings)
        for stage, asked, model, recordings in todo.stages()
    ]
    for name in (todo.asking.model.name, todo.untaught.name):
        models.keep_live_recordings(todo.dataset, name)
    return pd.DataFrame(found)


def counted(answers: pd.DataFrame) -> pd.DataFrame:
    """How many lists there are of each ranker: ranker (the index), users, lists, judged, failed.

    Args:
        answers: the table taught_answers. Lists that are not judged are those of folds that decide.
    """
    lists = answers.drop_duplicates(["ranker", "test", "fold", "user"])
    lists = lists.assign(judged=lists["fold"] == lists["test"], failed=lists["failure"] != "")
    how = {"users": ("user", "nunique"), "lists": ("user", "size")}
    how |= {"judged": ("judged", "sum"), "failed": ("failed", "sum")}
    return lists.groupby("ranker", sort=False).agg(**how)


# --- how it is judged -------------------------------------------------------------------------------------------------


def item_mean(divided: Lists, ratings: pd.DataFrame) -> np.ndarray:
    """Each item's mean among these ratings, of users who have no list; that of all where it has none.

    Returns:
        Shape (folds, rows).
    """
    means = ratings.groupby("item")["rating"].mean().reindex(divided.items).fillna(ratings["rating"].mean())
    return np.tile(means.to_numpy()[divided.item].round(8), (divided.folds, 1))


@dataclass(frozen=True)
class Judged:
    """The taught model beside everything that it has to beat.

    Attributes:
        divided: the ratings as arrays.
        scores: of the rankers that are looked at item by item, by name (``lists`` describes the arrays).
        lists: what ``evaluation.lists`` returned, of judged lists.
        groups: of the lists that the taught model was asked about: recommender, test, user.
        rankers: what stands beside it, by the name in tables; a ranker, or the ranker for each fold.
        fused: by what each recommender is fused with: the ranker of each recommender.
        fusions: the weights (``fusion.fuse_in_turn``).
        only: for a ranker that was asked about a part of the lists: test, user.
    """

    divided: Lists
    scores: dict[str, np.ndarray]
    lists: pd.DataFrame
    groups: dict[str, pd.DataFrame]
    rankers: dict[str, Ranker]
    fused: dict[str, pd.DataFrame]
    fusions: pd.DataFrame
    only: dict[str, pd.DataFrame]

    def group(self, name: str, *rankers: str) -> pd.DataFrame:
        """Those lists of a group about which all of these were asked."""
        found = self.groups[name]
        for ranker in rankers:
            found = found.merge(self.only[ranker]) if ranker in self.only else found
        return found


def judge(
    cross: Cross,
    scores: pd.DataFrame,
    answers: pd.DataFrame,
    of_taught: pd.DataFrame,
    triage: pd.DataFrame,
    ratings: pd.DataFrame,
    embeddings: np.ndarray,
    model: str,
) -> Judged:
    """Judge the taught model as notebook 05 judges the untaught one, by the same bar.

    Args:
        cross: the folds.
        scores: the table cross_scores, of all recommenders.
        answers: the table cross_answers; rows of ``model`` count.
        of_taught: the table taught_answers.
        triage: the table cross_triage, of the compared recommenders.
        ratings: the ratings that were taught: item, rating.
        embeddings: what ``cross_arms.title_embeddings`` returned.
        model: the experiment's own.
    """
    divided, labels = Lists(cross.divided, cross.like_threshold), cross.candidates
    usable = pd.concat([one[one["failure"] == ""] for one in (answers[answers["model"] == model], of_taught)])
    recommenders, said = divided.read(scores), divided.read(usable)
    controls, _ = cross_arms.controls(divided, cross.items, embeddings, recommenders)
    every = {**controls, TAUGHT_MEAN: item_mean(divided, ratings), **said}
    inactive = triage.loc[triage["inactive"], ["test", "user"]].drop_duplicates()
    parts = [evaluation.lists(one, labels) for one in (scores, evaluation.random_order(labels))]
    parts += [evaluation.lists(divided.write({name: values}), labels) for name, values in every.items()]
    fused, chosen = {}, []
    compared = list(triage["recommender"].unique())
    for added in FUSED if TAUGHT in said else ():
        chain = {name: every[name] for name in added}
        names = []
        for recommender in compared:
            values, row = fusion.fuse_in_turn(divided, {recommender: recommenders[recommender]}, chain, inactive)
            parts.append(evaluation.lists(divided.write(values), labels))
            chosen.append(row.assign(added=" + ".join(added)))
            names += [(recommender, test, name) for name in values for test in range(cross.folds)]
        fused[" + ".join(added)] = pd.DataFrame(names, columns=["recommender", "test", "ranker"])
    lists = pd.concat([part for part in parts if len(part)], ignore_index=True)
    own = [one for one in (families.NO_HISTORY, families.ANOTHERS) if families.decides(lists, one)]
    bar = evaluation.bar(lists, triage, [RANDOM, *controls, *recommenders, *own])
    asked_in_context = families.judged_lists(answers, model)
    in_context = families.existing_ways(lists) if len(asked_in_context) else []
    rankers: dict[str, Ranker] = {TAUGHT: TAUGHT, ANOTHERS: ANOTHERS, UNTAUGHT: UNTAUGHT}
    if in_context:
        rankers[LLM] = evaluation.choose(lists, triage, in_context)
    rankers |= {name: name for name in (TAUGHT_MEAN, *controls, *recommenders)}
    rankers |= {BAR: bar, OWN_RECOMMENDER: OWN, RANDOM: RANDOM}
    rankers |= {fusion.name(OWN, added): one for added, one in fused.items()}
    there = set(lists["ranker"])
    rankers = {name: one for name, one in rankers.items() if not isinstance(one, str) or one in {*there, OWN}}
    judged = of_taught[of_taught["fold"] == of_taught["test"]]
    only = {name: rows[["test", "user"]].drop_duplicates() for name, rows in judged.groupby("ranker", sort=False)}
    groups = {name: rows.merge(only[TAUGHT]) for name, rows in evaluation.groups(triage).items() if name in GROUPS}
    looked_at = (TAUGHT, ANOTHERS, TAUGHT_MEAN, arms.ITEM_MEAN, arms.EMBEDDING, arms.STACK)
    return Judged(
        divided,
        {name: every[name] for name in looked_at if name in every},
        lists[lists["fold"] == lists["test"]],
        groups,
        rankers,
        fused,
        pd.concat(chosen, ignore_index=True) if chosen else pd.DataFrame(),
        only | {LLM: asked_in_context},
    )


def means(judged: Judged) -> pd.DataFrame:
    """The AUC of each group's lists by each ranker, with its 95 % interval over users: MEANS.

    A ranker that was asked about a part of the lists is judged on that part.
    """
    compared = []
    for group in GROUPS:
        for name, ranker in judged.rankers.items():
            found = evaluation.quality(judged.lists, judged.group(group, name), ranker)
            found = found.assign(difference=found["auc"], weight=found["folds"]).reset_index()
            compared.append(Compared(name, "", group, found))
    return families.judge("means", compared).rename(columns={"mean": "auc"})[MEANS]


def verdicts(judged: Judged) -> pd.DataFrame:
    """The families of the taught model, beside the plan's: ``families.COLUMNS``.

    "taught" has what was asked of all recommenders together, "taught, each recommender" the fusions of each.
    """
    pooled, each = [], []
    pairs = [(TAUGHT, other) for other in (BAR, TAUGHT_MEAN, arms.EMBEDDING, LLM, UNTAUGHT, ANOTHERS)]
    alone, without, everything = (fusion.name(OWN, " + ".join(added)) for added in FUSED)
    fusions = [(alone, OWN_RECOMMENDER), (everything, without)]
    for group in GROUPS:
        for name, other in (*pairs, *fusions):
            if name in judged.rankers and other in judged.rankers:
                rows = judged.group(group, name, other)
                pooled.append(_compared(judged, name, other, group, rows))
                if (name, other) in fusions:
                    for one, own in rows.groupby("recommender", sort=False):
                        each.append(_compared(judged, name, other, f"{group}, {one}", own))
    found = [families.judge("taught", pooled), families.judge("taught, each recommender", each)]
    return pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)


def _compared(judged: Judged, name: str, other: str, group: str, rows: pd.DataFrame) -> Compared:
    differences = evaluation.differences(judged.lists, rows, judged.rankers[name], judged.rankers[other])
    return Compared(name, other, group, differences)


# --- what it learned --------------------------------------------------------------------------------------------------


def by_title(judged: Judged, ratings: pd.DataFrame, seed: int, samples: int) -> pd.DataFrame:
    """AUC among titles that were taught equally often: pairs within a list, both titles of one bin.

    Args:
        judged: what ``judge`` returned.
        ratings: the ratings that were taught: item.
        seed, samples: of the bootstrap over users.

    Returns:
        BY, and titles (of the catalogue of all rated items), candidates (in the lists that were asked about). A bin
        with fewer than two users has no row.
    """
    counts = ratings["item"].value_counts().reindex(judged.divided.items).fillna(0)
    names = _binned(counts, TITLE_BINS)
    rows = _judged_rows(judged)
    found = _by(judged, rows, names.to_numpy()[judged.divided.item[rows]], TITLE_BINS, seed, samples)
    candidates = pd.Series(names.to_numpy()[judged.divided.item[rows]]).value_counts()
    return found.assign(
        titles=found["ratings"].map(names.value_counts()).fillna(0).astype(int),
        candidates=found["ratings"].map(candidates).fillna(0).astype(int),
    )


def by_history(judged: Judged, seed: int, samples: int) -> pd.DataFrame:
    """AUC of inactive users by how many ratings of theirs are known outside the test fold: BY (as ``by_title``)."""
    divided, rows = judged.divided, _judged_rows(judged)
    of_user = np.bincount(divided.user)[divided.user]
    number = np.bincount(divided.list)[divided.list]  # in the list itself, which is not known
    known = pd.Series(of_user - number)[rows]
    return _by(judged, rows, _binned(known, HISTORY_BINS).to_numpy(), HISTORY_BINS, seed, samples)


def _judged_rows(judged: Judged) -> np.ndarray:
    """The rated items in the lists that the taught model has ranked, of inactive users."""
    divided = judged.divided
    scored = ~np.isnan(judged.scores[TAUGHT][divided.fold, np.arange(len(divided.fold))])
    asked = judged.groups["inactive"][["test", "user"]].drop_duplicates()
    return np.flatnonzero(scored & divided.mask(asked)[divided.fold, divided.user])


def _binned(values: pd.Series, bins: Mapping[str, int]) -> pd.Series:
    names = np.array(list(bins))
    return pd.Series(names[np.searchsorted(list(bins.values()), values, side="right") - 1], values.index)


def _by(
    judged: Judged, rows: np.ndarray, names: np.ndarray, bins: Mapping[str, int], seed: int, samples: int
) -> pd.DataFrame:
    divided, found = judged.divided, []
    table = pd.DataFrame({
        "user": divided.user[rows], "list": divided.list[rows], "relevant": divided.relevant[rows], "bin": names,
    })  # fmt: skip
    for name in bins:
        part = (table["bin"] == name).to_numpy()
        for ranker, values in judged.scores.items():
            one = table[part].assign(score=values[divided.fold[rows], rows][part]).dropna(subset="score")
            counts = metrics.auc_pairs(one, ["user", "list"]).groupby("user").sum()
            counts = counts[counts["pairs"] > 0]
            auc = counts["correct"] / counts["pairs"]
            interval = statistics.bootstrap_interval(auc.to_numpy(), generator(seed, "taught", name, ranker), samples)
            found.append((name, ranker, len(auc), int(counts["pairs"].sum()), auc.mean(), *interval))
    rows_of = pd.DataFrame(found, columns=BY)
    return rows_of[rows_of.groupby("ratings")["users"].transform("max") > 1].reset_index(drop=True)


# --- what it costs ----------------------------------------------------------------------------------------------------


def cost(todo: Taught, usd_per_hour: float) -> pd.DataFrame:
    """What teaching took once, and what a list takes each time.

    Args:
        todo: whose answers are recorded.
        usd_per_hour: of a machine without a GPU; what ran on one has no price here.

    Returns:
        what, device, number (of lists), prompt_tokens (computed), seconds, usd; of lists the means.
    """
    card = todo.card
    usd = card["seconds"] / 3600 * usd_per_hour if card["device"] == "cpu" else np.nan
    rows: list[tuple[Any, ...]] = [("teaching, once", card["device"], 1, np.nan, card["seconds"], usd)]
    mine = (todo.asking.own, todo.asking.model, todo.asking.recordings)
    for what, tasks, model, recordings in (
        ("a list, taught", *mine), ("a list, untaught, same way", todo.same_way, todo.untaught, todo.recordings),
    ):  # fmt: skip
        device = getattr(getattr(model, "loaded", None), "device", "cpu")
        keys = {model.key(one) for one in cross_tasks.asked_in(tasks, todo.cross)}
        used = pd.DataFrame([recordings[key] for key in sorted(keys) if key in recordings])
        tokens, seconds = (used[name].mean() if len(used) else np.nan for name in ("prompt_tokens", "seconds"))
        usd = seconds / 3600 * usd_per_hour if device == "cpu" else np.nan
        rows.append((what, device, len(used), tokens, seconds, usd))
    return pd.DataFrame(rows, columns=["what", "device", "number", "prompt_tokens", "seconds", "usd"])


def told(rows: pd.DataFrame) -> Sequence[str]:
    """Comparisons in words, a line each."""
    return [
        f"{row.ranker} against {row.against}, {row.group}: {families.interval(row)}, n = {row.n}: {row.verdict}."
        for row in rows.itertuples()
    ]
