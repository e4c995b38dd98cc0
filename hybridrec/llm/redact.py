"""What may be recorded of an answer: everything but the titles of the user's history."""

import json
import re
from collections.abc import Sequence

from hybridrec.llm.prompts import one_line, without_labels
from hybridrec.llm.runner import Asked, Response
from hybridrec.llm.tasks import Task
from hybridrec.llm.titles import LABEL, LIST_MARK, REDACTED, YEAR, CandidateNames, any_of, title_key

_LABEL_MARK = re.compile(rf"(?:{LIST_MARK.pattern})?\s*{LABEL.pattern}\W*")
_FEWEST = 4  # letters and digits; fewer say nothing about which title breaks off there


def redact_response(asked: Asked, response: Response) -> Response:
    """What may be recorded of a response: its text without the titles of the user's history; numbers as they are."""
    if "text" not in response:
        return response
    task: Task = asked.about
    history, candidates = ([item.title for item in items] for items in (task.history, task.items))
    return {**response, "text": redact(response["text"], history, candidates)}


def redact(text: str, history: Sequence[str], candidates: Sequence[str]) -> str:
    """An answer without the user's history: each of its titles becomes ``⟨history 3⟩``, its number in the prompt.

    Models often repeat the history instead of ranking the candidates; a recording must not publish it. Candidates'
    titles and labels stay, so the text is read as the same ranking as before; so does a title that is in both. Whoever
    has the task can put the titles back. A title without a letter or digit names nothing and stays.
    """
    return _Redacter(history, candidates).text(text)


class _Redacter:
    """The titles of one user's history, and the number of each in the prompt."""

    def __init__(self, history: Sequence[str], candidates: Sequence[str]) -> None:
        self._names = CandidateNames(candidates)
        self._keep = {title_key(spelling) for title in candidates for spelling in _spellings(title)} | {""}
        numbered = reversed(list(enumerate(history, 1)))
        number = {title_key(spelling): n for n, title in numbered for spelling in _spellings(title)}
        self._private = {key: n for key, n in number.items() if key not in self._keep}
        spelled = {spelling for title in (*history, *candidates) for spelling in _spellings(title)}
        self._pattern = re.compile(any_of(filter(title_key, spelled)), re.I)

    def text(self, text: str) -> str:
        """All lines, each with the end it has."""
        if not self._private:
            return text
        bare = text.splitlines()
        ends = [whole[len(line) :] for whole, line in zip(text.splitlines(keepends=True), bare, strict=True)]
        return "".join(self._line(line) + end for line, end in zip(bare, ends, strict=True))

    def _line(self, line: str) -> str:
        if not line or self._is_candidate(line):
            return line
        return self._rest(self._pattern.sub(self._match, line))

    def _is_candidate(self, line: str) -> bool:
        """Whether a line is a candidate's title and nothing else. What is only much like one may be of the history."""
        once = LIST_MARK.sub("", line, count=1)
        keys = {title_key(said) for said in (line, once, LIST_MARK.sub("", once, count=1))}
        return REDACTED not in line and bool(keys & (self._keep - {""}))

    def _match(self, found: re.Match[str]) -> str:
        number = self._private.get(title_key(found.group()))
        return found.group() if number is None else _mark(found.group(), number)

    def _rest(self, line: str) -> str:
        """A line that says a history title in other punctuation, or begins one and breaks off, goes as a whole."""
        for mark in (LIST_MARK.match(line), _LABEL_MARK.match(line)):
            start = mark.end() if mark else 0
            number = self._number(line[start:])
            if number is not None:
                return line[:start] + _mark(line[start:], number)
        return line

    def _number(self, said: str) -> int | None:
        """The number of the history title that a text says or begins, unless it says or begins a candidate's."""
        key = title_key(said)
        if key in self._private:
            return self._private[key]
        begun = next((n for title, n in self._private.items() if title.startswith(key)), None)
        if begun is None or len(key) < _FEWEST or any(title.startswith(key) for title in self._keep):
            return None
        named = self._names.all_of(said) or self._names.several(said) or self._names.mentions(said)
        return None if named else begun


def _mark(said: str, number: int) -> str:
    """What stands in place of a title, after any labels that were in it: those are part of the answer."""
    return "".join(f"{label.group()} " for label in LABEL.finditer(said)) + f"{REDACTED}{number}⟩"


def _spellings(title: str) -> set[str]:
    """A title as prompts show it, without its year, and either as JSON writes it."""
    shown = {one_line(title), without_labels(title)}
    plain = shown | {YEAR.sub("", spelling) for spelling in shown}
    return plain | {json.dumps(spelling)[1:-1] for spelling in plain}
