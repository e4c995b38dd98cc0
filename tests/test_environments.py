"""A class's files for other places (devcontainer, Binder) ask for the Python and the commands that we have."""

import json
import os
import re
import subprocess

import pytest
import yaml

from hybridrec.study import paths

CONTAINER = json.loads((paths.ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
BINDER = paths.ROOT / "binder"
MAKEFILE = (paths.ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def python() -> str:
    """The version of Python that requirements.lock is made for."""
    lock = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
    return re.search(r"pip-compile with Python (3\.\d+)", lock)[1]


def test_the_container_has_our_python_and_makes_what_the_makefile_can(python):
    assert CONTAINER["image"].endswith(f"python:{python}")
    target = CONTAINER["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}:", MAKEFILE, re.M)


def test_the_container_uses_the_environment_and_the_port_of_the_makefile():
    interpreter = CONTAINER["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith(f"/{re.search(r'^VENV +[?]= (.*)$', MAKEFILE, re.M)[1]}/bin/python")
    assert CONTAINER["forwardPorts"] == [int(re.search(r"^PORT := (\d+)$", MAKEFILE, re.M)[1])]


@pytest.mark.parametrize("file", [paths.ROOT / "environment.yml", BINDER / "environment.yml"], ids=["conda", "binder"])
def test_conda_gives_our_python_and_no_second_lock(file, python):
    wanted = yaml.safe_load(file.read_text(encoding="utf-8"))["dependencies"]
    assert wanted == [f"python={python}", "pip", "make"]


def test_binder_can_run_its_script_and_the_script_makes_what_the_makefile_can():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)
    targets = re.findall(r"^make (\w+)", script.read_text(encoding="utf-8"), re.M)
    assert targets and all(re.search(rf"^{target}:", MAKEFILE, re.M) for target in targets)


def test_ray_and_duckdb_are_in_a_lock_of_their_own_that_fits_beside_the_first():
    first, second = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (paths.ROOT / name).read_text(encoding="utf-8"), re.M))
        for name in ("requirements.lock", "requirements-scale.lock")
    )
    assert {"ray", "duckdb"} <= second.keys() and not first.keys() & second.keys()
    (installs,) = re.findall(r"^\.stamps/env:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert "requirements.lock" in installs and "scale" not in installs
