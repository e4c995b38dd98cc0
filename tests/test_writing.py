"""Written answers of a local model: the same tokens as transformers' own, and who ended them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import KINDS, SIZES

from hybridrec.llm.models import writing

PROMPTS = [[5, 9, 4], [7, 3, 8, 8, 40, 12, 33, 60, 21, 3, 19, 76], [90, 11, 3, 5, 6]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    kind, more = KINDS[request.param]
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(kind(**SIZES, **more)).eval()


def own(model: Any, prompt: list[int], new: int) -> list[int]:
    """What transformers writes after one prompt."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def written(model: Any, budgets: list[int], ends: set[int], is_loop: Any) -> list[tuple[list[int], str]]:
    """The tokens and the reason of each text, in the order of the prompts."""
    texts = sorted(writing.write(model, PROMPTS, budgets, ends, is_loop), key=lambda text: text.prompt)
    return [(text.tokens, text.reason) for text in texts]


def never(new: list[int]) -> bool:
    return False


def test_the_tokens_are_those_of_generate_whatever_else_is_in_the_batch(model):
    budgets = [40, 7, 150]  # further than the cache grows at once
    expected = [own(model, prompt, budget) for prompt, budget in zip(PROMPTS, budgets, strict=True)]
    assert written(model, budgets, set(), never) == [(tokens, "length") for tokens in expected]


@pytest.mark.parametrize("together", [1, 2, 4])
def test_texts_that_come_in_later_change_nothing(model, together, monkeypatch):
    monkeypatch.setattr(writing, "_TOGETHER", together)
    rng = np.random.default_rng(4)
    prompts = [rng.integers(3, 97, length).tolist() for length in (3, 30, 11, 50, 4, 18, 9)]
    budgets = [20, 3, 40, 9, 33, 1, 25]
    texts = list(writing.write(model, prompts, budgets, set(), never))
    assert sorted(text.prompt for text in texts) == list(range(7))
    for text in texts:
        assert text.tokens == own(model, prompts[text.prompt], budgets[text.prompt])
    assert all(text.seconds > 0 for text in texts)


def test_a_text_ends_before_the_models_end_and_the_others_go_on(model):
    full = [own(model, prompt, 30) for prompt in PROMPTS]
    end = full[1][4]
    expected = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in full]
    texts = written(model, [30] * 3, {end}, never)
    assert [tokens for tokens, _ in texts] == expected
    assert [why for _, why in texts] == ["stop" if end in tokens else "length" for tokens in full]


def test_a_loop_ends_the_text_that_is_in_one(model):
    full = [own(model, prompt, 64) for prompt in PROMPTS]
    texts = written(model, [64] * 3, set(), lambda new: new == full[2][: len(new)])
    assert [why for _, why in texts] == ["length", "length", "loop"]
    assert texts[2][0] == full[2][: len(texts[2][0])]
    assert len(texts[2][0]) < 64


LIST = [f"Film number {letter} ({year})" for letter, year in zip("ABCDEFGH", range(1990, 1998), strict=True)]


def numbered(titles: list[str]) -> str:
    return "\n".join(f"{number}. {title}" for number, title in enumerate(titles, 1))


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        (numbered(LIST), False),
        (numbered(LIST) + "\n\nMy ranking:\n" + numbered(LIST), False),  # restated, then answered in the same order
        (numbered(LIST + LIST[-1:]), False),
        (numbered([*LIST[:3], *LIST[3:4] * 8]), True),
        (numbered([*LIST[:3], *LIST[3:5] * 8]) + "\n1", True),
        ("C1 > C2 > C3 > C4", False),
        ("\n".join(f"C{number}" for number in range(1, 40)), False),
        ("\n".join(f"C{number} {LIST[0]}" for number in range(1, 9)), True),
        ("\n".join(f"{number}. C{number}: {LIST[0]}" for number in range(1, 9)), True),
        ("\n".join(f"C{number} {title}" for number, title in enumerate(LIST, 1)), False),
        ("C1 > C2 > " * 3, False),  # short: it may still be meant
        ("C1 > C2 > " * 8, True),
        ("The best is Heat. " * 4, True),
        ("| Rank | Film |\n|" + "-" * 80, False),
        ("\n".join(["| Heat | good |", "| Fargo | good |", "| Ali | good |"]), False),
    ],
)
def test_what_is_a_loop(text, loop):
    assert writing.repeats(text) == loop


@given(st.permutations(LIST), st.permutations(LIST), st.booleans())
def test_a_draft_and_an_answer_are_no_loop(draft, final, marks):
    one, other = (numbered(titles) if marks else "\n".join(titles) for titles in (draft, final))
    text = f"{one}\n\nOn second thoughts:\n{other}\n"
    assert not any(writing.repeats(text[:end]) for end in range(len(text)))


@given(st.lists(st.sampled_from(LIST), min_size=1, max_size=4), st.integers(0, 10**6))
def test_whatever_block_is_said_again_and_again_is_a_loop_in_the_end(block, seed):
    before = np.random.default_rng(seed).permutation(LIST).tolist()
    assert writing.repeats(numbered(before + block * 5) + "\n")
