"""What the command line does to a notebook before it is committed."""

import nbformat
import pytest

from hybridrec import __main__ as commands
from hybridrec import experiment, paths, progress


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_markdown_cell("# 3 · Title"), nbformat.v4.new_code_cell("1 + 1")]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def notes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "EXPERIMENTS", tmp_path)
    (tmp_path / "mine.md").write_text(
        "# Notes\n\n## 02_baselines\n\nOther.\n\n## 03_user_triage\n\nThis one.\n\nTwice.\n",
        encoding="utf-8",
    )


def test_a_reader_is_told_whose_notebook_it_is_and_what_differs(notebook, notes):
    commands._add_reading_note(notebook, "mine", "03_user_triage")
    title, note, code = notebook.cells
    assert title.source == "# 3 · Title" and code.source == "1 + 1"
    assert note.cell_type == "markdown" and note.id == "reading-note"
    assert note.source.startswith("**This is the experiment `mine`.**")
    assert note.source.endswith("\n\nThis one.\n\nTwice.")
    assert "Other" not in note.source


@pytest.mark.parametrize(("experiment", "name"), [("mine", "06_cost"), ("yours", "03_user_triage")])
def test_without_notes_only_the_experiment_is_told(notebook, notes, experiment, name):
    commands._add_reading_note(notebook, experiment, name)
    assert notebook.cells[1].source.endswith("the number is right.")


@pytest.mark.parametrize("path", sorted(paths.EXPERIMENTS.glob("*.md")), ids=lambda path: path.stem)
def test_committed_notes_are_about_an_experiment_and_notebooks_that_exist(path):
    if path.stem == "README":
        pytest.skip("explains the keys")
    assert path.with_suffix(".toml").is_file()
    headings = [line[3:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert set(headings) <= {file.stem for file in paths.NOTEBOOKS.glob("0*.ipynb")}


def test_the_summary_says_what_was_computed_what_was_replayed_and_where_it_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "results", lambda name: tmp_path)
    monkeypatch.setattr(commands, "_STAMPS", tmp_path / "stamps")
    (tmp_path / "claims.csv").write_text("claim,verdict\noverall performance,not supported\n", encoding="utf-8")
    settings = experiment.load("ml-100k")
    commands.summary(settings)
    assert "last ran" not in capsys.readouterr().out, "nothing ran here: the results are the committed ones"
    for name, fits, answers in (("02_baselines", 87, 0), ("04_llm_prompting", 0, 3121)):
        with progress.journal(commands._journal(settings, name)):
            progress.count("fits", computed=fits, cached=2)
            progress.count("answers", computed=0, replayed=answers)
    commands.summary(settings)
    told = capsys.readouterr().out
    assert "fits: 4 cached, 87 computed; answers: 0 computed, 3,121 replayed." in told
    assert told.splitlines()[-1].endswith(tmp_path.name)
