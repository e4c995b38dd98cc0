"""Where things live. Getters make no folder. Every path is built here, from the repository's root."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
EXPERIMENTS = NOTEBOOKS / "experiments"
RAW = ROOT / "data" / "raw"
MODELS = ROOT / "data" / "models"
CACHE = ROOT / "data" / "cache"
# HYBRIDREC_RECORDINGS: a test that asks a model for real keeps the answers elsewhere.
RECORDINGS = Path(os.environ.get("HYBRIDREC_RECORDINGS", ROOT / "data" / "recordings"))
ADAPTERS = ROOT / "data" / "adapters"
BATCHES = ROOT / "data" / "batches"
RESULTS = ROOT / "results"
PRICES = ROOT / "data" / "prices.toml"
PUBLISHED = ROOT / "data" / "published_table2.csv"


def data_folders() -> list[Path]:
    """Folders searched for data before anything is fetched: the user's own (HYBRIDREC_DATA) first."""
    given = os.environ.get("HYBRIDREC_DATA")
    return [Path(given).expanduser(), RAW] if given else [RAW]


def _output() -> Path | None:
    """Scratch root that replaces data/tables and results, so that a test run leaves committed results alone.

    It may be given from the repository's root on: a notebook's kernel stands in another folder than ``make`` does.
    """
    scratch = os.environ.get("HYBRIDREC_SCRATCH")
    return ROOT / scratch if scratch else None


def tables(experiment: str) -> Path:
    """Folder of the parquet tables that the notebooks hand to each other (never committed: they hold ratings)."""
    return (_output() or ROOT / "data") / "tables" / experiment


def results(experiment: str) -> Path:
    """Folder of what is committed: tables (.csv), figures (.png, .svg), metrics.json."""
    return (_output() or ROOT) / "results" / experiment


def work(experiment: str) -> Path:
    """Folder of what runs keep for themselves (never committed): locks, journals, the notebook under way."""
    return (_output() or ROOT) / ".stamps" / experiment


def fingerprint(experiment: str) -> Path:
    """The committed fingerprint of an experiment's fits; scratch runs are compared with it, too."""
    return ROOT / "data" / "fits" / f"{experiment}.csv"


def within_root(path: Path) -> str:
    """A path as shown to readers: relative to the repository, so that no machine's folders are printed."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
