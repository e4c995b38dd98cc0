"""What an experiment would ask its language models, and at what cost: told, and agreed to, before anything is asked."""

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hybridrec.data import splits
from hybridrec.errors import CommandError, RecordingError
from hybridrec.evaluation import topk
from hybridrec.llm import batch, rankers, ways
from hybridrec.llm.ranker import expected_usage
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Asked, Model
from hybridrec.llm.tasks import Task, build_tasks, with_anothers_history
from hybridrec.randomness import in_random_order
from hybridrec.study import cross_answers, cross_tasks, models, paths, prompting, steps, tables, taught
from hybridrec.study.config import Experiment, mode, parameters

# Tokens are counted in so many requests of a kind, evenly spread, and taken to be the same in the others.
_COUNTED = 100
PRIOR, ANOTHER, LISTS, WEAK, CROSS = "prior", "another user's history", "whole lists", "published_weak", "cross"
COLUMNS = ["model", "mode", "requests", "recorded", "prompt_tokens", "completion_tokens", "usd", "usd_most", "minutes"]


@dataclass(frozen=True)
class Group:
    """Requests to one model in one mode.

    ``live`` are users who are asked for although their answers are recorded; ``what`` says what they are asked for,
    where it is not the lists of the first split. ``attempts`` says how often notebook 04 asks while an answer cannot be
    used: of what is asked once, a further attempt would never be read.
    """

    llm: Model
    recordings: Recordings
    mode: str
    asked: list[Asked]
    live: Collection[Any] = ()
    what: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Estimate:
    """What is asked (COLUMNS), what could not be counted yet, and the endpoint's spending cap.

    ``requests`` counts all different ones, ``recorded`` those that have an answer; the rest is about the others. Of
    written answers, ``completion_tokens`` and ``usd`` are those of a complete one, ``usd_most`` of the longest that the
    endpoint's settings allow (infinite where they set no bound and it has a price). ``minutes`` is missing where
    nothing is known of the model's speed.
    """

    table: pd.DataFrame
    not_counted: tuple[str, ...] = ()
    cap: float | None = None

    @property
    def live(self) -> pd.DataFrame:
        """The rows in which something would be asked."""
        return self.table[self.table["requests"] > self.table["recorded"]]

    @property
    def usd_most(self) -> float:
        """Dollars that it costs at most: a run ends before it exceeds the cap."""
        return min(self.live["usd_most"].sum(), float("inf") if self.cap is None else self.cap)

    @property
    def cost(self) -> str:
        """Money and time of all that would be asked."""
        return _cost(self.live, self.usd_most)

    def __str__(self) -> str:
        later = [f"Not counted: {what}." for what in self.not_counted]
        if self.live.empty:
            told = f"all {self.table['requests'].sum():,} answers are recorded: nothing will be asked."
            return "\n".join([told, *later])
        asked = self.table[["requests", "recorded"]].sum()
        head = f"{asked['recorded']:,} of {asked['requests']:,} answers are recorded. To be asked:"
        return "\n".join([head, *map(_line, self.live.to_dict("records")), f"  in all: {self.cost}", *later])


def _line(row: dict[str, Any]) -> str:
    counts = f"{row['requests'] - row['recorded']:,} requests, {row['prompt_tokens']:,} prompt tokens"
    written = f", {row['completion_tokens']:,} to be written" if row["completion_tokens"] else ""
    return f"  {row['model']}, {row['mode']}: {counts}{written}, {_cost(pd.DataFrame([row]), row['usd_most'])}"


def _cost(rows: pd.DataFrame, most: float) -> str:
    """Money, where there is any, and time."""
    usd, minutes = rows["usd"].sum(), rows["minutes"].sum()
    bound = "no bound, since max_tokens is not set" if most == float("inf") else f"at most ${most:.2f}"
    money = [f"about ${usd:.2f} ({bound})"]
    time = f"about {minutes / 60:.1f} h" if minutes >= 90 else f"about {max(minutes, 1):.0f} min"
    unknown = rows["minutes"].isna()
    if unknown.any():
        time = "unknown time (nothing of this model is recorded)" if unknown.all() else f"{time}, and an unknown time"
    return ", ".join([*(money if most else []), time])


def estimate(settings: Experiment, from_tables: bool) -> Estimate:
    """What notebooks 04 and 07 would ask that has no recording. Weights are not loaded, and nothing is asked.

    Args:
        settings: the experiment.
        from_tables: from what notebooks 01 and 02 wrote; otherwise from the ratings, as notebook 01 divides them. Then
            whole lists, published_weak and whom larger models are asked about under cross are counted if an earlier run
        has left some that fit.

    Raises:
        MissingTableError: those notebooks did not run yet.
        What ``steps.dataset`` and ``models.open_model`` raise.
    """
    if from_tables:
        prepared = _prepared(settings)
    else:
        prepared = steps.prepare(steps.dataset(settings.dataset, settings.ratings), settings, settings.seed)
    lists, weak = _lists(settings, prepared), _published_weak(settings, prepared)
    later = {
        "the titles of whole lists, known after notebook 02": lists,
        "published_weak, known after notebook 03": weak,
        "cross_way of larger models, known after notebook 03": _cross_triage(settings),
    }
    groups = _groups(settings, prepared, lists or [], weak or [])
    under_cross = (_cross_groups(settings, from_tables), _taught_groups(settings, from_tables))
    rows = [_row(group) for group in itertools.chain(groups, *under_cross)]
    cap = settings.endpoint.spending_cap_usd if settings.endpoint else None
    not_counted = tuple(what for what, found in later.items() if found is None)
    return Estimate(pd.DataFrame(rows, columns=COLUMNS), not_counted, cap)


def agreed(settings: Experiment, found: Estimate, yes: bool) -> None:
    """Refuse to ask for more than the experiment allows without consent.

    Raises:
        CommandError: it is above a bound (names the bound, and the command that consents).
    """
    above = [
        f"{key} = {bound:g}"
        for key, bound, value in (
            ("consent_above_usd", settings.consent_above_usd, found.usd_most),
            ("consent_above_minutes", settings.consent_above_minutes, found.live["minutes"].sum()),
        )
        if value > bound
    ]
    if above and not yes:
        target = "record" if models.policy() == "live" else "reproduce"
        raise CommandError(
            f"nothing was asked: {found.cost} is above {' and '.join(above)}. If you agree: "
            f"make {target} EXPERIMENT={settings.name} YES=1. The bound is a key of the experiment."
        )


def _prepared(settings: Experiment) -> steps.Prepared:
    """What notebook 01 wrote."""
    found = {name: tables.read(settings.name, name) for name in ("interactions", "candidates", "items", "sparsity")}
    sparsity = found.pop("sparsity").set_index("user")
    inactive = sparsity.index[sparsity["inactive"]]
    return steps.Prepared(**found, sparsity=sparsity.iloc[:, 0], inactive=inactive)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _groups(
    settings: Experiment, prepared: steps.Prepared, lists: Sequence[Task], weak: Sequence[Task]
) -> Iterator[Group]:
    """The requests of notebook 04, in its order."""
    noun, seed, plain = settings.noun, settings.seed, parameters(settings)
    llm = models.open_model(settings.model, plain["endpoint"], plain["local"])
    recordings = models.recordings_for(settings.dataset, settings.model)
    split, attempts = _split(settings, prepared), settings.endpoint.attempts if settings.endpoint else 1
    users_of_own: list[Any] = [task.user for task in split.own]
    live = in_random_order(users_of_own, seed, "live")[: settings.live_users]
    orders = split.reordered(settings.shuffles, settings.shuffled_users)
    again = [task for order in orders[1:] for task in order]
    asked = split.asked(settings.modes, settings.everybody_modes)
    for name, of_mode in asked.items():
        users = [*of_mode, *(again if mode(name).writes else [])]
        requests = [rankers.request_of(task, name, noun) for task in users]
        yield Group(llm, recordings, name, requests, live, attempts=attempts)
    borrowers = with_anothers_history(split.own, seed)
    borrowed = {task.user: rankers.request_of(task, "likelihood", noun) for task in borrowers}
    sampled = split.sampled
    if "likelihood" in settings.modes:
        wanted = {item for task in asked["likelihood"] for item in task.candidates}
        yield Group(llm, recordings, PRIOR, rankers.prior_requests(prepared.items, noun, wanted))
        of_another = [borrowed[task.user] for task in sampled if borrowed]
        yield Group(llm, recordings, "likelihood", of_another, what=ANOTHER)
    for one, larger in zip(plain["larger_models"], settings.larger_models, strict=True):
        other, answered = models.open_larger(one, plain["local"]), models.recordings_for(settings.dataset, larger.model)
        for name, count in larger.users.items():
            found = [rankers.request_of(task, name, noun) for task in sampled[:count]]
            yield Group(other, answered, name, found)
        for name in larger.published_weak:
            before = {task.user for task in sampled[: larger.users.get(name, 0)]}
            more = [rankers.request_of(task, name, noun) for task in weak if task.user not in before]
            yield Group(other, answered, name, more, what=WEAK)
        lent = sampled[: larger.another_history] if borrowed else []
        shown = prepared.items[prepared.items["item"].isin({item for task in lent for item in task.candidates})]
        yield Group(other, answered, PRIOR, rankers.prior_requests(shown, noun))
        yield Group(other, answered, "likelihood", [borrowed[task.user] for task in lent], what=ANOTHER)
    for name in settings.topk_modes if lists else ():
        yield Group(llm, recordings, name, list(rankers.title_requests(lists, name, noun)), what=LISTS)


def _cross_groups(settings: Experiment, from_tables: bool, guess: bool = True) -> Iterator[Group]:
    """The requests of notebook 04 under protocol ``cross``, in its order.

    As long as the way is not chosen, the folds are counted as if it were the first of those compared; without
    ``guess`` what ways are compared by is all there is until then.
    """
    plain, routed = parameters(settings), _cross_triage(settings)
    larger = [one for one in plain["larger_models"] if one.get("cross_way")]
    if not (settings.cross_ways or larger):
        return
    cross = cross_tasks.prepare(settings, None if from_tables else steps.dataset(settings.dataset, settings.ratings))
    llm = cross_tasks.scoring(models.open_model(settings.model, plain["endpoint"], plain["local"]), settings.model)
    recordings = models.recordings_for(settings.dataset, settings.model)
    todo = cross_answers.Asking(cross, llm, recordings, settings.cross_ways, settings.cross_users)
    yield from _by_mode(todo.compared, todo, "ways to ask")
    try:
        chosen = todo.chosen
    except RecordingError:
        if not guess:
            return
        todo = replace(todo, ways=(ways.WAYS[0].name,))
        chosen = todo.chosen
    if chosen:
        yield from _by_mode(todo.own, todo, CROSS)
        yield Group(llm, recordings, PRIOR, todo.usual_requests(), what=CROSS)
        yield from _by_mode(todo.deciding, todo, f"{CROSS}, folds that decide")
        yield from _by_mode(todo.borrowed, todo, f"{CROSS}, {ANOTHER}")
    for one in larger if routed is not None else ():
        opened = models.open_larger(one, plain["local"])
        other = cross_tasks.scoring(opened, one["model"], one.get("cross_device"))
        of_other = replace(todo, model=other, recordings=models.recordings_for(settings.dataset, one["model"]))
        yield from _by_mode(cross_tasks.larger_tasks(cross, one, routed), of_other, CROSS)


def _taught_groups(settings: Experiment, from_tables: bool) -> Iterator[Group]:
    """The requests of notebook 07, in its order; none where there is no taught model."""
    plain = parameters(settings)
    if not taught.why_not(settings.name, settings.model, plain["taught"]):
        data = None if from_tables else steps.dataset(settings.dataset, settings.ratings)
        about = (settings.name, settings.dataset, settings.model, plain["taught"], plain["local"])
        todo = taught.prepare(*about, cross_tasks.prepare(settings, data))
        for stage, asked, model, recordings in todo.stages() if todo else ():
            name = asked[0].request["kind"] if asked else "rate"
            yield Group(model, recordings, name, asked, what=f"notebook 07, {stage}")


def _by_mode(tasks: cross_tasks.Tasks, todo: cross_answers.Asking, what: str) -> Iterator[Group]:
    for name in dict.fromkeys(way.mode for way, _ in tasks):
        of_mode = {key: ones for key, ones in tasks.items() if key[0].mode == name}
        yield Group(todo.model, todo.recordings, name, cross_tasks.asked_in(of_mode, todo.cross), what=what)


def _cross_triage(settings: Experiment) -> pd.DataFrame | None:
    """Who is weak under cross, where a larger model is asked about them; None if it is not known yet."""
    if not any(larger.cross_way for larger in settings.larger_models):
        return pd.DataFrame()
    return tables.read(settings.name, "cross_triage") if tables.is_there(settings.name, "cross_triage") else None


def in_batches(settings: Experiment) -> list[Group]:
    """Everything that notebook 04 asks the experiment's model and a batch may answer.

    That is what it writes, and what it scores where the endpoint gives log-probabilities. Where ways to ask are
    compared, the folds are in it once the way is chosen, that is, once all answers that decide are recorded.

    Raises:
        MissingTableError: notebook 01 did not run yet.
    """
    prepared, alone = _prepared(settings), settings.model_copy(update={"larger_models": ()})
    groups = _groups(alone, prepared, _lists(settings, prepared) or [], [])
    scores = settings.endpoint is not None and settings.endpoint.logprobs
    found = itertools.chain(groups, _cross_groups(alone, from_tables=True, guess=False))
    return [group for group in found if group.asked and (scores or mode(group.mode).writes)]


def _split(settings: Experiment, prepared: steps.Prepared) -> prompting.Split:
    shown = (settings.noun, settings.seed, settings.history_length, settings.rating_scale)
    return prompting.Split(prepared.interactions, prepared.candidates, prepared.items, prepared.inactive, *shown)


def _published_weak(settings: Experiment, prepared: steps.Prepared) -> list[Task] | None:
    """Whom the paper's recommenders call weak on the test; None if it is not known: notebook 03 tells."""
    if not any(larger.published_weak for larger in settings.larger_models):
        return []
    if not tables.is_there(settings.name, "triage"):
        return None
    return _split(settings, prepared).published_weak(tables.read(settings.name, "triage"))


def _eligible(prepared: steps.Prepared) -> pd.Index:
    return prepared.inactive.intersection(splits.with_a_pair(prepared.candidates))


def _lists(settings: Experiment, prepared: steps.Prepared) -> list[Task] | None:
    """The retrieved titles of a sample of users; None if they are not known: notebook 02 retrieves them."""
    if not settings.topk_modes:
        return []
    if not tables.is_there(settings.name, "retrieved"):
        return None
    chosen = sorted(in_random_order(_eligible(prepared), settings.seed, "top-k")[: settings.topk_users])
    retrieved = tables.read(settings.name, "retrieved")
    retrieved = retrieved[retrieved["user"].isin(chosen) & ~retrieved["spare"]]
    if set(chosen) - set(retrieved["user"]) or not retrieved["item"].isin(prepared.items["item"]).all():
        return None  # of an earlier run, on other ratings
    known = splits.known(prepared.interactions)
    shown = (prepared.items, settings.history_length, settings.rating_scale)
    return build_tasks(chosen, known, topk.titles(retrieved), *shown)


# --- what it costs ----------------------------------------------------------------------------------------------------


def _row(group: Group) -> dict[str, Any]:
    requests = len({group.llm.key(one) for one in group.asked})
    missing = _missing(group)
    told = f"{group.mode}, {group.what}" if group.what else group.mode
    row = {"model": group.llm.name, "mode": told, "requests": requests, "recorded": requests - len(missing)}
    usage = _usage(group.llm, missing)
    endpoint = getattr(group.llm, "endpoint", None)
    usd = most = group.llm.usd({**usage, "cached_tokens": 0, "seconds": 0.0})
    if endpoint is None:
        minutes = _minutes(group.llm.name, usage, writes=bool(usage["completion_tokens"])) if missing else 0.0
    else:
        minutes = len(missing) / endpoint.requests_per_minute
        longest = endpoint.parameters.get("max_completion_tokens") or endpoint.parameters.get("max_tokens")
        written = max(usage["completion_tokens"], len(missing) * (longest or 0))
        most = group.llm.usd({**usage, "completion_tokens": written, "cached_tokens": 0, "seconds": 0.0})
        most = most if longest or not usd else float("inf")
    return row | usage | {"usd": usd, "usd_most": most, "minutes": minutes}


def _missing(group: Group) -> list[Asked]:
    """What would be asked: what has no recording, each request once; and what an endpoint is asked once more."""
    llm: Any = group.llm
    recordings = group.recordings
    live = () if recordings.replay_only else group.live
    again = {llm.key(one): one for one in group.asked if one.user in live}
    if hasattr(llm, "endpoint"):
        usable = functools.partial(rankers.check, group.mode)
        wanted = list(batch.open_requests(group.asked, llm, recordings, usable, group.attempts))
    else:
        wanted = [one for one in group.asked if llm.key(one) not in recordings]
    return list((again | {llm.key(one): one for one in wanted}).values())


def _usage(llm: Any, missing: Sequence[Asked]) -> dict[str, int]:
    """Tokens of all requests together, from those of a part of them."""
    requests = [one.request for one in missing] if hasattr(llm, "endpoint") else list(_together(missing))
    counted = requests[:: -(-len(requests) // _COUNTED)] if requests else []
    found = [expected_usage(llm, request, exact=_is_here(llm)) for request in counted]
    scale = len(requests) / len(counted) if counted else 0
    return {name: round(scale * sum(one[name] for one in found)) for name in ("prompt_tokens", "completion_tokens")}


def _together(missing: Iterable[Asked]) -> Iterator[dict[str, Any]]:
    """Neighbours that are scored after the same text as one request: a local model reads that text once for them."""
    for _, group in itertools.groupby(missing, lambda one: (one.request["kind"], one.request["instruction"])):
        requests = [one.request for one in group]
        if requests[0]["kind"] == "generate":
            yield from requests
        else:
            yield {**requests[0], "candidates": [text for request in requests for text in request["candidates"]]}


def _is_here(llm: Any) -> bool:
    """Whether the model's tokenizer is on this machine; converting weights only to count would take too long."""
    card = getattr(llm, "card", None)
    return card is None or any(paths.MODELS.glob(f"{card.name}-*"))


def _minutes(model: str, usage: dict[str, int], writes: bool) -> float | None:
    """The time by this model's recorded seconds a token, on whatever dataset; None if nothing of it is recorded.

    A taught model takes as long as the one that was taught. Reading goes by the tokens that are read; in writing nearly
    all time goes into those written.
    """
    unit = "completion_tokens" if writes else "prompt_tokens"
    seconds = tokens = 0.0
    for folder in sorted(path for path in paths.RECORDINGS.glob("*") if path.is_dir()):
        for name in {model, models.untaught_name(model)}:
            recordings = models.recorded(folder.name, name)
            for response in map(recordings.__getitem__, recordings):
                if ("text" in response) == writes:
                    seconds, tokens = seconds + response["seconds"], tokens + response[unit]
    return seconds / tokens * usage[unit] / 60 if tokens else None
