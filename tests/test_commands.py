"""What the command line does to a notebook before it is committed, and when two of them work on one experiment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import nbformat
import pandas as pd
import pytest
from processes import until

from hybridrec import errors
from hybridrec.study import __main__ as commands
from hybridrec.study import config, notebooks, paths, progress, tables


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
    notebooks._add_reading_note(notebook, "mine", "03_user_triage")
    title, note, code = notebook.cells
    assert title.source == "# 3 · Title" and code.source == "1 + 1"
    assert note.cell_type == "markdown" and note.id == "reading-note"
    assert note.source.startswith("**This is the experiment `mine`.**")
    assert note.source.endswith("\n\nThis one.\n\nTwice.")
    assert "Other" not in note.source


@pytest.mark.parametrize(("experiment", "name"), [("mine", "06_cost"), ("yours", "03_user_triage")])
def test_without_notes_only_the_experiment_is_told(notebook, notes, experiment, name):
    notebooks._add_reading_note(notebook, experiment, name)
    assert f"`{experiment}`" in notebook.cells[1].source and "This one." not in notebook.cells[1].source


@pytest.mark.parametrize("path", sorted(paths.EXPERIMENTS.glob("*.md")), ids=lambda path: path.stem)
def test_committed_notes_are_about_an_experiment_and_notebooks_that_exist(path):
    if path.stem == "README":
        pytest.skip("explains the keys")
    assert path.with_suffix(".toml").is_file()
    headings = [line[3:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert set(headings) <= set(notebooks.names())


def test_the_summary_says_what_was_computed_what_was_replayed_and_where_it_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "results", lambda name: tmp_path)
    monkeypatch.setattr(paths, "work", lambda name: tmp_path)
    (tmp_path / "claims.csv").write_text("claim,verdict\noverall performance,harms\n", encoding="utf-8")
    costs = dict.fromkeys(("routed_share", "tokens_share", "usd_weak", "usd_everybody"), 0.5)
    found = {"cost": {"answer": costs | {"recommender": "MF", "gain": None, "gain_verdict": "not run"}}}
    (tmp_path / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    settings = config.load("ml-100k")
    commands.summary(settings)
    first, *_, third, fourth = capsys.readouterr().out.splitlines()[:4]
    assert first.startswith("1. ") and first.endswith(" not run") and third.endswith(" not run")
    assert "weak users of MF: 50 % of the lists" in fourth
    commands.summary(settings)
    assert "last ran" not in capsys.readouterr().out, "nothing ran here: the results are the committed ones"
    for name, fits, answers in (("02_baselines", 87, 0), ("04_llm_prompting", 0, 3121)):
        with progress.journal(notebooks.journal_of(settings, name)):
            progress.count("fits", computed=fits, cached=2)
            progress.count("answers", computed=0, replayed=answers)
    commands.summary(settings)
    told = capsys.readouterr().out
    assert "fits: 4 cached, 87 computed; answers: 0 computed, 3,121 replayed." in told
    assert told.splitlines()[-1].endswith(tmp_path.name)


def test_the_summary_and_the_fits_command_say_whether_the_fits_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "results", lambda name: tmp_path)
    monkeypatch.setattr(paths, "work", lambda name: tmp_path)
    monkeypatch.setattr(paths, "tables", lambda name: tmp_path)
    monkeypatch.setattr(paths, "fingerprint", lambda name: tmp_path / "fits" / "committed.csv")
    (tmp_path / "claims.csv").write_text("claim,verdict\n", encoding="utf-8")
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    line = {"part": "test", "recommender": "EASE", "parameter": "lamb", "value": 10.0, "fold": -1, "auc": 0.7}
    here = pd.DataFrame([line | {"scores": "a" * 16}, line | {"part": "tuning", "scores": "b" * 16}])
    tables.write("ml-100k", fits=here)
    settings = config.load("ml-100k")
    commands.summary(settings)
    assert "fits:" not in capsys.readouterr().out, "nothing is committed to compare with"
    assert commands.main(["fingerprint", "ml-100k"]) == 0
    assert commands.main(["fits", "ml-100k"]) == 0
    assert "all 2 agree" in capsys.readouterr().out
    tables.write("ml-100k", fits=here.assign(scores=["a" * 16, "c" * 16], auc=0.725))
    for told in (lambda: commands.main(["fits", "ml-100k"]), lambda: commands.summary(settings)):
        told()
        assert "1 of 2 differ on this processor" in (said := capsys.readouterr().out) and "0.025" in said


# --- two at once ----------------------------------------------------------------------------------------------------

# The command line in a folder of its own. A notebook is "executed" once the file "go" is there; the log has who did it.
RUN = """
import os, sys, time
from pathlib import Path
import nbformat
from hybridrec import errors
from hybridrec.study import __main__ as commands, notebooks, paths
folder = Path(sys.argv.pop(1))
paths.NOTEBOOKS, paths.EXPERIMENTS = folder / "notebooks", folder / "experiments"
def note(what):
    with (folder / "log").open("a") as log:
        log.write(f"{what} {os.getpid()}\\n")
def execute(source, changed, work):
    note("begin")
    while not (folder / "go").exists():
        time.sleep(0.02)
    note("end")
    if os.environ.get("FAIL"):
        raise errors.NotebookError("it failed")
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(f"made by {os.getpid()}"))
    return notebook
notebooks._execute = execute
sys.exit(commands.main(sys.argv[1:]))
"""


@pytest.fixture
def study(tmp_path) -> Path:
    """A folder with an experiment ``toy`` of two notebooks."""
    for folder in ("notebooks", "experiments", "recordings"):
        (tmp_path / folder).mkdir()
    shutil.copy(paths.EXPERIMENTS / "class.toml", tmp_path / "experiments" / "toy.toml")
    for name in ("01_data", "02_baselines"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "seed: int = 42  # of everything")
    return tmp_path


def write_notebook(path: Path, parameters: str) -> None:
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def two_runs(study: Path, between: Callable[[], None], **first: str) -> tuple[list, list[str], list[str]]:
    """Run a notebook twice at once; ``between`` happens while the first is at work, ``first`` is its environment.

    Returns:
        The two processes, what each of them said, and the lines of the log.
    """
    folders = {"HYBRIDREC_SCRATCH": str(study / "scratch"), "HYBRIDREC_RECORDINGS": str(study / "recordings")}
    runs, said = [], [study / "said1", study / "said2"]

    def start(**environment: str) -> None:
        command = [sys.executable, "-c", RUN, str(study), "run", "toy", "02_baselines"]
        with said[len(runs)].open("w", encoding="utf-8") as out:
            given = os.environ | folders | environment
            runs.append(subprocess.Popen(command, env=given, stdout=out, stderr=subprocess.STDOUT))

    def log() -> list[str]:
        return (study / "log").read_text(encoding="utf-8").splitlines() if (study / "log").exists() else []

    try:
        start(**first)
        until(lambda: log() != [])
        between()
        start()
        until(lambda: "waiting for another run of `toy`" in said[1].read_text(encoding="utf-8") or len(log()) > 1)
        (study / "go").touch()
        for run in runs:
            run.wait(timeout=60)
    finally:
        for run in runs:
            run.kill()
    return runs, [file.read_text(encoding="utf-8") for file in said], log()


@pytest.mark.slow
def test_a_run_that_waited_for_the_same_run_takes_its_result(study):
    (first, second), (one, other), log = two_runs(study, lambda: None)
    assert first.returncode == second.returncode == 0
    assert f"waiting for another run of `toy` (pid {first.pid}, since" in other
    assert "02_baselines: done meanwhile by another run" in other
    assert "waiting" not in one
    assert log == [f"begin {first.pid}", f"end {first.pid}"]
    result = nbformat.read(study / "scratch" / "results" / "toy" / "02_baselines.ipynb", as_version=4)
    assert result.cells[-1].source == f"made by {first.pid}"


@pytest.mark.slow
@pytest.mark.parametrize("changed", [True, False], ids=["the notebook was changed", "the other one failed"])
def test_a_run_that_waited_works_itself_where_the_result_is_not_what_it_would_make(study, changed):

    def between() -> None:
        if changed:
            write_notebook(study / "notebooks" / "02_baselines.ipynb", "seed: int = 43  # of everything")

    (first, second), (_, other), log = two_runs(study, between, **({} if changed else {"FAIL": "yes"}))
    assert (first.returncode, second.returncode) == (int(not changed), 0)
    assert "waiting for another run of `toy`" in other and "done meanwhile" not in other
    assert log == [f"{what} {run.pid}" for run in (first, second) for what in ("begin", "end")], "not one by one"
    result = nbformat.read(study / "scratch" / "results" / "toy" / "02_baselines.ipynb", as_version=4)
    assert result.cells[-1].source == f"made by {second.pid}"


@pytest.fixture
def toy(study, monkeypatch) -> Path:
    """The same, for what is tried in this process."""
    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(study / "scratch"))
    for folder in ("NOTEBOOKS", "EXPERIMENTS", "RECORDINGS"):
        monkeypatch.setattr(paths, folder, study / folder.lower())
    (study / "recordings" / "ml-100k").mkdir()
    for folder in (paths.tables("toy"), paths.work("toy")):
        folder.mkdir(parents=True)
    (paths.tables("toy") / "sparsity.parquet").write_bytes(b"1")
    return study


def inputs(**changed: object) -> str:
    return notebooks._inputs(config.load("toy").model_copy(update=changed), "02_baselines")


def test_a_result_was_made_from_the_same_only_if_all_that_it_depends_on_is_the_same(toy, monkeypatch):
    found = [inputs()]
    assert inputs() == found[0]
    found.append(inputs(seed=43))
    monkeypatch.setenv("HYBRIDREC_LLM", "live")
    found.append(inputs())
    monkeypatch.delenv("HYBRIDREC_LLM")
    write_notebook(toy / "notebooks" / "02_baselines.ipynb", "seed: int = 44  # of everything")
    found.append(inputs())
    (toy / "experiments" / "toy.md").write_text("## 02_baselines\n\nIt differs.\n", encoding="utf-8")
    found.append(inputs())
    (toy / "recordings" / "ml-100k" / "toy.sqlite").write_text("{}\n", encoding="utf-8")
    found.append(inputs())
    (paths.tables("toy") / "sparsity.parquet").write_bytes(b"22")
    found.append(inputs())
    assert len(set(found)) == len(found)
    (paths.tables("toy") / "scores.parquet").write_bytes(b"1")  # notebook 02 writes it itself
    (toy / "notebooks" / "01_data.ipynb").touch()
    assert inputs() == found[-1]


@pytest.mark.parametrize(("name", "known"), [("01_data", False), ("02_baselines", True)])
def test_what_the_first_notebook_reads_lies_where_the_user_put_it_and_is_not_known(toy, name, known):
    settings = config.load("toy")
    assert not notebooks._made_from_the_same(settings, name), "nothing was noted yet"
    notebooks._note(settings, name).write_text(notebooks._inputs(settings, name), encoding="utf-8")
    assert notebooks._made_from_the_same(settings, name) == known


def test_scratch_has_a_lock_of_its_own(toy, monkeypatch):
    with notebooks.alone("toy"):
        monkeypatch.setenv("HYBRIDREC_SCRATCH", str(toy / "other"))
        assert not is_locked("toy")
        with notebooks.alone("toy"):
            assert is_locked("toy")


def is_locked(name: str) -> bool:
    paths.work(name).mkdir(parents=True, exist_ok=True)
    try:
        filelock.FileLock(paths.work(name) / "run.lock", timeout=0).acquire().lock.release()
    except filelock.Timeout:
        return True
    return False


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("seeds", "seeds"),
        ("compact", "compact"),
        ("batch", "batch"),
        ("import", "import_results"),
        ("overview", "overview"),
    ],
)
def test_every_command_that_writes_is_alone_with_its_experiment(toy, monkeypatch, command, function):
    arguments, name = ([command], ".overview") if command == "overview" else ([command, "toy"], "toy")
    found = []
    monkeypatch.setattr(commands, function, lambda *_: found.append(is_locked(name)))
    assert commands.main(arguments) == 0
    assert found == [True]
    assert not is_locked(name)


def test_what_only_reads_does_not_wait(toy, monkeypatch):
    monkeypatch.setattr(commands, "summary", lambda settings: None)
    with notebooks.alone("toy"):
        assert commands.main(["summary", "toy"]) == 0


@pytest.mark.parametrize(
    ("experiment", "changed", "named"),
    [
        ("ml-100k-gpt-4o-mini", {"model": "unpriced"}, "unpriced"),
        ("ml-100k", {"model": "nobody"}, "nobody"),
        ("ml-100k", {"larger_models": (config.LargerModel(model="nobody", users={"likelihood": 1}),)}, "nobody"),
    ],
)
def test_a_model_that_cannot_be_asked_is_found_before_any_rating_is_read(monkeypatch, experiment, changed, named):
    monkeypatch.setattr(commands.steps, "dataset", lambda *_: pytest.fail("the ratings were read"))
    with pytest.raises((errors.ModelError, errors.PriceError), match=named):
        commands.data(config.load(experiment).model_copy(update=changed))


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "named"), [(["summary", "nobody"], "nobody"), (["run", "toy", "09_x"], "09_x")])
def test_what_the_user_can_fix_ends_with_2_and_says_what(toy, capsys, arguments, named):
    assert commands.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and named in err and "Traceback" not in err
    assert out == ""


def test_a_command_that_does_not_exist_ends_with_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.main(["reproduces", "toy"])
    assert stopped.value.code == 2
    assert "reproduces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [(errors.NotebookError("cell 3 failed"), 1), (KeyboardInterrupt(), 130)],
    ids=["fails", "stopped"],
)
def test_a_notebook_that_fails_ends_with_1_and_an_interruption_with_130(toy, monkeypatch, capsys, raised, code):
    monkeypatch.setattr(notebooks, "_execute", lambda *_: (_ for _ in ()).throw(raised))
    assert commands.main(["run", "toy", "02_baselines"]) == code
    assert str(raised) in capsys.readouterr().err
    assert not is_locked("toy")


def test_a_fault_of_the_program_keeps_its_traceback(toy, monkeypatch):
    monkeypatch.setattr(notebooks, "_execute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        commands.main(["run", "toy", "02_baselines"])
    assert not is_locked("toy")


def test_an_appendix_runs_after_its_notebook_and_lies_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    (tmp_path / "appendix").mkdir()
    for name in ("05_last", "04_first", "appendix/04a_more"):
        (tmp_path / f"{name}.ipynb").touch()
    assert notebooks.names() == ["04_first", "04a_more", "05_last"]
    assert notebooks.main_names() == ["04_first", "05_last"]
    assert notebooks.path_of("04a_more") == tmp_path / "appendix" / "04a_more.ipynb"
    assert notebooks.path_of("05_last") == tmp_path / "05_last.ipynb"


def test_links_of_a_notebook_lead_to_the_same_places_from_the_results():
    told = {
        "[a](../docs/glossary.md#auc)": "[a](../../docs/glossary.md#auc)",
        "[a](../results/mine/x.csv)": "[a](../../results/mine/x.csv)",
        "[a](../../docs/glossary.md)": "[a](../../docs/glossary.md)",
        "[a](05_last.ipynb#here) [b](appendix/05a_more.ipynb)": "[a](05_last.ipynb#here) [b](05a_more.ipynb)",
        "[a](../05_last.ipynb)": "[a](05_last.ipynb)",
        "[a](https://x.org/../y)": "[a](https://x.org/../y)",
    }
    assert [notebooks._from_results(text) for text in told] == list(told.values())
