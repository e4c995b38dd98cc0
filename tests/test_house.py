"""The house rules: imports point down, everything public is documented and typed, notebooks can be read and trusted."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest

from hybridrec.study import config, paths

# Every module of the package, from the ground up. Packages themselves (__init__) are the ground and import nothing.
LLM = "answers batch chat limits local models prompts rankers recordings runner scoring shuffles".split()
SOURCES = "book_crossing canonical movielens own".split()
FLOORS: list[set[str]] = [
    {"hybridrec", "llm", "sources", "paths", "randomness", "progress", "experiment", "files"},
    {"downloads", "metrics", "places", "prices", "tables", "statistics", "cornac_models"},
    {"datasets", "splits", *(f"sources.{room}" for room in SOURCES)},
    {"fits"},
    {"fingerprint"},
    {"recommenders", "triage", "triage_rules", "nulls", *(f"llm.{room}" for room in LLM)},
    {"hybrid", "evaluation", "claims", "topk", "costs", "enough"},
    {"figures", "seeds"},
    {"overview"},
    {"__main__"},
]
FLOOR_OF = {module: number for number, modules in enumerate(FLOORS) for module in modules}


def module_name(path: Path) -> str:
    """``llm.rankers`` for hybridrec/llm/rankers.py, ``llm`` for its __init__, ``hybridrec`` for the package's own."""
    parts = path.relative_to(paths.ROOT / "hybridrec").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "hybridrec"


MODULES = {module_name(path): path for path in sorted((paths.ROOT / "hybridrec").rglob("*.py"))}


def imports(source: str, package: str = "hybridrec") -> set[str]:
    """Modules of ours that a source text imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if _ours(name) in MODULES else base for name in inner}
    return {_ours(name) for name in found if name.split(".")[0] == "hybridrec"}


def _ours(dotted: str) -> str:
    return dotted.removeprefix("hybridrec.")


def graph() -> dict[str, set[str]]:
    """What each module imports, relative imports resolved within its own package."""
    first = {name: name.split(".")[0] for name in MODULES}
    package = {name: f"hybridrec.{first[name]}" if first[name] in ("llm", "sources") else "hybridrec" for name in first}
    return {name: imports(path.read_text(encoding="utf-8"), package[name]) for name, path in MODULES.items()}


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import hybridrec.paths", "hybridrec", {"paths"}),
        ("import numpy, hybridrec.llm.prompts as p", "hybridrec", {"llm.prompts"}),
        ("from hybridrec import paths, splits as s", "hybridrec", {"paths", "splits"}),
        ("from hybridrec import __version__", "hybridrec", {"hybridrec"}),
        ("from hybridrec.hybrid import ORACLE", "hybridrec", {"hybrid"}),
        ("def f():\n    from hybridrec.llm import local", "hybridrec", {"llm.local"}),
        ("from . import prompts", "hybridrec.llm", {"llm.prompts"}),
        ("from .prompts import Item", "hybridrec.llm", {"llm.prompts"}),
        ("from .. import paths", "hybridrec.llm", {"paths"}),
        ("from ..paths import ROOT", "hybridrec.llm", {"paths"}),
        ("import hybridrecords, paths\nfrom statistics import mean", "hybridrec", set()),
    ],
)
def test_imports_are_found_however_they_are_written(source, package, found):
    assert imports(source, package) == found


def test_every_module_has_a_floor_and_every_floor_its_modules():
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_point_down(module):
    upwards = {other for other in graph()[module] if FLOOR_OF[other] > FLOOR_OF[module]}
    assert not upwards, f"{module} stands on floor {FLOOR_OF[module]} and imports from above: {sorted(upwards)}"


def test_imports_have_no_circles():
    edges = graph()
    assert {"hybrid", "statistics"} <= edges["evaluation"]
    order = list(TopologicalSorter(edges).static_order())  # raises CycleError, which names the circle
    assert order.index("metrics") < order.index("triage")


@pytest.mark.parametrize("package", ["hybridrec", "llm", "sources"])
def test_packages_import_nothing(package):
    assert not graph()[package]


# --- documentation and types ----------------------------------------------------------------------------------------

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, Definition) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def untyped(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Arguments without a type, and "return" where the result has none."""
    of = function.args
    given = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, [of.vararg, of.kwarg])]
    names = [arg.arg for arg in given if arg.annotation is None and arg.arg not in ("self", "cls")]
    return names + ["return"] * (function.returns is None)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    silent = [name for name, node in public(tree) if not ast.get_docstring(node)]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    assert not silent


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_fully_typed(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    functions = {name: node for name, node in public(tree) if not isinstance(node, ast.ClassDef)}
    assert {name: untyped(node) for name, node in functions.items() if untyped(node)} == {}


def test_a_missing_type_is_found():
    function = ast.parse("def f(self, a: int, b, *c, d=1, **e: int): ...").body[0]
    assert untyped(function) == ["b", "d", "c", "return"]


# --- notebooks ------------------------------------------------------------------------------------------------------

NOTEBOOKS = {path.stem: path for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))}
_MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:work|root|home|tmp|Users|usr|opt|mnt|var)/\w|\b[A-Z]:\\\\\w")


@pytest.fixture(params=NOTEBOOKS)
def notebook(request) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[request.param], as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: nbformat.NotebookNode) -> str:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def code_lines(cell: nbformat.NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def test_the_six_notebooks_are_there():
    assert [name[:2] for name in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


def test_a_notebook_asks_for_any_python_3_kernel(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_every_parameter_is_typed_and_explained(notebook):
    source = parameters_cell(notebook)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    explained = {token.start[0] for token in tokens if token.type == tokenize.COMMENT and len(token.string) > 2}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign), f"{ast.unparse(statement)!r} has no type"
        assert statement.end_lineno in explained, f"{ast.unparse(statement)!r} has no comment"


def test_parameters_are_settings_and_default_to_the_default_experiments(notebook):
    declared = {node.target.id: ast.literal_eval(node.value) for node in ast.parse(parameters_cell(notebook)).body}
    settings = config.parameters(config.load("ml-100k"))
    settings["experiment"] = settings.pop("name")
    assert declared == {name: settings.get(name, "not a setting") for name in declared}
    assert "experiment" in declared


def test_code_cells_are_short_and_stand_after_prose(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert max(code_lines(cell) for cell in code_cells(notebook)) <= 20


def test_there_is_more_prose_than_code(notebook):
    prose = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose >= 3 * sum(code_lines(cell) for cell in code_cells(notebook))


def test_a_notebook_shows_no_machines_paths(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)  # base64 holds slashes too
    text = nbformat.writes(notebook)
    found = [text[max(0, hit.start() - 40) : hit.end() + 40] for hit in _MACHINE_PATH.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read from /" + "root/data", True),
        ('"/' + 'work/main/x.py"', True),
        ("saved to /home/me/results", True),
        ("C:" + r"\\Users", True),
        ("https://arxiv.org/home/me", False),
        ("data/tmp/x and and/or", False),
    ],
)
def test_machine_paths_are_recognised(text, expected):
    assert bool(_MACHINE_PATH.search(text)) is expected


def test_a_committed_notebook_was_executed_in_order_from_a_fresh_kernel(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_a_committed_notebook_ran_without_an_error(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert outputs, "no cell has an output: run `make reproduce` and commit the executed notebooks"
    assert not [output for output in outputs if output.output_type == "error"]


def test_every_figure_is_shown_in_a_notebook():
    functions = dict(public(ast.parse(MODULES["figures"].read_text(encoding="utf-8"))))
    drawn = {name for name, node in functions.items() if node.returns and ast.unparse(node.returns) == "Figure"}
    code = "\n".join(cell.source for path in NOTEBOOKS.values() for cell in code_cells(nbformat.read(path, 4)))
    code += MODULES["overview"].read_text(encoding="utf-8")  # what all experiments say together is in no notebook
    assert len(drawn) > 5
    assert {name for name in drawn if not re.search(rf"\bfigures\.{name}\(", code)} == set()


# --- what is committed ----------------------------------------------------------------------------------------------

# Written so that none of these patterns matches its own text.
_PRIVATE = re.compile(rb"/wor[k]/|/roo[t]/|\.\./share[d]|\bpypi\.\w|pythonhosted\.\w|https?://[^\s\"')]+/simple\b")
_EXCEPT = {".ci/run": {b"../share" + b"d"}}


def tracked_files() -> list[Path]:
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, check=True).stdout
    return [paths.ROOT / name for name in listed.decode().split("\0") if name and (paths.ROOT / name).is_file()]


def test_no_tracked_file_names_a_machines_folder_or_a_package_index():
    files = tracked_files()
    assert paths.ROOT / "pyproject.toml" in files
    found = {}
    for path in files:
        name = str(path.relative_to(paths.ROOT))
        hits = set(_PRIVATE.findall(path.read_bytes())) - _EXCEPT.get(name, set())
        if hits:
            found[name] = hits
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        b"cd /" + b"work/main",
        b"/" + b"root/.cache",
        b"--index-url https://mirror.example" + b"/simple/",
        b"see pypi" + b".org",
        b"files.pythonhosted" + b".org",
    ],
)
def test_private_text_is_recognised(line):
    assert _PRIVATE.search(line)
