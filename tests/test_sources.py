"""Every source gives the canonical form: layouts of MovieLens, the Book-Crossing dump, and files of one's own."""

import io
import lzma
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrec.data.sources import book_crossing, canonical, movielens, own
from hybridrec.errors import DatasetError
from hybridrec.study import paths, steps

# --- MovieLens 1M and latest-small ------------------------------------------------------------------------------------


@pytest.fixture
def ml1m(tmp_path: Path) -> Path:
    """The official layout: two colons between fields, latin-1, genres between bars."""
    ratings = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
    films = "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n1193::Misérables, Les (1995)::Drama\n"
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", ratings)
        archive.writestr("ml-1m/movies.dat", films.encode("latin-1"))
    return tmp_path / "ml-1m.zip"


def test_movielens_1m_in_its_official_layout(ml1m):
    ratings, films = movielens.read_ml1m_archive(ml1m)
    assert ratings.to_numpy().tolist() == [[1, 661, 3, 978302109], [1, 1193, 5, 978300760], [2, 1193, 4, 978298413]]
    assert films["title"].tolist() == ["James and the Giant Peach (1996)", "Misérables, Les (1995)"]
    assert films["year"].tolist() == ["1996", "1995"]
    assert films["genres"].tolist() == ["Animation, Children's, Musical", "Drama"]


def test_latest_small_has_half_stars_and_films_without_a_title():
    table = pd.DataFrame(
        {
            "userId": [2, 1, 1],
            "movieId": [31, 31, 99],
            "rating": [2.5, 4.0, 0.5],
            "timestamp": [1260759144, 1260759145, 1260759146],
            "title": ["Postman, The", "Postman, The", None],
            "year": [1994.0, 1994.0, np.nan],
            "genres": ["Comedy|Drama", "Comedy|Drama", "(no genres listed)"],
        }
    )
    ratings, films = movielens.read_latest_small(table)
    assert ratings["rating"].tolist() == [4.0, 0.5, 2.5]
    assert films["title"].tolist() == ["The Postman (1994)", "untitled film 99"]
    assert films["genres"].tolist() == ["Comedy, Drama", ""]


class Evil:
    """Runs something when it is read from a pickle."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def names_in(pickled: bytes) -> set[str]:
    """Everything that a pickle names."""
    found = set()

    class Names(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            found.add(f"{module}.{name}")
            return super().find_class(module, name)

    Names(io.BytesIO(pickled)).load()
    return found


def test_a_pickled_table_is_read_and_nothing_else_that_a_pickle_can_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "table.pkl.compress"
    table = pd.DataFrame({"user": [1, 2], "rating": [4.0, 0.5]}, columns=pd.Index(["user", "rating"], dtype=object))
    file.write_bytes(lzma.compress(pickle.dumps(table)))
    # The file that is read for real was written years ago; the parts of a table are called otherwise today.
    today = {tuple(name.rsplit(".", 1)) for name in names_in(pickle.dumps(table))}
    monkeypatch.setattr(movielens, "_OF_A_TABLE", movielens._OF_A_TABLE | today)
    pd.testing.assert_frame_equal(movielens.read_pickled_table(file), table)
    for evil in (Evil(), table.assign(evil=[Evil(), Evil()])):
        file.write_bytes(lzma.compress(pickle.dumps(evil)))
        with pytest.raises(pickle.UnpicklingError, match="mkdir is no part of a table"):
            movielens.read_pickled_table(file)
    assert not (tmp_path / "ran").exists()


# --- Book-Crossing ----------------------------------------------------------------------------------------------------

BOOKS = """"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S";"Image-URL-M";"Image-URL-L"
"0002";"The \\"Best\\" of Cats &amp; Dogs";"José Müller";"1999";"P";"";"";""
"0001";"Emma";"Jane Austen";"0";"P";"";"";""
"""
RATED = [(8, "0001", 5), (8, "0002", 10), (9, "0001", 7), (9, "0002", 0), (9, "9999", 8)]


def dump(folder: Path, encoding: str = "latin-1", rated: list = RATED, books: str = BOOKS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ['"User-ID";"ISBN";"Book-Rating"', *(f'"{user}";"{isbn}";"{value}"' for user, isbn, value in rated)]
    (folder / "BX-Book-Ratings.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    (folder / "BX-Books.csv").write_text(books, encoding=encoding)
    return folder


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_the_dump_of_book_crossing_in_either_encoding(tmp_path, encoding):
    ratings, books = book_crossing.read_dump(dump(tmp_path, encoding), core=1)
    # ISBNs are numbered in their order; 0 means "not rated"; a book that the books file lacks has no title.
    assert ratings[["user", "item", "rating"]].to_numpy().tolist() == [[8, 1, 5], [8, 2, 10], [9, 1, 7]]
    assert books["title"].tolist() == ["Emma by Jane Austen", "The Best of Cats & Dogs by José Müller"]
    assert books["year"].tolist() == ["", "1999"]


def test_book_crossing_is_cut_to_its_core(tmp_path):
    ratings, books = book_crossing.read_dump(dump(tmp_path), core=2)
    assert len(ratings) == len(books) == 0
    ratings, books = book_crossing.read_dump(dump(tmp_path, rated=[*RATED[:3], (9, "0002", 1)]), core=2)
    assert len(ratings) == 4
    assert len(books) == 2


def test_a_line_of_the_dump_that_is_no_number_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"BX-Book-Ratings\.csv, line 3: Book-Rating is 'ten'"):
        book_crossing.read_dump(dump(tmp_path, rated=[(8, "0001", 5), (8, "0002", "ten")]), core=1)


def test_another_copy_of_book_crossing_is_announced(tmp_path, monkeypatch):
    dump(tmp_path / "BX-CSV-Dump", rated=[(u, f"{b:04}", 5) for u in range(5) for b in range(5)], books=books_of(5))
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    assert "ANOTHER copy" in steps.dataset("book-crossing").source


def books_of(count: int) -> str:
    return (
        BOOKS.splitlines()[0] + "".join(f'\n"{n:04}";"Book {n}";"A";"2000";"P";"";"";""' for n in range(count)) + "\n"
    )


def test_where_book_crossing_has_to_be_put_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("HYBRIDREC_DATA", raising=False)
    monkeypatch.setattr(paths, "RAW", tmp_path)
    with pytest.raises(DatasetError, match=r"host is gone\. Put BX-Book-Ratings\.csv .*HYBRIDREC_DATA"):
        steps.dataset("book-crossing")


# --- the core ---------------------------------------------------------------------------------------------------------


@given(st.sets(st.tuples(st.integers(1, 6), st.integers(1, 6))), st.integers(1, 4))
def test_the_core_is_the_largest_part_in_which_all_have_enough(pairs, k):
    table = pd.DataFrame(sorted(pairs), columns=["user", "item"])
    core = canonical.k_core(table, k)
    for key in ("user", "item"):
        assert (core.groupby(key).size() >= k).all()
    # Largest: putting back any left-out pair with whatever it needs is impossible, as peeling in another order shows.
    peeled = set(pairs)
    while drop := next(
        (p for p in sorted(peeled, reverse=True) for i in (0, 1) if sum(q[i] == p[i] for q in peeled) < k), None
    ):
        peeled.remove(drop)
    assert set(core.itertuples(index=False, name=None)) == peeled


# --- ratings of one's own ---------------------------------------------------------------------------------------------

RATINGS = "who,what,stars,when\nann,x1,5,3\nann,x2,1,2\nbob,x1,4.5,1\n"
ITEMS = "what,name,kind\nx1,First,a b\nx2,Second,\n"
GIVEN = {"file": "ratings.csv", "items_file": "items.csv", "user": "who", "item": "what", "rating": "stars"}
GIVEN |= {"timestamp": "when", "title": "name", "genres": "kind"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path))
    (tmp_path / "ratings.csv").write_text(RATINGS, encoding="utf-8")
    (tmp_path / "items.csv").write_text(ITEMS, encoding="utf-8")
    return tmp_path


def test_ratings_of_ones_own_with_any_column_names(folder):
    data = steps.dataset("mine", GIVEN)
    assert data.interactions.to_numpy().tolist() == [["ann", "x1", 5, 3], ["ann", "x2", 1, 2], ["bob", "x1", 4.5, 1]]
    assert data.items.to_numpy().tolist() == [["x1", "First", "", "a b"], ["x2", "Second", "", ""]]
    assert data.source == "ratings.csv + items.csv"


def test_whole_numbers_are_numbers_and_leading_zeros_are_kept(folder):
    (folder / "ratings.csv").write_text(RATINGS.replace("ann", "70").replace("bob", "9"), encoding="utf-8")
    assert steps.dataset("mine", GIVEN).interactions["user"].tolist() == [9, 70, 70]
    (folder / "ratings.csv").write_text(RATINGS.replace("ann", "70").replace("bob", "09"), encoding="utf-8")
    assert steps.dataset("mine", GIVEN).interactions["user"].tolist() == ["09", "70", "70"]


def test_without_timestamps_and_with_titles_beside_the_ratings(folder):
    (folder / "ratings.csv").write_text(
        "who;what;stars;name\nann;x1;5;First\nann;x2;1;Second\nbob;x1;4;First\n", encoding="utf-8"
    )
    one_file = {key: value for key, value in GIVEN.items() if key not in ("timestamp", "genres")}
    data = steps.dataset("mine", one_file | {"items_file": "ratings.csv", "separator": ";"})
    assert data.interactions["timestamp"].tolist() == [0, 0, 0]
    assert data.items["title"].tolist() == ["First", "Second"]


@pytest.mark.parametrize(
    ("ratings", "items", "changes", "says"),
    [
        (RATINGS, ITEMS, {"user": "nobody"}, r"ratings\.csv: no column 'nobody'; it has who, what, stars, when"),
        (RATINGS, ITEMS, {"title": "label"}, r"items\.csv: no column 'label'"),
        (RATINGS.replace("4.5", "good"), ITEMS, {}, r"ratings\.csv, line 4: stars is 'good', not a number"),
        (RATINGS + "bob,x1,3,9\n", ITEMS, {}, r"ratings\.csv, line 5: user 'bob' rated item 'x1' already on line 4"),
        (RATINGS + "bob,x2,3,9,7\n", ITEMS, {}, r"ratings\.csv: .*line 5"),
        (RATINGS + "bob,x2,3\n", ITEMS, {}, r"ratings\.csv, line 5: when is ''"),
        ("", ITEMS, {}, r"ratings\.csv: .*[Nn]o columns"),
        (RATINGS, ITEMS.replace("x2", "x3"), {}, r"items\.csv: 1 of 2 rated items have no title, such as 'x2'"),
        (
            RATINGS,
            ITEMS.replace("Second", " "),
            {},
            r"have no title, such as 'x2'\. They have 33\.3% of the ratings.*set untitled_share = 0\.34",
        ),
        (
            RATINGS,
            ITEMS,
            {"separator": ";"},
            r"ratings\.csv: no column 'who'; it has who,what,stars,when.*Or is ';' not its separator",
        ),
        (RATINGS, ITEMS, {"file": "nowhere.csv"}, r"no file 'nowhere\.csv'.*HYBRIDREC_DATA"),
        (RATINGS, ITEMS, {"core": 5}, r"no rating is left with core = 5"),
        (RATINGS, ITEMS, {"colour": "red"}, r"\[ratings\]: unknown key 'colour'.*Known: .*file, "),
        (RATINGS, ITEMS, {"core": "5"}, r"\[ratings\]: core is '5'.*whole number"),
    ],
)
def test_what_is_wrong_with_ones_own_files_is_said(folder, ratings, items, changes, says):
    (folder / "ratings.csv").write_text(ratings, encoding="utf-8")
    (folder / "items.csv").write_text(items, encoding="utf-8")
    with pytest.raises(DatasetError, match=says):
        steps.dataset("mine", GIVEN | changes)


def test_another_encoding_has_to_be_named(folder):
    (folder / "items.csv").write_text(ITEMS.replace("First", "Première"), encoding="latin-1")
    with pytest.raises(DatasetError, match=r"items\.csv, line 2: not utf-8 text"):
        steps.dataset("mine", GIVEN)
    assert steps.dataset("mine", GIVEN | {"encoding": "latin-1"}).items["title"][0] == "Première"


def test_a_file_has_to_be_named():
    with pytest.raises(DatasetError, match=r"missing key 'file'"):
        own.settings({"items_file": "items.csv"})


def test_ones_own_ratings_need_a_name_of_their_own():
    with pytest.raises(DatasetError, match="'ml-100k' is a dataset of this repository"):
        steps.dataset("ml-100k", GIVEN)
