"""The README's example, word for word, from an installed wheel, in an empty folder, with ids that are text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import fault_server
import numpy as np
import pandas as pd
import pytest

from hybridrec.study import paths

BLOCK = re.search(r"```python\n(import hybridrec as hr\n.*?)```", (paths.ROOT / "README.md").read_text("utf-8"), re.S)[
    1
]
FILES = ("ratings", "items", "out_of_fold_scores", "candidates", "service_scores", "later_ratings")
# What the example leaves behind, for the test to look at.
KEEP = "\nimport pandas\nhr.__file__\n" + "\n".join(
    f"pandas.DataFrame({table}).to_csv('{name}.csv', index=False)"
    for name, table in (("weak", "weak.table"), ("routed", "routed"), ("new", "new"), ("final", "final"))
)
KEEP += "\nprint('FROM', hr.__file__)\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A folder with what the wheel installs; built once, since nothing in it depends on a test."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "copy"
    listed = subprocess.run(["git", "ls-files", "-z", "hybridrec", "pyproject.toml", "README.md", "LICENSE"],
                            cwd=paths.ROOT, capture_output=True, check=True)  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((paths.ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return folder


@pytest.fixture
def shop(tmp_path) -> Path:
    """An empty folder but for the six tables that the example reads: a music shop's, with text ids."""
    rng = np.random.default_rng(3)
    users, items = [f"u-{n:02}" for n in range(60)], [f"sku/{n:03} é" for n in range(40)]
    grid = pd.MultiIndex.from_product([users, items], names=["uid", "sku"]).to_frame(index=False)
    grid["rating"] = rng.integers(1, 6, len(grid))
    draw = rng.random(len(grid))
    many = grid["uid"] >= "u-40"  # a third of the users have rated much more than the others
    known = grid[draw < np.where(many, 0.6, 0.2)]
    later = grid[(draw > 0.8)]
    titles = pd.DataFrame({"sku": items, "title": [f"Song {n} by Somebody" for n in range(40)]})
    plain = {"uid": "user", "sku": "item"}
    tables = {
        "ratings": known,
        "items": titles,
        "out_of_fold_scores": known.drop(columns="rating").rename(columns=plain).assign(score=rng.random(len(known))),
        "candidates": later.drop(columns="rating").rename(columns=plain),
        "service_scores": later.drop(columns="rating").rename(columns=plain).assign(score=rng.random(len(later))),
        "later_ratings": later.rename(columns=plain),
    }
    folder = tmp_path / "my shop"
    folder.mkdir()
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def run(code: str, folder: Path, wheel: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HYBRIDREC_")}
    given = kept | {"PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"FROM {wheel}" in done.stdout
    return done.stdout


def judge(folder: Path, out: str) -> None:
    """What must hold of the tables, whatever the model said."""
    weak, routed, new, final = (pd.read_csv(folder / f"{name}.csv") for name in ("weak", "routed", "new", "final"))
    own = pd.read_parquet(folder / "service_scores.parquet")
    assert set(routed["user"]) <= set(weak.loc[weak["weak"], "user"])
    assert 0 < len(routed) < weak["user"].nunique()
    assert set(new["user"]) == set(routed["user"])
    both = final.merge(own, on=["user", "item"], suffixes=("", "_own"))
    assert len(both) == len(own) == len(final), "a pair was lost or made up"
    handed = both["user"].isin(routed["user"])
    np.testing.assert_allclose(both.loc[~handed, "score"], both.loc[~handed, "score_own"])
    of_model = both[handed].merge(new, on=["user", "item"], suffixes=("", "_new"))
    np.testing.assert_allclose(of_model["score"], of_model["score_new"])
    assert (both["source"] == "recommender").equals(~handed)
    assert re.search(r"\b(helps|harms|equivalent|cannot tell)\b", out)


@pytest.mark.live
def test_the_example_runs_with_a_local_model_and_asks_nothing_twice(shop, wheel, tmp_path):
    cache = tmp_path / "cache" / "hybridrec"
    cache.parent.mkdir()
    cache.symlink_to(paths.MODELS)
    before = {file.stem for file in shop.iterdir()}
    assert before == set(FILES)
    counted = "\nfrom hybridrec import progress\nclass Count:\n    bar = progress._Nobody().bar\n"
    counted += "    def tell(self, line): pass\n    def count(self, what, **n): print('COUNT', what, n)\n"
    again = counted + "progress.listen(Count())\n" + BLOCK  # by another ranker, from the file of answers
    out = run(BLOCK + KEEP + again, shop, wheel, XDG_CACHE_HOME=str(cache.parent))
    judge(shop, out)
    assert re.search(r"COUNT answers \{'computed': 0, 'replayed': [1-9]", out)


@pytest.mark.slow
def test_the_example_runs_with_an_endpoint(shop, wheel):
    def answer(request: fault_server.Request) -> fault_server.Reply:
        return fault_server.completion(request, "\n".join(reversed(fault_server.candidates(request.message))))

    with fault_server.serve(answer) as server:
        endpoint = f'hr.Endpoint("toy", "{server.url}", price=dict(prompt=1.0, cached=0.5, completion=2.0))'
        code, models = re.subn(r"hr\.HuggingFace\([^)]*\)", lambda _: endpoint, BLOCK)
        code, modes = re.subn('mode="likelihood"', 'mode="listwise-labels"', code)
        assert models == modes == 1
        judge(shop, run(code + KEEP, shop, wheel))
