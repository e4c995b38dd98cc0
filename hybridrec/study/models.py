"""The language models of this repository's experiments, and where their answers are recorded."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridrec.errors import RecordingError, SettingError
from hybridrec.evaluation.prices import read_prices
from hybridrec.llm import runner
from hybridrec.llm.recordings import Recordings, remove
from hybridrec.study import paths

if TYPE_CHECKING:
    from hybridrec.llm.models.local import HuggingFace


def policy() -> str:
    """HYBRIDREC_LLM. auto: replay and run what has no recording. replay: a miss is an error. live: run all again."""
    given = os.environ.get("HYBRIDREC_LLM", "auto")
    if given not in ("auto", "replay", "live"):
        raise SettingError(f"HYBRIDREC_LLM is {given!r}; it must be auto, replay or live.")
    return given


def open_model(name: str, endpoint: Mapping[str, Any] | None = None) -> runner.Model:
    """The model of an experiment: behind its endpoint if it names one, else on this machine.

    Nothing is loaded, no key is read and no connection is made until something has to be asked.

    Args:
        name: the model's name.
        endpoint: the keys of EndpointSettings, as a notebook gets them.

    Raises:
        ModelError, PriceError: an unknown local model; a model behind an endpoint without a price.
    """
    if endpoint is None:
        return local(name)
    from hybridrec.llm.models.endpoint import Endpoint

    return Endpoint(name, price=read_prices(paths.PRICES).of_endpoint(name), **endpoint)


def local(name: str) -> "HuggingFace":
    """An open model in this repository's folders."""
    from hybridrec.llm.models.local import HuggingFace  # torch: only who asks a local model waits for it

    return HuggingFace(name, folder=paths.MODELS, search=paths.data_folders())


def recordings_for(dataset: str, model: str) -> Recordings:
    """What a model answered on a dataset; under HYBRIDREC_LLM=live a fresh file that replaces it when whole."""
    live = policy() == "live"
    return Recordings(_path(dataset, f"{model}.live" if live else model), replay_only=policy() == "replay")


def recorded(dataset: str, model: str) -> Recordings:
    """What a model answered on a dataset in earlier runs, to be read only."""
    return Recordings(_path(dataset, model), replay_only=True)


def keep_live_recordings(dataset: str, model: str) -> None:
    """After a complete live run: its answers take the place of those to the same requests; all others stay.

    Warns:
        UserWarning: what was recorded before is damaged; the live run's answers alone take its place.
    """
    fresh, path = Recordings(_path(dataset, f"{model}.live")), _path(dataset, model)
    if policy() != "live" or not len(fresh):
        return
    try:
        committed = Recordings(path)
    except RecordingError as error:
        warnings.warn(f"{error} Instead, the live run's answers take its place.", stacklevel=2)
        remove(path)
        committed = Recordings(path)
    committed.compact(fresh)


def _path(dataset: str, model: str) -> Path:
    return paths.RECORDINGS / dataset / f"{model.replace('/', '--')}.sqlite"
