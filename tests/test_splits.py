"""The split is seeded, fair to every user, and checked: nothing leaks from the test into what is known."""

import pandas as pd
import pytest

from hybridrec.data import splits
from hybridrec.errors import SplitError


@pytest.fixture
def split(interactions: pd.DataFrame) -> pd.DataFrame:
    return splits.split_per_user(interactions, seed=1)


@pytest.fixture
def candidates(split: pd.DataFrame) -> pd.DataFrame:
    return splits.test_candidates(split, like_threshold=4.0, seed=1)


def rows_of(part: str, table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == part]


@pytest.mark.parametrize(("size", "held_out"), [(1, 0), (4, 0), (5, 1), (14, 1), (15, 2), (20, 2), (100, 10)])
def test_test_and_validation_are_each_a_tenth_of_every_users_ratings(size, held_out):
    table = pd.DataFrame({"user": 7, "item": range(size), "rating": 3.0})
    counts = splits.split_per_user(table, seed=3)["split"].value_counts()
    assert counts.get("test", 0) == counts.get("validation", 0) == held_out
    assert counts["train"] == size - 2 * held_out


def test_every_rating_is_kept_exactly_once(interactions, split):
    expected = interactions.sort_values(["user", "item"], ignore_index=True)
    pd.testing.assert_frame_equal(split.drop(columns="split"), expected)
    assert set(split["split"]) == {"train", "validation", "test"}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_every_user_keeps_a_training_rating(share):
    table = pd.DataFrame({"user": [1, 2, 2, 3, 3, 3], "item": [1, 1, 2, 1, 2, 3], "rating": 5.0})
    split = splits.split_per_user(table, seed=1, test=share, validation=share)
    assert set(rows_of("train", split)["user"]) == {1, 2, 3}


def test_same_seed_same_split_and_another_seed_another(interactions, split):
    pd.testing.assert_frame_equal(splits.split_per_user(interactions, seed=1), split)
    assert (splits.split_per_user(interactions, seed=2)["split"] != split["split"]).any()


def test_split_does_not_depend_on_the_order_of_the_rows(interactions, split):
    shuffled = interactions.sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(splits.split_per_user(shuffled, seed=1), split)


def test_split_does_not_read_the_ratings(interactions, split):
    scrambled = splits.split_per_user(interactions.assign(rating=1.0), seed=1)
    pd.testing.assert_series_equal(scrambled["split"], split["split"])


def test_candidates_are_the_test_items_labelled_by_the_threshold(split, candidates):
    expected = rows_of("test", split).set_index(["user", "item"])["rating"].ge(4.0).sort_index()
    labels = candidates.set_index(["user", "item"])["relevant"].sort_index()
    pd.testing.assert_series_equal(labels, expected, check_names=False)
    assert set(candidates["task"]) == {"test-items"}


def test_a_rating_at_the_threshold_is_a_like(split):
    at_three = splits.test_candidates(split, like_threshold=3.0, seed=1)
    liked = rows_of("test", split)["rating"].ge(3.0).sum()
    assert at_three["relevant"].sum() == liked
    assert rows_of("test", split)["rating"].eq(3.0).any()


def test_candidates_are_numbered_from_zero_and_shuffled(candidates):
    for _, rows in candidates.groupby("user"):
        assert list(rows["position"]) == list(range(len(rows)))
    several = candidates.groupby("user").filter(lambda rows: len(rows) > 1)
    assert not several.groupby("user")["item"].agg(lambda column: column.is_monotonic_increasing).all()


def test_candidate_order_follows_the_seed_and_not_the_rows_or_labels(split, candidates):
    again = splits.test_candidates(split.sample(frac=1, random_state=3), 4.0, seed=1)
    pd.testing.assert_frame_equal(again, candidates)
    relabelled = splits.test_candidates(split.assign(rating=6 - split["rating"]), 4.0, seed=1)
    assert list(relabelled["item"]) == list(candidates["item"])
    assert list(splits.test_candidates(split, 4.0, seed=2)["item"]) != list(candidates["item"])


def test_a_sample_of_users_follows_the_seed_and_not_the_rows(split):
    chosen = splits.sample_users(split["user"], 7, seed=1)
    assert len(set(chosen)) == 7 and set(chosen) <= set(split["user"])
    assert chosen.tolist() == sorted(chosen)
    again = splits.sample_users(split["user"].sample(frac=1, random_state=0), 7, seed=1)
    assert chosen.tolist() == again.tolist()
    assert chosen.tolist() != splits.sample_users(split["user"], 7, seed=2).tolist()


def test_a_larger_sample_holds_the_smaller_one_and_none_is_everybody(split):
    users = split["user"]
    assert set(splits.sample_users(users, 7, seed=1)) < set(splits.sample_users(users, 20, seed=1))
    assert splits.sample_users(users, None, seed=1).tolist() == sorted(set(users))


def test_a_sample_larger_than_the_dataset_says_how_many_users_there_are(split):
    with pytest.raises(SplitError, match="users is 41, but there are 40"):
        splits.sample_users(split["user"], 41, seed=1)


def test_a_sound_split_passes_every_check(split, candidates):
    checks = splits.check_integrity(split, candidates)
    assert len(checks) == 5
    assert set(checks.values()) == {0}


def leak(split, candidates, user):
    known = split[(split["user"] == user) & (split["split"] != "test")].iloc[[0]]
    return split, pd.concat([candidates, known[["user", "item"]].assign(task="test-items")])


def repeated_candidate(split, candidates, user):
    return split, pd.concat([candidates, candidates[candidates["user"] == user].iloc[[0]]])


def repeated_rating(split, candidates, user):
    return pd.concat([split, split[split["user"] == user].iloc[[0]]]), candidates


def no_history(split, candidates, user):
    return split[(split["user"] != user) | (split["split"] == "test")], candidates


def no_training(split, candidates, user):
    return split[(split["user"] != user) | (split["split"] != "train")], candidates


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leak, "also stands in training or validation"),
        (repeated_candidate, "a candidate listed twice"),
        (repeated_rating, "a rating that occurs twice"),
        (no_history, "candidates but no history"),
        (no_training, "without training ratings"),
    ],
)
def test_each_broken_promise_is_refused_and_names_the_user(damage, message, split, candidates):
    with pytest.raises(SplitError, match=f"{message}.*user 60 "):
        splits.check_integrity(*damage(split, candidates, 60))


def test_folds_deal_every_users_ratings_evenly(interactions):
    fold = splits.fold_of(interactions, folds=5, seed=1)
    assert fold.index.equals(interactions.index)
    counts = pd.crosstab(interactions["user"], fold)
    assert list(counts.columns) == [0, 1, 2, 3, 4]
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


def test_short_histories_do_not_all_start_in_the_first_fold():
    single = pd.DataFrame({"user": range(500), "item": 1})
    counts = splits.fold_of(single, folds=5, seed=1).value_counts()
    assert counts.between(60, 140).all()


def test_folds_follow_the_seed(interactions):
    first = splits.fold_of(interactions, 5, seed=1)
    pd.testing.assert_series_equal(splits.fold_of(interactions, 5, seed=1), first)
    assert (splits.fold_of(interactions, 5, seed=2) != first).any()


def test_fingerprint_changes_with_a_value_and_with_the_order(interactions):
    changed = interactions.assign(rating=interactions["rating"].mask(interactions.index == 3, 9.0))
    tables = [interactions, changed, interactions.iloc[::-1]]
    assert len({splits.fingerprint(table) for table in tables}) == 3
    assert splits.fingerprint(interactions.copy()) == splits.fingerprint(interactions)
