"""What a run may use of somebody's service: requests and tokens a minute, and money. Shared by all of its threads."""

import threading
import time

from hybridrec.errors import SpendingCapError

# A promise of N a minute is kept with a little room: the network does not deliver at even distances.
_SHARE = 0.98


class Pace:
    """At most ``per_minute`` units a minute, evenly spaced and first come, first served.

    Even spacing rather than bursts, since providers count over seconds what they state per minute. A request may be of
    any weight, all threads can be made to pause together (a server's Retry-After), and a wait ends when the run does;
    the libraries for this offer one or two of the three.

    Args:
        per_minute: the allowance; None for none.
        stopping: ends all waits when it is set.
    """

    def __init__(self, per_minute: float | None, stopping: threading.Event) -> None:
        self._spacing = 60 / (per_minute * _SHARE) if per_minute else 0.0
        self._stopping = stopping
        self._lock = threading.Lock()
        self._free_at = self._paused_until = self._used_until = 0.0
        self._pauses = 0

    def wait(self, weight: float = 1.0) -> None:
        """Return when ``weight`` units may be used, or at once when the run is stopping."""
        granted = False
        while not granted and not self._stopping.is_set():
            with self._lock:
                start = max(time.monotonic(), self._free_at)
                self._free_at = start + weight * self._spacing
                pauses = self._pauses
            self._stopping.wait(max(0.0, start - time.monotonic()))
            with self._lock:
                granted = pauses == self._pauses  # a pause meanwhile: everybody lines up anew behind it
                if granted:
                    self._used_until = max(self._used_until, start + weight * self._spacing)

    def pause(self, seconds: float) -> None:
        """Let nobody begin within the next ``seconds``, not even those who wait already. It shortens no other pause."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            self._free_at = max(self._paused_until, self._used_until)  # a heavy request may need longer than the pause
            self._pauses += 1


class Budget:
    """Money that may be spent: what a request can cost at worst is set aside before it is sent.

    So the cap is never exceeded, whatever the answers turn out to cost.

    Args:
        cap: US dollars; None for no cap.
    """

    def __init__(self, cap: float | None = None) -> None:
        self.cap, self.spent = cap, 0.0
        self._reserved, self._open = 0.0, 0
        self._changed = threading.Condition()

    def reserve(self, worst: float) -> None:
        """Set ``worst`` dollars aside, if need be after other requests have turned out cheaper than feared.

        Raises:
            SpendingCapError: even then it would not fit (says what was spent).
        """
        with self._changed:
            while self.cap is not None and self.spent + self._reserved + worst > self.cap:
                if not self._open:
                    raise SpendingCapError(
                        f"the spending cap of ${self.cap:.2f} is reached: ${self.spent:.4f} spent, and the next "
                        f"request can cost ${worst:.4f}. Answers so far are recorded; raise spending_cap_usd and run "
                        "again to go on from here."
                    )
                self._changed.wait()
            self._reserved, self._open = self._reserved + worst, self._open + 1

    def settle(self, worst: float, actual: float) -> None:
        """Replace what was set aside for a request by what it cost."""
        with self._changed:
            self._open -= 1
            # Sums of floats leave dust, which nobody would ever settle.
            self._reserved = max(0.0, self._reserved - worst) if self._open else 0.0
            self.spent += actual
            self._changed.notify_all()
