"""Ways to ask a language model for a ranking: the five of the study, and one's own from a TOML file."""

import string
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hybridrec import files
from hybridrec.errors import SettingError
from hybridrec.files import shown
from hybridrec.settings import check_name, is_number

KINDS = ("generate", "score", "choose", "rate")
_OF_THE_USER = {"history_text", "history", "rated", "graded", "liked", "disliked", "example", "others"}
GRADES = tuple("0123456789")
_IN_TEXT = {*_OF_THE_USER, "count", "noun", "candidates"}
_IN_QUESTION = {"title", "facts", "noun"}


@dataclass(frozen=True)
class Mode:
    """A way to ask for a ranking: the template of the request, and what the model does with the candidates.

    The kind of request decides how the answer is read, and what a candidate's score is:

    - "generate": the model writes the candidates in order; the score is the place from the end. It writes their
      titles, or their labels (C1, C2, ...) with ``labels``.
    - "score": each candidate's title is a continuation of the text; the score is its log-likelihood per token. A
      prior (the log-likelihood without a history) can be subtracted before the division.
    - "choose": a question is put about each candidate; the score is log P(first choice) - log P(second choice).
    - "rate": a list of titles with grades goes on with a line for each candidate; the score is the grade that is
      expected there, the mean of the digits 0 to 9 with their probabilities. Nobody is spoken to: the text stands
      without a chat template. Only a model that was taught such lists (``llm.teach``) can be expected to go on with it.

    Args:
        name: what rankings of this mode are called.
        kind: "generate", "score", "choose" or "rate".
        text: what the model is shown. {history_text} becomes an introduction and the titles the user rated, one a
            line; {history} only those lines; {rated} the same with the user's rating after each title; {graded}
            with the rating's grade, 0 to 9 (``prompts.grade``); {liked} and
            {disliked} those that the user liked and the rest; {example} the first title alone and {others} the lines
            after it; {count} the number of titles; {noun} the word for an item; {candidates} the candidates, one a
            line (needed by "generate", refused by the others: a score must not depend on what other candidates there
            are).
        question: for "choose" and "rate": what follows the text for each candidate, with {title}; {facts} becomes
            genres, mean rating and number of ratings.
        labels: for "generate": whether the model answers with labels.
        choices: for "choose": the two answers offered; for "rate" always the ten digits. Their first tokens are
            compared.
        floor: for "choose" and "rate": the least probability of all choices together, as a mean over a user's
            candidates, at which what is said of them is an answer. Below it the model would say something else, and the
            user has no answer.

    Raises:
        SettingError: a value that does not fit (names the key).
    """

    name: str
    kind: str
    text: str
    question: str = ""
    labels: bool = False
    choices: tuple[str, ...] = ("Yes", "No")
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"kind is {self.kind!r}; it must be {', '.join(KINDS)}.")
        _check_type("labels", self.labels, bool, "true or false")
        check_name("name", _check_type("name", self.name, str, "text"))
        in_text = _placeholders("text", self.text, _IN_TEXT)
        in_question = _placeholders("question", self.question, _IN_QUESTION)
        if self.writes != ("candidates" in in_text):
            what = "lacks {candidates}, which" if self.writes else "has {candidates}, which only"
            raise SettingError(f'text {what} a mode of kind "generate" needs.')
        if self.asks != ("title" in in_question) or (self.question and not self.asks):
            what = "lacks {title}, which" if self.asks else "is given, which only"
            raise SettingError(f'question {what} a mode of kind "choose" or "rate" needs.')
        if self.labels and not self.writes:
            raise SettingError('labels is true, which only a mode of kind "generate" can have.')
        if self.kind == "rate":
            object.__setattr__(self, "choices", GRADES)
            self._check_floor()
            return
        words = self.choices if isinstance(self.choices, list | tuple) else ()
        if len(words) != 2 or not all(isinstance(word, str) and word.strip() for word in words) or words[0] == words[1]:
            raise SettingError(f"choices is {self.choices!r}; it must be two different words.")
        object.__setattr__(self, "choices", tuple(words))
        self._check_floor()

    def _check_floor(self) -> None:
        if not is_number(self.floor, float, 0.0, 1.0):
            raise SettingError(f"floor is {self.floor!r}; it must be a number from 0 to 1.")

    @property
    def writes(self) -> bool:
        """Whether the model writes an order of all candidates; otherwise each candidate is scored by itself."""
        return self.kind == "generate"

    @property
    def asks(self) -> bool:
        """Whether a question is put about each candidate, and the probabilities of its choices are wanted."""
        return self.kind in ("choose", "rate")

    @property
    def grades(self) -> bool:
        """Whether the choices are grades, so that the score is the one expected."""
        return self.kind == "rate"

    @property
    def uses_facts(self) -> bool:
        """Whether the model is shown facts of the items: genres, mean rating and number of ratings."""
        return "facts" in _placeholders("question", self.question, _IN_QUESTION)

    @property
    def uses_likes(self) -> bool:
        """Whether the model is told which items of the history the user liked."""
        return bool(_placeholders("text", self.text, _IN_TEXT) & {"liked", "disliked"})


def get(mode: "Mode | str | Path") -> Mode:
    """A mode by name, or from the TOML file of that path (which ends in .toml); a Mode is returned as it is.

    Raises:
        SettingError: an unknown name (lists the known ones), or a file that cannot be used (names file and key).
    """
    if isinstance(mode, Mode):
        return mode
    if mode in _MODES:
        return _MODES[mode]
    if str(mode).endswith(".toml"):
        return _read((files.base or Path()) / mode)
    raise SettingError(
        f"unknown mode {mode!r}. Known: {', '.join((*BUILT_IN, *VARIANTS, *TAUGHT))}, or the path of a TOML file of "
        "your own."
    )


def _read(path: Path) -> Mode:
    """A mode from a file that holds the fields of ``Mode`` as keys: name, kind and text, and what else is wanted."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        mode = _made(values)
        if mode.name in _MODES:
            raise SettingError(f"name is {mode.name!r}, which is a mode of this library: choose another.")
        if not _placeholders("text", mode.text, _IN_TEXT) & _OF_THE_USER:
            raise SettingError("text lacks {history_text} (or {history}), so every user would be asked the same.")
    except OSError as error:
        raise SettingError(f"{shown(path)}: {error.strerror}. A mode of your own is a TOML file.") from None
    except ValueError as error:  # a SettingError, or no TOML
        raise SettingError(f"{shown(path)}: {error}") from None
    return mode


def _made(values: dict[str, Any]) -> Mode:
    known = [one.name for one in fields(Mode)]
    for key in values:
        if key not in known:
            raise SettingError(f"unknown key {key!r}. Known: {', '.join(known)}.")
    for key in ("name", "kind", "text"):
        if key not in values:
            raise SettingError(f"missing key {key!r}.")
    return Mode(**values)


def _check_type(key: str, value: Any, kind: type, called: str) -> Any:
    if not isinstance(value, kind):
        raise SettingError(f"{key} is {value!r}; it must be {called}.")
    return value


def _placeholders(key: str, text: Any, allowed: set[str]) -> set[str]:
    """The names in braces in a template."""
    try:
        parts = list(string.Formatter().parse(_check_type(key, text, str, "text")))
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"{key} has a brace that does not close or open ({error}); double it to show one.") from None
    for _, name, form, conversion in parts:
        if name is not None and (name not in allowed or form or conversion):
            raise SettingError(f"{key} has {{{name}}}, which is none of {', '.join(sorted(allowed))}.")
    return {name for _, name, _, _ in parts if name}


_TEMPLATES = tomllib.loads((Path(__file__).parent / "templates.toml").read_text(encoding="utf-8"))
HISTORY: str = _TEMPLATES.pop("history")["text"].strip()
_VARIANTS = _TEMPLATES.pop("variants")
_MODES = {name: _made({"name": name, **values}) for name, values in (_TEMPLATES | _VARIANTS).items()}
TAUGHT = ("rating-lines",)  # only for a model that was taught to be asked so
BUILT_IN = tuple(name for name in _TEMPLATES if name not in ("prior", *TAUGHT))  # the prior ranks nobody
VARIANTS = tuple(_VARIANTS)  # other wordings of "likelihood", to be compared with it (llm.ways)
