"""Whom notebook 04 asks about under one split of the ratings."""

from dataclasses import replace

import pandas as pd
import pytest

from hybridrec.study import prompting, tables


@pytest.fixture
def split(small_study) -> prompting.Split:
    interactions, candidates, items, sparsity = (
        tables.read("toy", name) for name in ("interactions", "candidates", "items", "sparsity")
    )
    inactive = pd.Index(sparsity.loc[sparsity["inactive"], "user"])
    return prompting.Split(interactions, candidates, items, inactive, "film", 2024, 20, 5)


def test_inactive_users_are_asked_about_and_in_some_ways_everybody(split):
    asked = split.asked(["listwise", "likelihood"], ["likelihood"])
    users = {way: {task.user for task in tasks} for way, tasks in asked.items()}
    shown = split.candidates["user"].value_counts()
    everybody = set(shown.index[shown > 1])
    assert users == {"listwise": everybody & set(split.inactive), "likelihood": everybody}
    assert 0 < len(users["listwise"]) < len(everybody)


def test_a_sample_of_larger_models_has_users_with_a_pair_only(split):
    sampled = [task.user for task in split.sampled]
    both = split.candidates.groupby("user")["relevant"].nunique() == 2
    assert sorted(sampled) == sorted(set(split.inactive) & set(both.index[both]))
    assert sampled != sorted(sampled)


def test_where_nobody_is_inactive_nobody_is_sampled(split):
    nobody = replace(split, inactive=split.inactive[:0])
    assert nobody.sampled == []
    assert nobody.reordered(3, 5) == [[], [], []]


def test_larger_models_are_asked_for_whom_a_compared_recommender_calls_weak_on_the_test_and_for_nobody_else(split):
    one, two, three = (task.user for task in split.tasks[:3])
    rows = [
        ("published", "ItemKNN", one, True), ("published", "ItemKNN", two, False), ("published", "BPR", two, True),
        ("published", "EASE", three, True), ("held-out", "ItemKNN", three, True), ("published", "NeuMF", three, False),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["protocol", "recommender", "user", "weak"])
    assert [task.user for task in split.published_weak(table)] == [one, two]
