"""Long work reports here. The library prints nothing: a program that wants to see it sets a listener.

Like logging, this is one place for the whole process, so that no function has to hand a progress bar to the next.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm import tqdm


class Listener(Protocol):
    """Who wants to know how work goes on."""

    def bar(self, iterable: Iterable | None, *, total: int | None, what: str) -> tqdm:
        """A bar over the work, as tqdm's are."""

    def count(self, what: str, **numbers: int) -> None:
        """What a piece of work came to, such as ``count("fits", computed=3, cached=12)``."""

    def tell(self, line: str) -> None:
        """Something to know while it happens, such as that one waits for another process."""


class _Nobody:
    def bar(self, iterable: Iterable | None, *, total: int | None, what: str) -> tqdm:
        return tqdm(iterable, total=total, disable=True)

    def count(self, what: str, **numbers: int) -> None:
        pass

    def tell(self, line: str) -> None:
        pass


_listener: Listener = _Nobody()


def listen(listener: Listener | None) -> Listener:
    """Let a listener hear of all work from now on (None: nobody); returns the one before."""
    global _listener
    before, _listener = _listener, listener or _Nobody()
    return before


@contextmanager
def unheard() -> Iterator[None]:
    """Nobody hears of the work in here: for a simulation, whose answers nobody gave."""
    before = listen(None)
    try:
        yield
    finally:
        listen(before)


def bar(iterable: Iterable | None = None, *, total: int | None = None, what: str = "") -> Any:
    """A bar over ``iterable``, or one that is moved by hand (``update``) to ``total``."""
    return _listener.bar(iterable, total=total, what=what)


def advance(bar: Any, done: int, replayed: int = 0) -> None:
    """Move a bar on by what has finished together.

    The time left is told from all that was computed since the bar began: what was merely replayed is done in no time,
    and would promise the same of the rest.
    """
    bar.initial = getattr(bar, "initial", 0) + replayed  # a bar that is switched off has none
    bar.update(done)


def count(what: str, **numbers: int) -> None:
    """Report what a piece of work came to."""
    _listener.count(what, **numbers)


def tell(line: str) -> None:
    """Report something to know while it happens."""
    _listener.tell(line)
