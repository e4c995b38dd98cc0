"""Whatever a model writes is read as a permutation of the candidates or as a failure, and never as anything else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrec.llm import answers, prompts
from hybridrec.llm.redact import redact
from hybridrec.randomness import generator

TITLES = ["Alien (1979)", "Fargo (1996)", "Heat (1995)", "The Third Man (1949)"]
LABELS = prompts.labels(len(TITLES))


def order_of(text: str, titles: list[str] = TITLES, labels: tuple | list = ()) -> list[int]:
    return list(answers.parse_ranking(text, titles, labels).order)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Heat (1995)\nAlien (1979)\nFargo (1996)\nThe Third Man (1949)",
        "1. Heat (1995)\n2. Alien (1979)\n3. Fargo (1996)\n4. The Third Man (1949)",
        "(1) Heat\n(2) Alien\n(3) Fargo\n(4) The Third Man",
        "- heat\n* ALIEN\n• Fargo\n- the third man",
        "1) **Heat (1995)** - tense\n2) **Alien (1979)**\n3) **Fargo (1996)**\n4) **The Third Man (1949)**",
        "Sure! Here is the ranking:\n\n1. Heat\n2. Alien\n3. Fargo\n4. The Third Man\n\nI hope you enjoy these.",
        "Heat (1995) > Alien (1979) > Fargo (1996) > The Third Man (1949)",
        "Heat, Alien, Fargo, The Third Man",
        '["Heat (1995)", "Alien (1979)", "Fargo (1996)", "The Third Man (1949)"]',
        '```json\n{"ranking": ["Heat", "Alien", "Fargo", "The Third Man"]}\n```',
        '[{"rank": 1, "title": "Heat"}, {"rank": 2, "title": "Alien"}, {"title": "Fargo"}, {"title": "The Third Man"}]',
    ],
)
def test_titles_are_read_however_the_list_is_written(text):
    parsed = answers.parse_ranking(text, TITLES)
    assert parsed == answers.ParsedRanking((2, 0, 1, 3), 0, 0, 0, "")


@pytest.mark.parametrize(
    "text",
    [
        "C3 > C1 > C2 > C4",
        "C3, C1, C2, C4",
        "C3\nC1\nC2\nC4",
        "1. C3\n2. C1\n3. C2\n4. C4",
        "C3 Heat (1995)\nC1 Alien (1979)\nC2 Fargo (1996)\nC4 The Third Man (1949)",
        '{"ranking": ["C3", "C1", "C2", "C4"]}',
        "My ranking is [C3] > [C1] > [C2] > [C4].",
    ],
)
def test_labels_are_read_however_they_are_written(text):
    assert answers.parse_ranking(text, TITLES, LABELS) == answers.ParsedRanking((2, 0, 1, 3), 0, 0, 0, "")


def test_an_answer_by_titles_is_read_although_labels_were_asked_for():
    assert order_of("1. Heat\n2. Alien", labels=LABELS) == [2, 0]


def test_labels_of_nobody_are_invented_and_labels_again_are_duplicates():
    assert answers.parse_ranking("C3 > C9 > C3 > C0", TITLES, LABELS) == answers.ParsedRanking((2,), 2, 1, 3, "")


def test_repairs_are_counted_by_kind():
    text = "1. Heat\n2. The Matrix\n3. Heat (1995)\n4. Alien"
    parsed = answers.parse_ranking(text, TITLES)
    assert parsed == answers.ParsedRanking((2, 0), 1, 1, 2, "")
    assert parsed.repaired


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n\t\n", "empty"),
        ("I'm sorry, but I can't rank films for you.", "refusal"),
        ("As an AI, I have no preferences.", "refusal"),
        ("1. The Matrix\n2. Titanic", "names no candidate"),
        ("[]", "names no candidate"),
    ],
)
def test_what_names_no_candidate_is_a_failure_with_its_reason(text, failure):
    parsed = answers.parse_ranking(text, TITLES)
    assert (parsed.failure, parsed.order, parsed.missing, parsed.repaired) == (failure, (), 4, False)


def test_json_that_was_cut_off_gives_what_is_whole():
    assert order_of('{"ranking": ["Heat (1995)", "Alien (1979)", "Farg') == [2, 0]


def test_a_last_item_that_was_cut_off_is_not_called_invented():
    text = "1. Heat (1995)\n2. The Thi"
    assert answers.parse_ranking(text, TITLES).invalid == 1
    assert answers.parse_ranking(text, TITLES, truncated=True).invalid == 0


def test_two_candidates_of_one_name_are_taken_one_after_the_other():
    titles = ["Psycho (1960)", "Heat (1995)", "Psycho (1998)"]
    assert order_of("Psycho\nHeat\nPsycho", titles) == [0, 1, 2]
    assert order_of("Psycho (1998)\nPsycho (1960)\nHeat", titles) == [2, 0, 1]


def test_a_word_in_a_sentence_is_no_title():
    titles = ["It", "Kids (1995)", "Heat (1995)"]
    assert order_of("I think it is good for kids.\n1. Heat (1995)", titles) == [2]


@pytest.mark.parametrize(
    "text",
    [
        '["' * 100_000,
        "(" * 500_000,
        '"' * 500_000,
        "[" * 100_000,
        "1. " * 200_000,
        "⟨history " * 50_000,
        "C1" * 200_000,
    ],
    ids=lambda text: text[:3],
)
def test_hostile_length_costs_no_time(text):
    start = time.perf_counter()
    answers.parse_ranking(redact(text, ["Alien (1979)"], TITLES[1:]), TITLES, LABELS)
    assert time.perf_counter() - start < 20  # a pattern that backtracks would take hours


# --- any text whatsoever --------------------------------------------------------------------------------------------

PIECES = [
    *TITLES,
    *LABELS,
    "C99",
    "Alien",
    "Heat",
    "1. ",
    "- ",
    " > ",
    ", ",
    "\n",
    '["',
    '"]',
    '", "',
    "{",
    "}",
    "```",
    "**",
    "⟨",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
ANY_TITLES = st.lists(st.one_of(st.sampled_from(TITLES), st.text(max_size=30)), min_size=1, max_size=8)


@given(text=TEXTS, titles=ANY_TITLES, labelled=st.booleans(), truncated=st.booleans())
def test_any_text_is_a_permutation_or_a_declared_failure(text, titles, labelled, truncated):
    labels = prompts.labels(len(titles)) if labelled else []
    parsed = answers.parse_ranking(text, titles, labels, truncated=truncated)
    assert bool(parsed.failure) == (not parsed.order)
    assert len(set(parsed.order)) == len(parsed.order)
    assert all(0 <= position < len(titles) for position in parsed.order)
    assert len(parsed.order) + parsed.missing == len(titles)
    assert parsed.invalid >= 0 and parsed.duplicates >= 0
    repaired = answers.repair(parsed, len(titles), generator(1, text, len(titles)))
    assert sorted(repaired) == list(range(len(titles)))
    assert tuple(repaired[: len(parsed.order)]) == parsed.order


@given(text=TEXTS, history=ANY_TITLES, candidates=ANY_TITLES)
def test_redacting_never_fails(text, history, candidates):
    assert isinstance(redact(text, history, candidates), str)


# --- repair ---------------------------------------------------------------------------------------------------------


def test_missing_candidates_follow_in_an_order_that_depends_on_the_seed_alone():
    parsed = answers.parse_ranking("Heat", TITLES)
    tails = {tuple(answers.repair(parsed, 4, generator(seed))) for seed in range(60)}
    assert {tail[0] for tail in tails} == {2}
    assert len(tails) == 6
    assert answers.repair(parsed, 4, generator(5)) == answers.repair(parsed, 4, generator(5))


# --- what may be kept -----------------------------------------------------------------------------------------------


HISTORY = ["Jackie Brown (1997)", "Boogie Nights (1997)", "L.A. Confidential (1997)"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1. Jackie Brown (1997)\n2. Heat (1995)", "1. ⟨history 1⟩\n2. Heat (1995)"),
        ("boogie nights\nHeat", "⟨history 2⟩\nHeat"),
        ("You liked Jackie Brown and L.A. Confidential (1997).", "You liked ⟨history 1⟩ and ⟨history 3⟩."),
        ("1. LA Confidential", "1. ⟨history 3⟩"),
        ("C1 Jackie Brown (1997)\nC2", "C1 ⟨history 1⟩\nC2"),
    ],
)
def test_the_history_is_redacted_and_the_candidates_stay(text, kept):
    assert redact(text, HISTORY, TITLES) == kept


def test_the_beginning_of_a_history_title_at_the_cut_is_redacted():
    assert redact("1. Heat\n2. L.A. Confid", HISTORY, TITLES) == "1. Heat\n2. ⟨history 3⟩"


def test_a_title_that_is_candidate_and_history_stays():
    assert redact("Psycho", ["Psycho (1960)"], ["Psycho (1998)"]) == "Psycho"


@given(places=st.lists(st.integers(0, 6), min_size=1, max_size=12), marked=st.booleans())
def test_redacting_changes_no_reading_and_leaves_no_history(places, marked):
    titles = [*TITLES, *HISTORY]
    lines = [f"{n}. {titles[place]}" if marked else titles[place] for n, place in enumerate(places, 1)]
    text = "\n".join(lines)
    redacted = redact(text, HISTORY, TITLES)
    assert answers.parse_ranking(redacted, TITLES) == answers.parse_ranking(text, TITLES)
    assert not any(title in redacted for title in HISTORY)


# --- untrusted titles -----------------------------------------------------------------------------------------------


def test_an_answer_that_quotes_a_hostile_candidate_names_it_and_no_other(hostile_title):
    titles = ["Gattaca (1997)", hostile_title, "The Third Man (1949)"]
    assert order_of(f"1. {prompts.one_line(hostile_title)}", titles) == [1]


def test_a_hostile_candidate_echoed_behind_its_label_names_no_other(hostile_title):
    titles = ["Gattaca (1997)", hostile_title, "The Third Man (1949)"]
    text = f"C2 {prompts.without_labels(hostile_title)}"
    assert order_of(text, titles, prompts.labels(3)) == [1]
