"""What an endpoint allows a minute, and what may be spent on it, shared by all processes of a cluster."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hybridrec.errors import HybridrecError


class Keeper:
    """Keeps the allowance: an actor of Ray's, of which there is one. Its methods are those of ``models.limits``."""

    def __init__(self, requests: float | None, tokens: float | None, cap: float | None) -> None:
        from hybridrec.llm.models.limits import Budget, Pace

        self.paces, self.budget = {"requests": Pace(requests), "tokens": Pace(tokens)}, Budget(cap)
        self.reserved: dict[str, Counter[float]] = {}

    async def wait(self, name: str, weight: float) -> None:
        """``Pace.wait`` of the requests or the tokens."""
        await self.paces[name].wait(weight)

    async def pause(self, name: str, seconds: float) -> None:
        """``Pace.pause`` of the same."""
        self.paces[name].pause(seconds)

    async def reserve(self, holder: str, worst: float) -> HybridrecError | None:
        """``Budget.reserve`` for a process; returns the error, as Ray would wrap one that is raised."""
        try:
            await self.budget.reserve(worst)
        except HybridrecError as error:
            return error
        self.reserved.setdefault(holder, Counter())[worst] += 1
        return None

    async def settle(self, holder: str, worst: float, actual: float) -> None:
        """``Budget.settle`` for a process."""
        self.reserved[holder][worst] -= 1
        self.budget.settle(worst, actual)

    async def begin(self, holder: str) -> None:
        """Count as spent whatever a process had set aside when it died: nobody will tell what came of it."""
        for worst in self.reserved.pop(holder, Counter()).elements():
            self.budget.settle(worst, worst)

    async def spent(self) -> float:
        """US dollars."""
        return self.budget.spent


class _Pace:
    """A ``limits.Pace`` that is kept elsewhere."""

    def __init__(self, keeper: Any, name: str) -> None:
        self.keeper, self.name = keeper, name

    async def wait(self, weight: float = 1.0) -> None:
        await self.keeper.wait.remote(self.name, weight)

    def pause(self, seconds: float) -> None:
        self.keeper.pause.remote(self.name, seconds)


class _Budget:
    """A ``limits.Budget`` that is kept elsewhere."""

    def __init__(self, keeper: Any, holder: str) -> None:
        self.keeper, self.holder = keeper, holder

    async def reserve(self, worst: float) -> None:
        if error := await self.keeper.reserve.remote(self.holder, worst):
            raise error

    def settle(self, worst: float, actual: float) -> None:
        self.keeper.settle.remote(self.holder, worst, actual)


class Allowance:
    """The allowance of an endpoint, as every process may hold it.

    Args:
        settings: the endpoint's (``EndpointSettings``).
    """

    def __init__(self, settings: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the caller: it must not go with a machine that the run can do without.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        given = (settings.requests_per_minute, settings.tokens_per_minute, settings.spending_cap_usd)
        self.keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(*given)

    def give(self, llm: Any) -> None:
        """Let an endpoint of this process keep within the allowance."""
        llm.share(_Pace(self.keeper, "requests"), _Pace(self.keeper, "tokens"), _Budget(self.keeper, _holder()))

    def begin(self) -> None:
        """Tell that this process has nothing under way."""
        import ray

        ray.get(self.keeper.begin.remote(_holder()))


def of(llm: Callable[[], Any]) -> Allowance | None:
    """The allowance of the model that a function makes; None where it is no endpoint."""
    from hybridrec.scale.cluster import start

    endpoint = getattr(llm(), "endpoint", None)
    if endpoint is None:
        return None
    start()
    return Allowance(endpoint)


def _holder() -> str:
    """This process; one that Ray starts in the place of another has the same."""
    import ray

    return str(ray.get_runtime_context().get_actor_id())
