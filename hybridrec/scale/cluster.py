"""Ray: started, and given work that falls into independent parts."""

import functools
import importlib
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybridrec import progress
from hybridrec.errors import HybridrecError, ScaleError

Work = Callable[[Any], Any]


def needed(package: str, extra: str) -> Any:
    """A package of an extra.

    Raises:
        ScaleError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ScaleError(f"{error.name} is not installed: pip install 'hybridrec[{extra}]'.") from None


def start(
    address: str | None = None,
    *,
    cpus: int | None = None,
    object_store_mib: int = 512,
    folder: str | Path | None = None,
) -> None:
    """Connect to a cluster, or start Ray on this machine. Where Ray runs in this process already, nothing happens.

    Every step calls it without arguments, so it is needed for other settings only. Neither a dashboard nor Ray's own
    progress is shown: ``hybridrec.progress`` tells how many parts are done.

    Args:
        address: of the cluster, such as "auto" (the one this machine belongs to) or "ray://head:10001"; None: no
            cluster, all of this machine's cores or ``cpus`` of them.
        cpus: how many cores to use; None: all. Not with an address.
        object_store_mib: memory for Ray's objects, in MiB. The steps pass tables through files, so that little is
            needed. Not with an address.
        folder: where Ray keeps its sockets and logs (a short path: sockets have names of 107 bytes at most). Not with
            an address.

    Raises:
        ScaleError: Ray is not installed, or no cluster is reached.
    """
    ray = needed("ray", "ray")
    needed("ray.data", "ray")
    if not ray.is_initialized():
        given: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            given |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
            given |= {"object_store_memory": object_store_mib * 2**20, "_temp_dir": str(folder) if folder else None}
        try:
            ray.init(**given)
        except (ConnectionError, OSError, ValueError) as error:
            raise ScaleError(
                f"no Ray at {address or 'this machine'} ({error}). Check the address and that it runs."
            ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def each(
    work: Callable[..., Any],
    parts: Sequence[Any],
    what: str,
    *,
    actors: int = 0,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[Any]:
    """What ``work`` returns of every part, as they are done.

    A part whose process or machine dies is done again: ``work`` must come to the same, or find what it wrote. An error
    of this library in a part is raised here: at once, or with ``actors`` after all parts have returned, so that none is
    cut off.

    Args:
        work: a function of a part; with ``actors`` a function without arguments that makes one, called once an actor.
        parts: anything that can be pickled.
        what: the name of the progress bar.
        actors: how many processes keep what they have loaded, such as a model; 0: none has anything to keep.
        cpus, gpus: how much of them each process takes, such as a quarter of a GPU.

    Raises:
        The error of a part. ScaleError: Ray has given up.
    """
    start()
    import ray.data
    import ray.exceptions

    rows = ray.data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts) or 1)
    how: dict[str, Any] = {"batch_size": None, "batch_format": "numpy", "num_cpus": cpus}
    if gpus:
        how["num_gpus"] = gpus
    if actors:
        pool = ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1)
        done = rows.map_batches(_Actor, fn_constructor_args=(work,), compute=pool, **how)
    else:
        done = rows.map_batches(functools.partial(_returned, work), **how)
    error: HybridrecError | None = None
    try:
        with progress.bar(total=len(parts), what=what) as bar:
            for batch in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0) if parts else []:
                for found in map(pickle.loads, batch["found"]):
                    bar.update(1)
                    if isinstance(found, HybridrecError):
                        error = error or found
                        if not actors:
                            raise error
                    else:
                        yield found
    except ray.exceptions.RayError as gone:
        cause = str(gone).strip().splitlines()[-1]
        raise ScaleError(f"{what}: Ray gave up ({cause}). What was recorded is kept: run again.") from gone
    if error:
        raise error


def _returned(work: Work, batch: dict[str, Any]) -> dict[str, Any]:
    """What comes of the parts of a batch, pickled: Arrow would change types that it does not know."""
    found = []
    for part in batch["part"]:
        try:
            result = work(pickle.loads(part))
        except HybridrecError as error:
            result = error
        found.append(pickle.dumps(result))
    return {"found": np.array(found, dtype=object)}


class _Actor:
    """A process that keeps what it has loaded from part to part."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return _returned(self.work, batch)
