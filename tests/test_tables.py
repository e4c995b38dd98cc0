"""What notebooks hand on and publish: errors say what to run, and published files hold plain, rounded numbers."""

import json
import multiprocessing
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from hybridrec import errors
from hybridrec.study import figures, notebooks, paths, tables


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
    with pytest.raises(errors.MissingTableError) as raised:
        tables.read("toy", name)
    for part in (repr(name), notebook, "make reproduce EXPERIMENT=toy"):
        assert part in str(raised.value)


def test_experiments_do_not_share_tables(frame):
    tables.write("toy", sparsity=frame)
    with pytest.raises(errors.MissingTableError):
        tables.read("another", "sparsity")


def test_writing_an_unknown_table_lists_the_known_ones(frame):
    with pytest.raises(KeyError, match=r"'sparsty'.*Known: interactions, .*sparsity"):
        tables.write("toy", sparsty=frame)


def test_reading_an_unknown_table_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"'sparsty'.*Known: interactions, .*sparsity"):
        tables.read("toy", "sparsty")


def test_every_table_is_written_by_a_notebook_that_exists():
    for name, notebook in tables.WRITTEN_BY.items():
        cells = nbformat.read(notebooks.path_of(notebook), as_version=4).cells
        writing = "\n".join(cell.source for cell in cells if "tables.write(" in cell.source)
        assert f"{name}=" in writing or f'"{name}": ' in writing, f"{notebook} does not write {name}"


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


def test_what_is_added_to_a_section_leaves_the_rest_of_it(frame):
    for values in ({"users": 1, "items": 2}, {"items": 3}):
        tables.record("toy", "data", values, add=True)
    assert recorded() == {"data": {"users": 1, "items": 3}}


# --- several at once, and one that is cut short ---------------------------------------------------------------------

SPAWN = multiprocessing.get_context("spawn")


def record_many(name: str, number: int) -> None:
    for section in range(number):
        tables.record("toy", f"{name}{section}", {"value": section})


@pytest.mark.slow
def test_sections_that_several_processes_record_at_once_are_all_kept():
    writers = [SPAWN.Process(target=record_many, args=(name, 40)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert recorded() == {f"{name}{section}": {"value": section} for name in "ab" for section in range(40)}


def write_many(number: int) -> None:
    for version in range(number):
        tables.write("toy", scores=pd.DataFrame({"score": np.full(200_000, version)}))


@pytest.mark.slow
def test_a_table_that_is_read_while_another_process_writes_it_is_always_a_whole_one():
    write_many(1)
    writer = SPAWN.Process(target=write_many, args=(40,))
    writer.start()
    versions = []
    while writer.is_alive():
        scores = tables.read("toy", "scores")["score"]
        assert len(scores) == 200_000 and scores.nunique() == 1
        versions.append(scores[0])
    assert writer.exitcode == 0
    assert len(set(versions)) > 1, "nothing was read while it was written"
    assert versions == sorted(versions)


@pytest.mark.parametrize(
    ("write", "kind", "method"),
    [
        (lambda frame: tables.write("toy", sparsity=frame), pd.DataFrame, "to_parquet"),
        (lambda frame: tables.publish("toy", "weak", frame), pd.DataFrame, "to_csv"),
        (lambda frame: tables.record("toy", "weak", frame), Path, "write_text"),
        (lambda frame: figures.save(Figure(), paths.results("toy"), "weak"), Figure, "savefig"),
    ],
    ids=["table", "csv", "metrics", "figure"],
)
def test_a_writer_that_is_cut_short_leaves_the_former_file(frame, tmp_path, monkeypatch, write, kind, method):
    write(frame)
    former = contents(tmp_path)

    def cut_short(self: object, *given: object, **_: object) -> None:
        (self if isinstance(self, Path) else given[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, method, cut_short)
    with pytest.raises(KeyboardInterrupt):
        write(frame.assign(user=0))
    assert contents(tmp_path) == former


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


# --- JSON -----------------------------------------------------------------------------------------------------------


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
