"""Any language model goes through the notebooks: what it meant is what they rank, and what is missing is told."""

import contextlib
import copy
import functools
import hashlib
import pickle
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_server
import notebooks_here
import numpy as np
import pandas as pd
import pytest
import tiny_model
from fault_server import Reply, Request, Seen, candidates, completion, error, serve
from notebooks_here import run
from toy_model import ToyModel, reply

from hybridrec.data import splits
from hybridrec.errors import NotebookError
from hybridrec.evaluation import cross
from hybridrec.llm import planted, prompts, rankers, ways
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Response
from hybridrec.study import (
    allocation_report,
    config,
    cross_tasks,
    families,
    models,
    notebooks,
    paths,
    prompting,
    tables,
)

FIRST = [name for name in notebooks_here.NAMES if name < "04"]
ASKING = notebooks_here.NAMES[len(FIRST) :]
MODEL = "acme/oracle-9000"
VALUES: dict[str, Any] = {
    "dataset": "mine",
    "noun": "song",
    "like_threshold": 4.0,
    "rating_scale": 5,
    "seed": 5,
    "recommenders": ["MostPop", "EASE"],
    "grids": {"EASE": [300]},
    "folds": 3,
    "top": 10,
    "performance_threshold": 0.5,
    "model": MODEL,
    "modes": ["listwise", "listwise-labels"],
    "everybody_modes": [],
    "history_length": 5,
    "shuffles": 2,
    "shuffled_users": 5,
    "topk_modes": [],
    "topk_users": 5,
    "bootstrap_samples": 100,
    "ratings": {"file": "songs.csv", "user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp",
                "title": "title"},
}  # fmt: skip
PRICES = f"""
date = "2026-11-27"
[local]
usd_per_hour = 0.1
[models."{MODEL}"]
prompt = 1.0
cached = 0.5
completion = 2.0
"""


def songs() -> pd.DataFrame:
    """60 users, 160 songs: every second user has rated about 40 of them, the others twice as many."""
    rng = np.random.default_rng(11)
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(60), np.arange(160), indexing="ij"))
    share = np.where(user % 2, 0.25, 0.5)
    table = pd.DataFrame({"user": user, "item": item, "rating": np.where((user + item) % 2, 4, 3)})
    table["rating"] = np.clip(table["rating"] + rng.integers(-2, 2, len(table)), 1, 5)
    table["timestamp"] = rng.integers(880_000_000, 890_000_000, len(table))
    table["title"] = [f"{'ZYXWVUTSRQ'[n % 10]}olka number {n}" for n in table["item"]]
    return table[rng.random(len(table)) < share]


# --- models that answer as declared -----------------------------------------------------------------------------------


def shown(message: str) -> dict[str, str]:
    """Title by what an answer may call it (its label, or the title itself), in the order shown."""
    offered = message.split("Here are the candidate ")[1]
    labelled = dict(re.findall(r"^(C\d+) (.*)$", offered, re.M))
    return labelled or {title: title for title in candidates(message)}


def meant(message: str) -> list[str]:
    """The order that every model of this file means: by title."""
    offered = shown(message)
    return sorted(offered, key=offered.__getitem__)


def with_faults(faults: dict[frozenset[str], str]) -> Callable[[Request], Reply]:
    """A server that ranks as meant, but for the users whose candidates are named."""

    def script(request: Request) -> Reply:
        order = meant(request.message)
        match faults.get(frozenset(shown(request.message).values())):
            case "refusal":
                return completion(request, "I'm sorry, but I cannot help with that.")
            case "empty":
                return completion(request, "")
            case "invented":
                nowhere = "C4711" if order[0].startswith("C") else "A Song Nobody Ever Sang"
                return completion(request, "\n".join([nowhere, *order[1:]]))
            case "500":
                return error(500)
        return completion(request, "\n".join(order))

    return script


def of_toy(text: Callable[[Asked], str] | None = None) -> Callable[[Asked], Response]:
    """The answers of a local model; what it writes is ``text``."""
    return lambda asked: reply(asked) | ({"text": text(asked)} if text and asked.request["kind"] == "generate" else {})


# --- the study --------------------------------------------------------------------------------------------------------

# What judges protocol ``cross``, and takes longest. Most models here are not asked under it, so that it is given the
# same again and again. Other tests say what comes of it, these that notebooks and tables go together.
SLOW = ((planted, "curve"), (families, "families"), (cross, "means"), (allocation_report, "bounded_harm"))


def remembered(function: Callable) -> Callable:
    """The function, which computes anew only what it was not given before, to the last bit."""
    known: dict[bytes, Any] = {}

    @functools.wraps(function)
    def answer(*args: Any, **named: Any) -> Any:
        given = hashlib.sha256(pickle.dumps((args, named))).digest()
        if given not in known:
            known[given] = function(*args, **named)
        return copy.deepcopy(known[given])

    return answer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the ratings, and what notebooks 01 to 03 make of them; nothing is written outside of it."""
    folder = tmp_path_factory.mktemp("prepared")
    songs().to_csv(folder / "songs.csv", index=False)
    (folder / "prices.toml").write_text(PRICES, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDREC_DATA", str(folder))
        patch.setenv("HYBRIDREC_SCRATCH", str(folder))
        patch.setattr(paths, "CACHE", folder / "cache")
        patch.setattr(paths, "PRICES", folder / "prices.toml")
        for module, name in SLOW:
            patch.setattr(module, name, remembered(getattr(module, name)))
        run(config.build("any", VALUES, "any.toml"), FIRST)
        yield folder


@pytest.fixture
def study(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder in which notebooks 01 to 03 have run."""
    shutil.copytree(prepared / "tables", tmp_path / "tables")
    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path))
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path / "recordings")
    return tmp_path


def whom() -> pd.Series:
    """The titles of each inactive user's candidates, by user."""
    sparsity, candidates, items = (tables.read("any", name) for name in ("sparsity", "candidates", "items"))
    rows = candidates[candidates["user"].isin(sparsity.loc[sparsity["inactive"], "user"])].merge(items, on="item")
    return rows.groupby("user")["title"].agg(frozenset)


def whom_across_folds() -> pd.Series:
    """The titles of each list of protocol ``cross``, by user and fold."""
    candidates, items = (tables.read("any", name) for name in ("cross_candidates", "items"))
    return candidates.merge(items, on="item").groupby(["user", "fold"])["title"].agg(frozenset)


def assert_answered_across_folds(lists: pd.Series, faults: dict[int, str]) -> None:
    """What protocol ``cross`` reads of the model is the order that was meant; who failed, failed as declared.

    Args:
        lists: ``whom_across_folds``.
        faults: what the server does to a user: "refusal", "empty", "invented" (the first is not named) or "500".
    """
    rows = tables.read("any", "cross_answers").query("ranker == 'llm'").merge(tables.read("any", "items"), on="item")
    seen = {"judged": set(), "deciding": set()}
    for (test, fold, user), ranking in rows.groupby(["test", "fold", "user"]):
        fault, order = faults.get(user), ranking.sort_values("score", ascending=False)["title"].tolist()
        first, *rest = sorted(lists[user, fold])
        seen["judged" if test == fold else "deciding"].add(user)
        if fault in ("refusal", "empty"):
            assert set(order) == {first, *rest} and (ranking["failure"] != "").all(), (user, fold)
        else:
            assert order == ([*rest, first] if fault == "invented" else [first, *rest]), (user, test, fold)
            assert (ranking["failure"] == "").all()
    silent = {user for user, fault in faults.items() if fault == "500"}
    for name, users in seen.items():
        assert users and not users & silent, f"{name}: without an answer there is no row"
        assert set(faults) - silent <= users, f"{name}: each fault was met"
    judged = cross_tasks.prepare(config.build("any", VALUES, "any.toml"))
    expected = set().union(*(judged.users(cell) for cell in judged.judged_cells))
    assert seen["judged"] == expected - silent and silent <= expected


def only(users: list[int]) -> None:
    """Make these the only inactive users."""
    sparsity, triage = tables.read("any", "sparsity"), tables.read("any", "triage")
    sparsity["inactive"] = sparsity["user"].isin(users)
    tables.write("any", sparsity=sparsity, triage=triage.assign(weak=triage["weak"] & triage["user"].isin(users)))


@contextlib.contextmanager
def behind(script: Callable[[Request], Reply], **changes: Any) -> Iterator[config.Experiment]:
    """The experiment with the model behind an endpoint."""
    with serve(script) as server:
        endpoint = {"base_url": server.url, "requests_per_minute": 1_000_000, "retries": 0}
        endpoint |= changes.pop("endpoint", {})
        yield config.build("any", VALUES | changes | {"endpoint": endpoint}, "any.toml")


def local(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Asked], Response]) -> None:
    """Every model of this machine answers like that."""
    monkeypatch.setattr(models, "local", lambda name, *_, **__: type("Local", (ToyModel,), {"name": name})(answer))


def published(study: Path, name: str) -> pd.DataFrame:
    """A published table; all that the notebooks publish is there, and every figure is of this model alone."""
    results = study / "results" / "any"
    figures = {file.stem: file.read_text(encoding="utf-8") for file in results.glob("*.svg")}
    assert {name[:2] for name in figures} >= {"04", "05", "06"} and (results / "metrics.json").is_file()
    assert MODEL in figures["05_published_pattern"] and MODEL in figures.get("05_larger_models", MODEL)
    assert not [name for name, drawn in figures.items() if "SmolLM2" in drawn or "GPT-3.5" in drawn]
    return pd.read_csv(results / f"{name}.csv")


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rankings_are_those_that_were_meant_and_failures_those_that_were_declared(study, capsys):
    titles = whom()
    users, crossed = titles.index[:4], whom_across_folds()
    by_user = dict(zip(users, ("refusal", "empty", "invented", "500"), strict=True))
    faults = {titles[user]: fault for user, fault in by_user.items()}
    faults |= {crossed[user, fold]: by_user[user] for user, fold in crossed.index if user in by_user}
    with behind(with_faults(faults), cross_ways=["listwise"]) as settings:
        run(settings, ASKING)
    assert_answered_across_folds(crossed, by_user)
    rows = tables.read("any", "rankings").merge(tables.read("any", "items"), on="item")
    assert set(rows["ranker"]) == set(VALUES["modes"])
    for ranker, of_ranker in rows.groupby("ranker"):
        assert set(of_ranker["user"]) == set(titles.index)
        for user, ranking in of_ranker.groupby("user"):
            order = ranking.sort_values("score", ascending=False)["title"].tolist()
            first, *rest = sorted(titles[user])
            if user == users[2]:
                assert order == [*rest, first], "what was not named follows at the end"
                assert (ranking["invalid"] == 1).all() and (ranking["missing"] == 1).all()
            elif user not in users:
                assert order == [first, *rest], (ranker, user)
                assert (ranking["missing"] == 0).all()
        failed = of_ranker[of_ranker["failure"] != ""]
        assert set(failed["user"]) == set(users[[0, 1, 3]]), ranker
    said = capsys.readouterr().out
    for ranker in VALUES["modes"]:
        assert f"{MODEL}, {ranker}: 3 of {len(titles)} lists have no answer" in said
    assert f"Not run: no larger model was asked. Below stands {MODEL} alone" in said
    larger = published(study, "larger_models")
    assert (larger["model"] == MODEL).all() and larger["unanswered"].between(1, 3).all()  # of those who have a pair
    assert set(published(study, "claims")["verdict"]) and published(study, "costs")["usd"].max() > 0


LARGER = [
    {"model": "acme/small-1B", "users": {"listwise": 8, "likelihood": 10}},
    {"model": "SmolLM-1.7B", "users": {"listwise": 5, "pointwise": 5}},
]


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["they answer", "they do not"])
def test_larger_models_stand_beside_one_behind_an_endpoint(study, monkeypatch, capsys, silent):
    local(monkeypatch, of_toy((lambda _: "") if silent else None))
    with behind(with_faults({}), larger_models=LARGER) as settings:
        run(settings, ASKING)
    said, table = capsys.readouterr().out, published(study, "larger_models")
    drawn = (study / "results" / "any" / "05_larger_models.svg").read_text(encoding="utf-8")
    for one in LARGER:
        assert one["model"] in drawn
        for mode, count in one["users"].items():
            assert f"{one['model']}, {mode}: {count} users" in said
            rows = table[(table["model"] == one["model"]) & (table["way"] == mode)]
            alone = rows[rows["against"] != MODEL]
            assert (alone["users_asked"] == count).all() and set(alone["against"]) == {"recommender", "random"}
            assert (alone["unanswered"] == (count if silent and mode == "listwise" else 0)).all()
    assert ("no answer could be used, of 8 lists" in said) == silent
    assert bool(re.search(r"acme/small-1B:</text>\s*<text[^>]*>listwise<", drawn)) == (not silent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "text"), [("local", ""), ("endpoint", "I'm sorry, I cannot help with that.")], ids=["empty", "refused"]
)
def test_a_model_of_failures_only_is_told(study, monkeypatch, capsys, where, text):
    local(monkeypatch, of_toy(lambda _: text))
    plain = contextlib.nullcontext(config.build("any", VALUES, "any.toml"))
    with behind(lambda request: completion(request, text)) if where == "endpoint" else plain as settings:
        run(settings, ASKING)
    said, n = capsys.readouterr().out, len(whom())
    for ranker in VALUES["modes"]:
        assert f"{MODEL}, {ranker}: no answer could be used, of {n} lists" in said
    larger = published(study, "larger_models")
    assert len(larger) and (larger["unanswered"] == larger["n"]).all() and set(larger["verdict"]) == {"cannot tell"}
    assert "no answer: 100%" in (study / "results" / "any" / "05_published_pattern.svg").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("users", "answers"), [("one", True), ("one", False), ("one without a pair", True), ("two", True)]
)
def test_one_user_or_two(study, capsys, users, answers):
    pairs = splits.with_a_pair(tables.read("any", "candidates"))
    with_a_pair, without = whom().index.intersection(pairs), whom().index.difference(pairs)
    few = {"one": with_a_pair[:1], "one without a pair": without[:1], "two": with_a_pair[:2]}[users]
    only(list(few))
    refuse = with_faults(dict.fromkeys(whom(), "refusal"))
    with behind(with_faults({}) if answers else refuse) as settings:
        run(settings, ASKING)
    assert set(tables.read("any", "rankings")["user"]) == set(few)
    asked = published(study, "larger_models")
    assert (asked["n"] == len(few.intersection(pairs))).all()
    assert asked["low"].isna().all() == (users != "two")
    assert ("no answer could be used" in capsys.readouterr().out) == (not answers)


@pytest.mark.slow
def test_a_model_of_this_machine_in_all_ways_and_one_in_labels_only(study, monkeypatch, capsys):
    local(monkeypatch, of_toy())
    scored = {"modes": ["listwise-labels", "likelihood", "pointwise"], "topk_modes": ["likelihood"]}
    run(config.build("any", VALUES | scored | {"everybody_modes": ["likelihood"]}, "any.toml"), ASKING)
    assert set(published(study, "topk")["ranker"]) >= {"likelihood", "random"}
    said = capsys.readouterr().out
    assert "listwise-labels: no share" in said and "likelihood: no share" not in said
    assert (published(study, "claims")["claim"] == "cost in proportion").sum() == 1
    run(config.build("any", VALUES | {"modes": ["listwise-labels"]}, "any.toml"), ASKING)
    assert set(published(study, "claims")["ranker"]) == {"listwise-labels"}
    assert "No way to ask re-ranks lists here" in capsys.readouterr().out


@pytest.mark.slow
def test_an_endpoint_that_gives_log_probabilities_scores_as_its_model_does_on_this_machine(study, tmp_path):
    folder, users = tiny_model.save(tmp_path / "tiny"), whom().index[:3]
    only(list(users))
    served, writes = model_server.Served(folder), with_faults({})

    def script(request: Request) -> Reply:
        scores = request.body.get("logprobs") or request.body.get("prompt_logprobs") is not None
        return (served if scores else writes)(request)

    changes = {"modes": ["listwise", "likelihood", "pointwise"], "cross_ways": ["likelihood"], "cross_users": 2}
    with behind(script, endpoint={"logprobs": True}, **changes) as settings:
        run(settings, [name for name in ASKING if name[:3] in ("04_", "05_")])
    tiny, none = HuggingFace(folder), Recordings(None)
    how = {"noun": settings.noun, "seed": settings.seed}
    rows = tables.read("any", "rankings")
    assert set(rows["user"]) == set(users)
    # A model with made-up weights says neither Yes nor No, so its order by their difference is no answer.
    assert rows.groupby("ranker")["failure"].unique().loc[["likelihood", "pointwise"]].tolist() == [[""], ["no answer"]]
    named = ("interactions", "candidates", "items")
    shown = (settings.noun, settings.seed, settings.history_length, settings.rating_scale)
    split = prompting.Split(*(tables.read("any", name) for name in named), users, *shown)
    assert_same_scores(rows[rows["ranker"] == "likelihood"], rankers.rank(split.own, "likelihood", tiny, none, **how))
    cross, way = cross_tasks.prepare(settings), ways.get("likelihood")
    answers = tables.read("any", "cross_answers").query("ranker == 'llm' and fold == test")
    assert len(answers) and (answers["failure"] == "").all()
    for fold, of_fold in answers.groupby("fold"):
        tasks = cross.tasks(way, (fold, fold), sorted(set(of_fold["user"])))
        assert_same_scores(of_fold, rankers.rank(tasks, way.mode, tiny, none, **how))


def assert_same_scores(found: pd.DataFrame, expected: Iterator[rankers.Ranking]) -> None:
    """The same lists with the same scores, as near as an API tells them."""
    columns = ["user", "item", "score"]
    both = found[columns].merge(rankers.table(expected)[columns], on=["user", "item"], how="outer")
    assert len(both) == len(found) > 0 and both["score_x"].nunique() > 3
    assert (both["score_x"] - both["score_y"]).abs().max() < 0.001


# --- the experiment with a closed model that is in this repository ----------------------------------------------------


@pytest.mark.slow
def test_the_experiment_with_gpt_4o_mini_against_a_server_of_ours(tmp_path, monkeypatch):
    """As it stands in its file, but for fewer users and recommenders, the address, and an account's allowances."""
    if not any(paths.RAW.glob("ml-100k*")):
        pytest.skip("MovieLens 100K is not on this disk: `make data` fetches it")
    values = tomllib.loads((paths.EXPERIMENTS / "ml-100k-gpt-4o-mini.toml").read_text(encoding="utf-8"))
    for variable in ("SCRATCH", "RECORDINGS"):
        monkeypatch.setenv(f"HYBRIDREC_{variable}", str(tmp_path))
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path)  # for what runs here; the variable is for kernels
    monkeypatch.setattr(paths, "PRICES", paths.ROOT / "data" / "prices.toml")  # not those of the study above
    monkeypatch.setenv(values["endpoint"]["key_variable"], "a-key-that-is-long-enough")
    with serve(with_faults({})) as server:
        pace = {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000}
        endpoint = values["endpoint"] | {"base_url": server.url} | pace
        values |= {"users": 50, "recommenders": list(config.PUBLISHED_RECOMMENDERS)}
        full = config.build("closed", values | {"endpoint": endpoint}, "closed.toml")
        poor = config.build("closed", values | {"endpoint": endpoint | {"spending_cap_usd": 0.002}}, "")
        run(full, FIRST)
        with pytest.raises(NotebookError, match="SpendingCapError"):
            notebooks.run(poor, ASKING[0])
        spent = len(server.log)
        assert 0 < sum(usd(seen) for seen in server.log) <= 0.002
        notebooks.run(full, ASKING[0])
        run(full, ASKING[1:])
    assert 0 < spent < len(server.log) == len({seen.body for seen in server.log}), "no answer was paid for twice"
    rows = tables.read("closed", "rankings").merge(tables.read("closed", "items"), on="item")
    for (ranker, user), ranking in rows.groupby(["ranker", "user"]):
        titles = ranking.sort_values("score", ascending=False)["title"].tolist()
        assert titles == sorted(titles, key=prompts.one_line), (ranker, user)
    crossed = tables.read("closed", "cross_answers").merge(tables.read("closed", "items"), on="item")
    assert (crossed.query("ranker == 'llm'")["failure"] == "").all() and set(crossed["model"]) == {"gpt-4o-mini"}
    for key, ranking in crossed.query("ranker == 'llm'").groupby(["test", "fold", "user"]):
        titles = ranking.sort_values("score", ascending=False)["title"].tolist()
        assert titles == sorted(titles, key=prompts.one_line), key
    costs = pd.read_csv(tmp_path / "results" / "closed" / "costs.csv").query("routing == 'everybody inactive'")
    for row in costs.itertuples():
        assert row.usd == pytest.approx((row.prompt_tokens * 0.15 + row.completion_tokens * 0.60) / 1e6, abs=1e-6)
    bodies = [request.body for request in server.requests]
    assert all({name: body[name] for name in full.endpoint.parameters} == full.endpoint.parameters for body in bodies)
    drawn = tmp_path / "results" / "closed" / "05_published_pattern.svg"
    assert {"gpt-4o-mini", "GPT-3.5 (paper)"} <= set(re.findall(r"gpt-4o-mini|GPT-3.5 \(paper\)", drawn.read_text()))


def usd(seen: Seen) -> float:
    """What an answer costs by the prices of data/prices.toml."""
    return (seen.tokens[0] * 0.15 + seen.tokens[1] * 0.60) / 1e6
