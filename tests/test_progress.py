"""Long work is seen in a terminal and in JupyterLab, told in plain lines elsewhere, never in a notebook's output."""

import json
import sys
import time

import pytest

from hybridrec import progress


@pytest.fixture(autouse=True)
def _nobody_watches(monkeypatch) -> None:
    for name in ("HYBRIDREC_PROGRESS", "HYBRIDREC_TERMINAL", "HYBRIDREC_JOURNAL", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)


@pytest.fixture
def kernel(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", object())


def work(what: str = "tuning fits") -> None:
    for _ in progress.bar(range(4), what=what):
        time.sleep(0.02)


def test_a_terminal_that_was_named_gets_the_bar(tmp_path, monkeypatch, capsys, kernel):
    monkeypatch.setenv("HYBRIDREC_TERMINAL", str(tmp_path / "terminal"))
    monkeypatch.setenv("HYBRIDREC_JOURNAL", str(tmp_path / "journal"))
    work()
    assert "tuning fits:   0%" in (tmp_path / "terminal").read_text(encoding="utf-8")
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "journal").exists()


def test_a_cell_in_jupyterlab_gets_the_bar(monkeypatch, capsys, kernel):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_baselines.ipynb")
    work()
    assert "tuning fits:   0%" in capsys.readouterr().err


def test_a_kernel_that_nobody_watches_is_silent(capsys, kernel):
    work()
    assert capsys.readouterr() == ("", "")


def test_a_process_without_a_terminal_writes_plain_lines(capsys):
    work()
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("tuning fits ") and line.endswith(" left") for line in lines)
    assert "\r" not in "".join(lines)


def test_short_work_has_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 30.0)
    work()
    assert capsys.readouterr() == ("", "")


def test_off_is_off(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HYBRIDREC_PROGRESS", "off")
    monkeypatch.setenv("HYBRIDREC_TERMINAL", str(tmp_path / "terminal"))
    monkeypatch.setenv("HYBRIDREC_JOURNAL", str(tmp_path / "journal"))
    work()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_a_journal_come_out_here_and_not_in_the_kernels_cell(tmp_path, monkeypatch, capsys, kernel):
    monkeypatch.setenv("JPY_SESSION_NAME", "make reproduce, started from a cell")
    with progress.journal(tmp_path / "deep" / "journal"):
        work("likelihood")
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()
    assert all(line.startswith("  likelihood ") for line in err.splitlines())


def test_counts_are_summed_by_kind_over_journals_that_are_there(tmp_path):
    for name, fits in (("a", 3), ("b", 1_200)):
        with progress.journal(tmp_path / name):
            progress.count("fits", computed=fits, cached=1)
            progress.count("fits", computed=0, cached=4)
    progress.count("fits", computed=99)  # nobody keeps a journal
    found = progress.counts([tmp_path / "a", tmp_path / "b", tmp_path / "not run"])
    assert found == {"fits": {"computed": 1_203, "cached": 10}}
    assert progress.told(found) == "fits: 10 cached, 1,203 computed"


def test_a_journal_begins_anew_with_every_run(tmp_path):
    for _ in range(2):
        with progress.journal(tmp_path / "journal"):
            progress.count("answers", replayed=5)
    assert progress.counts([tmp_path / "journal"]) == {"answers": {"replayed": 5}}


def test_a_journal_ends_with_an_error_too(tmp_path, monkeypatch):
    with pytest.raises(KeyError), progress.journal(tmp_path / "journal"):
        raise KeyError
    progress.count("fits", computed=1)
    assert (tmp_path / "journal").read_text(encoding="utf-8") == ""


def test_a_journal_is_lines_of_json(tmp_path):
    with progress.journal(tmp_path / "journal"):
        progress.count("answers", computed=1, replayed=2)
    assert json.loads((tmp_path / "journal").read_text(encoding="utf-8")) == {
        "what": "answers",
        "computed": 1,
        "replayed": 2,
    }
