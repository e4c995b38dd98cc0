"""This repository's commands: ``python -m hybridrec.study COMMAND EXPERIMENT``. The Makefile calls nothing else."""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hybridrec import errors
from hybridrec.errors import CommandError, NotebookError
from hybridrec.study import answers, config, notebooks, paths, progress, steps
from hybridrec.study import models as study_models

# Heavy imports (pandas, torch) stay inside the commands that need them: `summary` must be quick.

# The commands that write, beside `run`, which looks after itself.
_WRITING = ("pairs", "batch", "import", "seeds", "rivals", "hear-out", "teach", "teach-ways", "compact", "fingerprint")


def summary(settings: config.Experiment) -> None:
    """Print the four answers of an experiment, what its last run computed and replayed, and where everything lies.

    Raises:
        CommandError: it was not run yet.
    """
    folder = paths.results(settings.name)
    claims, metrics = folder / "claims.csv", folder / "metrics.json"
    if not claims.is_file():
        raise CommandError(
            f"no {paths.within_root(claims)} yet: run `make reproduce EXPERIMENT={settings.name}` first."
        )
    for number, (question, answer) in enumerate(answers.four(json.loads(metrics.read_text("utf-8"))).items(), 1):
        print(f"{number}. {question} {answer.replace('**', '')}")
    print(f"The paper's claims, one by one: {paths.within_root(claims)}")
    done = progress.summary(progress.counts(notebooks.journal_of(settings, name) for name in notebooks.names()))
    if done:
        print(f"When each notebook last ran here: {done}.")
    if compared := _fits_compared(settings):
        print(compared)
    print(f"Executed notebooks, tables, figures, metrics.json: {paths.within_root(folder)}")


def data(settings: config.Experiment) -> None:
    """Fetch and verify an experiment's dataset; ratings of one's own must be enough, and its models known."""
    from hybridrec.study import enough

    told = study_models.check(settings)
    dataset = steps.dataset(settings.dataset, settings.ratings)
    users, items = dataset.interactions["user"].nunique(), len(dataset.items)
    counts = f"{len(dataset.interactions):,} ratings, {users:,} users, {items:,} items"
    print(f"{dataset.name}: {counts} (from {dataset.source})", *dataset.notes, *told, sep="\n")
    if settings.ratings:
        print(f"{dataset.name}: {enough.check(dataset, settings)}", flush=True)


def estimate(settings: config.Experiment) -> None:
    """Print what would be asked, and at what cost; nothing is asked."""
    from hybridrec.study import estimate as estimates

    print(estimates.estimate(settings, from_tables=False))


def _told_and_agreed(settings: config.Experiment, notebook: str, yes: bool) -> None:
    """Print what will be asked, before the first notebook and before the one that asks; stop where it is too much."""
    from hybridrec.study import estimate as estimates

    if study_models.policy() != "replay":  # nothing is asked then
        found = estimates.estimate(settings, from_tables=notebook != notebooks.FIRST)
        print(f"language models: {found}", flush=True)
        estimates.agreed(settings, found, yes)


def pairs(settings: config.Experiment) -> None:
    """Write what a recommender of the user's own has to score, once notebook 01 has divided the ratings."""
    from hybridrec.study import tables

    candidates, divided = (tables.read(settings.name, name) for name in ("candidates", "cross_ratings"))
    folder = paths.tables(settings.name) / "pairs"
    folder.mkdir(exist_ok=True)
    found = {"test": candidates[["user", "item"]], "cross": divided[["user", "item", "rating", "fold"]]}
    for name, table in found.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
        print(f"{len(table):,} pairs to score: {paths.within_root(folder / f'{name}.parquet')}")
    print("docs/own-ratings.md says by what, and where the scores are named.")


def model(settings: config.Experiment) -> None:
    """Fetch, verify and convert an experiment's language model."""
    study_models.check(settings)
    if settings.endpoint:
        print(f"{settings.model} answers at {settings.endpoint.base_url}: nothing to fetch.")
        return
    llm = study_models.local(settings.model, **(config.parameters(settings)["local"] or {}))
    licence = f" ({llm.card.licence})" if llm.card else ""
    print(f"{llm.name}{licence}: {paths.within_root(llm.folder())}")
    if told := llm.find():
        print(told)


def encoder(settings: config.Experiment) -> None:
    """Fetch and verify the sentence encoder, which is the same for all experiments."""
    from hybridrec.llm.models.encoder import MINILM, files_of  # torch: only who needs it waits for it

    config_file, *_ = files_of(MINILM, paths.RAW, paths.data_folders())
    print(f"{MINILM.name} ({MINILM.licence}): {paths.within_root(config_file.parent)}")


def batch(settings: config.Experiment) -> None:
    """Write what an endpoint has not answered yet as batch files."""
    from hybridrec.llm import batch as batches
    from hybridrec.llm import rankers
    from hybridrec.study import estimate as estimates

    chat, todo = _endpoint(settings), dict[str, Any]()
    recordings = study_models.recordings_for(settings.dataset, settings.model)
    for group in estimates.in_batches(settings):
        usable = functools.partial(rankers.check, group.mode)
        wanted = batches.open_requests(group.asked, chat, recordings, usable, group.attempts)
        todo |= {chat.key(one): one for one in wanted}
    files = batches.write(todo.values(), chat, paths.BATCHES, settings.name)
    shown = ", ".join(paths.within_root(file) for file in files) or "nothing to write"
    print(f"{len(todo)} requests to ask {settings.model}: {shown}")


def import_results(settings: config.Experiment, files: list[Path]) -> None:
    """Record the answers in result files of a batch."""
    from hybridrec.llm import batch as batches
    from hybridrec.llm.redact import redact_response
    from hybridrec.study import estimate as estimates

    if not files:
        raise CommandError("no files given: make import EXPERIMENT=name FILES='results.jsonl errors.jsonl'.")
    asked = [one for group in estimates.in_batches(settings) for one in group.asked]
    recordings = study_models.recordings_for(settings.dataset, settings.model)
    print(batches.read(files, asked, _endpoint(settings), recordings, redact_response))


def _endpoint(settings: config.Experiment) -> Any:
    """The model behind the experiment's endpoint."""
    if settings.endpoint is None:
        raise CommandError(f"{settings.name} has no [endpoint], so there is nobody to send a batch to.")
    return study_models.open_model(settings.model, config.parameters(settings)["endpoint"])


def compact(settings: config.Experiment) -> None:
    """Fold new recordings into the compact files that are committed, one for each model of the experiment."""
    names = [settings.model, *(larger.model for larger in settings.larger_models)]
    if settings.taught:
        names.append(study_models.taught_name(settings.model, settings.taught.adapter_of or settings.name))
    for name in names:
        recordings = study_models.recordings_for(settings.dataset, name)
        if len(recordings):
            recordings.compact()
            print(f"{len(recordings)} answers in {paths.within_root(recordings.compact_path)}")


def teach(settings: config.Experiment, variant: str | None, device: str, dtype: str | None) -> None:
    """Teach the experiment's language model on the ratings of users who are never routed; goes on where it was."""
    from hybridrec.llm.models import devices
    from hybridrec.study import teaching

    how = {"device": device, "dtype": dtype or ("bfloat16" if devices.fast_bfloat16() else "float32")}
    card = teaching.run(settings, settings.model, variant or teaching.CHOSEN, **how)
    about, best = card["data"], card["best"]
    print(
        f"{card['name']}: {about['ratings']:,} ratings of {about['users']} users, {card['steps']} steps in "
        f"{card['seconds']:,.0f} s on {card['device']} ({card['dtype']}); AUC of {about['held_back']} users held back "
        f"{card['curve'][0]['auc']:.3f} before, {best['auc']:.3f} after, {best['another']:.3f} by another's history."
    )
    print(paths.within_root(teaching.folder(settings.name, settings.model, variant or teaching.CHOSEN)))


def ways_to_teach(settings: config.Experiment, device: str, dtype: str | None, only: list[str]) -> None:
    """Teach in several ways, and ask about the folds that decide; each way's row takes the place of an earlier one."""
    import pandas as pd

    from hybridrec.llm.models import devices
    from hybridrec.study import tables, teaching

    how = {"device": device, "dtype": dtype or ("bfloat16" if devices.fast_bfloat16() else "float32")}
    for row in teaching.compare(settings, settings.model, only, **how):
        one, before = row.iloc[0], teaching.compared(settings.name)
        tables.publish(settings.name, "teaching", pd.concat([before[before["way"] != one["way"]], row]))
        print(
            f"{one['way']}: AUC {one['auc']:.3f} by the own history, {one['another']:.3f} by another's "
            f"(difference {one['own_less_another']:+.3f}, {one['apart_low']:+.3f} to {one['apart_high']:+.3f}; "
            f"n = {one['users']})."
        )
    print(paths.within_root(paths.results(settings.name) / "teaching.csv"))


def seeds(settings: config.Experiment) -> None:
    """Judge protocol cross on a second seed of its folds, too; the table is written after each seed."""
    import pandas as pd

    from hybridrec.study import seeds as both
    from hybridrec.study import tables

    done: list[pd.DataFrame] = []
    for table in both.each(settings):
        done.append(table)
        tables.publish(settings.name, "seeds", pd.concat(done))
        asked = "" if "primary" in set(table["family"]) else "; the language model was not run"
        print(f"seed {table['seed'].iloc[0]}: {len(table)} comparisons{asked}", flush=True)
    told = pd.concat(done).groupby(["family", "comparison"], sort=False)["verdict"].agg(["size", "nunique"])
    told = told[told["size"] == len(done)]
    print(f"{(told['nunique'] == 1).sum()} of {len(told)} verdicts are the same on all {len(done)} seeds.")
    print(paths.within_root(paths.results(settings.name) / "seeds.csv"))


def rivals(settings: config.Experiment) -> None:
    """Train matrix factorisations for the worst served, and judge whom they serve; needs notebooks 01 to 03."""
    from hybridrec.study import rivals as trained
    from hybridrec.study import tables

    names = ("cross_ratings", "items", "cross_triage", "cross_candidates", "cross_scores")
    divided, items, triage, candidates, recommended = (tables.read(settings.name, name) for name in names)
    _, found = trained.scores(divided, items, triage, settings.like_threshold, settings.seed)
    judged = trained.table(found, recommended, divided, candidates, items, triage, settings.like_threshold)
    tables.publish(settings.name, "rivals", judged)
    said = judged[judged["ranker"].isin(trained.RIVALS)].groupby("over_plain_verdict").size()
    counted = ", ".join(f"{verdict} in {number}" for verdict, number in said.items())
    print(f"Against the ordinary objective, by group and rival: {counted}.")
    print(paths.within_root(paths.results(settings.name) / "rivals.csv"))


def hear_out(settings: config.Experiment, sample: int | None) -> None:
    """Ask again for answers that our stop rule ended, and hear them out; needs notebooks 01 and 04."""
    import pandas as pd

    from hybridrec.study import heard_out, tables

    done: list[pd.DataFrame] = []
    for row in heard_out.compare(settings, heard_out.SAMPLE if sample is None else sample):
        done.append(row)
        tables.publish(settings.name, "heard_out", pd.concat(done))
        one = row.iloc[0]
        print(
            f"{one['mode']}: of {one['sample']} answers that our stop rule ended, the model ends {one['by_model']} and "
            f"our budget {one['by_budget']}; {one['other_order']:.0%} of them become another ranking.",
            flush=True,
        )
    print(paths.within_root(paths.results(settings.name) / "heard_out.csv"))


def fits(settings: config.Experiment) -> None:
    """Print whether this machine's fits are those behind the committed results."""
    print(_fits_compared(settings) or f"fits: no fingerprint of {settings.name} to compare with here.")


def keep_fits(settings: config.Experiment) -> None:
    """Make this machine's fits those that others are compared with."""
    from hybridrec.study import tables

    file = paths.fingerprint(settings.name)
    tables.write_csv(file, tables.read(settings.name, "fits"))
    print(f"fingerprint of the fits: {paths.within_root(file)}")


def _fits_compared(settings: config.Experiment) -> str:
    """The line of ``fits``; "" where there is no fingerprint, or nothing was fitted here."""
    from hybridrec.recommenders import fingerprint
    from hybridrec.study import tables

    file = paths.fingerprint(settings.name)
    if not (file.is_file() and tables.is_there(settings.name, "fits")):
        return ""
    return str(fingerprint.compare(tables.read(settings.name, "fits"), fingerprint.read(file)))


def overview() -> None:
    """Put all experiments' results side by side, and index them."""
    from hybridrec.study import overview as overviews

    names = overviews.write(paths.RESULTS)
    print(f"results/README.md, overview.csv and overview.png: {', '.join(names)}")


def run(settings: config.Experiment, notebook: str, yes: bool = False) -> None:
    """Execute one notebook. Ratings of one's own are checked before the first, and what will be asked is told.

    Args:
        settings: the experiment.
        notebook: its name.
        yes: consent to asking for more than the experiment's bounds.

    Raises:
        CommandError: it would cost more, and there is no consent. What ``notebooks.run`` raises.
    """
    name = notebook.removesuffix(".ipynb")
    if name == notebooks.FIRST:  # says in seconds what would fail later, or after hours
        data(settings) if settings.ratings else study_models.check(settings)
    if name in (notebooks.FIRST, *notebooks.ASK_MODELS):
        _told_and_agreed(settings, name, yes)
    notebooks.run(settings, name)


def _commands() -> dict[str, tuple[Callable[..., None], str]]:
    """Every command about an experiment, and what it does."""
    return {
        "run": (run, "execute one notebook into results/EXPERIMENT"),
        "summary": (summary, "print the four answers"),
        "data": (data, "fetch and verify the dataset, and see whether the models are known"),
        "estimate": (estimate, "say what the language models would be asked, and what that would cost"),
        "model": (model, "fetch, verify and convert the language model"),
        "encoder": (encoder, "fetch and verify the sentence encoder"),
        "pairs": (pairs, "write the pairs that a recommender of your own has to score"),
        "batch": (batch, "write what an endpoint has not answered yet as batch files"),
        "import": (import_results, "record the answers in a batch's result files"),
        "teach": (teach, "teach the language model on the ratings of users who are never routed"),
        "teach-ways": (ways_to_teach, "teach in every way that is compared, and ask about the folds that decide"),
        "seeds": (seeds, "judge protocol cross on a second seed of its folds, too"),
        "rivals": (rivals, "train matrix factorisations for the worst served, and judge whom they serve"),
        "hear-out": (hear_out, "ask again for answers that our stop rule ended, and hear them out"),
        "fits": (fits, "say whether this machine's fits are those behind the committed results"),
        "fingerprint": (keep_fits, "make this machine's fits those that others are compared with"),
        "compact": (compact, "fold new recordings into the file that is committed"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hybridrec.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (_, text) in _commands().items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("experiment", metavar="EXPERIMENT", help="a file of notebooks/experiments, without .toml")
    text = "put all experiments' results side by side, and index them"
    commands.add_parser("overview", help=text, description=text)
    commands.choices["run"].add_argument("notebook", metavar="NOTEBOOK", help="such as 01_data")
    text = "ask the language models also for more than the experiment's consent_above_... allow"
    commands.choices["run"].add_argument("--yes", action="store_true", help=text)
    commands.choices["teach"].add_argument("--variant", help="another way to teach (hybridrec/study/teaching.py)")
    for taught in (commands.choices["teach"], commands.choices["teach-ways"]):
        taught.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (cpu)")
        taught.add_argument("--dtype", help="float32 or bfloat16; left out, whichever the processor computes faster")
    commands.choices["teach-ways"].add_argument("--only", metavar="WAY", nargs="+", default=[], help="not all of them")
    text = "so many answers of each way to ask; left out, as many as hybridrec/study/heard_out.py says"
    commands.choices["hear-out"].add_argument("--sample", metavar="N", type=int, help=text)
    commands.choices["import"].add_argument("files", metavar="FILE", type=Path, nargs="*", help="what the service gave")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a failed notebook, 2 something the user can fix, 130 an interruption."""
    given = vars(_parser().parse_args(arguments))
    command, experiment = given.pop("command"), given.pop("experiment", None)
    try:
        if command == "overview":
            with notebooks.alone(".overview"):  # no experiment can have this name
                overview()
        else:
            settings = config.load(experiment)
            with notebooks.alone(settings.name) if command in _WRITING else nullcontext():
                _commands()[command][0](settings, *given.values())
    except KeyboardInterrupt:
        print("interrupted. The same command goes on from the last whole notebook.", file=sys.stderr)
        return 130
    except errors.HybridrecError as error:  # anything else is a fault in the program and keeps its traceback
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, NotebookError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
