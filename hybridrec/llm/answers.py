"""A model's text, read as a ranking: whatever it says, the result is a permutation of the candidates or a failure.

An answer is only ever read as a choice among the candidates, so no text, and no title inside it, can add an item.
Reading is strict about *what* is named and lenient about *how*: numbered lists, JSON, one line with separators, prose
around a list, titles or labels.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hybridrec.llm.prompts import one_line

LIST_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,3}[.):]+)\s*")
YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
_WORD = re.compile(r"\w+")
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
# An answer may be hostile. None of these patterns may look twice at the same text, or a megabyte of it takes hours.
_SEPARATOR = re.compile(r"[>→;|,\t]")
_QUOTED = re.compile(r'"([^"\n]+)"|\*\*([^*\n]+)\*\*|“([^“”\n]+)”')
LABEL = re.compile(r"(?<![^\W_])[Cc](\d{1,4})(?![^\W_])")
_JSON_LIST = re.compile(r'\[\s*(?:\{\s*)?"')
_JSON_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)("(?:\s*+:)?)?', re.S)  # ends in ": if a key, in nothing if cut off
_REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able)|I (?:can(?:['’]t|not| not)|won['’]t)|as an AI)\b", re.I
)
REDACTED = "⟨history "  # how what was taken out of a recorded answer begins (redact.py)


@dataclass(frozen=True)
class ParsedRanking:
    """A text read as a ranking of ``n`` candidates.

    ``order`` holds candidate positions, best first, without repeats; ``invalid`` counts items named that are no
    candidates, ``duplicates`` candidates named again, ``missing`` those never named. ``failure`` says why there is
    nothing to repair ("empty", "refusal", "names no candidate"), and is "" when at least one candidate was named.
    """

    order: tuple[int, ...]
    invalid: int
    duplicates: int
    missing: int
    failure: str

    @property
    def repaired(self) -> bool:
        """Whether it is usable only because something was dropped or appended."""
        return not self.failure and bool(self.invalid or self.duplicates or self.missing)


# --- reading --------------------------------------------------------------------------------------------------------


def parse_ranking(
    text: str, titles: Sequence[str], labels: Sequence[str] = (), *, truncated: bool = False
) -> ParsedRanking:
    """Read a model's text as an order of the candidates.

    Args:
        text: the model's answer, whatever it says.
        titles: the candidates as shown, in the order shown.
        labels: the labels shown before them ("C1", ...), if any. An answer that holds labels is read by labels alone,
            so a title in it that looks like another item's label changes nothing.
        truncated: the answer was cut off, so an unreadable last item is not counted as invented.
    """
    named = list(_by_label(text, len(labels)) if labels else ()) or list(_by_title(text, titles))
    if truncated and named and named[-1] is None:
        named.pop()
    chosen = [position for position in named if position is not None]
    order = tuple(dict.fromkeys(chosen))
    invalid, duplicates = len(named) - len(chosen), len(chosen) - len(order)
    return ParsedRanking(order, invalid, duplicates, len(titles) - len(order), "" if order else _why_nothing(text))


def repair(parsed: ParsedRanking, n: int, rng: np.random.Generator) -> list[int]:
    """Complete an order: candidates the model left out follow in random order.

    Random, so that a repair adds no information: neither what the user liked nor how a recommender ranks. An answer
    that failed becomes a random order of all candidates; the caller should say so (``parsed.failure`` has the reason).

    Args:
        parsed: what ``parse_ranking`` made of the answer.
        n: how many candidates there are.
        rng: draws the order of what is missing.

    Returns:
        All positions from 0 to n - 1, best first.
    """
    missing = [position for position in range(n) if position not in parsed.order]
    return [*parsed.order, *(int(position) for position in rng.permutation(missing))]


def _why_nothing(text: str) -> str:
    if not text.strip():
        return "empty"
    return "refusal" if _REFUSAL.search(text) else "names no candidate"


def _by_label(text: str, n: int) -> Iterator[int | None]:
    """Positions of the labels in the text, None for a label that no candidate has.

    Titles were shown with anything like a label taken apart (prompts.py), so an echoed title holds none.
    """
    for number in LABEL.findall(text):
        yield int(number) - 1 if 1 <= int(number) <= n else None


def _by_title(text: str, titles: Sequence[str]) -> Iterator[int | None]:
    """Positions of the titles in the text, None for an item that is no candidate. Of two same titles the next free."""
    names = CandidateNames(titles)
    items = _json_items(text)
    if items:
        for item in items:
            yield names.whole(item)
        return
    lines = [line for line in text.splitlines() if title_key(LIST_MARK.sub("", line))]
    listed = any(LIST_MARK.match(line) for line in lines)
    for line in lines:
        found = names.in_line(line)
        if found:
            yield from found
        elif LIST_MARK.match(line) or not listed:
            yield None  # an item of the list that is no candidate; an unmarked line beside a marked list is prose


class CandidateNames:
    """Candidate positions by every accepted spelling; two candidates of one name are handed out one after the other."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._shown = [one_line(title) for title in titles]
        # A title that is another's without the year ("Sabrina" beside "Sabrina (1954)") is the only one of that name.
        self._positions = _by_key([YEAR.sub("", title) for title in self._shown]) | _by_key(self._shown)
        self._used: set[int] = set()
        # Inside a sentence only a title of two words or more is believed: "It" and "Kids" are words, too.
        long = [title for title in self._shown if len(_WORD.findall(title)) > 1]
        self._inside = re.compile(f"({REDACTED}\\d+⟩|{any_of(long)})", re.I) if long else None

    def whole(self, text: str) -> int | None:
        """The candidate that a text names as a whole: as it stands, then without one list mark, then without two."""
        if REDACTED in text:  # a candidate called "History 3" is not a title that was redacted
            return None
        once = LIST_MARK.sub("", text, count=1)
        for spelling in dict.fromkeys((text, once, LIST_MARK.sub("", once, count=1))):
            positions = self._positions.get(title_key(spelling))
            if positions:
                return self._next(positions, spelling.strip())
        return None

    def _next(self, positions: list[int], spelling: str) -> int:
        """Of candidates that share a name, the first not yet used; those that are spelled just so go before others."""
        same = [p for p in positions if self._shown[p] == spelling] or positions
        free = next((p for p in same if p not in self._used), same[0])
        self._used.add(free)
        return free

    def in_line(self, line: str) -> list[int]:
        """The candidates a line names: as a whole, else full titles inside it and what stands between them."""
        whole = self.whole(line)
        if whole is not None:
            return [whole]
        parts = self._inside.split(line) if self._inside else [line]
        found = [self._between(part) if n % 2 == 0 else [self.whole(part)] for n, part in enumerate(parts)]
        return [position for positions in found for position in positions if position is not None]

    def _between(self, text: str) -> list[int]:
        """The candidates that quoted pieces of a text name, else separated pieces."""
        quoted = ["".join(groups) for groups in _QUOTED.findall(text)]
        for pieces in (quoted, _SEPARATOR.split(text)):
            found = [position for position in map(self.whole, pieces) if position is not None]
            if found:
                return found
        return []


def _by_key(spellings: Sequence[str]) -> dict[str, list[int]]:
    """Positions of spellings by what they share with others; those without a letter or digit name nothing."""
    found: dict[str, list[int]] = {}
    for position, spelling in enumerate(spellings):
        found.setdefault(title_key(spelling), []).append(position)
    found.pop("", None)
    return found


def any_of(spellings: Iterable[str]) -> str:
    """A pattern of any of these between words, the longest that fits."""
    longest_first = sorted(spellings, key=len, reverse=True)
    return rf"(?<!\w)(?:{'|'.join(re.escape(spelling) for spelling in longest_first)})(?!\w)"


def title_key(text: str) -> str:
    """What two spellings of one title share: letters and digits, without case or accents."""
    # Character by character: sorting a long run of accents, which are dropped here anyway, takes quadratic time.
    plain = text if text.isascii() else "".join(unicodedata.normalize("NFKD", c) for c in text)
    return _NO_LETTER_OR_DIGIT.sub("", plain.casefold())


def _json_items(text: str) -> list[str]:
    """The strings of the first JSON list that has any, in order; of one that was cut off, those that are whole."""
    first = _JSON_LIST.search(text)
    starts = [first.start(), text.find('["')] if first else []
    return next(filter(None, (_items_from(text, start) for start in starts if start >= 0)), [])


def _items_from(text: str, start: int) -> list[str]:
    try:
        values, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        strings = _JSON_STRING.findall(text, start)
        return [_unescaped(body) for body, end in strings if body and end == '"']
    return [value for value in (_named_by(value) for value in values) if value]


def _named_by(value: object) -> str:
    """The title that an element of a JSON list names: itself, or the first text of an object that has letters."""
    if isinstance(value, dict):
        texts = [inner for inner in value.values() if isinstance(inner, str)]
        value = next((text for text in texts if any(map(str.isalpha, text))), next(iter(texts), ""))
    return value if isinstance(value, str) else ""


def _unescaped(body: str) -> str:
    try:
        return json.loads(f'"{body}"')
    except ValueError:
        return body
