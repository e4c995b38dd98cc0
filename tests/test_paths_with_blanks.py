"""A checkout under "My Documents d'été" is made, cleaned and tested like any other, and nothing beside it is touched.

The checkout is a copy of what make reads, in a folder with blanks, an apostrophe and an accent. Under every name that a
path cut at its blanks or quotes would hit lies a folder of somebody else's. The interpreter is a script that does
nothing, so every recipe runs for real.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from hybridrec.data import downloads
from hybridrec.study import notebooks, paths, tables

PARENT, OWN = "My Documents d'été", "hybrid rec"
READ_BY_MAKE = [
    "Makefile",
    "pyproject.toml",
    "requirements.lock",
    "requirements-scale.lock",
    "hybridrec",
    "notebooks",
    "benchmarks/requirements.txt",
]
READ_BY_MAKE += ["data/prices.toml", "data/published_table2.csv"]
# What a path is cut into, and what recipes remove, one folder further up.
PIECES = [
    "My",
    "Documents",
    "d",
    "d'été",
    "été",
    "d'été/hybrid",
    "hybrid",
    "rec",
    "My Documents",
    "My Documents d",
    "~",
]
REMOVED = [".stamps", "_site", "data/tables", "rec/.stamps", "rec/_site", "hybrid/data/tables", "Documents/.stamps"]
BAD_NAMES = [
    "", " ", "../../x", "..", "a b", "a'b", 'a"b', ".hidden", "-rf", "/tmp", "a/b", "ml-100k x", "~", "*", "é", "a#b",
    "$(touch pwned)", "$(shell touch pwned)", "$$(touch pwned)", "`touch pwned`", "ml-100k;touch pwned",
    "ml-100k\ntouch pwned",
]  # fmt: skip
MAKEFILE = (paths.ROOT / "Makefile").read_text(encoding="utf-8")


def targets() -> list[str]:
    """Every target that one may ask for, as the Makefile declares them."""
    declared = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", MAKEFILE, re.M)
    described = re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.M)
    return sorted({*" ".join(declared).replace("\\\n", " ").split(), *described} - {"FORCE"})


PYTHON = """#!/bin/sh
echo "$HYBRIDREC_SCRATCH|$*" >> "{log}"
for word; do [ "$last" = --target ] && mkdir -p "$word"; last=$word; done
case "$*" in "-m hybridrec.study run "*)
    mkdir -p "results/$4" "data/tables/$4" && touch "results/$4/$5.ipynb"
    for table in {tables}; do touch "data/tables/$4/$table.parquet"; done;;
esac
"""


class Checkout:
    """A copy of what make reads, among folders of other people; ``log`` holds what the interpreter was asked for."""

    def __init__(self, top: Path) -> None:
        self.top, self.root = top, top / PARENT / OWN
        for name in READ_BY_MAKE:
            source, target = paths.ROOT / name, self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(source, target)
        recorded = self.root / "data/recordings/ml-100k"
        recorded.mkdir(parents=True)
        (recorded / "model.jsonl.gz").touch()
        self.log = top / "log"
        self.python = self.root / "stub" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(PYTHON.format(log=self.log, tables=" ".join(tables.WRITTEN_BY)), encoding="utf-8")
        self.python.chmod(0o755)
        for place in (top, top / PARENT, self.root):
            for name in [*PIECES, *(REMOVED if place != self.root else [])]:
                (place / name / "deep").mkdir(parents=True, exist_ok=True)
                (place / name / "deep" / "thesis.txt").write_text(f"{name}: years of work", encoding="utf-8")
        self.settle()
        self.before = self.files()

    def settle(self) -> None:
        """The environment is there, and newer than the lock."""
        (self.root / ".stamps").mkdir(exist_ok=True)
        (self.root / ".stamps" / "env").touch()

    def make(self, *words: str, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
        """``make`` with a stub for an environment, and nothing of this machine's settings."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.top / "home"), "LC_ALL": "C.UTF-8"} | variables
        given = [] if any(word.startswith("VENV=") for word in words) else ["VENV=stub", "PYTHON=stub/bin/python"]
        command = ["make", *words, *given]
        return subprocess.run(command, cwd=folder or self.root, env=env, capture_output=True, text=True, timeout=60)

    def files(self) -> dict[str, bytes]:
        """Everything but make's own notes and the log, by path."""
        found = [path for path in self.top.rglob("*") if path.is_file() and path != self.log]
        mine = {path: path.relative_to(self.top) for path in found if self.root / ".stamps" not in path.parents}
        return {str(name): path.read_bytes() for path, name in mine.items()}

    def lost(self) -> list[str]:
        """Files that were there before and are gone, or changed though no target is there to write them."""
        after = self.files()
        changed = [name for name, content in self.before.items() if after.get(name) != content]
        ours = re.compile(
            rf"{PARENT}/{OWN}/(requirements\.lock|notebooks/(appendix/)?0[1-8][a-z]?_\w+\.ipynb)"
        )  # of lock, and of notebooks
        return [name for name in changed if name not in after or not ours.fullmatch(name)]

    def made_outside(self) -> list[str]:
        """Files that are new, and not within the checkout."""
        return [name for name in self.files().keys() - self.before.keys() if not name.startswith(f"{PARENT}/{OWN}/")]


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


# --- every target ---------------------------------------------------------------------------------------------------

_ENDS = {";", "&&", "||", "|", "&", "(", ")", "{", "}", "do", "then", "done", "fi", "else", "\n"}
_SKIPPED = {"for", "while", "if", "do", "then", "!", "{", "("}


def commands(recipe: str) -> list[list[str]]:
    """The commands of a printed recipe as the shell cuts them, redirections included."""
    found: list[list[str]] = [[]]
    for line in recipe.replace("\\\n", " ").splitlines():
        cut = shlex.shlex(line, posix=True, punctuation_chars=True)
        cut.whitespace_split = True
        for word in cut:
            if word in _ENDS:
                found.append([])
            else:
                found[-1].append(word)
        found.append([])
    return [command for command in found if command]


def written(command: list[str]) -> list[str]:
    """The paths that a command removes, makes or writes."""
    words = [word for word in command if not re.match(r"\w+=", word)]
    while words and words[0] in _SKIPPED:
        words = words[1:]
    redirected = [words[n + 1] for n, word in enumerate(words[:-1]) if re.fullmatch(r">>?", word)]
    if words and words[0] in {"rm", "rmdir", "mkdir", "cp", "mv", "touch", "ln"}:
        redirected += [word for word in words[1:] if not word.startswith("-")]
    return [path for path in redirected if path != "/dev/null" and not path.startswith("&")]


def test_commands_are_cut_as_the_shell_cuts_them():
    recipe = (
        "rm -rf 'a b' c && mkdir -p \"d\"\nfor n in x; do cp y/$n z || exit 1; done\nX=1 python f > /etc/g 2>/dev/null"
    )
    assert [written(command) for command in commands(recipe)] == [
        ["a b", "c"],
        ["d"],
        [],
        ["y/$n", "z"],
        [],
        ["/etc/g"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("experiment", ["ml-100k", "class"])
def test_every_recipe_writes_within_the_checkout_alone(target, experiment, tmp_path_factory):
    checkout = dry(tmp_path_factory)
    done = checkout.make("-n", target, f"EXPERIMENT={experiment}", "SCRATCH=/somewhere", "STAMPS=../..")
    assert done.returncode == 0, done.stderr
    assert not [piece for piece in ("Documents", OWN, "/somewhere", "../..") if piece in done.stdout]
    for path in [path for command in commands(done.stdout) for path in written(command)]:
        assert not path.startswith(("/", "~"))
        assert ".." not in Path(path).parts
        assert Path(os.path.realpath(checkout.root / path)).is_relative_to(checkout.root.resolve())
    assert checkout.files() == checkout.before


_DRY: list[Checkout] = []


def dry(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One checkout for all that only prints."""
    if not _DRY:
        _DRY.append(Checkout(tmp_path_factory.mktemp("dry")))
    return _DRY[0]


@pytest.mark.slow
def test_every_recipe_run_for_real_leaves_what_is_not_its_own(checkout):
    """All of them, one after the other; what the interpreter would have done is left out."""
    for target in targets():
        checkout.settle()
        if target == "env":
            (checkout.root / ".stamps" / "env").unlink()
        done = checkout.make(target, "FILES=none.jsonl", "ONLY=metrics")
        assert (done.returncode == 0) == (target != "only-the-default"), f"{target}: {done.stderr}"
        assert checkout.lost() == [], target
        assert checkout.made_outside() == [], target
    asked = checkout.log.read_text(encoding="utf-8")
    for command in (
        "-m hybridrec.study run ml-100k 07_taught_model",
        "-m hybridrec.study run ml-100k 08_allocation",
        "-m ruff check",
        "-m sphinx",
        "-m venv",
        "-m hybridrec.study seeds",
    ):
        assert command in asked


# --- cleaning up ----------------------------------------------------------------------------------------------------


def test_clean_removes_what_make_has_made_and_nothing_else(checkout):
    made = [".stamps/scratch", "_site/html", "data/tables/x", ".pytest_cache", ".ruff_cache", ".hypothesis"]
    for name in made:
        (checkout.root / name).mkdir(parents=True, exist_ok=True)
        (checkout.root / name / "old").touch()
    assert checkout.make("clean").returncode == 0
    assert not [name for name in made if (checkout.root / name).exists()]
    assert checkout.lost() == []


def test_clean_removes_a_link_and_not_what_it_leads_to(checkout):
    (checkout.root / "_site").symlink_to(checkout.top / "_site")
    (checkout.root / "data" / "tables").symlink_to(checkout.top / "data" / "tables")
    assert checkout.make("clean").returncode == 0
    assert checkout.lost() == []
    assert not (checkout.root / "_site").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("given", [[], ["SCRATCH=.."], ["SCRATCH=../hybrid", "-e"], ["STAMPS=..", "SCRATCH=../../My"]])
def test_a_test_run_empties_its_scratch_folder_wherever_another_is_named(given, checkout):
    scratch = checkout.root / ".stamps" / "scratch"
    scratch.mkdir()
    (scratch / "old").touch()
    done = checkout.make("test", *given, SCRATCH=str(checkout.top / "My"), HYBRIDREC_SCRATCH=str(checkout.top / "My"))
    assert done.returncode == 0, done.stderr
    assert list(scratch.iterdir()) == []
    assert checkout.lost() == []
    lines = checkout.log.read_text(encoding="utf-8").splitlines()
    runs = [line for line in lines if any(part in line for part in ("--nbval", "study fits", "tests/test_class.py"))]
    assert len(runs) == 4
    assert {line.partition("|")[0] for line in runs} == {".stamps/scratch"}


def test_a_makefile_called_from_afar_refuses_and_removes_nothing_there(checkout):
    for target in ("clean", "test", "site", "record"):
        done = checkout.make("-f", str(checkout.root / "Makefile"), target, folder=checkout.top)
        assert done.returncode != 0
        assert "make -C" in done.stderr
        assert checkout.files() == checkout.before
    assert checkout.make("-C", str(checkout.root), "clean", folder=checkout.top).returncode == 0
    assert checkout.lost() == []


# --- names that are given -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_an_experiment_that_is_no_name_is_refused_before_anything_is_done(name, how, tmp_path_factory):
    checkout = dry(tmp_path_factory)
    stamps = sorted(checkout.root.glob(".stamps/**"))
    for target in ("clean", "record", "test", "notebooks", ".stamps/env"):
        given = (
            ([f"EXPERIMENT={name}", "STRANGE=", "LETTERS="], {}) if how == "argument" else ([], {"EXPERIMENT": name})
        )
        done = checkout.make(target, *given[0], **given[1])
        assert done.returncode != 0
        assert "EXPERIMENT is the name of a file" in done.stderr
    assert checkout.files() == checkout.before
    assert sorted(checkout.root.glob(".stamps/**")) == stamps
    assert not checkout.log.exists()


def test_an_experiment_that_does_not_exist_is_named_beside_those_that_do(checkout):
    (checkout.root / "notebooks/experiments/it's $(touch pwned) `touch pwned`.toml").touch()
    done = checkout.make("reproduce", "EXPERIMENT=nowhere")
    assert done.returncode != 0
    assert "no experiment nowhere." in done.stderr
    assert "book-crossing" in done.stderr
    assert not list(checkout.top.rglob("pwned"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my venv", "d'été", 'a "quoted" one', "$HOME", "`touch pwned`", "a;b"])
def test_an_environment_anywhere_is_used_from_there(name, checkout):
    elsewhere = checkout.top / PARENT / name / "bin" / "python"
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(checkout.python, elsewhere)
    folder = str(elsewhere.parents[1]).replace("$", "$$")  # make's own way to write it
    done = checkout.make("lint", "env", f"VENV={folder}", f"PYTHON={folder}/bin/python")
    assert done.returncode == 0, done.stderr
    assert "-m ruff check ." in checkout.log.read_text(encoding="utf-8")
    assert "-m venv" not in checkout.log.read_text(encoding="utf-8")  # it is there
    (checkout.root / "requirements.lock").touch()
    done = checkout.make("env", f"VENV={folder}", f"PYTHON={folder}/bin/python")
    assert done.returncode == 0, done.stderr
    assert f"-m venv {elsewhere.parents[1]}" in checkout.log.read_text(encoding="utf-8")
    assert checkout.lost() == []
    assert not list(checkout.top.rglob("pwned"))


def test_a_home_that_is_abbreviated_is_still_found(checkout):
    python = checkout.top / "home" / "my python"
    python.parent.mkdir()
    shutil.copy(checkout.python, python)
    (checkout.root / ".stamps" / "env").unlink()
    done = checkout.make("env", "VENV=stub", "PYTHON=~/my python")
    assert done.returncode == 0, done.stderr
    assert "-m venv stub" in checkout.log.read_text(encoding="utf-8")


def test_an_empty_environment_is_refused_and_not_taken_for_the_systems(checkout):
    done = checkout.make("env", "VENV=", "PYTHON=stub/bin/python")
    assert done.returncode != 0
    assert "VENV is empty" in done.stderr
    assert not checkout.log.exists()


def test_a_python_that_is_not_there_is_named(checkout):
    (checkout.root / "requirements.lock").touch()
    done = checkout.make("env", "VENV=stub", "PYTHON=/no/such python's $$(touch pwned)")
    assert done.returncode != 0
    assert "no /no/such python's $(touch pwned) here" in done.stderr
    assert not list(checkout.top.rglob("pwned"))


def test_consent_to_the_cost_is_handed_on_where_it_is_given_and_only_there(checkout):
    for given, consents in ([], set()), (["YES=1"], {"--yes"}), (["YES=0"], set()):
        shutil.rmtree(checkout.root / ".stamps" / "ml-100k", ignore_errors=True)
        checkout.log.unlink(missing_ok=True)
        assert checkout.make("reproduce", *given).returncode == 0
        runs = [line for line in checkout.log.read_text(encoding="utf-8").splitlines() if "hybridrec.study run" in line]
        assert len(runs) == len(notebooks.names())
        assert all({word for word in line.split() if word.startswith("--")} == consents for line in runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5:7b.jsonl", "my model.jsonl", "c#.jsonl.gz", "it's 100% new.sqlite"])
def test_recordings_of_any_name_are_waited_for(name, checkout):
    """A tag after a colon is how Ollama names its models."""
    file = checkout.root / "data/recordings/ml-100k" / name
    file.touch()
    assert checkout.make("reproduce").returncode == 0
    assert "nothing to do" in checkout.make("reproduce").stdout
    checkout.log.unlink()
    later = (checkout.root / ".stamps/ml-100k/08_allocation").stat().st_mtime + 5
    os.utime(file, (later, later))
    done = checkout.make("reproduce")
    assert done.returncode == 0, done.stderr
    runs = [line for line in checkout.log.read_text(encoding="utf-8").splitlines() if "hybridrec.study run" in line]
    again = [line.rpartition(" ")[2] for line in runs]
    assert sorted(again) == [name for name in notebooks.names() if name >= "04"]
    assert [name for name in again if name in notebooks.main_names()] == [
        "04_llm_prompting",
        "05_evaluation",
        "06_cost",
        "07_taught_model",
        "08_allocation",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy.live.sqlite", "toy.sqlite-wal", ".toy.jsonl.gz.1.partial.gz"])
def test_files_that_are_no_recordings_of_this_study_are_not_waited_for(name, checkout):
    file = checkout.root / "data/recordings/ml-100k" / name
    file.touch()
    assert checkout.make("reproduce").returncode == 0
    later = (checkout.root / ".stamps/ml-100k/08_allocation").stat().st_mtime + 5
    os.utime(file, (later, later))
    assert "nothing to do" in checkout.make("reproduce").stdout


def test_a_copy_beside_a_module_as_synchronised_folders_make_it_stops_nothing(checkout):
    for name in (
        "hybridrec/llm/prompts 2.py",
        "hybridrec/evaluation/topk (d'été).py",
        "hybridrec/llm/templates 2.toml",
    ):
        (checkout.root / name).touch()
    done = checkout.make("reproduce")
    assert done.returncode == 0, done.stderr


# --- no command is written as text ----------------------------------------------------------------------------------

_RUNNERS = {"run", "Popen", "call", "check_call", "check_output"}


def sources() -> list[tuple[str, str]]:
    """All Python in the repository by name: modules, and the code of notebooks."""
    folders = ("hybridrec", "benchmarks", "tests", "docs", "notebooks", "exercises")
    files = [file for folder in folders for file in sorted((paths.ROOT / folder).rglob("*"))]
    found = [(paths.within_root(file), file.read_text(encoding="utf-8")) for file in files if file.suffix == ".py"]
    for file in files:
        if file.suffix == ".ipynb" and ".ipynb_checkpoints" not in file.parts:
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            found += [(paths.within_root(file), text) for text in code]
    return found


def faults(code: str) -> list[str]:
    """Calls that hand a text to a shell, and lines that only IPython reads as commands."""
    if shells := re.findall(r"^\s*(?:[!%].*)", code, re.M):
        return shells
    found = []
    for call in [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func)
        if re.fullmatch(r"os\.(system|popen)|(subprocess\.)?(getoutput|getstatusoutput)|asyncio\..*_shell", name):
            found.append(name)
        if any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords):
            found.append(f"{name}(shell)")
        runs = name.removeprefix("subprocess.") in _RUNNERS and name.startswith("subprocess.")
        if runs and call.args and not isinstance(call.args[0], ast.List | ast.Name | ast.ListComp | ast.Starred):
            found.append(f"{name}({ast.unparse(call.args[0])})")
    return found


@pytest.mark.parametrize(
    "code",
    ["os.system('x')", "subprocess.run('x', shell=True)", "subprocess.run(f'rm {x}')", "subprocess.Popen('a' + b)",
     "subprocess.getoutput('ls')", "x = 1\n%run y", "!ls"],
)  # fmt: skip
def test_a_command_written_as_text_is_found(code):
    assert faults(code)


def test_no_source_writes_a_command_as_text():
    """Tests may: one tries the commands that errors tell the reader to type."""
    read = [(name, code) for name, code in sources() if not name.startswith("tests/")]
    assert {"hybridrec/data/downloads.py", "benchmarks/pipeline.py", "notebooks/01_data.ipynb"} <= {
        name for name, _ in read
    }
    assert [(name, fault) for name, code in read for fault in faults(code)] == []


def test_pip_is_given_a_folder_with_blanks_as_one_word(tmp_path, monkeypatch):
    folder, calls = tmp_path / PARENT / OWN, []
    folder.mkdir(parents=True)
    (folder / "one.whl").touch()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(downloads.subprocess, "run", run)
    wheel = downloads.Wheel("toy==1", "toy/member", "0" * 64)
    assert downloads._download_wheel(wheel, folder) == folder / "one.whl"
    assert any(word == str(folder) or word.endswith(str(folder)) for word in calls[0])


@pytest.mark.slow
def test_a_notebook_runs_in_a_checkout_with_blanks_and_writes_within_it(checkout):
    source = checkout.root / "notebooks" / "it's mine.ipynb"
    (checkout.root / ".stamps" / "a b").mkdir()
    code = "import os\nfrom hybridrec.study import paths\n"
    code += "(paths.tables('x')).mkdir(parents=True); (paths.tables('x') / 't').touch()\nprint(paths.ROOT, os.getcwd())"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), source)
    run = "from pathlib import Path\nfrom hybridrec.study import notebooks as m, paths\nimport sys\n"
    run += "print(m._execute(Path(sys.argv[1]), {}, paths.ROOT / '.stamps' / 'a b' / 'c').cells[0].outputs[0].text)"
    env = os.environ | {"PYTHONPATH": str(checkout.root), "HYBRIDREC_SCRATCH": ".stamps/a 'scratch"}
    command = [sys.executable, "-c", run, str(source)]
    done = subprocess.run(command, cwd=checkout.root, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{checkout.root} {checkout.root / 'notebooks'}"
    assert (checkout.root / ".stamps" / "a 'scratch" / "tables" / "x" / "t").is_file()
    assert checkout.lost() == []
    assert checkout.made_outside() == []
