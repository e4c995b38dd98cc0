"""One fit of a recommender: what it takes, what it gives, and where it is kept.

Fits are independent of each other, so they run in worker processes; each is cached by the hash of all that it depends
on. Every fit is single-threaded and seeded, so the scores do not depend on how many cores there are. They are rounded
to declared decimals: what is cut off differs from processor to processor, and would decide between items that the
recommender cannot tell apart. That, and float64 in the neural fits, is all it takes: switches that hold torch, MKL
and NumPy to few instructions, as they stood here before, change no rounded score (tests/test_cornac_models.py).
"""

import functools
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hybridrec import files, progress
from hybridrec.data import splits
from hybridrec.errors import RecommenderError
from hybridrec.files import shown
from hybridrec.machine import cores
from hybridrec.recommenders.recipes import RECIPES, Recipe, recipe

if TYPE_CHECKING:
    from hybridrec.recommenders.cornac_models import Score


# A user's scores by id: of the whole catalogue, or of the items at the given places in it.
ScoreById = Callable[[Any, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Fit:
    """One piece of work: fit a recommender on ``train``, score ``pairs``, and retrieve for the users in them.

    ``users`` and ``items`` are all ids of the study as ``sorted_ids`` gives them, whole numbers or text.
    ``top`` is how many items are retrieved for each of these users: those of the whole catalogue with the highest
    scores that are not in ``seen`` (user, item), which must be given then. 0: none.
    """

    recommender: str
    params: dict[str, Any]
    train: pd.DataFrame
    pairs: pd.DataFrame
    users: np.ndarray
    items: np.ndarray
    seed: int
    top: int = 0
    seen: pd.DataFrame | None = None

    def key(self) -> str:
        """SHA-256 of everything the scores depend on."""
        one = recipe(self.recommender)
        settings = [self.recommender, one.cornac_class, one.feedback, one.fixed, one.decimals, self.params]
        tables = [splits.fingerprint(self.train), splits.fingerprint(self.pairs)]
        catalogue = [splits.fingerprint(pd.DataFrame({"id": ids})) for ids in (self.users, self.items)]
        versions = [*map(version, ("cornac", "numpy", "scipy")), version("torch").split("+")[0], _code()]
        retrieval = [self.top, splits.fingerprint(self.seen)] if self.seen is not None else []
        text = json.dumps([settings, self.seed, tables, catalogue, *versions, *retrieval])
        return hashlib.sha256(text.encode()).hexdigest()


def sorted_ids(values: Iterable) -> np.ndarray:
    """Distinct ids, sorted. Text is NumPy's own kind of text, which needs no pickle in a file."""
    return np.unique(np.array(pd.unique(pd.Series(values)).tolist()))


@functools.cache
def _code() -> str:
    """A hash of the code that fits and scores: an earlier version's fit is no fit of this one."""
    files = (Path(__file__), Path(__file__).with_name("cornac_models.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


# --- one fit --------------------------------------------------------------------------------------------------------


def fit_and_score(work: Fit) -> dict[str, np.ndarray]:
    """Fit, then score and retrieve.

    Returns:
        "scores" of ``work.pairs``, in their order, and the "seconds" it took; with ``work.top`` also "users" (those in
        the pairs, sorted), "items" and "item_scores", both of shape (users, top), the best first.

    Raises:
        RecommenderError: a score that is not finite (names the recommender and a user).
    """
    from hybridrec.recommenders import cornac_models

    start, chosen = time.perf_counter(), recipe(work.recommender)
    with _one_thread(), cornac_models.in_double(), warnings.catch_warnings():
        # A user with one rating has none where that one is held out: Cornac's KNNs take the mean of nothing.
        warnings.filterwarnings("ignore", "Mean of empty slice|invalid value", RuntimeWarning)
        model = cornac_models.build(chosen.cornac_class, work.seed, **chosen.fixed, **work.params)
        model.fit(cornac_models.dataset(work.train, work.users, work.items, work.seed))
        score = _checked(cornac_models.scorer(model), work)
        found = {"scores": _score_pairs(score, work)} | ({} if work.seen is None else _retrieve(score, work, work.seen))
    return found | {"seconds": np.array(time.perf_counter() - start)}


def _checked(score: "Score", work: Fit) -> ScoreById:
    """The scores of users by their ids, finite and rounded."""
    decimals, users = recipe(work.recommender).decimals, pd.Index(work.users)

    def checked(user: Any, places: np.ndarray | None) -> np.ndarray:
        scores = score(users.get_loc(user), places)
        if not np.isfinite(scores).all():
            raise RecommenderError(
                f"{work.recommender} {work.params} gave user {user} a score that is not finite. Try another value of "
                "its parameter (grids in the experiment's file), or leave this recommender out."
            )
        return scores.round(decimals) + 0.0  # the zero of rounding has a sign, and a hash would see it

    return checked


def _score_pairs(score: ScoreById, work: Fit) -> np.ndarray:
    scores = np.empty(len(work.pairs))
    places = pd.Index(work.items).get_indexer(work.pairs["item"])
    for user, rows in work.pairs.groupby("user").indices.items():
        scores[rows] = score(user, places[rows])
    return scores


def _retrieve(score: ScoreById, work: Fit, known: pd.DataFrame) -> dict[str, np.ndarray]:
    """The ``top`` unseen items of each user; items of the same score come in a random order, the same for all users."""
    users, catalogue = sorted_ids(work.pairs["user"]), pd.Index(work.items)
    seen = {user: catalogue.get_indexer(items) for user, items in known.groupby("user")["item"]}
    order = np.random.default_rng(work.seed).permutation(len(work.items))
    top = min(work.top, len(work.items))
    items, kept = (np.empty((len(users), top), dtype=kind) for kind in (work.items.dtype, float))
    for row, user in enumerate(users):
        scores = score(user, None)
        scores[seen.get(user, [])] = -np.inf
        best = order[np.argsort(-scores[order], kind="stable")[:top]]
        items[row], kept[row] = work.items[best], scores[best]
    return {"users": users, "items": items, "item_scores": kept}


# --- many fits ------------------------------------------------------------------------------------------------------


def run(
    fits: Sequence[Fit], cache: Path | None = None, what: str = "fits", count: bool = True, workers: int | None = None
) -> list[dict[str, np.ndarray]]:
    """What every fit came to, from the cache where it was done before, with a progress bar over the others.

    Args:
        fits: the work.
        cache: the folder where fits are kept; None: they are not.
        what: the name of the progress bar.
        count: whether they count among what a run computed or found; not where they are looked up once more.
        workers: processes that fit at the same time; None: as many as there are cores.

    Warns:
        UserWarning: a cached fit is damaged (names the file); it is done again.
    """
    if cache is None:
        with tempfile.TemporaryDirectory() as scratch:
            return run(fits, Path(scratch), what, count, workers)
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"fit-{work.key()}.npz" for work in fits]
    known = {file: found for work, file in zip(fits, files, strict=True) if (found := _load(file, work))}
    todo = {file: work for work, file in zip(fits, files, strict=True) if file not in known}
    if count:
        progress.count("fits", computed=len(todo), cached=len(fits) - len(todo))
    if todo:
        _compute([(work, file) for file, work in todo.items()], what, workers or cores())
        known |= {file: found for file, work in todo.items() if (found := _load(file, work))}
    return [known[file] for file in files]


def _load(file: Path, work: Fit) -> dict[str, np.ndarray] | None:
    """A fit from the cache; None where it is not there, or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
        whole = _is_whole(found, work)
    except FileNotFoundError:
        return None
    except Exception:  # a bit that was flipped can make zipfile and NumPy raise anything
        whole = False
    if not whole:
        warnings.warn(f"{shown(file)} is damaged: this fit is done again.", stacklevel=2)
        return None
    return found


def _is_whole(found: dict[str, np.ndarray], work: Fit) -> bool:
    """Whether every array that ``fit_and_score`` returns is there, of its kind and shape, with numbers in it."""
    shapes = {"scores": (len(work.pairs),), "seconds": ()}
    if work.top:
        users = work.pairs["user"].nunique()
        lists = (users, min(work.top, len(work.items)))
        shapes |= {"users": (users,), "items": lists, "item_scores": lists}
    ids = {"users": work.users, "items": work.items}
    for name, shape in shapes.items():
        kind = ids[name].dtype.kind if name in ids else "f"
        if found[name].shape != shape or found[name].dtype.kind != kind:
            return False
        if kind == "f":  # whoever has seen nearly all has -inf among "item_scores"
            broken = np.isnan(found[name]) if name == "item_scores" else ~np.isfinite(found[name])
            if broken.any():
                return False
    return True


def _compute(todo: list[tuple[Fit, Path]], what: str, workers: int) -> None:
    """Fit, slowest first, each result on disk as soon as it is there; in this process where there is one worker."""
    todo = sorted(todo, key=lambda pair: -recipe(pair[0].recommender).slowness)
    if workers == 1:
        for work, file in progress.bar(todo, what=what):
            _keep(file, work, fit_and_score(work))
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_know, initargs=(RECIPES,)) as pool:
        jobs = [(pool.submit(fit_and_score, work), work, file) for work, file in todo]
        for job, work, file in progress.bar(jobs, what=what):
            _keep(file, work, job.result())


def _know(recipes: dict[str, Recipe]) -> None:
    """Tell a worker process of recipes that a program has added to those of the module."""
    RECIPES.update(recipes)


def _keep(file: Path, work: Fit, found: dict[str, np.ndarray]) -> None:
    try:
        with files.replacing(file) as partial:
            np.savez(partial, allow_pickle=False, recommender=np.array(work.recommender), **found)
    except OSError as error:
        raise RecommenderError(
            f"the fit of {work.recommender} cannot be kept in {shown(file.parent)} ({error.strerror}). "
            "Free some space, or make the folder writable, and run again: what was fitted before is kept."
        ) from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for all numerical libraries: fits run beside each other, and their scores are the same everywhere."""
    import torch
    from threadpoolctl import threadpool_limits

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(usual)
