"""Rankers made of a language model: from users' tasks to requests, recorded answers, and scores per candidate."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hybridrec import paths, progress
from hybridrec.llm import prompts
from hybridrec.llm.recordings import RecordingError, Recordings, request_key
from hybridrec.randomness import generator

RANKERS = ("listwise", "likelihood", "likelihood-prior", "pointwise", "pointwise-facts")
_GENERATED_TOGETHER = 16
_PRIOR_CHUNK = 64
_COUNTS = ["invalid", "duplicates", "missing"]
_USAGE = ["prompt_tokens", "cached_tokens", "completion_tokens", "seconds"]


@dataclass(frozen=True)
class Task:
    """One user's ranking task: the history shown, and the candidates in the order shown."""

    user: int
    history: tuple[prompts.Item, ...]
    candidates: tuple[int, ...]
    items: tuple[prompts.Item, ...]


@dataclass(frozen=True)
class Asked:
    """A request with its key and the user it was made for (None: it serves everybody)."""

    user: int | None
    request: dict[str, Any]
    key: str


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
    kind = "generate" if mode == "listwise" else "score"
    return {"kind": kind, "instruction": instruction, "candidates": [prompts.one_line(item.title) for item in items]}


def requests_for(mode: str, tasks: Sequence[Task], noun: str, model: str) -> list[Asked]:
    """One request a task."""
    made = [(task.user, build_request(mode, task.history, task.items, noun)) for task in tasks]
    return [Asked(user, request, request_key({"model": model, **request})) for user, request in made]


def prior_requests(items: pd.DataFrame, noun: str, model: str) -> list[Asked]:
    """The history-free prior of the whole catalogue, in chunks: one pass serves every user."""
    titles = [prompts.Item(title) for title in items.sort_values("item")["title"]]
    chunks = [titles[start : start + _PRIOR_CHUNK] for start in range(0, len(titles), _PRIOR_CHUNK)]
    made = [build_request("prior", [], chunk, noun) for chunk in chunks]
    return [Asked(None, request, request_key({"model": model, **request})) for request in made]


# --- answers --------------------------------------------------------------------------------------------------------


def recordings_for(dataset: str, model: str) -> Recordings:
    """What a model answered on a dataset; under HYBRIDREC_LLM=live a fresh file that replaces it when whole."""
    return Recordings(_live_path(dataset, model) if _policy() == "live" else _path(dataset, model))


def keep_live_recordings(dataset: str, model: str) -> None:
    """After a complete live run: put its recordings in the place of the committed ones."""
    if _policy() == "live" and _live_path(dataset, model).exists():
        _live_path(dataset, model).replace(_path(dataset, model))


def _path(dataset: str, model: str) -> Path:
    return paths.RECORDINGS / dataset / f"{model}.jsonl"


def _live_path(dataset: str, model: str) -> Path:
    return _path(dataset, model).with_suffix(".live.jsonl")


def _policy() -> str:
    """auto: replay and run what has no recording. replay: a miss is an error. live: run everything anew."""
    policy = os.environ.get("HYBRIDREC_LLM", "auto")
    if policy not in ("auto", "replay", "live"):
        raise ValueError(f"HYBRIDREC_LLM is {policy!r}; it must be auto, replay or live.")
    return policy


def answers(
    asked: Sequence[Asked], recordings: Recordings, load_model: Callable[[], Any], what: str = "requests"
) -> list[dict[str, Any]]:
    """The response to every request: replayed where it is recorded, otherwise computed and recorded at once.

    Args:
        asked: requests of one kind.
        recordings: where answers are kept; a killed run goes on where it was.
        load_model: called only if something has to be computed; returns an object with ``answer(requests)``.
        what: the name of the progress bar.

    Raises:
        RecordingError: under HYBRIDREC_LLM=replay, a request without a recording (names the user and the remedy).
    """
    todo = list({one.key: one for one in asked if one.key not in recordings}.values())
    if todo and _policy() == "replay":
        who = "everybody" if todo[0].user is None else f"user {todo[0].user}"
        raise RecordingError(
            f"no recording of {what} for {who} (and {len(todo) - 1} more) in "
            f"{paths.within_root(recordings.path)}. Run `make record`, or `make reproduce` to compute what is missing."
        )
    model = load_model() if todo else None
    with progress.bar(total=len(todo), what=what) as bar:
        for batch in _batches(todo):
            for one, response in zip(batch, model.answer([one.request for one in batch]), strict=True):
                recordings.append(one.key, response)
            bar.update(len(batch))
    return [recordings[one.key] for one in asked]


def _batches(todo: Sequence[Asked]) -> list[list[Asked]]:
    """Generated together by similar length (padding is wasted work); everything else one by one."""
    if not todo or todo[0].request["kind"] != "generate":
        return [[one] for one in todo]
    ordered = sorted(todo, key=lambda one: (len(one.request["candidates"]), len(one.request["instruction"])))
    return [ordered[start : start + _GENERATED_TOGETHER] for start in range(0, len(ordered), _GENERATED_TOGETHER)]


# --- scores ---------------------------------------------------------------------------------------------------------


def score_listwise(tasks: Sequence[Task], responses: Sequence[dict], seed: int) -> pd.DataFrame:
    """Scores that decrease along the parsed and repaired order, with each user's count of repairs."""
    frames = []
    for task, response in zip(tasks, responses, strict=True):
        parsed = prompts.parse_ranking(response["text"], [item.title for item in task.items])
        order = prompts.repair(parsed, len(task.items), generator(seed, "repair", task.user))
        scores = pd.Series(range(len(order), 0, -1), index=order, dtype=float).sort_index()
        counts = {name: getattr(parsed, name) for name in _COUNTS}
        frames.append(_frame(task, scores.to_numpy(), response).assign(**counts))
    return pd.concat(frames, ignore_index=True).assign(ranker="listwise")


def score_likelihood(
    tasks: Sequence[Task], responses: Sequence[dict], prior: "pd.Series | None" = None
) -> pd.DataFrame:
    """Log-likelihood per token of each title after the user's history; with ``prior`` (by item) subtracted first."""
    frames = []
    for task, response in zip(tasks, responses, strict=True):
        log_probs, lengths = pd.Series(response["log_probs"]), pd.Series(response["lengths"])
        expected = 0.0 if prior is None else prior.loc[list(task.candidates)].to_numpy()
        frames.append(_frame(task, ((log_probs - expected) / lengths).to_numpy(), response))
    return pd.concat(frames, ignore_index=True).assign(ranker="likelihood" if prior is None else "likelihood-prior")


def score_pointwise(tasks: Sequence[Task], responses: Sequence[dict], mode: str) -> pd.DataFrame:
    """log P(Yes) - log P(No) of each candidate."""
    frames = []
    for task, response in zip(tasks, responses, strict=True):
        scores = [yes - no for yes, no in response["log_probs"]]
        frames.append(_frame(task, scores, response))
    return pd.concat(frames, ignore_index=True).assign(ranker=mode)


def prior_of(items: pd.DataFrame, responses: Sequence[dict]) -> pd.Series:
    """History-free log-likelihood of every item, indexed by item."""
    values = [value for response in responses for value in response["log_probs"]]
    return pd.Series(values, index=items.sort_values("item")["item"].to_numpy())


def _frame(task: Task, scores: Any, response: dict) -> pd.DataFrame:
    """Rows of one user: candidates with scores, no repairs, and the usage of the request on each row."""
    columns = {"task": "test-items", "user": task.user, "item": task.candidates, "score": scores}
    usage = {name: response[name] for name in _USAGE}
    return pd.DataFrame({**columns, **dict.fromkeys(_COUNTS, 0), **usage})
