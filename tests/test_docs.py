"""The pages in docs/, the README and CONTRIBUTING stay true: their settings, commands, links and prices exist."""

import json
import math
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from hybridrec.data.sources import own
from hybridrec.evaluation import prices
from hybridrec.llm import modes, ways
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.models.settings import EndpointSettings
from hybridrec.study import __main__ as commands
from hybridrec.study import config, cross_tasks, notebooks, paths, steps

ENDPOINTS = paths.ROOT / "docs" / "endpoints.md"
QUIZZES = sorted((paths.ROOT / "docs" / "quiz").glob("0*.md"))
PAGES = [
    *sorted((paths.ROOT / "docs").glob("*.md")),
    *sorted((paths.ROOT / "docs" / "quiz").glob("*.md")),
    paths.ROOT / "README.md",
    paths.ROOT / "CONTRIBUTING.md",
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text_of(page)) if name == language]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> Path:
    return request.param


# --- plain texts, and a short front page ------------------------------------------------------------------------------


def test_a_page_is_its_text_alone(page):
    assert "<!--" not in BLOCK.sub("", text_of(page))


@pytest.mark.parametrize("page", [*PAGES, paths.ROOT / "benchmarks" / "README.md"], ids=lambda page: page.name)
def test_a_table_is_in_one_piece(page):
    """Rows behind a blank line have no header of their own, and are shown as they stand."""
    text = BLOCK.sub("", text_of(page))
    tables = re.findall(r"^\|.*\n(?:\|.*(?:\n|\Z))*", text, re.M)
    assert [table for table in tables if not re.match(r".*\n\|[-:| ]+\|\n", table)] == []


def test_the_readme_is_short_and_fits_an_editor():
    lines = text_of(paths.ROOT / "README.md").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


# --- quizzes ----------------------------------------------------------------------------------------------------------

_QUESTION = re.compile(
    r"^\*\*(\d+)\. (?:(?!\*\*\n).)+\*\*\n\n<details>\n<summary>Answer</summary>\n\n((?:(?!<).)+)\n\n</details>$",
    re.M | re.S,
)


def test_every_notebook_has_a_quiz():
    assert [one.stem for one in QUIZZES] == notebooks.main_names()


@pytest.mark.parametrize("quiz", QUIZZES, ids=lambda page: page.stem)
def test_a_quiz_has_a_few_questions_each_with_a_folded_answer(quiz):
    text = text_of(quiz)
    found = _QUESTION.findall(text)
    assert [number for number, _ in found] == [str(one) for one in range(1, len(found) + 1)]
    assert 4 <= len(found) <= 6
    assert f"(../../notebooks/{quiz.stem}.ipynb)" in text.split("\n\n")[1]
    rest = _QUESTION.sub("", text).strip().split("\n\n")
    assert len(rest) == 2  # nothing else but the title and what to do


# --- the settings of an endpoint --------------------------------------------------------------------------------------


def settings_table() -> dict[str, str]:
    """The rows of the table of settings: key, default as written."""
    table = text_of(ENDPOINTS).split("| key | type | default | meaning |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[1:]]
    return {row[0].strip("`"): row[2] for row in rows}


def test_the_table_names_every_setting_of_an_endpoint_and_no_other():
    assert list(settings_table()) == list(EndpointSettings.model_fields)


def as_written(value: object) -> str:
    words = {False: "false", True: "true", "": "none"}
    return words[value] if isinstance(value, str | bool) else f"{value:g}"


def test_the_table_names_the_defaults():
    table = settings_table()
    for name, one in EndpointSettings.model_fields.items():
        if one.is_required():
            assert table[name] == "required"
        elif one.default is None:
            assert table[name] in ("no limit", "no cap")
        elif name == "parameters":
            assert (one.default_factory(), table[name]) == ({}, "none")
        else:
            assert table[name] == as_written(one.default), name


EXAMPLES = [body for body in blocks(ENDPOINTS, "toml") if "[models." not in body]
PRICES = [body for body in blocks(ENDPOINTS, "toml") if "[models." in body]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda body: tomllib.loads(body)["model"])
def test_every_example_makes_an_experiment_that_an_endpoint_can_do(example):
    default = tomllib.loads(text_of(paths.EXPERIMENTS / "ml-100k.toml"))
    default = {name: value for name, value in default.items() if name not in ("local", "larger_models", "taught")}
    settings = config.build("example", default | tomllib.loads(example), "the example")
    assert isinstance(settings.endpoint, EndpointSettings)
    assert all(modes.get(mode).writes for mode in settings.modes)
    assert settings.everybody_modes == ()
    model = Endpoint(
        settings.model, price=prices.Price(), **settings.endpoint.model_dump()
    )  # refuses a cap without a bound
    assert model.name == settings.model


def test_the_settings_to_score_with_vllm_make_an_experiment():
    (line,) = (line for line in text_of(ENDPOINTS).splitlines() if line.startswith("To score "))
    keys, of_endpoint = [*re.findall(r"`(\w+ = [^`]+)`", line)], "[endpoint]" in line
    (vllm,) = (tomllib.loads(one) for one in EXAMPLES if "Qwen/" in one)
    changed = tomllib.loads("\n".join(keys))
    assert of_endpoint and changed.keys() == {"modes", "cross_ways", "logprobs"}
    vllm["endpoint"]["logprobs"] = changed.pop("logprobs")
    default = tomllib.loads(text_of(paths.EXPERIMENTS / "ml-100k.toml"))
    default = {name: value for name, value in default.items() if name not in ("local", "larger_models", "taught")}
    settings = config.build("example", default | vllm | changed, "the example")
    assert {modes.get(mode).kind for mode in settings.modes} == {"generate", "score", "choose"}


@pytest.mark.parametrize("example", PRICES)
def test_every_price_on_the_page_is_one_that_the_price_file_takes(example, tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text('date = "2026-01-01"\n[local]\nusd_per_hour = 0.1\n' + example, encoding="utf-8")
    (name,) = tomllib.loads(example)["models"]
    assert prices.read_prices(file).of_endpoint(name) == prices.read_prices(paths.PRICES).of_endpoint(name)


def test_the_modes_of_the_page_are_those_there_are():
    section = text_of(ENDPOINTS).split("## Which modes it can do")[1].split("\n## ")[0]
    halves = zip(section.split("Some also return log-probabilities."), (True, False), strict=True)
    for half, writes in halves:
        listed = " ".join(line for line in half.splitlines() if line.startswith("- `"))
        named = {mode for mode in modes.BUILT_IN if f"`{mode}`" in listed}
        assert named == {mode for mode in modes.BUILT_IN if modes.get(mode).writes == writes}


def test_the_budget_of_an_answer_has_room_for_the_history_and_twice_the_candidates():
    """An answer may restate what it was told and draft a list before it ends with one."""
    (told,) = (line for line in text_of(ENDPOINTS).splitlines() if line.startswith("**How many tokens?**"))
    rule = re.search(r"with (\d+) titles of history, \((\d+) \+ 2 × (\d+)\) × (\d+) = (\d+)", told)
    _, history, candidates, of_title, total = map(int, rule.groups())
    closed = tomllib.loads(text_of(paths.EXPERIMENTS / "ml-100k-gpt-4o-mini.toml"))
    longest = max(closed["history_length"], *(ways.get(name).length for name in closed["cross_ways"]))
    assert rule[1] == rule[2] == str(longest)
    assert f"under protocol `cross` up to {candidates} " in told and "about twelve tokens" in told and of_title == 12
    assert total == (history + 2 * candidates) * of_title
    for one in (closed, *map(tomllib.loads, EXAMPLES)):
        assert one["endpoint"]["parameters"]["max_tokens"] >= total, one["model"]


def test_the_most_candidates_of_the_page_are_those_of_the_data():
    if not any(paths.RAW.glob("ml-100k*")):
        pytest.skip("MovieLens 100K is not on this disk: `make data` fetches it")
    closed = config.read(paths.EXPERIMENTS / "ml-100k-gpt-4o-mini.toml")
    cross = cross_tasks.prepare(closed, steps.dataset(closed.dataset, closed.ratings))
    sizes = cross.candidates.groupby(["fold", "user"]).size()
    most = max(sizes[cell[1]].loc[cross.users(cell)].max() for cell in cross.judged_cells)
    assert f"under protocol `cross` up to {most} " in text_of(ENDPOINTS)


# --- commands and links -----------------------------------------------------------------------------------------------

CODE = re.compile(r"^```\w*\n.*?^```|`[^`\n]+`", re.M | re.S)


def make_targets(text: str) -> set[str]:
    """What a page tells to make: ``make name`` inside code, with or without variables before it."""
    return {name for code in CODE.findall(text) for name in re.findall(r"\bmake ([a-z][a-z0-9_-]*)", code)}


def targets_of_the_makefile() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9_-]*):(?!=)", text_of(paths.ROOT / "Makefile"), re.M))


def test_every_make_target_on_a_page_exists(page):
    assert make_targets(text_of(page)) <= targets_of_the_makefile()


def test_make_targets_are_found_in_code_and_nowhere_else():
    text = "We make progress.\n```bash\nX=1 make one EXPERIMENT=a\nmake two  # make it so\n```\nand `make three`."
    assert make_targets(text) == {"one", "two", "it", "three"}
    assert {"batch", "import", "reproduce"} <= make_targets(text_of(ENDPOINTS)) & targets_of_the_makefile()


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings; of headings that are alike, later ones get a number."""
    found: list[str] = []
    for head in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head.strip().lower())
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {f"{one}-{before}" if (before := found[:at].count(one)) else one for at, one in enumerate(found)}


def dangling(page: Path) -> list[str]:
    """The page's relative links that lead nowhere, be it a file, a heading of the page or of another page."""
    text = "\n\n".join(prose(page)) if page.suffix == ".ipynb" else text_of(page)
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        there = page.parent / target if target else page
        lost = anchor and there.suffix == ".md" and there.is_file() and anchor not in anchors(text_of(there))
        if not there.exists() or lost:
            found.append(link)
    return found


def prose(notebook: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "markdown"]


LINKING = [
    *PAGES,
    *map(notebooks.path_of, notebooks.names()),
    *paths.EXPERIMENTS.glob("*.md"),
    *(paths.ROOT / "exercises").glob("*.md"),
    *(paths.ROOT / folder / "README.md" for folder in ("benchmarks", "data")),
]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_relative_links_lead_somewhere(page):
    assert dangling(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One head\n[a](page.md) [b](gone.md) [c](#one-head) [d](#two) [e](https://example.org/x)\n[f](page.md#three)\n",
        encoding="utf-8",
    )
    assert dangling(page) == ["gone.md", "#two", "page.md#three"]


def test_the_users_that_a_real_server_ranks_are_as_many_as_the_page_says():
    (users,) = re.findall(r"^MODEL, .*USERS = .*, (\d+)$", text_of(paths.ROOT / "tests" / "test_serve.py"), re.M)
    assert re.findall(r"(\d+) real users", text_of(ENDPOINTS)) == [users]


def test_anchors_are_those_of_github():
    text = "# `One` head: 2 × *x*\n## Same\n## Same\n```\n# no head\n```\n### A [link](page.md), snake_case\n"
    assert anchors(text) == {"one-head-2--x", "same", "same-1", "a-link-snake_case"}


def test_files_of_the_study_that_the_page_names_are_there():
    named = re.findall(r"`((?:tests|notebooks|hybridrec)/[\w./-]+\.\w+)`", text_of(ENDPOINTS))
    assert "tests/test_serve.py" in named
    assert [name for name in named if not (paths.ROOT / name).is_file()] == []


# --- ratings of one's own ---------------------------------------------------------------------------------------------


OWN = paths.ROOT / "docs" / "own-ratings.md"


def heredoc(page: Path, word: str) -> str:
    """What a page's shell block hands to a command between <<'WORD' and WORD."""
    (found,) = re.findall(rf"<<'{word}'\n(.*?)^{word}$", text_of(page), re.M | re.S)
    return found


def test_the_example_with_ones_own_ratings_makes_a_file_that_is_enough(tmp_path, monkeypatch, capsys):
    if not any(paths.RAW.glob("ml-100k*")):
        pytest.skip("MovieLens 100K is not on this disk: `make data` fetches it")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    exec(heredoc(OWN, "PYTHON"), {})
    (tmp_path / "mine.toml").write_text(heredoc(OWN, "TOML"), encoding="utf-8")
    monkeypatch.setenv("HYBRIDREC_DATA", str(tmp_path / "data" / "raw"))
    commands.data(config.read(tmp_path / "mine.toml"))
    (shown,) = blocks(OWN, "text")
    assert capsys.readouterr().out == shown


def test_the_example_with_counts_makes_an_experiment():
    example, _ = blocks(OWN, "toml")
    copied = tomllib.loads(text_of(paths.EXPERIMENTS / "ml-latest-small-2016.toml"))
    settings = config.build("mine", copied | tomllib.loads(example), "the example")
    assert own.settings(settings.ratings).feedback == "counts"


def test_the_example_with_scores_makes_an_experiment():
    _, example = blocks(OWN, "toml")
    copied = tomllib.loads(text_of(paths.EXPERIMENTS / "ml-latest-small-2016.toml"))
    settings = config.build("mine", copied | tomllib.loads(example), "the example")
    assert settings.scores["MyService"].test == "my/test_scores.parquet"


def test_every_key_of_ones_own_ratings_is_on_the_page_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text_of(OWN), re.M)
    told = {key: default.strip("`") for key, default in rows}
    fields = own.RatingsFile.model_fields.items()
    known = {name: "required" if one.is_required() else one.default for name, one in fields}
    assert told.keys() == known.keys()
    for key, default in known.items():
        usual = (f'"{default}"', str(default))
        expected = {"": ("none", "as item", "as file"), (): ("none",), None: ("checked",)}.get(default, usual)
        assert told[key].replace("`", "") in expected, key


# --- what was measured ------------------------------------------------------------------------------------------------


def test_the_time_and_memory_that_are_told_were_measured():
    measured = json.loads((paths.ROOT / "benchmarks" / "pipeline.json").read_text(encoding="utf-8"))
    assert set(measured) == {"ml-100k", "ml-latest-small-2016", "book-crossing"}
    for name, done in measured.items():
        row = f"| `{name}` | {done['all']['seconds'] / 60:.0f} min | {done['all']['peak_mib']} MiB |"
        assert row in text_of(paths.ROOT / "docs" / "running.md")


def test_what_a_million_users_would_take_is_the_share_routed_times_what_was_measured():
    """The two tables of docs/scale.md, rounded as they are."""
    answer = json.loads((paths.RESULTS / "ml-100k" / "metrics.json").read_text(encoding="utf-8"))["cost"]["answer"]
    found = json.loads((paths.ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))["llm"]["rows"]
    (ranked,) = [one for one in found if (one["workload"], one["peer"]) == ("test items", "listwise")]
    text, routed = text_of(paths.ROOT / "docs" / "scale.md"), 1e6 * answer["routed_share"]
    seconds = routed * ranked["ours"]["median"] / ranked["users"]
    prompt, written = 380 * routed, 57 * routed
    dollars = (0.15 * prompt + 0.60 * written) / 1e6
    thousand, million = f"{routed / 1e3:.0f},000", f"{routed / 1e4:.1f} million"
    assert f"| 1 million | {thousand} | about {seconds / 3600:.0f} h | about {seconds / 600:.0f} min |" in text
    tokens = f"{prompt / 1e6:.0f} million"
    assert f"so {thousand} users are {tokens} tokens" in text
    assert f"| 1 million | {thousand} | {tokens} | {written / 1e6:.1f} million | {dollars:.1f} |" in text
    many = f"{prompt / 1e7:.1f} billion | {written / 1e4:.0f} million | {100 * dollars:.0f}"
    assert f"| 100 million | {million} | {many} |" in text
    assert 50_000 < routed <= 100_000 and f"a million users ({thousand} routed) are two files" in text
    assert f"and a hundred million are {math.ceil(100 * routed / 50_000)}." in text


def test_the_time_of_all_benchmarks_is_the_sum_of_their_times():
    found = json.loads((paths.ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    minutes = f"{sum(one['seconds'] for one in found.values()) / 60:.0f} minutes"
    assert f"# all of them: {minutes} on two cores" in text_of(paths.ROOT / "benchmarks" / "README.md")
    assert f"{minutes})" in text_of(paths.ROOT / "Makefile")


# --- sections of notebooks --------------------------------------------------------------------------------------------

_WHICH = r'sections? ("[^"]+"|\d+(?:(?: to | and |, )\d+)*)(?!\.\d)'
_ELSEWHERE = re.compile(rf"(?:[Nn]otebook |`?0)(\d[a-z]?)(?:_\w+`)?(?:\]\([^)]+\))?, {_WHICH}")
_OWN = re.compile(
    rf"(?<!\d, )(?<!`, )(?<!\), )\b{_WHICH.replace('s', '[Ss]', 1)}"
)  # not of a paper: "00824, section 4"


def headings(number: str) -> list[str]:
    """A notebook's section headings, such as "3. Ask, or replay"."""
    (path,) = (notebooks.path_of(name) for name in notebooks.names() if name.startswith(f"0{number}_"))
    return re.findall(r"^##+ (.+)$", "\n".join(sources(path)), re.M)


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells]


def wanted(which: str) -> list[str]:
    """What a reference asks for: the beginnings of the headings, or a part of one where it is named."""
    if which.startswith('"'):
        return [which.strip('"')]
    ends = [int(number) for number in re.findall(r"\d+", which)]
    return [f"{one}. " for one in (range(ends[0], ends[1] + 1) if " to " in which else ends)]


def lacking(number: str, which: str) -> list[str]:
    """The sections of a reference that the notebook does not have."""
    there = headings(number)
    return [
        one
        for one in wanted(which)
        if not any(one in head if one[0].isalpha() else head.startswith(one) for head in there)
    ]


def section_references() -> list[tuple[str, str, str]]:
    """Every reference to a section of a notebook: where it stands, the notebook's number, and which."""
    pages = [
        *PAGES,
        *paths.EXPERIMENTS.glob("*.md"),
        *(paths.ROOT / "exercises").glob("*.md"),
        paths.ROOT / "data/README.md",
    ]
    every = [notebooks.path_of(name) for name in notebooks.names()]
    texts = [(page.name, text_of(page)) for page in pages]
    texts += [(path.name, "\n".join(sources(path))) for path in (*every, *(paths.ROOT / "exercises").rglob("0*.ipynb"))]
    found = [(name, *one) for name, text in texts for one in _ELSEWHERE.findall(text)]
    for path in every:
        found += [
            (path.name, path.name[1:].partition("_")[0], which) for which in _OWN.findall("\n".join(sources(path)))
        ]
    for page in paths.EXPERIMENTS.glob("*.md"):  # a section of the page for each notebook
        for number, text in re.findall(r"^## 0(\d[a-z]?)_\w+\n(.*?)(?=^## |\Z)", text_of(page), re.M | re.S):
            found += [(page.name, number, which) for which in _OWN.findall(text)]
    return found


def test_every_section_of_a_notebook_that_is_referred_to_exists():
    found = section_references()
    assert {"glossary.md", "teaching.md", "findings.md", "class.md", "03_user_triage.ipynb"} <= {
        name for name, *_ in found
    }
    assert [one for one in found if lacking(*one[1:])] == []


def test_a_section_that_is_not_there_is_found():
    text = (
        'notebook 5, section 7; `03_user_triage`, sections 6 to 99; notebook 5, section "No such"; arXiv:1, section 9.9'
    )
    assert [(number, lacking(number, which)[:1]) for number, which in _ELSEWHERE.findall(text)] == [
        ("5", []), ("3", ["7. "]), ("5", ["No such"])
    ]  # fmt: skip
    assert _OWN.findall("Sections 1 to 5; 2405.00824, section 3; in section 12 and section 3.1") == ["1 to 5", "12"]
