"""Answers that our stop rule ended are asked for again without it; what that changes is counted."""

import pandas as pd
import pytest
import tiny_model
from toy_model import USAGE, ToyModel

from hybridrec import errors
from hybridrec.llm import rankers
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.prompts import Item
from hybridrec.llm.recordings import Recordings, request_key
from hybridrec.llm.runner import Asked
from hybridrec.llm.tasks import Task
from hybridrec.study import config, estimate, heard_out, models, tables

USERS, TITLES = range(40), ["Alpha", "Beta", "Gamma", "Delta"]
TASKS = [Task(user, (Item("Old"),), tuple(range(4)), tuple(Item(title) for title in TITLES)) for user in USERS]


class Stopped(ToyModel):
    """Names two of four titles and is stopped for every second user; heard out, it names all of them."""

    begins_otherwise: frozenset[int] = frozenset()  # users to whom it names them the other way round, heard out

    def __init__(self, stop_loops: bool = True, **_: object) -> None:
        super().__init__(self.say)
        self.stop_loops = stop_loops

    def say(self, asked: Asked) -> dict:
        cut = self.stop_loops and asked.user % 2 == 0
        said = TITLES[:2] if cut else TITLES
        if not self.stop_loops and asked.user in self.begins_otherwise:
            said = TITLES[::-1]
        return {**USAGE, "text": "\n".join(said), "finish_reason": "loop" if cut else "stop",
                "completion_tokens": len(said)}  # fmt: skip

    def key(self, asked: Asked) -> str:
        return request_key({"loops": self.stop_loops, "user": asked.user, **asked.request}, asked.attempt)


@pytest.fixture
def settings(monkeypatch, tmp_path) -> config.Experiment:
    asked = [rankers.request_of(task, "listwise", "film") for task in TASKS]
    group, again = (estimate.Group(Stopped(), Recordings(None), "listwise", ones) for ones in (asked, asked[:3]))
    labels = pd.DataFrame(
        [(user, item, item < 2) for user in USERS for item in range(4)], columns=["user", "item", "relevant"]
    )
    monkeypatch.setattr(estimate, "in_batches", lambda settings: [group, again])
    monkeypatch.setattr(models, "local", lambda name, **how: Stopped(**how))
    kept = Recordings(tmp_path / "answers.sqlite")
    monkeypatch.setattr(models, "recordings_for", lambda dataset, model: kept)
    monkeypatch.setattr(tables, "read", lambda experiment, name: labels)
    return config.load("ml-100k")


def test_what_the_rule_ended_is_counted_and_what_it_hid_is_found(settings):
    (row,) = pd.concat(heard_out.compare(settings)).to_dict("records")
    assert (row["users"], row["stopped"], row["sample"], row["begin_alike"]) == (40, 20, 20, 1)
    assert (row["by_model"], row["by_budget"]) == (20, 0)
    assert (row["tokens_stopped"], row["tokens_heard_out"]) == (2, 4)
    assert (row["missing_stopped"], row["missing_heard_out"]) == (0.5, 0)
    # Two relevant titles are named first either way, so every pair is in order, whatever the repair appends.
    assert (row["n"], row["auc_stopped"], row["auc_heard_out"], row["difference"]) == (20, 1, 1, 0)
    # The two that were left out come in random order: about half of these repairs are the order of the whole answer.
    assert 0.2 < row["other_order"] < 0.8


def test_answers_that_begin_otherwise_are_counted_apart(settings, monkeypatch):
    (usual,) = pd.concat(heard_out.compare(settings)).to_dict("records")
    assert usual["other_order_alike"] == usual["other_order"]  # all of them begin alike
    every_fourth = frozenset(USERS[::4])  # half of those who were stopped
    monkeypatch.setattr(Stopped, "begins_otherwise", every_fourth)
    kept = Recordings(None)
    monkeypatch.setattr(models, "recordings_for", lambda dataset, model: kept)
    (row,) = pd.concat(heard_out.compare(settings)).to_dict("records")
    assert row["begin_alike"] == 0.5
    # Theirs are all another ranking. Of ten who begin alike the share is that of all ten; of twenty, half of it is.
    assert row["other_order"] == pytest.approx((1 + row["other_order_alike"]) / 2)
    assert 0 < row["other_order_alike"] < 1


def test_of_many_a_seeded_sample_is_heard_out(settings):
    first, again = (next(heard_out.compare(settings, 5)) for _ in range(2))
    assert first.equals(again)
    assert (first["stopped"].item(), first["sample"].item()) == (20, 5)


def test_behind_an_endpoint_there_is_nothing_to_hear_out(settings):
    behind = config.load("ml-100k-gpt-4o-mini")
    with pytest.raises(errors.CommandError, match="behind an endpoint"):
        next(heard_out.compare(behind))


def test_a_model_that_is_heard_out_has_recordings_of_its_own_and_no_loop(tmp_path):
    folder = tiny_model.save(tmp_path)
    usual, patient = HuggingFace(folder), HuggingFace(folder, stop_loops=False)
    written = {"kind": "generate", "instruction": "a", "candidates": ["b"] * 40}
    scored = {"kind": "score", "instruction": "a", "candidates": ["b"]}
    assert usual.key(Asked(1, written)) != patient.key(Asked(1, written))
    assert usual.key(Asked(1, scored)) == patient.key(Asked(1, scored))
    loop = usual.tokens("ab" * 60)
    assert usual._is_loop(loop) and not patient._is_loop(loop)
