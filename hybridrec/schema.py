"""The columns of every table that goes into this library or comes out of it, and the check of what comes in.

Wherever a table is expected, a DataFrame or the path of a file that ``reading`` knows will do. Ids of users and items
are whole numbers or text, and are kept as given. CSV has no types: there a column of ids is one of numbers if every
value is a whole number as one writes it, without leading zeros; text otherwise.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from hybridrec import reading
from hybridrec.errors import DatasetError, ScoresError

Table: TypeAlias = pd.DataFrame | str | Path

RATINGS = {
    "user": "who rated",
    "item": "what was rated; a user rates an item once",
    "rating": "how good the item is to the user; more is better",
    "timestamp": "when, in seconds since 1970 (UTC); 0 throughout where it is not known",
}
ITEMS = {
    "item": "the item's id, one row each",
    "title": "the name by which a language model knows it",
    "year": 'of its release; "" where it is not known',
    "genres": 'or categories, separated by commas; "" where they are not known',
}
CANDIDATES = {"user": "for whom items are put in order", "item": "an item of the user's list, once in it"}
SCORES = {"user": "for whom", "item": "of what", "score": "more is better; only the order within a user counts"}
OUT_OF_FOLD = SCORES | {"fold": "the part of the ratings that the recommender did not learn from; 0 where not known"}
TRIAGE = {
    "user": "one row each",
    "performance": "P(u), AUC of the out-of-fold scores: share of pairs (liked, other item) in the right order",
    "pairs": "number of such pairs",
    "sparsity": "S_I(u), share of the catalogue that the user has not rated",
    "inactive": "whether the sparsity is above its threshold",
    "weak": "whether the user is inactive and the performance below its threshold",
    "shrunken": "performance by empirical Bayes",
    "sd": "standard deviation of ``shrunken``",
    "upper": "upper end of its interval",
}
RANKINGS = SCORES | {
    "ranker": "name of the way to ask",
    "invalid": "names in the answer that are no candidates",
    "duplicates": "candidates that the answer names again",
    "missing": "candidates that the answer does not name",
    "failure": 'why there is no answer; "" where there is one',
    "ended_by": 'who ended a written answer: model, our budget, our stop rule or server; "" where nothing was written',
    "answered": "mean probability of the two choices together; missing where none were offered",
    "attempts": "requests sent until there was an answer",
    "prompt_tokens": "length of the prompts",
    "cached_tokens": "of these, how many the model had read before",
    "completion_tokens": "length of the answers",
    "seconds": "time taken",
}
FINAL = SCORES | {
    "source": '"recommender", or the name of the ranker that gave the score',
    "own": "the recommender's own score",
}
OUTCOMES = {"user": "who", "item": "a candidate", "rating": "what the user made of it"}

IDS = ("user", "item")


def read(
    table: Table,
    columns: Iterable[str],
    what: str,
    *,
    ids: Sequence[str] = IDS,
    text: Sequence[str] = ("title", "genres", "year"),
    unique: Sequence[str] = (),
) -> pd.DataFrame:
    """A table, or the table in a file, checked.

    Args:
        table: a DataFrame, which is not changed, or the path of a file (``reading.read``).
        columns: those that it must have, such as the keys of one of the dictionaries above; others are kept.
        what: what the table holds, for errors; a file is called by its own name.
        ids: columns that hold ids, where it has them.
        text: columns that are text in a CSV file, whatever stands there: a film called 007 is no number.
        unique: columns that together occur once only, such as ("user", "item").

    Returns:
        The table with rows numbered from 0; ids are int64 or text.

    Raises:
        DatasetError: no such file, one that cannot be read, a missing column, ids that are missing or neither whole
            numbers nor text, rows that are there twice.
    """
    what = called(table, what)
    if not isinstance(table, pd.DataFrame):
        rows = reading.read(Path(table), text=[*ids, *text])
        table = rows.table
        if rows.untyped:
            table = table.assign(**{name: whole_numbers(table[name]) for name in ids if name in table})
    else:
        table = reading.of(table, what).table
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise DatasetError(
            f"{what}: no column {lacking[0]!r}; it has {', '.join(map(str, table.columns))}. Rename the column, or say "
            "what it is called if this step takes such a name."
        )
    table = table.assign(**{name: checked_ids(table[name], what) for name in ids if name in table})
    twice = table.duplicated(list(unique)) if unique else pd.Series(False, table.index)
    if twice.any():
        row, values = first(table, twice)
        pair = ", ".join(f"{name} {values[name]!r}" for name in unique)
        raise DatasetError(f"{what}, row {row}: {pair} is there already{and_more(twice)}. Keep one row of each.")
    return table


def called(table: Table, what: str) -> str:
    """What to call a table in errors: a file's own name, or ``what``."""
    return what if isinstance(table, pd.DataFrame) else Path(table).name


def first(table: pd.DataFrame, wrong: pd.Series) -> tuple[int, dict[Any, Any]]:
    """The number of the first row that is wrong, from 1, and what stands in it."""
    row = int(wrong.to_numpy().argmax())
    return row + 1, table.iloc[[row]].to_dict("records")[0]


def and_more(wrong: pd.Series) -> str:
    """How many rows are wrong beside the first."""
    return f" (and {wrong.sum() - 1:,} rows more)" if wrong.sum() > 1 else ""


def finite(table: pd.DataFrame, name: str, what: str, error: type[Exception] = DatasetError) -> pd.Series:
    """A column as finite numbers.

    Raises:
        DatasetError, or ``error``: one is missing, infinite or no number (names the first row, and counts the others).
    """
    values = pd.to_numeric(table[name], errors="coerce").astype("float64")
    wrong = ~values.between(-sys.float_info.max, sys.float_info.max)
    if wrong.any():
        row, there = first(table, wrong)
        whose = " for user {user!r}, item {item!r}".format(**there) if {*IDS} <= there.keys() else ""
        raise error(
            f"{what}, row {row}: {name} is {there[name]!r}{whose}, not a finite number{and_more(wrong)}. Fix or remove "
            "such rows."
        )
    return values


def scores(table: Table, what: str, *, users: Iterable | None = None, items: Iterable | None = None) -> pd.DataFrame:
    """A table of scores: one finite score for a pair, of users and items that are known.

    Args:
        table: columns user, item, score, and others.
        what: as in ``read``.
        users, items: the ids that may occur; None: any. Ids get the type of these: 12 in a CSV file is the user "12"
            where users have names.

    Raises:
        DatasetError: as in ``read``.
        ScoresError: two scores for a pair, one that is not finite, an unknown user or item (names the first, and how
            many more).
    """
    found, what = read(table, SCORES, what), called(table, what)
    for name, known in (("user", users), ("item", items)):
        if known is not None:
            found = found.assign(**{name: like(found[name], known)})
            refuse_unknown(found[name], known, what)
    twice = found.duplicated(list(IDS))
    if twice.any():
        _, there = first(found, twice)
        raise ScoresError(
            f"{what}: two scores for user {there['user']!r} and item {there['item']!r}{and_more(twice)}. Keep one "
            "score for each pair."
        )
    return found.assign(score=finite(found, "score", what, ScoresError))


def refuse_unknown(ids: pd.Series, known: Iterable, what: str) -> None:
    """Every id is a known one.

    Raises:
        ScoresError: one is not (names the first, and how many more).
    """
    strange = ids[~ids.isin(pd.Series(known))].unique().tolist()
    if strange:
        more = f" (and {len(strange) - 1:,} more)" if len(strange) > 1 else ""
        raise ScoresError(
            f"{what}: {ids.name} {strange[0]!r} is not in the ratings or items{more}. Remove such rows, or check that "
            f"both tables call {ids.name}s by the same ids."
        )


def like(ids: pd.Series, known: Iterable) -> pd.Series:
    """Ids in the type of known ones, where that loses nothing: numbers as text, or text that is a number as one."""
    known = known if isinstance(known, pd.Series) else pd.Series(known)
    of_text = not pd.api.types.is_integer_dtype(known)
    if pd.api.types.is_integer_dtype(ids) and of_text:
        return ids.astype(str)
    return ids if of_text else whole_numbers(ids)


def whole_numbers(ids: pd.Series) -> pd.Series:
    """Ids that are text as numbers, if all of them are whole numbers as one writes them; else as they are."""
    if pd.api.types.is_integer_dtype(ids):
        return ids
    return ids.astype("int64") if ids.astype(str).str.fullmatch("0|-?[1-9][0-9]{0,17}").all() else ids


def checked_ids(ids: pd.Series, what: str) -> pd.Series:
    """Ids as int64 or text.

    Raises:
        DatasetError: they are of another type, of both, missing or empty.
    """
    if isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.astype(ids.cat.categories.dtype)
    kind = pd.api.types.infer_dtype(ids, skipna=True)
    absent = ids.isna() if kind == "integer" or kind.startswith("float") else ids.isna() | ids.eq("")
    if absent.any():
        row = int(absent.to_numpy().argmax())
        raise DatasetError(f"{what}, row {row + 1}: {ids.name} is missing{and_more(absent)}. Fill in or remove it.")
    if kind not in ("integer", "string", "empty"):
        raise DatasetError(
            f"{what}: {ids.name} has ids of type {kind}, such as {ids.tolist()[0]!r}; they must be whole numbers or "
            f"text. Convert them, in all tables alike: table[{ids.name!r}].astype('int64'), or .astype(str)."
        )
    return ids.astype("int64" if kind == "integer" else "str")
