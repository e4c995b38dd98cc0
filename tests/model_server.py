"""A real model behind a server's API: chat completions with log-probabilities, as OpenAI and vLLM document them.

``script`` is for ``fault_server.serve``. It computes with transformers alone, one token at a time and one text at a
time, so that it shares no code with the package.
"""

import json
from pathlib import Path
from typing import Any

import torch
from fault_server import Reply, Request, Script
from transformers import AutoModelForCausalLM, AutoTokenizer


class Served:
    """The model in a folder of safetensors."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def prompt(self, body: dict[str, Any]) -> list[int]:
        """The tokens of the chat that a body holds."""
        whole = body.get("continue_final_message", False)
        made = {"add_generation_prompt": not whole, "continue_final_message": whole}
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, **made)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def log_probs(self, tokens: list[int]) -> torch.Tensor:
        """The log-probability of every token after each of these."""
        return self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    def __call__(self, request: Request) -> Reply:
        """One completion of one token, whatever is asked for."""
        body = request.body
        tokens = self.prompt(body)
        after = self.log_probs(tokens)
        listed = [self._told(at, after[-1]) for at in after[-1].topk(body.get("top_logprobs") or 1).indices.tolist()]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "message": {"role": "assistant"}}
        choice["message"]["content"] = listed[0]["token"]
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [listed[0] | {"top_logprobs": listed}]}
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}
        reply = {"object": "chat.completion", "choices": [choice], "usage": usage}
        if "prompt_logprobs" in body:
            own = [
                {str(token): {"logprob": row[token].item(), "rank": 1, "decoded_token": self.tokenizer.decode(token)}}
                for token, row in zip(tokens[1:], after, strict=False)
            ]
            reply["prompt_logprobs"] = [None, *own]
        return Reply("answered", json.dumps(reply), answers=True, tokens=(len(tokens), 1))

    def _told(self, token: int, row: torch.Tensor) -> dict[str, Any]:
        return {"token": self.tokenizer.decode(token), "logprob": row[token].item(), "bytes": None}


def script(folder: Path) -> Script:
    """What the server does with a request."""
    return Served(folder)
