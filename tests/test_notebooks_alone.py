"""A notebook that is opened alone, as in JupyterLab, says at once which one must run first; nothing is fitted."""

import re

import nbformat
import pytest

from hybridrec import errors
from hybridrec.llm import runner
from hybridrec.recommenders import fitting
from hybridrec.study import notebooks, tables

NOTEBOOKS = notebooks.names()


def code(name: str) -> list[str]:
    cells = nbformat.read(notebooks.path_of(name), as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def read_by(name: str) -> set[str]:
    """The tables that a notebook names in cells that read tables."""
    reading = "\n".join(source for source in code(name) if "tables.read(" in source)
    return {table for table in tables.WRITTEN_BY if f'"{table}"' in reading}


@pytest.fixture
def empty(tmp_path, monkeypatch) -> None:
    """No table anywhere, and nobody computes."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was computed before the first table was read")

    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path))
    monkeypatch.setattr(fitting, "run", fail)
    monkeypatch.setattr(runner, "ask", fail)


@pytest.mark.parametrize("name", NOTEBOOKS[1:])
def test_a_notebook_opened_alone_names_the_one_to_run_first(name, empty):
    cells = code(name)
    first = next(number for number, source in enumerate(cells) if "tables.read(" in source)
    assert first <= 3  # after the map, its parameters and imports
    namespace: dict = {}
    for source in cells[:first]:
        exec(source, namespace)
    with pytest.raises(errors.MissingTableError) as missing:
        exec(cells[first], namespace)
    told = re.fullmatch(
        r".* notebook (\w+) writes it\. Run that notebook first, or `make reproduce .*", str(missing.value)
    )
    assert told[1] < name


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_reads_only_what_an_earlier_one_writes(name):
    assert all(tables.WRITTEN_BY[table] < name for table in read_by(name))
    assert bool(read_by(name)) == (name != "01_data")
