"""Every recommender fits, scores and repeats itself; fits are cached by all they depend on; test rows stay unseen."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hybridrec.data import splits
from hybridrec.errors import RecommenderError
from hybridrec.evaluation import metrics
from hybridrec.recommenders import cornac_models, fits, fitting
from hybridrec.recommenders.fits import Fit, Recipe
from hybridrec.recommenders.fitting import Study

# Smaller than the declared grids, so that a fit takes a moment.
QUICK = {
    "MostPop": {},
    "ItemKNN": {"k": 5},
    "UserKNN": {"k": 5},
    "MF": {"lambda_reg": 0.02},
    "BPR": {"max_iter": 5},
    "WBPR": {"max_iter": 5},
    "NeuMF": {"num_epochs": 1},
    "EASE": {"lamb": 10},
    "VAECF": {"n_epochs": 2},
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def study(interactions: pd.DataFrame, items: pd.DataFrame, cache: Path) -> Study:
    split = splits.split_per_user(interactions, seed=1)
    return Study(split, items["item"].to_numpy(), like_threshold=4.0, seed=1, cache=cache)


@pytest.fixture
def pairs(study: Study) -> pd.DataFrame:
    return study.interactions.loc[study.interactions["split"] == "test", ["user", "item", "rating"]]


def memory_fit(work: Fit) -> dict[str, np.ndarray]:
    """Stands for a fit: the item's mean rating in what the recommender was given."""
    means = work.train.groupby("item")["rating"].mean()
    found = {"scores": work.pairs["item"].map(means).fillna(0.0).to_numpy(), "seconds": np.array(0.1)}
    if work.top:
        users = np.sort(work.pairs["user"].unique())
        items = np.tile(work.items[: work.top], (len(users), 1))
        found |= {"users": users, "items": items, "item_scores": np.zeros(items.shape)}
    return found


@pytest.fixture
def serial(monkeypatch) -> list[Fit]:
    """Instant fits in this process; the list collects what had to be computed."""
    computed: list[Fit] = []

    def compute(todo: list, what: str, workers: int) -> None:
        for work, file in todo:
            computed.append(work)
            np.savez(file, **memory_fit(work))

    monkeypatch.setattr(fits, "_compute", compute)
    return computed


def test_quick_settings_cover_every_recipe():
    assert list(QUICK) == [name for name, recipe in fits.RECIPES.items() if recipe.cornac_class]


@pytest.mark.parametrize("name", QUICK)
def test_every_recommender_scores_finitely_and_repeats_itself(name, study, pairs):
    work = study.fit(name, QUICK[name], study.known(), pairs)
    scores = fits.fit_and_score(work)["scores"]
    assert scores.shape == (len(pairs),)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 1
    np.testing.assert_array_equal(fits.fit_and_score(work)["scores"], scores)


@pytest.mark.parametrize("name", ["ItemKNN", "UserKNN", "MF", "EASE"])
def test_scores_find_the_structure_and_belong_to_their_pairs(name, study, pairs):
    shuffled = pairs.sample(frac=1, random_state=2)
    scores = fits.fit_and_score(study.fit(name, QUICK[name], study.known(), shuffled))["scores"]
    judged = shuffled.assign(score=scores, relevant=shuffled["rating"] >= 4, user=0)
    assert metrics.auc(judged)[0] > 0.7


@pytest.mark.parametrize("name", ["MF", "BPR", "NeuMF"])
def test_another_seed_gives_other_scores(name, study, pairs):
    work = study.fit(name, QUICK[name], study.known(), pairs)
    other = replace(work, seed=work.seed + 1)
    first, second = (fits.fit_and_score(one)["scores"] for one in (work, other))
    assert not np.array_equal(first, second)


def test_fitting_leaves_the_callers_ratings_alone(study, pairs):
    before = study.interactions.copy()
    fits.fit_and_score(study.fit("ItemKNN", QUICK["ItemKNN"], study.known(), pairs))
    pd.testing.assert_frame_equal(study.interactions, before)


def test_an_item_nobody_rated_and_a_user_without_likes_get_scores(study):
    user = study.interactions["user"].iloc[0]
    known = study.known()
    known = known[(known["user"] != user) | (known["rating"] < 4)]
    unrated = pd.DataFrame({"user": [user], "item": [131]})
    scores = fits.fit_and_score(study.fit("EASE", QUICK["EASE"], known, unrated))["scores"]
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("call", [fitting.recipe, fitting.grid])
def test_unknown_recommender_lists_the_known_ones(call: Callable):
    with pytest.raises(RecommenderError, match="unknown recommender 'KNN'.*ItemKNN"):
        call("KNN")


def test_a_score_that_is_not_finite_names_recommender_and_user(study, pairs, monkeypatch):
    class Broken:
        def fit(self, _): ...
        def score(self, _):
            return np.full(len(study.items), np.nan)

    monkeypatch.setattr(cornac_models, "build", lambda *_, **__: Broken())
    with pytest.raises(RecommenderError, match=rf"MF .*user {pairs['user'].min()} a score that is not finite"):
        fits.fit_and_score(study.fit("MF", {}, study.known(), pairs))


def test_likes_recommenders_learn_from_likes_only(study):
    assert fitting.training_rows("BPR", study.known(), 4.0)["rating"].min() == 4
    assert len(fitting.training_rows("MF", study.known(), 4.0)) == len(study.known())


def test_second_run_computes_nothing(study, pairs, serial, cache, monkeypatch):
    work = [study.fit(name, QUICK[name], study.known(), pairs) for name in ("MF", "BPR")]
    first = fits.run(work, cache)
    assert [work.recommender for work in serial] == ["MF", "BPR"]

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(fits, "_compute", fail)
    for again, before in zip(fits.run(work, cache), first, strict=True):
        np.testing.assert_array_equal(again["scores"], before["scores"])


def test_only_what_is_new_is_computed(study, pairs, serial, cache):
    old, new = (study.fit("MF", {"lambda_reg": value}, study.known(), pairs) for value in (0.1, 0.2))
    fits.run([old], cache)
    fits.run([old, new], cache)
    assert [work.params["lambda_reg"] for work in serial] == [0.1, 0.2]


@pytest.mark.slow
def test_worker_processes_give_the_scores_of_this_process(study, pairs, cache):
    work = study.fit("EASE", QUICK["EASE"], study.known(), pairs)
    there, here = fits.run([work], cache, workers=2)[0], fits.fit_and_score(work)
    np.testing.assert_allclose(there["scores"], here["scores"], rtol=1e-9)
    assert [file.name for file in cache.iterdir()] == [f"fit-{work.key()}.npz"]


def test_one_worker_is_this_process_and_leaves_its_threads_alone(study, pairs, cache, monkeypatch):
    monkeypatch.setattr(fits, "ProcessPoolExecutor", None)
    before = torch.get_num_threads()
    work = study.fit("EASE", QUICK["EASE"], study.known(), pairs)
    np.testing.assert_array_equal(fits.run([work], cache, workers=1)[0]["scores"], fits.fit_and_score(work)["scores"])
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_recipe_is_all_that_a_new_recommender_takes(study, pairs, cache, monkeypatch):
    """PMF of Cornac's, which has no recipe here: tuned in two processes, fitted, scored out of fold, fingerprinted."""
    recipe = Recipe("PMF", "ratings", ("lambda_reg", (0.01, 0.1)), {"k": 3, "max_iter": 5}, allowed=(float, 0, 10))
    monkeypatch.setitem(fits.RECIPES, "PMF", recipe)
    tuned = fitting.tune(replace(study, workers=2), ["PMF"])
    study = replace(study, workers=1)
    assert tuned["value"].tolist() == [0.01, 0.1] and tuned["chosen"].sum() == 1
    params = fitting.chosen_params(tuned)
    assert params["PMF"]["lambda_reg"] in (0.01, 0.1)
    scores, _ = fitting.test_scores(study, params, pairs, top=0)
    assert scores["score"].nunique() > len(pairs) / 2
    assert len(fitting.out_of_fold_scores(study, params, folds=2)) == len(study.known())
    monkeypatch.setattr(fits, "_compute", None)  # all fits are there already
    candidates = pairs.assign(relevant=pairs["rating"] >= 4)
    lines = fitting.fingerprints(study, tuned, candidates, 0, params)
    assert lines["part"].tolist() == ["tuning"] * 2 + ["test"]
    assert lines["scores"].nunique() == 3


@pytest.mark.parametrize("name", fits.RECIPES)
def test_values_to_be_tried_are_allowed_ones(name):
    recipe = fits.RECIPES[name]
    kind, low, high = recipe.allowed
    assert all(isinstance(value, (int, kind)) and low <= value <= high for value in (recipe.grid or ("", ()))[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda work: {"seed": work.seed + 1},
        lambda work: {"params": {"lambda_reg": 0.3}},
        lambda work: {"recommender": "BPR"},
        lambda work: {"train": work.train.assign(rating=work.train["rating"].mask(work.train.index == 0, 9.0))},
        lambda work: {"train": work.train.iloc[1:]},
        lambda work: {"pairs": work.pairs.iloc[::-1]},
        lambda work: {"items": work.items[:-1]},
        lambda work: {"users": work.users[:-1]},
        lambda work: {"top": 10, "seen": work.pairs},
    ],
    ids=["seed", "params", "recommender", "a rating", "a training row", "pairs", "items", "users", "retrieval"],
)
def test_cache_key_changes_with_all_that_scores_depend_on(change, study, pairs):
    work = study.fit("MF", {"lambda_reg": 0.1}, study.known(), pairs)
    assert replace(work, **change(work)).key() != work.key()
    assert replace(work).key() == work.key()


def test_cache_key_changes_with_the_recipe(study, pairs, monkeypatch):
    work = study.fit("MF", {"lambda_reg": 0.1}, study.known(), pairs)
    before = work.key()
    monkeypatch.setitem(fits.RECIPES, "MF", Recipe("MF", "ratings", fixed={"k": 3}))
    assert work.key() != before


def test_recommenders_of_one_study_have_seeds_of_their_own(study, pairs):
    seeds = {study.fit(name, {}, study.known(), pairs).seed for name in QUICK}
    assert len(seeds) == len(QUICK)


def test_tuning_fits_on_train_and_never_reads_a_test_row(study, serial):
    tuned = fitting.tune(study, ["MF", "MostPop"])
    rows = study.interactions
    assert {len(work.train) for work in serial if work.recommender == "MF"} == {(rows["split"] == "train").sum()}
    hidden = rows["split"] == "test"
    scrambled = rows.assign(rating=rows["rating"].mask(hidden, 6 - rows["rating"]))
    computed = len(serial)
    pd.testing.assert_frame_equal(fitting.tune(replace(study, interactions=scrambled), ["MF", "MostPop"]), tuned)
    assert len(serial) == computed  # the very same fits


def test_tuning_judges_by_validation_auc_and_chooses_one_setting_each(study, monkeypatch):
    validation = study.interactions[study.interactions["split"] == "validation"]
    ratings = validation["rating"].to_numpy()
    by_setting = {0.02: -ratings, 0.06: ratings, 0.12: ratings * 0}

    def compute(todo: list, what: str, workers: int) -> None:
        for work, file in todo:
            np.savez(file, scores=by_setting.get(work.params.get("lambda_reg"), ratings), seconds=np.array(0.1))

    monkeypatch.setattr(fits, "_compute", compute)
    tuned = fitting.tune(study, ["MF", "MostPop"])
    quality = tuned[tuned["recommender"] == "MF"].set_index("value")
    assert quality["auc"].to_dict() == {0.02: 0.0, 0.06: 1.0, 0.12: 0.5}
    assert tuned.groupby("recommender")["chosen"].sum().to_dict() == {"MF": 1, "MostPop": 1}
    assert fitting.chosen_params(tuned) == {"MF": {"lambda_reg": 0.06}, "MostPop": {}}


def test_equally_good_settings_leave_exactly_one_chosen(study, serial):
    tuned = fitting.tune(study, ["MF", "BPR"])
    assert tuned.groupby("recommender")["chosen"].sum().to_dict() == {"MF": 1, "BPR": 1}


def test_out_of_fold_scores_every_known_rating_once_by_a_fit_without_it(study, serial):
    scores = fitting.out_of_fold_scores(study, {"MF": {}, "BPR": {}}, folds=4)
    known = study.known()[["user", "item"]].sort_values(["user", "item"], ignore_index=True)
    for name in ("MF", "BPR"):
        mine = scores.loc[scores["recommender"] == name, ["user", "item"]]
        pd.testing.assert_frame_equal(mine.sort_values(["user", "item"], ignore_index=True), known)
    assert len(serial) == 8
    for work in serial:
        assert work.train.merge(work.pairs, on=["user", "item"]).empty
    assert set(scores["fold"]) == {0, 1, 2, 3}


def test_out_of_fold_scores_stand_beside_their_own_pair(study, serial):
    scores = fitting.out_of_fold_scores(study, {"MF": {}}, folds=4)
    for work, (_, rows) in zip(serial, scores.groupby("fold"), strict=True):
        np.testing.assert_array_equal(rows["score"].to_numpy(), memory_fit(work)["scores"])
        assert list(rows["item"]) == list(work.pairs["item"])


def test_test_scores_come_from_all_that_is_known_and_nothing_else(study, pairs, serial):
    scores, retrieved = fitting.test_scores(study, {"MF": {}, "MostPop": {}}, pairs, top=10)
    assert (
        retrieved.groupby(["recommender", "user"])["position"]
        .agg(list)
        .map(lambda places: places == [*range(10)])
        .all()
    )
    assert not retrieved["spare"].any()
    _, longer = fitting.test_scores(study, {"MF": {}, "MostPop": {}}, pairs, top=7, spare=3)
    assert longer["spare"].equals(longer["position"] >= 7) and longer["position"].max() == 9
    assert list(scores.columns[:2]) == ["user", "item"]
    assert len(scores) == 2 * len(pairs)
    assert (scores["part"] == "test").all()
    assert (scores["fold"] == -1).all()
    train = next(work.train for work in serial if work.recommender == "MF")
    assert len(train) == len(study.known())
    assert train.merge(pairs, on=["user", "item"]).empty


# --- retrieval ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_retrieved_are_the_best_unseen_items_of_the_whole_catalogue(name, study, pairs):
    work = study.fit(name, QUICK[name], study.known(), pairs, top=5)
    found = fits.fit_and_score(work)
    assert list(found["users"]) == sorted(pairs["user"].unique())
    assert found["items"].shape == found["item_scores"].shape == (len(found["users"]), 5)
    seen = study.known().groupby("user")["item"].agg(set)
    everything = pd.DataFrame({"user": found["users"][0], "item": work.items})
    scores = fits.fit_and_score(study.fit(name, QUICK[name], study.known(), everything))["scores"]
    unseen = [score for item, score in zip(work.items, scores, strict=True) if item not in seen[found["users"][0]]]
    np.testing.assert_allclose(found["item_scores"][0], sorted(unseen, reverse=True)[:5], rtol=1e-5)
    for user, items, kept in zip(found["users"], found["items"], found["item_scores"], strict=True):
        assert not seen[user] & set(items)
        assert len(set(items)) == 5
        assert list(kept) == sorted(kept, reverse=True)


def test_items_of_one_score_are_retrieved_in_an_order_that_is_random_and_repeats(study, pairs, monkeypatch):
    class Indifferent:
        def fit(self, _): ...
        def score(self, _):
            return np.zeros(len(study.items))

    monkeypatch.setattr(cornac_models, "build", lambda *_, **__: Indifferent())
    work = study.fit("MF", {}, study.known(), pairs, top=5)
    first, again, other = (fits.fit_and_score(one)["items"] for one in (work, work, replace(work, seed=work.seed + 1)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert list(first[0]) != sorted(first[0])


def test_scores_are_rounded_so_that_noise_in_the_last_bits_decides_between_no_items(study, pairs, monkeypatch):
    class Noisy:
        def fit(self, _): ...
        def score(self, user):
            return 0.5 + 1e-14 * np.random.default_rng(user).standard_normal(len(study.items))

    monkeypatch.setattr(cornac_models, "build", lambda *_, **__: Noisy())
    for name in QUICK:
        scores = fits.fit_and_score(study.fit(name, {}, study.known(), pairs))["scores"]
        assert len(np.unique(scores)) == 1


def test_the_slowest_fits_are_started_first(study, pairs, cache, monkeypatch):
    started = []
    monkeypatch.setattr(fits, "fit_and_score", lambda work: started.append(work.recommender) or memory_fit(work))
    fits.run([study.fit(name, QUICK[name], study.known(), pairs) for name in QUICK], cache, workers=1)
    slowness = [fits.RECIPES[name].slowness for name in started]
    assert slowness == sorted(slowness, reverse=True) and len(started) == len(QUICK)
    assert (started[0], started[-1]) == ("NeuMF", "MostPop")


# --- the cache --------------------------------------------------------------------------------------------------------


def changed(**arrays: object):
    """Damage to a cached fit: some arrays are others, or (None) are not there."""

    def damage(file) -> None:
        with np.load(file) as whole:
            found = dict(whole) | {name: make(whole[name]) if make else None for name, make in arrays.items()}
        np.savez(file, **{name: values for name, values in found.items() if values is not None})

    return damage


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "something else": lambda file: file.write_bytes(b"no archive"),
    "a bare array": lambda file: np.save(file.open("wb"), np.zeros(3)),
    "too short": changed(scores=lambda scores: scores[1:]),
    "no list of scores": changed(scores=lambda scores: np.array(1.0)),
    "text": changed(scores=lambda scores: scores.astype(str)),
    "not finite": changed(scores=lambda scores: scores * np.nan),
    "without its time": changed(seconds=None),
    "without its lists": changed(items=None),
    "lists of another shape": changed(item_scores=lambda scores: scores[:, 1:]),
    "lists without numbers": changed(item_scores=lambda scores: scores * np.nan),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_fit_is_told_and_done_again(damage, study, pairs, serial, cache):
    work = study.fit("MF", QUICK["MF"], study.known(), pairs, top=5)
    whole = fits.run([work], cache)[0]
    file = next(cache.iterdir())
    damage(file)
    with pytest.warns(UserWarning, match=f"{file.name}.*done again"):
        again = fits.run([work], cache)[0]
    assert len(serial) == 2
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values)
    assert fits.run([work], cache) and len(serial) == 2


@pytest.mark.slow
def test_no_flipped_bit_ends_a_run_or_passes_for_other_scores(study, pairs, serial, cache):
    work = study.fit("MF", QUICK["MF"], study.known(), pairs, top=5)
    whole = fits.run([work], cache)[0]
    file = next(cache.iterdir())
    content = file.read_bytes()
    rng = np.random.default_rng(3)
    for place in rng.choice(len(content), 300, replace=False):
        file.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = fits.run([work], cache)[0]
        for name in ("scores", "users", "items", "item_scores"):
            np.testing.assert_array_equal(again[name], whole[name])


def test_a_full_disk_is_told_and_leaves_no_piece_of_a_fit(study, pairs, tmp_path, monkeypatch):
    def full(file, **_: object) -> None:
        file.write_bytes(b"as far as it went")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    work = study.fit("MF", QUICK["MF"], study.known(), pairs)
    with pytest.raises(RecommenderError, match=r"MF .*No space left"):
        fits._keep(tmp_path / "fit.npz", work, {"scores": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_fit_of_other_code_is_another_fit(study, pairs, monkeypatch):
    work = study.fit("MF", QUICK["MF"], study.known(), pairs)
    before = work.key()
    monkeypatch.setattr(fits, "_code", lambda: "another hash")
    assert work.key() != before
