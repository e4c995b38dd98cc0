"""Ways to ask a language model for a ranking."""

from dataclasses import dataclass
from pathlib import Path

from hybridrec.errors import SettingError
from hybridrec.llm.prompts import MODES as BUILT_IN
from hybridrec.llm.prompts import WRITTEN


@dataclass(frozen=True)
class Mode:
    """A way to ask."""

    name: str

    @property
    def writes(self) -> bool:
        """Whether the model writes an order of all candidates; otherwise each candidate is scored by itself."""
        return self.name in WRITTEN

    @property
    def uses_facts(self) -> bool:
        """Whether the model is shown facts of the items: genres, mean rating and number of ratings."""
        return self.name == "pointwise-facts"


def get(mode: Mode | str | Path) -> Mode:
    """A mode by name.

    Raises:
        SettingError: an unknown name (lists the known ones).
    """
    if isinstance(mode, Mode):
        return mode
    if mode in BUILT_IN:
        return Mode(str(mode))
    raise SettingError(f"unknown mode {mode!r}. Known: {', '.join(BUILT_IN)}, or the path of a TOML file of your own.")
