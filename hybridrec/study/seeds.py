"""Protocol ``cross`` once more: on a second seed of its folds (``make seeds``), and with a test that is later in time.

Everything is done again: the division, tuning, the fits, triage, the controls, the bar and every choice between them.
The language model is asked for weak users' hand-overs only, in the ways that were chosen for the study's own folds;
what subtracts its prior would need more answers, and is left out.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from hybridrec.data import datasets, folds
from hybridrec.evaluation import cross
from hybridrec.llm import rankers
from hybridrec.llm.tasks import Task, build_tasks
from hybridrec.llm.ways import Way
from hybridrec.study import cross_answers, cross_arms, cross_steps, cross_tasks, families, steps
from hybridrec.study import models as study_models
from hybridrec.study.config import Experiment, compared_recommenders, parameters
from hybridrec.weak_users import triage

SEEDS = 2  # the experiment's own and those after it
FAMILIES = (cross.PRIMARY, "arms", "recommender", "random", "each recommender")  # about weak users; and the next one
_ANSWERS = ["model", *cross.SCORES, "failure"]
BAR = "bar"  # the bar against the user's own recommender, a family of one


@dataclass(frozen=True)
class Made:
    """What notebooks 01 to 03 make under protocol ``cross``: their tables, and the catalogue."""

    divided: pd.DataFrame
    candidates: pd.DataFrame
    items: pd.DataFrame
    scores: pd.DataFrame
    triage: pd.DataFrame


def each(settings: Experiment) -> Iterator[pd.DataFrame]:
    """The comparisons on each seed in turn (``judged``, and seed); cached fits and answers are not made twice.

    Recommenders of the user's own take no part: their scores are of the experiment's own folds alone.
    """
    settings = settings.model_copy(update={"scores": None})
    data = steps.dataset(settings.dataset, settings.ratings)
    asking = _asking(settings, data) if settings.cross_ways else None
    for seed in range(settings.seed, settings.seed + SEEDS):
        made = make(data, settings, seed)
        answers = ask(made, settings, asking) if asking else None
        yield judged(made, settings.like_threshold, settings.model, answers).assign(seed=seed)


def _asking(settings: Experiment, data: datasets.Dataset) -> cross_answers.Asking:
    """What the experiment's model is asked on the study's own folds."""
    plain = parameters(settings)
    model = study_models.open_model(settings.model, plain["endpoint"], plain["local"])
    return cross_answers.Asking(
        cross_tasks.prepare(settings, data),
        cross_tasks.scoring(model, settings.model),
        study_models.recordings_for(settings.dataset, settings.model),
        settings.cross_ways,
        settings.cross_users,
    )


def make(data: datasets.Dataset, settings: Experiment, seed: int) -> Made:
    """Divide, tune, fit and triage with a seed."""
    how = (settings.like_threshold, settings.folds, seed, settings.users)
    divided, candidates = cross_steps.divide(data.interactions, *how)
    _, scores = cross_steps.recommend(divided, data.items, settings, seed)
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
    weak = cross_steps.triage(scores, divided, items, like_threshold, thresholds)
    return Made(divided, candidates, items, scores, weak)


def ask(made: Made, settings: Experiment, asking: cross_answers.Asking) -> pd.DataFrame | None:
    """The language model's order of weak users' lists; asked for where it is not recorded.

    Args:
        made: the folds, and who is weak.
        settings: of prompts.
        asking: the ways that the study's own folds chose, and who may be asked.

    Returns:
        The columns of the table cross_answers. None where nobody is asked, or answers may only be replayed and are not
        all recorded.
    """
    model, recordings, chosen = asking.model, asking.recordings, asking.chosen
    tasks = {test: _weak_tasks(made, settings, test, way, asking.drawn) for test, way in chosen.items()}
    requests = [rankers.request_of(one, chosen[test].mode, settings.noun) for test in tasks for one in tasks[test]]
    missing = any(model.key(one) not in recordings for one in requests)
    if not requests or (missing and recordings.replay_only):
        return None
    parts = []
    for test, ones in tasks.items():
        found = rankers.rank(ones, chosen[test].mode, model, recordings, noun=settings.noun, seed=settings.seed)
        parts.append(rankers.table(found).assign(test=test, fold=test))
    rows = pd.concat(parts, ignore_index=True).assign(ranker=families.OWN_HISTORY, draw=0, model=settings.model)
    return rows[_ANSWERS]


def _weak_tasks(made: Made, settings: Experiment, test: int, way: Way, drawn: Collection[int] | None) -> list[Task]:
    """The lists of one fold that have a pair, of users (of ``drawn``) whom a compared recommender routes in it."""
    compared = compared_recommenders(made.triage["recommender"].unique())
    rows = made.triage[made.triage["weak"] & made.triage["recommender"].isin(compared) & (made.triage["test"] == test)]
    users = set(rows["user"]) & set(folds.with_a_pair(made.candidates).query("fold == @test")["user"])
    return build_tasks(
        sorted(users if drawn is None else users & set(drawn)),
        folds.without(made.divided, test),
        made.candidates[made.candidates["fold"] == test],
        made.items,
        way.length,
        settings.rating_scale,
        way.shown,
        settings.like_threshold,
    )


def judged(made: Made, like_threshold: float, model: str = "", answers: pd.DataFrame | None = None) -> pd.DataFrame:
    """Weak users of the compared recommenders, pooled, by every control and fusion, and the language model.

    Args:
        made: the tables; scores and triage may be of some test folds alone.
        like_threshold: a rating at or above it makes an item relevant.
        model: the language model.
        answers: what ``ask`` returned.

    Returns:
        ``families.COLUMNS``, the families FAMILIES and BAR.
    """
    tests = sorted(made.scores["test"].unique())
    routed = made.triage[made.triage["recommender"].isin(compared_recommenders(made.triage["recommender"].unique()))]
    answers = pd.DataFrame(columns=_ANSWERS) if answers is None else answers
    tables = (made.divided, made.candidates, like_threshold, made.items, cross_arms.title_embeddings(made.items))
    arms = cross_arms.assemble(*tables, made.scores, answers, routed)
    arms = replace(arms, lists=arms.lists[arms.lists["test"].isin(tests)])
    by_plan = cross_arms.judged_by_plan(arms, routed, answers, model)
    lists, weak = by_plan.judged_only().lists, by_plan.groups["weak"]
    of_bar = families.Compared(families.BAR, cross.OWN, "weak", cross.differences(lists, weak, by_plan.bar, cross.OWN))
    table = families.families(by_plan)
    return pd.concat([families.judge(BAR, [of_bar]), table[table["family"].isin(FAMILIES)]], ignore_index=True)
