"""A language model as a ranker: what ranking users' candidates would cost, and the rankings."""

from collections.abc import Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from hybridrec import files, schema
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError
from hybridrec.llm import modes, rankers
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.runner import Model
from hybridrec.llm.tasks import Task, build_tasks

Users: TypeAlias = Iterable[Hashable] | pd.DataFrame | None
_CHARACTERS_PER_TOKEN = 4


class Ranker:
    """Ranks each user's candidates by asking a language model.

    The model is shown titles the user rated, in decreasing order of rating (the newest first among equals; by chance in
    a mode of kind "rate", as it was taught), and asked about the candidates in the way that ``mode`` says.

    Args:
        llm: an open model (``HuggingFace``) or one behind an endpoint (``Endpoint``).
        mode: a way to ask: a ``Mode``, a name of ``modes.BUILT_IN`` or ``modes.TAUGHT``, or the path of a TOML file
            with one's own.
        cache: file in which answers are kept: what is there is not asked again. One process at a time ranks with it,
            others wait. None: kept in memory only.
        noun: what prompts call an item, such as "film".
        history_length: how many rated items the model is shown.
        scale: the highest rating there can be; modes with facts name it beside an item's mean rating.
        seed: root of the random order in which candidates follow that a written answer left out.

    Raises:
        SettingError: an unknown mode, or a file of one that cannot be used.

    Source: Kaur & Shah 2024, section 3.2 (mode "listwise"); the others are this library's.
    """

    def __init__(
        self,
        llm: Model,
        mode: Mode | str | Path = "likelihood",
        cache: str | Path | None = None,
        *,
        noun: str = "item",
        history_length: int = 20,
        scale: int = 5,
        seed: int = 0,
    ) -> None:
        self.llm, self.mode, self.noun = llm, modes.get(mode), noun
        self.history_length, self.scale, self.seed = history_length, scale, seed
        self.recordings = Recordings(Path(cache) if cache is not None else None)

    def estimate(
        self,
        data: Dataset,
        candidates: pd.DataFrame | str | Path,
        users: Users = None,
        item_ratings: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """What ranking would cost, before anything is asked; what is in the cache already is counted, too.

        Tokens are counted with the model's own tokenizer where it is on this machine, else as four characters each.
        Of a mode that writes, completion_tokens is what a complete answer takes at most. Asking again after an answer
        that cannot be used is not counted.

        Args:
            data, candidates, users, item_ratings: as in ``rank``.

        Returns:
            One row a user: user, requests, prompt_tokens, completion_tokens, usd (US dollars, by the model's price).

        Raises:
            DatasetError: as in ``rank``.
        """
        rows = [self._cost(task) for task in self._tasks(data, candidates, users, item_ratings)]
        return pd.DataFrame(rows, columns=["user", "requests", "prompt_tokens", "completion_tokens", "usd"])

    def rank(
        self,
        data: Dataset,
        candidates: pd.DataFrame | str | Path,
        users: Users = None,
        item_ratings: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Rank users' candidates.

        Args:
            data: the ratings the model may see, and the items with their titles.
            candidates: user, item, and position if they are not to be shown in the order of the rows; a table, or the
                path of a .csv or .parquet file.
            users: whom to rank for: ids, or a table with a column user. None: everybody who has candidates.
            item_ratings: all known ratings of each item (``evaluation.controls.ratings_of_items``), where ``data``
                holds those of some users only: modes with facts tell of all.

        Returns:
            One row a candidate: user, item, score (higher is better), ranker (the mode's name), and of the user's
            whole answer, on each of their rows: how many items were invalid (no candidates), duplicates and missing;
            failure ("" or why the answer could not be used: the order is then random); ended_by (who ended a written
            answer); answered (how probable the two choices are together, of a mode that offers some); attempts,
            prompt_tokens, cached_tokens, completion_tokens and seconds. Users in the order of their ids.

        Raises:
            DatasetError: a column is missing; a user without candidates or without ratings; a candidate that is not
                among the items, or is listed twice (names the user). Nobody is left out silently.
            RecordingError, ResponseError, EndpointError, SpendingCapError: as ``runner.ask``.
        """
        attempts = getattr(getattr(self.llm, "endpoint", None), "attempts", 1)
        how: dict[str, Any] = {"noun": self.noun, "seed": self.seed, "attempts": attempts}
        tasks = self._tasks(data, candidates, users, item_ratings)
        with self._alone():
            return rankers.table(rankers.rank(tasks, self.mode, self.llm, self.recordings, **how))

    def _alone(self) -> AbstractContextManager[None]:
        """One process at a time asks into a cache: the next one finds the answers there, and pays for none twice."""
        path = self.recordings.path
        if path is None:
            return nullcontext()
        return files.lock(path.with_name(f"{path.name}.lock"), f"ranking with the answers in {files.shown(path)}")

    def _tasks(
        self, data: Dataset, candidates: pd.DataFrame | str | Path, users: Users, item_ratings: pd.DataFrame | None
    ) -> list[Task]:
        table = schema.read(candidates, ["user", "item"], "candidates")
        if "position" not in table:
            table = table.assign(position=range(len(table)))
        if isinstance(users, str):
            raise DatasetError(f"users is the text {users!r}; give a list of ids, such as [{users!r}], or a table.")
        if isinstance(users, pd.DataFrame):
            users = schema.read(users, ["user"], "users")["user"]
        wanted = pd.unique(table["user"] if users is None else pd.Series(list(users)))
        shown = "mixed" if self.mode.grades else "best"
        how = (self.history_length, self.scale, shown, data.like, item_ratings)
        return build_tasks(wanted, data.interactions, table, data.items, *how)

    def _cost(self, task: Task) -> dict[str, Any]:
        usage = expected_usage(self.llm, rankers.request_of(task, self.mode, self.noun).request)
        return {"user": task.user, "requests": 1, **usage, "usd": self.llm.usd(usage)}


def expected_usage(llm: Any, request: dict[str, Any], exact: bool = True) -> dict[str, float]:
    """What a request will use, by the names of ``runner.USAGE``; completion_tokens is what a complete answer takes.

    Args:
        llm: the model; its own tokenizer counts, if it has a method ``count``.
        request: what is asked.
        exact: False: take four characters as a token all the same.
    """
    if exact and hasattr(llm, "count"):
        prompt, completion = llm.count(request)
    else:
        writes, listed = request["kind"] == "generate", sum(map(len, request["candidates"]))
        # An endpoint that scores is sent the user's prompt with each candidate.
        times = 1 if writes or not hasattr(llm, "endpoint") else len(request["candidates"])
        shown = times * len(request["instruction"]) + (0 if writes else listed)
        # A written answer has a line for each candidate: its title, a list mark and the line's end.
        written = listed + 4 * len(request["candidates"]) if writes else 0
        prompt, completion = (-(-size // _CHARACTERS_PER_TOKEN) for size in (shown, written))
    return {"prompt_tokens": prompt, "cached_tokens": 0, "completion_tokens": completion, "seconds": 0.0}
