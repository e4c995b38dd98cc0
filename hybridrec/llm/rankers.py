"""Rankers made of a language model: from users' tasks to requests, and from answers to scores per candidate."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hybridrec import errors
from hybridrec.llm import answers, prompts, runner
from hybridrec.llm.recordings import Recordings
from hybridrec.randomness import generator

COUNTS = ("invalid", "duplicates", "missing")
_PRIOR_CHUNK = 64


@dataclass(frozen=True)
class Task:
    """One user's ranking task: the history shown, and the candidates in the order shown."""

    user: int
    history: tuple[prompts.Item, ...]
    candidates: tuple[int, ...]
    items: tuple[prompts.Item, ...]


@dataclass(frozen=True)
class Ranking:
    """One user's candidates with scores, higher is better, and how they came about.

    ``failure`` is "" or says why the answer could not be used; the order is then random, and what to do with the user
    is the caller's decision. ``attempts`` counts how often the model was asked, ``used`` sums tokens and seconds.
    """

    ranker: str
    user: int
    candidates: tuple[int, ...]
    scores: tuple[float, ...]
    invalid: int
    duplicates: int
    missing: int
    failure: str
    attempts: int
    replayed: bool
    used: dict[str, float]


# --- tasks ----------------------------------------------------------------------------------------------------------


def item_facts(items: pd.DataFrame, known: pd.DataFrame, scale: int) -> pd.Series:
    """What pointwise-facts may say of each item: genres, mean rating and number of known (never test) ratings."""
    ratings = known.groupby("item")["rating"].agg(["mean", "size"]).reindex(items["item"])
    seen = [
        f"mean rating {mean:.1f} of {scale} from {int(size)} ratings" if size > 0 else "no ratings yet"
        for mean, size in ratings.itertuples(index=False)
    ]
    words = [f"{genres}; {text}" if genres else text for genres, text in zip(items["genres"], seen, strict=True)]
    return pd.Series(words, index=items["item"].to_numpy())


def build_tasks(
    users: Sequence[int],
    known: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.DataFrame,
    history_length: int = 20,
    scale: int = 5,
) -> list[Task]:
    """The task of each user, from what is known of them before the test.

    Args:
        users: whom to rank for.
        known: ratings the model may see (train and validation): user, item, rating, timestamp.
        candidates: user, position, item.
        items: item, title, genres.
        history_length: items of the user's own shown, in decreasing order of rating, newest first among equals.
        scale: the highest rating, named in the facts.

    Raises:
        ValueError: a user without candidates or without history (names the user and the remedy).

    Source: Kaur & Shah 2024, section 3.2.
    """
    titles, facts = items.set_index("item")["title"], item_facts(items, known, scale)
    described = {item: prompts.Item(titles[item], facts[item]) for item in titles.index}
    order = ["user", "rating", "timestamp", "item"]
    rows = known.sort_values(order, ascending=[True, False, False, True])
    histories = rows.groupby("user")["item"].agg(lambda column: list(column.head(history_length)))
    lists = candidates.sort_values(["user", "position"]).groupby("user")["item"].agg(list)
    for user in users:
        if user not in lists.index or user not in histories.index:
            what = "candidates" if user not in lists.index else "history"
            raise ValueError(f"user {user} has no {what}, so there is nothing to rank: leave this user out.")
    return [
        Task(
            user=int(user),
            history=tuple(described[item] for item in histories[user]),
            candidates=tuple(int(item) for item in lists[user]),
            items=tuple(described[item] for item in lists[user]),
        )
        for user in users
    ]


# --- requests -------------------------------------------------------------------------------------------------------


def build_request(mode: str, history: Sequence[prompts.Item], items: Sequence[prompts.Item], noun: str) -> dict:
    """The request of one mode: what kind of answer is wanted, the instruction, and the candidates.

    Raises:
        ValueError: unknown mode (lists the known ones).
    """
    if mode not in (*prompts.MODES, "prior"):
        raise ValueError(f"unknown mode {mode!r}. Known: {', '.join(prompts.MODES)}.")
    instruction = prompts.instruction(mode, history, items, noun)
    if mode.startswith("pointwise"):
        questions = [prompts.question(mode, item, noun) for item in items]
        return {"kind": "choose", "instruction": instruction, "candidates": questions, "choices": ["Yes", "No"]}
    if mode == "listwise-labels":
        return {"kind": "generate", "instruction": instruction, "candidates": prompts.labels(len(items))}
    kind = "generate" if mode == "listwise" else "score"
    return {"kind": kind, "instruction": instruction, "candidates": [prompts.one_line(item.title) for item in items]}


def request_of(task: Task, mode: str, noun: str) -> runner.Asked:
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
    mode: str,
    model: runner.Model,
    recordings: Recordings,
    *,
    noun: str,
    seed: int,
    prior: "pd.Series | None" = None,
    attempts: int = 1,
    live: Collection[int] = (),
    tally: runner.Tally | None = None,
) -> Iterator[Ranking]:
    """Rank the candidates of many users; yields each user's ranking as it comes.

    Args:
        tasks: whom to rank for; may be a generator.
        mode: one of prompts.MODES.
        model: local.LocalModel or chat.ChatModel.
        recordings: answers that are there are replayed, new ones recorded.
        noun: the dataset's word for an item.
        seed: root of the random order of candidates that a written answer left out.
        prior: history-free log-likelihood by item, subtracted by "likelihood" (the ranker is then "likelihood-prior").
        attempts: how often an answer that cannot be used is asked for.
        live: users for whom the model is asked whatever is recorded.
        tally: counts to be read afterwards.

    Raises:
        What runner.ask raises; ValueError: unknown mode.
    """
    total = len(tasks) if isinstance(tasks, Sequence) else None
    asked = (request_of(task, mode, noun) for task in tasks)
    usable = functools.partial(check, mode)
    how = {"check": usable, "redact": seal, "attempts": attempts, "live": live, "tally": tally}
    for answer in runner.ask(asked, model, recordings, what=mode, total=total, **how):
        yield _ranking(mode, answer, prior, seed)


def rank_lists(
    lists: Sequence[Task],
    mode: str,
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
        What runner.ask raises; ResponseError: a title without a score; ValueError: a mode that writes.
    """
    if mode in prompts.WRITTEN:
        raise ValueError(f"{mode!r} writes an order of all candidates together: it cannot be asked title by title.")
    asked, more = (list(_titles(tasks, mode, noun)) for tasks in (lists, spare))
    if not recordings.replay_only and any(model.key(one) not in recordings for one in asked):
        _record_missing(more, model, recordings, f"{mode}, whole lists")
    found = runner.ask(asked, model, recordings, what=f"{mode}, whole lists", total=len(asked))
    scores: dict[int, dict[int, runner.Answer]] = {}
    for answer in found:
        scores.setdefault(answer.asked.user, {})[answer.asked.about] = answer
    return [_list_ranking(task, mode, scores[task.user]) for task in lists]


def _titles(tasks: Iterable[Task], mode: str, noun: str) -> Iterator[runner.Asked]:
    """A request for each candidate; ``about`` is its place in the list."""
    for task in tasks:
        for place, item in enumerate(task.items):
            yield runner.Asked(task.user, build_request(mode, task.history, [item], noun), about=place)


def _list_ranking(task: Task, mode: str, found: Mapping[int, runner.Answer]) -> Ranking:
    answers_by_place = [found[place] for place in range(len(task.items))]
    for answer in answers_by_place:
        if isinstance(answer.outcome, runner.Failure):
            raise errors.ResponseError(f"a title of user {task.user}'s list has no score: {answer.outcome.reason}.")
    together = {name: [answer.outcome[name][0] for answer in answers_by_place] for name in ("log_probs", "lengths")}
    return Ranking(
        ranker=mode,
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
    scored = {mode: count for mode, count in counts.items() if mode not in prompts.WRITTEN}
    asked = [request_of(task, mode, noun) for at, task in enumerate(tasks) for mode, n in scored.items() if at < n]
    _record_missing(asked, model, recordings, " and ".join(scored))


def _record_missing(asked: Iterable[runner.Asked], model: runner.Model, recordings: Recordings, what: str) -> None:
    """Ask what has no recording yet; what has one would be counted twice when its ranking is read."""
    missing = [one for one in asked if model.key(one) not in recordings]
    for _ in runner.ask(missing, model, recordings, what=what, total=len(missing)):
        pass


def read(task: Task, mode: str, response: runner.Response) -> answers.ParsedRanking:
    """A written answer, read as a ranking of the task's candidates.

    Its ``finish_reason`` counts: of an answer that was cut off the torn last item is no invention, and one in which
    the server says that the model refused (or that it filtered) is a refusal, even if it quotes a candidate.
    """
    if response["finish_reason"] in ("refusal", "content_filter"):
        return answers.ParsedRanking((), 0, 0, len(task.items), "refusal")
    labels = prompts.labels(len(task.items)) if mode == "listwise-labels" else ()
    truncated = response["finish_reason"] == "length"
    return answers.parse_ranking(response["text"], [item.title for item in task.items], labels, truncated=truncated)


def check(mode: str, asked: runner.Asked, response: runner.Response) -> str:
    """The verdict on a response: "" (a complete ranking), "repaired", or why it is a failure."""
    if mode not in prompts.WRITTEN:
        return ""
    parsed = read(asked.about, mode, response)
    return parsed.failure or ("repaired" if parsed.repaired else "")


def seal(asked: runner.Asked, response: runner.Response) -> runner.Response:
    """What may be recorded of a response: everything but the titles of the user's history (see answers.blot)."""
    if "text" not in response:
        return response
    task: Task = asked.about
    history, candidates = ([item.title for item in items] for items in (task.history, task.items))
    return {**response, "text": answers.blot(response["text"], history, candidates)}


def _ranking(mode: str, answer: runner.Answer, prior: "pd.Series | None", seed: int) -> Ranking:
    task: Task = answer.asked.about
    nothing = answers.parse_ranking("", [item.title for item in task.items])
    parsed = answers.ParsedRanking((), 0, 0, 0, "")
    if isinstance(answer.outcome, runner.Failure):
        parsed = dataclasses.replace(nothing, failure=answer.verdict)
    elif mode in prompts.WRITTEN:
        parsed = read(task, mode, answer.outcome)
    if mode in prompts.WRITTEN or parsed.failure:
        order = answers.repair(parsed, len(task.items), generator(seed, "repair", task.user))
        scores = [float(len(order) - order.index(position)) for position in range(len(order))]
    else:
        scores = _scores(mode, task, answer.outcome, prior)
    return Ranking(
        ranker=mode if prior is None else f"{mode}-prior",
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


def _scores(mode: str, task: Task, response: runner.Response, prior: "pd.Series | None") -> list[float]:
    """likelihood: log-likelihood per token of each title after the history, the prior subtracted first.

    pointwise: log P(Yes) - log P(No) of each candidate.
    """
    if mode.startswith("pointwise"):
        return [yes - no for yes, no in response["log_probs"]]
    expected = prior.loc[list(task.candidates)] if prior is not None else [0.0] * len(task.candidates)
    known = zip(response["log_probs"], expected, response["lengths"], strict=True)
    return [float((value - usual) / length) for value, usual, length in known]


def prior_of(items: pd.DataFrame, model: runner.Model, recordings: Recordings, noun: str) -> pd.Series:
    """History-free log-likelihood of every item, indexed by item.

    Raises:
        What runner.ask raises; ResponseError: a part of it was not to be had (says why).
    """
    asked = prior_requests(items, noun)
    found = {id(answer.asked): answer.outcome for answer in runner.ask(asked, model, recordings, what="prior")}
    for outcome in found.values():
        if isinstance(outcome, runner.Failure):
            raise errors.ResponseError(f"no prior of the catalogue: {outcome.reason}. Run again: the rest is recorded.")
    values = [value for one in asked for value in found[id(one)]["log_probs"]]
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
        columns = {"task": "test-items", "user": ranking.user, "item": ranking.candidates, "score": ranking.scores}
        rows.append(pd.DataFrame({**columns, **counts, **ranking.used, "ranker": ranking.ranker}))
    columns = ["task", "user", "item", "score", *COUNTS, "failure", "attempts", *runner.USAGE, "ranker"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
