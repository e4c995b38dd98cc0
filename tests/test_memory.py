"""What a model remembers: a planted model that has memorised is found out, one that has not is not."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import tiny_model
import torch
from scipy.stats import t
from toy_model import USAGE, NeverAsked, ToyModel

from hybridrec.errors import DatasetError
from hybridrec.llm import memory
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked

SEED, MODE = 5, "rating-lines"
WORDS = np.random.default_rng(1)
TITLES = [f"{a} of the {b} ({1950 + n})" for n, (a, b) in enumerate(WORDS.permutation(
    [(a, b) for a in ("House", "Return", "Night", "Tale") for b in ("Dog", "Sea", "Moon", "Fox", "Sun", "Owl", "Elk")]
))]  # fmt: skip
ITEMS = pd.DataFrame({"item": range(len(TITLES)), "title": TITLES})


def ratings(users: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = [(user, item, float(rng.integers(1, 6))) for user in range(users) for item in rng.permutation(28)[:16]]
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


def says(high) -> ToyModel:
    """A model to which these lines are more probable than others: high(request, line)."""

    def answer(asked: Asked) -> dict:
        lines = asked.request["candidates"]
        noise = [hashlib.sha256(f"{asked.user}{line}".encode()).digest()[0] / 256 for line in lines]
        values = [-9.0 - one + 5 * high(asked.request, line) for one, line in zip(noise, lines, strict=True)]
        return {"log_probs": values, "lengths": [3] * len(lines), **USAGE}

    return ToyModel(answer)


def auc(asked: list[Asked], model: ToyModel) -> float:
    return memory.values("p", asked, model, Recordings())["auc"].mean()


def users(**how) -> list[Asked]:
    return memory.user_requests(ratings(), range(30), ITEMS, MODE, "film", 5, SEED, **how)


def remembers(request: dict, line: str) -> bool:
    """It knows each user's list: whoever has rated all that is shown is the user, and those are the user's titles."""
    rated = {user: set(rows["item"]) for user, rows in ratings().groupby("user")}
    number = {title: item for item, title in enumerate(TITLES)}
    shown = {number[text[2:].rpartition(":")[0]] for text in request["instruction"].splitlines()[1:] if text}
    whose = [own for own in rated.values() if shown <= own]
    return bool(whose) and number[line[2:].rstrip(":")] in whose[0]


def test_who_has_memorised_is_found_out_and_who_has_not_is_not():
    forgetful = says(lambda *_: False)
    assert auc(users(), says(remembers)) == 1
    assert auc(users(), forgetful) == pytest.approx(0.5, abs=0.1)
    assert auc(users(another=True), says(remembers)) == pytest.approx(0.5, abs=0.1)
    titles = memory.title_requests(TITLES, MODE, "film", SEED)
    assert auc(titles, says(lambda _, line: line[2:].rstrip(":") in TITLES)) == 1
    assert auc(titles, forgetful) == pytest.approx(0.5, abs=0.15)


def test_an_invented_title_has_as_many_words_and_is_none_of_the_catalogues():
    found = memory.invented(["Alien", *TITLES], SEED)
    assert set(found) == set(TITLES), "of one word nothing can be made"
    words = {word for title in TITLES for word in title.split()}
    for title, made in found.items():
        assert len(set(made)) == 3 and not set(made) & {"Alien", *TITLES}
        assert {len(one.split()) for one in made} == {len(title.split())}
        assert {word for one in made for word in one.split()} <= words
    assert memory.invented(TITLES, SEED) == memory.invented(TITLES, SEED)
    assert memory.invented(TITLES, SEED + 1) != memory.invented(TITLES, SEED)


def test_a_matched_title_is_rated_as_often_and_not_by_the_user():
    """By hand: the nearest number of ratings of what is left, for one title after the other."""
    counts = pd.Series({"a": 9, "b": 5, "c": 1, "d": 8, "e": 5, "f": 4, "g": 2})
    assert memory._matched(["a", "b", "c"], counts[["d", "e", "f", "g"]], counts) == ["d", "e", "g"]
    table = ratings()
    rated = {user: {TITLES[item] for item in rows["item"]} for user, rows in table.groupby("user")}
    for one in users():
        lines = [line[2:].rstrip(":") for line in one.request["candidates"]]
        real, others = lines[: one.about], lines[one.about :]
        assert set(real) <= rated[one.user] and not set(others) & rated[one.user]
        assert len(real) == len(others) == len(set(others)) == 6
        before = {text[2:].rpartition(":")[0] for text in one.request["instruction"].splitlines()[1:] if text}
        assert before and before <= rated[one.user] - set(real)
    for one, own in zip(users(another=True), users(), strict=True):
        assert one.request["candidates"] == own.request["candidates"]
        assert one.request["instruction"] != own.request["instruction"]


def test_nobody_can_lend_a_list_alone():
    with pytest.raises(DatasetError, match="two are needed"):
        memory.user_requests(ratings(1), [0], ITEMS, MODE, "film", 5, SEED, another=True)


def test_what_was_answered_is_replayed_and_has_an_interval():
    asked, recordings = users(), Recordings()
    first = memory.values("users", asked, says(remembers), recordings)
    again = memory.values("users", asked, NeverAsked(), recordings)
    pd.testing.assert_frame_equal(first, again)
    (row,) = memory.table({"toy": first.assign(auc=np.linspace(0, 1, len(first)))}, SEED).to_dict("records")
    assert (row["model"], row["probe"], row["n"]) == ("toy", "users", 30)
    assert row["low"] < row["auc"] < row["high"] and row["auc"] == pytest.approx(0.5)


def test_one_probe_beyond_another_has_welchs_interval_by_hand():
    one, two = np.array([0.5, 0.7, 0.9, 0.6]), np.array([0.4, 0.5, 0.6])
    parts = [pd.DataFrame({"probe": name, "auc": values}) for name, values in (("a", one), ("b", two))]
    mean, low, high = memory.beyond(pd.concat(parts), "a", "b")
    errors = [values.var(ddof=1) / len(values) for values in (one, two)]
    degrees = sum(errors) ** 2 / (errors[0] ** 2 / 3 + errors[1] ** 2 / 2)
    half = t.ppf(0.975, degrees) * np.sqrt(sum(errors))
    assert (mean, low, high) == pytest.approx((0.175, 0.175 - half, 0.175 + half))


def test_a_plain_line_is_scored_as_the_text_goes_on_without_a_chat(tmp_path):
    model = HuggingFace(tiny_model.save(tmp_path / "tiny"))
    one = users()[0].request
    in_a_chat = {name: value for name, value in one.items() if name != "plain"}
    found, other = model.answer([one, in_a_chat])
    start = model.tokens(model.tokenizer.bos_token + one["instruction"])
    for line, value in zip(one["candidates"], found["log_probs"], strict=True):
        tokens = model.tokens(line)
        with torch.no_grad():
            logits = model.model(torch.tensor([start + tokens])).logits[0].log_softmax(-1)
        expected = sum(logits[len(start) + at - 1, token].item() for at, token in enumerate(tokens))
        assert value == pytest.approx(expected, abs=1e-3)
    assert found["log_probs"] != other["log_probs"]
    assert model.key(Asked(0, one)) != model.key(Asked(0, in_a_chat))
