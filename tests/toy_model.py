"""A model for tests: it answers from a function, remembers what it was asked, and dies when it is told to."""

from collections.abc import Callable

from hybridrec.llm.recordings import request_key
from hybridrec.llm.runner import Asked, Failure, Finished, Keep, Response

USAGE = {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 2, "seconds": 0.1}


def reply(asked: Asked) -> Response:
    """An answer of the kind that is asked for; a written one names the candidates from the last to the first."""
    request = asked.request
    n = len(request["candidates"])
    answers = {
        "generate": {"text": "\n".join(reversed(request["candidates"])), "finish_reason": "stop"},
        "score": {"log_probs": [-float(i + 1) for i in range(n)], "lengths": list(range(1, n + 1))},
        "choose": {"log_probs": [[-float(i), -1.0] for i in range(n)], "lengths": [3] * n},
    }
    return answers[request["kind"]] | USAGE


class ToyModel:
    """Implements runner.Model.

    Args:
        reply: the answer, or the Failure, to what is asked.
        width: how many requests are under way before the first is answered; then the newest is answered first.
        lives: how many requests it takes on before it dies as if by Ctrl-C.
    """

    name = "toy"

    def __init__(
        self, reply: Callable[[Asked], Response | Failure] = reply, width: int = 1, lives: int = 10**9
    ) -> None:
        self.reply, self.width, self.lives = reply, width, lives
        self.asked: list[Asked] = []
        self.under_way: list[tuple[Asked, Keep]] = []
        self.closed = 0

    def key(self, asked: Asked) -> str:
        return request_key({"model": self.name, **asked.request}, asked.attempt)

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        self.asked.append(asked)
        self.under_way.append((asked, keep))
        return self.wait() if len(self.under_way) >= self.width else []

    def wait(self) -> Finished:
        if not self.under_way:
            return []
        asked, keep = self.under_way.pop()
        outcome = self.reply(asked)
        return [(asked, outcome if isinstance(outcome, Failure) else keep(asked, outcome))]

    def usd(self, response: Response) -> float:
        return 0.001 * (response["prompt_tokens"] + response["completion_tokens"])

    def close(self) -> None:
        self.closed += 1
        self.under_way.clear()


class NeverAsked(ToyModel):
    """For runs in which everything is recorded: an AssertionError if anything is asked."""

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        raise AssertionError("the model was asked though nothing had to be computed")
