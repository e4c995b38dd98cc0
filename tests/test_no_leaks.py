"""Nothing but the published protocol may depend on the labels of the test: scramble them, and all else stays the same.

The whole study, from tuning to the language model's requests, is run twice on simulated ratings: as they are, and
with every test rating turned round. Test *items* are known to all (they are the candidates); what users thought of
them is not.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridrec.data import datasets, splits
from hybridrec.evaluation import compare, controls, topk
from hybridrec.llm import answers, modes, rankers
from hybridrec.llm.recordings import request_key
from hybridrec.llm.tasks import build_tasks
from hybridrec.randomness import generator
from hybridrec.recommenders import fits, fitting
from hybridrec.weak_users import triage

SEED, LIKED, FOLDS = 3, 4.0, 3
GRIDS = {"MostPop": None, "ItemKNN": ("k", (5, 10)), "EASE": ("lamb", (5, 50))}
# What must not see the labels of the test, and what reads them by definition.
BLIND = [
    "candidate lists",
    "tuning",
    "out-of-fold scores",
    "test scores",
    "retrieved lists",
    "bars of lists",
    "held-out triage",
    "worst deciles",
    "inactive users",
    "requests",
    "repairs",
    "controls",
    "best other",
]
SEEING = ["published triage", "oracle"]


def simulated() -> pd.DataFrame:
    """60 users x 40 items: two tastes, better and worse items, and users of very different activity."""
    rng = np.random.default_rng(1)
    table = pd.MultiIndex.from_product([range(1, 61), range(101, 141)], names=["user", "item"]).to_frame(index=False)
    taste = np.where(table["user"] % 2 == table["item"] % 2, 1.0, -1.0)
    table["rating"] = np.clip(np.round(3.2 + taste + (table["item"] % 5 - 2) / 2 + rng.normal(size=len(table))), 1, 5)
    table["timestamp"] = rng.integers(1, 10**6, len(table))
    activity = rng.uniform(0.3, 0.9, 61)[table["user"]]
    return splits.split_per_user(table[rng.random(len(table)) < activity], SEED)


def scrambled(interactions: pd.DataFrame) -> pd.DataFrame:
    """The same study with every rating of the test turned round: 5 becomes 1, 4 becomes 2."""
    test = interactions["split"] == "test"
    return interactions.assign(rating=interactions["rating"].where(~test, 6 - interactions["rating"]))


ITEMS = pd.DataFrame({"item": range(101, 141), "title": [f"Film {n}" for n in range(101, 141)], "genres": "Drama"})


def asked(tasks: list, items: pd.DataFrame) -> pd.DataFrame:
    """The key of every request there is."""
    made = {mode: [rankers.request_of(task, mode, "film") for task in tasks] for mode in modes.BUILT_IN}
    made["prior"] = rankers.prior_requests(items, "film")
    return pd.DataFrame([(mode, one.user, request_key(one.request)) for mode, group in made.items() for one in group])


def repaired(tasks: list) -> pd.DataFrame:
    """Orders from answers that name one candidate, invent one and leave the others to the repair."""
    rows = []
    for task in tasks:
        titles = [item.title for item in task.items]
        parsed = answers.parse_ranking(f"1. {titles[0]}\n2. No such film", titles)
        order = answers.repair(parsed, len(titles), generator(SEED, "repair", task.user))
        rows.append({"user": task.user, "order": str(order), "missing": parsed.missing})
    return pd.DataFrame(rows)


def outputs(interactions: pd.DataFrame, cache: Path) -> dict[str, pd.DataFrame]:
    """Everything that notebooks 1 to 5 decide or compute before a ranking meets a label of the test."""
    known = interactions[interactions["split"] != "test"]
    candidates = splits.test_candidates(interactions, LIKED, SEED)
    study = fitting.Study(interactions, ITEMS["item"].to_numpy(), LIKED, SEED, cache=cache)
    tuned = fitting.tune(study, list(GRIDS), top=10)
    chosen = fitting.chosen_params(tuned)
    out_of_fold = fitting.out_of_fold_scores(study, chosen, FOLDS)
    test, retrieved = fitting.test_scores(study, chosen, candidates, top=10)
    earlier = fitting.validation_lists(study, fitting.chosen_params(tuned, "chosen_top_k"), 10)
    train, validation = (interactions[interactions["split"] == part] for part in ("train", "validation"))
    likes, users = validation.loc[validation["rating"] >= LIKED, ["user", "item"]], pd.Index(known["user"].unique())
    others = topk.best_others(earlier, likes, users)
    sparsity, thresholds = datasets.sparsity_index(known, len(ITEMS)), triage.Thresholds()
    labels = known.assign(relevant=known["rating"] >= LIKED)[["user", "item", "relevant"]]
    held_out = triage.triage_table(out_of_fold.merge(labels, on=["user", "item"]), sparsity, thresholds, "held-out")
    judged = test.drop(columns="fold").merge(candidates[["user", "item", "relevant"]], on=["user", "item"])
    tasks = build_tasks(sorted(known["user"].unique()), known, candidates, ITEMS, history_length=5)
    deciles = {
        name: compare.worst_decile(rows.set_index("user")["performance"])
        for name, rows in held_out.groupby("recommender")
    }
    return {
        "candidate lists": candidates.drop(columns="relevant"),
        "tuning": tuned,
        "out-of-fold scores": out_of_fold,
        "test scores": test,
        "retrieved lists": retrieved,
        "bars of lists": pd.Series(topk.best_bars(earlier, train, likes, others, users)).to_frame(),
        "held-out triage": held_out,
        "worst deciles": pd.DataFrame({name: pd.Series(users) for name, users in deciles.items()}),
        "inactive users": triage.inactive(sparsity, thresholds).to_frame(),
        "requests": asked(tasks, ITEMS),
        "repairs": repaired(tasks),
        "controls": controls.control_scores(known, candidates, generator(SEED, "random-control"), draws=3),
        "best other": pd.Series(controls.best_other(tuned)).to_frame(),
        "published triage": triage.triage_table(judged, sparsity, thresholds, "published"),
        "oracle": controls.oracle_scores(candidates),
    }


def compute(todo: list, what: str, workers: int) -> None:
    """The fits of ``fits.run``, one after the other in this process."""
    for work, file in todo:
        np.savez(file, **fits.fit_and_score(work))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]]:
    """Both runs' outputs. Each has a cache of its own, so that nothing is the same because it was kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "_compute", compute)
        small = {name: replace(fits.RECIPES[name], grid=grid) for name, grid in GRIDS.items()}
        for name, recipe in small.items():
            patch.setitem(fits.RECIPES, name, recipe)
        ratings = simulated()
        folders = [tmp_path_factory.mktemp(name) for name in ("as-they-are", "scrambled")]
        yield outputs(ratings, folders[0]), outputs(scrambled(ratings), folders[1])


def test_the_simulation_is_worth_scrambling(runs):
    """Enough weak users of either protocol, more than one setting to choose from, and no empty output."""
    original, _ = runs
    assert original["tuning"].groupby("recommender")["auc"].nunique()[["ItemKNN", "EASE"]].min() > 1
    assert 0 < original["held-out triage"]["weak"].sum() < len(original["held-out triage"])
    assert original["inactive users"].to_numpy().any()
    assert (original["repairs"]["missing"] > 0).any()
    assert all(len(table) for table in original.values())


@pytest.mark.parametrize("name", BLIND)
def test_scrambled_test_labels_change_nothing(runs, name):
    original, other = runs
    pd.testing.assert_frame_equal(original[name], other[name], check_exact=True)


@pytest.mark.parametrize("name", SEEING)
def test_what_reads_the_test_labels_does_change(runs, name):
    original, other = runs
    changed = (original[name] != other[name]) & (original[name].notna() | other[name].notna())
    assert changed.any(axis=1).mean() > 0.2


def test_no_output_goes_unchecked(runs):
    assert [*BLIND, *SEEING] == list(runs[0])
