"""Files are read strictly, and both published layouts of MovieLens 100K give one and the same table."""

import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from hybridrec.data import datasets
from hybridrec.data.sources import canonical, movielens
from hybridrec.errors import DatasetError
from hybridrec.study import steps

COLUMNS = ["user", "item", "rating", "timestamp"]
GENRES = movielens._ML100K_GENRES
RATINGS = [(1, 127, 5, 881250949), (1, 267, 1, 881250950), (2, 543, 4, 881250951), (3, 1412, 2, 881250952)]
# item, u.item title, release date, genres, and RecBole's title, year and class of the same film
FILMS = [
    (127, "Godfather, The (1972)", "01-Jan-1972", ["Action", "Crime", "Drama"])
    + ("Godfather, The", "1972", "Action Crime Drama"),
    (242, "Kolya (1996)", "24-Jan-1997", ["Comedy"], "Kolya", "1996", "Comedy"),
    (267, "unknown", "", ["unknown"], "unkonwn", "unkonwn", "unknown"),
    (543, "Misérables, Les (1995)", "01-Jan-1995", ["Drama", "Musical"], "Misérables, Les", "1995", "Drama Musical"),
    (1412, "Land Before Time III: The Time of the Great Giving (1995) (V)", "01-Jan-1995", ["Animation", "Children's"])
    + ("Land Before Time III: The Time of the Great Giving (1995)", "V", "Animation Children's"),
]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """GroupLens's zip: u.data with tabs, u.item with bars in latin-1, nineteen genre flags."""
    flags = [[str(int(name in film[3])) for name in GENRES] for film in FILMS]
    films = ["|".join([str(film[0]), film[1], film[2], "", "", *row]) for film, row in zip(FILMS, flags, strict=True)]
    path = tmp_path / "ml-100k.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("ml-100k/u.data", "".join("\t".join(map(str, row)) + "\n" for row in reversed(RATINGS)))
        file.writestr("ml-100k/u.item", ("\n".join(films) + "\n").encode("latin-1"))
    return path


@pytest.fixture
def atomic(tmp_path: Path) -> tuple[Path, Path]:
    """RecBole's two files: typed headers, UTF-8, years in a column of their own."""
    ratings, items = tmp_path / "ml-100k.inter", tmp_path / "ml-100k.item"
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    ratings.write_text(header + "".join("\t".join(map(str, row)) + "\n" for row in RATINGS), encoding="utf-8")
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    rows = [f"{film[0]}\t" + "\t".join(film[4:]) + "\n" for film in reversed(FILMS)]
    items.write_text(header + "".join(rows), encoding="utf-8")
    return ratings, items


def test_both_layouts_give_identical_tables(archive, atomic):
    for ours, theirs in zip(movielens.read_ml100k_archive(archive), movielens.read_ml100k_atomic(*atomic), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize(
    ("item", "title", "year", "genres"),
    [
        (127, "The Godfather (1972)", "1972", "Action, Crime, Drama"),
        (242, "Kolya (1996)", "1996", "Comedy"),  # released in 1997: the year of the title counts
        (267, "unknown", "", "unknown"),
        (543, "Misérables, Les (1995)", "1995", "Drama, Musical"),
        (1412, "Land Before Time III: The Time of the Great Giving (1995)", "1995", "Animation, Children's"),
    ],
)
@pytest.mark.parametrize("layout", ["archive", "atomic"])
def test_titles_are_canonical(layout, item, title, year, genres, archive, atomic):
    _, items = movielens.read_ml100k_archive(archive) if layout == "archive" else movielens.read_ml100k_atomic(*atomic)
    row = items.set_index("item").loc[item]
    assert (row["title"], row["year"], row["genres"]) == (title, year, genres)


def test_interactions_are_typed_and_sorted(archive):
    interactions, _ = movielens.read_ml100k_archive(archive)
    assert list(interactions.columns) == COLUMNS
    assert list(interactions.dtypes.astype(str)) == ["int64", "int64", "float64", "int64"]
    assert list(interactions[["user", "item"]].itertuples(index=False, name=None)) == [row[:2] for row in RATINGS]


@pytest.mark.parametrize(
    ("title", "natural"),
    [
        ("Fish Called Wanda, A (1988)", "A Fish Called Wanda (1988)"),
        ("Good, The Bad and The Ugly, The", "The Good, The Bad and The Ugly"),
        ("Horseman on the Roof, The (Hussard sur le toit, Le)", "The Horseman on the Roof (Hussard sur le toit, Le)"),
        ("Double  vie de Véronique, La", "Double vie de Véronique, La"),
        ("The Courtyard", "The Courtyard"),
    ],
)
def test_natural_title(title, natural):
    assert movielens.natural_title(title) == natural


@pytest.mark.parametrize(("line", "found"), [("1\t2\t3", 3), ("1\t2\t3\t4\t5", 5)])
def test_a_line_with_too_few_or_too_many_fields_is_refused(line, found, tmp_path):
    path = tmp_path / "u.data"
    path.write_text(f"1\t1\t4\t9\n{line}\n1\t3\t4\t9\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"u\.data, line 2: {found} fields, expected 4.*Fix or remove"):
        canonical.read_table(path, COLUMNS)


def test_wrong_encoding_names_file_line_and_remedy(tmp_path):
    path = tmp_path / "u.item"
    path.write_bytes(b"1|Toy Story\n2|Mis\xe9rables\n")
    with pytest.raises(DatasetError, match=r"u\.item, line 2: not utf-8 text.*name its encoding"):
        canonical.read_table(path, ["item", "title"], "|")
    assert canonical.read_table(path, ["item", "title"], "|", "latin-1")["title"][1] == "Misérables"


def test_fields_stay_text(tmp_path):
    path = tmp_path / "u.item"
    path.write_text('1|NA\n2|"Quoted\n3|\n', encoding="utf-8")
    assert list(canonical.read_table(path, ["item", "title"], "|")["title"]) == ["NA", '"Quoted', ""]


@pytest.mark.parametrize("value", ["good", "", "nan", "inf"])
def test_a_rating_that_is_no_number_names_its_line(value, atomic):
    ratings, items = atomic
    ratings.write_text(ratings.read_text(encoding="utf-8").replace("\t4\t", f"\t{value}\t"), encoding="utf-8")
    line = 1 + next(i for i, row in enumerate(RATINGS, 1) if row[2] == 4)
    message = rf"ml-100k\.inter, line {line}: rating is '{value}', not a number.*Fix or remove"
    with pytest.raises(DatasetError, match=message):
        movielens.read_ml100k_atomic(ratings, items)


def test_a_blank_line_is_refused_in_the_middle_and_harmless_at_the_end(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("1\t1\t4\t9\n\n1\t2\t4\t9\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"u\.data, line 2: 1 fields, expected 4"):
        canonical.read_table(path, COLUMNS)
    path.write_text("1\t1\t4\t9\r\n1\t2\t4\t9\r\n\r\n", encoding="utf-8")
    assert list(canonical.read_table(path, COLUMNS)["timestamp"]) == ["9", "9"]


def test_an_identifier_with_a_fraction_is_refused_not_rounded():
    table = pd.DataFrame([("1", "1", "4", "9"), ("1.5", "2", "4", "9")], columns=COLUMNS)
    with pytest.raises(DatasetError, match="line 2: user is '1.5'"):
        canonical.canonical_interactions(table, "u.data")


def test_missing_ratings_column_is_named_with_those_there(atomic):
    ratings, items = atomic
    ratings.write_text(ratings.read_text(encoding="utf-8").replace("timestamp:float", "when:float"), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"ml-100k\.inter: no column 'timestamp'; it has user, item, rating, when"):
        movielens.read_ml100k_atomic(ratings, items)


def test_missing_items_column_is_named(atomic):
    ratings, items = atomic
    items.write_text(
        items.read_text(encoding="utf-8").replace("movie_title:token_seq", "name:token_seq"), encoding="utf-8"
    )
    with pytest.raises(DatasetError, match=r"ml-100k\.item: no column 'movie_title'"):
        movielens.read_ml100k_atomic(ratings, items)


def test_item_number_that_is_no_number_names_its_line(atomic):
    ratings, items = atomic
    items.write_text(items.read_text(encoding="utf-8").replace("543\t", "x543\t"), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"ml-100k\.item, line 3: item_id is 'x543'"):
        movielens.read_ml100k_atomic(ratings, items)


def test_duplicate_rating_names_the_second_line(atomic):
    ratings, items = atomic
    ratings.write_text(ratings.read_text(encoding="utf-8") + "1\t267\t3\t881250999\n", encoding="utf-8")
    line = len(RATINGS) + 2
    with pytest.raises(DatasetError, match=rf"line {line}: user 1 rated item 267 twice.*Keep one"):
        movielens.read_ml100k_atomic(ratings, items)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "ml-100k.inter"
    path.write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match=re.escape("ml-100k.inter")):
        canonical.read_table(path, None)


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(DatasetError, match="unknown dataset 'ml-2'.*ml-100k"):
        steps.dataset("ml-2")


def test_sparsity_index_is_the_unrated_share_of_the_catalogue():
    table = pd.DataFrame({"user": [1, 1, 1, 2], "item": [1, 2, 3, 1]})
    assert datasets.sparsity_index(table, n_items=4).to_dict() == {1: 0.25, 2: 0.75}
