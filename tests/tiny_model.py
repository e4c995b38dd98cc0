"""A causal language model with random weights that fits in a moment's pass, saved as transformers saves one."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

CHAT = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}Q: {{ m.content }} A:{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)


def save(folder: Path, chat: bool = True, seed: int = 3) -> Path:
    """A Llama of two layers whose tokens are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate([*alphabet, "<end>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>")
    fast.chat_template = CHAT if chat else None
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=2048, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
