"""The site as built: it needs no other server, no link leads nowhere, figures can be heard, nothing is left out."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import published_numbers
import pytest
from bs4 import BeautifulSoup
from sphinx.errors import ConfigError

from hybridrec.study import answers, notebooks, paths

pytestmark = pytest.mark.slow

STUDY = notebooks.names()
EXPERIMENTS = sorted(page.stem for page in (paths.ROOT / "docs" / "results").glob("*.md"))
SUMMARIES = ("overview.csv", "verdicts.csv", "seeds.csv", "overview.png")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of a site built from nothing; a page that is missing or not in the navigation is a failure here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs/site"]
    command += ["-d", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site) -> dict[str, BeautifulSoup]:
    """Every page, by its address from the site's root."""
    found = sorted(site.rglob("*.html"))
    return {str(file.relative_to(site)): BeautifulSoup(file.read_bytes(), "html.parser") for file in found}


# --- without a network ------------------------------------------------------------------------------------------------

_ELSEWHERE = re.compile(r"^\s*(?:\w+:)?//")
_FROM_CSS = re.compile(r"(?:url\(|@import)\s*[\"']?((?:\w+:)?//[^\s\"')]+)")


def loaded_from_elsewhere(page: BeautifulSoup) -> list[str]:
    """What a browser would fetch from another server to show a page; links to follow are none of it."""
    addresses = [tag[key] for key in ("src", "data", "poster") for tag in page.select(f"[{key}]")]
    addresses += [part.split()[0] for tag in page.select("[srcset]") for part in tag["srcset"].split(",")]
    addresses += [tag["href"] for tag in page.select("link[href]:not([rel=canonical])")]
    styles = [tag.get_text() for tag in page.select("style")] + [tag["style"] for tag in page.select("[style]")]
    return [one for one in addresses if _ELSEWHERE.match(one)] + _FROM_CSS.findall("\n".join(styles))


def test_no_page_loads_anything_from_another_server(site, pages):
    assert {name: found for name, page in pages.items() if (found := loaded_from_elsewhere(page))} == {}
    assert {css.name: _FROM_CSS.findall(css.read_text(encoding="utf-8")) for css in site.rglob("*.css")} != {}
    assert [css.name for css in site.rglob("*.css") if _FROM_CSS.search(css.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img src="http://badge.example/x.svg">',
        '<img src="a.png" srcset="b.png 1x, https://cdn.example/b.png 2x">',
        "<style>@import 'https://fonts.example/x.css';</style>",
        '<p style="background: url(https://cdn.example/x.png)">',
        '<iframe src="https://video.example"></iframe>',
    ],
)
def test_what_is_loaded_from_another_server_is_found(html):
    assert loaded_from_elsewhere(BeautifulSoup(html, "html.parser"))


def test_links_and_pictures_in_the_page_are_not_loaded_from_elsewhere():
    html = '<a href="https://arxiv.org">x</a><img src="data:image/png;base64,AA"><script src="x.js"></script>'
    assert not loaded_from_elsewhere(BeautifulSoup(html, "html.parser"))


# --- links ------------------------------------------------------------------------------------------------------------


def dangling(site: Path, name: str, pages: dict[str, BeautifulSoup]) -> list[str]:
    """The links of a page that lead to no file of the site, or to no place on its page."""
    found = []
    for link in pages[name].select("a[href]"):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc:
            continue
        target = (site / name).parent / unquote(parts.path) if parts.path else site / name
        target = target / "index.html" if target.is_dir() else target
        page = pages.get(str(target.resolve().relative_to(site.resolve()))) if target.is_file() else None
        lost = parts.fragment and page and not page.find(id=unquote(parts.fragment))
        if not target.is_file() or lost:
            found.append(link["href"])
    return found


def test_every_link_within_the_site_leads_somewhere(site, pages):
    assert {name: found for name in pages if (found := dangling(site, name, pages))} == {}


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    html = '<p id="a"></p><a href="#a"></a><a href="#b"></a><a href="x.csv"></a><a href="p.html"></a>'
    (tmp_path / "p.html").write_text(html, encoding="utf-8")
    assert dangling(tmp_path, "p.html", {"p.html": BeautifulSoup(html, "html.parser")}) == ["#b", "x.csv"]


def test_the_notebooks_lead_from_one_to_the_next(pages):
    for here, there in pairwise(notebooks.main_names()):
        assert pages[f"notebooks/{here}.html"].select_one("link[rel=next]")["href"] == f"{there}.html"
        assert pages[f"notebooks/{there}.html"].select_one("link[rel=prev]")["href"] == f"{here}.html"


# --- content ----------------------------------------------------------------------------------------------------------


def test_the_front_page_shows_the_four_answers(pages):
    front = pages["index.html"]
    shown = front.select_one("#what-we-found table").get_text("|", strip=True)
    made = re.sub(r"\*\*|`", "|", published_numbers.TABLES["four in short"]())
    assert [cell for cell in re.split(r"\s*\|\s*", shown) if cell] == [
        cell for cell in re.split(r"\s*\|\s*", made) if cell not in ("", "---")
    ]
    assert front.select_one("article img")


def test_the_numbers_of_the_front_page_and_of_the_findings_are_those_of_the_results(pages):
    for page, source in (("index.html", "README.md"), ("docs/findings.html", "docs/findings.md")):
        text = pages[page].select_one("article").get_text()
        for one in published_numbers.sentences(source):
            if one.text.startswith("|"):
                continue  # the cells of a row are elements of their own
            plain = re.sub(r"\*\*|`|\]\([^)]*\)|\[", "", one.text).replace("'", "’")
            for part in published_numbers.numbers_in(text, dataclasses.replace(one, text=plain)):
                assert published_numbers.anew(text, part) == text[part.start : part.end]


def test_every_figure_has_an_alternative_text_in_words(pages):
    figures = [(name, image) for name, page in pages.items() for image in page.select("article img")]
    assert len(figures) > 100
    short = [(name, image["src"]) for name, image in figures if len(image.get("alt", "").split()) < 5]
    assert short == []


def test_all_code_of_a_notebook_folds_and_what_teaches_is_open(pages):
    for name in STUDY:
        file = notebooks.path_of(name)
        cells = [one for one in nbformat.read(file, 4).cells if one.cell_type == "code" and one.source]
        page = pages[str(file.relative_to(paths.ROOT).with_suffix(".html"))]
        folds = page.select("details.code")
        assert len(folds) == len(cells)
        is_open = dict(zip((cell.id for cell in cells), (fold.has_attr("open") for fold in folds), strict=True))
        tagged = [cell.id for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        assert tagged and not any(is_open[one] for one in tagged)
        drawn = [cell.id for cell in cells if any("image/png" in one.get("data", {}) for one in cell.outputs)]
        assert not any(is_open[one] for one in drawn)
        assert any(is_open.values())
        assert page.select_one("button#all-code[hidden]")  # the page's script shows it


def test_the_answers_of_a_quiz_are_folded(pages):
    quizzes = [page for name, page in pages.items() if name.startswith("docs/quiz/0")]
    assert len(quizzes) == len(notebooks.main_names())
    for page in quizzes:
        answers = page.select("article details")
        assert len(answers) >= 4 and all(one.select("p") and not one.has_attr("open") for one in answers)


def test_formulas_need_no_script(pages):
    triage = pages["notebooks/03_user_triage.html"]
    assert len(triage.select("math")) > 5
    assert not [name for name, page in pages.items() if page.select(".math") or "\\(" in page.select_one("body").text]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_table_and_figure_of_the_results_can_be_reached(site, pages):
    addresses = [(name, link["href"]) for name, page in pages.items() for link in page.select("a[href]")]
    targets = {(site / name).parent / unquote(urlsplit(link).path) for name, link in addresses}
    reached = {digest(file) for file in targets if file.is_file()}
    published = [paths.RESULTS / name for name in SUMMARIES]
    for experiment in EXPERIMENTS:
        published += [*(paths.RESULTS / experiment).glob("*.csv"), *(paths.RESULTS / experiment).glob("*.png")]
        published.append(paths.RESULTS / experiment / "metrics.json")
    assert len(published) > 100
    assert [paths.within_root(file) for file in published if digest(file) not in reached] == []


def test_every_experiment_is_there_with_its_executed_notebooks(pages):
    assert {"book-crossing", "ml-100k", "ml-latest-small-2016"} <= set(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        for name in STUDY:
            file = notebooks.path_of(name) if experiment == "ml-100k" else paths.RESULTS / experiment / f"{name}.ipynb"
            assert str(file.relative_to(paths.ROOT).with_suffix(".html")) in pages


def test_the_page_of_a_dataset_begins_with_its_answers_and_folds_its_tables(pages):
    for experiment in EXPERIMENTS:
        page = pages[f"docs/results/{experiment}.html"]
        found = json.loads((paths.RESULTS / experiment / "metrics.json").read_text(encoding="utf-8"))
        told = page.select_one("#the-four-answers").get_text(" ", strip=True)
        for question, answer in answers.four(found).items():
            numbers = re.findall(r"\d[\d.,]*\d", answer)
            assert question in told and numbers and all(one in told for one in numbers)
        tables = page.select("article section table")[1:]
        assert len(tables) > 15 and all(one.find_parent("details") for one in tables)
        assert all(one.select_one("summary").get_text() for one in page.select("article details"))


def test_the_notebooks_left_out_are_the_same_as_those_shown():
    for name in STUDY:
        assert digest(paths.RESULTS / "ml-100k" / f"{name}.ipynb") == digest(notebooks.path_of(name))


def test_no_solution_of_an_exercise_is_shown(site, pages):
    links = [link["href"] for page in pages.values() for link in page.select("a[href]")]
    local = [link for link in links if "//" not in link]
    assert len(local) > 1000
    assert not [name for name in [*map(str, site.rglob("*")), *local] if "solution" in name.lower()]


def test_the_glossary_explains_the_words_of_the_study(pages):
    heads = pages["docs/glossary.html"].select("article h3")
    terms = {head.get_text(strip=True).rstrip("¶#").replace("’", "'") for head in heads}
    assert {"weak user", "P(u)", "sparsity index", "t_p", "t_s", "AUC", "NDCG@10", "CVaR10", "out-of-fold"} <= terms
    assert {"null control", "regression to the mean", "harm rate", "Holm's correction", "bootstrap interval"} <= terms
    assert {"arm", "uplift", "policy", "frontier", "conformal risk control", "adapter"} <= terms
    assert {"grade", "reading the user", "beyond the item", "memorisation probe", "users held back"} <= terms
    assert {"hand-over", "the bar", "smallest detectable effect", "verdict", "protocol cross"} <= terms


# --- places to run a notebook -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extension():
    spec = importlib.util.spec_from_file_location("extension", paths.ROOT / "docs" / "site" / "extension.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_without_a_repository_there_is_no_button_that_leads_nowhere(pages, extension):
    assert [name for name, page in pages.items() if page.select(".controls a")] == []
    assert extension.places("notebooks/01_data", "") == {}


def test_buttons_are_made_from_the_one_setting_and_lead_to_files_that_are_there(extension):
    repository = "https://github.com/some-one/the.study"
    found = [extension.places(f"notebooks/{name}", repository) for name in notebooks.main_names()]
    found += [extension.places(f"exercises/{name}", repository) for name in notebooks.main_names()]
    for places in found:
        binder, codespace, colab = (urlsplit(one) for one in places.values())
        assert (binder.scheme, binder.netloc, binder.path) == (
            "https",
            "mybinder.org",
            "/v2/gh/some-one/the.study/HEAD",
        )
        assert (codespace.netloc, codespace.path) == ("codespaces.new", "/some-one/the.study")
        start = "/github/some-one/the.study/blob/main/"
        assert colab.netloc == "colab.research.google.com" and colab.path.startswith(start)
        file = colab.path.removeprefix(start)
        assert binder.query == f"urlpath=lab/tree/{file}"
        assert (paths.ROOT / file).is_file()
    assert extension.places("results/book-crossing/01_data", repository) == {}


@pytest.mark.parametrize(
    "given", ["some-one/the.study", "https://github.com/OWNER/REPO", "https://github.com/x", "//a/b"]
)
def test_what_is_no_address_of_a_repository_is_refused(extension, given):
    with pytest.raises(ConfigError, match="give an address like"):
        extension.check_repository(None, type("Config", (), {"repository": given}))
    extension.check_repository(None, type("Config", (), {"repository": ""}))
