"""Positive control: language models of known skill, planted where a model's answers are recorded.

A pipeline that cannot say yes proves nothing by saying no. A ``Planted`` model knows the labels and adds noise, so that
its AUC is known; its log-likelihoods are recorded, replayed, read and judged as those of any model are, and the verdict
is held against the skill.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec import progress
from hybridrec.data import folds
from hybridrec.evaluation import cross, verdicts
from hybridrec.llm import rankers
from hybridrec.llm.recordings import Recordings, request_key
from hybridrec.llm.runner import USAGE, Asked, Failure, Finished, Keep, Response
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.randomness import generator

MODE = "likelihood"
RELIABLY = 0.8  # share of the planted models for which a verdict counts as reliable: the power of ``verdicts``


class Planted:
    """A model (``runner.Model``) whose log-likelihood per token orders a user's items with a known AUC.

    Scores are N(d, 1) for relevant items and N(0, 1) for others, where AUC = Phi(d / sqrt 2).

    Args:
        candidates: user, item, relevant: every item that may be asked about. A user has an item once.
        skill: the AUC, between 0 and 1; 0.5 is a random order.
        seed: of the noise, which is the same for every skill.

    Source: the equal-variance binormal model (Green & Swets 1966).
    """

    def __init__(self, candidates: pd.DataFrame, skill: float, seed: int) -> None:
        rows = candidates.sort_values(["user", "item"])
        noise = generator(seed, "planted").standard_normal(len(rows))
        scores = noise + rows["relevant"].to_numpy() * np.sqrt(2) * stats.norm.ppf(skill)
        self.name = f"planted {skill:g} (seed {seed})"
        self.scores = dict(zip(zip(rows["user"], rows["item"], strict=True), scores.tolist(), strict=True))

    def key(self, asked: Asked) -> str:
        """With the user: two users of the same history and items like different ones."""
        return request_key({"model": self.name, "user": asked.user, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        """Answer at once; a title of more words has more tokens, so its log-likelihood is lower by as much."""
        lengths = [len(title.split()) for title in asked.request["candidates"]]
        per_token = [self.scores[asked.user, item] - 10 for item in asked.about.candidates]
        log_probs = [length * value for length, value in zip(lengths, per_token, strict=True)]
        response: Response = {"log_probs": log_probs, "lengths": lengths, **dict.fromkeys(USAGE, 0)}
        return [(asked, keep(asked, response))]

    def wait(self) -> Finished:
        """Nothing is ever under way."""
        return []

    def usd(self, response: Response) -> float:
        """It costs nothing."""
        return 0.0

    def close(self) -> None:
        """There is nothing to close."""


class _Silent(Planted):
    """The same model where everything is recorded: it has no answer to anything else."""

    def __init__(self, model: Planted) -> None:
        self.name, self.scores = model.name, model.scores

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        return [(asked, Failure("not recorded"))]


def tasks(
    divided: pd.DataFrame, candidates: pd.DataFrame, items: pd.DataFrame, group: pd.DataFrame, **how: Any
) -> dict[int, list[Task]]:
    """For each test fold the tasks of a group's users who have candidates there; histories are without the fold.

    Args:
        divided: user, item, rating, timestamp, fold.
        candidates: fold, user, position, item.
        items: item, title, genres.
        group: test, user.
        how: history_length and scale, as for ``build_tasks``.
    """
    found = {}
    for fold, rows in candidates.groupby("fold"):
        known = folds.without(divided, int(fold))
        users = group.loc[group["test"] == fold, "user"].unique()
        wanted = np.intersect1d(users, np.intersect1d(rows["user"], known["user"]))
        found[int(fold)] = build_tasks(wanted, known, rows, items, **how) if len(wanted) else []
    return found


def scores(model: Planted, tasks: Mapping[int, Sequence[Task]], recordings: Recordings, noun: str) -> pd.DataFrame:
    """The scores of a planted model, asked for, recorded, and replayed by a model that answers nothing itself.

    Args:
        model: of known skill.
        tasks: by test fold.
        recordings: where answers are kept.
        noun: the dataset's word for an item.

    Returns:
        ``cross.SCORES``, judged rows; ranker is the model's name.
    """
    silent = _Silent(model)
    parts: list[tuple] = []
    for fold, of_fold in tasks.items():
        for _ in rankers.rank(of_fold, MODE, model, recordings, noun=noun, seed=0):
            pass
        for one in rankers.rank(of_fold, MODE, silent, recordings, noun=noun, seed=0):
            if not one.failure:
                pairs = zip(one.candidates, one.scores, strict=True)
                parts += [(fold, one.user, item, score) for item, score in pairs]
    rows = pd.DataFrame(parts, columns=["fold", "user", "item", "score"])
    return rows.assign(ranker=model.name, draw=0, test=rows["fold"])[cross.SCORES]


def curve(
    lists: pd.DataFrame,
    routed: pd.DataFrame,
    candidates: pd.DataFrame,
    tasks: Mapping[int, Sequence[Task]],
    against: Mapping[str, cross.Ranker],
    skills: Sequence[float],
    seeds: Iterable[int],
    noun: str = "item",
) -> pd.DataFrame:
    """The primary comparison of planted models with each bar: its verdict, for every skill and seed.

    Args:
        lists: what ``cross.lists`` returned, of what the models are compared with.
        routed: recommender, test, user (``cross.groups``): who is judged.
        candidates: fold, user, position, item, relevant.
        tasks: what ``tasks`` returned for ``routed``.
        against: by name, such as {"bar": cross.bar(...), "random": cross.RANDOM}.
        skills: true AUCs.
        seeds: of the models; the more, the smoother.
        noun: the dataset's word for an item.

    Returns:
        skill, seed, against, and the columns of ``Primary.table``.
    """
    parts = []
    for seed in seeds:
        for skill in skills:
            model = Planted(candidates, skill, seed)
            with progress.unheard():  # no model was asked
                found = cross.lists(scores(model, tasks, Recordings(None), noun), candidates)
            both = pd.concat([lists, found], ignore_index=True)
            for name, other in against.items():
                table, _ = cross.against_bar(both, routed, model.name, other)
                parts.append(table.assign(skill=skill, seed=seed, against=name))
    rows = pd.concat(parts, ignore_index=True)
    return rows[["skill", "seed", "against", *rows.columns.drop(["skill", "seed", "against"])]]


def shares(curve: pd.DataFrame) -> pd.DataFrame:
    """For each skill and bar, the share of planted models with each verdict, and means of mean and detectable effect.

    Returns:
        Columns against, skill, models, n, mean, smallest_detectable, and one for each of ``verdicts.VERDICTS``.
    """
    said = {word: curve["verdict"] == word for word in verdicts.VERDICTS}
    groups = curve.assign(**said, models=1.0).groupby(["against", "skill"], sort=False)
    means = groups[["n", "mean", "smallest_detectable", *verdicts.VERDICTS]].mean()
    means.insert(0, "models", groups.size())
    return means.reset_index()


def smallest_skill(shares: pd.DataFrame, verdict: str = verdicts.HELPS) -> pd.Series:
    """The smallest planted skill from which on a verdict is reached reliably (in RELIABLY of the models or more).

    Returns:
        Indexed by ``against``; NaN where no planted skill reaches it.
    """
    found = {}
    for name, rows in shares.groupby("against", sort=False):
        rows = rows.sort_values("skill", ascending=False)
        reached = (rows[verdict] >= RELIABLY).cummin()
        found[name] = rows.loc[reached, "skill"].min()
    return pd.Series(found, name="skill", dtype=float)
