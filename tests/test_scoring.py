"""Scores from one forward pass over many users are those of plain passes over one candidate each."""

import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
import transformers

from hybridrec import progress
from hybridrec.errors import ModelError
from hybridrec.llm.models import packed, tree
from hybridrec.llm.models.tree import Prompt

LIKE = torch.zeros(1)
SIZES = tiny_model.SIZES | {"vocab_size": 97}
# What the token tree does not do, and what of it: these get plain passes.
PLAIN = {
    "Gemma2": (transformers.Gemma2Config, {"query_pre_attn_scalar": 8}, "softcap"),
    "Gemma3 with capped logits": (transformers.Gemma3TextConfig, {"final_logit_softcapping": 30.0}, "its logits"),
    "Granite": (transformers.GraniteConfig, {"logits_scaling": 2.0}, "its logits"),
    "GptOss": (transformers.GptOssConfig, {"num_local_experts": 4}, "s_aux"),
    "Bloom": (transformers.BloomConfig, {"n_layer": 2, "n_head": 4}, "off by"),
    "Lfm2": (transformers.Lfm2Config, {"layer_types": ["conv", "full_attention"]}, "off by"),
    "Phimoe": (transformers.PhimoeConfig, {"sliding_window": 64, "num_local_experts": 4}, "how far they look back"),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such short passes only lose by more
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=tiny_model.KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    kind, more = tiny_model.KINDS[request.param]
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(kind(**SIZES, **more)).eval()


def tokens(rng: np.random.Generator, length: int) -> list[int]:
    return rng.integers(3, 97, length).tolist()


def families(seed: int = 5) -> list[Prompt]:
    """Three users with histories of different lengths, asked in three ways, and one who is asked once."""
    rng, prompts = np.random.default_rng(seed), []
    for length in (30, 5, 61):
        history = tokens(rng, length)
        first = tokens(rng, 3)
        prompts += [
            Prompt(history + tokens(rng, 4), [tokens(rng, n) for n in (3, 1, 7, 2)]),
            Prompt(history, [first + tokens(rng, n) for n in (2, 5, 1)], choices=[11, 12]),
            Prompt(history + tokens(rng, 2), [[*first]] * 2, choices=[12, 11, 13]),
        ]
    return [*prompts, Prompt(tokens(rng, 9), [tokens(rng, 1)])]


def plain(model: Any, prompt: Prompt) -> list[list[float]]:
    """The same from a pass of its own for each candidate, with the attention and the mask of the library."""
    found = []
    for suffix in prompt.suffixes:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt.prefix + suffix]), use_cache=False).logits[0]
        table, before = torch.log_softmax(logits, dim=-1), len(prompt.prefix) - 1
        own = [float(table[before + at, token]) for at, token in enumerate(suffix)]
        found.append(table[-1, prompt.choices].tolist() if prompt.choices else own)
    return found


def scored(model: Any, prompts: list[Prompt]) -> list[list[list[float]]]:
    return [[values.tolist() for values in found] for found in packed.log_probs(model, prompts)]


def flat(found: list) -> list[float]:
    return [value for values in found for value in values]


def test_scores_are_those_of_plain_passes(model):
    prompts = families()
    expected = [plain(model, prompt) for prompt in prompts]
    for found, values in zip(scored(model, prompts), expected, strict=True):
        assert flat(found) == pytest.approx(flat(values), abs=1e-4)
        assert [len(each) for each in found] == [len(each) for each in values]
    forgetful = [plain(model, Prompt(prompt.prefix[-9:], prompt.suffixes, prompt.choices)) for prompt in prompts]
    for values, other, prompt in zip(expected, forgetful, prompts, strict=True):  # and the history counts
        assert len(prompt.prefix) <= 9 or np.abs(np.subtract(flat(values), flat(other))).max() > 1e-2


def test_a_row_attended_to_at_once_as_on_a_gpu_gives_the_same(model, monkeypatch):
    prompts = families()
    by_branch, calls = scored(model, prompts), []
    whole = packed._whole
    monkeypatch.setattr(packed, "_AT_ONCE", ("cpu",))
    monkeypatch.setattr(packed, "_whole", lambda *given: calls.append(1) or whole(*given))
    monkeypatch.setitem(packed._tried, model, "")  # whatever the trial says
    at_once = scored(model, prompts)
    assert calls
    for one, other in zip(at_once, by_branch, strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)
    calls.clear()
    monkeypatch.setattr(packed, "_MOST_AT_ONCE", 10)  # a longer row's mask would fill the memory
    assert scored(model, prompts) == by_branch and not calls


@pytest.mark.parametrize("window", [None, 3])
def test_what_a_token_sees_of_a_whole_row_is_what_it_sees_branch_by_branch(window):
    row = tree.row_of(families())
    whole = row.mask(window, LIKE) == 0
    for branch in row.branches:
        branch_mask = branch._mask(window, LIKE)
        places = torch.cat([torch.arange(len(row.tokens))[part] for part in (*branch.above, branch.own)])
        seen = whole[branch.own]
        assert seen.sum() == seen[:, places].sum()  # nothing beside
        own = torch.ones(len(branch.positions), len(places), dtype=torch.bool)
        expected = own.tril(len(places) - len(branch.positions)) if branch_mask is None else branch_mask == 0
        assert torch.equal(seen[:, places], expected)


@pytest.mark.parametrize(("per_pass", "beside", "logits"), [(1, 1, 1), (40, 6, 2), (70, 1000, 5), (10**6, 3, 10**6)])
def test_scores_do_not_depend_on_what_is_computed_together(model, monkeypatch, per_pass, beside, logits):
    prompts = families()
    together = scored(model, prompts)
    monkeypatch.setattr(packed, "_TOKENS_PER_PASS", per_pass)
    monkeypatch.setattr(tree, "_TOKENS_BESIDE", beside)
    monkeypatch.setattr(packed, "_LOGITS_TOGETHER", logits)
    for one, other in zip(together, scored(model, prompts), strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)
    for one, prompt in zip(together, prompts, strict=True):
        assert flat(one) == pytest.approx(flat(scored(model, [prompt])[0]), abs=1e-4)


def test_a_history_longer_than_a_pass_is_read_once(model, monkeypatch):
    passes = []
    monkeypatch.setitem(packed._tried, model, "")
    monkeypatch.setattr(packed, "_TOKENS_PER_PASS", 20)
    monkeypatch.setattr(packed, "_pass", lambda _, prompts: passes.append(prompts) or [[None] * 4] * len(prompts))
    packed.log_probs(model, [Prompt([1] * 50, [[2] * 5] * 4)])
    assert len(passes) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_scores_are_those_of_the_processor(model):
    prompts = families()
    there = copy.deepcopy(model).to("cuda")
    for one, other in zip(scored(there, prompts), scored(model, prompts), strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)


@pytest.mark.parametrize("most", [75, 120, 300])
def test_what_does_not_fit_the_memory_together_is_computed_apart(model, monkeypatch, most):
    prompts, passes, compute = families(), [], packed._pass
    together = scored(model, prompts)

    def little_memory(model: Any, some: list[Prompt]) -> Any:
        passes.append(sum(prompt.size for prompt in some))
        if passes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(model, some)

    monkeypatch.setattr(packed, "_pass", little_memory)
    for one, other in zip(together, scored(model, prompts), strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)
    assert max(passes) > most
    most = 1
    with pytest.raises(ModelError, match=r"a prompt of \d+ tokens does not fit the memory of cpu.*show less"):
        packed.log_probs(model, prompts[:1])


def test_a_plain_pass_that_does_not_fit_the_memory_is_told(model, monkeypatch):
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(packed._tried, model, "off by much")
    monkeypatch.setattr(model, "forward", no_memory)
    with pytest.raises(ModelError, match="does not fit the memory of cpu"):
        packed.log_probs(model, families()[:1])


def test_the_order_of_users_changes_nothing(model):
    prompts = families()
    together = scored(model, prompts)
    for one, other in zip(together, reversed(scored(model, prompts[::-1])), strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-4)


def test_generation_goes_on_as_before_scoring(model):
    prompt = torch.tensor([families()[0].prefix])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    before = model.generate(prompt, **options)
    packed.log_probs(model, families())
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model.generate(prompt, **options), before)


def test_an_interrupted_pass_leaves_the_models_own_attention(model, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model.base_model, "forward", fails)
    with pytest.raises(KeyboardInterrupt):
        packed.log_probs(model, families())
    assert model.config._attn_implementation == "sdpa"


def test_what_prompts_begin_with_is_in_the_row_once():
    rng = np.random.default_rng(1)
    history, other = tokens(rng, 40), tokens(rng, 30)
    ways = [Prompt([*history, 1], [[5, 6, 7], [8]]), Prompt(history, [[5, 6, 1], [5, 6, 2]], [3, 4])]
    row = tree.row_of([*ways, Prompt(other, [[9, 9]])])
    first = [*history, 1, 5, 6]  # the last token of a suffix that is itself scored need not be read
    assert row.tokens == [*first, 5, 6, 1, 2, *other, 9]
    assert row.positions == [*range(43), 40, 41, 42, 42, *range(31)]
    assert row.sizes == [3, 1, 2, 2, 2]


def test_users_share_what_their_prompts_begin_with():
    prompts = [Prompt([1, 2, 3, 4, 5, 6], [[7]]), Prompt([1, 2, 3, 9, 9, 9], [[7]]), Prompt([1, 9, 9, 9, 9, 9], [[7]])]
    row = tree.row_of([*prompts, prompts[2]])
    assert row.tokens == [1, 2, 3, 4, 5, 6, 9, 9, 9, 9, 9, 9, 9, 9]
    assert row.positions == [0, 1, 2, 3, 4, 5, 3, 4, 5, 1, 2, 3, 4, 5]
    assert row.sources == [5, 8, 13, 13]


def test_a_lone_history_keeps_the_fast_kernel_and_candidates_get_a_mask():
    row = tree.row_of([Prompt(list(range(20)), [[1, 2], [3, 4, 5]])])
    history, candidates = row.branches
    assert history.mask(None, LIKE) is None
    asked, own = tree.row_of([Prompt([1, *range(20)], [[1]]), Prompt([1, 2], [[1]])]).branches[:2]
    assert (asked.own, own.own, own.mask(None, LIKE)) == (slice(0, 1), slice(1, 21), None)  # nearly a square: fast, too
    assert history.mask(19, LIKE) is not None  # a layer that sees no further
    assert history.mask(20, LIKE) is None
    seen = candidates.mask(None, LIKE) == 0
    assert seen.tolist() == [
        [*[True] * 20, True, False, False],
        [*[True] * 20, False, True, False],
        [*[True] * 20, False, True, True],
    ]


@pytest.mark.parametrize("kind", PLAIN)
def test_a_model_that_the_tree_is_wrong_for_gets_plain_passes_and_that_is_told_once(kind, monkeypatch):
    settings, more, why = PLAIN[kind]
    told: list[str] = []
    monkeypatch.setattr(progress, "tell", told.append)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(settings(**SIZES, **more)).eval()
    prompts = families()
    for _ in range(2):
        for found, prompt in zip(scored(model, prompts), prompts, strict=True):
            assert flat(found) == pytest.approx(flat(plain(model, prompt)), abs=1e-4)
    assert len(told) == 1 and type(model).__name__ in told[0] and why in told[0]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_in_bfloat16_the_tree_is_trusted_unless_more_than_rounding_is_between(model, monkeypatch, scale):
    """The scores are multiplied as by a layer that does something of its own."""
    rough = copy.deepcopy(model).to(torch.bfloat16)
    told: list[str] = []
    monkeypatch.setattr(progress, "tell", told.append)
    attend = packed._attend
    scaled = functools.partial(lambda *given, scaling=None, **more: attend(*given, scaling=scaling * scale, **more))
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, packed._ATTENTION, scaled)
    prompts = families()
    apart = [
        abs(one - other)
        for found, prompt in zip(scored(rough, prompts), prompts, strict=True)
        for one, other in zip(flat(found), flat(plain(rough, prompt)), strict=True)
    ]
    assert bool(told) == (scale != 1)
    assert np.mean(apart) < 0.05


def test_parts_are_taken_in_order_and_as_many_as_fit():
    parts = [[n] * (1 + n % 4) for n in range(11)] + [[99] * 12]
    taken = list(tree.together(parts, 10))
    assert list(itertools.chain(*taken)) == parts
    sizes = [sum(map(len, held)) for held in taken]
    assert all(size <= 10 for size in sizes[:-1])
    assert sizes[-1] == 12  # longer than the bound, so it stands alone
    assert all(size + len(after[0]) > 10 for size, after in zip(sizes, taken[1:], strict=False))
    assert list(tree.together([], 10)) == []
