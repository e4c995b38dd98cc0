"""The language model under protocol ``cross``: whom it is asked about, in which way, and what it answered.

For test fold k a user's history is every rating outside fold k. What decides for fold k (the way to ask, the weight of
a prior) are answers about a neighbouring fold j to histories without j and k.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from hybridrec.data import datasets, folds
from hybridrec.errors import RecordingError
from hybridrec.llm import calibration, modes, rankers, ways
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.llm.ways import Way
from hybridrec.randomness import in_random_order
from hybridrec.study import config, steps
from hybridrec.study import models as study_models
from hybridrec.study.config import Experiment, parameters
from hybridrec.weak_users import triage

# Scores of the cross protocol are computed in this precision: half again as fast on a processor that multiplies it.
DTYPE = "bfloat16"
# The dataset on which ways to ask are compared, and in how many users of each neighbouring pair of folds. It is also
# the name of its experiment. The other datasets take over the way that was chosen most often.
COMPARED_ON = "ml-100k"
COMPARED_USERS = 24
# How many inactive users are also asked about the folds that decide.
DECIDING_USERS = 200
# Datasets of which a seeded sample of users is asked about; of all others, everybody who is inactive and has a pair.
SAMPLED_USERS = {"book-crossing": 1000}

# The columns of the arms; ``draw`` is always 0, and a failure says why the order is a random one.
ARM_COLUMNS = ["ranker", "draw", "test", "fold", "user", "item", "score", "answered", "failure"]
_OF_RANKING = ["user", "item", "score", "answered", "failure"]
_ANSWERS = ["way", "test", "fold", "user", "item", "score", "relevant", "answered", "failure"]

Cell = tuple[int, int]  # (test, fold): test fold k, and the fold that is asked about


@dataclass(frozen=True)
class Cross:
    """An experiment's ratings, dealt into folds, and the lists to rank."""

    settings: Experiment
    divided: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame

    @cached_property
    def with_a_pair(self) -> pd.DataFrame:
        """The lists that have a pair to order: fold, user."""
        return folds.with_a_pair(self.candidates)

    @property
    def judged_cells(self) -> list[Cell]:
        """What is judged: each fold, known by all others."""
        return [(fold, fold) for fold in range(self.settings.folds)]

    @property
    def deciding_cells(self) -> list[Cell]:
        """What decides: of each neighbouring pair either fold for the other."""
        return [
            cell for one, other in ways.neighbouring_pairs(self.settings.folds) for cell in ((one, other), (other, one))
        ]

    def inactive(self, *out: int) -> pd.Index:
        """Users whose S_I, from ratings outside these folds, is above t_s."""
        sparsity = datasets.sparsity_index(folds.without(self.divided, *out), len(self.items))
        return sparsity.index[triage.inactive(sparsity, steps.thresholds(self.settings))]

    def users(self, cell: Cell) -> list[int]:
        """Inactive users, by ratings outside both folds, who have a pair to order in the fold asked about."""
        rows = self.with_a_pair
        return sorted(set(rows.loc[rows["fold"] == cell[1], "user"]) & set(self.inactive(*cell)))

    def tasks(self, way: Way, cell: Cell, users: Iterable[int]) -> list[Task]:
        """The tasks of users in one fold, from ratings outside both folds of the cell."""
        test, fold = cell
        return build_tasks(
            users,
            folds.without(self.divided, test, fold),
            self.candidates[self.candidates["fold"] == fold],
            self.items,
            way.length,
            self.settings.rating_scale,
            way.shown,
            self.settings.like_threshold,
        )


def prepare(data: datasets.Dataset, settings: Experiment) -> Cross:
    """The folds and lists of an experiment under protocol ``cross``."""
    divided = folds.divide(data.interactions, settings.folds, settings.seed)
    lists = folds.candidates(divided, settings.like_threshold, settings.seed)
    return Cross(settings, divided, lists, data.items)


def compared_users(cross: Cross, users: int) -> dict[Cell, list[int]]:
    """A seeded sample of each neighbouring pair's users, in whom ways to ask are compared.

    Args:
        cross: the folds.
        users: how many of each pair. They are inactive by the ratings outside both folds; no rating's value decides
            who is drawn.

    Returns:
        By cell of ``cross.deciding_cells``, those of its sample who have a pair in the fold asked about.
    """
    found: dict[Cell, list[int]] = {}
    for one, other in ways.neighbouring_pairs(cross.settings.folds):
        drawn = in_random_order(cross.inactive(one, other), cross.settings.seed, "ways to ask", one, other)[:users]
        for cell in ((one, other), (other, one)):
            able = set(cross.users(cell))
            found[cell] = [user for user in drawn if user in able]
    return found


# --- what is asked ----------------------------------------------------------------------------------------------------


def model_of(settings: Experiment) -> Model:
    """The experiment's model, scoring in ``DTYPE``."""
    plain = parameters(settings)
    return study_models.open_model(settings.model, plain["endpoint"], {**(plain["local"] or {}), "dtype": DTYPE})


def asked_in(tasks: Mapping[tuple[Way, Cell], Sequence[Task]], cross: Cross) -> list[Asked]:
    """The requests of tasks by way and cell, user after user in a seeded order.

    A run that is cut short has so asked everything of a sample of users; and what one user's prompts begin with alike
    is computed once.
    """
    by_user: dict[Any, list[Asked]] = {}
    for (way, _), ones in tasks.items():
        for task in ones:
            by_user.setdefault(task.user, []).append(rankers.request_of(task, way.mode, cross.settings.noun))
    order = in_random_order(by_user, cross.settings.seed, "cross-order")
    return [one for user in order for one in by_user[user]]


def compared_tasks(cross: Cross, users: int, compared: Sequence[Way]) -> dict[tuple[Way, Cell], list[Task]]:
    """What is asked to compare ways: each way's tasks in each cell of ``cross.deciding_cells``."""
    sample = compared_users(cross, users)
    return {(way, cell): cross.tasks(way, cell, sample[cell]) for way in compared for cell in cross.deciding_cells}


def judged_tasks(
    cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int] | None = None, another: bool = False
) -> dict[tuple[Way, Cell], list[Task]]:
    """What is judged: each test fold's users, asked in the way that was chosen for it.

    Args:
        cross: the folds.
        chosen: the way by test fold.
        drawn: users to be asked about; None: everybody who is inactive and has a pair to order.
        another: whether each is asked about with another user's history.
    """
    found = {}
    for cell in cross.judged_cells:
        users = [user for user in cross.users(cell) if drawn is None or user in drawn]
        tasks = cross.tasks(chosen[cell[0]], cell, users)
        found[chosen[cell[0]], cell] = with_anothers_history(tasks, cross.settings.seed) if another else tasks
    return found


def deciding_tasks(
    cross: Cross, chosen: Mapping[int, Way], drawn: Collection[int]
) -> dict[tuple[Way, Cell], list[Task]]:
    """What weights are chosen on: for each test fold, its two neighbours, in the way that was chosen for it."""
    found = {}
    for cell in cross.deciding_cells:
        way = chosen[cell[0]]
        found[way, cell] = cross.tasks(way, cell, [user for user in cross.users(cell) if user in drawn])
    return found


# --- what was answered ------------------------------------------------------------------------------------------------


def answers(
    tasks: Mapping[tuple[Way, Cell], Sequence[Task]], cross: Cross, model: Model, recordings: Recordings
) -> pd.DataFrame:
    """What is recorded of these tasks; a user of whom a cell is not recorded has no row of it (see ``coverage``).

    Returns:
        Columns way, test, fold, user, item, score, relevant, answered, failure.
    """
    parts, noun = [pd.DataFrame(columns=[*_OF_RANKING, "way", "test", "fold"])], cross.settings.noun
    for (way, (test, fold)), ones in tasks.items():
        there = _recorded(ones, way, noun, model, recordings)
        rankings = rankers.rank(there, way.mode, model, recordings, noun=noun, seed=cross.settings.seed)
        parts.append(rankers.table(rankings)[_OF_RANKING].assign(way=way.name, test=test, fold=fold))
    labels = cross.candidates[["fold", "user", "item", "relevant"]]
    found = pd.concat([part for part in parts if len(part)] or parts)
    return found.merge(labels, on=["fold", "user", "item"])[_ANSWERS]


def coverage(
    tasks: Mapping[tuple[Way, Cell], Sequence[Task]], cross: Cross, model: Model, recordings: Recordings
) -> pd.DataFrame:
    """How much is recorded: way, test, fold, asked (users), recorded."""
    rows = [
        (way.name, test, fold, len(ones), len(_recorded(ones, way, cross.settings.noun, model, recordings)))
        for (way, (test, fold)), ones in tasks.items()
    ]
    return pd.DataFrame(rows, columns=["way", "test", "fold", "asked", "recorded"])


def _recorded(ones: Sequence[Task], way: Way, noun: str, model: Model, recordings: Recordings) -> list[Task]:
    return [one for one in ones if model.key(rankers.request_of(one, way.mode, noun)) in recordings]


# --- the whole of it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asking:
    """Everything that a model is asked for an experiment, in the order in which it is asked."""

    cross: Cross
    model: Model
    recordings: Recordings

    @cached_property
    def compared(self) -> dict[tuple[Way, Cell], list[Task]]:
        """What ways are compared by; nothing for a dataset that takes over what was chosen on another."""
        here = self.cross.settings.dataset == COMPARED_ON
        return compared_tasks(self.cross, COMPARED_USERS, ways.WAYS) if here else {}

    @cached_property
    def chosen(self) -> dict[int, Way]:
        """The way by test fold, from what is recorded of ``compared``; of a dataset without, the one chosen most often.

        That was chosen on COMPARED_ON, so no rating of this dataset decides.

        Raises:
            RecordingError: not all that is compared is recorded.
        """
        tests = range(self.cross.settings.folds)
        if not self.compared:
            often = Counter(asking(config.load(COMPARED_ON)).chosen.values())
            return dict.fromkeys(tests, often.most_common(1)[0][0])
        found = coverage(self.compared, self.cross, self.model, self.recordings)
        if missing := int((found["asked"] - found["recorded"]).sum()):
            raise RecordingError(
                f"{self.recordings.name}: {missing:,} answers by which ways to ask are compared are not recorded yet. "
                f"Run `make record-cross EXPERIMENT={self.cross.settings.name}`."
            )
        by_name = {way.name: way for way in ways.WAYS}
        names = ways.choose(answers(self.compared, self.cross, self.model, self.recordings))
        return {test: by_name[names[test]] for test in tests}

    @cached_property
    def drawn(self) -> set[int] | None:
        """Users who are judged: a sample of those who have a pair to order in some fold; None: everybody."""
        if self.cross.settings.dataset not in SAMPLED_USERS:
            return None
        able = set().union(*(self.cross.users(cell) for cell in self.cross.judged_cells))
        ordered = in_random_order(able, self.cross.settings.seed, "cross-judged")
        return set(ordered[: SAMPLED_USERS[self.cross.settings.dataset]])

    @cached_property
    def own(self) -> dict[tuple[Way, Cell], list[Task]]:
        """What is judged."""
        return judged_tasks(self.cross, self.chosen, self.drawn)

    @cached_property
    def borrowed(self) -> dict[tuple[Way, Cell], list[Task]]:
        """The same with another user's history."""
        return judged_tasks(self.cross, self.chosen, self.drawn, another=True)

    @cached_property
    def deciding(self) -> dict[tuple[Way, Cell], list[Task]]:
        """What weights are chosen on: a sample of inactive users, whom no rating's value draws, and those compared."""
        drawn = in_random_order(self.cross.inactive(), self.cross.settings.seed, "cross-deciding")[:DECIDING_USERS]
        tasks = deciding_tasks(self.cross, self.chosen, set(drawn))
        for key, ones in tasks.items():
            there = {task.user for task in ones}
            ones += [task for task in self.compared.get(key, []) if task.user not in there]
        return tasks

    def usual_requests(self) -> list[Asked]:
        """The prior of the catalogue, and what each chosen way says of it after a history without content."""
        items, noun = self.cross.items, self.cross.settings.noun
        asked = rankers.prior_requests(items, noun)
        for mode in dict.fromkeys(way.mode for way in self.chosen.values()):
            if modes.get(mode).kind == "score":
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


def asking(settings: Experiment) -> Asking:
    """What an experiment's model is asked under protocol ``cross``, with this repository's folders."""
    cross = prepare(steps.dataset(settings.dataset, settings.ratings), settings)
    return Asking(cross, model_of(settings), study_models.recordings_for(settings.dataset, settings.model))


def record(todo: Asking) -> Iterator[str]:
    """Ask for all that is not recorded yet; a run that was killed goes on where it was.

    Yields:
        A line for each stage that is done, and what it took.
    """
    for name, asked in todo.stages():
        missing = sum(todo.model.key(one) not in todo.recordings for one in asked)
        start = time.monotonic()
        rankers.record_missing(asked, todo.model, todo.recordings, name)
        yield f"{name}: {len(asked):,} requests, {missing:,} asked now ({time.monotonic() - start:,.0f} s)"


# --- the arms ---------------------------------------------------------------------------------------------------------


def arms(done: Asking) -> pd.DataFrame:
    """The language model's arms in the layout of the cross scores, from what is recorded; nothing is asked.

    "llm" is asked in the chosen way with the user's own history, "llm another's history" with another user's; "llm no
    history" is the prior alone. "llm less prior" subtracts the prior with the weight chosen for the test fold, "llm
    less content-free" what the same prompt says after a history without content. These three are there once the prior
    is recorded, the weight once answers are that decide for the fold. Where the chosen way puts questions, there is no
    likelihood of a title to subtract from, and the last two are "llm" itself.

    Returns:
        ARM_COLUMNS. Rows of fold == test are judged; the others may decide for ``test``. A user of whom a cell is not
        recorded has no row of it.
    """
    cross, model, recordings = done.cross, done.model, done.recordings
    own = answers({**done.deciding, **done.own}, cross, model, recordings)
    parts = [own.assign(ranker="llm")]
    parts.append(answers(done.borrowed, cross, model, recordings).assign(ranker="llm another's history"))
    if all(model.key(one) in recordings for one in done.usual_requests()):
        parts += _less_usual(own, done)
    return pd.concat(parts, ignore_index=True).assign(draw=0)[ARM_COLUMNS]


def _less_usual(own: pd.DataFrame, done: Asking) -> Iterator[pd.DataFrame]:
    """The prior alone, and the answers less the prior and less what is said without content."""
    about = (done.cross.items, done.model, done.recordings, done.cross.settings.noun)
    prior = calibration.per_token(rankers.prior_of(*about))
    yield own.assign(
        ranker="llm no history", score=prior.loc[own["item"]].to_numpy(), answered=float("nan"), failure=""
    )
    for test, rows in own.groupby("test"):
        mode, less_prior, less_content_free = done.chosen[test].mode, rows, rows
        table = calibration.weights(rows, prior)
        if modes.get(mode).kind == "score":
            less_prior = calibration.subtract(rows, prior, table.loc[table["chosen"], "weight"].sum())
            less_content_free = calibration.subtract(rows, calibration.content_free(*about, mode))
        if len(table):
            yield less_prior.assign(ranker="llm less prior")
        yield less_content_free.assign(ranker="llm less content-free")


def reading(table: pd.DataFrame, cross: Cross) -> pd.DataFrame:
    """Does the model read the user? The AUC of inactive users under each arm, pooled over the test folds.

    Args:
        table: what ``arms`` returned; judged rows count, of users and folds that every arm has.
        cross: the folds.

    Returns:
        What ``ways.compare`` returns, by ranker: with paired differences to "llm", the user's own history.
    """
    judged = table[table["fold"] == table["test"]]
    lists = judged.groupby(["fold", "user"])["ranker"].transform("nunique") == judged["ranker"].nunique()
    labelled = judged[lists].merge(cross.candidates[["fold", "user", "item", "relevant"]], on=["fold", "user", "item"])
    return ways.compare(labelled, "ranker", cross.settings.seed, cross.settings.bootstrap_samples)
