"""The declared allowance is used to the full and not exceeded, and a long run needs no more memory than a short one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fault_server
import pytest
import rank_users
from fault_server import Schedule, Seen

from hybridrec.llm.recordings import Recordings

pytestmark = pytest.mark.slow

USERS = 20_000 if os.environ.get("HYBRIDREC_LONG") == "1" else 5_000  # whose memory is measured


def log_of_run(users: int, path: Path, **settings) -> list[Seen]:
    """What the server saw of a run in which each answer takes 0.1 s, so that one thread cannot do it alone."""
    with fault_server.serve_apart(Schedule(delay=0.1)) as server:
        rankings = list(rank_users.rank(range(users), rank_users.model(server.url, **settings), Recordings(path)))
        assert len(rankings) == users
        return server.log()


def test_at_least_90_percent_of_the_requests_allowed_are_made_and_never_more(tmp_path):
    """Measured by the server: over the whole run, and in every window of 5 and 10 seconds."""
    per_minute, users = 3_000, 600
    log = log_of_run(users, tmp_path / "toy.sqlite", requests_per_minute=per_minute, concurrency=16)
    span = log[-1].at - log[0].at
    busy = (len(log) - 1) / span / (per_minute / 60)
    most = {window: fault_server.most_within(log, window) for window in (0.5, 2, 5, 10)}
    print(f"\n{users} requests in {span:.2f} s at {per_minute:,} a minute: {busy:.1%} of the allowance")
    print(
        "the most in any window: "
        + ", ".join(f"{n} in {w} s (allowed {per_minute * w / 60:g})" for w, n in most.items())
    )
    assert busy >= 0.9
    assert busy <= 1
    for window in (5, 10):
        assert most[window] <= per_minute / 60 * window
    assert most[0.5] <= per_minute / 60 * 0.5 + 16  # no burst, also where the processor is busy with something else


def test_the_tokens_allowed_are_never_exceeded_though_the_answers_length_is_not_known_beforehand(tmp_path):
    """The server counts as providers do: the prompt's tokens and the longest answer that was allowed."""
    per_minute, longest = 300_000, 1_000
    parameters = {"max_tokens": longest, "seed": rank_users.SEED}
    log = log_of_run(20, tmp_path / "toy.sqlite", tokens_per_minute=per_minute, parameters=parameters)
    counted = sum(seen.tokens[0] + longest for seen in log[:-1])
    busy = counted / (log[-1].at - log[0].at) / (per_minute / 60)
    print(f"\n{busy:.1%} of the tokens allowed")
    assert 0.6 <= busy <= 1


def test_memory_is_flat_from_the_thousandth_request_to_the_last(tmp_path):
    """Flat: less than 10 MB more, that is 7 %. The client is a process of its own and measures itself.

    What stays of a request is its recording's key and place, some 300 bytes: 6 MB for 20,000 requests.
    """
    began = time.time()
    with fault_server.serve_apart(Schedule()) as server:
        command = [sys.executable, rank_users.__file__, server.url, str(tmp_path / "toy.sqlite"), str(USERS)]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert server.count() == USERS
    sizes = {int(number): size for number, size in said["memory"].items()}
    grown = max(size for number, size in sizes.items() if number >= 1_000) - sizes[1_000]
    shown = {number: sizes[number] for number in (1_000, 2_000, 5_000, 10_000, 20_000) if number in sizes}
    print(f"\nresident memory by requests (MB): {shown}; {USERS:,} requests in {time.time() - began:.0f} s")
    assert said["failed"] == 0
    assert max(sizes) == USERS
    assert grown < 10
