"""What a language model is taught (``teach``): ratings, and the examples that a mode makes of them.

Two formats, which are two ways to ask afterwards:

- a mode of kind "rate" (rating-lines): a user's ratings, in random order, are lists of lines "- title:grade". There is
  a loss at every grade, given the lines before it, so that one pass teaches as many ratings as a list has lines.
- a mode of kind "choose" (pointwise): after a part of a user's ratings as its history, a question about each of some
  others. There is a loss at every answer.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.errors import DatasetError
from hybridrec.llm import prompts, rankers
from hybridrec.llm.models import tree
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.modes import Mode

LEAST_LINES = 8  # of a list: a shorter rest of a user's ratings is left out of a pass
_QUESTIONS = 16  # about each history, in a mode that puts questions


@dataclass(frozen=True)
class Material:
    """What is taught: ratings of users who are never routed, and what prompts say of items.

    Attributes:
        ratings: user, item, rating.
        items: item, title, genres.
        noun: the word for an item.
        scale: the highest rating.
        like: the least rating that is a like.
    """

    ratings: pd.DataFrame
    items: pd.DataFrame
    noun: str
    scale: float
    like: float

    @cached_property
    def hash(self) -> str:
        """SHA-256 of ratings and titles, whatever the order of the rows."""
        rows = self.ratings[["user", "item", "rating"]].merge(self.items[["item", "title"]], on="item", how="left")
        text = rows.sort_values(["user", "item"]).to_csv(index=False)
        return hashlib.sha256(f"{self.noun} {self.scale:g} {self.like:g}\n{text}".encode()).hexdigest()

    @cached_property
    def by_user(self) -> dict[Any, pd.DataFrame]:
        """Each user's ratings by item: item, rating, grade, title."""
        rows = self.ratings.merge(self.items[["item", "title"]], on="item", how="left").sort_values(["user", "item"])
        if rows["title"].isna().any():
            raise DatasetError(f"item {rows.loc[rows['title'].isna(), 'item'].iloc[0]!r} has ratings and no title.")
        rows["grade"] = [prompts.grade(rating, self.scale) for rating in rows["rating"]]
        return dict(list(rows.groupby("user", sort=True)))


@dataclass(frozen=True)
class Example:
    """A beginning, and texts that go on with it side by side; which choice follows at which of their places.

    ``asked`` has for each loss: the text, the place in it after which the choice follows, and the choice's number;
    ``items`` names what each is about.
    """

    prefix: list[int]
    texts: list[list[int]]
    asked: list[tuple[int, int, int]]
    items: list[Any]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.prefix) + sum(map(len, self.texts))


class Writer:
    """Writes users' ratings as a mode shows them, in a model's tokens."""

    def __init__(self, model: HuggingFace, mode: Mode, noun: str, lines: int) -> None:
        self.model, self.mode, self.noun, self.lines = model, mode, noun, lines
        self.choices = [model.tokens(choice)[0] for choice in mode.choices]
        self._break = model.tokens("\n")
        self._known: dict[str, list[int]] = {}

    def prompt(self, history: pd.DataFrame, items: pd.DataFrame, like: float) -> tree.Prompt:
        """What the model is asked afterwards: the same request, through the same code."""
        known = [
            prompts.Item(one.title, rating=one.rating, grade=one.grade, liked=one.rating >= like)
            for one in history.itertuples()
        ]
        request = rankers.build_request(self.mode, known, [prompts.Item(title) for title in items["title"]], self.noun)
        return self.model.prompt(request)

    def examples(self, rows: pd.DataFrame, like: float, rng: np.random.Generator) -> Iterator[Example]:
        """One pass over a user's ratings (title, rating, grade), dealt into lists by chance."""
        rows = rows.iloc[rng.permutation(len(rows))]
        step = self.lines if self.mode.grades else self.lines + _QUESTIONS
        for start in range(0, len(rows), step):
            part = rows.iloc[start : start + step]
            if len(part) >= min(LEAST_LINES, step):
                yield self._list(part) if self.mode.grades else self._questions(part, like, rng)

    def _list(self, rows: pd.DataFrame) -> Example:
        text: list[int] = []
        asked = []
        for title, digit in zip(rows["title"], rows["grade"], strict=True):
            text += self._line(title)
            asked.append((0, len(text) - 1, int(digit)))
            text += [self.choices[digit], *self._break]
        return Example(self._start, [text], asked, rows["item"].tolist())

    @cached_property
    def _start(self) -> list[int]:
        nobody = pd.DataFrame(columns=["title", "rating", "grade"])
        return self.prompt(nobody, pd.DataFrame({"title": ["x"]}), 0.0).prefix

    def _line(self, title: str) -> list[int]:
        if title not in self._known:
            self._known[title] = self.model.tokens(prompts.question(self.mode, prompts.Item(title), self.noun))
        return self._known[title]

    def _questions(self, rows: pd.DataFrame, like: float, rng: np.random.Generator) -> Example:
        """The history is as long as chance wants it, so that short ones are taught, too."""
        least = max(1, len(rows) - _QUESTIONS)
        length = min(int(rng.integers(1, self.lines + 1)), least)
        history = rows.iloc[:length].sort_values("rating", ascending=False, kind="stable")
        after = rows.iloc[least:]
        prompt = self.prompt(history, after, like)
        liked = (after["rating"] >= like).to_numpy()
        asked = [
            (at, len(text) - 1, 0 if yes else 1)
            for at, (text, yes) in enumerate(zip(prompt.suffixes, liked, strict=True))
        ]
        return Example(prompt.prefix, prompt.suffixes, asked, after["item"].tolist())
