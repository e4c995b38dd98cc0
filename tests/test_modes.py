"""A way to ask is one object: the built-in ones, one's own from a file, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from hybridrec.errors import SettingError
from hybridrec.llm import modes, prompts, rankers
from hybridrec.llm.modes import Mode
from hybridrec.llm.prompts import Item

OWN = """
name = "stars"
kind = "choose"
text = "I saw {count} {noun}s:\\n{history}\\n\\n"
question = "Is {title} ({facts}) for me?"
choices = ["Ja", "Nein"]
"""
HISTORY, CANDIDATES = [Item("Psycho"), Item("Alien")], [Item("Heat", "Drama"), Item("Fargo", "Crime")]


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> Path:
        path = tmp_path / "own.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_the_built_in_modes_say_what_is_made_of_their_answers():
    found = {name: modes.get(name) for name in modes.BUILT_IN}
    assert {name for name, mode in found.items() if mode.writes} == {"listwise", "listwise-labels"}
    assert {name for name, mode in found.items() if mode.labels} == {"listwise-labels"}
    assert {name for name, mode in found.items() if mode.asks} == {"pointwise", "pointwise-facts"}
    assert {name for name, mode in found.items() if mode.uses_facts} == {"pointwise-facts"}
    assert "prior" not in found and modes.get("prior").kind == "score"


def test_a_mode_of_ones_own_asks_what_its_file_says(write):
    request = rankers.build_request(write(OWN), HISTORY, CANDIDATES, "film")
    assert request == {
        "kind": "choose",
        "instruction": "I saw 2 films:\n- Psycho\n- Alien\n\n",
        "candidates": ["Is Heat (Drama) for me?", "Is Fargo (Crime) for me?"],
        "choices": ["Ja", "Nein"],
    }


def test_a_mode_made_in_python_is_as_good_as_one_from_a_file(write):
    path = write(OWN)
    text, question = "I saw {count} {noun}s:\n{history}\n\n", "Is {title} ({facts}) for me?"
    mode = Mode("stars", "choose", text, question, choices=("Ja", "Nein"))
    assert modes.get(path) == modes.get(str(path)) == modes.get(mode) == mode
    assert modes.get(write(OWN + "floor = 0.02")) == replace(mode, floor=0.02)


def test_titles_cannot_leave_the_template_of_ones_own(write, hostile_title):
    mode = modes.get(write(OWN))
    plain, hostile = (prompts.instruction(mode, [Item(title)], [], "film") for title in ("Alien", hostile_title))
    assert len(hostile.splitlines()) == len(plain.splitlines())
    assert len(prompts.question(mode, Item(hostile_title, hostile_title), "film").splitlines()) == 1


def without(line: str) -> str:
    return "\n".join(one for one in OWN.splitlines() if not one.startswith(line))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("name = ", "line|document"),  # no TOML
        (without("name"), "name"),
        (without("kind"), "kind"),
        (without("text"), "text"),
        (without("question"), r"question.*\{title\}"),
        (OWN + "temperature = 1", "temperature"),
        (OWN.replace("choose", "guess"), "kind.*guess"),
        (OWN.replace("choose", "generate"), r"text.*\{candidates\}"),
        (OWN.replace("choose", "score"), "question"),
        (OWN.replace("{history}", ""), r"text.*\{history_text\}"),
        (OWN.replace("{history}", "{history} {candidates}"), r"text.*\{candidates\}"),
        (OWN.replace("{history}", "{history} {title}"), r"text.*\{title\}"),
        (OWN.replace("{history}", "{history} {noun.upper}"), r"text.*\{noun\.upper\}"),
        (OWN.replace("{history}", "{history} {noun!r}"), r"text.*\{noun\}"),
        (OWN.replace("{history}", "{history} {"), "text.*brace"),
        (OWN.replace("{title}", "it"), r"question.*\{title\}"),
        (OWN.replace("{title}", "{title} {rating}"), r"question.*\{rating\}"),
        (OWN + "labels = true", "labels"),
        (OWN + "labels = 1", "labels"),
        (OWN.replace('["Ja", "Nein"]', '["Ja"]'), "choices"),
        (OWN.replace('["Ja", "Nein"]', '["Ja", "Ja"]'), "choices"),
        (OWN.replace('["Ja", "Nein"]', "3"), "choices"),
        (OWN + "floor = 1.5", "floor.*1.5"),
        (OWN + "floor = true", "floor"),
        (OWN + "floor = nan", "floor"),
        (OWN.replace('"stars"', '"../stars"'), "name"),
        (OWN.replace('"stars"', '"listwise"'), "name.*listwise"),
        (OWN.replace('"stars"', "3"), "name"),
        (OWN.replace('"Is {title} ({facts}) for me?"', "3"), "question"),
    ],
)
def test_a_file_that_is_no_mode_is_refused_with_its_name_and_the_key(text, key, write):
    with pytest.raises(SettingError, match=rf"own\.toml(?s:.*){key}"):
        modes.get(write(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"none\.toml"):
        modes.get(tmp_path / "none.toml")


def test_a_change_of_a_mode_is_checked_too():
    with pytest.raises(SettingError, match=r"\{candidates\}"):
        replace(modes.get("likelihood"), kind="generate")
