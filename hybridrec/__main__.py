"""The command line: ``python -m hybridrec COMMAND EXPERIMENT``. The Makefile calls nothing else."""

import argparse
import ast
import csv
import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from hybridrec import experiment as experiments
from hybridrec import files, paths, progress

# Heavy imports (papermill, pandas, torch) stay inside the commands that need them: `summary` must be quick.

_CELL_TIMEOUT = 3600
_FIRST = "01_data"
_WRITING = (
    "batch",
    "import",
    "seeds",
    "compact",
    "fingerprint",
)  # the commands that write, beside `run`, which looks after itself
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_SHOWN = "claim recommender ranker published replicated null_control held_out p_holm verdict".split()
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL_FILE = re.compile(r"\S*ipykernel_\d+/\d+\.py")


class CommandError(Exception):
    """Something that the user can mend; shown as one line."""


class NotebookError(Exception):
    """A notebook that did not run to its end; shown as one line."""


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
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        try:
            declared[targets[0].id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise CommandError(
                f"{name}.ipynb, parameters cell: {ast.unparse(statement)!r} is not `name = literal`. "
                "Move what is derived into the next cell."
            ) from None
    return declared


def changed_parameters(settings: experiments.Experiment, declared: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings that a notebook declares and whose value is not its default already.

    The notebooks' defaults are the default experiment's, so that one adds no cell. The notebook's ``experiment`` is
    the experiment's name.

    Raises:
        CommandError: the notebook declares something that no experiment has.
    """
    values = experiments.parameters(settings)
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


def run(settings: experiments.Experiment, name: str) -> Path:
    """Execute one notebook with an experiment's settings; its result replaces the former one only when it is whole.

    One command at a time works on an experiment. If another run makes this result while we wait for our turn, and
    from what we would make it from, it is not made again.

    Raises:
        CommandError: no such notebook, or parameters that do not fit.
        NotebookError: a cell failed; the message says which, and where the notebook was kept.
        LockError: no lock can be had here.
    """
    source = paths.NOTEBOOKS / f"{name}.ipynb"
    if not source.is_file():
        known = ", ".join(_notebooks()) or "none"
        raise CommandError(f"no notebook {name!r} in {paths.within_root(paths.NOTEBOOKS)}. There are: {known}.")
    if settings.ratings and name == _FIRST:
        data(settings)  # says in a second what would fail later, or after hours
    target = paths.results(settings.name) / source.name
    before = _version(target)
    with _alone(settings.name):
        if _version(target) != before and _made_from_the_same(settings, name):
            print(f"{name}: done meanwhile by another run; {paths.within_root(target)}", flush=True)
        else:
            _run(settings, source, target)
    return target


def _alone(experiment: str) -> AbstractContextManager[None]:
    """Wait until no other command works on the experiment, and keep others waiting; scratch has a lock of its own."""
    return files.lock(paths.work(experiment) / "run.lock", f"run of `{experiment}`")


def _run(settings: experiments.Experiment, source: Path, target: Path) -> None:
    import nbformat

    name = source.stem
    start, inputs = time.perf_counter(), _inputs(settings, name)  # as they are before anything is read
    declared = declared_parameters(nbformat.read(source, as_version=4), name)
    changed = changed_parameters(settings, declared, name)
    given = ", ".join(f"{key} = {value!r}" for key, value in changed.items())
    print(f"{name}: running" + (f" with {given}" if given else ""), flush=True)
    with progress.journal(_journal(settings, name)):
        executed = normalise(_execute(source, changed, paths.work(settings.name) / name))
    if "experiment" in changed:
        _add_reading_note(executed, settings.name, name)
    # Before the result, so that there never is a result with the note of an earlier one.
    _note(settings, name).write_text(inputs, encoding="utf-8")
    with files.replacing(target) as partial:
        nbformat.write(executed, partial)
    done = progress.told(progress.counts([_journal(settings, name)]))
    seconds = f"{time.perf_counter() - start:.0f} s"
    print(f"{name}: {'; '.join(filter(None, [seconds, done]))}; {paths.within_root(target)}", flush=True)


def _journal(settings: experiments.Experiment, name: str) -> Path:
    """Where a notebook's last run notes what it did (see progress.py)."""
    return paths.work(settings.name) / f"{name}.journal.jsonl"


def _note(settings: experiments.Experiment, name: str) -> Path:
    """Where a notebook's last whole run noted its ``_inputs``."""
    return paths.work(settings.name) / f"{name}.inputs"


def _made_from_the_same(settings: experiments.Experiment, name: str) -> bool:
    """Whether the result that is there was made from all that we would make it from now.

    That cannot be told of the first notebook: it reads files of the user's, wherever they lie, and takes seconds.
    """
    noted = _note(settings, name)
    return name != _FIRST and noted.is_file() and noted.read_text(encoding="utf-8") == _inputs(settings, name)


def _inputs(settings: experiments.Experiment, name: str) -> str:
    """A hash of what a notebook's result depends on: the settings, the environment, and when each file was written.

    The files are the notebook, the package, what is read from data/, the recordings, and the tables of the notebooks
    before. Recordings that a run adds to are other inputs after it: then the next run replays them.
    """
    from hybridrec import tables

    made_before = [table for table, notebook in tables.WRITTEN_BY.items() if notebook < name]
    read = [
        paths.NOTEBOOKS / f"{name}.ipynb",
        paths.EXPERIMENTS / f"{settings.name}.md",
        paths.ROOT / "requirements.lock",
        paths.PRICES,
        paths.PUBLISHED,
        *sorted(file for file in Path(__file__).parent.rglob("*") if file.suffix in (".py", ".toml")),
        *sorted(file for file in paths.RECORDINGS.rglob("*") if file.suffix in (".jsonl", ".gz")),
        *(paths.tables(settings.name) / f"{table}.parquet" for table in made_before),
    ]
    environment = [os.environ.get(f"HYBRIDREC_{variable}") for variable in ("LLM", "RECORDINGS", "DATA")]
    versions = [(str(file), _version(file)) for file in read]
    text = json.dumps([experiments.parameters(settings), environment, versions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _version(file: Path) -> tuple[int, int] | None:
    """What is another after a file was written: the time and the size; None if there is no file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _add_reading_note(executed: Any, experiment: str, name: str) -> None:
    """Tell readers of another experiment's notebook that its prose is the default's, and what differs there.

    What differs is written in notebooks/experiments/EXPERIMENT.md, under the notebook's name as a heading.
    """
    import nbformat

    file = paths.EXPERIMENTS / f"{experiment}.md"
    sections = re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.M)[1:] if file.is_file() else []
    own = next((section.partition("\n")[2] for section in sections if section.partition("\n")[0].strip() == name), "")
    general = (
        f"**This is the experiment `{experiment}`.** Code, tables and figures are its own. The sentences between them "
        "were written for `ml-100k`. Where they disagree with a number, the number is right."
    )
    cell = nbformat.v4.new_markdown_cell(f"{general}\n\n{own.strip()}".strip(), id="reading-note")
    executed.cells.insert(1, cell)


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
            execution_timeout=_CELL_TIMEOUT,
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


def _what_failed(error: Exception, name: str) -> str:
    """One line about a failure; the kernel's traceback goes before it unless the error is one that explains itself."""
    cell = getattr(error, "exec_count", None)
    if cell is None:
        return f"{name} stopped: {type(error).__name__}: {' '.join(str(error).split())[:500]}."
    if not _explains_itself(error.ename):
        print(_ANSI.sub("", "\n".join(error.traceback)), file=sys.stderr)
    return f"{name} failed in cell [{cell}]: {error.ename}: {error.evalue}"


def _explains_itself(name: str) -> bool:
    """Is this the name of an error class of ours? Those say what was expected and what to do next."""
    return any(f"class {name}(" in file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("*.py"))


# --- the other commands ---------------------------------------------------------------------------------------------


def summary(settings: experiments.Experiment) -> None:
    """Print the claims table of an experiment, what its last run computed and replayed, and where everything lies.

    Raises:
        CommandError: it was not run yet.
    """
    path = paths.results(settings.name) / "claims.csv"
    if not path.is_file():
        raise CommandError(f"no {paths.within_root(path)} yet: run `make reproduce EXPERIMENT={settings.name}` first.")
    with path.open(newline="", encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    columns = [name for name in _SHOWN if claims and name in claims[0]]
    rows = [columns, *([_short(claim[name]) for name in columns] for claim in claims)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
    print(f"All columns, with intervals: {paths.within_root(path)}")
    done = progress.told(progress.counts(_journal(settings, name) for name in _notebooks()))
    if done:
        print(f"When each notebook last ran here: {done}.")
    if compared := _fits_compared(settings):
        print(compared)
    print(f"Executed notebooks, tables, figures, metrics.json: {paths.within_root(path.parent)}")


def _notebooks() -> list[str]:
    return sorted(file.stem for file in paths.NOTEBOOKS.glob("*.ipynb"))


def _short(value: str) -> str:
    """A table's cell as printed: long decimals to four significant digits."""
    try:
        return f"{float(value):.4g}" if "." in value and len(value) > 6 else value
    except ValueError:
        return value


def data(settings: experiments.Experiment) -> None:
    """Fetch and verify an experiment's dataset; ratings of one's own must be enough for the study, too."""
    from hybridrec import datasets, enough

    dataset = datasets.load(settings.dataset, settings.ratings)
    users, items = dataset.interactions["user"].nunique(), len(dataset.items)
    counts = f"{len(dataset.interactions):,} ratings, {users:,} users, {items:,} items"
    print(f"{dataset.name}: {counts} (from {dataset.source})")
    if settings.ratings:
        print(f"{dataset.name}: {enough.check(dataset, settings)}", flush=True)


def model(settings: experiments.Experiment) -> None:
    """Fetch, verify and convert an experiment's language model."""
    from hybridrec.llm import local, models

    if settings.endpoint:
        print(f"{settings.model} answers at {settings.endpoint.base_url}: nothing to fetch.")
        return
    card = models.model_card(settings.model)
    print(f"{card.name} ({card.licence}): {paths.within_root(local.converted_folder(card))}")


def batch(settings: experiments.Experiment) -> None:
    """Write what an endpoint has not answered yet as batch files."""
    from hybridrec.llm import batch as batches
    from hybridrec.llm import rankers

    chat, asked = _endpoint(settings), batches.study_requests(settings)
    recordings = rankers.recordings_for(settings.dataset, settings.model)
    checks = {mode: functools.partial(rankers.check, mode) for mode in asked}
    todo = [one for mode in asked for one in batches.open_requests(asked[mode], chat, recordings, checks[mode])]
    files = batches.write(todo, chat, paths.BATCHES, settings.name)
    shown = ", ".join(paths.within_root(file) for file in files) or "nothing to write"
    print(f"{len(todo)} requests to ask {settings.model}: {shown}")


def import_results(settings: experiments.Experiment, files: list[Path]) -> None:
    """Record the answers in result files of a batch."""
    from hybridrec.llm import batch as batches
    from hybridrec.llm import rankers

    if not files:
        raise CommandError("no files given: make import EXPERIMENT=name FILES='results.jsonl errors.jsonl'.")
    asked = [one for requests in batches.study_requests(settings).values() for one in requests]
    recordings = rankers.recordings_for(settings.dataset, settings.model)
    print(batches.read(files, asked, _endpoint(settings), recordings, rankers.seal))


def _endpoint(settings: experiments.Experiment) -> Any:
    from hybridrec.llm import rankers

    if settings.endpoint is None:
        raise CommandError(f"{settings.name} has no [endpoint], so there is nobody to send a batch to.")
    return rankers.open_model(settings.model, experiments.parameters(settings)["endpoint"])


def compact(settings: experiments.Experiment) -> None:
    """Fold new recordings into the compact files that are committed, one for each model of the experiment."""
    from hybridrec.llm import rankers

    for name in (settings.model, *(rung.model for rung in settings.ladder)):
        recordings = rankers.recordings_for(settings.dataset, name)
        if len(recordings):
            recordings.compact()
            print(f"{len(recordings)} answers in {paths.within_root(recordings.compact_path)}")


def seeds(settings: experiments.Experiment) -> None:
    """Repeat the comparison on other splits; the table is written after each, so a run cut short leaves some."""
    import pandas as pd

    from hybridrec import seeds as other_splits
    from hybridrec import tables

    done: list[pd.DataFrame] = []
    for table in other_splits.each(settings):
        done.append(table)
        tables.publish(settings.name, "seeds", pd.concat(done))
        print(f"seed {table['seed'].iloc[0]}: {len(table)} comparisons", flush=True)
    print(f"results/{settings.name}/seeds.csv: {len(done)} splits. `make overview` shows the spread.")


def fits(settings: experiments.Experiment) -> None:
    """Print whether this machine's fits are those behind the committed results."""
    print(_fits_compared(settings) or f"fits: no fingerprint of {settings.name} to compare with here.")


def keep_fits(settings: experiments.Experiment) -> None:
    """Make this machine's fits those that others are compared with."""
    from hybridrec import tables

    file = paths.fingerprint(settings.name)
    tables.write_csv(file, tables.read(settings.name, "fits"))
    print(f"fingerprint of the fits: {paths.within_root(file)}")


def _fits_compared(settings: experiments.Experiment) -> str:
    """The line of ``fits``; "" where there is no fingerprint, or nothing was fitted here."""
    from hybridrec import fingerprint, tables

    file = paths.fingerprint(settings.name)
    if not (file.is_file() and tables.is_there(settings.name, "fits")):
        return ""
    return str(fingerprint.compare(tables.read(settings.name, "fits"), fingerprint.read(file)))


def overview() -> None:
    """Put all experiments' results side by side, and index them."""
    from hybridrec import overview as overviews

    names = overviews.write(paths.RESULTS)
    print(f"results/README.md, overview.csv and overview.png: {', '.join(names)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hybridrec", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in (
        ("run", "execute one notebook into results/EXPERIMENT"),
        ("summary", "print the claims table"),
        ("data", "fetch and verify the dataset"),
        ("model", "fetch, verify and convert the language model"),
        ("batch", "write what an endpoint has not answered yet as batch files"),
        ("import", "record the answers in a batch's result files"),
        ("seeds", "repeat the comparison on other splits of the ratings"),
        ("fits", "say whether this machine's fits are those behind the committed results"),
        ("fingerprint", "make this machine's fits those that others are compared with"),
        ("compact", "fold new recordings into the file that is committed"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("experiment", metavar="EXPERIMENT", help="a file of notebooks/experiments, without .toml")
    text = "put all experiments' results side by side, and index them"
    commands.add_parser("overview", help=text, description=text)
    commands.choices["run"].add_argument("notebook", metavar="NOTEBOOK", help="such as 01_data")
    commands.choices["import"].add_argument("files", metavar="FILE", type=Path, nargs="*", help="what the service gave")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a failed notebook, 2 something the user can mend, 130 an interruption."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "overview":
            with _alone(".overview"):  # no experiment can have this name
                overview()
            return 0
        settings = experiments.load(given.experiment)
        with _alone(settings.name) if given.command in _WRITING else nullcontext():
            _command(settings, given)
    except KeyboardInterrupt:
        print("interrupted. The same command goes on from the last whole notebook.", file=sys.stderr)
        return 130
    except Exception as error:
        # Our own errors explain themselves; anything else is a fault in the program and keeps its traceback.
        if not _explains_itself(type(error).__name__):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, NotebookError) else 2
    return 0


def _command(settings: experiments.Experiment, given: argparse.Namespace) -> None:
    if given.command == "run":
        run(settings, given.notebook.removesuffix(".ipynb"))
    elif given.command == "import":
        import_results(settings, given.files)
    else:
        plain = {"summary": summary, "data": data, "model": model, "batch": batch, "seeds": seeds, "compact": compact}
        (plain | {"fits": fits, "fingerprint": keep_fits})[given.command](settings)


if __name__ == "__main__":
    sys.exit(main())
