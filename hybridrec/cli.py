"""The command ``hybridrec``: the method over files, one step a command, each result a file that the next one reads.

    hybridrec triage ratings.csv --items items.csv --scores out_of_fold.csv -o weak.csv
    hybridrec rank ratings.csv --items items.csv --candidates candidates.csv --model MODEL --estimate -o cost.csv
    hybridrec teach ratings.csv --items items.csv --users others.csv --model MODEL -o adapter    (if it is to learn)
    hybridrec allocate weak.csv --cost cost.csv --budget-usd 5 -o routed.csv
    hybridrec rank ratings.csv --items items.csv --candidates candidates.csv --model MODEL --users routed.csv -o new.csv
    hybridrec combine scores.csv new.csv --users routed.csv -o final.csv
    hybridrec compare final.csv later_ratings.csv ratings.csv --items items.csv

Tables are CSV with a header, or Parquet, by the ending of the file's name.
"""

import argparse
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

import hybridrec as hr
from hybridrec import errors, files, progress, schema, settings


class _Terminal:
    """Progress on stderr, so that what is printed stays a result."""

    def bar(self, iterable: Iterable | None, *, total: int | None, what: str) -> tqdm:
        return tqdm(iterable, total=total, desc=what, leave=False, disable=None)

    def count(self, what: str, **numbers: int) -> None:
        pass

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _check_ending(path: Path) -> None:
    if path.suffix not in (".csv", ".parquet"):
        raise errors.CommandError(f"{path}: a table is written as .csv or .parquet: give it one of these endings.")


def _write(table: pd.DataFrame, path: Path) -> None:
    _check_ending(path)
    try:
        with files.replacing(path) as partial:
            if path.suffix == ".parquet":
                table.to_parquet(partial, index=False)
            else:
                table.to_csv(partial, index=False, lineterminator="\n")
    except OSError as error:
        raise errors.CommandError(
            f"{path} cannot be written ({error.strerror or error}): name another place."
        ) from None
    print(f"{len(table):,} rows: {path}")


def _data(given: argparse.Namespace) -> "hr.Dataset":
    columns = {key: getattr(given, key) for key in ("user", "item", "rating", "timestamp", "title", "genres", "like")}
    more = _toml(given.form) if given.form else {}
    data = hr.Dataset.read(given.ratings, given.items, **columns | more)
    for note in data.notes:
        print(note, file=sys.stderr)
    return data


def _triage(given: argparse.Namespace) -> None:
    scorer = hr.Cornac(given.cornac) if given.cornac else hr.FromTable(given.scores)
    found = hr.triage(_data(given), scorer, performance_threshold=given.performance, sparsity_threshold=given.sparsity)
    print(found)
    _write(found.table, given.output)


def _allocate(given: argparse.Namespace) -> None:
    budget = {key: getattr(given, key) for key in ("budget_users", "budget_tokens", "budget_usd", "budget_seconds")}
    how = {key: getattr(given, key) for key in ("cost", "policy", "max_harm", "calibration")}
    _write(hr.allocate(given.triage, **budget, **how), given.output)


def _rank(given: argparse.Namespace) -> None:
    _check_ending(given.output)  # before anything is paid for
    shown = {key: getattr(given, key) for key in ("noun", "scale", "history_length", "seed")}
    data, ranker = _data(given), hr.Ranker(_model(given), given.mode, given.answers, **shown)
    users = schema.read(given.users, ["user"], "users") if given.users else None
    step: Callable[..., pd.DataFrame] = ranker.estimate if given.estimate else ranker.rank
    _write(step(data, given.candidates, users=users), given.output)


def _teach(given: argparse.Namespace) -> None:
    from hybridrec.llm.teach import Teaching  # torch: only who teaches waits for it

    data, llm = _data(given), _model(given)
    users = schema.read(given.users, ["user"], "users")["user"] if given.users else None
    about = {"users": users, "noun": given.noun, "scale": given.scale}
    keys = ("objective", "passes", "lines", "tokens_per_step")
    chosen = {key: value for key in keys if (value := getattr(given, key)) is not None}
    how = settings.checked(Teaching, chosen, "teach")
    card = hr.teach(llm, data, given.output, given.output.name, how, given.seed, **about)
    best = card["best"]
    print(
        f"AUC of {card['data']['held_back']} users who were held back: {card['curve'][0]['auc']:.3f} before, "
        f"{best['auc']:.3f} after; by another user's history {best['another']:.3f}."
    )
    asked = card["settings"]
    print(
        f"To rank: hybridrec rank ... --adapter {given.output} --mode {asked['mode']} --history-length {asked['lines']}"
    )


def _model(given: argparse.Namespace) -> Any:
    keys = ("revision", "dtype", "device", "adapter")
    loaded = {key: value for key in keys if (value := getattr(given, key, None)) is not None}
    if not getattr(given, "endpoint", None):
        return hr.HuggingFace(given.model, **loaded)
    if loaded:
        raise errors.CommandError(
            f"--{next(iter(loaded))} is about a model on this machine: leave it or --endpoint out."
        )
    endpoint = _toml(given.endpoint)
    if strange := {"model", "key", "base_url"} & endpoint.keys() - {"base_url"}:
        raise errors.SettingError(
            f"{given.endpoint}: {strange.pop()!r} does not belong there: see --model, key_variable."
        )
    if "base_url" not in endpoint:
        raise errors.SettingError(f"{given.endpoint}: missing key 'base_url', the endpoint's address.")
    return hr.Endpoint(given.model, **endpoint)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.SettingError(f"{path}: {error}.") from None


def _combine(given: argparse.Namespace) -> None:
    users = schema.read(given.users, ["user"], "users") if given.users else None
    _write(hr.combine(given.own, given.ranked, users=users), given.output)


def _compare(given: argparse.Namespace) -> None:
    found = hr.compare(given.final, given.outcomes, _data(given))
    print(found)
    if given.output:
        _write(found.table, given.output)


# --- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="hybridrec", description=__doc__, formatter_class=plain)
    parser.add_argument("--version", action="version", version=hr.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    table = "the table to write, .csv or .parquet"

    def command(
        name: str, run: Callable, text: str, output: bool = True, writes: str = table
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("-o", "--output", type=Path, required=output, help=writes)
        return sub

    sub = command("triage", _triage, "say who is served badly, how surely, and how many of them by chance")
    _ratings(sub)
    of = sub.add_mutually_exclusive_group(required=True)
    of.add_argument(
        "--scores", type=Path, help="a recommender's out-of-fold scores: user, item, score, and fold if there are folds"
    )
    of.add_argument("--cornac", metavar="NAME", help="a recommender to fit here instead, such as EASE")
    sub.add_argument("--performance", type=float, default=0.5, help="t_p: served badly at or below (0.5)")
    sub.add_argument("--sparsity", type=float, help="t_s: inactive above; the mean over users if left out")

    sub = command("allocate", _allocate, "choose who is handed over, the worst served first, within a budget")
    sub.add_argument("triage", type=Path, help="what `hybridrec triage` wrote")
    sub.add_argument("--cost", type=Path, help="what `hybridrec rank --estimate` wrote")
    sub.add_argument("--budget-users", type=int)
    sub.add_argument("--budget-tokens", type=float)
    sub.add_argument("--budget-usd", type=float)
    sub.add_argument("--budget-seconds", type=float)
    sub.add_argument("--policy", type=Path, help="who is expected to gain instead: user, uplift")
    sub.add_argument("--max-harm", type=float, help="the share of them who may be made worse, such as 0.1")
    sub.add_argument("--calibration", type=Path, help="for --max-harm: user, uplift, worse, where outcomes are known")

    sub = command("rank", _rank, "let a language model rank users' candidates from their history")
    _ratings(sub)
    sub.add_argument("--candidates", type=Path, required=True, help="what is ranked: user, item")
    sub.add_argument("--users", type=Path, help="for whom: a table with a column user; all if left out")
    sub.add_argument(
        "--model", required=True, help="a folder, a .gguf file, a hub id, or the endpoint's name for its model"
    )
    _local(sub)
    sub.add_argument("--adapter", type=Path, help="of a model on this machine: what `hybridrec teach` wrote")
    sub.add_argument("--endpoint", type=Path, help="a .toml file with base_url, key_variable, ... of an endpoint")
    sub.add_argument("--mode", default="likelihood", help="how to ask: a name, or a .toml file of your own")
    sub.add_argument("--answers", type=Path, default=Path("answers.sqlite"), help="where answers are recorded")
    sub.add_argument("--noun", default="item", help="what prompts call an item, such as film")
    sub.add_argument("--scale", type=int, default=5, help="the highest rating there can be (5)")
    sub.add_argument("--history-length", type=int, default=20, help="how many rated items the model is shown (20)")
    sub.add_argument("--seed", type=int, default=0, help="of the random order of what an answer left out (0)")
    sub.add_argument("--estimate", action="store_true", help="tell the cost for each user; nothing is asked")

    text = "teach a language model on this machine to rate, on users it will not rank for"
    sub = command("teach", _teach, text, writes="the folder of the adapter")
    _ratings(sub)
    sub.add_argument("--users", type=Path, help="on whom: a table with a column user; all if left out")
    sub.add_argument("--model", required=True, help="a folder, a .gguf file or a hub id")
    _local(sub)
    sub.add_argument("--noun", default="item", help="what prompts call an item, such as film")
    sub.add_argument("--scale", type=int, default=5, help="the highest rating there can be (5)")
    sub.add_argument("--objective", help="likelihood, pairs or beyond-item (pairs)")
    sub.add_argument("--passes", type=float, help="how often the ratings are gone through (1)")
    sub.add_argument("--lines", type=int, help="rated items in a list, and the longest history (48)")
    sub.add_argument("--tokens-per-step", type=int, help="fewer need less memory (4096)")
    sub.add_argument("--seed", type=int, default=0, help="of every random order (0)")

    sub = command("combine", _combine, "put the final lists together: the model's and the recommender's")
    sub.add_argument("own", type=Path, help="the recommender's scores: user, item, score")
    sub.add_argument("ranked", type=Path, help="what `hybridrec rank` wrote")
    sub.add_argument("--users", type=Path, help="who was handed over; all who were ranked if left out")

    sub = command("compare", _compare, "judge final lists by what users did, beside controls", output=False)
    sub.add_argument("final", type=Path, help="what `hybridrec combine` wrote")
    sub.add_argument("outcomes", type=Path, help="what users then did: user, item, rating")
    _ratings(sub)
    return parser


def _local(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--revision", help="of a hub id: a branch, a tag or a commit (its main branch)")
    sub.add_argument("--dtype", help="of a model on this machine: float32 or bfloat16 (float32)")
    sub.add_argument("--device", help="of a model on this machine: cpu, cuda or cuda:1 (cpu)")


def _ratings(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("ratings", type=Path, help="what is known: a rating a row")
    sub.add_argument("--items", type=Path, help="the items' titles, if the ratings do not hold them")
    for key in ("user", "item", "rating", "title"):
        sub.add_argument(f"--{key}", default=key, help=f"the column's name ({key})")
    for key in ("timestamp", "genres"):
        sub.add_argument(f"--{key}", help="the column's name, if there is one")
    sub.add_argument("--like", type=float, help="a rating at or above it is a like (4; 1 with likes in --form)")
    sub.add_argument("--form", type=Path, help="a .toml file with more: likes, time_format, separator, duplicates, ...")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 2 something the user can put right, 130 an interruption."""
    given = _parser().parse_args(arguments)
    before = progress.listen(_Terminal())
    try:
        given.run(given)
    except KeyboardInterrupt:
        print("interrupted. The same command goes on: what was answered is recorded.", file=sys.stderr)
        return 130
    except errors.HybridrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        progress.listen(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
