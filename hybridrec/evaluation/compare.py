"""Is the hybrid better? ``compare`` judges final lists in one call; ``comparison`` is the study's table of everything.

In the latter, quality is held as one table for each ranker, with a row for each draw and a column for each user: one
draw for anything deterministic, many for the random order, so that its mean does not depend on a single draw.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hybridrec import schema
from hybridrec.errors import DatasetError, ScoresError
from hybridrec.evaluation import controls, metrics, statistics, verdicts
from hybridrec.evaluation.controls import CONTROLS, ORACLE
from hybridrec.evaluation.hybrid import NO_ANSWER, RECOMMENDER
from hybridrec.randomness import generator

if TYPE_CHECKING:
    from hybridrec.data.datasets import Dataset

Quality = Mapping[str, pd.DataFrame]
PROTOCOLS = ("published", "held-out")


# --- final lists, judged in one call ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How routed users' final lists compare with what they would have got without the language model.

    Attributes:
        table: one row for each alternative: against, users (judged), auc_final, auc_other, gain (mean over users of
            the difference), low, high (its 95 % interval), smallest_detectable (the gain found with 80 % power),
            p_holm, p_equivalence_holm and verdict (see ``verdicts.judge``; all rows are one family).
        routed: how many users were routed; all of them count, also those whose ranking failed ...
        no_answer: ... of whom there are so many: they kept the recommender's list.
        judged: routed users with an AUC, that is, with a liked and another item among their outcomes.
        no_outcome: candidates of routed users without an outcome; they are left out.
        left_out: alternatives that were asked for and not given.
    """

    table: pd.DataFrame
    routed: int
    no_answer: int
    judged: int
    no_outcome: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        rows = self.table.to_string(index=False, float_format=lambda value: f"{value:.3f}")
        least = verdicts.FEWEST_USERS
        few = f" With fewer than {least} users nothing can be told." if self.judged < least else ""
        absent = f" Not compared, since final has no such column: {', '.join(self.left_out)}." if self.left_out else ""
        return (
            f"{rows}\n"
            f"AUC of {self.judged} of {self.routed} routed users; {self.routed - self.judged} have no pair of a liked "
            f"and another item among the outcomes, and {self.no_outcome} candidates have no outcome. {self.no_answer} "
            f"of the routed users got no answer and kept the recommender's list.{few}{absent}\n"
            "low, high: 95 % intervals over users, each for itself; smallest_detectable: the gain that would be found "
            "with 80 % power. Verdicts are corrected for the number of rows. Better than all alternatives is only what "
            "helps in every row."
        )


def compare(
    final: schema.Table, outcomes: schema.Table, data: "Dataset", against: Sequence[str] = CONTROLS
) -> Comparison:
    """Judge the final lists of routed users against the recommender's own and against controls, on the same users.

    Args:
        final: what ``combine`` returned: user, item, score, source, own. A table or a .csv or .parquet file.
        outcomes: user, item, rating: what users thought of the candidates, observed after ``data``. Outcomes of other
            items or users are not read.
        data: what was known before: the controls are made from its ratings; ``like`` says what a liked item is.
        against: the alternatives beside the recommender: "random" (AUC exactly 1/2, the mean over all orders),
            "popularity", "item-mean", or any column of ``final`` that holds another recommender's scores.
            "best-other" is compared only where ``final`` has a column of this name.

    Raises:
        DatasetError: ``data`` has no ``like``; a column is missing; two outcomes for a pair, or one that is not finite.
        ScoresError: two scores for a pair, or one that is not finite; a pair whose outcome is in ``data`` already, so
            that the controls would have seen it; no outcome of any candidate; an unknown name in ``against``.

    Source: AUC of each user, Kaur & Shah 2024, eq. 1; intervals and verdicts: see ``verdicts.judge``.
    """
    if data.like is None:
        raise DatasetError(
            f"{data.name}: nothing says from which rating on an item is liked. Read the data with like=."
        )
    final = schema.scores(schema.read(final, schema.FINAL, "the final lists"), "the final lists")
    outcomes = schema.read(outcomes, schema.OUTCOMES, "the outcomes", unique=schema.IDS)
    outcomes["rating"] = schema.finite(outcomes, "rating", "the outcomes")
    final, outcomes = (
        table.assign(**{name: schema.like(table[name], data.interactions[name]) for name in schema.IDS})
        for table in (final, outcomes)
    )
    routed = final[final["user"].isin(final.loc[final["source"] != RECOMMENDER, "user"])]
    pairs, seen = (pd.MultiIndex.from_frame(table[["user", "item"]]) for table in (routed, data.interactions))
    rating = outcomes.set_index(["user", "item"])["rating"].reindex(pairs)
    if len(again := pairs[rating.notna() & pairs.isin(seen)]):
        raise ScoresError(
            "the outcome of user {} and item {} is in {} already: give later ones only.".format(*again[0], data.name)
        )
    if len(routed) and rating.isna().all():
        raise ScoresError("no candidate of a routed user has an outcome: are users and items called alike in both?")

    rows = routed.assign(rating=rating.to_numpy()).dropna(subset="rating")
    rows["relevant"] = rows["rating"] >= data.like
    left_out = tuple(name for name in against if name == "best-other" and name not in final)
    names = [name for name in against if name not in left_out]
    scores = {RECOMMENDER: rows["own"], **{name: _alternative(name, rows, data.interactions) for name in names}}
    auc = pd.DataFrame(
        {name: metrics.auc(rows.assign(score=score)) for name, score in [("final", rows["score"]), *scores.items()]}
    ).dropna(subset="final")
    return Comparison(
        table=_judged(auc, list(scores)),
        routed=routed["user"].nunique(),
        no_answer=routed.loc[routed["source"] == NO_ANSWER, "user"].nunique(),
        judged=len(auc),
        no_outcome=len(routed) - len(rows),
        left_out=left_out,
    )


def _alternative(name: str, rows: pd.DataFrame, known: pd.DataFrame) -> pd.Series:
    """The scores of a control, or of a column of the final lists."""
    if name == "random":
        return pd.Series(0.0, rows.index)  # all tied: what the AUC makes of ties is the mean over all orders
    if name in ("popularity", "item-mean"):
        return {"popularity": controls.popularity, "item-mean": controls.item_mean}[name](known, rows["item"])
    if name not in rows:
        raise ScoresError(
            f"against names {name!r}, which is no control ({', '.join(CONTROLS)}) and no column of final."
        )
    return schema.finite(rows, name, "the final lists", ScoresError)


def _judged(auc: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row for each alternative, with its verdict. Columns of ``auc``: final and ``names``; one row a user."""
    gain = auc[names].rsub(auc["final"], axis=0).rename_axis("user").reset_index()
    judged = verdicts.judge(gain.melt("user", var_name="comparison", value_name="difference").assign(family="compare"))
    found = judged.rename(columns={"comparison": "against", "mean": "gain"}).set_index("against").reindex(names)
    found = found.reset_index().assign(
        users=len(auc),
        auc_final=auc["final"].mean(),
        auc_other=auc[names].mean().to_numpy(),
        verdict=found["verdict"].fillna(verdicts.CANNOT_TELL).to_numpy(),  # nobody to judge by
    )
    return found[[
        "against", "users", "auc_final", "auc_other", "gain", "low", "high", "smallest_detectable", "p_holm",
        "p_equivalence_holm", "verdict",
    ]]  # fmt: skip


# --- every recommender x ranker x protocol of a study -----------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One recommender under one protocol: whom it routes, and which groups robustness is read from.

    Attributes:
        recommender: its name, a key of the Quality tables.
        best_other: the name of the best other recommender on validation.
        routed: users handed to the ranker.
        inactive: users sparser than t_s.
        worst_decile: the tenth of users the recommender served worst on *training* data (out of fold).
        threshold: t_p.
    """

    protocol: str
    recommender: str
    best_other: str
    routed: pd.Index
    inactive: pd.Index
    worst_decile: pd.Index
    threshold: float

    def source(self, ranker: str) -> str:
        """The Quality table a ranker's name stands for in this setting."""
        return {"recommender": self.recommender, "best-other": self.best_other}.get(ranker, ranker)


def mean_auc(auc: pd.Series, seed: int, samples: int) -> pd.DataFrame:
    """Mean AUC of every ranking with its 95 % bootstrap interval over users.

    Args:
        auc: one value a ranking and user, indexed (ranker, user), undefined ones left out.
        seed, samples: of the bootstrap.

    Returns:
        Columns name, users, auc, low, high, in order of appearance.
    """
    rows = []
    for name, values in auc.groupby("ranker", sort=False):
        low, high = statistics.bootstrap_interval(values.to_numpy(), generator(seed, "bootstrap", name), samples)
        rows.append({"name": name, "users": len(values), "auc": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows, columns=["name", "users", "auc", "low", "high"])


def wide(user_metrics: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Quality tables of one metric: for each ranker, draws x users; users without a value are left out.

    A ranker whose users are all without one has a table without a column.
    """
    return {
        name: group.pivot(index="draw", columns="user", values=metric).dropna(axis="columns")
        for name, group in user_metrics.groupby("ranker", sort=False)
    }


def hybrid_quality(quality: Quality, setting: Setting, ranker: str) -> pd.DataFrame:
    """Quality of the hybrid, draws x all users: the ranker's on routed users, the recommender's on the others.

    Raises:
        ScoresError: a routed user whom the ranker has not ranked (names the user).
    """
    own, ranked = quality[setting.recommender], quality[setting.source(ranker)]
    routed = setting.routed.intersection(own.columns)
    absent = routed.difference(ranked.columns)
    if len(absent):
        raise ScoresError(f"{ranker} has no ranking of routed user {absent[0]} (and {len(absent) - 1} more).")
    mixed = np.repeat(own.to_numpy(), len(ranked), axis=0)
    mixed[:, own.columns.get_indexer(routed)] = ranked[routed].to_numpy()
    return pd.DataFrame(mixed, ranked.index, own.columns)


def weak_indicator(auc: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """1 where a user is weak on the test items (AUC <= t_p and inactive), else 0."""
    return ((auc <= setting.threshold) & auc.columns.isin(setting.inactive)).astype(float)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else np.nan  # nobody is no warning


def _group_mean(table: pd.DataFrame, users: pd.Index) -> float:
    return _mean(table[users.intersection(table.columns)].to_numpy())


def before_and_after(auc: Quality, ndcg: Quality, setting: Setting, ranker: str) -> dict[str, object]:
    """One row of the comparison. Columns that end in _before are about the recommender alone, _after about the hybrid.

    Returns:
        protocol, recommender, ranker; users_routed, and users_scored: those of them who have an AUC; harm_rate and
        benefit_rate: the shares of routed users whose AUC fell and rose; and before and after: weak_users (how many),
        AUC of the routed users (weak_auc), of everybody (overall_auc) and of the worst decile (cvar10_auc), gap_auc
        (everybody else's less the routed users'), NDCG@10 of the routed users (weak_ndcg) and of everybody
        (overall_ndcg).
    """
    row: dict[str, object] = {"protocol": setting.protocol, "recommender": setting.recommender, "ranker": ranker}
    before, after = auc[setting.recommender], hybrid_quality(auc, setting, ranker)
    routed = setting.routed.intersection(before.columns)
    strong = before.columns.difference(routed)
    row |= {"users_routed": len(setting.routed), "users_scored": len(routed)}
    change = after[routed].to_numpy() - before[routed].to_numpy()
    row |= {"harm_rate": _mean(change < -1e-12), "benefit_rate": _mean(change > 1e-12)}
    for when, table in (("before", before), ("after", after)):
        row[f"weak_users_{when}"] = float(weak_indicator(table, setting).sum(axis=1).mean())
        row[f"weak_auc_{when}"] = _group_mean(table, routed)
        row[f"overall_auc_{when}"] = _group_mean(table, table.columns)
        row[f"cvar10_auc_{when}"] = _group_mean(table, setting.worst_decile)
        row[f"gap_auc_{when}"] = _group_mean(table, strong) - _group_mean(table, routed)
    for when, table in (("before", ndcg[setting.recommender]), ("after", hybrid_quality(ndcg, setting, ranker))):
        row[f"weak_ndcg_{when}"] = _group_mean(table, setting.routed)
        row[f"overall_ndcg_{when}"] = _group_mean(table, table.columns)
    return row


def difference(a: pd.DataFrame, b: pd.DataFrame, users: pd.Index) -> np.ndarray:
    """Per-user difference of two tables, each averaged over its draws; users in both only."""
    common = users.intersection(a.columns).intersection(b.columns)
    return (a[common].mean() - b[common].mean()).to_numpy()


def uncertainty(values: np.ndarray, seed: int, key: Sequence[str], samples: int, permutations: int) -> dict[str, float]:
    """Mean of per-user differences with its 95 % bootstrap interval and paired permutation p-value."""
    low, high = statistics.bootstrap_interval(values, generator(seed, "bootstrap", *key), samples)
    p = statistics.paired_permutation_p(values, generator(seed, "permutation", *key), permutations)
    return {"mean": float(values.mean()) if len(values) else np.nan, "low": low, "high": high, "p": p}


def best_control(quality: Quality, setting: Setting) -> str:
    """The control with the highest mean on the routed users: the bar a language model has to clear.

    It is picked on the very items it is compared on, which favours the control: a gain over it is a conservative one.
    """
    return controls.best_control(
        {name: _group_mean(quality[setting.source(name)], setting.routed) for name in CONTROLS}
    )


def gain_over(
    reference: str, values: np.ndarray, seed: int, key: Sequence[str], samples: int, permutations: int
) -> dict[str, float]:
    """The columns about a gain: gain_over_REFERENCE, the mean of per-user differences, and its _low, _high and _p."""
    found = uncertainty(values, seed, key, samples, permutations)
    return {f"gain_over_{reference}{'' if part == 'mean' else '_' + part}": x for part, x in found.items()}


def with_holm(table: pd.DataFrame, references: Iterable[str], rows: pd.Series | None = None) -> pd.DataFrame:
    """The table with a column gain_over_REFERENCE_p_holm: p after Holm's correction over ``rows`` (None: all)."""
    p = {name: table[f"gain_over_{name}_p"] for name in references}
    corrected = {name: statistics.holm(values if rows is None else values.where(rows)) for name, values in p.items()}
    return table.assign(**{f"gain_over_{name}_p_holm": values for name, values in corrected.items()})


def gains(auc: Quality, setting: Setting, ranker: str, seed: int, samples: int, permutations: int) -> dict[str, object]:
    """What the ranker adds on the routed users to: the recommender, a random order, and the best control."""
    best = best_control(auc, setting)
    row: dict[str, object] = {"best_control": best}
    for name, reference in (("recommender", "recommender"), ("random", "random"), ("best_control", best)):
        values = difference(auc[setting.source(ranker)], auc[setting.source(reference)], setting.routed)
        key = (setting.protocol, setting.recommender, ranker, name)
        row |= gain_over(name, values, seed, key, samples, permutations)
    return row


def comparison(
    auc: Quality, ndcg: Quality, settings: Sequence[Setting], rankers: Sequence[str], seed: int, samples: int,
    permutations: int,
) -> pd.DataFrame:  # fmt: skip
    """The whole table: every setting x (the recommender itself, the language model's rankers, controls, oracle).

    p-values of the gain over the best control are Holm-corrected over all language-model rows of the table.
    """
    rows = [
        before_and_after(auc, ndcg, setting, ranker) | gains(auc, setting, ranker, seed, samples, permutations)
        for setting in settings
        for ranker in ("recommender", *rankers, *CONTROLS, ORACLE)
    ]
    table = pd.DataFrame(rows)
    return with_holm(table, ("recommender", "random", "best_control"), table["ranker"].isin(rankers))


# --- settings and samples -------------------------------------------------------------------------------------------


def worst_decile(performance: pd.Series) -> pd.Index:
    """The tenth of users with the lowest P(u): who is counted is decided here, on training data, and nowhere else."""
    known = performance.dropna().sort_index(kind="stable")
    return known.nsmallest(max(1, len(known) // 10), keep="first").index


def settings_from(triage: pd.DataFrame, inactive: pd.Index, best_other: Mapping[str, str], threshold: float) -> list:
    """A Setting for every (protocol, recommender) of the triage table."""
    held_out = triage[triage["protocol"] == "held-out"]
    deciles = {
        name: worst_decile(rows.set_index("user")["performance"]) for name, rows in held_out.groupby("recommender")
    }
    return [
        Setting(
            protocol=protocol,
            recommender=name,
            best_other=best_other[name],
            routed=pd.Index(rows.loc[rows["weak"], "user"].sort_values()),
            inactive=inactive,
            worst_decile=deciles[name],
            threshold=threshold,
        )
        for (protocol, name), rows in triage.groupby(["protocol", "recommender"], sort=False)
    ]


def on_sample(setting: Setting, users: Iterable[int]) -> Setting:
    """The same setting for a sample of its routed users: every ranker is then compared on just these."""
    return replace(setting, routed=setting.routed[setting.routed.isin(list(users))])


def pooled_gain(
    auc: Quality, settings: Sequence[Setting], ranker: str, seed: int, samples: int, permutations: int
) -> dict[str, object]:
    """What a ranker adds to the best control over several recommenders at once; each user counts once.

    A user whom several recommenders route has several differences, which are not independent: their mean is taken
    first, and the interval is over users.

    Args:
        auc: quality tables of the ranker, the recommenders and the controls.
        settings: one for each recommender, over the same sample of users.
        ranker: the language model's.
        seed, samples, permutations: of interval and test.

    Returns:
        users_scored, auc (of the ranker), recommender_auc, gain_over_best_control and gain_over_recommender, each with
        its _low, _high, _p.
    """
    rows = []
    for setting in settings:
        users = setting.routed.intersection(auc[ranker].columns)
        tables = {"auc": ranker, "recommender_auc": setting.recommender}
        tables["control_auc"] = setting.source(best_control(auc, on_sample(setting, users)))
        rows.append(pd.DataFrame({name: auc[table][users].mean() for name, table in tables.items()}))
    by_user = pd.concat(rows).groupby(level=0).mean()
    row = {"users_scored": len(by_user), **by_user.mean().drop("control_auc").to_dict()}
    for reference, column, key in (("best_control", "control_auc", ()), ("recommender", "recommender_auc", ("own",))):
        values = (by_user["auc"] - by_user[column]).to_numpy()
        row |= gain_over(reference, values, seed, ("pooled", ranker, *key), samples, permutations)
    return row


def larger_models(
    auc: Quality, settings: Sequence[Setting], asked: Mapping[tuple[str, str], Iterable[int]], seed: int, samples: int,
    permutations: int,
) -> pd.DataFrame:  # fmt: skip
    """What each model and way to ask adds, on the sample of users it was asked for; see ``pooled_gain``.

    Args:
        auc: quality tables of the recommenders, the controls, and "model: ranker" of each model and way to ask.
        settings: one for each recommender.
        asked: for each (model, ranker) its users.
        seed, samples, permutations: of intervals and tests.

    Returns:
        Columns model, ranker, users ("asked": all of the sample, "routed": those whom a recommender routes),
        users_asked, those of ``pooled_gain``, and each p after Holm's correction over all rows.
    """
    rows = []
    for (model, ranker), users in asked.items():
        everybody = [replace(setting, routed=pd.Index(np.sort(list(users)))) for setting in settings]
        for group, of_group in (("asked", everybody), ("routed", settings)):
            on = [on_sample(setting, users) for setting in of_group]
            row = {"model": model, "ranker": ranker, "users": group, "users_asked": len(set(users))}
            rows.append(row | pooled_gain(auc, on, f"{model}: {ranker}", seed, samples, permutations))
    return with_holm(pd.DataFrame(rows), ("best_control", "recommender"))
