"""The kinds of answers that a person understands are understood; what names nothing for certain names nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrec.llm import answers, prompts

FILMS = ["Piano, The (1993)", "Heat (1995)", "Kids (1995)", "Mask (1985)", "Toy Story (1995)"]
CASES = [
    json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text(encoding="utf-8").splitlines()
]


def read(text: str, titles: list[str], labelled: bool = False, truncated: bool = False) -> answers.ParsedRanking:
    return answers.parse_ranking(text, titles, prompts.labels(len(titles)) if labelled else (), truncated=truncated)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_a_person_understands(case):
    parsed = read(case["text"], case["candidates"], case["answered_with"] == "labels", case["truncated"])
    assert (list(parsed.order), parsed.invalid, parsed.duplicates) == (case["intended"], 0, 0)


@pytest.mark.parametrize(
    ("text", "titles", "labelled"),
    [
        ("<thinking>Kids? Heat?</thinking>Mask\nHeat\nKids", FILMS, False),
        ("Heat (1995) is good, Kids is not.\n</think>\nMask\nHeat\nKids", FILMS, False),
        ("[THINK]1. Kids\n2. Heat[/THINK]1. Mask\n2. Heat\n3. Kids", FILMS, False),
        ("analysisWe rank Kids, Heat.assistantfinalMask\nHeat\nKids", FILMS, False),
        ("Draft:\n1. Heat\n2. Kids\n3. Mask\n\nFinal:\n1. Mask\n2. Heat\n3. Kids", FILMS, False),
        ("Candidates:\n- Heat\n- Kids\n- Mask\n\nMy ranking:\n- Mask\n- Heat\n- Kids", FILMS, False),
        ('{"candidates": ["Heat", "Kids", "Mask"], "ranking": ["Mask", "Heat", "Kids"]}', FILMS, False),
        ('{"ranking": ["Mask", "Heat", "Kids"], "candidates": ["Heat", "Kids", "Mask"]}', FILMS, False),
        ('[{"reason": "as in Toy Story", "film": "Heat", "rank": 2}, {"reason": "x", "film": "Mask", "rank": 1}, '
         '{"reason": "y", "film": "Kids", "rank": 3}]', FILMS, False),
        ('{"Heat": 0.5, "Kids": 0.1, "Mask": 0.9}', FILMS, False),
        ('{"3": "Kids", "1": "Mask", "2": "Heat"}', FILMS, False),
        ('["Mask", "Heat", "Kids",', FILMS, False),
        ("['Mask', 'Heat', 'Kids']", FILMS, False),
        ("① Mask\n② Heat\n③ Kids", FILMS, False),
        ("1️⃣ Mask\n2️⃣ Heat\n3️⃣ Kids", FILMS, False),
        ("i. Mask\nii. Heat\niii. Kids", FILMS, False),
        ("а) Mask\nб) Heat\nв) Kids", FILMS, False),
        ("No. 1: Mask\nNo. 2: Heat\nNo. 3: Kids", FILMS, False),
        ("First: Mask\nSecond: Heat\nThird: Kids", FILMS, False),
        ("- rank: 1\n  title: Mask\n  reason: warm\n- rank: 2\n  title: Heat\n  reason: cold\n- rank: 3\n"
         "  title: Kids\n  reason: odd", FILMS, False),
        ("1. Mask\n   - Similar to Toy Story\n2. Heat\n   - tense\n3. Kids", FILMS, False),
        ("C 4, C 2, C 3", FILMS, True),
        ("Ｃ４ ＞ Ｃ２ ＞ Ｃ３", FILMS, True),
        ("C4Mask\nC2Heat\nC3Kids", FILMS, True),
        ("C2 Heat\nC3 Kids\nC4 Mask\n\nRanking: [C4] > [C2] > [C3]", FILMS, True),
    ],
)  # fmt: skip
def test_kinds_of_answers(text, titles, labelled):
    parsed = read(text, titles, labelled)
    assert (parsed.order, parsed.invalid, parsed.duplicates) == ((3, 1, 2), 0, 0)


@pytest.mark.parametrize(
    ("text", "titles", "order", "invalid"),
    [
        ("1. Toy Story 2\n2. Heat", FILMS, (1,), 1),  # a sequel
        ("1. Star Trek VI\n2. Heat", ["Star Trek IV", "Heat"], (1,), 1),
        ("1. Aliens\n2. Heat", ["Alien", "Heat"], (1,), 1),
        ("1. Alien: Resurrection\n2. Heat", ["Alien", "Heat"], (1,), 1),
        ("1. Before Sunset\n2. Heat", ["Before Sunrise", "Heat"], (1,), 1),
        ("1. The Pledge – if you liked Toy Story (1995)\n2. Heat", FILMS, (1,), 1),  # a candidate in a reason
        ("1. Heat: Part II: Fire\n2. Heat: Part II: Fire\n3. Kids", FILMS, (2,), 2),
        ("1. C\n2. Java", ["C++", "Java"], (1,), 1),
        ("1. Sabrina (1995)\n2. Heat", ["Sabrina (1954)", "Heat"], (1,), 1),  # a remake
        ("1. Sabrina\n2. Heat", ["Sabrina (1954)", "Sabrina (1995)", "Heat"], (2,), 1),  # which of two
        ("1. Björk\n2. Muse", ["Björk ❄️", "Björk 🔥", "Muse"], (2,), 1),
        ("1. Nirvana (US)\n2. Muse", ["Nirvana (UK)", "Muse"], (1,), 1),
        ("1. 12 Monkeys\n2. Heat", ["Monkeys", "Heat"], (1,), 1),
        ("1. Blade Runner 2049\n2. Heat", ["Blade Runner (1982)", "Heat"], (1,), 1),
        ("Sure!\n- Heat\n- The Pledge\nEnjoy.", FILMS, (1,), 1),  # prose beside a list is no item
    ],
)
def test_no_guess_between_two_and_nothing_invented_becomes_a_candidate(text, titles, order, invalid):
    parsed = read(text, titles)
    assert (parsed.order, parsed.invalid) == (order, invalid)


@pytest.mark.parametrize("text", ["<think>Heat, then Kids", "<think>\n1. Heat", "<|channel|>analysis<|message|>Heat"])
def test_only_thoughts_are_a_failure_of_their_own(text):
    parsed = read(text, FILMS, truncated=True)
    assert (parsed.order, parsed.failure) == ((), "only thoughts")


def test_a_slip_of_the_pen_is_forgiven_where_one_candidate_is_nearest():
    assert read("1. Radiohed\n2. Muse", ["Muse", "Radiohead"]).order == (1, 0)


def test_a_line_again_after_an_empty_one_is_a_duplicate_and_a_label_counts_before_what_was_redacted():
    assert read("Heat\n\nKids\n\nHeat", FILMS) == answers.ParsedRanking((1, 2), 0, 1, 3, "")
    assert read("C4 ⟨history 20⟩\nC2", FILMS, labelled=True).order == (3, 1)


def test_what_breaks_off_may_be_another_title():
    assert read("Heat\nAlien", ["Alien", "Aliens", "Heat"], truncated=True).order == (2,)


BEFORE = st.one_of(
    st.permutations(FILMS).map(lambda said: "<think>\n" + "\n".join(said) + "\n</think>\n"),
    st.permutations(FILMS).map(
        lambda said: "Draft:\n" + "\n".join(f"- {one}" for one in said) + "\n\nFinal ranking:\n"
    ),
    st.permutations(FILMS).map(lambda said: f"The candidates are {', '.join(said)}.\n\nMy ranking:\n"),
    st.sampled_from(FILMS).map(lambda one: f"Since you liked {one}, here is my ranking:\n\n"),
)
MARKS = (
    "{title}",
    "{n}. {title}",
    "- {title}",
    "**{n}.** {title}",
    "{n}、{title}",
    "#{n} {title}",
    "Rank {n}: {title}",
)


@given(before=BEFORE, order=st.permutations(range(len(FILMS))), mark=st.sampled_from(MARKS))
def test_whatever_stands_before_a_list_and_however_it_is_marked_the_list_is_read(before, order, mark):
    text = before + "\n".join(mark.format(n=n, title=FILMS[place]) for n, place in enumerate(order, 1))
    assert read(text, FILMS) == answers.ParsedRanking(tuple(order), 0, 0, 0, "")
