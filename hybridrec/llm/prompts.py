"""Prompts: built from templates that are data, and answers: parsed, validated and repaired, every repair counted.

Item titles are untrusted text. They are reduced to one printable line before they enter a prompt, and an answer is
only ever read as a choice among the candidates, so no title can add an item or end the list.
"""

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

MODES = ("listwise", "likelihood", "pointwise", "pointwise-facts")
_LONGEST_TITLE = 150
_LIST_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,3}[.):]+)\s*")
_YEAR = re.compile(r"\(\d{4}\)\s*$")


@dataclass(frozen=True)
class Item:
    """What a prompt may say of an item: its title, and facts known from training ratings."""

    title: str
    facts: str = ""


@dataclass(frozen=True)
class ParsedRanking:
    """A text answer read as a ranking of ``n`` candidates.

    ``order`` holds candidate positions, best first, without repeats; ``invalid`` counts lines that name no candidate,
    ``duplicates`` lines that name one again, ``missing`` candidates that were never named.
    """

    order: tuple[int, ...]
    invalid: int
    duplicates: int
    missing: int


@cache
def templates() -> dict[str, dict[str, str]]:
    """The prompt templates, by mode, as written in templates.toml."""
    return tomllib.loads((Path(__file__).parent / "templates.toml").read_text(encoding="utf-8"))


def one_line(title: str) -> str:
    """A title as one printable line of bounded length: no control characters, line breaks or quotes that close."""
    printable = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in title)
    return " ".join(printable.replace('"', "'").replace("<|", "< |").split())[:_LONGEST_TITLE] or "untitled"


def _bullets(titles: Sequence[str]) -> str:
    return "\n".join(f"- {one_line(title)}" for title in titles)


def _history_text(history: Sequence[Item], noun: str) -> str:
    titles = _bullets([item.title for item in history])
    return templates()["history"]["text"].strip().format(count=len(history), noun=noun, history=titles)


def instruction(mode: str, history: Sequence[Item], candidates: Sequence[Item], noun: str) -> str:
    """The user's message up to where candidates are scored (``listwise``: the whole message).

    Args:
        mode: one of MODES, or "prior" (which ignores the history).
        history: the user's rated items in decreasing order of rating, at most the 20 of the paper.
        candidates: the items to rank, in the order shown to the model.
        noun: the dataset's word for an item, such as "film".
    """
    template = templates()[mode]["text"].lstrip("\n")
    text = _history_text(history, noun) if history else ""
    return template.format(history_text=text, noun=noun, candidates=_bullets([item.title for item in candidates]))


def question(mode: str, item: Item, noun: str) -> str:
    """The pointwise question about one candidate."""
    return templates()[mode]["question"].format(noun=noun, title=one_line(item.title), facts=one_line(item.facts))


def _key(text: str) -> str:
    """What two spellings of one title share: letters and digits, without case or accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if c.isalnum())


def _names(titles: Sequence[str]) -> dict[str, list[int]]:
    """Candidate positions by every accepted spelling: with the year, and without it (two of one name share it)."""
    names: dict[str, list[int]] = {}
    for position, title in enumerate(titles):
        for spelling in {_key(title), _key(_YEAR.sub("", title))} - {""}:
            names.setdefault(spelling, []).append(position)
    return names


def _spellings(line: str) -> list[str]:
    """What a line may name: as it stands first (a title can look like a list mark), then without one mark, or two."""
    once = _LIST_MARK.sub("", line, count=1)
    keys = [_key(text) for text in (line, once, _LIST_MARK.sub("", once, count=1))]
    return [key for key in keys if key] if keys[1] else []  # a mark with nothing behind it names nothing


def parse_ranking(text: str, titles: Sequence[str]) -> ParsedRanking:
    """Read a model's text, one item a line, as an order of the candidates.

    Args:
        text: the model's answer, whatever it says.
        titles: the candidates as shown, in the order shown.

    Returns:
        The order of the candidates that were named, and the counts of everything else.
    """
    names = _names([one_line(title) for title in titles])
    order: list[int] = []
    invalid = duplicates = 0
    for line in text.splitlines():
        spellings = _spellings(line)
        if not spellings:
            continue
        positions = next((names[key] for key in spellings if key in names), [])
        fresh = [position for position in positions if position not in order]
        order += fresh[:1]
        invalid += not positions
        duplicates += bool(positions) and not fresh
    return ParsedRanking(tuple(order), invalid, duplicates, len(titles) - len(order))


def repair(parsed: ParsedRanking, n: int, rng: np.random.Generator) -> list[int]:
    """Complete an order: candidates the model left out follow in random order.

    The order of the appended candidates reads neither labels nor a recommender, so a repair can neither help nor
    borrow a ranking. Invented lines are already dropped and of duplicates the first is kept (parse_ranking).
    """
    missing = [position for position in range(n) if position not in parsed.order]
    return [*parsed.order, *(int(position) for position in rng.permutation(missing))]
