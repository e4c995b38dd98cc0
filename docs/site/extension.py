"""What Sphinx lacks for this site: navigation, alternative texts, folded code, places to run, results, formulas."""

import csv
import functools
import html
import json
import operator
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math import latex2mathml
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

from hybridrec.study import answers, figures, notebooks, overview, paths

HERE = Path(__file__).parent
LOG = logging.getLogger(__name__)
ROWS_SHOWN = 40  # a longer table is for a spreadsheet
_SVG = "{http://www.w3.org/2000/svg}"
_SAVED = re.compile(r'figures\.save\(.*,\s*output,\s*"(\w+)"', re.S)
_DRAWN = re.compile(r"figures\.(?!save\b)((?:\w+\.)?\w+)\(")  # or of a module: figures.allocation.frontier(


# --- sources ----------------------------------------------------------------------------------------------------------


def read_source(app: Sphinx, page: str, source: list[str]) -> None:
    """The README with the navigation; the repository's address where it is known."""
    if page == "README":
        source[0] += (HERE / "navigation.md").read_text(encoding="utf-8")
    if page == "docs/teaching" and app.config.repository:
        source[0] = source[0].replace(PLACEHOLDER, _REPOSITORY.fullmatch(app.config.repository)["slug"])


def add_index(app: Sphinx, error: Exception | None) -> None:
    """The README is also what a server shows for the folder, and whole tables lie where notebooks link to them."""
    if error is None and app.builder.format == "html":
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")
        for table in paths.RESULTS.glob("*/*.csv"):
            target = Path(app.outdir) / table.relative_to(paths.ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(table, target)


class LinksToFolders(SphinxTransform):
    """A link to a folder stays as its text: a folder has no page. Any other lost link is a warning."""

    default_priority = 200

    def apply(self) -> None:
        """Look at the links that are not resolved yet."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link["reftype"] == "myst" and (here / link["reftarget"]).is_dir():
                link.replace_self(link.children)


# --- alternative texts ------------------------------------------------------------------------------------------------


@functools.cache
def drawn_by() -> dict[str, str]:
    """The function of hybridrec.study.figures that draws each published figure, read from the notebooks' code."""
    cells = [cell.source for name in notebooks.names() for cell in nbformat.read(notebooks.path_of(name), 4).cells]
    found = [(_SAVED.search(cell), _DRAWN.search(cell)) for cell in cells]
    return {saved[1]: drawn[1] for saved, drawn in found if saved and drawn}


def _texts(group: ElementTree.Element) -> list[str]:
    """The texts that stand in a group itself, not in its parts (ticks and legends are parts)."""
    own = [part for part in group if part.get("id", "").startswith("text_")]
    return [" ".join(text.itertext()).strip() for part in own for text in part.iter(f"{_SVG}text")]


def _parts(group: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [part for part in group.iter(f"{_SVG}g") if re.fullmatch(rf"{kind}_\d+", part.get("id", ""))]


def words_of(svg: Path) -> str:
    """Titles, axes and legend of a figure that matplotlib wrote, as one sentence a panel.

    Args:
        svg: written with ``svg.fonttype = none``, so that texts are texts.
    """
    figure = ElementTree.parse(svg).getroot()
    sentences = []
    for panel in _parts(figure, "axes"):
        labels = (" ".join(_texts(axis)) for axis in _parts(panel, "matplotlib.axis"))  # none where axes are off
        axes = [f"{name}: {label}" for name, label in zip(("across", "up"), labels, strict=False) if label]
        sentences.append("; ".join([*_texts(panel)[-1:], *axes]))
    keys = [" ".join(text.itertext()).strip() for part in _parts(figure, "legend") for text in part.iter(f"{_SVG}text")]
    if keys:
        sentences.append("Key: " + ", ".join(dict.fromkeys(keys)))
    return " ".join(f"{sentence.rstrip('.')}." for sentence in dict.fromkeys(sentences) if sentence)


def alternative_text(experiment: str, figure: str) -> str:
    """What a published figure shows: what its function says of itself, and the words in the picture."""
    return f"{_says(drawn_by()[figure])} {words_of(paths.RESULTS / experiment / f'{figure}.svg')}"


class AlternativeTexts(SphinxTransform):
    """Gives each figure of a notebook its alternative text, and a link to itself in full size."""

    default_priority = 200

    def apply(self) -> None:
        """Find the figure by the name under which its cell saved it; whatever cannot be described is a warning."""
        page = self.env.docname
        experiment = page.split("/")[1] if page.startswith("results/") else "ml-100k"
        for image in self.document.findall(nodes.image):
            image["scale"] = 100  # Sphinx then writes the size, and links to the picture
            cell = _cell_of(image)
            if cell and not image.get("alt"):
                image["alt"] = _text_for(cell, experiment) or ""
            if not image.get("alt"):
                LOG.warning("a figure without alternative text: save it with figures.save, or set alt", location=image)


def _cell_of(image: nodes.image) -> str:
    """The code of the cell that an image came from, or nothing."""
    above = image.parent
    while above is not None and above.get("nb_element") != "cell_code":
        above = above.parent
    return next((code.astext() for code in above.findall(nodes.literal_block)), "") if above is not None else ""


def _text_for(code: str, experiment: str) -> str | None:
    saved, drawn = _SAVED.search(code), _DRAWN.search(code)
    if saved:
        return alternative_text(experiment, saved[1])
    return _says(drawn[1]) if drawn else None


def _says(function: str) -> str:
    """What a function of hybridrec.study.figures says of its figure."""
    return " ".join(operator.attrgetter(function)(figures).__doc__.split("\n\n")[0].split())


# --- code that folds --------------------------------------------------------------------------------------------------


class Fold(nodes.container):
    """Code that the reader may open or close; ``open``: it is open at first."""


def _open_fold(writer: HTML5Translator, node: Fold) -> None:
    lines = len(node.astext().splitlines())
    summary = f"code, {lines} line{'s' if lines > 1 else ''}"
    writer.body.append(f'<details class="code"{" open" * node["open"]}><summary>{summary}</summary>\n')


def _close_fold(writer: HTML5Translator, node: Fold) -> None:
    writer.body.append("</details>\n")


class FoldedCode(SphinxTransform):
    """The code of each cell folds. Open at first is what a reader needs: not parameters, imports, calls that draw."""

    default_priority = 201  # AlternativeTexts reads the cells first

    def apply(self) -> None:
        """Put each cell's code into a fold, and on its page a control for all of them."""
        cells = [one for one in self.document.findall(nodes.container) if one.get("nb_element") == "cell_code"]
        for cell in cells:
            code = cell.children[0] if cell.children else None
            if code is not None and code.get("nb_element") == "cell_code_source":
                cell.replace(code, Fold("", code, open=not _in_the_way(cell, code.astext())))
        title = next(iter(self.document.findall(nodes.title)), None)
        if cells and title is not None:
            at = title.parent.index(title) + 1
            title.parent.insert(at, nodes.raw("", _controls(self.env.docname, self.config.repository), format="html"))


def _in_the_way(cell: nodes.container, code: str) -> bool:
    """Whether a cell's code tells a reader little: parameters, what begins with imports, and what draws a figure."""
    drawn = any(True for _ in cell.findall(nodes.image))
    return drawn or "tag_parameters" in cell["classes"] or code.lstrip().startswith(("import ", "from "))


# --- places to run a notebook -----------------------------------------------------------------------------------------

_REPOSITORY = re.compile(r"https://github[.]com/(?P<slug>[\w-]+/[\w.-]+)")
PLACEHOLDER = "OWNER/REPO"  # what pages say where the address belongs
PLACES = {
    "Run on Binder": "https://mybinder.org/v2/gh/{slug}/HEAD?urlpath=lab/tree/{file}",
    "Run in a Codespace": "https://codespaces.new/{slug}",
    "Read in Colab": "https://colab.research.google.com/github/{slug}/blob/main/{file}",
}


def check_repository(app: Sphinx, config: Config) -> None:
    """Nothing, or an address that buttons can be made from.

    Raises:
        ConfigError: it is something else.
    """
    given = config.repository
    if given and (not (found := _REPOSITORY.fullmatch(given)) or found["slug"] == PLACEHOLDER):
        raise ConfigError(
            f"repository is {given!r}: give an address like https://github.com/name/repository, or nothing"
        )


def places(page: str, repository: str) -> dict[str, str]:
    """Where a notebook can be run, by label. Nowhere without a repository; results are for reading."""
    if not repository or not page.startswith(("notebooks/", "exercises/")):
        return {}
    slug = _REPOSITORY.fullmatch(repository)["slug"]
    return {label: address.format(slug=slug, file=f"{page}.ipynb") for label, address in PLACES.items()}


def _controls(page: str, repository: str) -> str:
    """What stands under a notebook's title: a control that the page's script shows, and places to run it."""
    links = [f'<a href="{html.escape(to)}">{label}</a>' for label, to in places(page, repository).items()]
    return f'<p class="controls"><button type="button" id="all-code" hidden></button>{"".join(links)}</p>'


# --- pages of results -------------------------------------------------------------------------------------------------


class Results(SphinxDirective):
    """``results NAME``: an experiment's four answers, then all its figures and tables in the order of the notebooks."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Written as Markdown, and read as if it stood on the page."""
        metrics = json.loads((paths.RESULTS / self.arguments[0] / "metrics.json").read_text(encoding="utf-8"))
        four = answers.markdown(["question", "answer (95 % interval)"], [*answers.four(metrics).items()])
        lines, last = ["## The four answers", "", four, ""], ""
        for name, notebook, section, _ in overview.made_by():
            if (notebook, section) != last:
                last = (notebook, section)
                lines += [f"## {notebook[:2]}, {section.split('. ', 1)[-1]}", ""]
            lines += _shown(self.arguments[0], name)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _shown(experiment: str, name: str) -> list[str]:
    """The Markdown that shows a figure, or a table that folds; nothing where the experiment has none of that name."""
    table = paths.RESULTS / experiment / f"{name}.csv"
    where = f"/results/{experiment}/{name}"
    if table.with_suffix(".png").is_file():
        return [f"![{alternative_text(experiment, name)}]({where}.png)", ""]
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    link = f"[{name}.csv]({where}.csv) ({rows} rows)"
    if not 0 < rows <= ROWS_SHOWN:
        return [link, ""]
    table = f":::{{csv-table}}\n:file: {where}.csv\n:header-rows: 1\n:::"
    return ["<details>", f"<summary>{name}, {rows} rows</summary>", "", link, "", table, "", "</details>", ""]


# --- formulas ---------------------------------------------------------------------------------------------------------


def _formula(writer: nodes.NodeVisitor, node: nodes.Element) -> None:
    """MathML, by docutils' own translator: a formula that it cannot do ends the build."""
    block = isinstance(node, nodes.math_block)
    writer.body.append(latex2mathml.tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_config_value("repository", "", "env", str)
    app.connect("config-inited", check_repository)
    app.connect("source-read", read_source)
    app.connect("build-finished", add_index)
    app.add_transform(LinksToFolders)
    app.add_transform(AlternativeTexts)
    app.add_transform(FoldedCode)
    app.add_node(Fold, html=(_open_fold, _close_fold))
    app.add_directive("results", Results)
    app.add_lexer("csv", TextLexer)
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
