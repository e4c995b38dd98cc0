"""Teach a language model on this machine to rank: LoRA on what users rated, by way of ``Mode``.

What is taught is in ``lessons``, what is made smaller in ``objectives``, by what the best step is chosen in
``held_back``, and the adapter with its checkpoint in ``lora``. Here is the run that puts them together.

Source: Bao et al. 2023, TALLRec (arXiv 2305.00447), which asks Yes or No; Hu et al. 2021, LoRA (arXiv 2106.09685).
"""

import hashlib
import json
import math
import resource
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
import torch

from hybridrec import files, progress
from hybridrec.data.datasets import Dataset
from hybridrec.errors import DatasetError, ModelError
from hybridrec.llm import held_back, modes
from hybridrec.llm.lessons import LEAST_LINES, Example, Material, Writer
from hybridrec.llm.lora import Adapter
from hybridrec.llm.models import tree, weights
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.objectives import loss, usual_grades
from hybridrec.llm.recordings import request_key
from hybridrec.randomness import generator, seed_for
from hybridrec.settings import Settings

_CHECKPOINT = "checkpoint.safetensors"
_GOES_ON = ("step", "curve", "losses", "spent")  # what a checkpoint is told, beside the hash
_WARM_UP = 0.05  # of all steps, in which the learning rate rises to its highest


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
        self.adapter = Adapter(self.model.model, self.settings.rank)
        self.usual = usual_grades(self.material, self.taught, self.mode)
        check = held_back.build(self.material, self.held, self.writer, generator(self.seed, "teach", "validation"))
        if about := self.adapter.resume(self.folder / _CHECKPOINT, self.hash):
            self.step, self.curve, self.losses, self.spent = (about[key] for key in _GOES_ON)
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
            raise DatasetError(f"none of {len(self.taught)} users has {LEAST_LINES} ratings to be taught on.")
        mixed = [examples[at] for at in rng.permutation(len(examples))]
        return list(tree.together(mixed, self.settings.tokens_per_step, lambda one: one.size))

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
        value = loss(self.adapter.inner, self._batch(), self.writer.choices, self.settings.objective, self.usual)
        self.adapter.descend(value, rate)
        self.losses.append(float(value.detach()))
        self.step += 1

    def _validate(self, check: held_back.Check) -> None:
        found = held_back.validate(self.adapter.inner, check, self.mode, self.material.like)
        mean = float(np.mean(self.losses)) if self.losses else None
        self.losses = []
        if not self.curve or self._worth(found) > max(map(self._worth, self.curve)):
            self.adapter.mark_best()
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
        now = time.monotonic()
        self.spent, self.saved, self.began = self.spent + now - self.began, now, now
        about = {"hash": self.hash, **{key: getattr(self, key) for key in _GOES_ON}}
        self.adapter.checkpoint(self.folder / _CHECKPOINT, about)

    def _save(self) -> dict[str, Any]:
        """The adapter, and the card, which is written last: where it is, all is."""
        spent = self.spent + time.monotonic() - self.began
        self.adapter.save(self.folder, self.model.source.identity)
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
            "parameters": sum(one.numel() for one in self.adapter.weights.values()),
        }
        with files.replacing(self.folder / weights.ADAPTER_CARD) as path:
            path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return card
