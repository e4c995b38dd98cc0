"""Cornac's models, quicker and in float64: the same scores as Cornac's own, on this processor as on any other."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from cornac.models import EASE

from hybridrec.data import splits
from hybridrec.recommenders import cornac_models, fits
from hybridrec.recommenders.fitting import Study, training_rows
from hybridrec.study import paths

# What a processor of ten years ago lacks: the libraries then take other ways through the same arithmetic.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4",
}
SSE2 = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "SSE2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
}


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame) -> Study:
    return Study(splits.split_per_user(interactions, seed=1), items["item"].to_numpy(), like_threshold=4.0, seed=1)


def likes(study: Study) -> cornac_models.Dataset:
    rows = training_rows("EASE", study.known(), study.like_threshold)
    return cornac_models.dataset(rows, np.sort(study.interactions["user"].unique()), np.sort(study.items), 3)


# --- one processor and another ----------------------------------------------------------------------------------------

CHILD = """
import json, sys
import numpy as np, pandas as pd
from hybridrec.recommenders import fits
rows, kept = pd.read_csv(sys.argv[1]), {}
for name, value in json.loads(sys.argv[2]).items():
    grid = fits.RECIPES[name].grid
    work = fits.Fit(name, {grid[0]: value} if grid else {}, rows, rows[["user", "item"]],
                    np.unique(rows["user"]), np.unique(rows["item"]), seed=5, top=10, seen=rows[["user", "item"]])
    found = fits.fit_and_score(work)
    kept |= {f"{name} {key}": found[key] for key in ("scores", "items", "item_scores")}
np.savez(sys.argv[3], **kept)
"""


def fitted_elsewhere(switches: dict[str, str], table: Path, out: Path) -> dict[str, np.ndarray]:
    """What all fits come to in a child process whose libraries are told of a lesser processor."""
    environment = os.environ | switches | {"PYTHONPATH": str(paths.ROOT), "PYTHONWARNINGS": "ignore"}
    arguments = [str(table), json.dumps(SETTINGS), str(out)]
    subprocess.run([sys.executable, "-c", CHILD, *arguments], env=environment, check=True)
    with np.load(out) as arrays:
        return dict(arrays)


# Each recommender with a value of what is tuned of it, such that a fit takes a moment.
SETTINGS = {
    "NeuMF": 30, "VAECF": 60, "EASE": 10, "BPR": 50, "WBPR": 50, "MF": 1, "ItemKNN": 5, "UserKNN": 5, "MostPop": 0,
}  # fmt: skip


def test_every_recommender_is_fitted_under_lesser_instructions():
    assert SETTINGS.keys() == {name for name, recipe in fits.RECIPES.items() if recipe.cornac_class}


@pytest.mark.slow
def test_fits_agree_under_the_instructions_of_lesser_processors(interactions, tmp_path):
    table = tmp_path / "train.csv"
    interactions[interactions["rating"] >= 4][["user", "item", "rating"]].to_csv(table, index=False)
    settings = {"all": {}, "avx2": AVX2, "sse2": SSE2}
    found = {key: fitted_elsewhere(on, table, tmp_path / f"{key}.npz") for key, on in settings.items()}
    assert all(len(np.unique(found["all"][f"{name} scores"])) > 5 for name in SETTINGS)
    for other in ("avx2", "sse2"):
        for key, values in found["all"].items():
            np.testing.assert_array_equal(found[other][key], values, f"{other}: {key}")


@pytest.mark.parametrize(("name", "attribute"), [("NeuMF", "model"), ("VAECF", "vae")])
def test_neural_models_are_float64_from_the_first_weight_to_the_score(name, attribute, study):
    recipe = fits.recipe(name)
    with cornac_models.in_double():
        model = cornac_models.build(recipe.cornac_class, 1, **recipe.fixed, **{recipe.grid[0]: 1}).fit(likes(study))
        assert {weights.dtype for weights in getattr(model, attribute).parameters()} == {torch.float64}
        assert model.score(0).dtype == np.float64
    assert torch.get_default_dtype() == torch.float32
    assert torch.nn.BCELoss.__name__ == "BCELoss"


# --- the same as Cornac's ---------------------------------------------------------------------------------------------


def test_vaecf_learns_what_cornacs_own_training_loop_learns(study):
    recipe, module = fits.recipe("VAECF"), importlib.import_module("cornac.models.vaecf.vaecf")
    learn, loss = module.learn, module.VAE.loss
    # Cornac makes its batches float32, which ones and zeros survive.
    in_float64 = patch.object(module.VAE, "loss", lambda vae, batch, *rest: loss(vae, batch.double(), *rest))
    with cornac_models.in_double():
        ours = cornac_models.build("VAECF", 1, **recipe.fixed, n_epochs=50).fit(likes(study))
        with patch.object(module, "learn", learn), in_float64:
            cornacs = cornac_models.build("VAECF", 1, **recipe.fixed, n_epochs=50).fit(likes(study))
        for user in range(study.interactions["user"].nunique()):
            np.testing.assert_allclose(ours.score(user), cornacs.score(user), rtol=1e-11)


@pytest.mark.parametrize("name", ["ItemKNN", "UserKNN"])
def test_a_neighbourhood_told_of_fewer_neighbours_scores_to_the_bit_as_cornac_does(name, study):
    rows = training_rows(name, study.known(), study.like_threshold)
    data = cornac_models.dataset(rows, np.sort(rows["user"].unique()), np.sort(study.items), 3)
    model = cornac_models.build(name, 1, k=5, **fits.recipe(name).fixed).fit(data)
    quick, some = cornac_models.scorer(model), np.array([7, 0, 23, 30])
    for user in range(data.num_users):
        theirs = model.score(user)
        np.testing.assert_array_equal(quick(user, None), theirs)
        np.testing.assert_array_equal(quick(user, some), theirs[some])


def test_neumf_scores_the_items_asked_for_as_cornac_scores_the_catalogue(study):
    recipe, some = fits.recipe("NeuMF"), np.array([7, 0, 23, 30])
    with cornac_models.in_double():
        model = cornac_models.build("NeuMF", 1, **recipe.fixed, num_epochs=2).fit(likes(study))
        score = cornac_models.scorer(model)
        for user in range(model.num_users):
            theirs = model.score(user)
            np.testing.assert_allclose(score(user, None), theirs, rtol=1e-12)
            np.testing.assert_allclose(score(user, some), theirs[some], rtol=1e-12)
    assert len(np.unique(theirs)) > 10


@pytest.mark.parametrize("lamb", [0.5, 10, 1000])
@pytest.mark.parametrize("side", ["fewer users", "fewer items"])
def test_ease_by_users_gives_the_scores_of_ease_by_items(lamb, side, study):
    data = likes(study)
    if side == "fewer users":
        users, items, ratings = data.uir_tuple
        few = users < 12
        columns = users[few], items[few], ratings[few]
        data = cornac_models.QuickDataset(12, data.num_items, dict.fromkeys(range(12)), data.iid_map, columns)
    ours, theirs = cornac_models.build("EASE", 1, lamb=lamb, posB=False), EASE(lamb=lamb, posB=False)
    ours.fit(data)
    theirs.fit(data)
    assert hasattr(ours, "scores") == (side == "fewer users")
    for user in range(data.num_users):
        np.testing.assert_allclose(ours.score(user).ravel(), theirs.score(user).ravel(), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(
            np.ravel(ours.score(user, 3)), np.ravel(theirs.score(user, 3)), rtol=1e-9, atol=1e-11
        )


# --- negatives --------------------------------------------------------------------------------------------------------


def test_negatives_are_unrated_items_each_as_often_as_another_and_ratings_come_once(study):
    data = likes(study)
    rated = set(zip(*data.uir_tuple[:2], strict=True))
    counts = np.zeros((data.num_users, data.num_items))
    for _ in range(60):
        positives = []
        for users, items, labels in data.uir_iter(64, shuffle=True, binary=True, num_zeros=4):
            assert (labels == 0).sum() == 4 * (labels == 1).sum()
            positives += zip(users[labels == 1], items[labels == 1], strict=True)
            np.add.at(counts, (users[labels == 0], items[labels == 0]), 1)
        assert sorted(positives) == sorted(rated)
    assert not any(counts[pair] for pair in rated)
    expected = data.matrix.getnnz(axis=1) * 4 * 60 / (data.num_items - data.matrix.getnnz(axis=1))
    unrated = counts[data.matrix.toarray() == 0]
    spread = np.repeat(expected, data.num_items - data.matrix.getnnz(axis=1))
    # Of Poisson counts the squares of the standardised deviations have mean 1.
    assert ((unrated - spread) ** 2 / spread).mean() == pytest.approx(1, abs=0.15)


def test_who_has_rated_everything_ends_no_fit_in_an_endless_search():
    users, items = np.repeat([0, 1], [3, 1]), np.array([0, 1, 2, 0])
    data = cornac_models.QuickDataset(2, 3, {"a": 0, "b": 1}, dict.fromkeys(range(3)), (users, items, np.ones(4)))
    batches = list(data.uir_iter(2, num_zeros=5))
    assert sum(len(batch[0]) for batch in batches) == 4 * 6
    for users, items, ratings in batches:
        assert not ((users == 1) & (ratings == 0) & (items == 0)).any()
