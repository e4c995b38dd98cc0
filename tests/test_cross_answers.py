"""The language model under protocol ``cross``: what is asked for each test fold; nothing of it decides for itself."""

import functools
import hashlib

import numpy as np
import pandas as pd
import pytest
from toy_model import USAGE, NeverAsked, ToyModel

from hybridrec.data import datasets, folds
from hybridrec.errors import RecordingError
from hybridrec.llm import calibration, rankers, ways
from hybridrec.llm.recordings import Recordings
from hybridrec.study import config, cross_answers

FOLDS = 3


def by_hash(asked):
    """Any answer that depends on all that is asked, and on nothing else."""
    request = asked.request
    said = [hashlib.sha256(f"{request['instruction']}{one}".encode()).digest()[0] / 64 for one in request["candidates"]]
    values = [[-one, -2.0] for one in said] if request["kind"] == "choose" else [-one for one in said]
    return {"log_probs": values, "lengths": [2] * len(said), **USAGE}


def settings() -> config.Experiment:
    values = config.parameters(config.load("ml-100k")) | {"folds": FOLDS}
    del values["name"]
    return config.build("toy", values, "")


@functools.cache
def asking(scrambled: int | None = None) -> cross_answers.Asking:
    """What is asked where a fold's ratings are turned round (None: as they are), all of it recorded."""
    rng = np.random.default_rng(7)
    pairs = pd.DataFrame([(user, item) for user in range(14) for item in range(24)], columns=["user", "item"])
    rows = pairs[rng.random(len(pairs)) < 0.35 + 0.04 * pairs["user"]].reset_index(drop=True)
    rows = rows.assign(rating=rng.integers(1, 6, len(rows)).astype(float), timestamp=rng.permutation(len(rows)))
    items = pd.DataFrame({"item": range(24), "title": [f"Film {n}" for n in range(24)], "genres": ""})
    divided = folds.divide(rows, FOLDS, settings().seed)
    if scrambled is not None:
        hidden = divided["fold"] == scrambled
        divided["rating"] = divided["rating"].mask(hidden, 6 - divided["rating"])
    data = datasets.Dataset("toy", divided.drop(columns="fold"), items, "made up")
    found = cross_answers.Asking(cross_answers.prepare(data, settings()), ToyModel(by_hash), Recordings())
    for _ in cross_answers.record(found):
        pass
    return found


def keys(tasks, wanted) -> list[str]:
    model = ToyModel()
    return [
        model.key(rankers.request_of(task, way.mode, "film"))
        for (way, cell), ones in tasks.items()
        for task in ones
        if wanted(cell)
    ]


@pytest.mark.parametrize("fold", range(FOLDS))
def test_no_label_of_a_fold_decides_anything_for_it(fold):
    """Scrambled, they change no request that decides for the fold, nor its way to ask or its weight of the prior."""
    one, other = asking(), asking(scrambled=fold)
    for tasks in ("compared", "deciding"):
        mine = [keys(getattr(made, tasks), lambda cell: cell[0] == fold) for made in (one, other)]
        assert mine[0] == mine[1] and mine[0]
    assert one.chosen[fold] == other.chosen[fold]
    found = [arm[(arm["test"] == fold) & (arm["fold"] != fold)] for arm in map(cross_answers.arms, (one, other))]
    pd.testing.assert_frame_equal(*[rows.reset_index(drop=True) for rows in found])
    # The scrambling is seen where it may be: by what decides for other folds.
    others = [keys(made.compared, lambda cell: cell[0] != fold) for made in (one, other)]
    assert others[0] != others[1]


def test_a_history_holds_neither_fold_and_the_lists_are_those_of_the_fold_asked_about():
    cross = asking().cross
    title = cross.items.set_index("title")["item"]
    fold_of = cross.divided.set_index(["user", "item"])["fold"]
    for way in ways.WAYS:
        for cell in [*cross.deciding_cells, *cross.judged_cells]:
            for task in cross.tasks(way, cell, cross.users(cell)[:4]):
                shown = {fold_of[task.user, title[item.title]] for item in task.history}
                assert shown and not shown & set(cell)
                assert {fold_of[task.user, item] for item in task.candidates} == {cell[1]}
                assert len(task.history) <= way.length


def test_only_inactive_users_with_a_pair_are_asked_about_by_hand():
    cross = asking().cross
    for test, fold in [*cross.deciding_cells, *cross.judged_cells]:
        known = cross.divided[~cross.divided["fold"].isin([test, fold])]
        rated = known.groupby("user").size()
        rows = cross.divided[cross.divided["fold"] == fold]
        liked = (rows["rating"] >= 4).groupby(rows["user"]).agg(["any", "all"])
        pair = set(liked.index[liked["any"] & ~liked["all"]])
        assert cross.users((test, fold)) == sorted(pair & set(rated.index[rated < rated.mean()]))


def test_the_arms_cover_every_test_and_its_neighbours_and_ask_nothing():
    done = asking()
    quiet = cross_answers.Asking(done.cross, NeverAsked(by_hash), done.recordings)
    table = cross_answers.arms(quiet)
    assert list(table.columns) == cross_answers.ARM_COLUMNS
    assert not table.duplicated(["ranker", "test", "fold", "user", "item"]).any()
    cells = set(map(tuple, table.loc[table["ranker"] == "llm", ["test", "fold"]].to_numpy()))
    assert cells == {(test, fold) for test in range(FOLDS) for fold in range(FOLDS)}
    # One list by hand: the log-likelihood per token, less the prior in its weight.
    test = next(test for test in range(FOLDS) if done.chosen[test].mode.startswith("likelihood"))
    way = done.chosen[test]
    task = done.own[way, (test, test)][0]
    said = by_hash(rankers.request_of(task, way.mode, "film"))["log_probs"]
    mine = table[(table["test"] == test) & (table["fold"] == test) & (table["user"] == task.user)]
    scores = {name: rows.set_index("item")["score"] for name, rows in mine.groupby("ranker")}
    assert [scores["llm"][item] for item in task.candidates] == pytest.approx([one / 2 for one in said])
    apart = scores["llm"] - scores["llm less prior"]
    assert any(apart.to_list() == pytest.approx(weight * scores["llm no history"]) for weight in calibration.WEIGHTS)

    # A list that one arm lacks counts for none of them.
    first = table["user"].eq(task.user) & table["ranker"].eq("llm another's history")
    read = cross_answers.reading(table[~first], done.cross)
    everybody = {one.user for ones in done.own.values() for one in ones}
    assert read["ranker"].iloc[0] == "llm" and set(read["users"]) == {len(everybody) - 1}


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    done = asking()
    path = tmp_path / "toy.sqlite"
    first = cross_answers.Asking(done.cross, ToyModel(by_hash, lives=300), Recordings(path))
    with pytest.raises(KeyboardInterrupt):
        list(cross_answers.record(first))
    again = cross_answers.Asking(done.cross, ToyModel(by_hash), Recordings(path))
    list(cross_answers.record(again))
    assert len(again.model.asked) == len(set(done.recordings)) - 300
    own = cross_answers.coverage(again.own, again.cross, again.model, again.recordings)
    assert (own["asked"] == own["recorded"]).all() and own["asked"].sum() > 0


def test_another_dataset_takes_the_way_chosen_most_often(monkeypatch):
    done = asking()
    monkeypatch.setattr(cross_answers, "asking", lambda _: done)
    elsewhere = settings().model_copy(update={"dataset": "book-crossing"})
    cross = cross_answers.Cross(elsewhere, done.cross.divided, done.cross.candidates, done.cross.items)
    names = [way.name for way in done.chosen.values()]
    for way in cross_answers.Asking(cross, done.model, done.recordings).chosen.values():
        assert names.count(way.name) == max(map(names.count, names))


def test_nothing_is_chosen_from_half_of_the_answers():
    done = asking()
    half = cross_answers.Asking(done.cross, done.model, Recordings())
    with pytest.raises(RecordingError, match="record-cross"):
        _ = half.chosen
