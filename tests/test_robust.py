"""Objectives for badly served users: their values by hand, their derivatives, and whom a factorisation serves."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from test_arms import FOLDS, LIKE, inactive, skilled, slow_auc

from hybridrec import progress
from hybridrec.data import folds
from hybridrec.errors import RecommenderError
from hybridrec.evaluation import fusion, lists
from hybridrec.recommenders import cross, robust

LOSSES = np.array([0.2, 3.0, 1.0, 0.5, 2.0, 0.1, 0.7, 0.3, 0.4, 0.6])
several = st.lists(st.floats(0, 10), min_size=1, max_size=30).map(np.array)
SMOOTH = 0.1
RISKS = {
    "mean over ratings": robust.mean_over_ratings,
    "CVaR": lambda losses, ratings: robust.cvar(losses, 0.4, SMOOTH),
    "worst group": lambda losses, ratings: robust.worst_group(losses, np.arange(len(losses)) % 2, SMOOTH),
}


# --- risks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "by_hand"), [(0.3, (3 + 2 + 1) / 3), (0.25, (3 + 2 + 1 / 2) / 2.5), (0.1, 3), (1, 0.88)]
)
def test_cvar_is_the_mean_of_the_worst_share(share, by_hand):
    found = robust.cvar(LOSSES, share, 1e-6)
    assert found.value == pytest.approx(by_hand, abs=1e-4)
    assert found.weights @ LOSSES == pytest.approx(by_hand, abs=1e-4)


@given(several, st.floats(0.01, 0.99), st.floats(1e-3, 10))
def test_smoothing_adds_no_more_than_said(losses, share, smoothing):
    worst, whole = np.sort(losses)[::-1], share * len(losses)
    counted = np.clip(whole - np.arange(len(losses)), 0, 1)
    exact = worst @ counted / whole
    found = robust.cvar(losses, share, smoothing)
    assert exact - 1e-6 <= found.value <= exact + smoothing * np.log(2) / share + 1e-6
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights.max() <= 1 / whole + 1e-9


def test_smoothed_to_nothing_it_is_the_mean():
    np.testing.assert_allclose(robust.cvar(LOSSES, 0.3, 1e6).weights, 0.1, atol=1e-6)


@pytest.mark.parametrize("share", [0, -0.1, 1.1, np.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(RecommenderError, match="share"):
        robust.cvar(LOSSES, share, 0.1)


@pytest.mark.parametrize("name", RISKS)
def test_weights_are_the_derivative(name):
    ratings = np.arange(1, 11)
    expected = optimize.approx_fprime(LOSSES, lambda losses: RISKS[name](losses, ratings).value, 1e-6)
    np.testing.assert_allclose(RISKS[name](LOSSES, ratings).weights, expected, atol=1e-4)


def test_the_weights_of_groups_are_the_best_against_their_divergence_from_equal_ones():
    groups, smoothing = np.array([7, 7, 7, 2, 2, 2, 2, 2, 2, 2]), 0.3
    of_group = np.array([LOSSES[groups == one].mean() for one in (7, 2)])

    def value(share: float) -> float:
        q = np.array([share, 1 - share])
        return q @ of_group - smoothing * (q * np.log(2 * q)).sum()

    best = optimize.minimize_scalar(lambda share: -value(share), bounds=(1e-9, 1 - 1e-9), method="bounded").x
    found = robust.worst_group(LOSSES, groups, smoothing)
    assert found.value == pytest.approx(value(best), abs=1e-6)
    assert found.weights[groups == 7].sum() == pytest.approx(best, abs=1e-3)
    assert robust.worst_group(LOSSES, groups, 1e-3).value == pytest.approx(of_group.max(), abs=1e-3)


# --- the factorisation ------------------------------------------------------------------------------------------------


def some_ratings(users: int, items: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    user, item = np.nonzero(rng.random((users, items)) < share)
    return user, item, rng.integers(1, 6, len(user)).astype(float)


@pytest.mark.parametrize("name", RISKS)
def test_nothing_near_is_better_by_an_objective_written_out(name):
    user, item, rating = some_ratings(7, 6, 0.6)
    shape, k, penalty = (8, 6), 2, 1.5  # the last user has no rating
    found = robust.factorise(user, item, rating, shape, RISKS[name], penalty, k, seed=1, sweeps=5000, tolerance=1e-13)
    standard = (rating - rating.mean()) / rating.std()
    squares = np.array([2.0, penalty, penalty])

    def objective(flat: np.ndarray) -> float:
        users, items = np.split(flat.reshape(-1, k + 1), [shape[0]])
        losses, counts = [], []
        for one in range(7):
            rows = np.flatnonzero(user == one)
            errors = [
                standard[row] - users[one, 0] - items[item[row], 0] - users[one, 1:] @ items[item[row], 1:]
                for row in rows
            ]
            losses.append((sum(error**2 for error in errors) + squares @ users[one] ** 2) / len(rows))
            counts.append(len(rows))
        value = RISKS[name](np.array(losses), np.array(counts)).value
        return value + (squares @ (items**2).T).sum() / len(rating)

    flat = np.concatenate([found.users, found.items]).ravel()
    assert found.risk[-1] == pytest.approx(objective(flat), rel=1e-9)
    polished = optimize.minimize(objective, flat, method="BFGS").fun
    assert objective(flat) == pytest.approx(polished, rel=1e-4)
    assert (np.diff(found.risk) <= 1e-12).all()
    assert (found.users[7] == 0).all()
    assert np.isnan(found.losses).tolist() == [False] * 7 + [True]


def test_scores_do_not_depend_on_the_order_of_ratings_and_are_the_same_with_the_same_seed():
    user, item, rating = some_ratings(20, 15, 0.5)
    order = np.random.default_rng(0).permutation(len(user))
    pairs = np.indices((20, 15)).reshape(2, -1)
    risk = RISKS["CVaR"]
    first, again = (robust.factorise(user, item, rating, (20, 15), risk, 2, seed=4).score(*pairs) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    mixed = robust.factorise(user[order], item[order], rating[order], (20, 15), risk, 2, seed=4)
    np.testing.assert_allclose(mixed.score(*pairs), first, atol=1e-8)


def test_a_rating_scale_moves_scores_as_it_moves_ratings():
    user, item, rating = some_ratings(20, 15, 0.5)
    pairs = np.indices((20, 15)).reshape(2, -1)
    plain, other = (
        robust.factorise(user, item, values, (20, 15), RISKS["CVaR"], 2) for values in (rating, 20 * rating - 7)
    )
    np.testing.assert_allclose(other.score(*pairs), 20 * plain.score(*pairs) - 7, atol=1e-6)


@pytest.mark.parametrize(("ratings", "penalty"), [(0, 1), (3, 0), (3, -1), (3, np.nan)])
def test_what_cannot_be_factorised_is_refused(ratings, penalty):
    one = np.arange(ratings)
    with pytest.raises(RecommenderError, match="penalty"):
        robust.factorise(one, one, one + 1.0, (3, 3), robust.mean_over_ratings, penalty)


# --- whom it serves ---------------------------------------------------------------------------------------------------


def planted() -> pd.DataFrame:
    """90 users with many ratings who like one trait of items, 12 with fewer who like another, unrelated one."""
    rng = np.random.default_rng(5)
    user, item = (part.ravel() for part in np.indices((102, 60)))
    traits, few = rng.normal(size=(60, 2)), user >= 90
    rating = 3 + traits[item, few.astype(int)] + rng.normal(0, 0.3, len(user))
    table = pd.DataFrame({"user": user, "item": item, "rating": rating, "few": few})
    table["known"] = rng.random(len(user)) < 0.5
    return table[rng.random(len(user)) < np.where(few, 0.5, 0.9)]


def served(table: pd.DataFrame, risk) -> pd.Series:
    """Mean AUC, on ratings held out, of the few (True) and the many; items have one order for all users (k = 0)."""
    known, new = table[table["known"]], table[~table["known"]]
    columns = (known[name].to_numpy() for name in ("user", "item", "rating"))
    found = robust.factorise(*columns, (102, 60), risk, penalty=3, k=0)
    scored = new.assign(score=found.score(new["user"].to_numpy(), new["item"].to_numpy()))
    auc = {}
    for key, rows in scored.groupby(["few", "user"]):
        liked, other = (rows.loc[rows["rating"].ge(3) == side, "score"].to_numpy() for side in (True, False))
        auc[key] = np.mean(liked[:, None] > other)
    return pd.Series(auc).groupby(level=0).mean()


def test_a_group_that_the_mean_gives_up_is_served_by_cvar_and_by_group_dro():
    table = planted()
    plain = served(table, robust.mean_over_ratings)
    assert plain[False] > 0.95
    assert plain[True] < 0.65
    cvar = served(table, lambda losses, _: robust.cvar(losses, 0.1, 0.05))
    group_dro = served(table, lambda losses, _: robust.worst_group(losses, np.arange(102) >= 90, 0.02))
    for found in (cvar, group_dro):
        assert found[True] > plain[True] + 0.15
        assert found[False] < plain[False]  # one order cannot be right for both


# --- under protocol cross ---------------------------------------------------------------------------------------------


@pytest.fixture
def divided(interactions) -> pd.DataFrame:
    return folds.divide(interactions, 3, seed=1)


def scored(divided: pd.DataFrame, cache: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    study = robust.Study(divided, np.arange(101, 132), 4.0, 3, {name: [2, 5] for name in robust.RISKS}, cache)
    tuned = cross.tune(study, list(robust.RISKS))
    return tuned, cross.scores(study, tuned)


def test_every_rating_is_scored_for_every_fold_by_an_objective_that_never_saw_it(divided):
    tuned, scores = scored(divided, None)
    assert tuned.groupby(["recommender", "test"])["chosen"].agg(["size", "sum"]).to_numpy().tolist() == [[2, 1]] * 9
    assert len(scores) == 3 * 3 * len(divided)
    assert scores.groupby("ranker")["score"].nunique().min() > len(divided) / 2
    changed = divided.assign(rating=np.where(divided["fold"] == 1, 6 - divided["rating"], divided["rating"]))
    _, others = scored(changed, None)
    both = scores.merge(others, on=["ranker", "test", "fold", "user", "item"], validate="1:1")
    same = (both["score_x"] == both["score_y"]).groupby([both["test"], both["fold"]]).mean()
    assert same[1].tolist() == [1, 1, 1]  # nothing for test fold 1 knows of its ratings
    assert same[0, 0] < 0.1


def test_fits_are_kept_and_a_damaged_one_is_done_again(divided, tmp_path):
    counts = []

    class Listener(progress._Nobody):
        def count(self, what: str, **numbers: int) -> None:
            counts.append(numbers)

    before = progress.listen(Listener())
    try:
        _, first = scored(divided, tmp_path)
        damaged, short = sorted(tmp_path.glob("robust-*.npz"))[:2]
        damaged.write_bytes(damaged.read_bytes()[:-40])
        np.savez(short, scores=np.zeros(1))
        with pytest.warns(UserWarning, match="damaged"):
            _, second = scored(divided, tmp_path)
    finally:
        progress.listen(before)
    pd.testing.assert_frame_equal(first, second)
    assert sum(one["computed"] for one in counts[2:]) == 2
    assert sum(one["computed"] for one in counts[:2]) == len(list(tmp_path.glob("robust-*.npz")))


# --- re-ranking -------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_fold(interactions) -> lists.Lists:
    return lists.Lists(folds.divide(interactions, FOLDS, seed=1), LIKE)


def test_the_two_weights_are_the_best_that_bring_the_groups_together(by_fold):
    users = inactive(by_fold)
    mask = by_fold.mask(users)[:, by_fold.user]
    own = np.where(mask, skilled(by_fold, 0.2, 1), skilled(by_fold, 2.0, 2))
    aid = skilled(by_fold, 0.6, 3)
    grid, allowed = (0, 0.5, 2), 0.5
    found, chosen = robust.rerank(by_fold, own, aid, users, allowed, grid)
    ranked, aiding = fusion.ranks(by_fold, own), fusion.ranks(by_fold, aid)
    for test, row in chosen.set_index("test").iterrows():
        few = set(users.loc[users["test"] == test, "user"])
        reached = {}
        for weight in grid:
            values = ranked + weight * aiding
            deciding = [
                (user in few, slow_auc(by_fold, values, test, user, [fold]))
                for user, fold in itertools.product(by_fold.users, [fold for fold in range(FOLDS) if fold != test])
            ]
            reached[weight] = pd.DataFrame(deciding, columns=["few", "auc"]).dropna()
        gap, mean = {}, {}
        for low, high in itertools.product(grid, grid):
            parts = [reached[low].query("few")["auc"], reached[high].query("not few")["auc"]]
            gap[low, high], mean[low, high] = parts[1].mean() - parts[0].mean(), pd.concat(parts).mean()
        able = [pair for pair in gap if abs(gap[pair]) <= allowed * abs(gap[0, 0])]
        best = max(able, key=mean.get)
        assert (row["inactive"], row["active"]) == best
        assert row["gap"] == pytest.approx(gap[best], abs=1e-5)
        assert row["auc"] == pytest.approx(mean[best], abs=1e-5)
        assert row["gap_before"] == pytest.approx(gap[0, 0], abs=1e-5)
        weight = np.where(mask[test], best[0], best[1])
        expected = np.where(by_fold.fold == test, ranked[test] + weight * aiding[test], np.nan)
        np.testing.assert_array_equal(found[test], expected)
    assert (chosen["inactive"] > 0).all()


def test_the_scores_alone_leave_every_order_as_it_is(by_fold):
    own = skilled(by_fold, 1.0, 1)
    found, _ = robust.rerank(by_fold, own, 3 * own + 1, inactive(by_fold), allowed=0)
    np.testing.assert_array_equal(by_fold.correct(found), by_fold.correct(np.where(by_fold.judged, own, np.nan)))


def test_where_nobody_is_disadvantaged_nothing_is_added(by_fold):
    own = skilled(by_fold, 1.0, 1)
    found, chosen = robust.rerank(by_fold, own, skilled(by_fold, 3.0, 2), inactive(by_fold).iloc[:0])
    assert chosen[["inactive", "active"]].to_numpy().sum() == 0
    np.testing.assert_array_equal(by_fold.correct(found), by_fold.correct(np.where(by_fold.judged, own, np.nan)))
