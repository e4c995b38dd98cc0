"""On what a local model computes, and how precisely: the words of LocalSettings as torch knows them."""

import torch

from hybridrec.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# A processor's instructions that multiply bfloat16, as torch.cpu names them: x86 (AMX, AVX-512), then ARM.
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16", "sve_bf16")


def device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ModelError: it is not there (says why, as far as torch tells, and what can be done).
    """
    found = torch.device(name)
    if found.type != "cuda":
        return found
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (found.index or 0) < here:
        return found
    if here:
        raise ModelError(f"device {name!r} is not there: torch sees {here}, the first of them called 'cuda:0'.")
    why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device here"
    raise ModelError(f'device {name!r} is not there: {why}. Take device = "cpu", or install torch with CUDA.')


def fast_bfloat16() -> str:
    """The instructions by which this processor multiplies bfloat16 at once; "" if it has none, or torch cannot tell."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if told:
        return next((name for name in _INSTRUCTIONS if told.get(name)), "")
    older = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return next((name for name, asks in older.items() if getattr(torch.cpu, asks, bool)()), "")


def advice(dtype: str, on: torch.device) -> str:
    """A line for whoever could load a model better on this processor; "" for all others."""
    fast = fast_bfloat16()
    if on.type == "cpu" and dtype == "float32" and fast:
        return (
            f'This processor multiplies bfloat16 at once ({fast}): dtype = "bfloat16" may be about twice as fast and '
            "needs half the memory. Log-probabilities are coarser, and such answers are recorded as others."
        )
    if on.type == "cpu" and dtype == "bfloat16" and not fast:
        return 'This processor has no instructions for bfloat16: dtype = "float32" may be much faster.'
    return ""
