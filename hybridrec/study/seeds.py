"""Protocol ``cross`` once more: on a second seed of its folds (``make seeds``), and with a test that is later in time.

Everything is done again: the division, tuning, the fits, triage, the controls, the bar and every choice between them.
The language model is asked for weak users' hand-overs only, in the ways that were chosen for the study's own folds;
what subtracts its prior would need more answers, and is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from hybridrec.data import datasets, folds
from hybridrec.errors import RecordingError
from hybridrec.evaluation import arms, cross, fusion, verdicts
from hybridrec.evaluation.lists import Lists
from hybridrec.llm import rankers
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.llm.ways import Way
from hybridrec.study import cross_answers, steps
from hybridrec.study.config import Experiment, compared_recommenders
from hybridrec.weak_users import triage

SEEDS = 2  # the experiment's own and those after it
LLM = "llm"
CONTROLS = (cross.RANDOM, arms.POPULARITY, arms.ITEM_MEAN, arms.TF_IDF, arms.EMBEDDING, arms.STACK)
COLUMNS = ["family", "comparison", "n", "mean", "low", "high", "smallest_detectable", "p_holm", "p_equivalence_holm"]
COLUMNS = [*COLUMNS, "verdict"]


@dataclass(frozen=True)
class Made:
    """What notebooks 01 to 03 make under protocol ``cross``: their tables, and the catalogue."""

    divided: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame
    scores: pd.DataFrame
    triage: pd.DataFrame


def each(settings: Experiment) -> Iterator[pd.DataFrame]:
    """The comparisons on each seed in turn: COLUMNS and seed; what is cut short goes on from cached fits and answers.

    Recommenders of the user's own take no part: their scores are of the experiment's own folds alone.
    """
    settings = settings.model_copy(update={"scores": None})
    data = steps.dataset(settings.dataset, settings.ratings)
    asking = None if settings.endpoint else cross_answers.asking(settings)
    for seed in range(settings.seed, settings.seed + SEEDS):
        made = make(data, settings, seed)
        answers = None
        if asking is not None:
            answers = ask(made, settings, chosen_ways(asking), asking.model, asking.recordings)
        yield judged(made, settings.like_threshold, seed, answers).assign(seed=seed)


def chosen_ways(asking: cross_answers.Asking) -> dict[int, Way]:
    """The way to ask for each test fold, as the study's own folds chose it; none where nobody was asked."""
    try:
        return asking.chosen
    except RecordingError:
        return {}


def make(data: datasets.Dataset, settings: Experiment, seed: int) -> Made:
    """Divide, tune, fit and triage with a seed."""
    how = (settings.like_threshold, settings.folds, seed, settings.users)
    divided, candidates = steps.cross_divide(data.interactions, *how)
    _, scores = steps.cross_recommend(divided, data.items, settings, seed)
    return triaged(divided, candidates, data.items, scores, settings.like_threshold, steps.thresholds(settings))


def triaged(
    divided: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
    scores: pd.DataFrame,
    like_threshold: float,
    thresholds: triage.Thresholds,
) -> Made:
    """The tables with who is weak for each test fold that there are scores for."""
    weak = steps.cross_triage(scores, divided, items, like_threshold, thresholds)
    return Made(divided, candidates, items, scores, weak)


def ask(
    made: Made, settings: Experiment, chosen: Mapping[int, Way], model: Model, recordings: Recordings
) -> pd.DataFrame | None:
    """The language model's order of weak users' lists; asked for where it is not recorded.

    Args:
        made: the folds, and who is weak.
        settings: of prompts.
        chosen: the way to ask by test fold.
        model, recordings: as for ``rankers.rank``.

    Returns:
        ``cross.SCORES``, without users whose request failed. None where nobody is asked, or answers may only be
        replayed and are not all recorded.
    """
    tasks = {test: _weak_tasks(made, settings, test, way) for test, way in chosen.items()}
    requests = [rankers.request_of(one, chosen[test].mode, settings.noun) for test in tasks for one in tasks[test]]
    missing = any(model.key(one) not in recordings for one in requests)
    if not requests or (missing and recordings.replay_only):
        return None
    parts = []
    for test, ones in tasks.items():
        found = rankers.rank(ones, chosen[test].mode, model, recordings, noun=settings.noun, seed=settings.seed)
        parts.append(rankers.table(found).assign(test=test, fold=test))
    rows = pd.concat(parts, ignore_index=True).assign(ranker=LLM, draw=0)
    return rows.loc[rows["failure"] == "", cross.SCORES]


def _weak_tasks(made: Made, settings: Experiment, test: int, way: Way) -> list[Task]:
    """The lists of one fold that have a pair, of users whom a compared recommender routes in it."""
    compared = compared_recommenders(made.triage["recommender"].unique())
    rows = made.triage[made.triage["weak"] & made.triage["recommender"].isin(compared) & (made.triage["test"] == test)]
    pairs = folds.with_a_pair(made.candidates).query("fold == @test")["user"]
    return build_tasks(
        sorted(set(rows["user"]) & set(pairs)),
        folds.without(made.divided, test),
        made.candidates[made.candidates["fold"] == test],
        made.items,
        way.length,
        settings.rating_scale,
        way.shown,
        settings.like_threshold,
    )


def judged(made: Made, like_threshold: float, seed: int, answers: pd.DataFrame | None = None) -> pd.DataFrame:
    """Weak users of the compared recommenders, pooled, by every control and fusion, and the language model.

    Args:
        made: the tables; scores and triage may be of some test folds alone.
        like_threshold: a rating at or above it makes an item relevant.
        seed: of the random orders.
        answers: ``cross.SCORES`` of LLM, or None.

    Returns:
        COLUMNS; families are those of docs/plan.md: "primary" (the language model against the bar; not there without
        answers), "arms" (fusions of the recommender with a control against the bar), "recommender" (against the user's
        own recommender) and "random" (against a random order).
    """
    tests = sorted(made.scores["test"].unique())
    compared = compared_recommenders(made.triage["recommender"].unique())
    routed = made.triage[made.triage["recommender"].isin(compared)]
    users = routed.loc[routed["inactive"], ["test", "user"]].drop_duplicates()
    every = pd.concat([made.scores] + [
        made.scores[made.scores["test"] == tests[0]].assign(test=test)  # not judged, but the stack wants each fold
        for test in set(made.divided["fold"]) - set(tests)
    ])  # fmt: skip
    embeddings = steps.title_embeddings(made.items)
    divided = Lists(made.divided, like_threshold)
    found = steps.cross_arms(divided, made.items, embeddings, every, users, compared, seed).scores
    shown = found[found["ranker"].isin(CONTROLS[1:]) | found["ranker"].isin(_fusions(compared, CONTROLS[1:]))]
    parts = [made.scores, shown, cross.random_order(made.candidates), *([] if answers is None else [answers])]
    scored = pd.concat([part[part["test"].isin(tests)] for part in parts])
    return _verdicts(cross.lists(scored, made.candidates), routed, list(made.scores["ranker"].unique()))


def _fusions(recommenders: list[str], controls: tuple[str, ...]) -> list[str]:
    return [fusion.name(name, control) for name in recommenders for control in controls]


def _verdicts(lists: pd.DataFrame, routed: pd.DataFrame, recommenders: list[str]) -> pd.DataFrame:
    weak, bar = cross.groups(routed)["weak"], cross.bar(lists, routed, [*CONTROLS, *recommenders])
    named: dict[str, cross.Ranker] = {name: name for name in CONTROLS} | {"the bar": bar}
    if (lists["ranker"] == LLM).any():
        named[LLM] = LLM
    fused = {f"recommender + {name}": _fused(bar, name) for name in CONTROLS[1:]}
    families = {
        "recommender": {name: cross.differences(lists, weak, one, cross.OWN) for name, one in named.items()},
        "random": {
            name: cross.differences(lists, weak, one, cross.RANDOM)
            for name, one in named.items()
            if name != cross.RANDOM
        },
        "arms": {name: cross.differences(lists, weak, one, bar) for name, one in fused.items()},
    }
    parts = [verdicts.judge(cross.family(name, rows)) for name, rows in families.items()]
    if LLM in named:
        parts.insert(0, cross.primary(lists, routed, [LLM], [*CONTROLS, *recommenders]).table)
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _fused(bar: pd.DataFrame, control: str) -> pd.DataFrame:
    """The fusion of each recommender with one control, for each recommender and test fold."""
    return bar.assign(ranker=[fusion.name(name, control) for name in bar["recommender"]])
