"""The exercises: made from their solutions, refused untouched, passed when solved; checks that tell right from wrong.

Tests marked ``exercises`` run notebooks on the tables of a finished study; `make test` has them ready. The others need
none: they try every check on small tables, with right answers and with wrong ones that a student might give.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from test_docs import dangling, make_targets, targets_of_the_makefile, text_of
from test_house import _MACHINE_PATH, code_cells, code_lines

from hybridrec.data import datasets
from hybridrec.evaluation import metrics, statistics
from hybridrec.evaluation.prices import Price
from hybridrec.study import config, notebooks, paths
from hybridrec.weak_users import triage

sys.path.insert(0, str(paths.ROOT / "exercises"))
import blank
import check

NAMES = notebooks.main_names()
EXERCISES = {path.stem: path for path in sorted(blank.EXERCISES.glob("*.ipynb"))}
SOLUTIONS = {path.stem: path for path in sorted(blank.SOLUTIONS.glob("*.ipynb"))}


def read(path: Any) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def is_exercise(cell: nbformat.NotebookNode) -> bool:
    return "exercise" in cell.metadata.get("tags", [])


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def pair(name) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    """An exercise and its solution."""
    return read(EXERCISES[name]), read(SOLUTIONS[name])


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_notebook_of_the_study_has_an_exercise_and_a_solution():
    assert list(EXERCISES) == list(SOLUTIONS) == NAMES


def test_an_exercise_is_its_solution_with_the_answers_blanked(pair):
    given, solution = pair
    assert given == blank.exercise(solution), "run `python exercises/blank.py`: the solutions are the source"


def test_exercise_and_solution_differ_in_the_students_cells_and_nowhere_else(pair):
    given, solution = pair
    assert len(given.cells) == len(solution.cells)
    for one, other in zip(given.cells, solution.cells, strict=True):
        assert (one.cell_type, one.metadata) == (other.cell_type, other.metadata)
        assert (one.source == other.source) is not is_exercise(one)


def test_an_exercise_is_committed_untouched(pair):
    given, _ = pair
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(given))


def test_a_solution_is_committed_as_it_ran_in_order_without_an_error(pair):
    cells = code_cells(pair[1])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [one for cell in cells for one in cell.outputs if one.output_type == "error"]
    for cell in filter(is_exercise, cells):
        assert "✓" in "".join(one.get("text", "") for one in cell.outputs)


def test_a_students_cell_has_blanks_and_ends_with_its_check(pair):
    for given, solved in zip(*(filter(is_exercise, one.cells) for one in pair), strict=True):
        assert "..." in given.source
        assert not re.search(r"(= |^ +)\.\.\.$", solved.source, re.M)
        last = ast.parse(given.source).body[-1]
        assert ast.unparse(last).startswith("check.")


def test_an_exercise_goes_from_a_prediction_to_a_comparison(pair):
    sources = [cell.source for cell in pair[0].cells]
    order = ["You will learn", "## Predict", "check.prediction(", "## Task 1.", "## Task 2.", "## Task 3.",
             "check.compare(predicted", "## What to take away", "**To discuss.**"]  # fmt: skip
    places = [next(at for at, source in enumerate(sources) if part in source) for part in order]
    assert places == sorted(places)
    assert sources[0].startswith("# Exercise")


def test_an_exercise_ends_in_a_question_to_think_about(pair):
    last = pair[0].cells[-1]
    question = last.source.split("\n\n")[-1]
    assert last.cell_type == "markdown" and question.startswith("**To discuss.**") and question.endswith("?")


def test_an_exercise_is_short_and_names_the_notebook_to_read_first(pair, name):
    given = pair[0]
    assert f"(../notebooks/{name}.ipynb)" in given.cells[0].source
    assert max(code_lines(cell) for cell in code_cells(given)) <= 20
    assert len([cell for cell in code_cells(given) if not is_exercise(cell)]) <= 8
    (parameters,) = [cell for cell in given.cells if "parameters" in cell.metadata.get("tags", [])]
    assert re.fullmatch(r'experiment: str = "[\w-]+"  # \w.*', parameters.source)
    config.load(ast.literal_eval(ast.parse(parameters.source).body[0].value))


def test_no_exercise_or_solution_shows_a_machines_paths(pair):
    for notebook in pair:
        assert not _MACHINE_PATH.search(nbformat.writes(notebook))


def test_a_clever_router_gains_by_a_leak_that_scrambling_shows():
    text = "".join(one.get("text", "") for cell in code_cells(read(SOLUTIONS["05_evaluation"])) for one in cell.outputs)
    alone, helped = map(float, re.search(r"AUC ([\d.]+) with ItemKNN alone, ([\d.]+) with the coin's", text).groups())
    assert helped > alone
    assert int(re.search(r"(\d+) users are routed differently", text)[1]) > 0


def test_the_page_about_them_names_every_exercise_and_leads_somewhere():
    page = blank.EXERCISES / "README.md"
    assert all(f"({name}.ipynb)" in text_of(page) for name in NAMES)
    assert dangling(page) == []
    assert make_targets(text_of(page)) <= targets_of_the_makefile()


# --- making exercises -------------------------------------------------------------------------------------------------


def test_answers_are_blanked_and_all_else_is_kept():
    solved = '# Yours:\nx = f(\n    1,\n)\n\n\ndef g(a):\n    """What it does."""\n    return a\n\n\ncheck.it(x, g)'
    assert (
        blank.blank(solved) == '# Yours:\nx = ...\n\n\ndef g(a):\n    """What it does."""\n    ...\n\n\ncheck.it(x, g)'
    )


@pytest.mark.parametrize("source", ["a, b = 1, 2", "a = b = 1", "table['x'] = 1"])
def test_an_answer_that_cannot_be_blanked_is_refused(source):
    with pytest.raises(ValueError, match="one name at a time"):
        blank.blank(source)


# --- checks on small tables -------------------------------------------------------------------------------------------

USERS = pd.RangeIndex(1, 61, name="user")
PRICE = Price(prompt=0.2, cached=0.1, completion=0.9)
TITLES = ("Alien (1979)", "Fargo (1996)")


def tokenizer(text: str, add_special_tokens: bool = True) -> dict[str, list]:
    """A token is a word or a sign."""
    return {"input_ids": re.findall(r"\w+|[^\w\s]", text)}


def asked_with(opening: str, question: str, length: int) -> list[dict]:
    history = "\n".join(TITLES[:length])
    return [{"instruction": opening.replace("{history}", history), "candidates": [question.replace("{title}", "Heat")]}]


def router(known: pd.DataFrame, test: pd.DataFrame) -> pd.Index:
    """The mended one: the record of known ratings and a fixed threshold."""
    record = triage.performance(known)["performance"]
    return record.index[record <= 0.5]


def worse_of_two(known: pd.DataFrame, test: pd.DataFrame) -> pd.Index:
    """Reads the test's labels."""
    worst = np.fmin(*(triage.performance(rows)["performance"] for rows in (known, test)))
    return worst.index[worst <= 0.5]


def tuned_on_test(known: pd.DataFrame, test: pd.DataFrame) -> pd.Index:
    """A record of known ratings, but the threshold that does best on the test."""
    record = triage.performance(known)["performance"]
    choices = [record.index[record <= t_p] for t_p in (0.3, 0.4, 0.5, 0.6, 0.7)]

    def quality(routed: pd.Index) -> float:
        return metrics.auc(test.assign(score=test["score"].where(~test["user"].isin(routed), test["coin"]))).mean()

    return max(choices, key=quality)


def by_the_oracle(known: pd.DataFrame, test: pd.DataFrame) -> pd.Index:
    """Whoever the coin serves better on the test."""
    gain = metrics.auc(test.assign(score=test["coin"])) - metrics.auc(test)
    return gain.index[gain > 0]


def judged(rng: np.random.Generator, per_user: int) -> pd.DataFrame:
    rows = pd.DataFrame({"user": np.repeat(USERS, per_user)})
    rows["relevant"] = rng.random(len(rows)) < 0.5
    skill = rng.normal(0.6, 0.8, len(USERS))[rows["user"] - 1]
    return rows.assign(score=rng.normal(size=len(rows)) + skill * rows["relevant"], coin=rng.random(len(rows)))


def interval_of(values: pd.Series) -> tuple[float, float]:
    return statistics.bootstrap_interval(values.to_numpy(), np.random.default_rng(5))


@pytest.fixture
def world() -> SimpleNamespace:
    return make_world(11)


def make_world(seed: int) -> SimpleNamespace:
    """Small tables of the kinds that the notebooks hand to the checks."""
    rng = np.random.default_rng(seed)
    w = SimpleNamespace(rng=rng)
    w.interactions = pd.DataFrame(
        {"user": np.repeat(USERS, 20), "split": rng.choice(["train", "validation", "test"], 1200, p=[0.7, 0.15, 0.15])}
    ).sample(900, random_state=1)
    w.index = datasets.sparsity_index(w.interactions[w.interactions["split"] != "test"], 200)
    w.judged_share = lambda share: 0.66 + share  # 0.24 is the first at which it is 0.9
    w.rankable = judged(rng, 5)
    w.coins = pd.DataFrame({"validation": rng.normal(0.5, 0.01, 50), "test": rng.normal(0.5, 0.01, 50)})
    w.auc = pd.DataFrame({"recommender": rng.uniform(0.3, 1, 60), "popularity": rng.uniform(0, 0.8, 60)}, index=USERS)
    w.difference = w.auc["recommender"] - w.auc["popularity"]
    w.users = pd.DataFrame({"record": rng.uniform(0.2, 1, 60).round(3), "later": rng.uniform(0, 1, 60)}, index=USERS)
    w.users["weak"] = w.users["later"] <= 0.5
    w.flagged = w.users["record"] <= 0.5
    w.precision, w.recall = w.users.loc[w.flagged, "weak"].mean(), w.flagged[w.users["weak"]].mean()
    w.caught = lambda t: (w.users.loc[w.users["weak"], "record"] <= t).mean()
    w.t_p = next(t / 100 for t in range(101) if w.caught(t / 100) >= 0.5)
    w.unlucky = lambda n: 0.5 / n  # 10 is the first even number at which it is 0.05
    w.texts = ["one two three", "a: b, c, d; e, f, g. Unbelievable!"]
    w.before, w.after = (pd.Series(rng.uniform(0, 1, 10), index=USERS[:10]) for _ in range(2))
    w.gain = w.after - w.before
    w.paper = pd.read_csv(paths.PUBLISHED).query("group == 'weak'").set_index(["dataset", "recommender"])
    w.paper = w.paper.assign(recommender_alone=rng.uniform(0.1, 0.4, 9), with_gpt_35=rng.uniform(0.48, 0.6, 9))
    w.share = (0.5 - w.paper["recommender_alone"]) / (w.paper["with_gpt_35"] - w.paper["recommender_alone"])
    w.hand_overs = hand_overs(np.random.default_rng(seed))
    w.known = judged(rng, 30).drop(columns="coin").assign(fold=np.tile(np.arange(30) % 3, len(USERS)))
    w.test = judged(rng, 5)
    w.calls = pd.DataFrame({"prompt_tokens": rng.integers(200, 900, 60), "completion_tokens": rng.integers(10, 80, 60)})
    w.calls = w.calls.assign(cached_tokens=0, seconds=rng.uniform(0.5, 6, 60))
    w.usd = w.calls.apply(PRICE.usd, axis=1)
    folds = pd.MultiIndex.from_product([USERS, range(5)], names=["user", "fold"]).to_frame(index=False)
    of_users = rng.normal(0, 0.3, len(USERS))[folds["user"] - 1]
    w.uplift = folds.assign(uplift=(of_users + rng.normal(0, 0.2, 300)).round(1))  # some lists come out the same
    w.past, w.future = w.uplift.query("fold < 2"), w.uplift.query("fold >= 2")
    w.bill = {"nobody": 0, "weak": 0.13 * 700 * 4 * 0.002, "everybody": 700 * 4 * 0.002}
    w.told, w.ratings = taught(np.random.default_rng(seed))
    w.histories = pd.DataFrame({"own": rng.uniform(0.4, 0.9, 60)}, index=USERS)
    w.histories["another"] = w.histories["own"] + rng.normal(0, 0.1, 60)
    w.added = w.histories["own"] - w.histories["another"]
    return w


def taught(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a model said that knows titles and users, and ratings of two folds.

    One title stands in a single list. One is rated in a single fold, and so is unknown when that fold is tested.
    """
    places = [(user, 10 * fold + item) for user in USERS[:20] for fold in (0, 1) for item in rng.choice(10, 6, False)]
    rows = pd.DataFrame([*places, (1, 20)], columns=["user", "item"])
    rows["fold"] = np.where(rows["item"] < 20, (rows["item"] // 10 + rows["user"]) % 2, 0)
    rows.loc[rows["item"] == 5, "fold"] = 1
    liking = np.linspace(-1.5, 1.5, 21)[rows["item"] * 8 % 21] + rng.normal(0, 1, len(rows))
    told = rows.assign(relevant=liking > 0, score=5 + liking + rng.normal(0, 0.5, len(rows)))
    return told, rows.assign(rating=(3 + liking).clip(1, 5).round())


def of_others(told: pd.DataFrame) -> pd.Series:
    """The title's mean grade in other users' lists, row by row; that of all rows where there is none."""
    user, item, score = (told[name].to_numpy() for name in ("user", "item", "score"))
    others = (item[:, None] == item) & (user[:, None] != user)
    number = others.sum(axis=1)
    return pd.Series(np.where(number, others @ score / np.maximum(number, 1), score.mean()), told.index)


def kept(told: pd.DataFrame) -> float:
    return lead(told.assign(score=of_others(told))) / lead(told)


def lead(rows: pd.DataFrame) -> float:
    """Mean AUC of the lists above one half, as scikit-learn has it."""
    lists = [one for _, one in rows.groupby(["fold", "user"]) if one["relevant"].nunique() == 2]
    return float(np.mean([roc_auc_score(one["relevant"], one["score"]) for one in lists]) - 0.5)


def item_means(rows: pd.DataFrame, ratings: pd.DataFrame, fold: int) -> pd.Series:
    known = ratings[ratings["fold"] != fold]
    return rows["item"].map(known.groupby("item")["rating"].mean()).fillna(known["rating"].mean())


def unknown_is_0(rows: pd.DataFrame, ratings: pd.DataFrame, fold: int) -> pd.Series:
    return rows["item"].map(ratings[ratings["fold"] != fold].groupby("item")["rating"].mean()).fillna(0)


def of_all_ratings(rows: pd.DataFrame, ratings: pd.DataFrame, fold: int) -> pd.Series:
    """Reads what is to be predicted."""
    return rows["item"].map(ratings.groupby("item")["rating"].mean())


def how_often(rows: pd.DataFrame, ratings: pd.DataFrame, fold: int) -> pd.Series:
    return rows["item"].map(ratings[ratings["fold"] != fold]["item"].value_counts()).fillna(0)


def hand_overs(rng: np.random.Generator) -> pd.DataFrame:
    """Inactive users in three folds; who is served well is found weak in fewer of them."""
    rows = pd.DataFrame({"recommender": np.repeat(["BPR", "NeuMF"], 180), "test": np.tile(range(3), 120)})
    rows["user"] = np.tile(np.repeat(USERS, 3), 2)
    well = rows["user"] <= 30
    rows["weak"] = rng.random(360) < np.where(well, 0.2, 0.8)
    return rows.assign(alone=rng.uniform(0.3, 0.7, 360) + 0.2 * well, with_coin=rng.uniform(0.4, 0.6, 360))


def gain(rows: pd.DataFrame, by: list[str] | None = None) -> float:
    """The coin's gain, mean over recommenders; ``by``: averaged within these first."""
    change = rows.assign(gain=rows["with_coin"] - rows["alone"])
    change = change.groupby(by)["gain"].mean().reset_index() if by else change
    return float(change.groupby("recommender")["gain"].mean().mean())


def past_of(rows: pd.DataFrame) -> pd.Index:
    """Users whose mean uplift is above 0."""
    return rows.groupby("user")["uplift"].mean().loc[lambda gain: gain > 0].index


def by_past(w: SimpleNamespace) -> pd.Index:
    return past_of(w.past)


by_past_of = lambda w: by_past(w)  # noqa: E731  # an answer that is worked out in the world


def handed(w: SimpleNamespace) -> pd.Series:
    """What the lists of the future gain whose users are handed over."""
    return w.future.loc[w.future["user"].isin(by_past(w)), "uplift"]


def of_future(w: SimpleNamespace) -> float:
    return float(handed(w).sum() / len(w.future))


def throw(candidates: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(candidates))


Case = Callable[[SimpleNamespace], tuple]

# For each check a right call, and how many of its arguments are the student's own.
RIGHT: dict[str, tuple[int, Case]] = {
    "sparsity": (1, lambda w: (w.index, w.interactions, 200)),
    "inactive_quarter": (1, lambda w: (min(v for v in w.index if (w.index > v).mean() <= 0.25), w.index)),
    "test_share": (1, lambda w: (0.24, w.judged_share, 0.9)),
    "constant": (1, lambda w: (w.rankable.assign(score=3.0), w.rankable)),
    "tuned": (2, lambda w: (w.coins["validation"].idxmax(), w.coins["test"][w.coins["validation"].idxmax()], w.coins)),
    "winner": (3, lambda w: (w.difference, interval_of(w.difference), "recommender", w.auc)),
    "precision_recall": (3, lambda w: (w.flagged, w.precision, w.recall, w.users, 0.5)),
    "threshold": (1, lambda w: (w.t_p, w.users)),
    "evidence": (1, lambda w: (10, w.unlucky)),
    "tokens": (1, lambda w: (max(len(tokenizer(text)["input_ids"]) for text in w.texts), w.texts, tokenizer)),
    "prompt": (3, lambda w: ("I like\n{history}\n", "And {title}? Yes or No.", 2, asked_with, 30, tokenizer)),
    "answered": (0, lambda w: (w.after * 0.2, w.after * 0.3)),
    "verdict": (3, lambda w: (w.gain, interval_of(w.gain), True, w.before, w.after)),
    "coin": (0, lambda w: (throw, w.rankable)),
    "coin_share": (1, lambda w: (w.share, w.paper)),
    "cross_gain": (1, lambda w: (gain(w.hand_overs.query("weak")), w.hand_overs)),
    "mended": (0, lambda w: (router, w.known, w.test)),
    "service": (2, lambda w: (700, 4)),
    "usd_per_call": (1, lambda w: (w.usd.mean(), w.calls, PRICE)),
    "bill": (1, lambda w: (w.bill, 700, 4, 0.13, 0.002)),
    "machine": (2, lambda w: (w.calls["seconds"].mean() / 3600 * 0.1, "machine", w.calls, 0.1, 0.01)),
    "refreshes_within": (1, lambda w: (33, 0.01, 0.0003)),
    "without_user": (2, lambda w: (of_others(w.told), kept(w.told), w.told)),
    "reads_user": (3, lambda w: (w.added, interval_of(w.added), "equivalent", w.histories, 0.05)),
    "item_means": (0, lambda w: (item_means, w.told, w.ratings)),
    "hindsight": (1, lambda w: (w.uplift["uplift"].clip(lower=0).mean(), w.uplift)),
    "foresight": (2, lambda w: (by_past(w), of_future(w), w.past, w.future)),
    "made_worse": (1, lambda w: ((handed(w) < 0).mean(), by_past(w), w.future)),
    "prediction": (1, lambda w: (0.4, 0, 1)),
}  # fmt: skip


def answered_with(answer: Any, *others: Any) -> Case:
    """The right call of a check with other answers: values, or functions of the world."""

    def case(w: SimpleNamespace) -> tuple:
        return tuple(one(w) if callable(one) and one.__name__ == "<lambda>" else one for one in (answer, *others))

    return case


# Wrong answers that a student might give, and a word of the hint that each must get.
WRONG: list[tuple[str, Case, str]] = [
    ("sparsity", answered_with(lambda w: 1 - w.index), "grow as it falls"),
    ("sparsity", answered_with(lambda w: datasets.sparsity_index(w.interactions, 200)), "not been given yet"),
    ("sparsity", answered_with(lambda w: datasets.sparsity_index(w.interactions.query("split == 'train'"), 200)),
     "does know"),
    ("sparsity", answered_with(lambda w: w.index * 0.99), "what divides"),
    ("sparsity", answered_with(lambda w: w.index.iloc[:-1]), "lacks 1 of"),
    ("sparsity", answered_with(0.9), "pandas Series"),
    ("inactive_quarter", answered_with(lambda w: w.index.mean()), "more than a quarter"),
    ("inactive_quarter", answered_with(lambda w: w.index.max()), "fewer than a fifth"),
    ("test_share", answered_with(0.2), "too few users"),
    ("test_share", answered_with(0.3), "smaller share"),
    ("test_share", answered_with(0.245), "multiple"),
    ("test_share", answered_with(0.9), "between"),
    ("constant", answered_with(lambda w: w.rankable), "another score"),
    ("constant", answered_with(lambda w: w.rankable.drop(columns="score")), "no column score"),
    ("constant", answered_with(lambda w: w.rankable.assign(score=1).head(9)), "every row"),
    ("constant", answered_with(lambda w: w.rankable.assign(score=1, relevant=True)), "labels"),
    ("constant", answered_with(lambda w: w.rankable.assign(score=np.nan)), "must be a number"),
    ("tuned", answered_with(lambda w: w.coins["test"].idxmax(), lambda w: w.coins["test"].max()), "judge it"),
    ("tuned", answered_with(lambda w: w.coins["validation"].idxmin(), 0.5), "better seed"),
    ("tuned", answered_with(lambda w: w.coins["validation"].idxmax(), lambda w: w.coins["test"].max()), "the best"),
    ("tuned", answered_with(lambda w: w.coins["validation"].idxmax(), lambda w: w.coins["validation"].max()), "chose"),
    ("tuned", answered_with(1000, 0.5), "choose one of"),
    ("winner", answered_with(lambda w: -w.difference), "other way round"),
    ("winner", answered_with(lambda w: w.auc["recommender"]), "two AUCs"),
    ("winner", answered_with(lambda w: w.difference.head(20)), "lacks"),
    ("winner", answered_with(lambda w: w.difference, lambda w: tuple(w.difference.quantile([0.025, 0.975]))),
     "too wide or too narrow"),
    ("winner", answered_with(lambda w: w.difference, (0.0, 0.01)), "hold the mean"),
    ("winner", answered_with(lambda w: w.difference, 0.2), "a pair"),
    ("winner", answered_with(lambda w: w.difference, lambda w: interval_of(w.difference), "cannot tell"), "include 0"),
    ("winner", answered_with(lambda w: w.difference, lambda w: interval_of(w.difference), "both"), "one of"),
    ("precision_recall", answered_with(lambda w: w.users["weak"]), "cannot know"),
    ("precision_recall", answered_with(lambda w: w.users["record"] > 0.5), "at or below"),
    ("precision_recall", answered_with(lambda w: w.flagged, lambda w: w.recall), "other of the two"),
    ("precision_recall", answered_with(lambda w: w.flagged, lambda w: (w.flagged == w.users["weak"]).mean()), "counts"),
    ("precision_recall", answered_with(lambda w: w.flagged, lambda w: w.precision, lambda w: w.precision), "other of"),
    ("precision_recall", answered_with(lambda w: w.flagged, lambda w: w.precision, 0.0123), "divided by"),
    ("threshold", answered_with(lambda w: w.t_p - 0.01), "not flagged"),
    ("threshold", answered_with(lambda w: w.t_p + 0.02), "lower threshold"),
    ("threshold", answered_with(1), "lower threshold"),
    ("threshold", answered_with(0.5004), "multiple"),
    ("evidence", answered_with(8), "too many weak"),
    ("evidence", answered_with(40), "fewer items"),
    ("evidence", answered_with(11), "even"),
    ("tokens", answered_with(lambda w: max(len(text.split()) for text in w.texts)), "words"),
    ("tokens", answered_with(lambda w: max(map(len, w.texts))), "characters"),
    ("tokens", answered_with(3), "shorter one"),
    ("prompt", answered_with("I like films.\n"), "{history}"),
    ("prompt", answered_with("I like\n{history}\n{titel}"), "nobody will fill in"),
    ("prompt", answered_with("{history}{history}"), "twice"),
    ("prompt", answered_with("{history}{"), "braces"),
    ("prompt", answered_with("{history}", "Would I like it?"), "{title}"),
    ("prompt", answered_with("{history}", "{title}?", 0), "at least one"),
    ("prompt", answered_with("very " * 40 + "{history}"), "over the budget"),
    ("prompt", answered_with(7), "a text"),
    ("answered", answered_with(lambda w: w.after * 0.01), "cannot be read"),
    ("verdict", answered_with(lambda w: -w.gain), "other way round"),
    ("verdict", answered_with(lambda w: w.after), "same users' difference"),
    ("verdict", answered_with(lambda w: w.gain, lambda w: interval_of(w.gain), False), "two ends"),
    ("verdict", answered_with(lambda w: w.gain, lambda w: interval_of(w.gain), "yes"), "True or False"),
    ("verdict", answered_with(lambda w: w.gain, lambda w: interval_of(w.gain.abs())), "interval"),
    ("coin", answered_with(lambda w: lambda rows, rng: np.full(len(rows), 0.5)), "shrug"),
    ("coin", answered_with(lambda w: lambda rows, rng: np.random.random(len(rows))), "same generator"),
    ("coin", answered_with(lambda w: lambda rows, rng: np.arange(len(rows))), "another generator"),
    ("coin", answered_with(lambda w: lambda rows, rng: rows["relevant"] + rng.random(len(rows))), "seen the labels"),
    ("coin", answered_with(lambda w: lambda rows, rng: rng.random()), "each row"),
    ("coin", answered_with(lambda w: lambda rows, rng: rows["score"] + rng.random(len(rows))), "one half"),
    ("coin_share", answered_with(lambda w: 0.5 - w.paper["recommender_alone"]), "share of what"),
    ("coin_share", answered_with(lambda w: 0.5 / w.paper["with_gpt_35"]), "gains"),
    ("coin_share", answered_with(lambda w: 1 / w.share), "upside down"),
    ("coin_share", answered_with(lambda w: w.share * 0.9), "over the paper's"),
    ("cross_gain", answered_with(lambda w: gain(w.hand_overs)), "handed over"),
    ("cross_gain", answered_with(lambda w: gain(w.hand_overs.query("weak"), ["recommender", "user"])), "count once"),
    ("cross_gain", answered_with(lambda w: -gain(w.hand_overs.query("weak"))), "other way round"),
    ("cross_gain", answered_with(0.9), "over whom"),
    ("mended", answered_with(worse_of_two), "still a leak"),
    ("mended", answered_with(tuned_on_test), "still a leak"),
    ("mended", answered_with(by_the_oracle), "still a leak"),
    ("mended", answered_with(lambda w: lambda known, test: USERS[:9]), "do not depend"),
    ("mended", answered_with(lambda w: lambda known, test: USERS[:0]), "nobody"),
    ("mended", answered_with(lambda w: lambda known, test: known["user"].unique()), "do not depend"),
    ("mended", answered_with(lambda w: lambda known, test: USERS.difference(router(known, test))), "better record"),
    ("mended", answered_with(lambda w: lambda known, test: triage.performance(known)["performance"] <= 0.5), "index"),
    ("service", answered_with(0, 30), "between"),
    ("service", answered_with("many", 30), "number"),
    ("usd_per_call", answered_with(lambda w: w.usd.mean() * 1e6), "per million"),
    ("usd_per_call", answered_with(lambda w: w.usd.sum()), "together"),
    ("usd_per_call", answered_with(lambda w: w.calls["prompt_tokens"].mean() * 0.2e-6), "answer has to be paid"),
    ("usd_per_call", answered_with(lambda w: (w.calls["prompt_tokens"] + w.calls["completion_tokens"]).mean() * 0.2e-6),
     "prices of their own"),
    ("usd_per_call", answered_with(0), "divided by"),
    ("bill", answered_with(5.6), "three bills"),
    ("bill", answered_with(lambda w: {**w.bill, "weak": w.bill["weak"] / 4}), "single refresh"),
    ("bill", answered_with(lambda w: {**w.bill, "weak": w.bill["everybody"] - w.bill["weak"]}), "everybody else"),
    ("bill", answered_with(lambda w: {**w.bill, "everybody": 1}), "over whom"),
    ("bill", answered_with(lambda w: {**w.bill, "nobody": 1}), "over whom"),
    ("machine", answered_with(lambda w: w.calls["seconds"].mean() * 0.1, "endpoint"), "by the hour"),
    ("machine", answered_with(lambda w: w.calls["seconds"].mean() * 0.1 / 60, "endpoint"), "sixty"),
    ("machine", answered_with(lambda w: w.calls["seconds"].mean() * 0.1 / 3600, "endpoint"), "compare"),
    ("machine", answered_with(lambda w: w.calls["seconds"].mean() * 0.1 / 3600, "mine"), "answer"),
    ("refreshes_within", answered_with(34), "more than the budget"),
    ("refreshes_within", answered_with(32), "would pay for more"),
    ("refreshes_within", answered_with(33.3), "whole number"),
    ("without_user", answered_with(lambda w: w.told["score"], 1), "this very user"),
    ("without_user", answered_with(lambda w: w.told.groupby("item")["score"].transform("mean"), 1), "still in this"),
    ("without_user", answered_with(lambda w: w.told["score"] * 0 + w.told["score"].mean(), 0), "not the mean grade"),
    ("without_user", answered_with(lambda w: of_others(w.told).where(w.told["item"] != 20)), "nobody else's list"),
    ("without_user", answered_with(lambda w: of_others(w.told).iloc[:-1]), "lacks 1 of"),
    ("without_user", answered_with(lambda w: of_others(w.told), lambda w: 1 - kept(w.told)), "lost"),
    ("without_user", answered_with(lambda w: of_others(w.told), lambda w: kept(w.told) * lead(w.told)), "of what"),
    ("without_user", answered_with(lambda w: of_others(w.told), lambda w: 1 / kept(w.told)), "upside down"),
    ("without_user", answered_with(lambda w: of_others(w.told),
     lambda w: (0.5 + kept(w.told) * lead(w.told)) / (0.5 + lead(w.told))), "above a random order"),
    ("without_user", answered_with(lambda w: of_others(w.told), 7), "over whom"),
    ("without_user", answered_with(1, 1, lambda w: w.told.head(0)), "was not asked"),
    ("reads_user", answered_with(lambda w: -w.added), "other way round"),
    ("reads_user", answered_with(lambda w: w.histories["own"]), "two AUCs"),
    ("reads_user", answered_with(lambda w: w.added, (0.0, 0.0001)), "interval"),
    ("reads_user", answered_with(lambda w: w.added, lambda w: interval_of(w.added), "cannot tell"), "more can be said"),
    ("reads_user", answered_with(lambda w: w.added, lambda w: interval_of(w.added), "own"), "include 0"),
    ("reads_user", answered_with(lambda w: w.added, lambda w: interval_of(w.added), "both"), "one of"),
    ("reads_user", answered_with(lambda w: w.added, lambda w: interval_of(w.added), "equivalent",
     lambda w: w.histories, 0.001), "reaches beyond"),
    ("item_means", answered_with(lambda w: of_all_ratings), "a leak"),
    ("item_means", answered_with(lambda w: how_often), "not the mean"),
    ("item_means", answered_with(lambda w: unknown_is_0), "without a known rating"),
    ("item_means", answered_with(lambda w: lambda rows, ratings, fold: 3.0), "pandas Series"),
    ("hindsight", answered_with(lambda w: w.uplift.query("uplift > 0")["uplift"].mean()), "also those that stay"),
    ("hindsight", answered_with(lambda w: w.uplift["uplift"].mean()), "hands over everybody"),
    ("hindsight", answered_with(lambda w: (w.uplift["uplift"] > 0).mean()), "how much"),
    ("hindsight", answered_with(0.9), "over whom"),
    ("foresight", answered_with(lambda w: past_of(w.future)), "nobody knows yet"),
    ("foresight", answered_with(lambda w: w.past.query("uplift > 0")["user"].unique()), "not any fold"),
    ("foresight", answered_with(lambda w: USERS[:9]), "above 0"),
    ("foresight", answered_with(3), "list of ids"),
    ("foresight", answered_with(by_past_of, lambda w: handed(w).mean()), "also those that stay"),
    ("foresight", answered_with(by_past_of, 0.7), "over whom"),
    ("made_worse", answered_with(lambda w: (handed(w) <= 0).mean()), "the same is not worse"),
    ("made_worse", answered_with(lambda w: (handed(w) > 0).mean()), "comes out better"),
    ("made_worse", answered_with(lambda w: (w.future["uplift"] < 0).mean()), "handed over"),
    ("prediction", answered_with(7), "between"),
    ("prediction", answered_with(True), "number"),
]  # fmt: skip


def call(name: str, w: SimpleNamespace, case: Case | None = None) -> None:
    """The check with the case's answers in the place of the first right ones."""
    right = RIGHT[name][1](w)
    given = case(w) if case else ()
    getattr(check, name)(*given, *right[len(given) :])


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes_and_is_told_so(name, world, capsys):
    call(name, world)
    assert capsys.readouterr().out.startswith("✓ ")


def scalars(answer: Any) -> list[float]:
    """The numbers in a right answer that a message must not give away."""
    if isinstance(answer, dict):
        return [value for value in answer.values() if value]
    values = answer if isinstance(answer, tuple) else [answer]
    return [float(value) for value in values if isinstance(value, int | float | np.number) and value not in (0, 1)]


@pytest.mark.parametrize(("name", "case", "hint"), WRONG, ids=[f"{one[0]}: {one[2]}" for one in WRONG])
def test_a_wrong_answer_is_refused_with_a_hint_that_does_not_give_the_right_one(name, case, hint, world, capsys):
    with pytest.raises(check.NotYet) as refused:
        call(name, world, case)
    message, (answers, right) = str(refused.value), RIGHT[name]
    assert hint in message
    assert "✓" not in capsys.readouterr().out
    told = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", message)]
    for truth in (one for answer in right(world)[:answers] for one in scalars(answer)):
        assert not [number for number in told if number == pytest.approx(truth, rel=0.02)], message


MEASURED = ["sparsity", "constant", "tuned", "winner", "precision_recall", "threshold", "tokens", "verdict",
            "coin_share", "cross_gain", "usd_per_call", "machine", "without_user", "reads_user"]  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_right_for_one_dataset_is_wrong_for_another(name, world):
    answers, right = RIGHT[name]
    other = make_world(12)
    other.texts = ["one"]
    with pytest.raises(check.NotYet):
        getattr(check, name)(*right(world)[:answers], *right(other)[answers:])


def test_every_check_has_wrong_answers_and_is_used():
    checks = {name for name, made in vars(check).items() if inspect.isfunction(made) and made.__module__ == "check"}
    checks = {name for name in checks if not name.startswith("_")} - {"scrambled", "fields", "compare"}
    used = {
        used for path in SOLUTIONS.values() for used in re.findall(r"check\.(\w+)\(", path.read_text(encoding="utf-8"))
    }
    assert checks == set(RIGHT) == {name for name, _, _ in WRONG} == used - {"scrambled", "compare"}


BLANKS = [(name, place, nothing) for name in RIGHT for place in range(RIGHT[name][0]) for nothing in (..., None)]


@pytest.mark.parametrize(("name", "place", "nothing"), BLANKS)
def test_an_answer_that_was_left_out_is_called_that(name, place, nothing, world):
    given = list(RIGHT[name][1](world))
    given[place] = nothing
    with pytest.raises(check.NotYet, match="nothing filled in yet"):
        getattr(check, name)(*given)


@pytest.mark.parametrize(
    ("name", "unwritten"),
    [
        ("coin", lambda rows, rng: None),
        ("mended", lambda known, test: None),
        ("item_means", lambda rows, ratings, fold: None),
    ],
)
def test_a_function_that_was_not_written_is_called_that(name, unwritten, world):
    with pytest.raises(check.NotYet, match="nothing filled in yet"):
        getattr(check, name)(unwritten, *RIGHT[name][1](world)[1:])


def test_a_wrong_prediction_is_welcome(capsys):
    check.compare(0.9, 0.4, "Something")
    check.compare(0.41, 0.4, "Something")
    wrong, close = capsys.readouterr().out.split("Something: ")[1:]
    assert "you predicted 0.9, and it came out as 0.4" in wrong
    assert "fine" in wrong
    assert "Close" in close


def test_the_leaky_routers_do_leak_and_the_mended_one_does_not(world):
    for route, leaks in ((worse_of_two, True), (tuned_on_test, True), (by_the_oracle, True), (router, False)):
        turned = route(world.known, check.scrambled(world.test))
        assert bool(len(route(world.known, world.test).symmetric_difference(turned))) is leaks


# --- the notebooks, run -----------------------------------------------------------------------------------------------

UNTOUCHED = """
try:
    exec({source!r})
except check.NotYet as found:
    assert "nothing filled in yet" in str(found), found
else:
    raise AssertionError("this cell passes untouched")
"""


@pytest.mark.exercises
def test_an_untouched_exercise_stops_at_its_first_check_and_says_why():
    from papermill import PapermillExecutionError

    with pytest.raises(PapermillExecutionError) as stopped:
        blank.run(read(EXERCISES["01_data"]), blank.EXERCISES, {"experiment": "ml-100k"})
    assert stopped.value.ename == "NotYet"
    assert stopped.value.evalue == "nothing filled in yet. Put your answer where the dots are."
    assert stopped.value.traceback == [f"Not yet: {stopped.value.evalue}"]


@pytest.mark.exercises
def test_an_exercise_without_the_studys_tables_says_what_to_run(tmp_path, monkeypatch):
    from papermill import PapermillExecutionError

    monkeypatch.setenv("HYBRIDREC_SCRATCH", str(tmp_path))
    with pytest.raises(PapermillExecutionError, match="Run that notebook first, or `make reproduce"):
        blank.run(read(EXERCISES["06_cost"]), blank.EXERCISES, {"experiment": "ml-100k"})


@pytest.mark.exercises
def test_every_check_refuses_its_untouched_cell_and_passes_the_solved_one(name):
    notebook = read(SOLUTIONS[name])
    for at in reversed([at for at, cell in enumerate(notebook.cells) if is_exercise(cell)]):
        source = UNTOUCHED.format(source=blank.blank(notebook.cells[at].source))
        notebook.cells.insert(at, nbformat.v4.new_code_cell(source))
    done = blank.run(notebook, blank.SOLUTIONS, {"experiment": "ml-100k"})  # raises where a cell does
    solved = [cell for cell in done.cells if is_exercise(cell)]
    assert len(solved) >= 4
    assert all("✓" in "".join(one.get("text", "") for one in cell.outputs) for cell in solved)
