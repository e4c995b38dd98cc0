"""Long work is seen in a terminal and in JupyterLab, told in plain lines elsewhere, never in a notebook's output."""

import json
import sys
import time

import pytest
from toy_model import ToyModel

from hybridrec.llm import runner
from hybridrec.llm.recordings import Recordings
from hybridrec.study import progress


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


class Batches(ToyModel):
    """Answers sixteen requests at a time, after half a minute of a clock that the test holds."""

    now = 0.0

    def wait(self) -> runner.Finished:
        together, self.under_way = self.under_way, []
        Batches.now += 32 if together else 0
        return [(asked, keep(asked, self.reply(asked))) for asked, keep in together]


@pytest.mark.parametrize("recorded", [0, 48])
def test_the_time_left_is_that_of_batches_and_what_is_replayed_promises_nothing(recorded, monkeypatch, capsys):
    """64 answers, 16 in 32 seconds: 2 seconds each, however many others were on record."""
    monkeypatch.setattr(Batches, "now", 0.0)
    monkeypatch.setattr("tqdm.std.time", lambda: Batches.now)
    asked = [
        runner.Asked(user, {"kind": "generate", "instruction": f"user {user}", "candidates": ["Fargo"]})
        for user in range(recorded + 64)
    ]
    recordings = Recordings()
    list(runner.ask(asked[:recorded], ToyModel(), recordings))
    answers = runner.ask(asked, Batches(width=16), recordings, what="listwise", total=len(asked))
    assert len(list(answers)) == len(asked)
    lines = [line.split(", about ")[1] for line in capsys.readouterr().err.splitlines() if line.startswith("listwise ")]
    assert lines == ["01:36 left", "01:04 left", "00:32 left", "00:00 left"]


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
    assert progress.summary(found) == "fits: 10 cached, 1,203 computed"


TORN = [b'{"what": "fits", "comp', b'{"what": "fits", "computed": 3', b"{", b"12", b'"fits"', b"\xff\xfe", b"[" * 10**5]


@pytest.mark.parametrize("torn", TORN, ids=lambda torn: torn[:30])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "in the middle", "last"])
def test_a_torn_line_is_counted_and_costs_no_other(torn, place, tmp_path):
    with progress.journal(tmp_path / "journal"):
        for number in range(3):
            if number == place:
                with (tmp_path / "journal").open("ab") as file:
                    file.write(torn)  # by a process that was killed before it came to the end of its line
            if number < 2:
                progress.count("fits", computed=5, cached=1)
    found = progress.counts([tmp_path / "journal"])
    assert found == {"fits": {"computed": 10, "cached": 2}, "journal": {"torn lines": 1}}
    assert "1 torn lines" in progress.summary(found)


def test_a_line_that_comes_in_pieces_is_told_once_it_is_whole_and_a_torn_one_stops_nobody(tmp_path, capsys):
    pieces = [b'{"line": "fi', b'rst"}\n{"li', b"\n", b'\n{"line": "second"}\n{"line": "th']

    class Writer:
        def wait(self, _: float) -> bool:
            with path.open("ab") as file:
                file.write(pieces.pop(0))
            return not pieces

    path = tmp_path / "journal"
    path.touch()
    progress._tell(path, Writer())
    assert capsys.readouterr().err.splitlines() == ["  first", "  second"]


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
