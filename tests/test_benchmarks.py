"""The committed benchmark results are whole, each comparison was of the same work, and the page shows them.

No time is asserted: it says something about one machine on one day.
"""

import json
import sys

import pytest
import rank_users
import tiny_model

from hybridrec.llm import rankers
from hybridrec.llm.models.local import HuggingFace
from hybridrec.study import paths

BENCHMARKS = paths.ROOT / "benchmarks"
FOUND = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
SHAPES = {"ml-100k", "book-crossing", "ml-1m", "ml-25m"}
PEERS = {"cornac", "ranx", "recommenders", "scikit-learn"}


@pytest.fixture
def run(monkeypatch):
    """The module that `make bench` runs."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import run

    return run


def rows(name: str) -> list[dict]:
    return FOUND[name]["rows"]


def test_every_benchmark_was_run_and_the_page_shows_it(run):
    assert list(FOUND) == run.NAMES
    assert (BENCHMARKS / "results.md").read_text(encoding="utf-8") == run.tables(FOUND)


def test_a_benchmark_that_stops_stops_the_run_and_keeps_what_was_found(run, monkeypatch, tmp_path):
    (tmp_path / "bench_fails.py").write_text(
        "def run():\n    raise SystemExit('not the same work')\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(run, "NAMES", ["fails"])
    monkeypatch.setattr(run.measure, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"other": 1}', encoding="utf-8")
    with pytest.raises(SystemExit, match="not the same work"):
        run.main(["fails"])
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == '{"other": 1}'


def test_the_language_models_peers_run_and_score_the_same(run, tmp_path):
    """With a made-up model: a list to its end has a new token for each token of the longest list of candidates."""
    import bench_llm

    model, tasks = HuggingFace(tiny_model.save(tmp_path)), [rank_users.task(user) for user in (1, 22)]
    ours, *peers = bench_llm._likelihood(model, tasks), *(peer(model, tasks) for peer in bench_llm.PEERS.values())
    each, listwise, complete = (peer() for peer in peers)
    assert bench_llm.agreement(ours(), each) <= bench_llm.TOLERANCE
    assert bench_llm._times_fewer_tokens(model, tasks) > 1
    assert len(listwise) == len(tasks)
    shown = [model.count(rankers.request_of(task, "listwise", "film").request)[0] for task in tasks]
    lists = ["\n".join(f"{n}. {item.title}" for n, item in enumerate(task.items, 1)) for task in tasks]
    assert complete.shape == (len(tasks), max(shown) + max(map(len, lists)))  # its tokens are bytes


def test_metrics_met_every_peer_on_every_shape_with_the_same_values():
    beside = {(row["task"], row["shape"], row["peer"]) for row in rows("metrics") if row["peer"]}
    assert beside == {("test items", shape, peer) for shape in SHAPES for peer in PEERS} | {
        ("whole catalogue", shape, "cornac") for shape in SHAPES
    }
    assert all(row["largest_difference"] <= 1e-9 for row in rows("metrics") if row["peer"])


def test_the_largest_shape_was_done_for_all_users_and_its_memory_measured():
    whole = [row for row in rows("metrics") if row["peer"] is None and row["shape"] == "ml-25m"]
    assert {row["task"] for row in whole} == {"test items", "whole catalogue"}
    assert all(row["users"] == 162_541 and row["peak_mib_above"] >= 0 for row in whole)
    (triage,) = rows("triage")
    assert triage["users"] == 162_541 and 0 < triage["routed"] < triage["users"]


def test_the_language_model_ranked_the_same_users_the_same_way():
    compared = {(row["workload"], row["peer"]) for row in rows("llm") if row["task"] == "likelihood"}
    assert compared == {
        (load, peer)
        for load in ("test items", "whole lists")
        for peer in ("per candidate", "listwise", "complete list")
    }
    checked = [row for row in rows("llm") if row["peer"] == "per candidate"]
    assert len(checked) == 2 and all(row["largest_difference"] <= 1e-4 for row in checked)


def test_a_local_models_peers_gave_the_same_scores_and_others_tell_how_far_they_are():
    by_peer: dict[str, list[dict]] = {}
    for row in rows("local"):
        by_peer.setdefault(row["peer"], []).append(row)
    assert {len(found) for found in by_peer.values()} == {2}
    limits = {"transformers, a batch a user": 1e-4, "transformers, history kept": 1e-4, "llama.cpp, float32": 0.01}
    assert by_peer.keys() == {*limits, "ours in bfloat16", "llama.cpp, Q4_1"}
    for peer, limit in limits.items():
        assert all(row["largest_difference"] <= limit for row in by_peer[peer])
    assert all(row["theirs"]["runs"] == row["ours"]["runs"] >= 5 for row in rows("local"))


def test_on_a_gpu_every_way_was_measured_and_in_float32_scored_the_same():
    by_model = {one["model"]: one for one in json.loads((BENCHMARKS / "gpu.json").read_text(encoding="utf-8"))}
    assert all(one["machine"]["gpu"] for one in by_model.values())
    found = by_model["SmolLM2-135M-Instruct"]
    ranked = [row for row in found["rows"] if row["task"] == "likelihood"]
    assert {(row["dtype"], row["workload"]) for row in ranked} == {
        ("bfloat16", "test items"), ("bfloat16", "whole lists"), ("float32", "test items"),
    }  # fmt: skip
    for row in ranked:
        assert len(row["ways"]) == 4 and row["share"] == pytest.approx(row["tflops"] / row["peak_tflops"], abs=1e-3)
        apart = max(way["largest_difference"] for way in row["ways"].values())
        assert apart <= {"float32": 1e-4, "bfloat16": 0.2}[row["dtype"]]
    ways = [way for row in found["rows"] for way in row["ways"].values()]
    assert all(way["seconds"]["runs"] >= 5 for way in ways) and len(ways) == 4 * 3 + 3 * 4


def test_beside_duckdb_and_ray_others_came_to_the_same_in_turns():
    scale = json.loads((BENCHMARKS / "scale.json").read_text(encoding="utf-8"))
    assert all(part["machine"]["cores"] == 2 for part in scale.values())
    for name, ways, limit in (("beside", 3, 0.0), ("actors", 5, 1e-4)):
        rows = scale[name]["rows"]
        assert len(rows) == ways and all(row["runs"] >= 5 and row["largest_difference"] <= limit for row in rows)


def test_every_comparison_took_turns_at_least_five_times():
    for name in ("metrics", "llm"):
        assert all(row["theirs"]["runs"] == row["ours"]["runs"] >= 5 for row in rows(name) if row["peer"])


def test_growth_has_an_exponent_for_everything_that_grew():
    fitted = {row["task"] for row in rows("growth") if "exponent" in row}
    assert fitted == {row["task"] for row in rows("growth")} and len(fitted) == 6
