"""What no tool checks: notebooks can be read and trusted, and nothing private is committed."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import nbformat
import pytest
from matplotlib.figure import Figure

from hybridrec.study import config, figures, notebooks, paths

# --- notebooks ------------------------------------------------------------------------------------------------------

NOTEBOOKS = {name: notebooks.path_of(name) for name in notebooks.names()}
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


def imports_only(cell: nbformat.NotebookNode) -> bool:
    return all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in ast.parse(cell.source).body)


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


def test_a_notebook_opens_with_a_title_and_the_map_of_the_route(notebook):
    first, map_of_route = notebook.cells[:2]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.fullmatch(r'from hybridrec\.study import figures\n\nfigures\.route\("0\d[a-z]?"\)', map_of_route.source)


def test_code_cells_are_few_short_and_narrow(notebook):
    """Besides the parameters, a line each, and the imports: nobody reads these."""
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    read = [cell for cell in code_cells(notebook) if cell not in tagged and not imports_only(cell)]
    assert len(read) <= 25
    assert [cell.source for cell in read if code_lines(cell) > 12] == []
    assert [line for cell in code_cells(notebook) for line in cell.source.splitlines() if len(line) > 88] == []


def test_a_heading_begins_a_cell_of_its_own(notebook):
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert sum(text.startswith("## ") for text in prose) > 5
    assert [text for text in prose if re.search(r"\n##+ ", text)] == []


def test_a_notebook_shows_no_machines_paths(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)  # base64 holds slashes too
    text = nbformat.writes(notebook)
    found = [text[max(0, hit.start() - 40) : hit.end() + 40] for hit in _MACHINE_PATH.finditer(text)]
    assert not found


def test_machine_paths_are_recognised():
    private = ["read from /" + "root/data", '"/' + 'work/main/x.py"', "saved to /home/me/results", "C:" + r"\\Users"]
    assert [text for text in private if not _MACHINE_PATH.search(text)] == []
    assert not _MACHINE_PATH.search("https://arxiv.org/home/me or data/tmp/x and and/or")


def test_a_committed_notebook_was_executed_in_order_from_a_fresh_kernel(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_a_committed_notebook_ran_without_an_error(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert outputs, "no cell has an output: run `make reproduce` and commit the executed notebooks"
    assert not [output for output in outputs if output.output_type == "error"]


def test_every_figure_is_shown_in_a_notebook():
    drawn = {
        name for name, made in vars(figures).items() if getattr(made, "__annotations__", {}).get("return") is Figure
    }
    code = "\n".join(cell.source for path in NOTEBOOKS.values() for cell in code_cells(nbformat.read(path, 4)))
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


def test_private_text_is_recognised():
    lines = [b"cd /" + b"work/main", b"/" + b"root/.cache", b"--index-url https://mirror.example" + b"/simple/"]
    lines += [b"see pypi" + b".org", b"files.pythonhosted" + b".org"]
    assert [line for line in lines if not _PRIVATE.search(line)] == []
