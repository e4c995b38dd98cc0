"""Is it the split? The study's comparison once more on other splits of the same ratings (``make seeds``).

Everything is done anew for each seed: the split, tuning, the fits, triage, the controls. The language model is asked
for the first few seeds only, and in one way, ``likelihood``.
"""

from collections.abc import Iterator

import pandas as pd

from hybridrec.data import datasets, splits
from hybridrec.evaluation import compare, controls, metrics
from hybridrec.llm import rankers
from hybridrec.llm.tasks import build_tasks
from hybridrec.randomness import generator
from hybridrec.recommenders import fitting
from hybridrec.study import models as study_models
from hybridrec.study import paths, steps
from hybridrec.study.config import PUBLISHED_RECOMMENDERS, Experiment, parameters
from hybridrec.weak_users import triage

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
    interactions = splits.split_per_user(data.interactions, seed)
    candidates = splits.test_candidates(interactions, settings.like_threshold, seed)
    drawn = splits.sample_users(interactions["user"], settings.users, seed)
    interactions, candidates = (rows[rows["user"].isin(drawn)] for rows in (interactions, candidates))
    known = interactions[interactions["split"] != "test"]
    thresholds = triage.Thresholds(settings.performance_threshold, settings.sparsity_threshold)
    sparsity = datasets.sparsity_index(known, len(data.items))
    inactive = sparsity.index[triage.inactive(sparsity, thresholds)]

    items = data.items["item"].to_numpy()
    study = fitting.Study(interactions, items, settings.like_threshold, seed, settings.grids or {}, paths.CACHE)
    tuning = fitting.tune(study, settings.recommenders)
    chosen = fitting.chosen_params(tuning)
    test, _ = fitting.test_scores(study, chosen, candidates, top=0)  # whole lists are not compared here
    out_of_fold = fitting.out_of_fold_scores(study, chosen, settings.folds)

    labels = {"published": candidates, "held-out": known.assign(relevant=known["rating"] >= settings.like_threshold)}
    judged = {
        protocol: scores.merge(labels[protocol][["user", "item", "relevant"]], on=["user", "item"])
        for protocol, scores in (("published", test), ("held-out", out_of_fold))
    }
    weak = pd.concat(triage.triage_table(rows, sparsity, thresholds, protocol) for protocol, rows in judged.items())
    settled = compare.settings_from(weak, inactive, controls.best_other(tuning), settings.performance_threshold)

    rankable = splits.rankable(candidates)
    ranked = [test.rename(columns={"recommender": "ranker"}).assign(draw=0), controls.oracle_scores(candidates)]
    ranked.append(controls.control_scores(known, candidates, generator(seed, "random-control")))
    if ask:
        # All inactive users, and not only those whom a recommender routes: another machine's fit may route others.
        ranked.append(_ask(settings, data, known, rankable[rankable["user"].isin(inactive)]).assign(draw=0))
    rows = pd.concat(frame[["ranker", "draw", "user", "item", "score"]] for frame in ranked)
    quality = metrics.per_user_by_ranker(rows.merge(rankable[["user", "item", "relevant"]], on=["user", "item"]))
    auc, ndcg = (compare.wide(quality, metric) for metric in ("auc", "ndcg_at_10"))
    samples, permutations = settings.bootstrap_samples, settings.permutations
    table = compare.comparison(auc, ndcg, settled, [MODE] if ask else [], seed, samples, permutations)
    return table.assign(seed=seed)[COLUMNS]


def _ask(settings: Experiment, data: datasets.Dataset, known: pd.DataFrame, rankable: pd.DataFrame) -> pd.DataFrame:
    """The language model's ranking of every user in ``rankable``; answers are recorded beside the study's own."""
    users = rankable["user"].unique()
    tasks = build_tasks(users, known, rankable, data.items, settings.history_length, settings.rating_scale)
    recordings = study_models.recordings_for(settings.dataset, settings.model)
    llm = study_models.open_model(settings.model, parameters(settings)["endpoint"])
    return rankers.table(rankers.rank(tasks, MODE, llm, recordings, noun=settings.noun, seed=settings.seed))


def weak_users(table: pd.DataFrame) -> pd.DataFrame:
    """AUC of weak users for each split, mean over the paper's three recommenders.

    Args:
        table: COLUMNS, of all splits.

    Returns:
        Columns protocol, ranker, seed, auc.
    """
    of_three = table[table["recommender"].isin(PUBLISHED_RECOMMENDERS)]
    means = of_three.groupby(["protocol", "ranker", "seed"], sort=False)["weak_auc_after"].mean()
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
