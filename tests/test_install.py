"""What is installed: `pip install hybridrec` is enough for every module but those of an extra."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from hybridrec.study import paths

# The modules that may need an extra as soon as they are imported.
OF_AN_EXTRA = {
    "hybridrec.evaluation.ranks": "cornac",
    "hybridrec.llm.batch": "endpoint",
    "hybridrec.llm.models.endpoint": "endpoint",
    "hybridrec.llm.models.limits": "endpoint",
    "hybridrec.llm.models.replies": "endpoint",
    "hybridrec.llm.models.scoring": "endpoint",
    "hybridrec.llm.models.troubles": "endpoint",
    "hybridrec.llm.models.devices": "local",
    "hybridrec.llm.models.encoder": "local",
    "hybridrec.llm.models.local": "local",
    "hybridrec.llm.models.packed": "local",
    "hybridrec.llm.models.tree": "local",
    "hybridrec.llm.models.weights": "local",
    "hybridrec.llm.models.writing": "local",
    "hybridrec.llm.held_back": "local",
    "hybridrec.llm.lessons": "local",
    "hybridrec.llm.lora": "local",
    "hybridrec.llm.objectives": "local",
    "hybridrec.llm.teach": "local",
    "hybridrec.recommenders.cornac_models": "cornac",
}
# argv: the packages that are not there, then an empty word, then the modules to import. Prints those that fail.
IMPORTS = """
import importlib, sys
absent, modules = set(sys.argv[1:sys.argv.index("")]), sys.argv[sys.argv.index("") + 1:]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(module, error.name)
"""


def plain(requirement: str) -> str:
    """The name of a requirement, in lower case and with hyphens."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


@pytest.mark.slow
def test_all_but_the_modules_of_an_extra_can_be_imported_without_the_extras():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {plain(one) for extra in project["optional-dependencies"].values() for one in extra} - {"hybridrec"}
    absent = {
        name for name, wheels in packages_distributions().items() if extras & {plain(wheel) for wheel in wheels}
    }  # fmt: skip
    assert {"torch", "pooch", "pyarrow", "numba", "matplotlib"} <= absent
    files = [path for path in (paths.ROOT / "hybridrec").rglob("*.py") if "study" not in path.parts]
    modules = [".".join(path.relative_to(paths.ROOT).with_suffix("").parts) for path in sorted(files)]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *sorted(absent), "", *modules],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(paths.ROOT)}, check=True,
    )  # fmt: skip
    failed = dict(line.split() for line in done.stdout.splitlines())
    assert failed and failed.keys() <= OF_AN_EXTRA.keys()
    for module, lacking in failed.items():
        named = {plain(one) for one in project["optional-dependencies"][OF_AN_EXTRA[module]]}
        assert {plain(wheel) for wheel in packages_distributions()[lacking]} <= named, f"{module} needs {lacking}"
