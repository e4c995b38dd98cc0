"""What all experiments say together, read from their metrics.json, and the index of everything in results/."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from hybridrec import files
from hybridrec.evaluation import verdicts
from hybridrec.study import answers, notebooks, paths, tables
from hybridrec.study.config import read as read_settings

_MADE = re.compile(r'tables\.publish\(\s*experiment,\s*"(\w+)"|figures\w*\.save\(.*,\s*output,\s*"(\w+)"', re.S)
_GROUPS = ["weak", "worst decile", "inactive", "everybody"]
_KEYS = ["dataset", "family", "comparison"]
ON_ONE_SEED = ("NDCG@10", "reading", "groups")  # families that ``make seeds`` does not judge again


def experiments() -> list[str]:
    """Experiments whose results are complete (there is a claims table) and not about a subset of the users."""
    return sorted(file.parent.name for file in paths.RESULTS.glob("*/claims.csv") if not _of_subset(file.parent.name))


def _of_subset(name: str) -> bool:
    settings = paths.EXPERIMENTS / f"{name}.toml"
    return settings.is_file() and read_settings(settings).users is not None


def metrics(experiment: str) -> dict[str, Any]:
    """An experiment's metrics.json."""
    return json.loads((paths.RESULTS / experiment / "metrics.json").read_text(encoding="utf-8"))


def four_answers(names: list[str]) -> pd.DataFrame:
    """The numbers behind the four answers: dataset and the columns of ``answers.rows``."""
    return pd.DataFrame([{"dataset": name} | row for name in names for row in answers.rows(metrics(name))])


def all_verdicts(names: list[str]) -> pd.DataFrame:
    """Every comparison under protocol ``cross``, of all experiments: dataset and the columns of cross.verdicts."""
    found = [pd.DataFrame(metrics(name).get("cross", {}).get("verdicts", [])).assign(dataset=name) for name in names]
    rows = pd.concat(found, ignore_index=True)
    return rows[["dataset", *rows.columns.drop("dataset")]]


def other_seeds(names: list[str]) -> pd.DataFrame:
    """Every comparison on each seed of the folds side by side, where ``make seeds`` has run.

    Returns:
        Columns dataset, family, comparison, seeds (how many), mean_lowest, mean_highest, verdicts (in the order of the
        seeds) and same: whether all seeds have one verdict.
    """
    read = dict(_there(names, "seeds"))
    columns = [*_KEYS, "seeds", "mean_lowest", "mean_highest", "verdicts", "same"]
    if not read:
        return pd.DataFrame(columns=columns)
    rows = pd.concat([table.assign(dataset=name) for name, table in read.items()])
    groups = rows.sort_values("seed", kind="stable").groupby(_KEYS, sort=False)
    found = groups.agg(
        seeds=("seed", "size"),
        mean_lowest=("mean", "min"),
        mean_highest=("mean", "max"),
        verdicts=("verdict", " / ".join),
        same=("verdict", lambda one: one.nunique() == 1),
    )
    return found.reset_index()[columns]


def made_by() -> Iterator[tuple[str, str, str, int]]:
    """Every published table and figure: its name, the notebook, the section, and the number of the cell."""
    for name in notebooks.names():
        section = ""
        for number, cell in enumerate(nbformat.read(notebooks.path_of(name), as_version=4).cells, 1):
            if cell.cell_type == "markdown":
                section = ([line[3:] for line in cell.source.splitlines() if line.startswith("## ")] or [section])[-1]
                continue
            for table, figure in _MADE.findall(cell.source):
                yield table or figure, name, section, number


def index(names: list[str]) -> str:
    """The text of results/README.md: the four answers, verdicts, and every table and figure with its cell and links."""
    found = {name: metrics(name) for name in names}
    lines = [
        "# Results",
        "",
        "Written by `make overview` (a part of `make reproduce-all`). Do not edit. Each folder is one experiment: its "
        "executed notebooks, tables (`.csv`), figures (`.png`, `.svg`) and `metrics.json`, from which tests check the "
        "README.",
        "",
        answers.table(found),
        "",
        "![Weak users' AUC by who ranks them, and the language model minus the bar](overview.png)",
        "",
        "The numbers in the table and the figure: [overview.csv](overview.csv). How often each verdict was reached, "
        "family by family ([the plan](../docs/plan.md) says what is compared in each; every comparison: "
        "[verdicts.csv](verdicts.csv)):",
        "",
        answers.families(found),
        "",
        *_told_of_seeds(other_seeds(names)),
        *_told_of_hearing_out(names),
        *_told_of_teaching(names),
        *_told_of_rivals(names),
        "## Every table and figure",
        "",
        "A cell's number counts all cells of the notebook in `notebooks/`.",
        "",
    ]
    made = [
        [f"{notebook}, cell {cell}", section, f"`{name}`", *(_link(experiment, name) for experiment in names)]
        for name, notebook, section, cell in made_by()
    ]
    made.append(["`make seeds`", "Other seeds of the folds", "`seeds`", *(_link(name, "seeds") for name in names)])
    made.append(["`make hear-out`", "Answers heard out", "`heard_out`", *(_link(one, "heard_out") for one in names)])
    made.append(["`make teach-ways`", "Ways to teach", "`teaching`", *(_link(one, "teaching") for one in names)])
    made.append(["`make rivals`", "Trained for the worst served", "`rivals`", *(_link(one, "rivals") for one in names)])
    lines.append(answers.markdown(["made by", "section", "table or figure", *names], made))
    return "\n".join(lines) + "\n"


def _told_of_seeds(seeds: pd.DataFrame) -> list[str]:
    """Which verdicts another seed of the folds repeats, in lines; none where there is one seed."""
    if seeds.empty:
        return []
    told = [
        f"- `{name}`: {rows['same'].sum()} of {len(rows)} comparisons have one verdict on all seeds."
        for name, rows in seeds.groupby("dataset", sort=False)
    ]
    left_out = (
        "Where they differ: [seeds.csv](seeds.csv). Here all seeds, the first too, are judged with fewer answers "
        "than in notebook 05: without what subtracts the model's prior (`llm less prior`, `llm less content-free`), "
        "the model without a history, its fusions with the recommender, and larger models. The families "
        f"{', '.join(f'*{name}*' for name in ON_ONE_SEED)} are judged on the first seed alone."
    )
    return ["## Is it the seed?", "", *told, "", left_out, ""]


def _told_of_hearing_out(names: list[str]) -> list[str]:
    """What became of answers that our stop rule had ended; no line where ``make hear-out`` has not run."""
    rows = []
    for name, table in _there(names, "heard_out"):
        for one in table.itertuples():
            ended = f"the model {one.by_model}, its budget {one.by_budget}"
            tokens = f"{one.tokens_stopped:,.0f}, heard out {one.tokens_heard_out:,.0f}"
            missing = f"{one.missing_stopped:.0%}, heard out {one.missing_heard_out:.0%}"
            auc = f"**{one.verdict}**: {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f}), {one.n} users"
            sample = f"{one.sample} of {one.stopped}"
            other = f"{one.other_order:.0%}; of {one.begin_alike:.0%} that begin alike, {one.other_order_alike:.0%}"
            rows.append([f"`{name}`", f"`{one.mode}`", sample, ended, tokens, missing, other, auc])
    if not rows:
        return []
    told = (
        "Our stop rule ends an answer that only repeats itself. A seeded sample of the answers that it ended was "
        "written again with nothing but the budget to end them (`make hear-out`): who ends them then, how many tokens "
        "an answer has, how much of the list it leaves out, for how many users the ranking becomes another, and what "
        "AUC gains under the published protocol. Texts are written in other batches then, where rounding alone may "
        "lead to another word, so answers that begin as they did are told apart. More: `heard_out.csv`."
    )
    header = ["dataset", "way to ask", "answers", "now ended by", "tokens", "missing", "other ranking", "AUC gained"]
    return ["## Is it our stop rule?", "", told, "", answers.markdown(header, rows), ""]


def _told_of_teaching(names: list[str]) -> list[str]:
    """How ways to teach a language model compare; no line where ``make teach-ways`` has not run."""
    rows = []
    for name, table in _there(names, "teaching"):
        for one in table.itertuples():
            apart = f"{one.own_less_another:+.3f} ({one.apart_low:+.3f} to {one.apart_high:+.3f})"
            auc = f"{one.auc:.3f} ({one.low:.3f} to {one.high:.3f})"
            rows.append([f"`{name}`", one.way, one.device, f"{one.seconds:,.0f} s", auc, apart, str(one.users)])
    if not rows:
        return []
    told = (
        "AUC of inactive users on the folds that decide (`make teach-ways`; no judged list is among them), with the "
        "95 % interval over users, and how much of it is lost with another user's history: what is read of the user. "
        "Ways that are not in the table were not run. `teaching.csv` of each experiment has more."
    )
    header = ["dataset", "way to teach", "taught on", "in", "AUC", "own less another's history", "users"]
    return ["## Can it be taught to read the user?", "", told, "", answers.markdown(header, rows), ""]


def _told_of_rivals(names: list[str]) -> list[str]:
    """Whom recommenders serve that are trained for the worst served; no line where ``make rivals`` has not run."""
    rows = []
    for name, read in _there(names, "rivals"):
        table = read.fillna({"over_plain_verdict": ""})
        auc = table.pivot(index="ranker", columns="group", values="auc").loc[table["ranker"].unique()]
        verdict = table.pivot(index="ranker", columns="group", values="over_plain_verdict")
        for ranker, of in auc.iterrows():
            said = [f"{float(of[one]):.3f} {verdict.loc[ranker, one]}".strip() if one in of else "–" for one in _GROUPS]
            rows.append([f"`{name}`", str(ranker), *said])
    if not rows:
        return []
    told = (
        "Instead of routing weak users, one can train for them: for the worst served 30 % of users (CVaR), for the "
        "worse of inactive and active users (group DRO), or re-rank for both. Mean AUC on the fold left out; the word "
        "is the verdict against the same factorisation with the ordinary objective, MF-mean. Intervals: `rivals.csv` "
        "of each experiment."
    )
    header = ["dataset", "ranker", *_GROUPS]
    return ["## Does training repair what routing cannot?", "", told, "", answers.markdown(header, rows), ""]


def _there(names: list[str], table: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """A table of a command that is no part of ``make reproduce``, of the experiments that have it."""
    for name in names:
        if (file := paths.RESULTS / name / f"{table}.csv").is_file():
            yield name, pd.read_csv(file)


def _link(experiment: str, name: str) -> str:
    for kind in ("csv", "png"):
        if (paths.RESULTS / experiment / f"{name}.{kind}").is_file():
            return f"[{kind}]({experiment}/{name}.{kind})"
    return "–"


def write(folder: Path) -> list[str]:
    """Write README.md, three tables (overview, verdicts, seeds) and the figure; return the experiments covered."""
    from hybridrec.study import figures
    from hybridrec.study.figures import overview as figures_overview

    names = experiments()
    tables.write_csv(folder / "overview.csv", four_answers(names))
    tables.write_csv(folder / "verdicts.csv", all_verdicts(names))
    tables.write_csv(folder / "seeds.csv", other_seeds(names))
    primary = {name: metrics(name).get("cross", {}).get("primary") for name in names}
    figures.save(figures_overview.overview(primary, verdicts.SMALLEST_EFFECT), folder, "overview")
    with files.replacing(folder / "README.md") as partial:
        partial.write_text(index(names), encoding="utf-8")
    return names
