"""A real model behind a server's API, with log-probabilities as OpenAI and vLLM document them.

``script`` is for ``fault_server.serve``; ``run_batch`` does with files what ``vllm run-batch`` does. It computes with
transformers alone, one token at a time and one text at a time, so that it shares no code with the package.

What is asked for and given back follows vLLM's public source: vllm/entrypoints/openai/chat_completion/protocol.py,
completion/protocol.py, completion/serving.py and run_batch.py. Fields that vLLM does not know are refused here, where
vLLM leaves them out with a warning.
"""

import json
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from fault_server import Reply, Request, Script, error
from transformers import AutoModelForCausalLM, AutoTokenizer

MOST = 20  # vLLM's --max-logprobs


class Known(pydantic.BaseModel):
    """What both kinds of requests may hold, as far as the package sends it."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: int | None = None
    temperature: float | int | None = None
    seed: int | None = None
    prompt_logprobs: int | None = None


class Message(pydantic.BaseModel):
    """One turn of a chat."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    content: str


class Chat(Known):
    """The body of /chat/completions."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int = pydantic.Field(0, ge=0, le=MOST)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class Text(Known):
    """The body of /completions."""

    prompt: str = pydantic.Field(min_length=1)
    logprobs: int | None = pydantic.Field(None, ge=0, le=MOST)
    add_special_tokens: bool = True
    response_format: dict[str, Any] | None = None


class Served:
    """The model in a folder of safetensors; ``context`` is vLLM's --max-model-len."""

    def __init__(self, folder: Path, context: int = 100_000) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.context = context

    def prompt(self, body: dict[str, Any]) -> list[int]:
        """The tokens of the chat or the text that a body holds."""
        if "prompt" in body:
            special = body.get("add_special_tokens", True)
            return self.tokenizer(body["prompt"], add_special_tokens=special)["input_ids"]
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
        body, chat = request.body, request.path.endswith("/chat/completions")
        try:
            (Chat if chat else Text).model_validate(body)
        except pydantic.ValidationError as wrong:
            return error(400, f"{wrong.errors()[0]['loc']}: {wrong.errors()[0]['msg']}")
        if chat and not self.tokenizer.chat_template:
            return error(
                400,
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
                "template if the tokenizer does not define one.",
            )
        tokens = self.prompt(body)
        if len(tokens) + 1 > self.context:
            return error(
                400,
                f"This model's maximum context length is {self.context} tokens. However, you requested 1 output tokens "
                f"and your prompt contains {len(tokens)} input tokens. Please reduce the length of the input prompt.",
            )
        after = self.log_probs(tokens)
        choice = (self._chat if chat else self._text)(body, after[-1])
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}
        reply = {"object": "chat.completion" if chat else "text_completion", "choices": [choice], "usage": usage}
        if body.get("prompt_logprobs") is not None:
            own = [
                {str(token): {"logprob": row[token].item(), "rank": 1, "decoded_token": self.tokenizer.decode(token)}}
                for token, row in zip(tokens[1:], after, strict=False)
            ]
            (reply if chat else choice)["prompt_logprobs"] = [None, *own]
        return Reply("answered", json.dumps(reply), answers=True, tokens=(len(tokens), 1))

    def _chat(self, body: dict[str, Any], row: torch.Tensor) -> dict[str, Any]:
        listed = [self._told(at, row) for at in row.topk(body.get("top_logprobs") or 1).indices.tolist()]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "message": {"role": "assistant"}}
        choice["message"]["content"] = listed[0]["token"]
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [listed[0] | {"top_logprobs": listed}]}
        return choice

    def _text(self, body: dict[str, Any], row: torch.Tensor) -> dict[str, Any]:
        top = row.topk(max(1, body.get("logprobs") or 0)).indices.tolist()
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": self.tokenizer.decode(top[0])}
        if body.get("logprobs") is not None:
            listed = {self.tokenizer.decode(at): row[at].item() for at in top}
            first = {"tokens": [choice["text"]], "token_logprobs": [row[top[0]].item()], "text_offset": [0]}
            choice["logprobs"] = first | {"top_logprobs": [listed]}
        return choice

    def _told(self, token: int, row: torch.Tensor) -> dict[str, Any]:
        return {"token": self.tokenizer.decode(token), "logprob": row[token].item(), "bytes": None}

    def run_batch(self, file: Path, into: Path) -> Path:
        """Answer every line of a batch file, as ``vllm run-batch`` does: chat requests alone, in their order."""
        with into.open("w", encoding="utf-8") as written:
            for number, text in enumerate(file.read_text(encoding="utf-8").splitlines()):
                line = json.loads(text)
                assert line.keys() == {"custom_id", "method", "url", "body"} and line["method"] == "POST"
                reply = error(400, "URL is not supported")
                if line["url"] == "/v1/chat/completions":
                    reply = self(Request(line["url"], {}, json.dumps(line["body"]).encode(), 0))
                good = reply.status == 200
                response = {"status_code": reply.status, "request_id": f"vllm-batch-{number}", "body": None}
                response["body"] = json.loads(reply.content) if good else None
                told = {"id": f"vllm-{number}", "custom_id": line["custom_id"], "response": response}
                written.write(json.dumps(told | {"error": None if good else json.loads(reply.content)}) + "\n")
        return into


def script(folder: Path) -> Script:
    """What the server does with a request."""
    return Served(folder)
