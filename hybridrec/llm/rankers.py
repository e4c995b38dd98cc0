"""From users' tasks to requests, and from a language model's answers to a score for each candidate."""

import dataclasses
import functools
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hybridrec import errors
from hybridrec.llm import answers, modes, prompts, runner
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.redact import redact_response
from hybridrec.llm.tasks import Task
from hybridrec.randomness import generator

COUNTS = ("invalid", "duplicates", "missing")
_PRIOR_CHUNK = 64


@dataclass(frozen=True)
class Ranking:
    """One user's candidates with scores, higher is better, and how they came about.

    ``failure`` is "" or says why the answer could not be used; the order is then random, and what to do with the user
    is the caller's decision. ``attempts`` counts how often the model was asked, ``used`` sums tokens and seconds.
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


def prior_requests(items: pd.DataFrame, noun: str) -> list[runner.Asked]:
    """The history-free prior of the whole catalogue, in chunks: one pass serves every user."""
    titles = [prompts.Item(title) for title in items.sort_values("item")["title"]]
    chunks = [titles[start : start + _PRIOR_CHUNK] for start in range(0, len(titles), _PRIOR_CHUNK)]
    return [runner.Asked(None, build_request("prior", [], chunk, noun)) for chunk in chunks]


# --- rankings -------------------------------------------------------------------------------------------------------


def rank(
    tasks: Iterable[Task],
    mode: Mode | str,
    model: runner.Model,
    recordings: Recordings,
    *,
    noun: str,
    seed: int,
    prior: "pd.Series | None" = None,
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
        prior: history-free log-likelihood by item, subtracted by "likelihood" (the ranker is then "likelihood-prior").
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
    spare: Sequence[Task] = (),
) -> list[Ranking]:
    """Rank long lists by a way to ask in which a candidate's score does not depend on the others.

    Each candidate is a request of its own, so that a list of which a title changes asks for that title only.

    Args:
        lists: whom to rank for.
        mode: one that reads probabilities.
        model, recordings, noun: as in rank.
        spare: longer lists of the same users. Where something has to be asked anyway, these are asked for, too: then
            a list that changes a little finds all its titles recorded.

    Raises:
        What runner.ask raises; ResponseError: a title without a score; SettingError: a mode that writes.
    """
    mode = modes.get(mode)
    if mode.writes:
        raise errors.SettingError(
            f"{mode.name!r} writes an order of all candidates together: it cannot be asked title by title."
        )
    asked, more = (list(title_requests(tasks, mode, noun)) for tasks in (lists, spare))
    if not recordings.replay_only and any(model.key(one) not in recordings for one in asked):
        _record_missing(more, model, recordings, f"{mode.name}, whole lists")
    found = runner.ask(asked, model, recordings, what=f"{mode.name}, whole lists", total=len(asked))
    scores: dict[Hashable, dict[int, runner.Answer]] = {}
    for answer in found:
        scores.setdefault(answer.asked.user, {})[answer.asked.about] = answer
    return [_list_ranking(task, mode, scores[task.user]) for task in lists]


def title_requests(tasks: Iterable[Task], mode: Mode | str, noun: str) -> Iterator[runner.Asked]:
    """What ``rank_lists`` asks: a request for each candidate; ``about`` is its place in the list."""
    for task in tasks:
        for place, item in enumerate(task.items):
            yield runner.Asked(task.user, build_request(mode, task.history, [item], noun), about=place)


def _list_ranking(task: Task, mode: Mode, found: Mapping[int, runner.Answer]) -> Ranking:
    answers_by_place = [found[place] for place in range(len(task.items))]
    together: runner.Response = {"log_probs": [], "lengths": []}
    for answer in answers_by_place:
        if isinstance(answer.outcome, runner.Failure):
            raise errors.ResponseError(f"a title of user {task.user}'s list has no score: {answer.outcome.reason}.")
        for name, values in together.items():
            values.append(answer.outcome[name][0])
    return Ranking(
        ranker=mode.name,
        user=task.user,
        candidates=task.candidates,
        scores=tuple(_scores(mode, task, together, None)),
        invalid=0,
        duplicates=0,
        missing=0,
        failure="",
        attempts=1,
        replayed=all(answer.replayed for answer in answers_by_place),
        used={name: sum(answer.used[name] for answer in answers_by_place) for name in runner.USAGE},
    )


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
    _record_missing(asked, model, recordings, " and ".join(scored))


def _record_missing(asked: Iterable[runner.Asked], model: runner.Model, recordings: Recordings, what: str) -> None:
    """Ask what has no recording yet; what has one would be counted twice when its ranking is read."""
    missing = [one for one in asked if model.key(one) not in recordings]
    for _ in runner.ask(missing, model, recordings, what=what, total=len(missing)):
        pass


def read(task: Task, mode: Mode | str, response: runner.Response) -> answers.ParsedRanking:
    """A written answer, read as a ranking of the task's candidates.

    Its ``finish_reason`` counts: of an answer that was cut off the torn last item is no invention, and one in which
    the server says that the model refused (or that it filtered) is a refusal, even if it quotes a candidate.
    """
    if response["finish_reason"] in ("refusal", "content_filter"):
        return answers.ParsedRanking((), 0, 0, len(task.items), "refusal")
    labels = prompts.labels(len(task.items)) if modes.get(mode).labels else ()
    truncated = response["finish_reason"] == "length"
    return answers.parse_ranking(response["text"], [item.title for item in task.items], labels, truncated=truncated)


def check(mode: Mode | str, asked: runner.Asked, response: runner.Response) -> str:
    """The verdict on a response: "" (a complete ranking), "repaired", or why it is a failure."""
    if not modes.get(mode).writes:
        return ""
    parsed = read(asked.about, mode, response)
    return parsed.failure or ("repaired" if parsed.repaired else "")


def _ranking(mode: Mode, answer: runner.Answer, prior: "pd.Series | None", seed: int) -> Ranking:
    task: Task = answer.asked.about
    nothing = answers.parse_ranking("", [item.title for item in task.items])
    parsed = answers.ParsedRanking((), 0, 0, 0, "")
    if isinstance(answer.outcome, runner.Failure):
        parsed = dataclasses.replace(nothing, failure=answer.verdict)
    elif mode.writes:
        parsed = read(task, mode, answer.outcome)
    if mode.writes or isinstance(answer.outcome, runner.Failure):
        order = answers.repair(parsed, len(task.items), generator(seed, "repair", task.user))
        scores = [float(len(order) - order.index(position)) for position in range(len(order))]
    else:
        scores = _scores(mode, task, answer.outcome, prior)
    return Ranking(
        ranker=mode.name if prior is None else f"{mode.name}-prior",
        user=task.user,
        candidates=task.candidates,
        scores=tuple(scores),
        invalid=parsed.invalid,
        duplicates=parsed.duplicates,
        missing=parsed.missing,
        failure=parsed.failure,
        attempts=answer.asked.attempt + 1,
        replayed=answer.replayed,
        used=answer.used,
    )


def _scores(mode: Mode, task: Task, response: runner.Response, prior: "pd.Series | None") -> list[float]:
    """A score for each candidate from the log-probabilities of one response, in the order of the candidates.

    For a mode that puts questions: log P(first choice) - log P(second choice). For one that scores titles: the title's
    log-likelihood, less the prior's if there is one, divided by its number of tokens.
    """
    if mode.asks:
        return [first - second for first, second in response["log_probs"]]
    expected = prior.loc[pd.Index(task.candidates)] if prior is not None else [0.0] * len(task.candidates)
    known = zip(response["log_probs"], expected, response["lengths"], strict=True)
    return [float((value - usual) / length) for value, usual, length in known]


def prior_of(items: pd.DataFrame, model: runner.Model, recordings: Recordings, noun: str) -> pd.Series:
    """History-free log-likelihood of every item, indexed by item.

    Raises:
        What runner.ask raises; ResponseError: a part of it was not to be had (says why).
    """
    asked = prior_requests(items, noun)
    found, failure = {}, ""
    for answer in runner.ask(asked, model, recordings, what="prior"):
        if isinstance(answer.outcome, runner.Failure):
            failure = answer.outcome.reason
        else:
            found[id(answer.asked)] = answer.outcome["log_probs"]
    if failure:
        raise errors.ResponseError(f"no prior of the catalogue: {failure}. Run again: the rest is recorded.")
    values = [value for one in asked for value in found[id(one)]]
    return pd.Series(values, index=items.sort_values("item")["item"].to_numpy())


def table(rankings: Iterable[Ranking]) -> pd.DataFrame:
    """Rankings as rows: user, item, score, ranker, counts of repairs, failure, attempts, and the usage on each row.

    Rankers in order of appearance, users sorted: the order in which answers came leaves no trace. Without a ranking it
    is a table without a row.
    """
    rankings, rows = list(rankings), []
    place = {ranker: number for number, ranker in enumerate(dict.fromkeys(one.ranker for one in rankings))}
    for ranking in sorted(rankings, key=lambda one: (place[one.ranker], one.user)):
        counts = {name: getattr(ranking, name) for name in (*COUNTS, "failure", "attempts")}
        whole = {"user": ranking.user, "ranker": ranking.ranker, **counts, **ranking.used}
        rows.append(pd.DataFrame({"item": ranking.candidates, "score": ranking.scores}).assign(**whole))
    columns = ["user", "item", "score", "ranker", *COUNTS, "failure", "attempts", *runner.USAGE]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)
