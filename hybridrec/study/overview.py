"""What all experiments say together, read from their metrics.json, and the index of everything in results/."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pandas as pd

from hybridrec import files
from hybridrec.study import paths, seeds, tables
from hybridrec.study.config import read as read_settings

# The rows of the overview: what a weak user gets, in the order in which it is shown.
RANKERS = {
    "recommender": "their recommender",
    "listwise": "language model, listwise (published)",
    "likelihood": "language model, likelihood",
    "random": "a random order",
    "item-mean": "the item's mean rating",
    "best-other": "another recommender",
}
SPLITS_SHOWN = (
    "The whole study without notebook 4 again on other splits of the same ratings: a mark a split. The language model "
    "(scoring) was asked on fewer of them. The spread, in numbers: [seeds.csv](seeds.csv)."
)
_MADE = re.compile(r'tables\.publish\(\s*experiment,\s*"(\w+)"|figures\.save\(.*,\s*output,\s*"(\w+)"', re.S)


def experiments() -> list[str]:
    """Experiments whose results are complete (there is a claims table) and not about a subset of the users."""
    return sorted(file.parent.name for file in paths.RESULTS.glob("*/claims.csv") if not _of_subset(file.parent.name))


def _of_subset(name: str) -> bool:
    settings = paths.EXPERIMENTS / f"{name}.toml"
    return settings.is_file() and read_settings(settings).users is not None


def metrics(experiment: str) -> dict:
    """An experiment's metrics.json."""
    return json.loads((paths.RESULTS / experiment / "metrics.json").read_text(encoding="utf-8"))


def weak_users(names: list[str]) -> pd.DataFrame:
    """AUC of weak users on the experiment's own split by what they get, mean over the recommenders compared.

    Returns:
        Columns dataset, protocol, ranker, auc, in the order of ``names`` and RANKERS, and random_repair: the share of
        candidates that a written answer left out and that we appended at random, over all users who were asked; 0
        where nothing is written.
    """
    rows = []
    for name in names:
        found = metrics(name)
        left_out = {row["ranker"]: row["missing"] for row in found["llm"]["validity"]}
        for protocol in ("published", "held-out"):
            for ranker in RANKERS:
                if ranker not in found["headline"][protocol]:  # a way to ask that this experiment leaves out
                    continue
                auc = found["headline"][protocol][ranker]["weak_auc_after"]
                row = {"dataset": name, "protocol": protocol, "ranker": ranker, "auc": auc}
                rows.append(row | {"random_repair": left_out.get(ranker, 0.0)})
    return pd.DataFrame(rows).astype({"auc": float})  # None where nobody who is routed has an AUC


def asked_otherwise(names: list[str]) -> list[str]:
    """Experiments whose language model was asked in none of the ways that RANKERS shows."""
    ways = {ranker for ranker, name in RANKERS.items() if name.startswith("language model")}
    return [name for name in names if not ways & metrics(name)["headline"]["published"].keys()]


def beyond_controls(names: list[str]) -> pd.DataFrame:
    """What each language model adds to the best control for a sample of inactive users, whatever its sign.

    Returns:
        Columns dataset and those of ``compare.larger_models``: ``users`` is "asked" (all of the sample) or "routed"
        (those of them whom a recommender routes).
    """
    return pd.concat(
        [pd.DataFrame(metrics(name)["larger_models"]).assign(dataset=name) for name in names], ignore_index=True
    )


def other_splits(names: list[str]) -> pd.DataFrame:
    """AUC of weak users for each split, where `make seeds` has run.

    Returns:
        Columns dataset, protocol, ranker, seed, auc: mean over the recommenders compared.
    """
    files = {name: paths.RESULTS / name / "seeds.csv" for name in names}
    found = [seeds.weak_users(pd.read_csv(file)).assign(dataset=name) for name, file in files.items() if file.is_file()]
    rows = pd.concat(found) if found else pd.DataFrame(columns=["dataset", "protocol", "ranker", "seed", "auc"])
    return rows[rows["ranker"].isin(RANKERS)]


def shown_means(weak: pd.DataFrame, spread: pd.DataFrame) -> pd.DataFrame:
    """What the overview's figure shows: means over the splits, with their spread.

    Args:
        weak: what ``weak_users`` returned; stands in for datasets whose other splits were not run, as one split.
        spread: what ``seeds.spread`` returned.

    Returns:
        Columns dataset, protocol, ranker, splits, auc, lowest, highest, in the order of ``weak``. A ranker that no
        other split has is left out where others have several.
    """
    one = weak[~weak["dataset"].isin(spread["dataset"])].assign(splits=1)
    one = one.assign(lowest=one["auc"], highest=one["auc"])
    both = pd.concat([frame for frame in (spread.rename(columns={"mean": "auc"}), one) if len(frame)])
    order = weak[["dataset", "protocol", "ranker"]]
    return order.merge(both[[*order, "splits", "auc", "lowest", "highest"]], on=list(order))


def called(names: list[str], shown: pd.DataFrame | None = None) -> dict[str, str]:
    """RANKERS with the language model's own name and, given what ``shown_means`` returned, the number of splits."""
    files = [paths.EXPERIMENTS / f"{name}.toml" for name in names]
    models = dict.fromkeys(read_settings(file).model for file in files if file.is_file())
    rankers = {ranker: name.replace("language model", ", ".join(models)) for ranker, name in RANKERS.items()}
    if shown is None:
        return rankers
    splits = shown.groupby("ranker")["splits"].agg(["min", "max"])
    counts = {ranker: f"{low}" if low == high else f"{low} to {high}" for ranker, low, high in splits.itertuples()}
    return {ranker: f"{name}\n(splits: {counts[ranker]})" for ranker, name in rankers.items() if ranker in counts}


def made_by() -> Iterator[tuple[str, str, str, int]]:
    """Every published table and figure: its name, the notebook, the section, and the number of the cell."""
    for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb")):
        section = ""
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
            if cell.cell_type == "markdown":
                section = ([line[3:] for line in cell.source.splitlines() if line.startswith("## ")] or [section])[-1]
                continue
            for table, figure in _MADE.findall(cell.source):
                yield table or figure, path.stem, section, number


def index(names: list[str], otherwise: Sequence[str] = ()) -> str:
    """The text of results/README.md: every table and figure, the cell that makes it, and a link for each experiment.

    Args:
        names: the experiments.
        otherwise: those of them whose language model the overview does not show (``asked_otherwise``).
    """
    lines = [
        "# Results",
        "",
        "Written by `make overview` (a part of `make reproduce-all`). Do not edit. Each folder is one experiment: its "
        "executed notebooks, tables (`.csv`), figures (`.png`, `.svg`) and `metrics.json`, from which tests check the "
        "README. A cell's number counts all cells of the notebook in `notebooks/`.",
        "",
        "![AUC of weak users in every experiment, means over splits](overview.png)",
        "",
        "A mark is the mean over as many splits as its label says, a line goes from the lowest of them to the highest: "
        "[seeds.csv](seeds.csv). On the experiment's own split alone, with the published way to ask (`listwise`) and "
        "the share of its candidates that the model left out and that were appended at random (`random_repair`): "
        "[overview.csv](overview.csv). What every model adds to the best control, for the inactive users it was asked "
        "about (`asked`) and for those of them whom a recommender routes (`routed`): "
        "[beyond_controls.csv](beyond_controls.csv).",
        "",
        "| made by | section | table or figure | " + " | ".join(names) + " |",
        "| --- | --- | --- |" + " --- |" * len(names),
    ]
    for name, notebook, section, cell in made_by():
        links = [_link(experiment, name) for experiment in names]
        lines.append(f"| {notebook}, cell {cell} | {section} | `{name}` | " + " | ".join(links) + " |")
    if otherwise:
        at = lines.index("![AUC of weak users in every experiment, means over splits](overview.png)")
        without = f"Asked in other ways, so that the picture has no mark of its language model: {', '.join(otherwise)}."
        lines[at + 1 : at + 1] = ["", without]
    links = [_link(experiment, "seeds") for experiment in names]
    lines.append("| `make seeds` | The comparison on other splits | `seeds` | " + " | ".join(links) + " |")
    if any("csv" in link for link in links):
        lines += ["", "## Is it the split?", "", SPLITS_SHOWN, "", "![AUC of weak users on every split](seeds.png)"]
    return "\n".join(lines) + "\n"


def _link(experiment: str, name: str) -> str:
    for kind in ("csv", "png"):
        if (paths.RESULTS / experiment / f"{name}.{kind}").is_file():
            return f"[{kind}]({experiment}/{name}.{kind})"
    return "–"


def write(folder: Path) -> list[str]:
    """Write README.md, three tables and two figures (overview, seeds); return the experiments covered."""
    from hybridrec.study import figures

    names = experiments()
    weak = weak_users(names)
    tables.write_csv(folder / "overview.csv", weak)
    tables.write_csv(folder / "beyond_controls.csv", beyond_controls(names))
    splits = other_splits(names)
    spread = seeds.spread(splits)
    tables.write_csv(folder / "seeds.csv", spread)
    shown = shown_means(weak, spread)
    figures.save(figures.overview(shown, called(names, shown)), folder, "overview")
    if len(splits):
        figures.save(figures.overview(splits, called(names), alpha=0.5), folder, "seeds")
    with files.replacing(folder / "README.md") as partial:
        partial.write_text(index(names, asked_otherwise(names)), encoding="utf-8")
    return names
