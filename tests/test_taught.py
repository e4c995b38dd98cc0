"""The taught model under protocol ``cross``: nobody who was taught is asked about, and it is judged as others are."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from sklearn.metrics import roc_auc_score
from toy_model import USAGE, NeverAsked, ToyModel

from hybridrec.data import folds
from hybridrec.errors import ModelError, SettingError
from hybridrec.evaluation import arms
from hybridrec.evaluation.lists import Lists
from hybridrec.llm import memory, rankers, teach
from hybridrec.llm.models import weights
from hybridrec.llm.recordings import Recordings
from hybridrec.study import (
    config,
    cross_answers,
    cross_tasks,
    estimate,
    families,
    figures,
    models,
    paths,
    taught,
    teaching,
)
from hybridrec.weak_users import triage
from hybridrec.weak_users.cross import cross_triage

FOLDS, SEED, LIKE = 3, 2024, 4.0
LIMITS = triage.Thresholds()


def by_hash(asked):
    """Any answer that depends on all that is asked, and on nothing else."""
    request = asked.request
    said = [hashlib.sha256(f"{request['instruction']}{one}".encode()).digest() for one in request["candidates"]]
    if request["kind"] == "rate":
        values = [np.log(np.array([*one[:10]]) + 1.0) - np.log(4000) for one in said]
        return {"log_probs": [one.tolist() for one in values], "lengths": [3] * len(said), **USAGE}
    return {"log_probs": [-one[0] / 9 for one in said], "lengths": [2] * len(said), **USAGE}


def named(name: str, kind=ToyModel) -> ToyModel:
    model = kind(by_hash)
    model.name = name
    return model


def made_up() -> cross_tasks.Cross:
    """Sixty users of forty items, from a few ratings to nearly all."""
    rng = np.random.default_rng(7)
    rows = [(user, item) for user in range(60) for item in rng.permutation(40)[: 10 + user // 2]]
    rows = pd.DataFrame(rows, columns=["user", "item"])
    liking = 3 + rows["item"] % 5 / 2 - 1 + rng.normal(0, 1, len(rows))
    rows = rows.assign(rating=liking.round().clip(1, 5), timestamp=rng.permutation(len(rows)))
    titles = [f"{'Dog Fox Owl Elk'.split()[n % 4]} of {'Sea Sun Sky'.split()[n % 3]} {n}" for n in range(40)]
    items = pd.DataFrame({"item": range(40), "title": titles, "genres": ""})
    divided = folds.divide(rows, FOLDS, SEED)
    lists = folds.candidates(divided, LIKE, SEED)
    return cross_tasks.Cross(divided, lists, items, "film", LIKE, 5, SEED, LIMITS)


@pytest.fixture(scope="module")
def todo() -> taught.Taught:
    cross = made_up()
    asking = cross_answers.Asking(cross, named("toy taught"), Recordings(), ("rating lines",))
    card = {"settings": teach.Teaching(held_back=0.3).model_dump(), "seed": 5, "seconds": 3600.0, "device": "cpu"}
    settings = config.Taught(sample=9)
    return taught.Taught(asking, "toy", named("toy"), Recordings(), settings, card)


@pytest.fixture(scope="module")
def asked(todo) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "keep_live_recordings", lambda *_: None)
        return taught.record(todo)


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_who_is_taught_is_in_no_list_and_in_no_history_of_any_cell(todo):
    never = set(teaching.never_routed(todo.cross))
    assert never and never == set(todo.material.ratings["user"]) == {*todo.divided[0], *todo.divided[1]}
    divided = todo.cross.divided
    for out in [*todo.cross.judged_cells, *todo.cross.deciding_cells]:
        rated = divided[~divided["fold"].isin(out)].groupby("user").size()
        assert not never & set(rated.index[rated < rated.mean()]), "active by the mean, by hand"
        assert not never & set(todo.cross.users(out))
    of = todo.asking
    for tasks in (of.own, of.deciding, of.borrowed, todo.same_way):
        users = {task.user for ones in tasks.values() for task in ones}
        assert users and not users & never


def test_scrambled_ratings_of_inactive_users_leave_what_is_taught_the_same(todo):
    divided, never = todo.cross.divided, teaching.never_routed(todo.cross)
    others = ~divided["user"].isin(never)
    turned = divided.assign(rating=divided["rating"].mask(others, 6 - divided["rating"]))
    assert not turned["rating"].equals(divided["rating"])
    assert teaching.material(replace(todo.cross, divided=turned)).hash == todo.material.hash
    mine = divided.assign(rating=divided["rating"].mask(~others, 6 - divided["rating"]))
    assert teaching.material(replace(todo.cross, divided=mine)).hash != todo.material.hash


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_every_inactive_user_with_a_pair_is_asked_and_no_title_without_a_user(todo, asked):
    rows, cross = asked.set_index("stage"), todo.cross
    assert (rows["requests"] == rows["recorded"]).all()
    everybody = sum(len(cross.users(cell)) for cell in cross.judged_cells)
    assert rows.loc["own history", "requests"] == rows.loc["another user's history", "requests"] == everybody
    drawn = set(cross.inactive())
    decide = sum(len(drawn & set(cross.users(cell))) for cell in cross.deciding_cells)
    assert rows.loc["folds that decide", "requests"] == decide > 0
    assert 0 < rows.loc[taught.UNTAUGHT, "users"] <= 9
    requests = [one for _, ones, model, _ in todo.stages() if model is todo.asking.model for one in ones]
    assert {(one.request["kind"], one.request.get("plain")) for one in requests} == {("rate", None), ("score", True)}
    assert None not in {one.user for one in requests}


def test_answers_are_in_the_layout_of_cross_answers_and_replay(todo, asked):
    quiet = replace(todo.asking, model=named("toy taught", NeverAsked))
    again = replace(todo, asking=quiet, untaught=named("toy", NeverAsked))
    table = again.answers()
    assert list(table.columns) == cross_answers.COLUMNS
    assert list(table["ranker"].unique()) == [taught.TAUGHT, taught.ANOTHERS, taught.UNTAUGHT]
    assert not table.duplicated(["ranker", "test", "fold", "user", "item"]).any()
    by_ranker = table.groupby("ranker")
    assert (by_ranker["model"].unique().explode() == ["toy taught", "toy taught", "toy"]).all()
    decides = by_ranker.apply(lambda rows: (rows["fold"] != rows["test"]).any())
    assert decides.to_dict() == {taught.TAUGHT: True, taught.ANOTHERS: False, taught.UNTAUGHT: False}
    # One score by hand: the grade that is expected.
    (way, cell), tasks = next(iter(todo.asking.own.items()))
    odds = np.exp(by_hash(rankers.request_of(tasks[0], way.mode, "film"))["log_probs"])
    mine = table[(table["ranker"] == taught.TAUGHT) & (table["user"] == tasks[0].user) & (table["test"] == cell[0])]
    scores = mine[mine["fold"] == cell[1]].set_index("item")["score"]
    expected = (odds * range(10)).sum(axis=1) / odds.sum(axis=1)
    np.testing.assert_allclose(scores[list(tasks[0].candidates)], expected)
    remembered = again.remembered()
    assert set(remembered["taught"]["probe"]) == set(todo.probes) == set(remembered["untaught"]["probe"])


# --- how it is judged -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(todo, asked) -> tuple[taught.Judged, pd.DataFrame, pd.DataFrame]:
    """With a taught model that knows something, and recommenders that know less."""
    cross, rng = todo.cross, np.random.default_rng(3)
    liked, parts = cross.divided["rating"] >= LIKE, []
    for name, skill in {"ItemKNN": 0.3, "BPR": 0.5, "NeuMF": 0.4}.items():
        for test in range(FOLDS):
            score = skill * liked + rng.normal(size=len(liked))
            parts.append(cross.divided.assign(ranker=name, draw=0, test=test, score=score))
    scores = pd.concat(parts, ignore_index=True)
    found = cross_triage(scores, cross.divided, cross.items, LIKE)
    answers = todo.answers().merge(cross.candidates[["fold", "user", "item", "relevant"]])
    knows = (answers["ranker"] == taught.TAUGHT) * 1.5 * answers["relevant"]
    answers["score"] = knows + rng.normal(size=len(answers))
    answers = answers.drop(columns="relevant")
    none = cross_answers.as_table([answers.iloc[:0].drop(columns=["model", "draw"])], "toy")
    how = (scores, none, answers, found, todo.ratings, np.eye(len(cross.items)))
    return taught.judge(cross, *how, "toy"), answers, found


def test_means_are_those_of_the_lists_that_the_taught_model_was_asked_about(todo, judged):
    of, answers, found = judged
    rows = answers[(answers["ranker"] == taught.TAUGHT) & (answers["fold"] == answers["test"])]
    rows = rows.merge(todo.cross.candidates[["fold", "user", "item", "relevant"]])
    by_list = {
        key: roc_auc_score(one["relevant"], one["score"]) for key, one in rows.groupby(["test", "user"])
    }  # all of them have a pair
    table = taught.means(of).set_index(["group", "ranker"])
    for group in taught.GROUPS:
        routed = found[found[group]].drop_duplicates(["test", "user"])
        mine = [by_list[key] for key in zip(routed["test"], routed["user"], strict=True) if key in by_list]
        assert table.loc[(group, taught.TAUGHT), "auc"] == pytest.approx(np.mean(mine))
    inactive = table.loc["inactive"]["auc"]
    assert inactive["random"] == pytest.approx(0.5)
    assert inactive[taught.TAUGHT] > inactive[taught.ANOTHERS] + 0.1
    assert inactive["recommender + taught"] > inactive["own recommender"] + 0.05
    assert table.loc[("inactive", taught.UNTAUGHT), "n"] < table.loc[("inactive", taught.TAUGHT), "n"]


def test_verdicts_are_a_family_of_their_own_and_say_what_was_planted(judged):
    of, *_ = judged
    table = taught.verdicts(of)
    assert list(table.columns) == families.COLUMNS
    assert set(table["family"]) == {"taught", "taught, each recommender"}
    own = table[(table["family"] == "taught") & (table["group"] == "inactive")].set_index(["ranker", "against"])
    assert own.loc[(taught.TAUGHT, taught.ANOTHERS), "verdict"] == "helps"
    assert own.loc[(taught.TAUGHT, arms.EMBEDDING), "mean"] > 0.1
    without = "recommender + item-mean + sentence-embedding"
    assert own.loc[(f"{without} + taught", without), "mean"] > 0
    assert families.BAR in own.index.get_level_values("against")
    means = taught.means(of).query("group == 'inactive'").set_index("ranker")["auc"]
    gain = own.loc[("recommender + taught", "own recommender"), "mean"]
    assert gain == pytest.approx(means["recommender + taught"] - means["own recommender"])
    each = table[table["family"] != "taught"]
    assert {group.rpartition(", ")[2] for group in each["group"]} <= {"ItemKNN", "BPR", "NeuMF"}


def test_item_means_of_taught_users_know_no_other_rating(todo):
    divided = Lists(todo.cross.divided, LIKE)
    few = todo.ratings[todo.ratings["item"] != 3]
    found = taught.item_mean(divided, few)
    table = divided.table.assign(found=found[0])
    for item, rows in table.groupby("item"):
        own = few.loc[few["item"] == item, "rating"]
        expected = own.mean() if len(own) else few["rating"].mean()
        np.testing.assert_allclose(rows["found"], expected, atol=1e-8)
    assert (found == found[0]).all()


def test_titles_are_compared_with_those_taught_as_often_by_hand(todo, judged):
    of, answers, _ = judged
    few = todo.ratings[todo.ratings["item"] >= 6]
    few = few[(few["item"] >= 20) | (few["user"] == few["user"].min())]  # one rating at most
    table = taught.by_title(of, few, SEED, 100).set_index(["ratings", "ranker"])
    rows = answers[(answers["ranker"] == taught.TAUGHT) & (answers["fold"] == answers["test"])]
    rows = rows.merge(todo.cross.candidates[["fold", "user", "item", "relevant"]])
    times = few["item"].value_counts().reindex(range(40)).fillna(0)
    for name, low, high in (("0", 0, 0), ("1 to 9", 1, 9)):
        inside = rows[rows["item"].map(times).between(low, high)]
        correct = {}
        for (user, _), one in inside.groupby(["user", "test"]):
            good, bad = (one.loc[one["relevant"] == is_liked, "score"].to_numpy() for is_liked in (True, False))
            pairs = np.sign(good[:, None] - bad).ravel() / 2 + 0.5
            correct.setdefault(user, []).extend(pairs)
        means = [np.mean(pairs) for pairs in correct.values() if pairs]
        row = table.loc[(name, taught.TAUGHT)]
        assert row["auc"] == pytest.approx(np.mean(means)) and row["users"] == len(means)
        assert row["titles"] == times.between(low, high).sum() and row["candidates"] == len(inside)


def test_users_are_told_apart_by_what_is_known_outside_the_fold(todo, judged):
    of, *_ = judged
    table = taught.by_history(of, SEED, 100)
    sizes = table[table["ranker"] == taught.TAUGHT].set_index("ratings")["users"]
    divided = todo.cross.divided
    expected = {name: set() for name in taught.HISTORY_BINS}
    for (test, _), tasks in ((cell, ones) for (_, cell), ones in todo.asking.own.items()):
        for task in tasks:
            known = ((divided["user"] == task.user) & (divided["fold"] != test)).sum()
            place = np.searchsorted([0, 4, 8, 16, 32, 48], known, side="right") - 1
            expected[list(taught.HISTORY_BINS)[place]].add(task.user)
    assert sizes.to_dict() == {name: len(users) for name, users in expected.items() if users}


def test_lists_are_counted_once_however_many_items_they_have(judged):
    _, answers, _ = judged
    table = taught.counted(answers)
    rows = answers[answers["ranker"] == taught.TAUGHT]
    lists = set(zip(rows["test"], rows["fold"], rows["user"], strict=True))
    assert table.loc[taught.TAUGHT, "lists"] == len(lists) < len(rows)
    assert table.loc[taught.TAUGHT, "judged"] == sum(test == fold for test, fold, _ in lists) < len(lists)
    assert table.loc[taught.TAUGHT, "users"] == rows["user"].nunique() and table["failed"].sum() == 0


def test_cost_is_that_of_the_card_and_of_the_recorded_answers(todo, asked):
    table = taught.cost(todo, 2.0).set_index("what")
    assert table.loc["teaching, once", "usd"] == 2.0
    assert table.loc["a list, taught", "seconds"] == pytest.approx(USAGE["seconds"])
    assert table.loc["a list, taught", "number"] == sum(map(len, todo.asking.own.values()))
    gpu = replace(todo, card=todo.card | {"device": "NVIDIA"})
    assert np.isnan(taught.cost(gpu, 2.0)["usd"].iloc[0])


def test_figures_show_every_row(todo, judged):
    of, *_ = judged
    means, verdicts = taught.means(of), taught.verdicts(of).query("family == 'taught'")
    shown = [name for name in taught.SHOWN if name in set(means["ranker"])]
    (axis,) = figures.taught.means(means, shown).axes
    dots = [rows.get_offsets() for rows in axis.collections if len(rows.get_offsets()) > 1]
    listed = means[means["ranker"].isin(shown)].groupby("group", sort=False)["auc"]
    assert [sorted(rows[:, 0]) for rows in dots] == [pytest.approx(sorted(auc)) for _, auc in listed]
    (axis,) = figures.taught.verdicts(verdicts).axes
    drawn = {round(x, 9) for rows in axis.collections for x, _ in rows.get_offsets()}
    assert set(verdicts["mean"].round(9)) <= drawn
    table = taught.by_history(of, SEED, 100)
    (axis,) = figures.taught.by_number({"known": table}, [taught.TAUGHT, arms.STACK]).axes
    counts = table[table["ranker"] == taught.TAUGHT].set_index("ratings")["users"]
    assert [one.get_text() for one in axis.get_xticklabels()] == [f"{name}\n(n = {n})" for name, n in counts.items()]
    found = {name: pd.DataFrame({"probe": "p", "auc": [0.2, 0.8]}) for name in ("untaught", "taught")}
    (axis,) = figures.taught.memory(memory.table(found, SEED, 100)).axes
    assert [one.get_text() for one in axis.get_yticklabels()] == ["p\n(n = 2)"]
    pyplot.close("all")


# --- where there is none, or another ----------------------------------------------------------------------------------


@pytest.fixture
def adapter(small_study, tmp_path, monkeypatch) -> config.Experiment:
    """The small study with an adapter whose card fits; its weights are never loaded."""
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path / "adapters")
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path / "recordings")
    settings = small_study.model_copy(update={"taught": config.Taught(sample=5)})
    about = teaching.material(cross_tasks.prepare(settings))
    write(settings, {"sha256": about.hash}, teach.Teaching())
    return settings


def write(settings: config.Experiment, data: dict, how: teach.Teaching) -> None:
    folder = teaching.folder(settings.name, settings.model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / weights.ADAPTER_WEIGHTS).write_bytes(b"none")
    card = {"name": models.taught_name(settings.model, settings.name), "seed": 5, "settings": how.model_dump()}
    card |= {"model": models.local(settings.model).source.identity, "data": data}
    card |= {"sha256": hashlib.sha256(b"none").hexdigest()}
    (folder / weights.ADAPTER_CARD).write_text(json.dumps(card), encoding="utf-8")


def prepared(settings: config.Experiment) -> taught.Taught | None:
    plain = config.parameters(settings)
    about = (settings.name, settings.dataset, settings.model, plain["taught"], plain["local"])
    return taught.prepare(*about, cross_tasks.prepare(settings))


def test_where_nobody_was_taught_the_command_is_named(adapter, tmp_path, monkeypatch):
    assert prepared(adapter) is not None and taught.why_not("toy", adapter.model, {}) == ""
    assert "[taught]" in taught.why_not("toy", adapter.model, None)
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path / "nowhere")
    assert "make teach EXPERIMENT=toy" in taught.why_not("toy", adapter.model, {})
    assert "make teach EXPERIMENT=other" in taught.why_not("toy", adapter.model, {"adapter_of": "other"})
    assert prepared(adapter) is None
    assert any("make teach EXPERIMENT=toy" in line for line in models.check(adapter))
    assert not list(estimate._taught_groups(adapter, True))


def test_an_adapter_of_other_ratings_or_another_way_is_refused(adapter):
    right = teaching.material(cross_tasks.prepare(adapter)).hash
    write(adapter, {"sha256": right}, teach.Teaching(lines=96))
    with pytest.raises(SettingError, match="'rating lines of 96'"):
        prepared(adapter)
    write(adapter, {"sha256": "0" * 64}, teach.Teaching())
    with pytest.raises(ModelError, match="other ratings .* make teach EXPERIMENT=toy"):
        prepared(adapter)


def test_what_notebook_07_asks_is_told_before(adapter, monkeypatch):
    monkeypatch.setattr(estimate, "_is_here", lambda _: False)
    plain = adapter.model_copy(update={"modes": ("listwise",), "topk_modes": (), "larger_models": (), "cross_ways": ()})
    found = estimate.estimate(plain, from_tables=True).table
    of_taught = found[found["mode"].str.contains("notebook 07")].set_index("mode")["requests"]
    cross = cross_tasks.prepare(adapter)
    asked = sum(len(cross.users(cell)) for cell in cross.judged_cells)
    assert of_taught["rate, notebook 07, own history"] == asked > 0
    assert of_taught["rate, notebook 07, another user's history"] == asked
    assert of_taught["score, notebook 07, memory, taught"] == of_taught["score, notebook 07, memory, untaught"] > 0
    assert not found["mode"].str.contains("prior, notebook 07").any()
