"""Is it the split? The study's comparison once more on other splits of the same ratings (``make seeds``).

Everything is done again for each seed: the split, tuning, the fits, triage, the controls. The language model is asked
for the first few seeds only, and in one way, ``likelihood``.
"""

from collections.abc import Iterator

import pandas as pd

from hybridrec.data import datasets
from hybridrec.evaluation import compare
from hybridrec.llm import rankers
from hybridrec.study import models as study_models
from hybridrec.study import steps
from hybridrec.study.config import Experiment, compared_recommenders, parameters

SPLITS = 5  # the experiment's own seed and those after it
ASKED = 3  # for so many of them the language model is asked
MODE = "likelihood"
COLUMNS = [
    *("seed", "protocol", "recommender", "ranker", "users_routed", "users_scored", "harm_rate"),
    *("weak_auc_before", "weak_auc_after", "overall_auc_before", "overall_auc_after"),
    *("best_control", "gain_over_best_control", "gain_over_best_control_low", "gain_over_best_control_high"),
]


def each(settings: Experiment) -> Iterator[pd.DataFrame]:
    """The comparison on each split in turn, COLUMNS; what is cut short goes on from the cached fits and answers."""
    data = steps.dataset(settings.dataset, settings.ratings)
    settings = settings.model_copy(update={"scores": None})  # they are of the experiment's own split alone
    can_ask = settings.endpoint is None and MODE in settings.modes
    for number in range(SPLITS):
        yield comparison(settings, data, settings.seed + number, ask=can_ask and number < ASKED)


def comparison(settings: Experiment, data: datasets.Dataset, seed: int, ask: bool) -> pd.DataFrame:
    """Notebooks 1, 2, 3 and 5 for one split.

    Args:
        settings: everything but the seed.
        data: the experiment's ratings and items.
        seed: of the split and of everything after it.
        ask: is the language model asked, for every inactive user?

    Returns:
        COLUMNS: a row for every protocol, recommender and ranker.
    """
    prepared = steps.prepare(data, settings, seed)
    interactions, candidates, inactive = prepared.interactions, prepared.candidates, prepared.inactive
    tuning, scores = steps.recommend(prepared, settings, seed)
    judged = steps.judged(scores, interactions, candidates, settings.like_threshold)
    weak = steps.triage_table(judged, prepared.sparsity, steps.thresholds(settings))
    routings = steps.routings(weak, inactive, tuning, settings.performance_threshold)

    of_model = _ask(settings, prepared) if ask else pd.DataFrame()
    rankings = steps.all_rankings(scores, of_model, interactions, candidates, seed)
    quality = steps.quality(rankings, candidates)
    auc, ndcg = (compare.wide(quality, metric) for metric in ("auc", "ndcg_at_10"))
    samples, permutations = settings.bootstrap_samples, settings.permutations
    table = compare.comparison(auc, ndcg, routings, [MODE] if ask else [], seed, samples, permutations)
    return table.assign(seed=seed)[COLUMNS]


def _ask(settings: Experiment, prepared: steps.Prepared) -> pd.DataFrame:
    """The language model's ranking for every inactive user; answers are recorded beside the study's own.

    All inactive users, and not only those whom a recommender routes: another machine's fit may route others.
    """
    shown = (prepared.items, settings.history_length, settings.rating_scale)
    tasks = steps.tasks(prepared.interactions, prepared.candidates, *shown)
    asked = steps.asked(tasks, prepared.inactive, [MODE], [])[MODE]
    recordings = study_models.recordings_for(settings.dataset, settings.model)
    plain = parameters(settings)
    llm = study_models.open_model(settings.model, plain["endpoint"], plain["local"])
    return rankers.table(rankers.rank(asked, MODE, llm, recordings, noun=settings.noun, seed=settings.seed))


def weak_users(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of weak users for each split, mean over the paper's recommenders (over all where none of them is there).

    Args:
        table: COLUMNS, of all splits.

    Returns:
        Columns protocol, ranker, seed, auc.
    """
    compared = table[table["recommender"].isin(compared_recommenders(table["recommender"].unique()))]
    means = compared.groupby(["protocol", "ranker", "seed"], sort=False)["weak_auc_after"].mean()
    return means.rename("auc").reset_index()


def spread(weak: pd.DataFrame) -> pd.DataFrame:
    """How far a number moves from split to split.

    Args:
        weak: dataset, protocol, ranker, seed, auc.

    Returns:
        Columns dataset, protocol, ranker, splits, mean, sd, lowest, highest.
    """
    groups = weak.groupby(["dataset", "protocol", "ranker"], sort=False)["auc"]
    return groups.agg(splits="size", mean="mean", sd="std", lowest="min", highest="max").reset_index()
