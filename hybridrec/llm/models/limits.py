"""What a run may use of somebody's service: requests and tokens a minute, and money. Shared by all of its requests.

Everything here belongs to one event loop; whoever waits can be cancelled.
"""

import asyncio

from aiolimiter import AsyncLimiter

from hybridrec.errors import SpendingCapError

# A promise of N a minute is kept with a little room: the network does not deliver at even distances.
_SHARE = 0.98
# Seconds of the allowance that may be used at once. Hardly any, since providers count over seconds what they state per
# minute; but without some of it every request that is sent late would be lost.
_AT_ONCE = 0.05


class Pace:
    """At most ``per_minute`` units a minute, evenly spaced and first come, first served.

    aiolimiter's leaky bucket does the counting. It knows no pause, lets light requests overtake heavy ones, and refuses
    those that are heavier than its bucket: so requests come to it one at a time, and a heavy one in pieces.

    Args:
        per_minute: the allowance; None for none.
    """

    def __init__(self, per_minute: float | None) -> None:
        a_second = (per_minute or 0.0) * _SHARE / 60
        size = max(1.0, a_second * _AT_ONCE)
        self._bucket = AsyncLimiter(size, size / a_second) if per_minute else None
        self._turn = asyncio.Lock()
        self._paused_until = 0.0

    async def wait(self, weight: float = 1.0) -> None:
        """Return when ``weight`` units may be used, which are then spent."""
        async with self._turn:
            await self._take(weight)
            while (left := self._paused_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(left)
                await self._take(weight)  # meanwhile the bucket has forgotten what was taken before the pause

    async def _take(self, weight: float) -> None:
        while self._bucket and weight > 0:
            await self._bucket.acquire(min(weight, self._bucket.max_rate))
            weight -= self._bucket.max_rate

    def pause(self, seconds: float) -> None:
        """Let nobody begin within the next ``seconds``, not even those who wait already. It shortens no other pause."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)


class Budget:
    """Money that may be spent: what a request can cost at worst is set aside before it is sent.

    So the cap is never exceeded, whatever the answers turn out to cost.

    Args:
        cap: US dollars; None for no cap.
    """

    def __init__(self, cap: float | None = None) -> None:
        self.cap, self.spent = cap, 0.0
        self._reserved, self._open = 0.0, 0
        self._settled = asyncio.Event()

    async def reserve(self, worst: float) -> None:
        """Set ``worst`` dollars aside, if need be after other requests have turned out cheaper than feared.

        Raises:
            SpendingCapError: even then it would not fit (says what was spent).
        """
        while self.cap is not None and self.spent + self._reserved + worst > self.cap:
            if not self._open:
                raise SpendingCapError(
                    f"the spending cap of ${self.cap:.2f} is reached: ${self.spent:.4f} spent, and the next "
                    f"request can cost ${worst:.4f}. Answers so far are recorded; raise spending_cap_usd and run "
                    "again to go on from here."
                )
            self._settled.clear()
            await self._settled.wait()
        self._reserved, self._open = self._reserved + worst, self._open + 1

    def settle(self, worst: float, actual: float) -> None:
        """Replace what was set aside for a request by what it cost."""
        self._open -= 1
        # Sums of floats leave dust, which nobody would ever settle.
        self._reserved = max(0.0, self._reserved - worst) if self._open else 0.0
        self.spent += actual
        self._settled.set()
