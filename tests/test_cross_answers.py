"""The language model under protocol ``cross``: what is asked for each test fold; nothing of it decides for itself."""

import functools
import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_model import USAGE, NeverAsked, ToyModel

from hybridrec.data import folds
from hybridrec.errors import RecordingError
from hybridrec.llm import calibration, rankers, ways
from hybridrec.llm.recordings import Recordings
from hybridrec.study import config, cross_answers, cross_steps, cross_tasks, models, paths, steps
from hybridrec.weak_users import triage

FOLDS, SEED = 3, 2024


def by_hash(asked):
    """Any answer that depends on all that is asked, and on nothing else."""
    request = asked.request
    said = [hashlib.sha256(f"{request['instruction']}{one}".encode()).digest()[0] / 64 for one in request["candidates"]]
    values = [[-one, -2.0] for one in said] if request["kind"] == "choose" else [-one for one in said]
    return {"log_probs": values, "lengths": [2] * len(said), **USAGE}


@functools.cache
def made_up(scrambled: int | None = None) -> cross_tasks.Cross:
    """Ratings in folds; a fold's are turned round (None: as they are)."""
    rng = np.random.default_rng(7)
    pairs = pd.DataFrame([(user, item) for user in range(14) for item in range(24)], columns=["user", "item"])
    rows = pairs[rng.random(len(pairs)) < 0.35 + 0.04 * pairs["user"]].reset_index(drop=True)
    rows = rows.assign(rating=rng.integers(1, 6, len(rows)).astype(float), timestamp=rng.permutation(len(rows)))
    items = pd.DataFrame({"item": range(24), "title": [f"Film {n}" for n in range(24)], "genres": ""})
    divided = folds.divide(rows, FOLDS, SEED)
    if scrambled is not None:
        hidden = divided["fold"] == scrambled
        divided["rating"] = divided["rating"].mask(hidden, 6 - divided["rating"])
    lists = folds.candidates(divided, 4, SEED)
    return cross_tasks.Cross(divided, lists, items, "film", 4, 5, SEED, triage.Thresholds())


def record_all(todo: cross_answers.Asking) -> cross_answers.Asking:
    for stage, asked in todo.stages():
        row = cross_answers.record(stage, asked, todo.model, todo.recordings)
        assert row["requests"] == row["recorded"] == len({todo.model.key(one) for one in asked})
    return todo


@functools.cache
def asking(scrambled: int | None = None) -> cross_answers.Asking:
    """What is asked of these ratings, all of it recorded."""
    todo = cross_answers.Asking(made_up(scrambled), ToyModel(by_hash), Recordings(), (config.COMPARE,))
    return record_all(todo)


def keys(tasks, wanted=lambda cell: True, users=range(14)) -> list[str]:
    model = ToyModel()
    return [
        model.key(rankers.request_of(task, way.mode, "film"))
        for (way, cell), ones in tasks.items()
        for task in ones
        if wanted(cell) and task.user in users
    ]


@pytest.mark.parametrize("fold", range(FOLDS))
def test_no_label_of_a_fold_decides_anything_for_it(fold):
    """Scrambled, they change no request that decides for the fold, nor its way to ask or its weight of the prior."""
    one, other = asking(), asking(scrambled=fold)
    for tasks in ("compared", "deciding"):
        mine = [keys(getattr(made, tasks), lambda cell: cell[0] == fold) for made in (one, other)]
        assert mine[0] == mine[1] and mine[0]
    assert one.chosen[fold] == other.chosen[fold]
    both = {task.user for task in one.own[one.chosen[fold], (fold, fold)]}
    both &= {task.user for task in other.own[one.chosen[fold], (fold, fold)]}
    of_both = [keys(made.own, lambda cell: cell[0] == fold, both) for made in (one, other)]
    assert of_both[0] == of_both[1] and of_both[0]
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
    quiet = replace(done, model=NeverAsked(by_hash))
    table = cross_answers.arms(quiet)
    assert list(table.columns) == cross_answers.COLUMNS
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
    read = cross_answers.reading(table[~first], done.cross, 200)
    everybody = {one.user for ones in done.own.values() for one in ones}
    assert read["ranker"].iloc[0] == "llm" and set(read["users"]) == {len(everybody) - 1}


def test_without_a_history_every_inactive_users_list_is_ranked():
    table, cross = cross_answers.arms(asking()), made_up()
    alone = table[table["ranker"] == "llm no history"].drop_duplicates(["test", "fold", "user"])
    wanted = cross.with_a_pair.merge(pd.DataFrame({"test": range(FOLDS)}), "cross")
    wanted = wanted[[row.user in cross.inactive(row.test) for row in wanted.itertuples()]]
    assert set(map(tuple, alone[["test", "fold", "user"]].to_numpy())) == set(
        map(tuple, wanted[["test", "fold", "user"]].to_numpy())
    )


@pytest.mark.parametrize("sparsity", [None, 0.6])
def test_who_is_inactive_is_said_by_notebook_03_too(sparsity):
    limits = triage.Thresholds(0.5, sparsity)
    cross = replace(made_up(), thresholds=limits)
    scores = cross.divided.assign(ranker="A", score=0.0).merge(pd.DataFrame({"test": range(FOLDS)}), "cross")
    table = cross_steps.triage(scores, cross.divided, cross.items, 4, limits)
    for test, rows in table.groupby("test"):
        assert set(cross.inactive(test)) == set(rows.loc[rows["inactive"], "user"])
    assert 0 < table["inactive"].sum() < len(table)


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path):
    done = asking()
    path = tmp_path / "toy.sqlite"
    with pytest.raises(KeyboardInterrupt):
        record_all(replace(done, model=ToyModel(by_hash, lives=300), recordings=Recordings(path)))
    again = record_all(replace(done, model=ToyModel(by_hash), recordings=Recordings(path)))
    assert len(again.model.asked) == len(set(done.recordings)) - 300
    own = cross_answers.coverage(again.own, again.cross, again.model, again.recordings)
    assert (own["asked"] == own["recorded"]).all() and own["asked"].sum() > 0


def test_nothing_is_chosen_from_half_of_the_answers():
    with pytest.raises(RecordingError, match="make reproduce"):
        _ = replace(asking(), recordings=Recordings()).chosen


# --- what the settings say --------------------------------------------------------------------------------------------


def named(*names: str, **changes) -> cross_answers.Asking:
    return cross_answers.Asking(**{"cross": made_up(), "model": ToyModel(by_hash), "recordings": Recordings(),
                                   "ways": names, **changes})  # fmt: skip


def test_a_named_way_is_that_of_all_folds_and_several_are_one_a_fold():
    assert [way.name for way in named("likes only").chosen.values()] == ["likes only"] * FOLDS
    several = ("pointwise", "likes only", "pointwise")
    assert {test: way.name for test, way in named(*several).chosen.items()} == dict(enumerate(several))
    assert not named("likes only").compared


def test_who_named_no_way_asks_nobody_and_has_a_table_without_a_row():
    nobody = named(model=NeverAsked())
    assert all(not asked for _, asked in nobody.stages())
    table = cross_answers.arms(nobody)
    assert table.empty and list(table) == cross_answers.COLUMNS
    assert table.merge(made_up().candidates, on=["fold", "user", "item"]).empty, "its types are those of a whole one"
    assert cross_answers.reading(table, made_up(), 200).empty


def test_a_model_that_writes_has_no_calibrations():
    done = record_all(named("listwise", model=ToyModel()))
    table = cross_answers.arms(done)
    assert set(table["ranker"]) == {"llm", "llm another's history"}
    best = table[table["ranker"] == "llm"].sort_values("score").groupby(["test", "fold", "user"])["item"].last()
    (_, cell), (task, *_) = next(iter(done.own.items()))
    assert best[(*cell, task.user)] == task.candidates[-1], "the toy writes the candidates from the last to the first"


def test_a_sample_of_users_is_asked_in_all_folds_and_a_larger_one_holds_it():
    everybody, some, more = (named("likelihood", users=users) for users in (None, 3, 5))
    whom = [{task.user for ones in todo.own.values() for task in ones} for todo in (some, more, everybody)]
    assert list(map(len, whom[:2])) == [3, 5] and whom[0] < whom[1] < whom[2]
    mine = keys(everybody.own, users=whom[0])
    assert sorted(keys(some.own)) == sorted(mine), "in every fold in which they have a pair"


def test_a_subset_of_the_users_is_asked_what_all_are_asked():
    fixed = replace(made_up(), thresholds=triage.Thresholds(0.5, 0.4))
    few = list(range(0, 14, 2))
    rows, lists = (table[table["user"].isin(few)] for table in (fixed.divided, fixed.candidates))
    subset = replace(fixed, divided=rows, candidates=lists, everybody=fixed.divided)
    one, other = named("likelihood", cross=fixed), named("likelihood", cross=subset)
    for tasks in ("own", "deciding"):
        mine = keys(getattr(other, tasks))
        assert mine == keys(getattr(one, tasks), users=few) and mine
    assert not other.borrowed, "others would lend"


def test_a_larger_model_is_asked_about_whom_the_papers_recommenders_hand_over():
    cross = made_up()
    rows = [
        (name, test, user, (user + test) % 2 == 0)
        for name in ("BPR", "EASE")
        for test in range(FOLDS)
        for user in range(14)
    ]
    table = pd.DataFrame(rows, columns=["recommender", "test", "user", "weak"])
    table["weak"] |= table["recommender"] == "EASE"  # not the paper's
    larger = {"model": "toy", "cross_way": "pointwise"}
    tasks = cross_tasks.larger_tasks(cross, larger, table)
    for (way, (test, fold)), ones in tasks.items():
        assert way.name == "pointwise" and test == fold
        assert [task.user for task in ones] == [user for user in cross.users((test, test)) if (user + test) % 2 == 0]
    some = cross_tasks.larger_tasks(cross, larger | {"cross_users": 2}, table)
    counted = Counter(task.user for ones in some.values() for task in ones)
    assert len(counted) == 2 and sorted(keys(some)) == sorted(keys(tasks, users=counted))
    model, recordings = ToyModel(by_hash), Recordings()
    cross_answers.record("toy", cross_tasks.asked_in(some, cross), model, recordings)
    arm = cross_answers.larger_arm(tasks, cross, model, recordings)
    assert set(arm["ranker"]) == {"toy: llm"} and set(arm["user"]) == set(counted)  # who was not asked has no row


def test_a_larger_model_can_be_asked_about_every_inactive_user():
    cross, nobody = made_up(), pd.DataFrame(columns=["recommender", "test", "user", "weak"])
    first = cross_answers.Asking(cross, ToyModel(by_hash), Recordings(), ("pointwise",))
    asked = cross_tasks.larger_tasks(cross, {"cross_way": "pointwise", "cross_group": "inactive"}, nobody)
    assert keys(asked) == keys(first.own)


# --- the experiments --------------------------------------------------------------------------------------------------


def test_a_class_asks_in_the_ways_that_the_full_study_chose():
    full = config.load("ml-100k")
    if not any(paths.RAW.glob("ml-100k*")):
        pytest.skip("MovieLens 100K is not on this disk: `make data` fetches it")
    cross = cross_tasks.prepare(full, steps.dataset(full.dataset))
    llm = cross_tasks.scoring(models.open_model(full.model, None, config.parameters(full)["local"]), full.model)
    todo = cross_answers.Asking(cross, llm, models.recorded(full.dataset, full.model), full.cross_ways)
    try:
        names = [way.name for way in todo.chosen.values()]
    except RecordingError as error:
        pytest.skip(str(error))
    assert names == list(config.load("class").cross_ways)
    often = {name for name, count in Counter(names).items() if count == max(Counter(names).values())}
    for other in ("ml-latest-small-2016", "book-crossing", "ml-1m"):
        assert set(config.load(other).cross_ways) <= often
