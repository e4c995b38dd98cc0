"""On Ray: the same results as without it, however many processes and machines there are, and when some of them die."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fault_server
import numpy as np
import pandas as pd
import pytest
import toy_model

import hybridrec as hr
from hybridrec import scale
from hybridrec.data.datasets import Dataset
from hybridrec.errors import SpendingCapError
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Failure, Finished, Keep
from hybridrec.scale import cluster
from hybridrec.study import paths

ray = pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'hybridrec[ray]'")
pytestmark = pytest.mark.slow
TESTS, PAGE = str(Path(__file__).parent), paths.ROOT / "docs" / "scale.md"
SHARDS, BATCH = 6, 4


class Logged(toy_model.ToyModel):
    """Answers from the request alone, and writes down what it was asked, by whom."""

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        super().__init__(reply=self.read)
        self.log, self.seconds = log, seconds

    def submit(self, asked: Asked, keep: Keep) -> Finished:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{self.key(asked)} {os.getpid()} {asked.user}\n")
        time.sleep(self.seconds)
        return super().submit(asked, keep)

    @staticmethod
    def read(asked: Asked) -> dict | Failure:
        """A number for each title that depends on the history; of a few users no answer is to be had."""
        if asked.user % 17 == 0:
            return Failure("out of order")
        titles = asked.request["candidates"]
        value = [-1.0 - sum(map(ord, title + asked.request["instruction"])) % 97 / 7 for title in titles]
        return {"log_probs": value, "lengths": [len(title.split()) for title in titles], **toy_model.USAGE}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[Path, dict[str, pd.DataFrame]]:
    """Made-up tables, each in three files. One user has rated 50,000 items, one item has a title of 10,000 characters.

    Users 5 and 999 are ranked for: the one with that title among the candidates or in the history, the one of so many.
    """
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(1)
    all_items = pd.DataFrame({"item": np.arange(60_000), "title": [f"Film {n} (1990)" for n in range(60_000)]})
    all_items.loc[17, "title"] = "An endless title " * 590
    all_items["genres"] = "Drama"
    grid = pd.DataFrame({"user": np.repeat(np.arange(1, 81), 300), "item": np.tile(np.arange(300), 80)})
    grid = grid[rng.random(len(grid)) < 0.05 + 0.3 * (grid["user"] % 3 == 0)]
    grid = grid[(grid["user"] != 5) | (grid["item"] != 17)]
    grid = pd.concat(
        [grid, pd.DataFrame({"user": 5, "item": [17]}), pd.DataFrame({"user": 999, "item": np.arange(50_000)})]
    )
    grid["rating"] = rng.integers(1, 6, len(grid)).astype(float)
    grid["timestamp"] = rng.integers(8e8, 9e8, len(grid))
    later = rng.random(len(grid)) < np.where(grid["user"] == 999, 0.001, 0.3)
    known = grid[~later].sort_values(["user", "item"], ignore_index=True)
    rest = grid[later].reset_index(drop=True)
    scores = known[["user", "item"]].assign(
        score=rng.integers(30, size=len(known)) / 7, fold=rng.integers(5, size=len(known))
    )
    made = {
        "ratings": known,
        "out_of_fold": scores.sample(frac=0.97, random_state=2),
        "candidates": rest[["user", "item"]],
        "own": rest[["user", "item"]].assign(score=rng.random(len(rest))),
        "outcomes": rest[["user", "item", "rating"]],
    }
    for name, table in made.items():
        (folder / name).mkdir()
        for number, rows in enumerate(np.array_split(np.arange(len(table)), 3)):
            table.iloc[rows].to_parquet(folder / name / f"{number}.parquet", index=False)
    made["items"] = all_items
    return folder, made


@pytest.fixture(scope="module")
def plain(tables, tmp_path_factory) -> dict:
    """What the library itself finds."""
    _, made = tables
    data = Dataset.read(made["ratings"], made["items"], timestamp="timestamp", genres="genres", like=4)
    with pytest.warns(UserWarning, match="have no score"):
        weak = hr.triage(data, hr.FromTable(made["out_of_fold"]))
    routed = hr.allocate(weak, budget_users=30)
    routed = pd.concat([routed, pd.DataFrame({"user": [5, 999]})]).drop_duplicates("user")
    routed = routed[routed["user"].isin(made["candidates"]["user"])]
    answers = tmp_path_factory.mktemp("plain") / "answers.sqlite"
    log = answers.with_name("log")
    ranker = hr.Ranker(Logged(log), "likelihood", answers, noun="film")
    ranked = ranker.rank(data, made["candidates"], routed)
    final = hr.combine(made["own"], ranked, routed)
    found = hr.compare(final, made["outcomes"], data)
    recordings = {key: ranker.recordings[key] for key in ranker.recordings}
    return {"weak": weak, "routed": routed, "ranked": ranked, "final": final, "found": found, "answers": recordings}


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two machines, as far as Ray can tell."""
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "RAY_worker_niceness": "0"}  # Ray's own is 15: all others would go first
    before = dict(os.environ)
    os.environ.update(environment)
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
    nodes.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    cluster.start(nodes.address)
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def divided(two_nodes, tables, tmp_path_factory) -> scale.Divided:
    folder, made = tables
    given = {name: folder / name for name in made if name != "items"}
    return scale.divide(tmp_path_factory.mktemp("divided"), made["items"], like=4, shards=SHARDS, **given)


def sorted_table(files: list[Path]) -> pd.DataFrame:
    table = pd.concat(map(pd.read_parquet, files))
    return table.sort_values(["user", "item"], ignore_index=True)


def by_pair(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["user", "item"], ignore_index=True)


def test_triage_is_the_same(divided, plain):
    with pytest.warns(UserWarning, match="have no score"):
        found = scale.triage(divided)
    pd.testing.assert_frame_equal(found.table, plain["weak"].table, check_exact=True)
    assert str(found) == str(plain["weak"])


@pytest.mark.parametrize("actors", [1, 2, 4])
def test_rankings_recordings_and_metrics_are_the_same(actors, divided, plain, tmp_path):
    log, answers = tmp_path / "log", tmp_path / "answers.sqlite"
    how = {"noun": "film", "batch": BATCH, "actors": actors, "cpus": 0.5}
    counts = scale.rank(divided, lambda: Logged(log), answers, plain["routed"], **how)
    asked = [line.split() for line in log.read_text("utf-8").splitlines()]
    assert 1 <= len({pid for _, pid, _ in asked}) <= actors
    pd.testing.assert_frame_equal(sorted_table(divided.parts("ranked")), by_pair(plain["ranked"]), check_exact=True)
    recorded = Recordings(answers)
    assert {key: recorded[key] for key in recorded} == plain["answers"]
    assert counts == {
        "users": len(plain["routed"]), "answers": len(plain["answers"]),
        "no_answer": plain["ranked"].query("failure != ''")["user"].nunique(),
    }  # fmt: skip
    assert scale.combine(divided, plain["routed"]) == plain["final"].attrs
    pd.testing.assert_frame_equal(sorted_table(divided.parts("final")), by_pair(plain["final"]), check_exact=True)
    found = scale.compare(divided)
    pd.testing.assert_frame_equal(found.table, plain["found"].table, check_exact=True)
    assert str(found) == str(plain["found"])
    log.unlink()
    again = scale.rank(divided, lambda: Logged(log), answers, plain["routed"], **how)
    assert again["answers"] == 0  # but for failures, which have no recording, nobody is asked again
    assert {int(user) % 17 for _, _, user in map(str.split, log.read_text("utf-8").splitlines())} <= {0}


def kill_after(log: Path, lines: int, kill) -> threading.Thread:
    """Kill once so many requests were asked."""

    def wait() -> None:
        while not log.exists() or len(log.read_text("utf-8").splitlines()) < lines:
            time.sleep(0.02)
        kill([line.split()[1] for line in log.read_text("utf-8").splitlines()])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def asked_and_recorded(log: Path, answers: Path, plain: dict) -> None:
    """Every answer is recorded, as without Ray; at most one batch was asked again, and nothing recorded."""
    recorded = Recordings(answers)
    assert {key: recorded[key] for key in recorded} == plain["answers"]
    lines = [line.split() for line in log.read_text("utf-8").splitlines()]
    keys = [key for key, _, user in lines if int(user) % 17]
    assert set(keys) == set(plain["answers"])
    again = pd.Series(keys).duplicated(keep=False)
    assert pd.Series(keys).duplicated().sum() <= BATCH
    users = pd.Series([int(user) for _, _, user in lines if int(user) % 17])[again].unique()
    assert len(users) <= BATCH and pd.Series(keys).value_counts().max() <= 2


def test_when_a_process_is_killed_at_most_one_batch_is_asked_again(divided, plain, tmp_path):
    log, answers = tmp_path / "log", tmp_path / "answers.sqlite"
    kill = kill_after(log, 9, lambda pids: os.kill(int(pids[-1]), signal.SIGKILL))
    how = {"noun": "film", "batch": BATCH, "actors": 2, "cpus": 0.5}
    counts = scale.rank(divided, lambda: Logged(log, 0.2), answers, plain["routed"], **how)
    kill.join()
    assert (counts["users"], counts["answers"]) == (len(plain["routed"]), len(plain["answers"]))
    assert len({line.split()[1] for line in log.read_text("utf-8").splitlines()}) == 3, "nobody took its place"
    pd.testing.assert_frame_equal(sorted_table(divided.parts("ranked")), by_pair(plain["ranked"]), check_exact=True)
    asked_and_recorded(log, answers, plain)


def test_an_error_ends_the_run_when_the_others_have_recorded_what_they_were_at(divided, plain, tmp_path):
    log, answers = tmp_path / "log", tmp_path / "answers.sqlite"

    class Spent(Logged):
        def submit(self, asked: Asked, keep: Keep) -> Finished:
            if self.log.exists() and len(self.log.read_text("utf-8").splitlines()) >= 6:
                raise SpendingCapError("the cap is reached")
            return super().submit(asked, keep)

    how = {"noun": "film", "batch": BATCH, "actors": 2, "cpus": 0.5}
    with pytest.raises(SpendingCapError, match="the cap is reached"):
        scale.rank(divided, lambda: Spent(log, 0.1), answers, plain["routed"], **how)
    keys = [line.split()[0] for line in log.read_text("utf-8").splitlines() if int(line.split()[2]) % 17]
    assert set(Recordings(answers)) == set(keys)
    log.rename(tmp_path / "first")
    scale.rank(divided, lambda: Logged(log), answers, plain["routed"], **how)
    asked = [line.split()[0] for line in log.read_text("utf-8").splitlines()]
    assert not set(asked) & set(keys) and set(Recordings(answers)) == set(plain["answers"])


def test_what_ranking_costs_is_what_the_ranker_says(divided, plain, tables):
    _, made = tables
    data = Dataset.read(made["ratings"], made["items"], timestamp="timestamp", genres="genres", like=4)
    model = toy_model.ToyModel
    wanted = hr.Ranker(model(), noun="film").estimate(data, made["candidates"], plain["routed"])
    found = scale.estimate(divided, model, plain["routed"], noun="film", batch=BATCH, cpus=0.5)
    pd.testing.assert_frame_equal(found, wanted.sort_values("user", ignore_index=True))


def test_an_endpoints_spending_cap_is_one_for_all_processes(divided, plain, tmp_path):
    written = 50

    def dear(request: fault_server.Request) -> fault_server.Reply:
        """Bills each request as high as it can come to: a token a byte, and the longest answer."""
        reply = fault_server.ranked(request)
        body = json.loads(reply.content)
        body["usage"] = {"prompt_tokens": len(request.raw), "completion_tokens": written}
        billed = (len(request.raw), written)
        return dataclasses.replace(reply, content=json.dumps(body), tokens=billed, delay=0.05)

    users = plain["routed"].query("user != 999")
    with fault_server.serve(dear) as server:
        price = {"prompt": 1.0, "cached": 1.0, "completion": 1.0}
        given = {"price": price, "parameters": {"max_tokens": written}, "concurrency": 2}
        how = {"mode": "listwise", "noun": "film", "batch": BATCH, "actors": 2, "cpus": 0.5}
        scale.rank(divided, lambda: Endpoint("toy", server.url, **given), tmp_path / "whole.sqlite", users, **how)
        bills = [sum(seen.tokens) / 1e6 for seen in server.log]
        cap = sum(bills) * 0.6
        before = len(bills)
        with pytest.raises(SpendingCapError, match="the spending cap of"):
            capped = {**given, "spending_cap_usd": cap}
            scale.rank(divided, lambda: Endpoint("toy", server.url, **capped), tmp_path / "part.sqlite", users, **how)
        spent = sum(sum(seen.tokens) / 1e6 for seen in server.log[before:])
    # Two caps, one for each process, would let all through: neither has more than 60 % of the users.
    assert 0 < cap - spent < max(bills)
    assert len(Recordings(tmp_path / "part.sqlite")) == len(server.log) - before


def test_the_example_of_the_docs_runs_where_there_is_no_cluster(tables, tmp_path):
    (code,) = re.findall(r"```python\n(import hybridrec as hr\n.*?)```", PAGE.read_text("utf-8"), re.S)
    code, models = re.subn(
        r"    return hr.HuggingFace\(.*\)", "    import toy_model; return toy_model.ToyModel()", code
    )
    code, places = re.subn(r", gpus=0.25", ", cpus=0.5", code)
    code, starts = re.subn(r"scale.start\(\)", "scale.start(cpus=2, object_store_mib=80)", code)
    code, shards = re.subn(r"shards=64", "shards=4", code)
    assert models == places == starts == shards == 1
    folder, made = tables
    for name in made:
        if name != "items":
            (tmp_path / name).symlink_to(folder / name)
    made["items"].to_parquet(tmp_path / "items.parquet", index=False)
    environment = {"PYTHONPATH": os.pathsep.join([TESTS, *sys.path]), "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"AUC of \d+ of \d+ routed users", done.stdout)
    assert len(Recordings(tmp_path / "answers.sqlite")) == len(
        pd.concat(map(pd.read_parquet, tmp_path.glob("work/*/ranked-*")))["user"].unique()
    )


# Last: the cluster has one machine left after it.
def test_when_a_machine_dies_at_most_one_batch_is_asked_again(two_nodes, divided, plain, tmp_path):
    log, answers, places = tmp_path / "log", tmp_path / "answers.sqlite", tmp_path / "places"

    class Placed(Logged):
        def __init__(self) -> None:
            super().__init__(log, 0.2)
            with open(places, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}\n")

    def kill(pids: list[str]) -> None:
        where = dict(line.split() for line in places.read_text("utf-8").splitlines())
        at_work = [where[pid] for pid in reversed(pids)]
        machines = {node.node_id: node for node in two_nodes.worker_nodes}
        two_nodes.remove_node(machines[next(one for one in at_work if one in machines)], allow_graceful=False)

    killed = kill_after(log, 9, kill)
    how = {"noun": "film", "batch": BATCH, "actors": 2, "cpus": 1.5}  # two do not fit on one machine
    two_nodes.add_node(num_cpus=2, object_store_memory=80 * 2**20)  # which takes the place of the dead one
    counts = scale.rank(divided, Placed, answers, plain["routed"], **how)
    killed.join()
    assert (counts["users"], counts["answers"]) == (len(plain["routed"]), len(plain["answers"]))
    made = [line.split()[0] for line in places.read_text("utf-8").splitlines()]
    assert len(made) == 4, "nobody took its place"  # this process looks whether it is an endpoint
    pd.testing.assert_frame_equal(sorted_table(divided.parts("ranked")), by_pair(plain["ranked"]), check_exact=True)
    asked_and_recorded(log, answers, plain)
