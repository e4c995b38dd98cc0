"""Four questions before one pays for a language model, answered from an experiment's metrics.json.

README, results/README.md, the site and the summary of ``make reproduce`` show what is made here. Nothing heavy is
imported: the summary must be quick.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hybridrec.study.names import (
    BAR,
    IN_CONTEXT,
    OF_LLM,
    OWN_RECOMMENDER,
    PREDICTED,
    PUBLISHED,
    RANDOM_ORDER,
    TAUGHT,
    TAUGHT_ANOTHERS,
    TAUGHT_MEAN,
    UNTAUGHT,
    WORST_FIRST,
)

Metrics = Mapping[str, Any]

QUESTIONS = (
    "How many users are weak, once luck is taken off?",
    "Can they be found beforehand?",
    "Does the language model rank them better than the bar?",
    "What does it cost, and what do all users gain?",
)
NOT_RUN = "**not run**"
VERDICTS = ("helps", "harms", "equivalent", "cannot tell")  # as in evaluation.verdicts, which is slow to import


def four(metrics: Metrics) -> dict[str, str]:
    """The four questions, each with its answer in one line; verdicts stand between ``**``.

    Args:
        metrics: an experiment's metrics.json: sections weak, cross and cost. A part that is not there or null was not
            run, and the answer says so.
    """
    tell = (_weak, _detection, _gain, _cost)
    return {q: one(part) if part else NOT_RUN for q, one, part in zip(QUESTIONS, tell, _parts(metrics), strict=True)}


def table(found: Mapping[str, Metrics]) -> str:
    """The four answers as a Markdown table: a row a question, a column a dataset."""
    answers = {name: four(metrics) for name, metrics in found.items()}
    rows = [[f"**{number}. {q}**", *(of[q] for of in answers.values())] for number, q in enumerate(QUESTIONS, 1)]
    return markdown(["", *(f"`{name}`" for name in answers)], rows)


def in_short(found: Mapping[str, Metrics]) -> str:
    """The four answers as a narrow Markdown table: under each question a row a dataset, with what its numbers are."""
    rows = []
    for number, (question, unit, tell) in enumerate(zip(QUESTIONS, _UNITS, _SHORT, strict=True), 1):
        rows.append([f"**{number}. {question}**", unit])
        parts = {name: _parts(metrics)[number - 1] for name, metrics in found.items()}
        rows += [[f"`{name}`", tell(part) if part else NOT_RUN] for name, part in parts.items()]
    return markdown(["question", "answer (95 % interval)"], rows)


def families(found: Mapping[str, Metrics]) -> str:
    """How often each verdict was reached, as a Markdown table: a row a family of comparisons, a column a dataset.

    The last row is the check by time (section temporal).
    """
    verdicts = {name: _verdicts(metrics) for name, metrics in found.items()}
    named = dict.fromkeys(row["family"] for rows in verdicts.values() for row in rows)
    rows = [[family, *(_counted(rows, family) for rows in verdicts.values())] for family in named]
    by_time = [metrics.get("temporal") or {} for metrics in found.values()]
    named_so = "in order of time, the bar against the recommender"
    rows.append([named_so, *(one.get("verdict", NOT_RUN) for one in by_time)])
    return markdown(["family of comparisons", *(f"`{name}`" for name in verdicts)], rows)


def models(found: Mapping[str, Metrics]) -> str:
    """Every language model's verdict against the bar, weak users, as a Markdown table: a row a dataset and ranker."""
    rows = []
    for name, metrics in found.items():
        primary = _primary(metrics)
        asked: list[Metrics] = (
            [{**primary, "ranker": f"{primary['model']}, primary", "n": primary["users"]}] if primary else []
        )
        asked += [row for row in _verdicts(metrics) if row["family"] == "arms" and ": " in str(row["ranker"])]
        rows += [[f"`{name}`", row["ranker"], effect(row)] for row in asked]
    return markdown(["dataset", "ranker", "against the bar, weak users"], rows) if rows else NOT_RUN


def allocation(found: Mapping[str, Metrics]) -> str:
    """What the worst served tenth gains at a budget of a tenth of all users, as a Markdown table: a row a policy."""
    at_a_tenth = {name: metrics.get("allocation", {}).get("frontier", {}) for name, metrics in found.items()}
    policies = dict.fromkeys(policy for of in at_a_tenth.values() for policy in of if policy in _POLICIES)

    def said(of: Metrics, policy: str) -> str:
        row = of.get(policy, {}).get("worst decile")
        return f"{signed(row['gain'])} ({signed(row['low'])} to {signed(row['high'])})" if row else NOT_RUN

    rows = [[_POLICIES[policy], *(said(of, policy) for of in at_a_tenth.values())] for policy in policies]
    return markdown(["who is handed over", *(f"`{name}`" for name in found)], rows)


# Policies of notebook 08 that are shown, and in words.
_POLICIES = {
    PUBLISHED: "weak users, to the language model in context (the published rule)",
    f"{PUBLISHED}, {RANDOM_ORDER}": "the same users, to a random order",
    f"{PUBLISHED}, {TAUGHT}: llm": "the same users, to the taught language model",
    WORST_FIRST: "the worst served, to the best ranker or fusion of all",
    WORST_FIRST + OF_LLM: "the worst served, to the best order with a language model in it",
    PREDICTED: "who is predicted to gain, to whichever ranker",
    PREDICTED + OF_LLM: "who is predicted to gain from a language model, to that",
}


def taught(found: Mapping[str, Metrics]) -> str:
    """The taught model on inactive users, as a Markdown table: mean AUCs, then paired differences with verdicts."""
    of = {name: metrics.get("taught", {}) for name, metrics in found.items()}
    rows = []
    for ranker, called in _RANKERS.items():
        means = {name: _inactive(one.get("means", []), ranker=ranker) for name, one in of.items()}
        said = [
            f"{row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {row['n']} users" if row else NOT_RUN
            for row in means.values()
        ]
        rows.append([called, *said])
    for (ranker, against), called in _AGAINST.items():
        verdicts = [_inactive(one.get("verdicts", []), ranker=ranker, against=against) for one in of.values()]
        rows.append([called, *(effect(row).partition(";")[0] if row else NOT_RUN for row in verdicts)])
    return markdown(["inactive users, AUC", *(f"`{name}`" for name in found)], rows)


def _inactive(rows: Sequence[Metrics], **which: str) -> Metrics | None:
    """The row of inactive users that is about this."""
    wanted = {"group": "inactive", **which}
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


# Rankers of notebook 07 that are shown, and in words; and which of them are compared.
_RANKERS = {
    TAUGHT: "the taught model",
    IN_CONTEXT: "the same model in context, in its best way",
    TAUGHT_MEAN: "item means of the ratings that were taught",
    BAR: BAR,
}
_TITLES = "recommender + item-mean + sentence-embedding"
_AGAINST = {
    (TAUGHT, IN_CONTEXT): "taught, less in context",
    (TAUGHT, UNTAUGHT): "taught, less untaught and asked in the same way",
    (TAUGHT, TAUGHT_MEAN): "taught, less these item means",
    (TAUGHT, BAR): "taught, less the bar",
    (TAUGHT, TAUGHT_ANOTHERS): "own history, less another user's",
    (f"recommender + {TAUGHT}", OWN_RECOMMENDER): "what it adds to the recommender",
    (f"{_TITLES} + {TAUGHT}", _TITLES): "what it adds to recommender, item means and title similarity",
}


def claims(metrics: Metrics, ranker: str) -> str:
    """The paper's claims as a Markdown table: replicated with a ranker, and under ``cross`` with the best way to ask.

    Verdicts are those of the language model's hybrid under ``cross``, against the recommender and against the bar's.
    """
    shown = ("published", "replicated", "null_control", "cross", "cross_null", "cross_bar")
    rows = [
        [row["claim"], row["recommender"], *(_change(row.get(name)) for name in shown)]
        + [f"**{row.get(name) or 'not run'}**" for name in ("verdict", "verdict_bar")]
        for row in metrics["claims"]
        if row["ranker"] == ranker and row["published"] is not None
    ]
    head = ["claim", "recommender", "paper", f"`{ranker}`", "random order", "`cross`: LLM", "random order", "bar"]
    return markdown([*head, "against own recommender", "against the bar"], rows)


def rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The numbers behind the answers, for a spreadsheet: question, what, value, low, high, n, verdict."""
    found = []

    def add(question: int, what: str, part: Metrics, key: str, n: str = "", **more: Any) -> None:
        row = {"question": question, "what": what, "value": part[key]}
        row |= {end: part.get(f"{key}_{end}") for end in ("low", "high")}
        found.append(row | {"n": part[n] if n else None, "verdict": ""} | more)

    of_all = metrics.get("weak", {}).get("all") or {}
    if weak := of_all.get("truly"):
        add(1, "inactive users flagged", weak, "flagged", "users")
        add(1, "inactive users truly weak", weak, "truly_weak", "users")
    if detection := of_all.get("detection"):
        add(2, "flagged users at or below one half on fresh items", detection, "precision", "flags")
        add(2, "inactive users at or below one half on fresh items", detection, "base_rate", "users")
    if primary := _primary(metrics):
        for who in WHO:
            add(3, f"AUC of weak users: {WHO[who]}", primary, f"{who}_auc", "users")
        ends = {end: primary[end] for end in ("low", "high", "verdict")}
        add(3, "language model minus the bar, AUC", primary, "mean", "users", **ends)
        add(3, "smallest detectable effect, AUC", primary, "smallest_detectable", "users")
    if cost := metrics.get("cost", {}).get("answer"):
        for key in ("routed_share", "tokens_share", "usd_weak", "usd_everybody", "calls_weak", "seconds_weak"):
            add(4, key.replace("_", " "), cost, key)
        add(4, "hybrid minus recommender, everybody, AUC", cost, "gain", verdict=cost["gain_verdict"])
    return found


WHO = {
    "own": "their own recommender",
    "llm": "the language model",
    "bar": "the bar",
    "random": "a random order",
}


def effect(row: Metrics) -> str:
    """A comparison in one line: verdict, mean difference in AUC with interval, n, smallest detectable effect."""
    if row["mean"] is None or row["low"] is None:
        return f"**{row['verdict']}** ({row['n']:,} users)"
    interval = f"{signed(row['mean'])} AUC ({signed(row['low'])} to {signed(row['high'])})"
    return f"**{row['verdict']}**: {interval}, {row['n']:,} users; smallest detectable {row['smallest_detectable']:.3f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def signed(value: float) -> str:
    """A difference with its sign and three decimals."""
    return f"{value:+z.3f}".replace("-", "−")


# --- each answer ------------------------------------------------------------------------------------------------------


def _weak(part: Metrics) -> str:
    interval = f"{part['truly_weak_low']:,.0f} to {part['truly_weak_high']:,.0f}"
    return (
        f"{part['truly_weak']:,.0f} ({interval}) of {part['users']:,.0f} inactive users; {part['flagged']:,.0f} flagged"
    )


def _detection(part: Metrics) -> str:
    shares = f"{_interval(part, 'precision')} of those flagged, {_interval(part, 'base_rate')} of all inactive users"
    return f"at or below one half on fresh items: {shares}"


def _gain(part: Metrics) -> str:
    return effect({**part, "n": part["users"]})


def _cost(part: Metrics) -> str:
    tokens = "" if part["tokens_share"] is None else f", {_percent(part['tokens_share'])} of the tokens"
    told = f"weak users of {part['recommender']}: {_percent(part['routed_share'])} of the lists{tokens}"
    told += f", {_usd(part['usd_weak'])} a fold; all users: {_usd(part['usd_everybody'])}. Gain over all users: "
    if part["gain"] is None:
        return f"{told}**{part['gain_verdict']}**"
    ends = " to ".join(signed(part[f"gain_{end}"]) for end in ("low", "high"))
    return f"{told}**{part['gain_verdict']}**, {signed(part['gain'])} AUC ({ends})"


# What the numbers in the narrow table are: the second cell of each question's row.
_UNITS = (
    "mean over recommenders",
    "inactive users at or below one half on fresh items, mean over recommenders",
    "AUC of weak users, language model less bar",
    "lists and dollars of weak users; gain over all users",
)


def _detection_short(part: Metrics) -> str:
    return f"{_interval(part, 'precision')} of those flagged, {_interval(part, 'base_rate')} of all"


def _cost_short(part: Metrics) -> str:
    told = f"{_percent(part['routed_share'])} of the lists, {_usd(part['usd_weak'])} a fold; **{part['gain_verdict']}**"
    if part["gain"] is None:
        return told
    return f"{told}: {signed(part['gain'])} AUC ({signed(part['gain_low'])} to {signed(part['gain_high'])})"


_SHORT = (_weak, _detection_short, _gain, _cost_short)


def _interval(part: Metrics, key: str) -> str:
    return f"{_percent(part[key])} ({_percent(part[f'{key}_low'])} to {_percent(part[f'{key}_high'])})"


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}z.0f} %".replace("-", "−")


def _usd(value: float | None) -> str:
    if value is None:
        return "not priced"
    return f"${value:,.2f}" if value >= 1 else f"${value:.5f}".rstrip("0").rstrip(".")


# --- parts of metrics.json --------------------------------------------------------------------------------------------


def _parts(metrics: Metrics) -> tuple[Metrics | None, ...]:
    """Where the four answers stand, in the order of the questions."""
    of_all = metrics.get("weak", {}).get("all") or {}
    return of_all.get("truly"), of_all.get("detection"), _primary(metrics), metrics.get("cost", {}).get("answer")


def _primary(metrics: Metrics) -> Metrics | None:
    return metrics.get("cross", {}).get("primary")


def _verdicts(metrics: Metrics) -> list[Metrics]:
    return metrics.get("cross", {}).get("verdicts", [])


def _counted(rows: Sequence[Metrics], family: str) -> str:
    counts = Counter(row["verdict"] for row in rows if row["family"] == family)
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict]) or NOT_RUN


def _change(value: float | None) -> str:
    return "–" if value is None else _percent(value, "+")
