"""Prompts, built from templates that are data.

Item titles are untrusted text. They are reduced to one printable line before they enter a prompt, so no title can end
its line, add an item, or pass for another item's label.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridrec.errors import SettingError
from hybridrec.llm import modes
from hybridrec.llm.modes import Mode

_LONGEST_TITLE = 150
# How models' control tokens begin: <|im_end|>, <end_of_turn>, </s>, <<SYS>> and ◁think▷; in square brackets [/INST],
# [|user|], [TOOL_CALLS], [INST], [gMASK]. Square brackets around a short word, as in "[REC] (2007)", are a title's own,
# unless the word is a token.
_CONTROL_LIKE = re.compile(
    r"[<◁](?=[|/\w▁])|\[(?=[|/]|\w*(?:_|[A-Z]{4})\w*\]|(?:BOS|CLS|EOD|EOS|EOT|IMG|PAD|SEP|SOS|UNK)\])"
)
_LABEL_LIKE = re.compile(r"(?<![^\W_])[Cc](?=\d{1,4}(?![^\W_]))")
_BLANK = "\u115f\u1160\u2800\u3164\uffa0\U0001d159"  # letters and symbols that show nothing


@dataclass(frozen=True)
class Item:
    """What a prompt may say of an item: its title, facts known from training ratings, and what this user gave it.

    ``rating``, ``grade`` and ``liked`` are known of a history's items only, never of candidates.
    """

    title: str
    facts: str = ""
    rating: float | None = None
    liked: bool | None = None
    grade: int | None = None


def grade(rating: float, scale: float) -> int:
    """A rating as one digit, so that every scale is written alike: the tenth of the scale that it lies in, 0 to 9."""
    return min(max(math.ceil(10 * rating / scale - 1e-9) - 1, 0), 9)


def graded_line(title: str, digit: int) -> str:
    """A line of a list with grades."""
    return f"- {one_line(title)}:{digit}\n"


@functools.lru_cache(maxsize=100_000)  # an item stands in many prompts
def one_line(title: str) -> str:
    """A title as one printable line of bounded length: no control characters, line breaks or quotes that close.

    What looks like a model's control token is taken apart: "[INST]" becomes "[ INST]". A title of which nothing can be
    seen is "untitled". Done twice it changes nothing more.
    """
    printable = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in title)
    line = " ".join(_apart(_CONTROL_LIKE, printable.replace('"', "'")).split())[:_LONGEST_TITLE].rstrip()
    return "untitled" if all(c == " " or _unseen(c) for c in line) else line


def _unseen(character: str) -> bool:
    """Nothing that can be seen by itself: a mark on another character (variation selectors, too), or a blank."""
    return unicodedata.category(character)[0] == "M" or character in _BLANK


def _apart(pattern: re.Pattern[str], text: str) -> str:
    """A space after each match, be it in the text as it stands or as a tokenizer may simplify it.

    That is in compatible characters (NFKC: "＜｜" is "<|") and without those that cannot be seen.
    """
    simple = [(c, n) for n, whole in enumerate(text) for c in unicodedata.normalize("NFKC", whole) if not _unseen(c)]
    ends = {match.end() - 1 for match in pattern.finditer(text)}
    ends |= {simple[match.end() - 1][1] for match in pattern.finditer("".join(c for c, _ in simple))}
    return "".join(f"{c} " if n in ends else c for n, c in enumerate(text))


def labels(n: int) -> list[str]:
    """The labels of ``n`` candidates, by position."""
    return [f"C{number}" for number in range(1, n + 1)]


def without_labels(title: str) -> str:
    """A title in which anything that looks like a label is taken apart: "C3" becomes "C 3"."""
    return _apart(_LABEL_LIKE, one_line(title))


def _labelled(titles: Sequence[str]) -> str:
    return "\n".join(f"{label} {title}" for label, title in zip(labels(len(titles)), titles, strict=True))


def _bullets(titles: Sequence[str]) -> str:
    return "\n".join(f"- {title}" for title in titles)


def _lines(history: Sequence[Item], plain: Callable[[str], str]) -> dict[str, str]:
    """The history as each placeholder of a mode's text shows it; "- none" where there is nothing to show."""
    titles = [plain(item.title) for item in history]
    both = list(zip(titles, history, strict=True))
    return {
        "history": _bullets(titles),
        "rated": _bullets([f"{title}: {item.rating:g}" for title, item in both if item.rating is not None]),
        "graded": "".join(graded_line(item.title, item.grade) for item in history if item.grade is not None),
        "liked": _bullets([title for title, item in both if item.liked] or ["none"]),
        "disliked": _bullets([title for title, item in both if item.liked is False] or ["none"]),
        "example": titles[0] if titles else "",
        "others": _bullets(titles[1:] or ["none"]),
    }


def instruction(mode: Mode | str, history: Sequence[Item], candidates: Sequence[Item], noun: str) -> str:
    """The user's message; where each candidate is scored by itself, the part before the candidate.

    What stays the same comes first: over shuffles of one user's candidates the history is a shared prefix, which a
    server can keep.

    Args:
        mode: a way to ask, or its name.
        history: the user's rated items in decreasing order of rating, at most the 20 of the paper.
        candidates: the items to rank, in the order shown to the model.
        noun: the dataset's word for an item, such as "film".

    Raises:
        SettingError: unknown mode (lists the known ones); one that tells likes, and it is not known what is a like.
    """
    mode = modes.get(mode)
    if mode.uses_likes and any(item.liked is None for item in history):
        raise SettingError(f"{mode.name!r} tells what the user liked: give ``build_tasks`` the rating that is a like.")
    plain, listed = (without_labels, _labelled) if mode.labels else (one_line, _bullets)
    known = {"noun": noun, "count": len(history), **_lines(history, plain)}
    introduced = modes.HISTORY.format(**known) if history else ""
    shown = listed([plain(item.title) for item in candidates])
    return mode.text.lstrip("\n").format(history_text=introduced, candidates=shown, **known)


def question(mode: Mode | str, item: Item, noun: str) -> str:
    """The question about one candidate, of a mode that has one."""
    return modes.get(mode).question.format(noun=noun, title=one_line(item.title), facts=one_line(item.facts))
