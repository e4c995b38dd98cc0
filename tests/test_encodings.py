"""Text files are read and written as UTF-8, whatever a machine's own encoding is (C locale, Windows)."""

import ast
from pathlib import Path

import pytest

from hybridrec.study import paths

FOLDERS = "hybridrec tests benchmarks docs exercises".split()
FILES = sorted(file for folder in FOLDERS for file in (paths.ROOT / folder).rglob("*.py"))


def without_encoding(source: str) -> list[int]:
    """The lines on which a text file is opened, read or written in the machine's own encoding."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _is_silent(node)]


def _is_silent(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    modes = call.args[1:] if isinstance(call.func, ast.Name) else call.args  # open(path, mode), path.open(mode)
    modes = [*modes[:1], *(word.value for word in call.keywords if word.arg == "mode")]
    of_text = all(isinstance(mode, ast.Constant) and "b" not in str(mode.value) for mode in modes)
    given = {word.arg for word in call.keywords}
    return (
        "encoding" not in given
        and None not in given
        and (
            (name == "read_text" and not call.args)
            or (name == "write_text" and len(call.args) < 2)
            or (name == "open" and of_text)
        )
    )


@pytest.mark.parametrize(
    ("source", "silent"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='rb')", False),
        ("open(path, encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open('a+b')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("archive.open(member)", False),
        ("path.read_bytes()", False),
    ],
)
def test_a_missing_encoding_is_seen(source, silent):
    assert bool(without_encoding(source)) is silent


def named(file: Path) -> str:
    return file.relative_to(paths.ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=named)
def test_text_files_are_opened_in_utf_8(file: Path):
    lines = without_encoding(file.read_text(encoding="utf-8"))
    assert not lines, f"without an encoding: lines {lines}"
