"""The language models of this repository's experiments, and where their answers are recorded."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridrec.errors import RecordingError, SettingError
from hybridrec.evaluation.prices import read_prices
from hybridrec.llm import runner
from hybridrec.llm.models.settings import LocalSettings
from hybridrec.llm.recordings import Recordings, remove
from hybridrec.study import config, paths

if TYPE_CHECKING:
    from hybridrec.llm.models.local import HuggingFace


def policy() -> str:
    """HYBRIDREC_LLM. auto: replay and run what has no recording. replay: a miss is an error. live: run all again."""
    given = os.environ.get("HYBRIDREC_LLM", "auto")
    if given not in ("auto", "replay", "live"):
        raise SettingError(f"HYBRIDREC_LLM is {given!r}; it must be auto, replay or live.")
    return given


def open_model(
    name: str, endpoint: Mapping[str, Any] | None = None, loaded: Mapping[str, Any] | None = None
) -> runner.Model:
    """The model of an experiment: behind its endpoint if it names one, else on this machine.

    Nothing is loaded, no key is read and no connection is made until something has to be asked.

    Args:
        name: the model's name.
        endpoint: the keys of EndpointSettings, as a notebook gets them.
        loaded: the keys of LocalSettings, likewise.

    Raises:
        ModelError, PriceError: an unknown local model; a model behind an endpoint without a price.
    """
    if endpoint is None:
        return local(name, **(loaded or {}))
    from hybridrec.llm.models.endpoint import Endpoint

    return Endpoint(name, price=read_prices(paths.PRICES).of_endpoint(name), **endpoint)


def open_larger(one: Mapping[str, Any], loaded: Mapping[str, Any] | None = None) -> "HuggingFace":
    """A larger model of an experiment: of the first one's dtype and on its device, unless it says otherwise.

    Args:
        one: a table ``[[larger_models]]``, as a notebook gets it.
        loaded: the keys of LocalSettings of the first model; None where that is behind an endpoint, too.
    """
    own = {key: one[key] for key in LocalSettings.model_fields if one.get(key) is not None}
    return local(one["model"], **{**(loaded or {}), "revision": None, "adapter": None, **own})


_TAUGHT = " taught on "


def taught_name(model: str, experiment: str) -> str:
    """What a model is called that was taught on an experiment's ratings (make teach)."""
    return f"{model}{_TAUGHT}{experiment}"


def untaught_name(model: str) -> str:
    """The model that was taught; any other model's own name."""
    return model.partition(_TAUGHT)[0]


def local(name: str, **loaded: Any) -> "HuggingFace":
    """An open model in this repository's folders; ``loaded`` has the keys of LocalSettings.

    "MODEL taught on EXPERIMENT" is a model with the adapter that ``make teach`` made of it.
    """
    from hybridrec.llm.models.local import HuggingFace  # torch: only who asks a local model waits for it

    if _TAUGHT in name:
        name, _, experiment = name.partition(_TAUGHT)
        loaded["adapter"] = str(paths.ADAPTERS / experiment / name)

    return HuggingFace(name, folder=paths.MODELS, search=paths.data_folders(), **loaded)


def check(settings: config.Experiment) -> list[str]:
    """Find out before anything is computed whether an experiment's models are to be had; fetches no weights.

    Returns:
        What is to be told of them, a line each.

    Raises:
        ModelError, PriceError: an unknown model, or one without a price (names it and the remedy).
    """
    plain = config.parameters(settings)
    here = [open_larger(one, plain["local"]) for one in plain["larger_models"]]
    if settings.endpoint is None:
        here.insert(0, local(settings.model, **(plain["local"] or {})))
    else:
        open_model(settings.model, plain["endpoint"])
    told = [line for one in here if (line := one.find())]
    if settings.taught:
        of = settings.taught.adapter_of or settings.name
        if (paths.ADAPTERS / of / settings.model / "card.json").is_file():
            local(taught_name(settings.model, of))  # an adapter that is not whole is told now
        else:
            told.append(f"{settings.model} is not taught yet, so notebook 07 is left out: make teach EXPERIMENT={of}.")
    return told


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
    """The database of a model's answers; of a model given by a path, the last part of it is the file's name.

    Two paths may end alike: their answers share a file, and have keys of their own.
    """
    is_path = model[:1] in ("/", "~", ".") or "\\" in model or model.lower().endswith(".gguf")
    name = re.split(r"[/\\]", model.rstrip("/\\"))[-1] if is_path else model.replace("/", "--")
    name = re.sub(r"[^\w.:@+-]", "_", name, flags=re.ASCII).lstrip(".-") or "model"
    return paths.RECORDINGS / dataset / f"{name[:200]}.sqlite"
