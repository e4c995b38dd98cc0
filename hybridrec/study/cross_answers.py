"""The language model under protocol ``cross``: what it is asked in which order, what it answered, and its arms.

Whom and what it is asked about is in ``cross_tasks``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from hybridrec.errors import RecordingError
from hybridrec.llm import calibration, modes, rankers, ways
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Model
from hybridrec.llm.tasks import Task
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study.config import COMPARE
from hybridrec.study.cross_tasks import (
    Cross,
    Tasks,
    asked_in,
    compared_tasks,
    deciding_tasks,
    deciding_users,
    judged_tasks,
    larger_tasks,
    scoring,
)

# In how many users of each neighbouring pair of folds ways to ask are compared.
COMPARED_USERS = 24

# The columns of the answers; ``draw`` is always 0, and a failure says why the order is a random one.
COLUMNS = ["model", "ranker", "draw", "test", "fold", "user", "item", "score", "answered", "failure"]
_OF_RANKING = ["user", "item", "score", "answered", "failure"]
_ANSWERS = ["way", "test", "fold", "user", "item", "score", "relevant", "answered", "failure"]


# --- what was answered ------------------------------------------------------------------------------------------------


def answers(tasks: Tasks, cross: Cross, model: Model, recordings: Recordings) -> pd.DataFrame:
    """What is recorded of these tasks; a user of whom a cell is not recorded has no row of it (see ``coverage``).

    Returns:
        Columns way, test, fold, user, item, score, relevant, answered, failure.
    """
    labels, noun = cross.candidates[["fold", "user", "item", "relevant"]], cross.noun
    none = labels.iloc[:0].assign(way="", test=0, score=0.0, answered=0.0, failure="")
    parts = [none.drop(columns="relevant")]
    for (way, (test, fold)), ones in tasks.items():
        there = _recorded(ones, way, noun, model, recordings)
        rankings = rankers.rank(there, way.mode, model, recordings, noun=noun, seed=cross.seed)
        parts.append(rankers.table(rankings)[_OF_RANKING].assign(way=way.name, test=test, fold=fold))
    found = pd.concat([part for part in parts if len(part)] or parts)
    return found.merge(labels, on=["fold", "user", "item"])[_ANSWERS]


def coverage(tasks: Tasks, cross: Cross, model: Model, recordings: Recordings) -> pd.DataFrame:
    """How much is recorded: way, test, fold, asked (users), recorded."""
    rows = [
        (way.name, test, fold, len(ones), len(_recorded(ones, way, cross.noun, model, recordings)))
        for (way, (test, fold)), ones in tasks.items()
    ]
    return pd.DataFrame(rows, columns=["way", "test", "fold", "asked", "recorded"])


def _recorded(ones: Sequence[Task], way: Way, noun: str, model: Model, recordings: Recordings) -> list[Task]:
    return [one for one in ones if model.key(rankers.request_of(one, way.mode, noun)) in recordings]


# --- the whole of it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asking:
    """Everything that a model is asked under protocol ``cross``, in the order in which it is asked.

    Attributes:
        cross: the folds.
        model: who is asked.
        recordings: its answers.
        ways: the setting ``cross_ways``.
        users: the setting ``cross_users``.
    """

    cross: Cross
    model: Model
    recordings: Recordings
    ways: tuple[str, ...]
    users: int | None = None

    @cached_property
    def compared(self) -> Tasks:
        """What ways are compared by; nothing where the settings name them."""
        return compared_tasks(self.cross, COMPARED_USERS, ways.WAYS) if self.ways == (COMPARE,) else {}

    @cached_property
    def compared_answers(self) -> pd.DataFrame:
        """What was answered to ``compared`` (see ``answers``).

        Raises:
            RecordingError: not all of it is recorded.
        """
        found = coverage(self.compared, self.cross, self.model, self.recordings)
        if missing := int((found["asked"] - found["recorded"]).sum()):
            raise RecordingError(
                f"{self.recordings.name}: {missing:,} answers by which ways to ask are compared are not recorded yet. "
                "Run notebook 04 (make reproduce) again: it asks for what is missing."
            )
        return answers(self.compared, self.cross, self.model, self.recordings)

    @cached_property
    def chosen(self) -> dict[int, Way]:
        """The way by test fold: named by the settings, or chosen from ``compared_answers``; empty where there is none.

        Raises:
            RecordingError: not all that is compared is recorded.
        """
        if self.compared:
            return {test: ways.get(name) for test, name in ways.choose(self.compared_answers).items()}
        names = self.ways * self.cross.folds if len(self.ways) == 1 else self.ways
        return {test: ways.get(name) for test, name in enumerate(names)}

    @cached_property
    def drawn(self) -> set[int] | None:
        """Users who are judged: a sample of those who have a pair to order in some fold; None: everybody."""
        if self.users is None:
            return None
        able = set().union(*(self.cross.users(cell) for cell in self.cross.judged_cells))
        return set(in_random_order(able, self.cross.seed, "cross-judged")[: self.users])

    @cached_property
    def own(self) -> Tasks:
        """What is judged."""
        return judged_tasks(self.cross, self.chosen, self.drawn)

    @cached_property
    def borrowed(self) -> Tasks:
        """The same with another user's history; nothing in a subset, where others would lend than among all users."""
        if self.cross.everybody is not None:
            return {}
        return judged_tasks(self.cross, self.chosen, self.drawn, another=True)

    @cached_property
    def deciding(self) -> Tasks:
        """What weights are chosen on: a sample of inactive users, whom no rating's value draws, and those compared."""
        tasks = deciding_tasks(self.cross, self.chosen, deciding_users(self.cross, self.users))
        for key, ones in tasks.items():
            there = {task.user for task in ones}
            ones += [task for task in self.compared.get(key, []) if task.user not in there]
        return tasks

    def usual_requests(self) -> list[Asked]:
        """The prior of the catalogue, and what each chosen way says of it after a history without content.

        Nothing of a model that writes or grades in every way that was chosen: no title's probability is asked for.
        """
        chosen = [modes.get(way.mode) for way in dict.fromkeys(self.chosen.values())]
        if all(mode.writes or mode.grades for mode in chosen):
            return []
        items, noun = self.cross.items, self.cross.noun
        asked = rankers.prior_requests(items, noun)
        for mode in dict.fromkeys(mode for mode in chosen if mode.kind == "score"):
            for history in calibration.CONTENT_FREE:
                asked += rankers.prior_requests(items, noun, None, mode, history)
        return asked

    def stages(self) -> Iterator[tuple[str, list[Asked]]]:
        """What is asked, by name; each is made when the one before it has been recorded."""
        yield "ways to ask", asked_in(self.compared, self.cross)
        yield "own history", asked_in(self.own, self.cross)
        yield "no history", self.usual_requests()
        yield "folds that decide", asked_in(self.deciding, self.cross)
        yield "another user's history", asked_in(self.borrowed, self.cross)


def record(stage: str, asked: Sequence[Asked], model: Model, recordings: Recordings) -> dict[str, Any]:
    """Ask for all of a stage that is not recorded yet; a run that was killed goes on where it was.

    Returns:
        stage, users, requests (different ones), recorded (how many have an answer now).
    """
    rankers.record_missing(asked, model, recordings, stage)
    keys = {model.key(one) for one in asked}
    users = {one.user for one in asked} - {None}
    there = sum(key in recordings for key in keys)
    return {"stage": stage, "users": len(users), "requests": len(keys), "recorded": there}


# --- the arms ---------------------------------------------------------------------------------------------------------


def arms(done: Asking) -> pd.DataFrame:
    """The language model's arms in the layout of the cross scores, from what is recorded; nothing is asked.

    "llm" is asked in the chosen way with the user's own history, "llm another's history" with another user's; "llm no
    history" is the prior alone, which every inactive user's lists can be ranked by. "llm less prior" subtracts the
    prior with the weight chosen for the test fold, "llm less content-free" what the same prompt says after a history
    without content. These three are there once the prior is recorded, the weight once answers are that decide for the
    fold. Where the chosen way puts questions, there is no likelihood of a title to subtract from, and the last two are
    "llm" itself.

    Returns:
        COLUMNS. Rows of fold == test are judged; the others may decide for ``test``. A user of whom a cell is not
        recorded has no row of it.
    """
    cross, model, recordings = done.cross, done.model, done.recordings
    own = answers({**done.deciding, **done.own}, cross, model, recordings)
    parts = [own.assign(ranker="llm")]
    parts.append(answers(done.borrowed, cross, model, recordings).assign(ranker="llm another's history"))
    usual = done.usual_requests()
    if usual and all(model.key(one) in recordings for one in usual):
        parts += _less_usual(own, done)
    return as_table(parts, model.name)


def ask_larger(
    larger: Mapping[str, Any], opened: Model, recordings: Recordings, cross: Cross, triage: pd.DataFrame
) -> pd.DataFrame:
    """Ask a larger model about the judged lists of those who may be handed over, and its answers as ``larger_arm``.

    Args:
        larger: a table ``[[larger_models]]`` with ``cross_way``, as a notebook gets it.
        opened, recordings: the model as the rest of the study asks it, and its answers.
        cross: the folds.
        triage: recommender, test, user, weak (``cross_steps.triage``).
    """
    model = scoring(opened, larger["model"], larger.get("cross_device"))
    wanted = larger_tasks(cross, larger, triage)
    record(larger["model"], asked_in(wanted, cross), model, recordings)
    return larger_arm(wanted, cross, model, recordings)


def larger_arm(tasks: Tasks, cross: Cross, model: Model, recordings: Recordings) -> pd.DataFrame:
    """A larger model's answers to ``larger_tasks`` as the ranker "MODEL: llm", in COLUMNS."""
    found = answers(tasks, cross, model, recordings)
    return as_table([found.assign(ranker=f"{model.name}: llm")], model.name)


def as_table(parts: Sequence[pd.DataFrame], model: str) -> pd.DataFrame:
    """Parts of one model's answers, each with its ranker, in COLUMNS."""
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True).assign(model=model, draw=0)[
        COLUMNS
    ]


def _less_usual(own: pd.DataFrame, done: Asking) -> Iterator[pd.DataFrame]:
    """The prior alone, and the answers less the prior and less what is said without content."""
    cross = done.cross
    about = (cross.items, done.model, done.recordings, cross.noun)
    prior = calibration.per_token(rankers.prior_of(*about))
    lists = cross.candidates.merge(cross.with_a_pair)
    for test in done.chosen:
        alone = lists[lists["user"].isin(cross.inactive(test))][["fold", "user", "item"]]
        score = prior.loc[alone["item"]].to_numpy()
        yield alone.assign(ranker="llm no history", test=test, score=score, answered=float("nan"), failure="")
    for test, rows in own.groupby("test"):
        mode, less_prior, less_content_free = done.chosen[test].mode, rows, rows
        table = calibration.weights(rows, prior)
        if modes.get(mode).kind == "score":
            less_prior = calibration.subtract(rows, prior, table.loc[table["chosen"], "weight"].sum())
            less_content_free = calibration.subtract(rows, calibration.content_free(*about, mode))
        if len(table):
            yield less_prior.assign(ranker="llm less prior")
        yield less_content_free.assign(ranker="llm less content-free")


def reading(table: pd.DataFrame, cross: Cross, samples: int) -> pd.DataFrame:
    """Does the model read the user? The AUC of inactive users under each arm, pooled over the test folds.

    Args:
        table: what ``arms`` returned; judged rows count, of users and folds that every arm has.
        cross: the folds.
        samples: of the bootstrap over users.

    Returns:
        ranker, users, answered, auc (mean over users) with its 95 % interval, low to high. Differences are judged in
        one place, the family "reading" of ``families``.
    """
    judged = table[table["fold"] == table["test"]]
    lists = judged.groupby(["fold", "user"])["ranker"].transform("nunique") == judged["ranker"].nunique()
    labelled = judged[lists].merge(cross.candidates[["fold", "user", "item", "relevant"]], on=["fold", "user", "item"])
    return ways.compare(labelled, "ranker", cross.seed, samples)[["ranker", "users", "answered", "auc", "low", "high"]]
