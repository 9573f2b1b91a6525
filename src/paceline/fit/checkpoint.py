"""Where a training run stands, in one file beside its output, so that a killed run goes on from there."""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from paceline.errors import PacelineWarning
from paceline.profiles.atomic import write_atomically

BEST = "best."
MODEL = "model."
OPTIMIZER = "optimizer."


class Trainer(Protocol):
    """A network in training, with what trains it."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """Its optimiser, with moments of every parameter."""
        ...


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """What a run knows beside the weights in its trainer; `best` is empty until a validation loss was taken.

    `curve` holds figures by name, a row a round, for a run that is shown.
    """

    epoch: int = 0
    best_loss: float = float("inf")
    rounds_without_better: int = 0
    best: dict[str, Tensor]
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


def write_checkpoint(path: Path, fingerprint: str, trainer: Trainer, state: TrainingState) -> None:
    """Write the file in one step; raises OutputPathError."""
    tensors = {MODEL + name: tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {BEST + name: tensor for name, tensor in state.best.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in moments.items()}
    facts = {
        "fingerprint": fingerprint,
        "epoch": state.epoch,
        "best_loss": state.best_loss,
        "rounds_without_better": state.rounds_without_better,
        "curve": state.curve,
    }
    write_atomically(path, save({name: t.contiguous() for name, t in tensors.items()}, {"state": json.dumps(facts)}))


def resume(path: Path, fingerprint: str, trainer: Trainer) -> TrainingState | None:
    """Put the trainer where the file's run stood and return its state; None when there is no file.

    A file of other settings or data, or one that cannot be read, is left unused with a PacelineWarning.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            facts = json.loads(opened.metadata()["state"])
        tensors = load(path.read_bytes())
        if facts.pop("fingerprint") != fingerprint:
            warnings.warn(
                f"{path} is of other settings or samples; training from the start", PacelineWarning, stacklevel=3
            )
            return None
        _restore(trainer, tensors)
        return TrainingState(**facts, best=_below(tensors, BEST))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        warnings.warn(f"{path} cannot be read ({error}); training from the start", PacelineWarning, stacklevel=3)
        return None


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, OPTIMIZER).items():
        index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = tensor
    trainer.model.load_state_dict(_below(tensors, MODEL))
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
