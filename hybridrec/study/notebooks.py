"""Run this repository's notebooks: with an experiment's settings, one run at a time, into ``results/``."""

import ast
import hashlib
import json
import logging
import os
import re
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hybridrec import errors, files
from hybridrec.errors import CommandError, NotebookError
from hybridrec.study import config, paths, progress

# Heavy imports (papermill, pandas) stay inside what needs them: `summary` must be quick.

_CELL_TIMEOUT = 3600
FIRST = "01_data"
ASKS = "04_llm_prompting"
ASK_MODELS = (ASKS, "07_taught_model")  # the only ones that ask language models
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL_FILE = re.compile(r"\S*ipykernel_\d+/\d+\.py")


# --- parameters -----------------------------------------------------------------------------------------------------


def declared_parameters(notebook: Any, name: str) -> dict[str, Any]:
    """The defaults in the notebook's cell tagged ``parameters``, by name.

    The cell is read as Python. papermill's own inspection works on lines of text and skips, with no more than a
    warning, any line that has a second ``=``, be it in a comment.

    Raises:
        CommandError: no such cell, or a line in it that is not ``name = literal``.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise CommandError(f"{name}.ipynb has {len(cells)} cells tagged 'parameters'; it must have one.")
    declared = {}
    for statement in ast.parse(cells[0].source).body:
        of: Any = statement
        targets: list[Any] = of.targets if isinstance(of, ast.Assign) else [getattr(of, "target", None)]
        try:
            declared[targets[0].id] = ast.literal_eval(of.value)
        except (AttributeError, ValueError):
            raise CommandError(
                f"{name}.ipynb, parameters cell: {ast.unparse(statement)!r} is not `name = literal`. "
                "Move what is derived into the next cell."
            ) from None
    return declared


def changed_parameters(settings: config.Experiment, declared: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings that a notebook declares and whose value is not its default already.

    The notebooks' defaults are the default experiment's, so that one adds no cell. The notebook's ``experiment`` is
    the experiment's name.

    Raises:
        CommandError: the notebook declares something that no experiment has.
    """
    values = config.parameters(settings)
    values["experiment"] = values.pop("name")
    unknown = sorted(declared.keys() - values.keys())
    if unknown:
        known = ", ".join(sorted(values))
        raise CommandError(f"{name}.ipynb: parameter {unknown[0]!r} is no setting of an experiment. Known: {known}.")
    # A tuple in the notebook equals the experiment's list.
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in declared.items()}
    return {key: values[key] for key in plain if plain[key] != values[key]}


# --- executed notebooks ---------------------------------------------------------------------------------------------


def normalise(notebook: Any) -> Any:
    """Take out of an executed notebook whatever differs from run to run or from machine to machine.

    Timings, papermill's notes, kernel versions, random identifiers and machine paths go; code and outputs stay.
    """
    notebook.metadata = {"kernelspec": dict(_KERNEL), "language_info": {"name": "python"}}
    for cell in notebook.cells:
        kept = {key: value for key, value in cell.metadata.items() if key not in ("papermill", "execution")}
        cell.metadata = {key: value for key, value in kept.items() if (key, value) != ("tags", [])}
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with neighbouring text of one stream joined: where a kernel cuts it depends on the moment."""
    joined: list[Any] = []
    for output in outputs:
        if output.output_type != "stream":
            joined.append(output)
        elif joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = _CELL_FILE.sub("<cell>", output.text.replace(f"{paths.ROOT}{os.sep}", ""))
    return joined


def run(settings: config.Experiment, name: str) -> Path:
    """Execute one notebook with an experiment's settings; its result replaces the former one only when it is whole.

    One command at a time works on an experiment. If another run makes this result from the same inputs while we wait
    for our turn, it is not made again.

    Raises:
        CommandError: no such notebook, or parameters that do not fit.
        NotebookError: a cell failed; the message says which, and where the notebook was kept.
        LockError: no lock can be had here.
    """
    source = path_of(name)
    if not source.is_file():
        known = ", ".join(names()) or "none"
        raise CommandError(f"no notebook {name!r} in {paths.within_root(paths.NOTEBOOKS)}. There are: {known}.")
    target = paths.results(settings.name) / source.name
    before = _version(target)
    with alone(settings.name):
        if _version(target) != before and _made_from_the_same(settings, name):
            print(f"{name}: done meanwhile by another run; {paths.within_root(target)}", flush=True)
        else:
            _run(settings, source, target)
    return target


def alone(experiment: str) -> AbstractContextManager[None]:
    """Wait until no other command works on the experiment, and keep others waiting; scratch has a lock of its own."""
    return files.lock(paths.work(experiment) / "run.lock", f"run of `{experiment}`")


def _run(settings: config.Experiment, source: Path, target: Path) -> None:
    import nbformat

    name = source.stem
    start, inputs = time.perf_counter(), _inputs(settings, name)  # as they are before anything is read
    declared = declared_parameters(nbformat.read(source, as_version=4), name)
    changed = changed_parameters(settings, declared, name)
    given = ", ".join(f"{key} = {value!r}" for key, value in changed.items())
    print(f"{name}: running" + (f" with {given}" if given else ""), flush=True)
    with progress.journal(journal_of(settings, name)):
        executed = normalise(_execute(source, changed, paths.work(settings.name) / name))
    if "experiment" in changed:
        _add_reading_note(executed, settings.name, name)
        _follow_links_from_results(executed)
    # Before the result, so that there never is a result with the note of an earlier one.
    _note(settings, name).write_text(inputs, encoding="utf-8")
    with files.replacing(target) as partial:
        nbformat.write(executed, partial)
    done = progress.summary(progress.counts([journal_of(settings, name)]))
    seconds = f"{time.perf_counter() - start:.0f} s"
    print(f"{name}: {'; '.join(filter(None, [seconds, done]))}; {paths.within_root(target)}", flush=True)


def journal_of(settings: config.Experiment, name: str) -> Path:
    """Where a notebook's last run notes what it did (see progress.py)."""
    return paths.work(settings.name) / f"{name}.journal.jsonl"


def _note(settings: config.Experiment, name: str) -> Path:
    """Where a notebook's last whole run noted its ``_inputs``."""
    return paths.work(settings.name) / f"{name}.inputs"


def _made_from_the_same(settings: config.Experiment, name: str) -> bool:
    """Whether the result that is there was made from all that we would make it from now.

    Never for the first notebook: it reads files of the user's own, wherever they lie, and takes seconds.
    """
    noted = _note(settings, name)
    return name != FIRST and noted.is_file() and noted.read_text(encoding="utf-8") == _inputs(settings, name)


def _inputs(settings: config.Experiment, name: str) -> str:
    """A hash of what a notebook's result depends on: settings, environment, and when each file was written.

    The files are the notebook, the package, what is read from data/, the recordings, and the tables of the notebooks
    before. A run that adds recordings changes its own inputs, so the next run replays them.
    """
    from hybridrec.study import tables

    made_before = [table for table, notebook in tables.WRITTEN_BY.items() if notebook < name]
    read = [
        path_of(name),
        paths.EXPERIMENTS / f"{settings.name}.md",
        paths.ROOT / "requirements.lock",
        paths.PRICES,
        paths.PUBLISHED,
        *sorted(file for file in (paths.ROOT / "hybridrec").rglob("*") if file.suffix in (".py", ".toml")),
        *sorted(file for file in paths.RECORDINGS.rglob("*") if file.suffix in (".gz", ".jsonl", ".sqlite")),
        *sorted(paths.ADAPTERS.rglob("card.json")),
        *(paths.tables(settings.name) / f"{table}.parquet" for table in made_before),
    ]
    environment = [os.environ.get(f"HYBRIDREC_{variable}") for variable in ("LLM", "RECORDINGS", "DATA")]
    versions = [(str(file), _version(file)) for file in read]
    text = json.dumps([config.parameters(settings), environment, versions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _version(file: Path) -> tuple[int, int] | None:
    """Time and size, which change when a file is written; None if there is no file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _add_reading_note(executed: Any, experiment: str, name: str) -> None:
    """Say above another experiment's notebook whose results it shows, and what differs here.

    What differs is written in notebooks/experiments/EXPERIMENT.md, under the notebook's name as a heading.
    """
    import nbformat

    file = paths.EXPERIMENTS / f"{experiment}.md"
    sections = re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.M)[1:] if file.is_file() else []
    own = next((section.partition("\n")[2] for section in sections if section.partition("\n")[0].strip() == name), "")
    general = (
        f"**This is the experiment `{experiment}`.** Tables, figures and printed sentences are its own. A sentence "
        "that is about `ml-100k` names it."
    )
    cell = nbformat.v4.new_markdown_cell(f"{general}\n\n{own.strip()}".strip(), id="reading-note")
    executed.cells.insert(1, cell)


def _follow_links_from_results(executed: Any) -> None:
    """Make the links of a notebook lead to the same places from results/EXPERIMENT, where no experiment's is moved."""
    for cell in executed.cells:
        if cell.cell_type == "markdown":
            cell.source = _from_results(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _from_results(output.data["text/markdown"])


def _from_results(text: str) -> str:
    """A text's links as they are from results/EXPERIMENT: all notebooks lie side by side there, two folders deep.

    Links of the appendix to what is no notebook stay: it is two folders deep as well.
    """
    text = re.sub(r"\]\((?:\.\./|appendix/)(?=0\w+\.ipynb)", "](", text)
    return re.sub(r"\]\(\.\./(?!\.\./)", "](../../", text)


def _execute(source: Path, changed: dict[str, Any], work: Path) -> Any:
    """The executed notebook, as papermill leaves it."""
    import papermill

    _show_progress_here()
    # The parameters were checked already; papermill would only repeat that it cannot read some of their lines.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    running, failed = work.with_suffix(".running.ipynb"), work.with_suffix(".failed.ipynb")
    try:
        executed = papermill.execute_notebook(
            source,
            running,
            changed,
            kernel_name="python3",
            language="python",
            progress_bar=sys.stderr.isatty(),
            cwd=paths.NOTEBOOKS,
            execution_timeout=None if source.stem in ASK_MODELS else _CELL_TIMEOUT,  # a model may be asked for hours
            extra_arguments=["--log-level=CRITICAL"],  # or each kernel warns that it listens on this machine
        )
    except Exception as error:
        if running.exists():
            running.replace(failed)
        what = _what_failed(error, source.stem).rstrip(".")
        raise NotebookError(f"{what}. The notebook as far as it got: {paths.within_root(failed)}") from None
    running.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    return executed


def _show_progress_here() -> None:
    """Tell the kernel which terminal we are on: it has none of its own (see progress.py)."""
    if sys.stderr.isatty():
        os.environ.setdefault("HYBRIDREC_TERMINAL", os.ttyname(sys.stderr.fileno()))


def _what_failed(error: Any, name: str) -> str:
    """One line about a failure; the kernel's traceback goes before it unless the error is one that explains itself."""
    cell = getattr(error, "exec_count", None)
    if cell is None:
        return f"{name} stopped: {type(error).__name__}: {' '.join(str(error).split())[:500]}."
    if not hasattr(errors, error.ename):
        print(_ANSI.sub("", "\n".join(error.traceback)), file=sys.stderr)
    return f"{name} failed in cell [{cell}]: {error.ename}: {error.evalue}"


def names() -> list[str]:
    """Of all notebooks, in the order in which they run: an appendix, such as 04a, comes after notebook 04."""
    return sorted(file.stem for folder in (paths.NOTEBOOKS, _appendix()) for file in folder.glob("*.ipynb"))


def main_names() -> list[str]:
    """Of those that tell the story: all but the appendix."""
    return sorted(file.stem for file in paths.NOTEBOOKS.glob("*.ipynb"))


def path_of(name: str) -> Path:
    """Where a notebook lies; one that is in the appendix, such as 04a, in a folder of its own."""
    file = _appendix() / f"{name}.ipynb"
    return file if file.is_file() else paths.NOTEBOOKS / f"{name}.ipynb"


def _appendix() -> Path:
    return paths.NOTEBOOKS / "appendix"
