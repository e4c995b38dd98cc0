"""What would be asked, and at what cost, is told and agreed to before anything is asked."""

import itertools
import json
import math
import re
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
from toy_model import NeverAsked, ToyModel, reply

from hybridrec.errors import CommandError
from hybridrec.llm import ways
from hybridrec.llm.models.settings import EndpointSettings
from hybridrec.llm.recordings import Recordings, request_key
from hybridrec.llm.runner import Asked
from hybridrec.study import __main__ as commands
from hybridrec.study import config, cross_answers, cross_tasks, estimate, models, notebooks, paths, steps, tables


@pytest.fixture
def toy(small_study, tmp_path, monkeypatch) -> config.Experiment:
    """The study with a toy in place of every model, notebook 02's lists, and recordings of its own."""
    monkeypatch.setattr(paths, "RECORDINGS", tmp_path / "recordings")
    monkeypatch.setattr(models, "open_model", lambda name, *_, **__: named(name))
    monkeypatch.setattr(models, "open_larger", lambda one, *_: named(one["model"]))
    pairs = itertools.product(tables.read("toy", "sparsity")["user"], tables.read("toy", "items")["item"])
    retrieved = pd.DataFrame(pairs, columns=["user", "item"]).assign(recommender="EASE", spare=False)
    tables.write("toy", retrieved=retrieved.groupby("user").head(6))
    return small_study


def named(name: str) -> ToyModel:
    model = ToyModel()
    model.name, model.find = name, lambda: ""  # nothing is to be told of where it is
    return model


def record_all(settings: config.Experiment, but: int = 0) -> None:
    """Record an answer to every request, except to those of the first few users in the first mode."""
    left: set[str] = set()
    for number, group in enumerate(groups_of(settings)):
        left |= {group.llm.key(one) for one in group.asked[: 0 if number else but]}
        for one in group.asked:
            if group.llm.key(one) not in left:
                group.recordings.append(group.llm.key(one), reply(one))


def groups_of(settings: config.Experiment) -> list[estimate.Group]:
    lists, weak = (found(settings, from_tables()) for found in (estimate._lists, estimate._published_weak))
    groups = estimate._groups(settings, from_tables(), lists or [], weak or [])
    return [*groups, *estimate._cross_groups(settings, from_tables=True)]


def from_tables() -> steps.Prepared:
    interactions, candidates, items, sparsity = (
        tables.read("toy", name) for name in ("interactions", "candidates", "items", "sparsity")
    )
    inactive = pd.Index(sparsity.loc[sparsity["inactive"], "user"])
    return steps.Prepared(interactions, candidates, items, sparsity.set_index("user").iloc[:, 0], inactive)


def small(settings: config.Experiment) -> config.Experiment:
    return settings.model_copy(update={"modes": ("listwise",), "topk_modes": (), "larger_models": (), "cross_ways": ()})


@pytest.mark.slow
def test_what_is_estimated_is_what_notebook_04_asks(toy, monkeypatch):
    """The notebook itself, with the toys: afterwards exactly the estimated requests have an answer."""
    weak = pd.DataFrame({"protocol": "published", "recommender": "BPR", "user": from_tables().inactive, "weak": True})
    in_cross = weak.drop(columns="protocol").merge(pd.DataFrame({"test": range(toy.folds)}), "cross")
    tables.write("toy", triage=weak.iloc[::2], cross_triage=in_cross.iloc[::2])
    first, *others = toy.larger_models
    first = first.model_copy(update={"cross_way": "pointwise", "cross_users": 4})
    toy = toy.model_copy(update={"larger_models": (first, *others)})
    before = estimate.estimate(toy, from_tables=True)
    assert not before.not_counted and set(before.table["recorded"]) == {0}
    of_models: dict[str, list[Asked]] = {}
    for group in groups_of(toy):
        of_models.setdefault(group.llm.name, []).extend(group.asked)
    names = {"experiment": "toy", **config.parameters(toy)}
    monkeypatch.setenv("MPLBACKEND", "agg")
    for cell in nbformat.read(paths.NOTEBOOKS / "04_llm_prompting.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, names)
    asked = {name: set(map(named(name).key, requests)) for name, requests in of_models.items()}
    assert asked == {name: set(models.recorded(toy.dataset, name)) for name in asked} and len(asked) == 3
    assert estimate.estimate(toy, from_tables=True).live.empty


def test_nothing_is_asked_where_all_is_recorded(toy, monkeypatch):
    record_all(toy)
    monkeypatch.setattr(models, "open_model", lambda name, *_, **__: NeverAsked())
    monkeypatch.setattr(NeverAsked, "name", "SmolLM2-135M-Instruct")
    toy = toy.model_copy(update={"larger_models": ()})
    found = estimate.estimate(toy, from_tables=True)
    assert found.live.empty and f"{found.table['requests'].sum():,} " in str(found) and "nothing" in str(found)
    estimate.agreed(toy.model_copy(update={"consent_above_usd": 0.0, "consent_above_minutes": 0.0}), found, yes=False)


def test_only_what_is_missing_is_counted_each_request_once(toy):
    record_all(toy, but=3)
    found = estimate.estimate(toy, from_tables=True)
    (row,) = found.live.to_dict("records")
    assert (row["mode"], row["requests"] - row["recorded"]) == ("listwise", 3)
    assert "listwise: 3 requests" in str(found)


def test_ways_that_are_not_compared_yet_are_counted_and_so_are_the_folds_in_one_of_them(toy):
    """Each user of a fold is asked by "likelihood", the first way, until another is chosen."""
    toy = toy.model_copy(update={"cross_ways": (config.COMPARE,)})
    cross, llm = cross_tasks.prepare(toy), named(toy.model)
    compared = cross_tasks.compared_tasks(cross, cross_answers.COMPARED_USERS, ways.WAYS)
    asked = {llm.key(one) for one in cross_tasks.asked_in(compared, cross)}
    assert len(asked) > len(ways.WAYS)
    table = estimate.estimate(toy, from_tables=True).table.set_index("mode")["requests"]
    assert table.filter(like="ways to ask").sum() == len(asked)
    assert table["likelihood, cross"] == sum(len(cross.users(cell)) for cell in cross.judged_cells)


def test_live_users_are_asked_though_they_are_recorded(toy):
    toy = small(toy)
    record_all(toy)
    found = estimate.estimate(toy.model_copy(update={"live_users": 2}), from_tables=True).table
    assert 2 <= (found["requests"] - found["recorded"]).sum() <= 2 * toy.shuffles  # in other orders, too


@pytest.mark.parametrize("cap", [None, 0.015])
def test_an_endpoint_costs_its_tokens_and_at_most_the_longest_answers_or_the_cap(toy, monkeypatch, cap):
    """By hand: n prompts at $2 and the lines of a complete answer at $8 a million; at most 500 tokens each."""
    from hybridrec.llm.models.endpoint import Endpoint

    price = {"prompt": 2.0, "cached": 1.0, "completion": 8.0}
    given = {"parameters": {"max_tokens": 500}, "requests_per_minute": 30, "spending_cap_usd": cap}
    model = Endpoint("closed", "http://127.0.0.1:9/v1", price=price, **given)
    monkeypatch.setattr(models, "open_model", lambda *_, **__: model)
    toy = small(toy).model_copy(update={"endpoint": model.endpoint})
    found = estimate.estimate(toy, from_tables=True)
    (row,) = found.table.to_dict("records")
    requests = {
        model.key(one): one.request for one in next(estimate._groups(toy, from_tables(), [], [])).asked
    }.values()
    shown = sum(-(-len(one["instruction"]) // 4) for one in requests)
    written = sum(-(-sum(len(title) + 4 for title in one["candidates"]) // 4) for one in requests)
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (len(requests), shown, written)
    assert row["usd"] == pytest.approx((2 * shown + 8 * written) / 1e6)
    most = (2 * shown + 8 * 500 * len(requests)) / 1e6
    assert row["usd_most"] == pytest.approx(most)
    assert most > 0.015 and found.usd_most == pytest.approx(cap or most)
    assert row["minutes"] == pytest.approx(len(requests) / 30)


@pytest.mark.parametrize(("price", "cap", "most"), [(2.0, None, math.inf), (2.0, 0.5, 0.5), (0.0, None, 0.0)])
def test_without_a_bound_on_the_answers_a_priced_endpoint_needs_consent_or_a_cap(toy, price, cap, most):
    model = ToyModel()
    model.endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1")
    model.usd = lambda usage: price * usage["completion_tokens"]
    asked = [Asked(1, {"kind": "generate", "instruction": "of a user", "candidates": ["Alien"]})]
    row = estimate._row(estimate.Group(model, Recordings(), "listwise", asked))
    found = estimate.Estimate(pd.DataFrame([row]), cap=cap)
    assert found.usd_most == most
    assert ("max_tokens" in str(found)) == (price > 0)  # of the mode's line, whatever the cap
    if most > toy.consent_above_usd:
        with pytest.raises(CommandError, match="consent_above_usd"):
            estimate.agreed(toy, found, yes=False)
    else:
        estimate.agreed(toy, found, yes=False)


def test_the_time_is_that_of_the_same_models_recorded_tokens_and_unknown_without(toy, tmp_path):
    """Reading by tokens read (2 s for 100), writing by tokens written (3 s for 10); answers on any dataset count."""
    toy = small(toy).model_copy(update={"modes": ("listwise", "likelihood")})
    before = estimate.estimate(toy, from_tables=True)
    assert before.table["minutes"].isna().all() and "unknown" in str(before)
    other = Recordings(tmp_path / "recordings" / "other" / f"{toy.model}.sqlite")
    usage = {"cached_tokens": 0, "completion_tokens": 0}
    other.append("a" * 64, {"log_probs": [-1.0], "lengths": [1], "prompt_tokens": 100, "seconds": 2.0, **usage})
    usage |= {"completion_tokens": 10, "text": "Fargo", "finish_reason": "stop"}
    other.append("b" * 64, {"prompt_tokens": 50, "seconds": 3.0, **usage})
    table = estimate.estimate(toy, from_tables=True).table.set_index("mode")
    assert table.loc["listwise", "minutes"] == pytest.approx(table.loc["listwise", "completion_tokens"] * 0.3 / 60)
    for scored in ("likelihood", estimate.PRIOR):
        assert table.loc[scored, "minutes"] == pytest.approx(table.loc[scored, "prompt_tokens"] * 0.02 / 60)


def test_what_a_list_shares_is_counted_once():
    def title(user: int, text: str) -> Asked:
        return Asked(user, {"kind": "score", "instruction": f"of user {user}", "candidates": [text]})

    found = list(estimate._together([title(1, "Alien"), title(1, "Fargo"), title(2, "Alien")]))
    assert [one["candidates"] for one in found] == [["Alien", "Fargo"], ["Alien"]]


def test_whole_lists_that_are_not_known_yet_are_said_to_be_left_out(toy):
    (paths.tables("toy") / "retrieved.parquet").unlink()
    found = estimate.estimate(toy, from_tables=True)
    assert "notebook 02" in found.not_counted[0] and found.not_counted[0] in str(found)
    assert not found.table["mode"].str.contains(estimate.LISTS).any()


@pytest.mark.parametrize(
    ("usd", "minutes", "named"),
    [(0.5, 1.0, []), (2.0, 1.0, ["consent_above_usd"]), (0.5, 600.0, ["consent_above_min"])],
)
def test_above_a_bound_nothing_is_asked_without_consent_and_the_command_that_consents_is_told(
    toy, monkeypatch, usd, minutes, named
):
    row = {"model": "m", "mode": "listwise", "requests": 5, "recorded": 1, "prompt_tokens": 9, "completion_tokens": 9}
    row |= {"usd": usd / 2, "usd_most": usd, "minutes": minutes}
    monkeypatch.setattr(estimate, "estimate", lambda *_, **__: estimate.Estimate(pd.DataFrame([row])))
    ran = []
    monkeypatch.setattr(notebooks, "run", lambda settings, name: ran.append(name))
    for name in (notebooks.FIRST, "03_user_triage", notebooks.ASKS):
        if named and name != "03_user_triage":
            with pytest.raises(CommandError, match=re.escape("make reproduce EXPERIMENT=toy YES=1")) as refused:
                commands.run(toy, name)
            assert all(key in str(refused.value) for key in named)
        else:
            commands.run(toy, name)
    assert ran == (["03_user_triage"] if named else [notebooks.FIRST, "03_user_triage", notebooks.ASKS])
    ran.clear()
    commands.run(toy, notebooks.ASKS, yes=True)
    monkeypatch.setenv("HYBRIDREC_LLM", "replay")  # asks nothing
    commands.run(toy, notebooks.ASKS)
    assert ran == [notebooks.ASKS, notebooks.ASKS]


def test_the_estimate_from_the_ratings_is_that_from_notebook_01s_tables(toy, monkeypatch, interactions, items):
    from hybridrec.data import datasets

    monkeypatch.setattr(steps, "dataset", lambda *_: datasets.Dataset("toy", interactions, items, "made up"))
    pd.testing.assert_frame_equal(*(estimate.estimate(toy, from_tables=way).table for way in (True, False)))


def batched(settings: config.Experiment) -> dict[str, list[Asked]]:
    """What batches hold, by mode."""
    found: dict[str, list[Asked]] = {}
    for group in estimate.in_batches(settings):
        found.setdefault(group.mode, []).extend(group.asked)
    return found


def test_a_batch_asks_what_notebook_04_asks_and_shows_nothing_of_the_test(small_study):
    requests = batched(small_study)
    candidates, interactions, sparsity, items = (
        tables.read("toy", name) for name in ("candidates", "interactions", "sparsity", "items")
    )
    sizes = candidates.groupby("user").size()
    to_rank = set(sizes.index[sizes >= 2])
    inactive = to_rank & set(sparsity.loc[sparsity["inactive"], "user"])
    assert list(requests) == ["listwise", "listwise-labels"], "probabilities cannot be asked for in a batch"
    assert inactive and inactive < to_rank
    again = (small_study.shuffles - 1) * min(small_study.shuffled_users, len(inactive))
    for mode, users in (("listwise", inactive), ("listwise-labels", to_rank)):
        assert len(requests[mode]) == len(users) + again
        assert {one.user for one in requests[mode]} == users
    titles = items.set_index("item")["title"]
    for one in requests["listwise"]:
        test = interactions[(interactions["user"] == one.user) & (interactions["split"] == "test")]
        shown = {item.title for item in one.about.history}
        assert not shown & set(titles[test["item"]])
        assert {item.title for item in one.about.items} == set(titles[test["item"]])


def test_a_batch_holds_what_is_asked_under_cross_and_whom_it_is_about(small_study):
    before = batched(small_study)["listwise"]
    found = batched(small_study.model_copy(update={"cross_ways": ("listwise",)}))["listwise"]
    cross = cross_tasks.prepare(small_study)
    judged = sum(len(cross.users(cell)) for cell in cross.judged_cells)
    deciding = sum(len(set(cross.users(cell)) & set(cross.inactive())) for cell in cross.deciding_cells)
    assert len(found) == len(before) + 2 * judged + deciding and judged  # own and another's history


def behind_an_endpoint(settings: config.Experiment, **changes: object) -> config.Experiment:
    found = EndpointSettings(base_url="http://127.0.0.1:9/v1", logprobs=True, attempts=2)
    return small(settings).model_copy(update={"endpoint": found, **changes})


def test_a_batch_asks_about_the_folds_only_once_the_way_is_chosen(toy):
    """Until then it would pay for answers in a way that may not be chosen; the estimate counts them all the same."""
    toy = behind_an_endpoint(toy, cross_ways=(config.COMPARE,))
    before = estimate.in_batches(toy)
    assert {group.what for group in before} == {"", "ways to ask"}
    assert estimate.estimate(toy, from_tables=True).table["mode"].str.endswith(estimate.CROSS).any()
    for group in before:
        for key, one in {group.llm.key(one): one for one in group.asked}.items():
            if key not in group.recordings:
                group.recordings.append(key, reply(one))
    asked = {group.what for group in estimate.in_batches(toy)}
    assert {"", "ways to ask", estimate.CROSS, f"{estimate.CROSS}, folds that decide"} <= asked


def test_a_batch_holds_a_further_attempt_only_where_notebook_04_reads_it(toy, tmp_path, monkeypatch):
    """Nobody says Yes or No: the published lists are asked once more, the folds (where attempt 0 is read) are not."""
    from hybridrec.llm.models.endpoint import Endpoint

    toy = behind_an_endpoint(toy, modes=("pointwise",), cross_ways=("pointwise",))
    model = Endpoint(toy.model, **toy.endpoint.model_dump())
    monkeypatch.setattr(models, "open_model", lambda *_, **__: model)
    monkeypatch.setattr(paths, "BATCHES", tmp_path / "batches")
    groups = estimate.in_batches(toy)
    recordings, nothing = models.recordings_for(toy.dataset, toy.model), [[-9.0, -9.0]]
    for one in {model.key(one): one for group in groups for one in group.asked}.values():
        said = reply(one)
        n = len(one.request["candidates"])
        recordings.append(
            model.key(one), said | ({"log_probs": nothing * n} if one.request["kind"] == "choose" else {})
        )
    commands.batch(toy)
    lines = [json.loads(line) for file in paths.BATCHES.iterdir() for line in file.read_text("utf-8").splitlines()]
    published = [replace(one, attempt=1) for group in groups if not group.what for one in group.asked]
    expected = {request_key(part.body, 1) for one in published for part in model.parts(one)}
    assert {line["custom_id"] for line in lines} == expected and expected
    table = estimate.estimate(toy, from_tables=True).table
    missing = (table["requests"] - table["recorded"]).groupby(table["mode"]).sum()
    assert missing[missing > 0].index.tolist() == ["pointwise"] and (missing.index.str.contains(estimate.CROSS)).any()
