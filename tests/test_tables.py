"""What notebooks hand on and publish: errors say what to run, and published files hold plain, rounded numbers."""

import json

import numpy as np
import pandas as pd
import pytest

from hybridrec import paths, tables


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"user": [1, 2], "sparsity": [0.123456789, np.nan], "inactive": [True, False]})


def recorded() -> dict:
    return json.loads((paths.results("toy") / "metrics.json").read_text(encoding="utf-8"))


# --- tables between notebooks ---------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was_written(frame, tmp_path):
    tables.write("toy", sparsity=frame)
    pd.testing.assert_frame_equal(tables.read("toy", "sparsity"), frame)
    assert (tmp_path / "tables" / "toy" / "sparsity.parquet").is_file()


@pytest.mark.parametrize(("name", "notebook"), [("scores", "02_baselines"), ("rankings", "04_llm_prompting")])
def test_a_missing_table_names_the_notebook_and_the_command(name, notebook):
    with pytest.raises(tables.MissingTableError) as raised:
        tables.read("toy", name)
    for part in (repr(name), notebook, "make reproduce EXPERIMENT=toy"):
        assert part in str(raised.value)


def test_experiments_do_not_share_tables(frame):
    tables.write("toy", sparsity=frame)
    with pytest.raises(tables.MissingTableError):
        tables.read("another", "sparsity")


def test_writing_an_unknown_table_lists_the_known_ones(frame):
    with pytest.raises(KeyError, match=r"'sparsty'.*Known: interactions, .*sparsity"):
        tables.write("toy", sparsty=frame)


def test_reading_an_unknown_table_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"'sparsty'.*Known: interactions, .*sparsity"):
        tables.read("toy", "sparsty")


def test_every_table_is_written_by_a_notebook_that_exists():
    for name, notebook in tables.WRITTEN_BY.items():
        source = (paths.NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8")
        assert f"{name}=" in source, f"{notebook} does not write {name}"


# --- what is published ----------------------------------------------------------------------------------------------


def test_published_numbers_are_rounded_and_the_frame_comes_back_whole(frame):
    assert tables.publish("toy", "weak", frame) is frame
    text = (paths.results("toy") / "weak.csv").read_bytes().decode()
    assert text == "user,sparsity,inactive\n1,0.123457,True\n2,,False\n"


def test_the_last_bits_of_a_float_do_not_show(frame):
    texts = []
    for nudge in (0, 1e-12):
        tables.publish("toy", "weak", frame.assign(sparsity=frame["sparsity"] + nudge))
        texts.append((paths.results("toy") / "weak.csv").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_sections_are_merged_and_a_section_is_replaced():
    tables.record("toy", "data", {"users": 1})
    tables.record("toy", "cost", {"usd": 2.0})
    tables.record("toy", "data", {"items": 3})
    assert recorded() == {"cost": {"usd": 2.0}, "data": {"items": 3}}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.nan, None),
        (np.float64("inf"), None),
        (None, None),
        (0.123456789, 0.123457),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ((1, np.nan), [1, None]),
        ({1: {"x": np.float64(0.25)}}, {"1": {"x": 0.25}}),
    ],
    ids=repr,
)
def test_values_become_plain_json(value, written):
    tables.record("toy", "section", {"value": value})
    found = recorded()["section"]["value"]
    assert found == written
    assert type(found) is type(written)


def test_a_frame_becomes_its_rows_and_its_gaps_null(frame):
    tables.record("toy", "section", frame)
    assert recorded()["section"] == [
        {"user": 1, "sparsity": 0.123457, "inactive": True},
        {"user": 2, "sparsity": None, "inactive": False},
    ]
