"""The overview repeats what the experiments' own files say, and the index knows which cell makes what."""

import json

import pandas as pd
import pytest

from hybridrec.evaluation import verdicts
from hybridrec.study import answers, overview, paths
from hybridrec.study.figures import overview as figures_overview

NAMES = overview.experiments()
PRIMARY = {
    "model": "tiny-1M", "users": 40, "routed": 41, "hand_overs": 90, "lists": 100, "unanswered": 1,
    "mean": -0.02, "low": -0.07, "high": 0.03, "smallest_detectable": 0.0711, "verdict": "cannot tell",
    "llm_auc": 0.58, "bar_auc": 0.6, "own_auc": 0.55, "random_auc": 0.5, "bar": "stack", "way": "llm",
}  # fmt: skip
ANSWER = {
    "recommender": "MF", "routed_share": 0.076, "tokens_share": 0.061, "usd_weak": 0.004, "usd_everybody": 1234.5,
    "calls_weak": 72, "seconds_weak": 9.0, "gain": 0.0012, "gain_low": -0.001, "gain_high": 0.0034,
    "gain_verdict": "equivalent",
}  # fmt: skip
TRULY = {"truly_weak": 11.2, "truly_weak_low": 5.8, "truly_weak_high": 20.7, "flagged": 90.0, "users": 1601.0}
DETECTION = {f"{name}{end}": value for name in ("precision", "base_rate")
             for end, value in (("", 0.4), ("_low", 0.37), ("_high", 0.43))}  # fmt: skip
DETECTION |= {"flags": 480.0, "users": 601.0}


def verdict(family: str, word: str, **more: str) -> dict:
    return {"family": family, "comparison": word, "ranker": "tf-idf", "n": 40, "mean": 0.01, "low": None, "high": None,
            "smallest_detectable": None, "verdict": word} | more  # fmt: skip


ASKED = {
    "weak": {"all": {"truly": TRULY, "detection": DETECTION}},
    "cross": {"primary": PRIMARY, "verdicts": [verdict("arms", "harms"), verdict("arms", "cannot tell"),
                                               verdict("arms", "harms", ranker="small-1B: llm")]},
    "cost": {"answer": ANSWER}, "temporal": {"verdict": "harms"},
}  # fmt: skip
NOBODY = {"weak": {"all": {"truly": TRULY, "detection": DETECTION}}, "cross": {"primary": None, "verdicts": []}}


# --- the four answers -------------------------------------------------------------------------------------------------


def test_the_four_answers_have_value_interval_n_smallest_effect_and_verdict():
    weak, found, gain, cost = answers.four(ASKED).values()
    assert weak == "11 (6 to 21) of 1,601 inactive users; 90 flagged"
    assert found.endswith("40 % (37 % to 43 %) of those flagged, 40 % (37 % to 43 %) of all inactive users")
    assert gain == "**cannot tell**: −0.020 AUC (−0.070 to +0.030), 40 users; smallest detectable 0.071"
    for part in ("8 % of the lists", "6 % of the tokens", "$0.004", "$1,234.50", "**equivalent**, +0.001 AUC"):
        assert part in cost


def test_the_answers_in_short_have_a_row_for_each_dataset_below_each_question():
    lines = answers.in_short({"a": ASKED, "b": NOBODY}).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [
        one
        for number, question in enumerate(answers.QUESTIONS, 1)
        for one in (f"| **{number}. {question}**", "| `a`", "| `b`")
    ]
    assert lines[1] == lines[2].replace("`b`", "`a`") == "| `a` | 11 (6 to 21) of 1,601 inactive users; 90 flagged |"
    assert lines[4] == "| `a` | 40 % (37 % to 43 %) of those flagged, 40 % (37 % to 43 %) of all |"
    told = "8 % of the lists, $0.004 a fold; **equivalent**: +0.001 AUC (−0.001 to +0.003)"
    assert lines[10:] == [f"| `a` | {told} |", "| `b` | **not run** |"]


def test_what_was_not_run_is_said_so_and_nothing_else_is_told():
    *first, gain, cost = answers.four(NOBODY).values()
    assert gain == cost == answers.NOT_RUN and answers.NOT_RUN not in first
    assert set(answers.four({}).values()) == {answers.NOT_RUN}
    assert {row["question"] for row in answers.rows(NOBODY)} == {1, 2} and answers.rows({}) == []


def test_too_few_users_for_an_interval_have_a_verdict_all_the_same():
    few = {"cross": {"primary": PRIMARY | {"users": 1, "low": None, "high": None, "smallest_detectable": None}}}
    assert list(answers.four(few).values())[2] == "**cannot tell** (1 users)"


def test_verdicts_are_counted_by_family_and_larger_models_have_a_row():
    found = {"a": ASKED, "b": NOBODY}
    assert "| arms | harms 2, cannot tell 1 | **not run** |" in answers.families(found)
    assert answers.families(found).endswith("the bar against the recommender | harms | **not run** |")
    told = answers.models(found)
    assert "| `a` | tiny-1M, primary | **cannot tell**: −0.020" in told and "| `a` | small-1B: llm | **harms**" in told
    assert "`b`" not in told and answers.models({"b": NOBODY}) == answers.NOT_RUN


def test_the_verdicts_are_the_rules_own():
    assert verdicts.VERDICTS == answers.VERDICTS


# --- side by side -----------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two experiments' results: in one a language model was asked, in the other nobody."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    for name, found in (("asked", ASKED), ("nobody", NOBODY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
        (tmp_path / name / "claims.csv").write_text("claim\n", encoding="utf-8")
    rows = [
        ("arms", "tf-idf", 0.01, "cannot tell", 2),
        ("arms", "tf-idf", 0.05, "helps", 1),
        ("primary",) * 2 + (-0.1, "harms", 1),
    ]
    seeds = pd.DataFrame(rows, columns=["family", "comparison", "mean", "verdict", "seed"])
    seeds.assign(n=9, low=0, high=0).to_csv(tmp_path / "asked" / "seeds.csv", index=False)
    return tmp_path


def test_all_that_the_overview_writes_is_what_the_experiments_say(results):
    assert overview.write(results) == ["asked", "nobody"]
    rows = pd.read_csv(results / "overview.csv").set_index(["dataset", "what"])
    assert rows.loc[("asked", "AUC of weak users: the bar"), "value"] == PRIMARY["bar_auc"]
    gain = rows.loc[("asked", "language model minus the bar, AUC")]
    assert gain[["value", "low", "high", "n", "verdict"]].tolist() == [-0.02, -0.07, 0.03, 40, "cannot tell"]
    assert set(rows.loc["nobody", "question"]) == {1, 2}
    assert pd.read_csv(results / "verdicts.csv")["dataset"].tolist() == ["asked"] * 3
    text = (results / "README.md").read_text(encoding="utf-8")
    assert answers.table({"asked": ASKED, "nobody": NOBODY}) in text
    assert "`asked`: 1 of 2 comparisons have one verdict" in text
    assert all(f"*{family}*" in text for family in overview.ON_ONE_SEED)
    assert (results / "overview.png").is_file()


def test_seeds_stand_side_by_side_in_their_order(results):
    found = overview.other_seeds(["asked", "nobody"]).set_index("comparison")
    two, one = found.loc["tf-idf"], found.loc["primary"]
    assert (two["seeds"], two["mean_lowest"], two["mean_highest"]) == (2, 0.01, 0.05)
    assert two["verdicts"] == "helps / cannot tell" and not two["same"]
    assert one["verdicts"] == "harms" and one["same"]
    assert overview.other_seeds(["nobody"]).empty and "seed?" not in overview.index(["nobody"])


@pytest.mark.parametrize("name", NAMES)
def test_what_other_seeds_are_said_to_leave_out_is_what_they_leave_out(name):
    first, others = (
        table[table["dataset"] == name] for table in (overview.all_verdicts([name]), overview.other_seeds([name]))
    )
    assert set(first["family"]) - set(others["family"]) == set(overview.ON_ONE_SEED)
    again = first[~first["family"].isin(overview.ON_ONE_SEED)]
    lacking = set(again.loc[~again["comparison"].isin(others["comparison"]), "ranker"])
    said = ("llm less prior", "llm less content-free", "llm no history", "recommender + llm")
    assert {"llm less prior", "llm less content-free"} < lacking
    assert not {one for one in lacking if not one.startswith(said) and not one.endswith(": llm")}


def test_who_gains_at_a_tenth_stands_side_by_side_and_what_was_not_run_is_said_so():
    row = {"worst decile": {"gain": -0.0664, "low": -0.087, "high": -0.0456}, "everybody": {"gain": 9}}
    found = {"a": {"allocation": {"frontier": {"published rule": row, "nobody": row}}}, "b": {}}
    head, _, *rows = answers.allocation(found).splitlines()
    assert "`a` | `b`" in head
    (only,) = rows
    assert only.endswith("| −0.066 (−0.087 to −0.046) | **not run** |")


def test_who_was_trained_for_the_worst_served_stands_beside_the_ordinary_objective(results):
    assert "Does training repair" not in overview.index(["asked", "nobody"])
    rows = [("weak", "MF-mean", 0.672, ""), ("weak", "MF-CVaR", 0.6631, "harms"), ("inactive", "MF-mean", 0.7, ""),
            ("inactive", "MF-CVaR", 0.69, "cannot tell")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["group", "ranker", "auc", "over_plain_verdict"])
    table.to_csv(results / "asked" / "rivals.csv", index=False)
    text = overview.index(["asked", "nobody"])
    assert "| `asked` | MF-mean | 0.672 | – | 0.700 | – |" in text
    assert "| `asked` | MF-CVaR | 0.663 harms | – | 0.690 cannot tell | – |" in text


def test_what_became_of_answers_that_were_heard_out_is_told_with_its_interval(results):
    assert "our stop rule" not in overview.index(["asked", "nobody"])
    row = {"mode": "listwise", "stopped": 513, "sample": 100, "by_model": 59, "by_budget": 41, "other_order": 0.09,
           "begin_alike": 0.48, "other_order_alike": 0.02,
           "tokens_stopped": 159.04, "tokens_heard_out": 1593.2, "missing_stopped": 0.7, "missing_heard_out": 0.69,
           "n": 78, "difference": 0.0185, "low": -0.008, "high": 0.045, "verdict": "equivalent"}  # fmt: skip
    pd.DataFrame([row]).to_csv(results / "asked" / "heard_out.csv", index=False)
    text = overview.index(["asked", "nobody"])
    assert "| `asked` | `listwise` | 100 of 513 | the model 59, its budget 41 | 159, heard out 1,593 | 70%, " in text
    assert (
        "heard out 69% | 9%; of 48% that begin alike, 2% | **equivalent**: +0.018 (-0.008 to +0.045), 78 users |"
        in text
    )


def test_the_taught_model_stands_beside_what_it_has_to_beat():
    mean = {"group": "inactive", "ranker": "taught", "auc": 0.642, "low": 0.632, "high": 0.653, "n": 601}
    row = {"group": "inactive", "ranker": "taught", "against": "taught, another's history", "verdict": "equivalent"}
    row |= {"mean": -0.003, "low": -0.008, "high": 0.003, "n": 601, "smallest_detectable": 0.007}
    found = {"means": [mean | {"group": "weak", "auc": 0.1}, mean], "verdicts": [row | {"group": "weak"}, row]}
    lines = answers.taught({"a": {"taught": found}, "b": {}}).splitlines()
    assert "| the taught model | 0.642 (0.632 to 0.653), 601 users | **not run** |" in lines
    said = "**equivalent**: −0.003 AUC (−0.008 to +0.003), 601 users"
    assert f"| own history, less another user's | {said} | **not run** |" in lines


def test_ways_to_teach_stand_in_the_index_once_they_are_run(results):
    assert "taught to read" not in overview.index(["asked"])
    columns = ["way", "device", "seconds", "users", "auc", "low", "high"]
    columns += ["own_less_another", "apart_low", "apart_high"]
    row = ("lines", "cpu", 5917.5, 100, 0.648, 0.62, 0.676, -0.002, -0.013, 0.009)
    pd.DataFrame([row], columns=columns).to_csv(results / "asked" / "teaching.csv", index=False)
    told = "| `asked` | lines | cpu | 5,918 s | 0.648 (0.620 to 0.676) | -0.002 (-0.013 to +0.009) | 100 |"
    assert told in overview.index(["asked", "nobody"])


def test_the_figure_shows_each_dataset_that_was_asked_and_says_where_nobody_was():
    left, right = figures_overview.overview({"a": PRIMARY, "b": None}, 0.05).axes
    (drawn,) = [line for line in left.get_lines() if len(line.get_xdata()) == 4]
    assert list(drawn.get_xdata()) == [0.55, 0.58, 0.6, 0.5]
    assert [text.get_text() for text in left.get_yticklabels()] == list(answers.WHO.values())
    spans = [lines.get_segments()[0][:, 0].tolist() for lines in right.collections if hasattr(lines, "get_segments")]
    assert spans == [[-0.0711, 0.0711], [-0.07, 0.03]]
    told = [text.get_text() for text in right.get_yticklabels()]
    assert "cannot tell (40 users" in told[0] and told[1] == "b\nnot run"


# --- the committed ones -----------------------------------------------------------------------------------------------


def test_a_study_on_a_subset_is_no_dataset_of_its_own(tmp_path, monkeypatch):
    for name in ("class", "ml-100k", "no longer declared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "claims.csv").write_text("claim\n", encoding="utf-8")
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    assert overview.experiments() == ["ml-100k", "no longer declared"]


@pytest.mark.slow
def test_committed_overview_is_what_the_results_give(tmp_path):
    assert overview.write(tmp_path) == NAMES
    for name in ("README.md", "overview.csv", "verdicts.csv", "seeds.csv"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (paths.RESULTS / name).read_text(encoding="utf-8"), (
            f"{name}: run `make overview`"
        )


@pytest.mark.parametrize("name", [*NAMES, "class"])
def test_every_table_and_figure_of_an_experiment_is_in_the_index(name):
    made = {result for result, *_ in overview.made_by()} | {"seeds", "rivals", "teaching", "heard_out"}
    there = {file.stem for file in (paths.RESULTS / name).iterdir() if file.suffix in (".csv", ".png", ".svg")}
    assert there <= made, "a leftover, or made where the index does not look"


def test_the_index_names_notebook_section_and_cell():
    found = {result: (notebook, section) for result, notebook, section, _ in overview.made_by()}
    assert found["tuning"][0] == "02_baselines"
    assert found["01_portrait"] == ("01_data", "2. A portrait of the ratings")


def test_a_result_that_an_experiment_lacks_is_no_link(results):
    assert "| – |" in overview.index(["nobody"])
