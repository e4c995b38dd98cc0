"""A model's text, read as a ranking: whatever it says, the result is a permutation of the candidates or a failure.

An answer is only ever read as a choice among the candidates, so no text, and no title inside it, can add an item.
Reading is strict about *what* is named and lenient about *how*: numbered lists, JSON, one line with separators, prose
around a list, titles or labels.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hybridrec.llm.prompts import one_line

_LIST_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,3}[.):]+)\s*")
_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
_SEPARATOR = re.compile(r"\s*(?:>|→|;|\||,|\t)\s*")
_QUOTED = re.compile(r'"([^"\n]+)"|\*\*([^*\n]+)\*\*|“([^”\n]+)”')
_LABEL = re.compile(r"(?<![^\W_])C(\d{1,4})(?![^\W_])")
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(?!\s*:)')
_REFUSAL = re.compile(r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:can(?:'t|not| not)|won't)|as an AI)\b", re.I)


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

    The order of the appended candidates reads neither labels nor a recommender, so a repair can neither help nor
    borrow a ranking. Invented items are already dropped and of duplicates the first is kept (parse_ranking). A failed
    answer becomes a random order: that fallback is the caller's to announce, through ``parsed.failure``.
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
    for number in _LABEL.findall(text):
        yield int(number) - 1 if 1 <= int(number) <= n else None


def _by_title(text: str, titles: Sequence[str]) -> Iterator[int | None]:
    """Positions of the titles in the text, None for an item that is no candidate. Of two same titles the next free."""
    names = _Names(titles)
    items = _json_items(text)
    if items is not None:
        for item in items:
            yield names.whole(item)
        return
    lines = [line for line in text.splitlines() if _key(_LIST_MARK.sub("", line))]
    listed = any(_LIST_MARK.match(line) for line in lines)
    for line in lines:
        found = names.in_line(line)
        if found:
            yield from found
        elif _LIST_MARK.match(line) or not listed:
            yield None  # an item of the list that is no candidate; an unmarked line beside a marked list is prose


class _Names:
    """Candidate positions by every accepted spelling; two candidates of one name are handed out one after the other."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._positions: dict[str, list[int]] = {}
        self._used: set[int] = set()
        shown = [one_line(title) for title in titles]
        for position, title in enumerate(shown):
            for spelling in {_key(title), _key(_YEAR.sub("", title))} - {""}:
                self._positions.setdefault(spelling, []).append(position)
        # Inside a sentence only a title of two words or more is believed: "It" and "Kids" are words, too.
        long = sorted((t for t in shown if len(_WORD.findall(t)) > 1), key=len, reverse=True)
        self._inside = re.compile("|".join(rf"(?<!\w){re.escape(t)}(?!\w)" for t in long), re.I) if long else None

    def whole(self, text: str) -> int | None:
        """The candidate that a text names as a whole: as it stands, then without one list mark, then without two."""
        once = _LIST_MARK.sub("", text, count=1)
        for spelling in (text, once, _LIST_MARK.sub("", once, count=1)):
            positions = self._positions.get(_key(spelling))
            if positions:
                free = next((p for p in positions if p not in self._used), positions[0])
                self._used.add(free)
                return free
        return None

    def in_line(self, line: str) -> list[int]:
        """The candidates a line names: as a whole, else full titles inside it, else quoted or separated pieces."""
        whole = self.whole(line)
        if whole is not None:
            return [whole]
        inside = self._inside.findall(line) if self._inside else []
        quoted = ["".join(groups) for groups in _QUOTED.findall(line)]
        for pieces in (inside, quoted, _SEPARATOR.split(line)):
            found = [position for position in map(self.whole, pieces) if position is not None]
            if found:
                return found
        return []


_WORD = re.compile(r"\w+")


def _key(text: str) -> str:
    """What two spellings of one title share: letters and digits, without case or accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if c.isalnum())


def _json_items(text: str) -> list[str] | None:
    """The strings of the first JSON list in a text, in order; of one that was cut off, those that are whole.

    None if there is no such list.
    """
    start = text.find('["') if '["' in text else next((m.start() for m in re.finditer(r'\[\s*[{"]', text)), -1)
    if start < 0:
        return None
    try:
        values, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return [_unescaped(found) for found in _JSON_STRING.findall(text[start:])]
    return [value for value in (_named_by(value) for value in values) if value]


def _named_by(value: object) -> str:
    """The title that an element of a JSON list names: itself, or the first text of an object."""
    if isinstance(value, dict):
        value = next((inner for inner in value.values() if isinstance(inner, str)), "")
    return value if isinstance(value, str) else ""


def _unescaped(body: str) -> str:
    try:
        return json.loads(f'"{body}"')
    except ValueError:
        return body


# --- what may be kept of an answer ----------------------------------------------------------------------------------


def blot(text: str, history: Sequence[str], candidates: Sequence[str]) -> str:
    """An answer without the user's history: each title of it becomes ``⟨history 3⟩``, its number in the prompt.

    Models often repeat the history instead of ranking the candidates; a recording must not publish it. Candidates'
    titles stay, so the text reads as before (a title that is both stays, too). Whoever has the task can undo it.
    """
    keep = {_key(spelling) for title in candidates for spelling in _spellings(title)}
    number = {_key(s): n for n, title in reversed(list(enumerate(history, 1))) for s in _spellings(title)}
    private = {key: n for key, n in number.items() if key and key not in keep}
    spelled = {s for title in (*history, *candidates) for s in _spellings(title) if _key(s)}
    if not spelled:
        return text
    pattern = re.compile(
        "|".join(rf"(?<!\w){re.escape(s)}(?!\w)" for s in sorted(spelled, key=len, reverse=True)), re.I
    )

    def hidden(found: re.Match[str]) -> str:
        key = _key(found.group())
        return f"⟨history {private[key]}⟩" if key in private else found.group()

    lines = [_blot_line(pattern.sub(hidden, line), private, keep) for line in text.split("\n")]
    return "\n".join(lines)


def _blot_line(line: str, private: dict[str, int], keep: set[str]) -> str:
    """A line that says a history title in other punctuation, or begins one and breaks off, is blotted as a whole."""
    mark = (_LIST_MARK.match(line) or re.match("", line)).group()
    key = _key(line[len(mark) :])
    if len(key) < 4 or key in keep or "⟨history" in line:
        return line
    number = next((n for title, n in private.items() if title.startswith(key)), None)
    return line if number is None or any(k.startswith(key) for k in keep) else f"{mark}⟨history {number}⟩"


def _spellings(title: str) -> set[str]:
    shown = one_line(title)
    return {shown, _YEAR.sub("", shown)}
