"""A real server behind the endpoint client: ``transformers serve`` on this machine, with the study's own model.

The server and the local backend run the same weights, so greedy answers must agree as far as both go on. The local one
stops where a text has come into a loop (``writing.repeats``) or at each user's own budget, the server at
``max_tokens``, which is no larger.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridrec.data import splits
from hybridrec.llm import answers, rankers
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Finished, Keep, Response
from hybridrec.llm.tasks import build_tasks
from hybridrec.study import models as study_models
from hybridrec.study import steps

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODEL, NOUN, SEED, USERS = "SmolLM2-135M-Instruct", "film", 2024, 10
_ENOUGH = 40  # tokens of an answer, about four titles: more would only take longer
_STARTS_WITHIN = 300.0


class Overheard(Endpoint):
    """The endpoint client; it remembers what came back before anything was taken out of it."""

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.raw: dict[int, Response] = {}

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        def overhear(one: Asked, response: Response) -> Response:
            self.raw[one.user] = response
            return keep(one, response)

        return super().submit(asked, overhear)


@dataclass(frozen=True)
class Run:
    """Some users ranked by the server, and the local backend's answers to the same requests."""

    tasks: dict[int, rankers.Task]
    rankings: list[rankers.Ranking]
    served: dict[int, Response]
    local: dict[int, Response]
    recordings: Recordings
    model: Overheard


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_thread() -> Iterator[pytest.MonkeyPatch]:
    """One thread a process: two on a busy machine wait for each other and are tens of times slower.

    And no proxy between us and the loopback.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("HYBRIDREC_LLM", raising=False)
        yield patch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder() -> Path:
    return study_models.local(MODEL).folder()


@pytest.fixture(scope="module")
def address(folder, one_thread, tmp_path_factory) -> Iterator[str]:
    """The address of a running server; it is stopped whatever happens."""
    port, log = _free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1", "--port"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*map(str, command), str(port)], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _await(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(server)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    pytest.fail(f"the server did not start (exit status {server.poll()}):\n{said}")


def _stop(server: subprocess.Popen) -> None:
    for signal_sent in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            os.killpg(server.pid, signal_sent)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                continue
    assert server.poll() is not None


# --- the run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks() -> list[rankers.Task]:
    """Real users of the default experiment: those with the shortest prompts among who has three candidates or more."""
    data = steps.dataset("ml-100k")
    interactions = splits.split_per_user(data.interactions, SEED)
    candidates = splits.test_candidates(interactions, 4.0, SEED)
    sizes = candidates.groupby("user").size()
    known = interactions[interactions["split"] != "test"]
    built = build_tasks(sizes.index[sizes >= 3], known, candidates, data.items)
    return sorted(built, key=lambda task: len(_request(task)["instruction"]))[:USERS]


def _request(task: rankers.Task) -> dict:
    return rankers.request_of(task, "listwise", NOUN).request


@pytest.fixture(scope="module")
def run(address, folder, tasks, one_thread, tmp_path_factory) -> Run:
    local = study_models.local(MODEL)
    requests = [_request(task) for task in tasks]
    allowed = min(_ENOUGH, *(local._budget(request) for request in requests))
    model = Overheard(
        str(folder),
        base_url=address,
        parameters={"temperature": 0, "max_tokens": allowed},
        requests_per_minute=10_000,
        concurrency=2,
        timeout=300,
        retries=1,
    )
    recordings = Recordings(tmp_path_factory.mktemp("recordings") / "served.sqlite")
    start = time.perf_counter()
    with ThreadPoolExecutor(1) as aside:
        computed = aside.submit(local.answer, requests)
        rankings = list(rankers.rank(tasks, "listwise", model, recordings, noun=NOUN, seed=SEED))
        own = {task.user: response for task, response in zip(tasks, computed.result(), strict=True)}
    print(f"\n{USERS} users by server and local model: {time.perf_counter() - start:.0f} s, max_tokens {allowed}")
    return Run({task.user: task for task in tasks}, rankings, model.raw, own, recordings, model)


# --- what must hold ---------------------------------------------------------------------------------------------------


def test_every_ranking_is_a_permutation_of_the_candidates_and_a_failure_is_reported(run):
    assert sorted(ranking.user for ranking in run.rankings) == sorted(run.tasks)
    for ranking in run.rankings:
        assert ranking.candidates == run.tasks[ranking.user].candidates
        assert sorted(ranking.scores) == list(range(1, len(ranking.candidates) + 1))
        assert ranking.failure in ("", "empty", "refusal", "names no candidate")
        assert (ranking.failure != "") == (ranking.missing == len(ranking.candidates))
        assert ranking.used["prompt_tokens"] > 100 and ranking.used["completion_tokens"] > 0
    assert sum(not ranking.failure for ranking in run.rankings) >= 2


def test_no_request_had_to_be_sent_twice(run):
    assert run.model.faults == {}
    assert {ranking.attempts for ranking in run.rankings} == {1}


def test_the_server_is_shown_the_same_prompt_as_the_local_model(run):
    tokens = {user: response["prompt_tokens"] for user, response in run.served.items()}
    assert tokens == {user: response["prompt_tokens"] for user, response in run.local.items()}


def test_the_server_answers_like_the_local_model_as_far_as_both_go(run):
    """All agreed when this was written; a processor that rounds otherwise may turn one greedy choice."""
    lines, texts, orders, named, compared = [], [], [], 0, 0
    for user in run.tasks:
        served, local = run.served[user]["text"], run.local[user]["text"]
        cut_off = run.served[user]["finish_reason"] == "length"
        both = min(len(served), len(local)) if cut_off else len(local)
        compared += both
        lines.append(served.split("\n")[0] == local.split("\n")[0])
        texts.append(served[:both] == local[:both])
        orders.append(_order(run, user, served[:both]) == _order(run, user, local[:both]))
        named += _order(run, user, local[:both]) != ()
    same = f"same first line {sum(lines)}, same text {sum(texts)}, same order {sum(orders)} ({named} name a candidate)"
    print(f"\nof {USERS} users: {same}; {compared} characters compared")
    assert compared >= 50 * USERS
    assert min(sum(lines), sum(texts), sum(orders)) >= USERS - 1
    assert named >= 2


def _order(run: Run, user: int, text: str) -> tuple[int, ...]:
    return answers.parse_ranking(text, [item.title for item in run.tasks[user].items]).order


def test_recordings_of_real_answers_quote_no_history(run):
    """The model does write histories back: what came over the wire quotes them, what was written down does not."""
    written = "".join(run.recordings[key].get("text", "") for key in run.recordings)
    quoted = 0
    for user, task in run.tasks.items():
        shown = {item.title for item in task.items}
        private = [item.title for item in task.history if item.title not in shown]
        kept = run.recordings[run.model.key(rankers.request_of(task, "listwise", NOUN))]["text"]
        quoted += any(title in run.served[user]["text"] for title in private)
        assert not [title for title in private if title in kept]
    assert quoted >= 2
    assert "⟨history" in written


def test_a_second_run_replays_everything_without_the_server(run):
    class Unreachable(Endpoint):
        def submit(self, asked: Asked, keep: Keep) -> Finished:
            raise AssertionError(f"user {asked.user} was asked again")

    again = Unreachable(run.model.name, **run.model.endpoint.model_dump())
    replayed = list(rankers.rank(list(run.tasks.values()), "listwise", again, run.recordings, noun=NOUN, seed=SEED))
    scores = {ranking.user: ranking.scores for ranking in run.rankings}
    assert all(ranking.replayed for ranking in replayed)
    assert {ranking.user: ranking.scores for ranking in replayed} == scores
