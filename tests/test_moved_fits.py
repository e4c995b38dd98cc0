"""What if a fit comes out a little different on somebody's processor? A number moves in its last decimals, and no more.

`make test` has just run the notebooks into a scratch folder. Here every recommender's scores in it are moved by a
millionth, as if fitted elsewhere, and the notebooks that ask a language model, or judge it, run on them in replay: a
request without a recording is an error. (The others ask for nothing, and nothing here needs them.) Then the results are
judged by the tests that judge any fresh run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridrec.study import paths

AFTER_THE_FITS = ["03_user_triage", "04_llm_prompting", "05_evaluation", "07_taught_model"]
RELATIVE = 1e-6


def moved(scores: pd.Series, rng: np.random.Generator) -> pd.Series:
    return scores * (1 + RELATIVE * rng.standard_normal(len(scores)))


def move_fits(tables: Path) -> None:
    """Move all scores, put the retrieved lists into their new order, and let the fingerprint say so.

    In each list the last title changes places with the first in reserve, as near ties may.
    """
    rng = np.random.default_rng(1)
    for name in ("scores", "cross_scores", "temporal_scores"):
        scores = pd.read_parquet(tables / f"{name}.parquet")
        scores.assign(score=moved(scores["score"], rng)).to_parquet(tables / f"{name}.parquet", index=False)
    lists = pd.read_parquet(tables / "retrieved.parquet")
    top = lists.loc[~lists["spare"], "position"].max() + 1
    places = lists["position"].replace({top - 1: top, top: top - 1})
    lists = lists.assign(score=moved(lists["score"], rng), position=places, spare=places >= top)
    lists.to_parquet(tables / "retrieved.parquet", index=False)
    fits = pd.read_parquet(tables / "fits.parquet")
    fits.assign(scores="moved").to_parquet(tables / "fits.parquet", index=False)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    """The scratch folder of a machine whose fits have moved."""
    if "HYBRIDREC_FRESH" not in os.environ:
        pytest.fail("no fresh run to start from: `make test` makes one and names it in HYBRIDREC_FRESH")
    scratch = tmp_path_factory.mktemp("elsewhere")
    for kind in ("tables", "results"):
        shutil.copytree(paths.ROOT / os.environ["HYBRIDREC_FRESH"] / kind / "ml-100k", scratch / kind / "ml-100k")
    move_fits(scratch / "tables" / "ml-100k")
    return scratch


def of_both(elsewhere: Path, table: str) -> list[pd.DataFrame]:
    """A table of the fresh run, and of the machine whose fits have moved."""
    folders = (paths.ROOT / os.environ["HYBRIDREC_FRESH"], elsewhere)
    return [pd.read_parquet(folder / "tables" / "ml-100k" / f"{table}.parquet") for folder in folders]


@pytest.mark.fresh
def test_moved_fits_ask_for_nothing_that_is_not_recorded_and_the_results_stay(elsewhere):
    own = {"HYBRIDREC_SCRATCH": str(elsewhere), "HYBRIDREC_LLM": "replay", "HYBRIDREC_PROGRESS": "off"}
    for name in AFTER_THE_FITS:
        call = [sys.executable, "-m", "hybridrec.study", "run", "ml-100k", name]
        done = subprocess.run(call, cwd=paths.ROOT, env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    for table in ("triage", "cross_triage"):
        before, after = (one["performance"] for one in of_both(elsewhere, table))
        assert not before.equals(after), f"{table}: the scores moved, so the order of a tied pair must have changed"
    lists_before, lists_after = (one[["user", "item"]] for one in of_both(elsewhere, "list_rankings"))
    new = lists_after.merge(lists_before, "left", indicator=True).query("_merge == 'left_only'")
    assert len(new), "no title came up from the reserve"
    judge = [sys.executable, "-m", "pytest", "-q", "tests/test_results.py", "-m", "fresh and not live"]
    fresh = os.environ | {"HYBRIDREC_FRESH": str(elsewhere)}
    judged = subprocess.run(judge, cwd=paths.ROOT, env=fresh, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-5000:]
    assert " passed" in judged.stdout
