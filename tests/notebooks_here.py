"""Notebooks run in the process of the test: no kernel to wait for, and what a test has replaced stays replaced."""

from typing import Any

import nbformat
from matplotlib import pyplot

from hybridrec.study import config, notebooks

NAMES = notebooks.names()


def run(settings: config.Experiment, names: list[str]) -> None:
    """Execute notebooks' code, with their parameters cells overridden as papermill does it."""
    for name in names:
        space: dict[str, Any]
        notebook, space = nbformat.read(notebooks.path_of(name), as_version=4), {}
        declared = notebooks.declared_parameters(notebook, name)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{name}, cell {cell.id}", "exec"), space)
            if "parameters" in cell.metadata.get("tags", []):
                space |= notebooks.changed_parameters(settings, declared, name)
        pyplot.close("all")
