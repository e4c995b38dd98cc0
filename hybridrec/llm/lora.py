"""An adapter while it is learned (LoRA): its weights, the best so far, the optimiser, and the files they are kept in.

Source: Hu et al. 2021, LoRA (arXiv 2106.09685).
"""

import json
from pathlib import Path
from typing import Any

import peft
import safetensors
import torch
from safetensors.torch import save_file

from hybridrec import files, progress

_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_OF_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what the optimiser keeps of each weight


class Adapter:
    """New weights beside a model's own, which stay as they are; they are learned in float32.

    Attributes:
        inner: the model with the adapter, as ``packed`` asks it.
        weights: what is learned, by name.
    """

    def __init__(self, model: Any, rank: int) -> None:
        how: dict[str, Any] = {"r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0}
        self._wrapped = peft.get_peft_model(
            model, peft.LoraConfig(target_modules=_LAYERS, task_type="CAUSAL_LM", **how)
        )
        self.inner = self._wrapped.get_base_model()
        self.weights = {key: one for key, one in self._wrapped.named_parameters() if one.requires_grad}
        for one in self.weights.values():
            one.data = one.data.float()
        self._optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.mark_best()

    def descend(self, loss: torch.Tensor, rate: float) -> None:
        """One step down a loss, at this learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def mark_best(self) -> None:
        """What ``save`` writes are the weights as they are now."""
        self._best = {key: one.detach().clone() for key, one in self.weights.items()}

    def checkpoint(self, path: Path, about: dict[str, Any]) -> None:
        """Keep what a later process needs to go on, and ``about``, which ``resume`` hands back: in one file."""
        held: dict[str, torch.Tensor] = {}
        for key, one in self.weights.items():
            held[f"now/{key}"], held[f"best/{key}"] = one.detach(), self._best[key]
            for part, value in self._optimizer.state.get(one, {}).items():
                held[f"{part}/{key}"] = value
        with files.replacing(path) as partial:
            plain = {key: one.cpu().contiguous() for key, one in held.items()}
            save_file(plain, partial, metadata={"about": json.dumps(about)})

    def resume(self, path: Path, teaching: str) -> dict[str, Any] | None:
        """Go on from a checkpoint, and say what it is about; None where there is none of this very teaching.

        Args:
            path: of the checkpoint.
            teaching: what the "hash" in ``about`` has to be.
        """
        if not path.is_file():
            return None
        try:
            held = safetensors.safe_open(path, "pt")
        except safetensors.SafetensorError as error:
            progress.tell(f"{files.shown(path)} is damaged ({error}): it begins anew.")
            return None
        with held:
            about: dict[str, Any] = json.loads(held.metadata()["about"])
            if about["hash"] != teaching:
                progress.tell(f"{files.shown(path)} is of another teaching: it begins anew.")
                return None
            names = held.keys()
            for key, one in self.weights.items():
                one.data.copy_(held.get_tensor(f"now/{key}"))
                self._best[key] = held.get_tensor(f"best/{key}").to(one.device)
                if f"step/{key}" in names:
                    self._optimizer.state[one] = {
                        part: held.get_tensor(f"{part}/{key}").to("cpu" if part == "step" else one.device)
                        for part in _OF_ADAM
                    }
        return about

    def save(self, folder: Path, model: str) -> None:
        """Write the best weights as peft does, in bfloat16; ``model`` is the name of the one they belong to."""
        for key, one in self.weights.items():
            one.data.copy_(self._best[key])
            one.data = one.data.to(torch.bfloat16)
        folder.mkdir(parents=True, exist_ok=True)
        self._wrapped.peft_config["default"].base_model_name_or_path = model
        self._wrapped.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's own, an empty form; the card says it all
