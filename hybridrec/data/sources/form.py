"""What ratings of one's own look like: which column is what, how times and likes are written, what may be left out."""

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from hybridrec.settings import Settings

Character = Annotated[str, Field(min_length=1, max_length=1, description="one character")]
UNITS = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


class Form(Settings):
    """How a table of ratings, and one of items, are to be read. Further words on each key: docs/own-ratings.md.

    Attributes:
        user, item, rating, timestamp: names of the columns; timestamp "" if there is none.
        items_item: the item's column in the table of items; "" if it is called as in the ratings.
        title, genres: columns of the table of items (of the ratings, where they hold the titles); genres "" if there
            is none.
        separator, encoding, quoting: of CSV files (``reading.csv_rows``).
        decimal: what stands before the tenths of a rating.
        feedback: "ratings", or "counts" of use: a pair's rows are summed, and ``own.from_counts`` makes ratings of
            them. ``rating`` is then the column with the count; "" if each row is one use.
        likes: values of ``rating`` that mean a like, such as ["up", "true", 1]. They become 1, any other value 0.
        lowest: the lowest rating of the scale; None: any.
        time_format: how times are written: as for ``datetime.strptime``, or a unit since 1970 (``UNITS``). "": numbers
            in the unit that their size tells, or dates of ISO 8601.
        missing_ratings: whether rows without a rating are an error or are left out.
        missing_times: whether rows without a time are an error or count as older than all others.
        duplicates: whether a pair that is there twice is an error, or its newest row counts.
        untitled_share: up to this share of the ratings may be of items without a title. They are left out.
        core: users and items with fewer ratings are left out, over and over until none is left.
    """

    where: ClassVar[str] = ""  # how an error goes on after the name of a key

    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    timestamp: str = ""
    items_item: str = ""
    title: str = "title"
    genres: str = ""
    separator: Character = ","
    encoding: str = "utf-8"
    quoting: bool | None = None
    decimal: Character = "."
    feedback: Literal["ratings", "counts"] = Field("ratings", description='"ratings" or "counts"')
    likes: Annotated[
        tuple[str | bool | int | float, ...],
        Field(strict=False, description='a list of values, such as ["up", "true", 1]'),
    ] = ()
    lowest: float | None = Field(None, ge=-1e6, le=1e6)
    time_format: str = ""
    missing_ratings: Literal["refuse", "leave out"] = Field("refuse", description='"refuse" or "leave out"')
    missing_times: Literal["refuse", "oldest"] = Field("refuse", description='"refuse" or "oldest"')
    duplicates: Literal["refuse", "newest"] = Field("refuse", description='"refuse" or "newest"')
    untitled_share: float = Field(0.2, ge=0, le=1)
    core: int = Field(0, ge=0, le=1_000_000)

    @pydantic.field_validator("time_format")
    @classmethod
    def _is_a_format(cls, given: str) -> str:
        if given and given not in UNITS and "%" not in given:
            raise ValueError(
                f'time_format is {given!r}; it must be like "%d.%m.%Y %H:%M", or one of {", ".join(UNITS)}.'
            )
        return given

    @pydantic.model_validator(mode="after")
    def _likes_or_counts(self) -> "Form":
        if self.likes and self.feedback == "counts":
            raise ValueError('likes is set, but feedback = "counts": leave one of them out.')
        return self


class RatingsFile(Form):
    """The table [ratings] of an experiment file. Paths are relative to the repository, or to HYBRIDREC_DATA.

    Attributes:
        file: the ratings, in a file that ``reading`` knows.
        items_file: the items, likewise; "" if ``file`` itself carries the titles.
    """

    where: ClassVar[str] = " in [ratings]"

    file: str
    items_file: str = ""
    lowest: float | None = Field(0.0, ge=-1e6, le=1e6)
    core: int = Field(1, ge=1, le=1_000_000)
