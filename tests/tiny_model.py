"""Causal language models with random weights that fit in a moment's pass, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

CHAT = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}Q: {{ m.content }} A:{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
SIZES = {
    "vocab_size": 257, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "initializer_range": 0.5,
}  # fmt: skip
# Gemma looks back eight tokens only, in every other layer.
KINDS = {
    "Llama": (transformers.LlamaConfig, {}),
    "Qwen2": (transformers.Qwen2Config, {}),
    "Gemma3": (
        transformers.Gemma3TextConfig,
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8},
    ),
}


def save(folder: Path, chat: bool = True, seed: int = 3, kind: str = "Llama", **saving: Any) -> Path:
    """A model of two layers whose tokens are bytes; ``saving`` goes to its ``save_pretrained``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate([*alphabet, "<end>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>")
    fast.chat_template = CHAT if chat else None
    fast.save_pretrained(folder)
    config, more = KINDS[kind]
    ends = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config(**SIZES, **more, **ends)).save_pretrained(folder, **saving)
    return folder
