"""The steps over divided tables, shard after shard in this process; what Ray adds is tested in test_scale_ray.py."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_model import NeverAsked, ToyModel

import hybridrec as hr
from hybridrec import scale
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, ResponseError, ScaleError, ScoresError
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Finished, Keep
from hybridrec.scale import divided as dividing
from hybridrec.scale import ranking, steps

SHARDS = 5


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """Every part after the other, each as if in a process of its own where a process keeps something."""

    def each(work, parts, what, *, actors=0, **_):
        return ((work() if actors else work)(part) for part in parts)

    for module in (dividing, ranking, steps):
        monkeypatch.setattr(module, "each", each)
    monkeypatch.setattr(ranking, "start", lambda: None)


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """A shop whose users have names; in some tables its items are numbers as text."""
    rng = np.random.default_rng(4)
    grid = pd.MultiIndex.from_product([[f"u-{n}" for n in range(40)], range(30)], names=["user", "item"])
    grid = grid.to_frame(index=False)
    grid["rating"] = rng.integers(1, 6, len(grid)).astype(float)
    draw = rng.random(len(grid))
    known, later = grid[draw < np.where(grid["user"] < "u-2", 0.7, 0.3)], grid[draw > 0.75]
    pairs = later[["user", "item"]].sample(frac=1, random_state=1)
    return {
        "items": pd.DataFrame({"item": range(31), "title": [f"Song {n}" for n in range(31)]}),
        "ratings": known.reset_index(drop=True),
        "out_of_fold": known[["user", "item"]].assign(score=rng.integers(9, size=len(known)) / 7),
        "candidates": pairs,
        "own": later[["user", "item"]].assign(score=rng.random(len(later))),
        "outcomes": later,
    }


@pytest.fixture
def divided(tables, tmp_path) -> scale.Divided:
    return scale.divide(tmp_path / "work", tables["items"], like=4, shards=SHARDS, **written(tables, tmp_path))


def written(tables: dict[str, pd.DataFrame], folder: Path) -> dict[str, Path]:
    """Each table but the items in two files of a folder."""
    for name, table in tables.items():
        (folder / name).mkdir()
        for number, rows in enumerate(np.array_split(np.arange(len(table)), 2)):
            table.iloc[rows].to_parquet(folder / name / f"{number}.parquet", index=False)
    return {name: folder / name for name in tables if name != "items"}


def whole(divided: scale.Divided, table: str) -> pd.DataFrame:
    rows = pd.concat(map(pd.read_parquet, divided.parts(table)))
    return rows.sort_values(["user", "item"], ignore_index=True)


def test_the_steps_give_what_the_library_gives(tables, divided, tmp_path):
    data = Dataset.read(tables["ratings"], tables["items"], like=4)
    weak = hr.triage(data, hr.FromTable(tables["out_of_fold"]))
    pd.testing.assert_frame_equal(scale.triage(divided).table, weak.table, check_exact=True)
    routed = hr.allocate(weak, budget_users=9)
    ranker = hr.Ranker(ToyModel())
    new = ranker.rank(data, tables["candidates"], routed)
    counts = scale.rank(divided, ToyModel, tmp_path / "answers.sqlite", routed, batch=2)
    assert counts == {"users": 9, "no_answer": 0, "answers": 9}
    pair = ["user", "item"]
    pd.testing.assert_frame_equal(whole(divided, "ranked"), new.sort_values(pair, ignore_index=True), check_exact=True)
    final = hr.combine(tables["own"], new, routed)
    assert scale.combine(divided, routed) == final.attrs
    pd.testing.assert_frame_equal(whole(divided, "final"), final.sort_values(pair, ignore_index=True))
    found = scale.compare(scale.Divided.open(divided.folder))
    assert str(found) == str(hr.compare(final, tables["outcomes"], data))
    cost = ranker.estimate(data, tables["candidates"], routed).sort_values("user", ignore_index=True)
    pd.testing.assert_frame_equal(scale.estimate(divided, ToyModel, routed), cost)


def test_all_rows_of_a_user_lie_in_one_shard_and_none_is_lost(tables, divided):
    for name in set(tables) - {"items"}:
        shards = [divided.read(name, shard) for shard in range(SHARDS)]
        assert sum(map(len, shards)) == len(tables[name])
        assert sum(rows["user"].nunique() for rows in shards if len(rows)) == tables[name]["user"].nunique()
    number, text = pd.Series([7, 12]), pd.Series(["7", "12"])
    assert (dividing.shard_of(number, 64) == dividing.shard_of(text, 64)).all()


def test_answers_of_a_run_that_was_killed_are_not_asked_again(tables, divided, tmp_path):
    answers, users = tmp_path / "answers.sqlite", ["u-3", "u-7", "u-9"]
    scale.rank(divided, ToyModel, answers, users)
    Recordings(answers).export(ranking._folder(answers) / "00001-00000000.jsonl.gz")
    answers.unlink()  # as if nothing had been merged yet
    counts = scale.rank(divided, NeverAsked, answers, users)
    assert counts["users"] == 3 and len(Recordings(answers)) == 3 and not ranking._folder(answers).exists()


def test_an_error_leaves_the_answers_before_it_and_stops_the_others(divided, tmp_path):
    class Breaks(ToyModel):
        def submit(self, asked: Asked, keep: Keep) -> Finished:
            if asked.user == "u-7":
                raise ResponseError("strange")
            return super().submit(asked, keep)

    users, answers = [f"u-{n}" for n in range(40)], tmp_path / "answers.sqlite"
    with pytest.raises(ResponseError, match="strange"):
        scale.rank(divided, Breaks, answers, users, batch=40)
    recorded = len(Recordings(answers))
    assert 0 < recorded < 40
    assert scale.rank(divided, ToyModel, answers, users)["answers"] == 40 - recorded


def test_a_step_names_what_is_missing(tables, divided, tmp_path):
    with pytest.raises(ScaleError, match="no table final: call combine first"):
        scale.compare(divided)
    given = {"ratings": tmp_path / "ratings"}
    with pytest.raises(ScaleError, match="work is not empty"):
        scale.divide(divided.folder, tables["items"], like=4, **given)
    with pytest.raises(ScaleError, match="no tables that were divided"):
        scale.Divided.open(tmp_path)
    for wrong in ({}, {**given, "rating": tmp_path}):
        with pytest.raises(ScaleError, match="'rating"):
            scale.divide(tmp_path / "new", tables["items"], like=4, **wrong)
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="none: no Parquet file"):
        scale.divide(tmp_path / "new", tables["items"], like=4, ratings=tmp_path / "none")
    only = scale.divide(tmp_path / "other", tables["items"], like=4, shards=1, **given)
    with pytest.raises(ScaleError, match=r"call divide\(..., out_of_fold=...\) first"):
        scale.triage(only)


def test_ratings_that_the_library_refuses_are_refused(tables, tmp_path):
    tables["ratings"].loc[[3], "item"] = 99
    with pytest.raises(ScoresError, match="item 99"):
        scale.divide(tmp_path / "work", tables["items"], like=4, shards=2, **written(tables, tmp_path))


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ScaleError, match=r"pip install 'hybridrec\[ray\]'"):
        scale.start()
