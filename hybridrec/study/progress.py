"""Long work is seen where somebody is looking, told in plain lines where nobody is, and counted for the end.

None of it ends up in a committed notebook. A notebook's kernel has no terminal of its own, so ``python -m hybridrec
run`` tells it where to write: a terminal (HYBRIDREC_TERMINAL), or else a journal (HYBRIDREC_JOURNAL), whose lines it
prints itself.
"""

import functools
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

LINE_EVERY = 30.0  # seconds between plain lines; a shorter piece of work has none
_PLAIN = "{desc} {n_fmt}/{total_fmt}, {elapsed} so far, about {remaining} left"


def bar(iterable: Iterable | None = None, *, total: int | None = None, what: str = "") -> tqdm:
    """A tqdm bar with time left: on the terminal, under the cell in JupyterLab, else a plain line now and then.

    Nothing at all under HYBRIDREC_PROGRESS=off, and in a kernel that neither JupyterLab nor ``hybridrec run`` started:
    there it would become a notebook's output.
    """
    # smoothing=0: the rate is that of the whole work. tqdm's usual one follows the last steps, and of sixteen answers
    # that come at once fifteen took no time. miniters=1: those that come slowly after many quick ones are shown, too.
    how: dict[str, Any] = {"total": total, "desc": what, "leave": False, "smoothing": 0, "miniters": 1}
    stream = _terminal()
    if stream is not None:
        return tqdm(iterable, file=stream, **how)
    lines = _Lines()
    pace: dict[str, Any] = {"delay": LINE_EVERY, "mininterval": LINE_EVERY, "bar_format": _PLAIN}
    return tqdm(iterable, file=lines, disable=not lines.wanted(), **pace, **how)


def _terminal() -> TextIO | None:
    """Where a moving bar is seen, if anywhere."""
    given = os.environ.get("HYBRIDREC_TERMINAL")
    if os.environ.get("HYBRIDREC_PROGRESS") == "off" or (not given and os.environ.get("HYBRIDREC_JOURNAL")):
        return None
    if given:
        try:
            return _opened(given)
        except OSError:
            return None
    in_lab = _in_kernel() and "JPY_SESSION_NAME" in os.environ
    return sys.stderr if in_lab or sys.stderr.isatty() else None


@functools.cache
def _opened(terminal: str) -> TextIO:
    """One file for all bars of this process."""
    return open(terminal, "w", encoding="utf-8")


def _in_kernel() -> bool:
    return "ipykernel" in sys.modules


class _Lines:
    """What tqdm writes, as whole lines: to the journal if there is one, else to this process's stderr."""

    def wanted(self) -> bool:
        """Is there anybody to write to?"""
        quiet = os.environ.get("HYBRIDREC_PROGRESS") == "off"
        return not quiet and (bool(os.environ.get("HYBRIDREC_JOURNAL")) or not _in_kernel())

    def write(self, text: str) -> None:
        """Take what tqdm writes; its carriage returns and blanks are no lines."""
        line = text.strip()
        if line and os.environ.get("HYBRIDREC_JOURNAL"):
            _append({"line": line})
        elif line:
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""


# --- the journal ----------------------------------------------------------------------------------------------------


def count(what: str, **numbers: int) -> None:
    """Note what a piece of work came to, such as ``count("fits", computed=3, cached=12)``, if there is a journal."""
    if os.environ.get("HYBRIDREC_JOURNAL"):
        _append({"what": what, **numbers})


def tell(line: str) -> None:
    """To stderr; from a notebook's kernel through its run's journal, or the line would become a notebook's output."""
    if os.environ.get("HYBRIDREC_JOURNAL"):
        _append({"line": line})
    else:
        print(line, file=sys.stderr, flush=True)


def _append(entry: dict[str, Any]) -> None:
    # One write of one line: kernels and their helpers may do it at the same time. It begins with a line end, for one of
    # them may have been killed in the middle of its line.
    with open(os.environ["HYBRIDREC_JOURNAL"], "a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(entry) + "\n")


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line of a journal says, nothing if it is empty; None if it is torn."""
    try:
        entry = json.loads(line.decode()) if line.strip() else {}
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def counts(journals: Iterable[Path]) -> dict[str, Counter[str]]:
    """The sum of all that was counted, by kind of work; a journal that is not there counts nothing.

    Lines that a killed process left torn are counted, too: ``{"journal": {"torn lines": 1}}``. What they would have
    counted is missing from the rest.
    """
    found: dict[str, Counter[str]] = {}
    for path in journals:
        for line in path.read_bytes().split(b"\n") if path.is_file() else []:
            entry = _entry(line)
            if entry is None:
                entry = {"what": "journal", "torn lines": 1}
            if "what" in entry:
                found.setdefault(entry.pop("what"), Counter()).update(entry)
    return found


def summary(found: dict[str, Counter[str]]) -> str:
    """Counts as a phrase: "fits: 3 computed, 12 cached; answers: 5 computed, 300 replayed"."""
    parts = [f"{what}: " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(of.items())) for what, of in found.items()]
    return "; ".join(parts)


@contextmanager
def journal(path: Path) -> Iterator[None]:
    """A fresh journal for the kernels that are started meanwhile; its plain lines come out on stderr here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")
    os.environ["HYBRIDREC_JOURNAL"] = str(path)
    done = threading.Event()
    reader = threading.Thread(target=_tell, args=(path, done), daemon=True)
    reader.start()
    try:
        yield
    finally:
        os.environ.pop("HYBRIDREC_JOURNAL", None)
        done.set()
        reader.join()


def _tell(path: Path, done: threading.Event) -> None:
    """Print the journal's lines as they come, each when it is whole; torn ones are for ``counts``."""
    with path.open("rb") as file:
        over, rest = False, b""
        while not over:
            over = done.wait(0.5)
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                entry = _entry(line) or {}
                if "line" in entry:
                    print(f"  {entry['line']}", file=sys.stderr, flush=True)
