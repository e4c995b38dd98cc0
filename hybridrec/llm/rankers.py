"""From users' tasks to requests, and from a language model's answers to a score for each candidate."""

import functools
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hybridrec import errors
from hybridrec.llm import answers, modes, prompts, runner
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.redact import redact_response
from hybridrec.llm.tasks import Task
from hybridrec.randomness import generator

COUNTS = ("invalid", "duplicates", "missing")
_OF_ANSWERS = (*COUNTS, "failure", "ended_by", "answered", "attempts")
NO_ANSWER = "no answer"  # the failure of a user for whom the model says neither of two choices
_CUT_OFF = ("length", "loop", "context")  # finish reasons after which the last line may be torn
_PRIOR_CHUNK = 64


@dataclass(frozen=True)
class Ranking:
    """One user's candidates with scores, higher is better, and how they came about.

    ``failure`` is "" or says why the answer could not be used; the order is then random, and what to do with the user
    is the caller's decision. ``attempts`` counts how often the model was asked, ``used`` sums tokens and seconds.
    ``ended_by`` says who ended a written answer (see ``runner.ended_by``); "" where nothing was written. ``answered``
    is the probability of both choices together, a mean over the candidates; NaN where there is none.
    """

    ranker: str
    user: Hashable
    candidates: tuple[Hashable, ...]
    scores: tuple[float, ...]
    invalid: int
    duplicates: int
    missing: int
    failure: str
    attempts: int
    replayed: bool
    used: dict[str, float]
    ended_by: str = ""
    answered: float = float("nan")

    @property
    def complete(self) -> bool:
        """Whether the answer names every candidate; one that is named again stands where it was first."""
        return not (self.failure or self.missing)


# --- requests -------------------------------------------------------------------------------------------------------


def build_request(mode: Mode | str, history: Sequence[prompts.Item], items: Sequence[prompts.Item], noun: str) -> dict:
    """The request of one mode: what kind of answer is wanted, the instruction, and the candidates.

    Raises:
        SettingError: unknown mode (lists the known ones).
    """
    mode = modes.get(mode)
    request = {"kind": mode.kind, "instruction": prompts.instruction(mode, history, items, noun)}
    if mode.asks:
        questions = [prompts.question(mode, item, noun) for item in items]
        return {**request, "candidates": questions, "choices": list(mode.choices)}
    titles = [prompts.one_line(item.title) for item in items]
    return {**request, "candidates": prompts.labels(len(items)) if mode.labels else titles}


def request_of(task: Task, mode: Mode | str, noun: str) -> runner.Asked:
    """What is asked for one user."""
    return runner.Asked(task.user, build_request(mode, task.history, task.items, noun), about=task)


def prior_requests(
    items: pd.DataFrame,
    noun: str,
    wanted: Collection[Hashable] | None = None,
    mode: Mode | str = "prior",
    history: Sequence[prompts.Item] = (),
) -> list[runner.Asked]:
    """The history-free prior of the catalogue, in chunks of items by id: one pass serves every user.

    Args:
        items: item, title. A chunk's recording is found again only as long as its titles stay the same.
        noun: the dataset's word for an item.
        wanted: items that must be among those asked for; a chunk without any is left out. None: the whole catalogue.
        mode, history: what is asked instead: a mode that scores titles, after a history that is the same for all users.

    Returns:
        The requests; ``about`` holds the items of each.
    """
    rows, asked = items.sort_values("item"), []
    for start in range(0, len(rows), _PRIOR_CHUNK):
        chunk = rows.iloc[start : start + _PRIOR_CHUNK]
        if wanted is None or chunk["item"].isin(wanted).any():
            request = build_request(mode, history, [prompts.Item(title) for title in chunk["title"]], noun)
            asked.append(runner.Asked(None, request, about=chunk["item"].tolist()))
    return asked


# --- rankings -------------------------------------------------------------------------------------------------------


def rank(
    tasks: Iterable[Task],
    mode: Mode | str,
    model: runner.Model,
    recordings: Recordings,
    *,
    noun: str,
    seed: int,
    prior: pd.DataFrame | None = None,
    attempts: int = 1,
    live: Collection[Hashable] = (),
    tally: runner.Tally | None = None,
) -> Iterator[Ranking]:
    """Rank the candidates of many users; yields each user's ranking as it comes.

    Args:
        tasks: whom to rank for; may be a generator.
        mode: a way to ask, or its name.
        model: on this machine (models.local) or behind an endpoint (models.endpoint).
        recordings: answers that are there are replayed, new ones recorded.
        noun: the dataset's word for an item.
        seed: root of the random order of candidates that a written answer left out.
        prior: what ``prior_of`` returned; its log-likelihood is subtracted by "likelihood" (the ranker is then
            "likelihood-prior").
        attempts: how often an answer that cannot be used is asked for.
        live: users for whom the model is asked whatever is recorded.
        tally: counts to be read afterwards.

    Raises:
        What runner.ask raises; SettingError: unknown mode.
    """
    mode = modes.get(mode)
    total = len(tasks) if isinstance(tasks, Sequence) else None
    asked = (request_of(task, mode, noun) for task in tasks)
    usable = functools.partial(check, mode)
    how: dict[str, Any] = {
        "check": usable,
        "redact": redact_response,
        "attempts": attempts,
        "live": live,
        "tally": tally,
    }
    for answer in runner.ask(asked, model, recordings, what=mode.name, total=total, **how):
        yield _ranking(mode, answer, prior, seed)


def rank_lists(
    lists: Sequence[Task],
    mode: Mode | str,
    model: runner.Model,
    recordings: Recordings,
    *,
    noun: str,
    seed: int = 0,
    spare: Sequence[Task] = (),
) -> list[Ranking]:
    """Rank long lists by a way to ask in which a candidate's score does not depend on the others.

    Each candidate is a request of its own, so that a list of which a title changes asks for that title only.

    Args:
        lists: whom to rank for.
        mode: one that reads probabilities.
        model, recordings, noun: as in rank.
        seed: root of the random order of a user without an answer: one of the titles has no score, or the model says
            neither of two choices.
        spare: longer lists of the same users. Where something has to be asked anyway, these are asked for, too: then
            a list that changes a little finds all its titles recorded.

    Raises:
        What runner.ask raises; SettingError: a mode that writes.
    """
    mode = modes.get(mode)
    if mode.writes:
        raise errors.SettingError(
            f"{mode.name!r} writes an order of all candidates together: it cannot be asked title by title."
        )
    asked, more = (list(title_requests(tasks, mode, noun)) for tasks in (lists, spare))
    if not recordings.replay_only and any(model.key(one) not in recordings for one in asked):
        record_missing(more, model, recordings, f"{mode.name}, whole lists")
    found = runner.ask(asked, model, recordings, what=f"{mode.name}, whole lists", total=len(asked))
    scores: dict[Hashable, dict[int, runner.Answer]] = {}
    for answer in found:
        scores.setdefault(answer.asked.user, {})[answer.asked.about] = answer
    return [_list_ranking(task, mode, scores[task.user], seed) for task in lists]


def title_requests(tasks: Iterable[Task], mode: Mode | str, noun: str) -> Iterator[runner.Asked]:
    """What ``rank_lists`` asks: a request for each candidate; ``about`` is its place in the list."""
    for task in tasks:
        for place, item in enumerate(task.items):
            yield runner.Asked(task.user, build_request(mode, task.history, [item], noun), about=place)


def _list_ranking(task: Task, mode: Mode, found: Mapping[int, runner.Answer], seed: int) -> Ranking:
    by_place = [found[place] for place in range(len(task.items))]
    how = {
        "attempts": 1,
        "replayed": all(answer.replayed for answer in by_place),
        "used": {name: sum(answer.used[name] for answer in by_place) for name in runner.USAGE},
    }
    together: runner.Response = {"log_probs": [], "lengths": []}
    for answer in by_place:
        if isinstance(answer.outcome, runner.Failure):  # without one title's score there is no order
            return _ordered(mode.name, task, _nothing(task, answer.outcome.reason), seed, how)
        for name, values in together.items():
            values.append(answer.outcome[name][0])
    return _scored(mode, task, together, None, seed, how)


def score_ahead(
    tasks: Sequence[Task], counts: Mapping[str, int], model: runner.Model, recordings: Recordings, noun: str
) -> None:
    """Record the scores of several modes user by user, so that a local model reads each history once for all modes.

    Args:
        tasks: whom to rank for.
        counts: how many of them, from the first, each mode is asked for. Modes that write their answer are left out:
            they are asked in batches.
        model, recordings, noun: as in rank.
    """
    scored = {mode: count for mode, count in counts.items() if not modes.get(mode).writes}
    asked = [request_of(task, mode, noun) for at, task in enumerate(tasks) for mode, n in scored.items() if at < n]
    record_missing(asked, model, recordings, " and ".join(scored))


def record_missing(asked: Iterable[runner.Asked], model: runner.Model, recordings: Recordings, what: str) -> None:
    """Ask what has no recording yet, and record it: rankings are read afterwards.

    Neighbours of one user are read together by a local model, which computes once what they begin with.

    Args:
        asked: requests, such as ``request_of`` makes.
        model, recordings: as in rank.
        what: the name of the progress bar.
    """
    missing = [one for one in asked if model.key(one) not in recordings]
    for _ in runner.ask(missing, model, recordings, what=what, total=len(missing), redact=redact_response):
        pass


def read(task: Task, mode: Mode | str, response: runner.Response) -> answers.ParsedRanking:
    """A written answer, read as a ranking of the task's candidates.

    Its ``finish_reason`` counts: of an answer that was cut off the torn last item is no invention, and one in which
    the server says that the model refused (or that it filtered) is a refusal, even if it quotes a candidate.
    """
    if response["finish_reason"] in ("refusal", "content_filter"):
        return answers.ParsedRanking((), 0, 0, len(task.items), "refusal")
    labels = prompts.labels(len(task.items)) if modes.get(mode).labels else ()
    truncated = response["finish_reason"] in _CUT_OFF
    return answers.parse_ranking(response["text"], [item.title for item in task.items], labels, truncated=truncated)


def check(mode: Mode | str, asked: runner.Asked, response: runner.Response) -> str:
    """The verdict on a response: "" (a complete ranking), "repaired", or why it is a failure."""
    mode = modes.get(mode)
    if not mode.writes:
        return NO_ANSWER if answered(mode, response) < mode.floor else ""
    parsed = read(asked.about, mode, response)
    return parsed.failure or ("repaired" if parsed.repaired else "")


def answered(mode: Mode | str, response: runner.Response) -> float:
    """The probability of all choices together, a mean over the candidates; NaN if the mode offers none."""
    return float(np.exp(response["log_probs"]).sum(axis=1).mean()) if modes.get(mode).asks else float("nan")


def _ranking(mode: Mode, answer: runner.Answer, prior: pd.DataFrame | None, seed: int) -> Ranking:
    task: Task = answer.asked.about
    how = {"attempts": answer.asked.attempt + 1, "replayed": answer.replayed, "used": answer.used}
    if isinstance(answer.outcome, runner.Failure):
        return _ordered(_name(mode, prior), task, _nothing(task, answer.verdict), seed, how)
    if mode.writes:
        how["ended_by"] = runner.ended_by(answer.outcome)
        return _ordered(mode.name, task, read(task, mode, answer.outcome), seed, how)
    return _scored(mode, task, answer.outcome, prior, seed, how)


def _name(mode: Mode, prior: pd.DataFrame | None) -> str:
    return mode.name if prior is None else f"{mode.name}-prior"


def _nothing(task: Task, failure: str) -> answers.ParsedRanking:
    return answers.ParsedRanking((), 0, 0, len(task.items), failure)


def _ordered(name: str, task: Task, parsed: answers.ParsedRanking, seed: int, how: dict[str, Any]) -> Ranking:
    """A ranking from the order that was read; candidates that it lacks follow in random order."""
    order = answers.repair(parsed, len(task.items), generator(seed, "repair", task.user))
    scores = tuple(float(len(order) - order.index(position)) for position in range(len(order)))
    counts = {count: getattr(parsed, count) for count in (*COUNTS, "failure")}
    return Ranking(name, task.user, task.candidates, scores, **counts, **how)


def _scored(
    mode: Mode, task: Task, response: runner.Response, prior: pd.DataFrame | None, seed: int, how: dict[str, Any]
) -> Ranking:
    """A ranking from log-probabilities; a random one where the model says neither of the choices."""
    name, how = _name(mode, prior), how | {"answered": answered(mode, response)}
    if how["answered"] < mode.floor:
        return _ordered(name, task, _nothing(task, NO_ANSWER), seed, how)
    usual = None if prior is None else prior["log_prob"].loc[list(task.candidates)]
    scores = tuple(scores_of(mode, response, usual))
    return Ranking(name, task.user, task.candidates, scores, 0, 0, 0, "", **how)


def scores_of(mode: Mode | str, response: runner.Response, usual: Iterable[float] | None = None) -> list[float]:
    """A score for each candidate from the log-probabilities of one response, in the order of the candidates.

    For a mode that offers choices: see ``of_choices``. For one that scores titles: the title's log-likelihood, less the
    usual one if it is given, divided by its number of tokens.

    Args:
        mode: one that does not write.
        response: log_probs, of titles or of the choices for each; for titles also lengths, their numbers of tokens.
        usual: each title's log-likelihood without a history (``prior_of``).
    """
    mode = modes.get(mode)
    if mode.asks:
        return of_choices(mode, np.array(response["log_probs"])).tolist()
    expected = [0.0] * len(response["lengths"]) if usual is None else usual
    known = zip(response["log_probs"], expected, response["lengths"], strict=True)
    return [float((value - without) / length) for value, without, length in known]


def of_choices(mode: Mode, log_probs: np.ndarray) -> np.ndarray:
    """A score for each candidate, of shape (n,), from the log-probabilities of a mode's choices, (n, choices).

    The grade that is expected, given that one follows; where there are two choices, log P(first) - log P(second).
    """
    if not mode.grades:
        return log_probs[:, 0] - log_probs[:, 1]
    odds = np.exp(log_probs)
    return odds @ np.arange(odds.shape[1]) / odds.sum(axis=1)


def prior_of(
    items: pd.DataFrame,
    model: runner.Model,
    recordings: Recordings,
    noun: str,
    wanted: Collection[Hashable] | None = None,
    mode: Mode | str = "prior",
    history: Sequence[prompts.Item] = (),
) -> pd.DataFrame:
    """What the model says of items without any user's history.

    Args:
        items, noun, wanted, mode, history: as in ``prior_requests``.
        model, recordings: as in ``rank``.

    Returns:
        Indexed by item: log_prob, the title's log-likelihood (natural logarithm), and length, its number of tokens.

    Raises:
        What runner.ask raises; ResponseError: a part of it was not to be had (says why).
    """
    rows: list[tuple[Hashable, float, int]] = []
    failure, asked = "", prior_requests(items, noun, wanted, mode, history)
    for answer in runner.ask(asked, model, recordings, what="prior", total=len(asked)):
        if isinstance(answer.outcome, runner.Failure):
            failure = answer.outcome.reason
        else:
            rows += zip(answer.asked.about, answer.outcome["log_probs"], answer.outcome["lengths"], strict=True)
    if failure:
        raise errors.ResponseError(f"no prior of the catalogue: {failure}. Run again: the rest is recorded.")
    return pd.DataFrame(rows, columns=["item", "log_prob", "length"]).set_index("item").sort_index()


def rank_by_prior(tasks: Iterable[Task], prior: pd.DataFrame) -> list[Ranking]:
    """Everybody's candidates ranked by the prior alone, per token: what "likelihood" would be without a history.

    Args:
        tasks: whom to rank for.
        prior: what ``prior_of`` returned.
    """
    per_token, no_repair, free = prior["log_prob"] / prior["length"], (0, 0, 0, ""), dict.fromkeys(runner.USAGE, 0.0)
    return [
        Ranking("prior", task.user, task.candidates, tuple(per_token[[*task.candidates]]), *no_repair, 1, True, free)
        for task in tasks
    ]


def table(rankings: Iterable[Ranking]) -> pd.DataFrame:
    """Rankings as rows: user, item, score, ranker; on each row the counts and the usage of the whole answer.

    Rankers in order of appearance, users sorted: the order in which answers came leaves no trace. Without a ranking it
    is a table without a row.
    """
    columns = ["user", "item", "score", "ranker", *_OF_ANSWERS, *runner.USAGE]
    rankings = list(rankings)
    if not rankings:
        return pd.DataFrame(columns=columns)
    place = {ranker: number for number, ranker in enumerate(dict.fromkeys(one.ranker for one in rankings))}
    ordered = sorted(rankings, key=lambda one: (place[one.ranker], one.user))
    whole = pd.DataFrame(
        [{name: getattr(one, name) for name in ("user", "ranker", *_OF_ANSWERS)} | one.used for one in ordered]
    )
    rows = whole.loc[whole.index.repeat([len(one.candidates) for one in ordered])].reset_index(drop=True)
    items = [item for one in ordered for item in one.candidates]
    return rows.assign(item=items, score=[score for one in ordered for score in one.scores])[columns]


def from_table(rows: pd.DataFrame) -> list[Ranking]:
    """The rankings of which ``table`` made rows; all count as replayed.

    Args:
        rows: what ``table`` returned, each user's candidates in their order.
    """
    found = []
    for (ranker, user), of_user in rows.groupby(["ranker", "user"], sort=False):
        first = of_user.iloc[0]
        whole = {name: first[name] for name in _OF_ANSWERS}
        used = {name: float(first[name]) for name in runner.USAGE}
        lists = tuple(of_user["item"].tolist()), tuple(of_user["score"].tolist())
        found.append(Ranking(ranker, user, *lists, **whole, replayed=True, used=used))
    return found
