"""Progress bars that are seen where somebody is looking, and never end up in a committed notebook."""

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm


def _stream() -> TextIO | None:
    """The terminal that started the run (papermill's kernels have none of their own), or this one, or nowhere."""
    if os.environ.get("HYBRIDREC_PROGRESS") == "off":
        return None
    terminal = os.environ.get("HYBRIDREC_TERMINAL")
    if terminal:
        try:
            return open(terminal, "w")
        except OSError:
            return None
    interactive = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
    return sys.stderr if interactive else None


def bar(iterable: Iterable | None = None, *, total: int | None = None, what: str = "") -> tqdm:
    """A tqdm bar with time left; silent under CI, in tests and in notebooks run without a terminal."""
    stream = _stream()
    return tqdm(iterable, total=total, desc=what, file=stream or sys.stderr, disable=stream is None, leave=False)
