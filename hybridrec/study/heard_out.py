"""Whether our stop rule changes what a model says: answers that it ended, asked for again and heard out.

The rule ends an answer that repeats itself (``llm.models.writing.repeats``). It saves tokens, and it makes us the one
who ended the answer. So a sample of those answers is written again with nothing but the budget to end them.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.errors import CommandError
from hybridrec.evaluation import metrics, verdicts
from hybridrec.llm import rankers, runner
from hybridrec.llm.rankers import Ranking
from hybridrec.llm.recordings import Recordings
from hybridrec.randomness import in_random_order
from hybridrec.study import config, estimate, models, tables

# How many of the answers of each way to ask, if as many were ended by the rule.
SAMPLE = 100
COLUMNS = [
    *("mode", "users", "stopped", "sample", "begin_alike", "by_model", "by_budget"),
    *("tokens_stopped", "tokens_heard_out", "missing_stopped", "missing_heard_out", "other_order", "other_order_alike"),
    *("n", "auc_stopped", "auc_heard_out", "difference", "low", "high", "verdict"),
]


def compare(settings: config.Experiment, sample: int = SAMPLE) -> Iterator[pd.DataFrame]:
    """Hear out answers that our stop rule ended, for a seeded sample of the users of each way that writes.

    Args:
        settings: the experiment; notebooks 01 and 04 have run. Its model is on this machine.
        sample: of how many users.

    Yields:
        The row of each way to ask, in COLUMNS. ``users`` and ``stopped`` count who was asked, and whose answer the rule
        ended; the rest is about the sample, with the rule (``_stopped``) and without it (``_heard_out``).
        ``begin_alike`` is the share of answers that begin as they did before (in another batch of texts, rounding may
        lead to another word), ``by_model`` and ``by_budget`` count who ends them now. Tokens and missing candidates are
        means of an answer (missing: the share that we append at random), and ``other_order`` is the share of users
        whose ranking is another, ``other_order_alike`` of those whose answer begins as it did: without it, the rule
        and rounding are told together. AUC is that of the ``n`` users who have a pair to order under the published
        protocol, with the paired difference, its 95 % interval and verdict.

    Raises:
        CommandError: the model answers behind an endpoint, where no rule of ours ends anything.
    """
    if settings.endpoint is not None:
        raise CommandError(
            f"{settings.model} answers behind an endpoint: none of its answers is ended by our stop rule."
        )
    loaded = config.parameters(settings)["local"] or {}
    usual = models.local(settings.model, **loaded)
    patient = models.local(settings.model, stop_loops=False, **loaded)
    labels = tables.read(settings.name, "candidates")
    recordings = models.recordings_for(settings.dataset, settings.model)
    written: dict[str, dict[Any, runner.Asked]] = {}
    for group in estimate.in_batches(settings):
        for one in group.asked:  # a user is asked again in other orders; the first counts
            written.setdefault(group.mode, {}).setdefault(one.user, one)
    for mode, first in written.items():
        answered = _rank(first.values(), mode, usual, recordings, settings)
        stopped = [one for one in answered if one.ended_by == runner.ENDED_BY["loop"]]
        users = pd.Index([one.user for one in stopped])
        drawn = set(in_random_order(users, settings.seed, "heard out", mode)[:sample])
        kept = [one for user, one in first.items() if user in drawn]
        again = _rank(kept, mode, patient, recordings, settings)
        before = [one for one in stopped if one.user in drawn]
        texts = {one.user: [str(recordings[model.key(one)]["text"]) for model in (usual, patient)] for one in kept}
        # Blanks at the end of an answer may come from its cut.
        alike = {user for user, (old, new) in texts.items() if new.startswith(old.rstrip())}
        counts: dict[str, float | str] = {
            "mode": mode,
            "users": len(answered),
            "stopped": len(stopped),
            "begin_alike": len(alike) / len(texts) if texts else float("nan"),
        }
        counts["other_order_alike"] = _other_order(
            [one for one in before if one.user in alike], [one for one in again if one.user in alike]
        )
        yield _row(counts, before, again, labels)


def _rank(
    asked: Collection[runner.Asked],
    mode: str,
    model: runner.Model,
    recordings: Recordings,
    settings: config.Experiment,
) -> list[Ranking]:
    tasks = [one.about for one in asked]
    found = rankers.rank(tasks, mode, model, recordings, noun=settings.noun, seed=settings.seed)
    return sorted(found, key=lambda one: str(one.user))


def _row(
    counts: dict[str, float | str], before: list[Ranking], again: list[Ranking], labels: pd.DataFrame
) -> pd.DataFrame:
    parts = {**counts, "sample": len(again)}
    parts |= {
        f"by_{name}": sum(one.ended_by == runner.ENDED_BY[reason] for one in again)
        for name, reason in (("model", "stop"), ("budget", "length"))
    }
    for name, rankings in (("stopped", before), ("heard_out", again)):
        parts[f"tokens_{name}"] = _mean(one.used["completion_tokens"] for one in rankings)
        parts[f"missing_{name}"] = _mean(one.missing / len(one.candidates) for one in rankings)
    parts["other_order"] = _other_order(before, again)
    auc = pd.DataFrame({"auc_stopped": _auc(before, labels), "auc_heard_out": _auc(again, labels)}).dropna()
    apart = (auc["auc_heard_out"] - auc["auc_stopped"]).rename_axis("user").rename("difference").reset_index()
    parts |= auc.mean().to_dict()
    if len(auc):
        (judged,) = verdicts.judge(apart.assign(comparison=counts["mode"], family="")).to_dict("records")
        parts |= {name: judged[name] for name in ("n", "low", "high", "verdict")} | {"difference": judged["mean"]}
    return pd.DataFrame([parts]).reindex(columns=COLUMNS)


def _other_order(before: list[Ranking], again: list[Ranking]) -> float:
    """The share of users whose ranking is another; both are of the same users, in one order."""
    return _mean(one.scores != other.scores for one, other in zip(before, again, strict=True))


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def _auc(rankings: list[Ranking], labels: pd.DataFrame) -> pd.Series:
    """AUC by user, of those who have a pair to order."""
    scored = rankers.table(rankings).merge(labels[["user", "item", "relevant"]], on=["user", "item"])
    return metrics.per_user(scored)["auc"]
