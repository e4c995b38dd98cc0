"""Ways to ask that are compared on triage folds, and the rule that chooses one for each test fold.

A way is a mode and the part of the user's history that it is shown. For test fold k it is chosen by answers about
another fold, to prompts whose histories hold neither: nothing that chooses for fold k has seen a rating of fold k.
"""

from dataclasses import dataclass

import pandas as pd

from hybridrec.data.folds import neighbour
from hybridrec.errors import SettingError
from hybridrec.evaluation import metrics, statistics
from hybridrec.randomness import generator

# Below this share of users with an answer a way is not chosen, whatever the answers are worth.
_LEAST_ANSWERED = 0.5


@dataclass(frozen=True)
class Way:
    """A way to ask: a mode (``modes.get``), and how many titles of the history it is shown, and which.

    ``length`` and ``shown`` are ``build_tasks``'s ``history_length`` and ``shown``.
    """

    name: str
    mode: str
    length: int = 20
    shown: str = "best"


# One thing changed at a time against the first, which is the published history in the cheapest mode.
WAYS = (
    Way("likelihood", "likelihood"),
    Way("history of 10", "likelihood", 10),
    Way("history of 40", "likelihood", 40),
    Way("most recent", "likelihood-recent", 20, "recent"),
    Way("ratings shown", "likelihood-ratings"),
    Way("likes only", "likelihood-likes"),
    Way("likes and dislikes", "likelihood-likes-dislikes", 20, "ends"),
    Way("worked example", "likelihood-example"),
    Way("pointwise", "pointwise"),
    Way("pointwise with facts", "pointwise-facts"),
)
# In these the model writes the order. They can be named, and are not among those compared: an answer takes many times
# as long as a score.
WRITTEN = (Way("listwise", "listwise"), Way("listwise-labels", "listwise-labels"))
# Only for a model that was taught to be asked so (``teach``).
TAUGHT = (
    Way("rating lines", "rating-lines", 48, "mixed"),
    Way("rating lines of 96", "rating-lines", 96, "mixed"),
    Way("pointwise", "pointwise"),
)


def get(name: str) -> Way:
    """The way of that name, of ``WAYS``, ``WRITTEN`` and ``TAUGHT``.

    Raises:
        SettingError: there is none (lists those there are).
    """
    known = {way.name: way for way in (*WAYS, *WRITTEN, *TAUGHT)}
    if name not in known:
        raise SettingError(f"unknown way {name!r}. Known: {', '.join(known)}.")
    return known[name]


def neighbouring_pairs(folds: int) -> list[tuple[int, int]]:
    """The pairs of folds (k, k + 1), the last with the first.

    A history without both folds of a pair serves twice: answers about one fold decide for the other. So each test fold
    is decided for by two others, at the price of one history a user and pair.
    """
    return [(fold, neighbour(fold, folds)) for fold in range(folds)]


def quality(answers: pd.DataFrame, by: list[str]) -> pd.Series:
    """Each user's share of correctly ordered pairs, pooled over the folds in which they were asked about.

    Args:
        answers: ``by``, test, fold, user, item, score, relevant; the rows of one value of all but the last three are
            one ranking. Only pairs within a ranking count.
        by: what users are compared in, such as ["way", "test"].

    Returns:
        AUC, indexed by ``by`` and user; those without a pair are left out.
    """
    rankings = list(dict.fromkeys([*by, "test", "fold", "user"]))
    each = metrics.auc_pairs(answers, rankings).groupby([*by, "user"]).sum()
    each = each[each["pairs"] > 0]
    return (each["correct"] / each["pairs"]).rename("auc")


def compare(answers: pd.DataFrame, by: str, seed: int, samples: int = 2000) -> pd.DataFrame:
    """Each way beside the first one: the table that is shown, which chooses nothing.

    Args:
        answers: ``by``, test, fold, user, item, score, relevant, failure. A user's pairs of all test folds are pooled;
            only users with all of ``by`` count.
        by: the column that says what is compared: "way", or "ranker".
        seed, samples: of the bootstrap over users.

    Returns:
        ``by``, users, answered (share of rows without a failure), auc with its 95 % interval (low, high), and the
        paired difference to the first, with its own (difference, difference_low, difference_high).
    """
    wide = quality(answers, [by]).unstack(by).dropna()
    names = answers[by].unique()
    answered = (answers["failure"] == "").groupby(answers[by]).mean()
    rows = []
    for name in names:
        low, high = _interval(wide[name], seed, name, samples)
        apart = wide[name] - wide[names[0]]
        apart_low, apart_high = _interval(apart, seed, f"{name} - {names[0]}", samples)
        rows.append(
            (name, len(wide), answered[name], wide[name].mean(), low, high, apart.mean(), apart_low, apart_high)
        )
    ends = ["difference", "difference_low", "difference_high"]
    return pd.DataFrame(rows, columns=[by, "users", "answered", "auc", "low", "high", *ends])


def _interval(values: pd.Series, seed: int, name: str, samples: int) -> tuple[float, float]:
    return statistics.bootstrap_interval(values.to_numpy(), generator(seed, "ways", name), samples)


def choose(answers: pd.DataFrame) -> pd.Series:
    """The way with the highest mean AUC over users, for each test fold.

    Args:
        answers: way, test, fold, user, item, score, relevant, failure ("" where the answer could be used). Rows of
            fold == test are left out: they are what is judged. A user without an answer counts with the random order
            that stands in its place.

    Returns:
        Names of ways, indexed by test; among equals the one that comes first in ``answers``. A way in which most users
        have no answer is not chosen.
    """
    known = answers[answers["fold"] != answers["test"]]
    usable = (known["failure"] == "").groupby([known["test"], known["way"]]).mean() >= _LEAST_ANSWERED
    mean = quality(known, ["test", "way"]).groupby(["test", "way"]).mean()
    order = {name: place for place, name in enumerate(known["way"].unique())}
    table = mean[usable.reindex(mean.index)].reset_index().assign(place=lambda rows: rows["way"].map(order))
    best = table.sort_values(["test", "auc", "place"], ascending=[True, False, True]).drop_duplicates("test")
    return best.set_index("test")["way"]
