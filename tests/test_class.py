"""What a class should find with `make class`, on any machine."""

import json
import os
from pathlib import Path

import pytest

from hybridrec.study import config, paths

SETTINGS = config.load("class")
FULL = config.load(SETTINGS.dataset)
HALF = 0.5


def read(results: Path) -> dict:
    return json.loads((results / "class" / "metrics.json").read_text(encoding="utf-8"))


COMMITTED = read(paths.RESULTS)


@pytest.fixture(params=[pytest.param("fresh", marks=pytest.mark.fresh)])
def found(request) -> dict:
    """The metrics of the run that `make test` has just made."""
    if "HYBRIDREC_FRESH" not in os.environ:
        pytest.fail("no fresh run to compare with: `make test` makes one and names it in HYBRIDREC_FRESH")
    return read(Path(os.environ["HYBRIDREC_FRESH"]) / "results")


# --- the findings -----------------------------------------------------------------------------------------------------


def test_published_protocol_a_coin_gains_what_the_model_gains(found):
    weak = {ranker: row["weak_auc_after"] for ranker, row in found["headline"]["published"].items()}
    assert weak["recommender"] < HALF - 0.1
    assert weak["random"] == pytest.approx(HALF, abs=0.05)
    assert weak["listwise"] == pytest.approx(weak["random"], abs=0.08)


def test_on_other_items_of_theirs_the_weak_users_are_not_weak(found):
    rows = [row for row in found["triage"]["regression"] if row["recommender"] in config.PUBLISHED_RECOMMENDERS]
    assert len(rows) == len(config.PUBLISHED_RECOMMENDERS)
    assert all(row["picked_on"] < HALF < row["other_half"] for row in rows)


def test_held_out_protocol_the_gain_is_gone_and_item_means_do_better(found):
    weak = {ranker: row["weak_auc_after"] for ranker, row in found["headline"]["held-out"].items()}
    assert weak["listwise"] < weak["recommender"]
    assert weak["listwise"] < weak["item-mean"]


# --- the run ----------------------------------------------------------------------------------------------------------


def test_the_subset_is_as_declared_and_smaller_than_the_full_study(found):
    full = json.loads((paths.RESULTS / FULL.name / "metrics.json").read_text(encoding="utf-8"))["data"]
    assert found["data"]["users"] == SETTINGS.users < full["users"]
    assert found["data"]["items"] == full["items"]
    assert found["data"] == COMMITTED["data"]


def test_answers_of_the_full_study_fit_since_nothing_in_the_prompts_differs():
    for key in ("dataset", "noun", "seed", "model", "history_length", "like_threshold", "rating_scale", "endpoint"):
        assert getattr(SETTINGS, key) == getattr(FULL, key), key
    assert set(SETTINGS.modes) <= set(FULL.modes) - {"pointwise-facts"}
    assert SETTINGS.sparsity_threshold is not None and SETTINGS.live_users > 0


@pytest.mark.fresh
def test_a_fresh_run_is_near_the_committed_one():
    # Recommenders are the same everywhere but for the last bits; of a few users the answers were computed again.
    fresh = read(Path(os.environ["HYBRIDREC_FRESH"]) / "results")["headline"]
    for protocol in ("published", "held-out"):
        for ranker, row in COMMITTED["headline"][protocol].items():
            assert fresh[protocol][ranker]["weak_auc_after"] == pytest.approx(row["weak_auc_after"], abs=0.02), ranker
