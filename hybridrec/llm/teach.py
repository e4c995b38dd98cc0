"""Teach a language model on this machine to rank: LoRA on what users rated, by way of ``Mode``.

Two formats, which are two ways to ask afterwards:

- a mode of kind "rate" (rating-lines): a user's ratings, in random order, are lists of lines "- title:grade". There is
  a loss at every grade, given the lines before it, so that one pass teaches as many ratings as a list has lines.
- a mode of kind "choose" (pointwise): after a part of a user's ratings as its history, a question about each of some
  others. There is a loss at every answer.

Source: Bao et al. 2023, TALLRec (arXiv 2305.00447), which asks Yes or No; Hu et al. 2021, LoRA (arXiv 2106.09685).
"""

import hashlib
import json
import math
import resource
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import peft
import pydantic
import safetensors
import torch
from safetensors.torch import save_file

from hybridrec import files, progress
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, ModelError
from hybridrec.evaluation import metrics
from hybridrec.llm import modes, prompts, rankers
from hybridrec.llm.models import packed, weights
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import request_key
from hybridrec.randomness import generator, seed_for
from hybridrec.settings import Settings

_CHECKPOINT = "checkpoint.safetensors"
_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_WARM_UP = 0.05  # of all steps, in which the learning rate rises to its highest
_LEAST_LINES = 8  # of a list: a shorter rest of a user's ratings is left out of a pass
_SMOOTHING = 3.0  # ratings of the whole catalogue's kind that each item's are added to
_QUESTIONS = 16  # about each history, in a mode that puts questions
_PAIRS_SCALE = 2.0  # by which a difference of expected grades is multiplied before the logistic function


class Teaching(Settings):
    """How a model is taught; unless told otherwise, in the way that the study chose (``study.teaching.CHOSEN``).

    ``objective``: "likelihood" of the grade or answer; "pairs": beside it, that of two ratings of one list the higher
    one is expected to be higher; "beyond-item": the likelihood once the item's own distribution of grades among the
    other taught users is multiplied in, so that what everybody thinks of an item need not be learned. ``lines`` of a
    list, which is the longest history, too; ``passes`` over all ratings; ``tokens_per_step`` decide the memory.
    """

    mode: str = pydantic.Field(default="rating-lines", description='a mode of kind "rate" or "choose"')
    objective: Literal["likelihood", "pairs", "beyond-item"] = pydantic.Field(
        default="pairs", description='"likelihood", "pairs" or "beyond-item"'
    )
    lines: int = pydantic.Field(default=48, ge=2, le=1000)
    passes: float = pydantic.Field(default=1.0, gt=0, le=100)
    rank: int = pydantic.Field(default=8, ge=1, le=256)
    learning_rate: float = pydantic.Field(default=8e-4, gt=0, le=1)
    tokens_per_step: int = pydantic.Field(default=4096, ge=1, le=1_000_000)
    held_back: float = pydantic.Field(default=0.15, gt=0, lt=1)
    validations: int = pydantic.Field(default=2, ge=1, le=100)
    patience: int = pydantic.Field(default=3, ge=1, le=1000)


@dataclass(frozen=True)
class Material:
    """What is taught: ratings of users who are never routed, and what prompts say of items.

    Attributes:
        ratings: user, item, rating.
        items: item, title, genres.
        noun: the word for an item.
        scale: the highest rating.
        like: the least rating that is a like.
    """

    ratings: pd.DataFrame
    items: pd.DataFrame
    noun: str
    scale: float
    like: float

    @cached_property
    def hash(self) -> str:
        """SHA-256 of ratings and titles, whatever the order of the rows."""
        rows = self.ratings[["user", "item", "rating"]].merge(self.items[["item", "title"]], on="item", how="left")
        text = rows.sort_values(["user", "item"]).to_csv(index=False)
        return hashlib.sha256(f"{self.noun} {self.scale:g} {self.like:g}\n{text}".encode()).hexdigest()

    @cached_property
    def by_user(self) -> dict[Any, pd.DataFrame]:
        """Each user's ratings by item: item, rating, grade, title."""
        rows = self.ratings.merge(self.items[["item", "title"]], on="item", how="left").sort_values(["user", "item"])
        if rows["title"].isna().any():
            raise DatasetError(f"item {rows.loc[rows['title'].isna(), 'item'].iloc[0]!r} has ratings and no title.")
        rows["grade"] = [prompts.grade(rating, self.scale) for rating in rows["rating"]]
        return dict(list(rows.groupby("user", sort=True)))


@dataclass(frozen=True)
class Example:
    """A beginning, and texts that go on with it side by side; which choice follows at which of their places.

    ``asked`` has for each loss: the text, the place in it after which the choice follows, and the choice's number;
    ``items`` names what each is about.
    """

    prefix: list[int]
    texts: list[list[int]]
    asked: list[tuple[int, int, int]]
    items: list[Any]

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.prefix) + sum(map(len, self.texts))


# --- examples ---------------------------------------------------------------------------------------------------------


class Writer:
    """Writes users' ratings as a mode shows them, in a model's tokens."""

    def __init__(self, model: HuggingFace, mode: Mode, noun: str, lines: int) -> None:
        self.model, self.mode, self.noun, self.lines = model, mode, noun, lines
        self.choices = [model.tokens(choice)[0] for choice in mode.choices]
        self._break = model.tokens("\n")
        self._known: dict[str, list[int]] = {}

    def prompt(self, history: pd.DataFrame, items: pd.DataFrame, like: float) -> packed.Prompt:
        """What the model is asked afterwards: the same request, through the same code."""
        known = [
            prompts.Item(one.title, rating=one.rating, grade=one.grade, liked=one.rating >= like)
            for one in history.itertuples()
        ]
        request = rankers.build_request(self.mode, known, [prompts.Item(title) for title in items["title"]], self.noun)
        return self.model.prompt(request)

    def examples(self, rows: pd.DataFrame, like: float, rng: np.random.Generator) -> Iterator[Example]:
        """One pass over a user's ratings (title, rating, grade), dealt into lists by chance."""
        rows = rows.iloc[rng.permutation(len(rows))]
        step = self.lines if self.mode.grades else self.lines + _QUESTIONS
        for start in range(0, len(rows), step):
            part = rows.iloc[start : start + step]
            if len(part) >= min(_LEAST_LINES, step):
                yield self._list(part) if self.mode.grades else self._questions(part, like, rng)

    def _list(self, rows: pd.DataFrame) -> Example:
        text: list[int] = []
        asked = []
        for title, digit in zip(rows["title"], rows["grade"], strict=True):
            text += self._line(title)
            asked.append((0, len(text) - 1, int(digit)))
            text += [self.choices[digit], *self._break]
        return Example(self._start, [text], asked, rows["item"].tolist())

    @cached_property
    def _start(self) -> list[int]:
        nobody = pd.DataFrame(columns=["title", "rating", "grade"])
        return self.prompt(nobody, pd.DataFrame({"title": ["x"]}), 0.0).prefix

    def _line(self, title: str) -> list[int]:
        if title not in self._known:
            self._known[title] = self.model.tokens(prompts.question(self.mode, prompts.Item(title), self.noun))
        return self._known[title]

    def _questions(self, rows: pd.DataFrame, like: float, rng: np.random.Generator) -> Example:
        """The history is as long as chance wants it, so that short ones are taught, too."""
        least = max(1, len(rows) - _QUESTIONS)
        length = min(int(rng.integers(1, self.lines + 1)), least)
        history = rows.iloc[:length].sort_values("rating", ascending=False, kind="stable")
        after = rows.iloc[least:]
        prompt = self.prompt(history, after, like)
        liked = (after["rating"] >= like).to_numpy()
        asked = [
            (at, len(text) - 1, 0 if yes else 1)
            for at, (text, yes) in enumerate(zip(prompt.suffixes, liked, strict=True))
        ]
        return Example(prompt.prefix, prompt.suffixes, asked, after["item"].tolist())


# --- the loss ---------------------------------------------------------------------------------------------------------


def loss(
    model: Any, examples: Sequence[Example], choices: Sequence[int], objective: str, usual: dict[Any, np.ndarray]
) -> torch.Tensor:
    """The mean loss over everything that is asked in some examples, computed in one row of tokens.

    Args:
        model: a causal language model of transformers.
        examples: what is computed together.
        choices: the token of each choice.
        objective: of ``Teaching``.
        usual: for "beyond-item": item to its number of ratings for each choice, among all who are taught.
    """
    row, sources, targets, whose = packed.Row(), [], [], []
    for number, example in enumerate(examples):
        above = row.grow([example.prefix])
        starts = np.cumsum([len(row.tokens), *map(len, example.texts)])
        row.grow(example.texts, above)
        sources += [int(starts[text]) + place for text, place, _ in example.asked]
        targets += [choice for *_, choice in example.asked]
        whose += [number] * len(example.asked)
    states = packed.hidden(model, row)
    logits = model.get_output_embeddings()(states[torch.tensor(sources, device=states.device)]).float()
    wanted = torch.tensor(targets, device=logits.device)
    tokens = torch.tensor(choices, device=logits.device)
    if objective == "beyond-item":
        known = np.stack([usual[item] for example in examples for item in example.items])
        known[np.arange(len(targets)), targets] -= 1  # the user's own rating is not among the others'
        known = np.log(known / known.sum(axis=1, keepdims=True))
        beyond = logits[:, tokens] + torch.tensor(known, dtype=torch.float32, device=logits.device)
        said = logits.logsumexp(1) - logits[:, tokens].logsumexp(1)  # that a choice follows at all
        return torch.nn.functional.cross_entropy(beyond, wanted) + said.mean()
    likelihood = torch.nn.functional.cross_entropy(logits, tokens[wanted])
    return likelihood if objective == "likelihood" else likelihood + _pairs(logits[:, tokens], wanted, whose)


def _pairs(logits: torch.Tensor, wanted: torch.Tensor, whose: Sequence[int]) -> torch.Tensor:
    """The logistic loss of every two ratings of one example that differ."""
    number = torch.tensor(whose, device=logits.device)
    grades = len(logits[0])
    rising = torch.arange(grades, device=logits.device) if grades > 2 else torch.tensor([1, 0], device=logits.device)
    expected, true = logits.softmax(1) @ rising.float(), rising[wanted]
    higher = (number[:, None] == number) & (true[:, None] > true)
    apart = (expected[:, None] - expected)[higher]
    return torch.nn.functional.softplus(-_PAIRS_SCALE * apart).mean() if len(apart) else logits.sum() * 0


def usual_grades(material: Material, users: Sequence[Any], mode: Mode) -> dict[Any, np.ndarray]:
    """Item to how many of these users gave each choice, smoothed by what all ratings are like."""
    rows = pd.concat([material.by_user[user] for user in users])
    choice = rows["grade"] if mode.grades else (rows["rating"] < material.like).astype(int)
    counts = pd.crosstab(rows["item"], choice).reindex(columns=range(len(mode.choices)), fill_value=0)
    everywhere = counts.sum() / counts.to_numpy().sum()
    smoothed = counts + _SMOOTHING * (0.99 * everywhere + 0.01 / len(mode.choices))
    return dict(zip(smoothed.index.tolist(), smoothed.to_numpy(), strict=True))


# --- validation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """The lists of users who are held back: asked with their own history, and with that of another of them."""

    candidates: list[pd.DataFrame]
    own: list[packed.Prompt]
    another: list[packed.Prompt]


def held_back(
    material: Material, users: Sequence[Any], writer: Writer, rng: np.random.Generator, most: int = 30
) -> Check:
    """For each user a history of random length, up to the writer's lines, and up to ``most`` other items to order."""
    histories, lists = [], []
    for user in users:
        rows = material.by_user[user]
        rows = rows.iloc[rng.permutation(len(rows))]
        length = min(int(rng.integers(_LEAST_LINES, writer.lines + 1)), len(rows) // 2)
        rest = rows.iloc[length : length + most]
        if (rest["rating"] >= material.like).nunique() == 2:
            history = rows.iloc[:length]
            histories.append(history if writer.mode.grades else history.sort_values("rating", ascending=False))
            lists.append(rest)
    if len(lists) < 2:
        raise DatasetError(
            f"{len(lists)} of {len(users)} users who are held back have a liked and another item to be judged by; two "
            "are needed. Teach on more users, or hold back more of them."
        )
    pairs = zip(histories[1:] + histories[:1], lists, strict=True)
    others = [history[~history["item"].isin(own["item"])] for history, own in pairs]
    own_prompts, other_prompts = (
        [writer.prompt(history, rest, material.like) for history, rest in zip(shown, lists, strict=True)]
        for shown in (histories, others)
    )
    return Check(lists, own_prompts, other_prompts)


def validate(model: Any, check: Check, mode: Mode, like: float) -> dict[str, float]:
    """The mean AUC of users who are held back, by their own history and by another user's, and what is answered.

    Returns:
        auc, another, and answered: the probability of all choices together, a mean over all candidates.
    """
    found: dict[str, float] = {}
    for name, asked in (("auc", check.own), ("another", check.another)):
        values = [torch.stack(one).double().numpy() for one in packed.log_probs(model, asked)]
        rows = [
            pd.DataFrame({
                "user": at, "relevant": (rest["rating"] >= like).to_numpy(),
                "score": rankers.of_choices(mode, log_probs),
            })
            for at, (rest, log_probs) in enumerate(zip(check.candidates, values, strict=True))
        ]  # fmt: skip
        found[name] = float(metrics.auc(pd.concat(rows)).mean())
        if name == "auc":
            found["answered"] = float(np.exp(np.concatenate(values)).sum(axis=1).mean())
    return found


# --- teaching ---------------------------------------------------------------------------------------------------------


def divide(material: Material, settings: Teaching, seed: int) -> tuple[list[Any], list[Any]]:
    """Users who are held back, to be validated on, and those who are taught on."""
    users = list(material.by_user)
    order = [users[at] for at in generator(seed, "teach", "held back").permutation(len(users))]
    number = max(2, round(settings.held_back * len(users)))
    return order[:number], sorted(order[number:])


def teach(
    model: HuggingFace,
    material: Material | Dataset,
    folder: str | Path,
    name: str = "taught",
    settings: Teaching | None = None,
    seed: int = 0,
    *,
    users: Iterable[Hashable] | None = None,
    noun: str = "item",
    scale: float = 5.0,
    checkpoint_every: float = 60.0,
) -> dict[str, Any]:
    """Teach a model, and save what it learned as an adapter (LoRA).

    Some users are held back; the adapter that is kept is the one that ranks their items best. A run that was killed
    goes on from its last checkpoint and comes to the same adapter; one that had ended is not run again.

    Args:
        model: on this machine; its dtype and device are those of the computation. It is changed: it knows afterwards
            what it was taught.
        material: ratings of users who will never be ranked for; or data, with the next three.
        folder: of the adapter: its weights and configuration as peft reads them, and ``card.json``.
        name: what the taught model is called.
        settings: the format, the objective, and how long; None: the usual ones.
        seed: root of every random order.
        users: with data: whose ratings are taught; None: everybody's. Whoever is ranked for later should not be among
            them: the model would have been told what it is to predict.
        noun, scale: with data: what prompts call an item, and the highest rating there can be.
        checkpoint_every: seconds.

    Returns:
        The card: name, model (whose adapter it is), settings, seed, hash (of all that decides), data (hash, users,
        ratings, items), curve (step, auc, another, answered, loss), best step, sha256 of the weights, device, dtype,
        seconds, peak memory and parameters.

    Raises:
        DatasetError: too few users; data that does not say what is a like; an item without a title.
        ModelError: a folder with another adapter, or a mode that cannot be taught.
    """
    if isinstance(material, Dataset):
        rows = material.interactions
        rows = rows if users is None else rows[rows["user"].isin(list(users))]
        material = Material(rows, material.items, noun, scale, material.known_like)
    run = _Run(model, material, Path(folder), name, settings or Teaching(), seed, checkpoint_every)
    return run.card_there() or run.run()


@dataclass
class _Run:
    model: HuggingFace
    material: Material
    folder: Path
    name: str
    settings: Teaching
    seed: int
    checkpoint_every: float

    def __post_init__(self) -> None:
        self.mode = modes.get(self.settings.mode)
        if not self.mode.asks:
            raise ModelError(f'mode {self.mode.name!r} cannot be taught: take one of kind "rate" or "choose".')
        self.writer = Writer(self.model, self.mode, self.material.noun, self.settings.lines)
        users = list(self.material.by_user)
        self.held, self.taught = divide(self.material, self.settings, self.seed)
        if not self.taught:
            raise DatasetError(f"{len(users)} users are too few to be taught on and held back: three are needed.")
        self.hash = request_key({
            "model": self.model.source.identity, "data": self.material.hash, "seed": self.seed,
            "text": self.mode.text, "question": self.mode.question, **self.settings.model_dump(),
        }, 0)  # fmt: skip
        self.step, self.spent = 0, 0.0
        self.curve: list[dict[str, Any]] = []
        self.losses: list[float] = []  # since the last validation

    def card_there(self) -> dict[str, Any] | None:
        """The card, if this very teaching has ended."""
        if not (self.folder / weights.ADAPTER_CARD).is_file():
            return None
        card = weights.read_card(self.folder)
        if card["hash"] != self.hash:
            raise ModelError(
                f"{files.shown(self.folder)} holds an adapter that was taught otherwise ({card['name']}): remove that "
                "folder to teach it again, or name another."
            )
        return card

    def run(self) -> dict[str, Any]:
        """Step by step, from the last checkpoint on."""
        torch.manual_seed(seed_for(self.seed, "teach", "weights"))
        how: dict[str, Any] = {"r": self.settings.rank, "lora_alpha": 2 * self.settings.rank, "lora_dropout": 0.0}
        self.wrapped = peft.get_peft_model(
            self.model.model, peft.LoraConfig(target_modules=_LAYERS, task_type="CAUSAL_LM", **how)
        )
        self.inner = self.wrapped.get_base_model()
        self.weights = {key: one for key, one in self.wrapped.named_parameters() if one.requires_grad}
        for one in self.weights.values():
            one.data = one.data.float()
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.usual = usual_grades(self.material, self.taught, self.mode)
        check = held_back(self.material, self.held, self.writer, generator(self.seed, "teach", "validation"))
        self.best = {key: one.detach().clone() for key, one in self.weights.items()}
        self._resume()
        self.began = self.saved = time.monotonic()
        total, every = self._length()
        bar = progress.bar(total=total, what=f"teaching {self.name}")
        bar.update(self.step)
        while True:
            if (self.step % every == 0 or self.step >= total) and (
                not self.curve or self.curve[-1]["step"] < self.step
            ):
                self._validate(check)
            if self.step >= total or self._given_up():
                break
            self._advance(total)
            bar.update(1)
            if time.monotonic() - self.saved > self.checkpoint_every:
                self._keep()
        bar.close()
        return self._save()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _batches(self, number: int) -> list[list[Example]]:
        """The steps of one pass; which pass and nothing else decides what they are."""
        rng = generator(self.seed, "teach", "pass", number)
        rows = self.material.by_user
        examples = [one for user in self.taught for one in self.writer.examples(rows[user], self.material.like, rng)]
        if not examples:
            raise DatasetError(f"none of {len(self.taught)} users has {_LEAST_LINES} ratings to be taught on.")
        mixed = [examples[at] for at in rng.permutation(len(examples))]
        return list(packed.together(mixed, self.settings.tokens_per_step, lambda one: one.size))

    def _length(self) -> tuple[int, int]:
        """Steps in all, and between validations; by the first pass: the others have about as many."""
        self.passed, self.pass_number, self.pass_start = self._batches(0), 0, 0
        total = max(1, round(len(self.passed) * self.settings.passes))
        return total, max(1, len(self.passed) // self.settings.validations)

    def _batch(self) -> list[Example]:
        while self.step - self.pass_start >= len(self.passed):
            self.pass_start += len(self.passed)
            self.pass_number += 1
            self.passed = self._batches(self.pass_number)
        return self.passed[self.step - self.pass_start]

    def _advance(self, total: int) -> None:
        done = self.step / total
        rate = (
            self.settings.learning_rate * min(1.0, (done + 1 / total) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        value = loss(self.inner, self._batch(), self.writer.choices, self.settings.objective, self.usual)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step()
        self.losses.append(float(value.detach()))
        self.step += 1

    def _validate(self, check: Check) -> None:
        found = validate(self.inner, check, self.mode, self.material.like)
        mean = float(np.mean(self.losses)) if self.losses else None
        self.losses = []
        if not self.curve or self._worth(found) > max(map(self._worth, self.curve)):
            self.best = {key: one.detach().clone() for key, one in self.weights.items()}
        self.curve.append({"step": self.step, **found, "loss": mean})
        progress.tell(f"step {self.step}: AUC {found['auc']:.3f}, by another's history {found['another']:.3f}")

    def _worth(self, found: dict[str, Any]) -> tuple[bool, float]:
        """What the best adapter is chosen by: that it answers at all, then how well it ranks."""
        return found["answered"] >= self.mode.floor, found["auc"]

    def _given_up(self) -> bool:
        worth = [self._worth(one) for one in self.curve]
        return len(worth) - 1 - worth.index(max(worth)) >= self.settings.patience

    # --- what is kept -------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """A checkpoint, in one step: one file."""
        now = time.monotonic()
        self.spent, self.saved, self.began = self.spent + now - self.began, now, now
        held: dict[str, torch.Tensor] = {}
        for key, one in self.weights.items():
            held[f"now/{key}"], held[f"best/{key}"] = one.detach(), self.best[key]
            for part, value in self.optimizer.state.get(one, {}).items():
                held[f"{part}/{key}"] = value
        about = {"hash": self.hash, "step": self.step, "curve": self.curve, "losses": self.losses, "spent": self.spent}
        with files.replacing(self.folder / _CHECKPOINT) as path:
            plain = {key: one.cpu().contiguous() for key, one in held.items()}
            save_file(plain, path, metadata={"about": json.dumps(about)})

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return
        try:
            held = safetensors.safe_open(path, "pt")
        except safetensors.SafetensorError as error:
            progress.tell(f"{files.shown(path)} is damaged ({error}): it begins anew.")
            return
        with held:
            about = json.loads(held.metadata()["about"])
            if about["hash"] != self.hash:
                progress.tell(f"{files.shown(path)} is of another teaching: it begins anew.")
                return
            names = held.keys()
            for key, one in self.weights.items():
                one.data.copy_(held.get_tensor(f"now/{key}"))
                self.best[key] = held.get_tensor(f"best/{key}").to(one.device)
                state = {part: f"{part}/{key}" for part in ("step", "exp_avg", "exp_avg_sq")}
                if state["step"] in names:
                    self.optimizer.state[one] = {
                        part: held.get_tensor(at).to("cpu" if part == "step" else one.device)
                        for part, at in state.items()
                    }
        self.step, self.curve, self.losses, self.spent = (about[key] for key in ("step", "curve", "losses", "spent"))

    def _save(self) -> dict[str, Any]:
        """The adapter as peft saves it, in bfloat16, and the card."""
        for key, one in self.weights.items():
            one.data.copy_(self.best[key])
            one.data = one.data.to(torch.bfloat16)
        spent = self.spent + time.monotonic() - self.began
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wrapped.peft_config["default"].base_model_name_or_path = self.model.source.identity
        self.wrapped.save_pretrained(str(self.folder), save_embedding_layers=False)
        (self.folder / "README.md").unlink(missing_ok=True)  # peft's own, an empty form; the card says it all
        rows = pd.concat([self.material.by_user[user] for user in self.taught])
        best = max(self.curve, key=self._worth)
        on_gpu = self.model.model.device.type == "cuda"
        memory = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        card = {
            "name": self.name,
            "model": self.model.source.identity,
            "licence": self.model.card.licence if self.model.card else "that of the model",
            "settings": self.settings.model_dump(),
            "seed": self.seed,
            "hash": self.hash,
            "data": {
                "sha256": self.material.hash,
                "users": len(self.taught),
                "held_back": len(self.held),
                "ratings": len(rows),
                "items": int(rows["item"].nunique()),
            },
            "curve": self.curve,
            "best": best,
            "steps": self.step,
            "sha256": hashlib.sha256((self.folder / weights.ADAPTER_WEIGHTS).read_bytes()).hexdigest(),
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "dtype": self.model.loaded.dtype,
            "torch": torch.__version__,
            "seconds": round(spent, 1),
            "peak_bytes": int(memory),
            "parameters": sum(one.numel() for one in self.weights.values()),
        }
        with files.replacing(self.folder / weights.ADAPTER_CARD) as path:
            path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return card
