"""Makes the exercises out of their solutions, which are the only source.

    python exercises/blank.py          writes exercises/NN_name.ipynb for every notebook in exercises/solutions/
    python exercises/blank.py --run    runs the solutions first, each in a fresh kernel, and keeps their outputs

In a cell tagged ``exercise``, what a student has to find is replaced by ``...``: the right-hand side of each
assignment, and the body of each function (its docstring stays). Everything else stays as it is, the check included.
"""

import argparse
import ast
import copy
from pathlib import Path
from typing import Any

import nbformat

EXERCISES = Path(__file__).resolve().parent
SOLUTIONS = EXERCISES / "solutions"
_CELL_TIMEOUT = 600  # seconds


def blank(source: str) -> str:
    """A solved cell without its solution.

    Raises:
        ValueError: an assignment to more than one name, which a student could not be given as ``name = ...``.
    """
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.Assign):
            if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
                raise ValueError(f"assign to one name at a time: {ast.unparse(node)}")
            lines[node.lineno - 1 : node.end_lineno] = [f"{node.targets[0].id} = ..."]
        elif isinstance(node, ast.FunctionDef):
            lines[node.body[0].end_lineno : node.end_lineno] = ["    ..."]  # a docstring comes first, always
    return "\n".join(lines)


def exercise(solution: Any) -> Any:
    """The notebook that a student gets: answers blanked, nothing run."""
    notebook = copy.deepcopy(solution)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "exercise" in cell.metadata.get("tags", []):
            cell.source = blank(cell.source)
    return notebook


def run(notebook: Any, folder: Path, parameters: dict[str, Any] | None = None) -> Any:
    """The notebook, executed in a fresh kernel in ``folder``, as it may be committed.

    Raises:
        papermill.PapermillExecutionError: a cell failed; ``ename`` and ``evalue`` say how.
    """
    import tempfile

    import papermill

    from hybridrec.study.notebooks import normalise

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "notebook.ipynb"
        nbformat.write(notebook, file)
        options = {"kernel_name": "python3", "language": "python", "execution_timeout": _CELL_TIMEOUT}
        quiet = {"progress_bar": False, "extra_arguments": ["--log-level=CRITICAL"]}
        return normalise(papermill.execute_notebook(file, file, parameters or {}, cwd=folder, **options, **quiet))


def main() -> None:
    """Write every exercise anew."""
    parser = argparse.ArgumentParser(description="make the exercises out of their solutions")
    parser.add_argument("--run", action="store_true", help="run the solutions first and keep their outputs")
    parser.add_argument("names", nargs="*", help="only these, such as 03_user_triage")
    arguments = parser.parse_args()
    for path in sorted(SOLUTIONS.glob("*.ipynb")):
        if arguments.names and path.stem not in arguments.names:
            continue
        solution = nbformat.read(path, as_version=4)
        if arguments.run:
            print(f"{path.stem}: running", flush=True)
            solution = run(solution, SOLUTIONS)
            nbformat.write(solution, path)
        nbformat.write(exercise(solution), EXERCISES / path.name)


if __name__ == "__main__":
    main()
