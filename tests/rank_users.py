"""Ranks made-up users through an endpoint: the client that tests kill, and whose memory they measure.

Usage: rank_users.py BASE_URL RECORDINGS USERS. Prints one line of JSON when it is through.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from hybridrec.llm import prompts, rankers, runner
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.recordings import Recordings

LENGTH = 5
SEED = 11
# A further attempt draws from the next seed, so that on the server's side no two attempts look alike.
SETTINGS = {"requests_per_minute": 1e6, "concurrency": 8, "timeout": 5.0, "attempts": 3, "parameters": {"seed": SEED}}


def task(user: int) -> rankers.Task:
    """One user with a history of three films and five candidates."""
    history = tuple(prompts.Item(f"Old Film {user}-{number}") for number in range(3))
    items = tuple(prompts.Item(f"New Film {user}-{number}") for number in range(LENGTH))
    return rankers.Task(user, history, tuple(range(100, 100 + LENGTH)), items)


def mode_of(user: int) -> str:
    """Every fifth user is asked by titles, the others by labels."""
    return "listwise" if user % 5 == 0 else "listwise-labels"


def model(url: str, **settings: Any) -> Endpoint:
    """The endpoint at that address, without limits of its own unless told."""
    return Endpoint("toy", url, **(SETTINGS | settings))


def rank(
    users: range, model: Endpoint, recordings: Recordings, tally: runner.Tally | None = None
) -> Iterator[rankers.Ranking]:
    """Every user's ranking, in whatever order it comes."""
    for mode in ("listwise", "listwise-labels"):
        tasks = (task(user) for user in users if mode_of(user) == mode)
        attempts = model.endpoint.attempts
        yield from rankers.rank(tasks, mode, model, recordings, noun="film", seed=1, attempts=attempts, tally=tally)


def main() -> None:
    url, path, users = sys.argv[1], Path(sys.argv[2]), range(int(sys.argv[3]))
    memory: dict[int, float] = {}
    failed = 0
    for number, ranking in enumerate(rank(users, model(url), Recordings(path)), 1):
        failed += bool(ranking.failure)
        if number % 500 == 0:
            memory[number] = round(psutil.Process().memory_info().rss / 1e6, 1)
    print(json.dumps({"users": len(users), "failed": failed, "memory": memory}))


if __name__ == "__main__":
    main()
