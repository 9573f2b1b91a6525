"""The loop that both learners of a controller share: rounds of steps, judged on held-back requests, resumable.

Legend of array suffixes: R requests, C configurations, F numbers of the request vector, I inputs, B batch.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paceline.control.learned.reward import Reward
from paceline.fit.checkpoint import TrainingState, resume, write_checkpoint
from paceline.fit.learned.data import ChooserData, ChooserParts
from paceline.fit.learned.network import ChooserModule, Weights
from paceline.fit.learned.settings import GrpoSettings, SupervisedSettings

CHECKPOINT_SECONDS = 2.0

Progress = Callable[[int, int], None]
Settings = SupervisedSettings | GrpoSettings


class Learner(Protocol):
    """A way to train the network: what a step does, and what it is judged by."""

    model: ChooserModule
    optimizer: torch.optim.Optimizer
    parts: ChooserParts
    reward: Reward

    @property
    def settings(self) -> Settings:
        """How it trains."""
        ...

    @property
    def rewards_per_step(self) -> int:
        """How many rewards, each of one request under one configuration, a step learns from."""
        ...

    def take_step(self, step: int) -> Mapping[str, float]:
        """Train on one batch that follows from seed and step alone; return figures of it by name."""
        ...

    def judge(self) -> Mapping[str, float]:
        """Return figures of the held-back requests by name, `validation_loss` among them: the smaller the better."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedChooser:
    """The weights of the best round, with the figures of all rounds; `seconds` and `steps` are those of this run alone."""

    weights: Weights
    learning: tuple[dict[str, float], ...]
    settings: Settings
    steps: int
    resumed_steps: int
    seconds: float

    @property
    def steps_per_second(self) -> float:
        """How fast it trained, judging included."""
        return self.steps / self.seconds if self.steps else 0.0


@dataclass(slots=True, kw_only=True)
class _Round:
    """Figures of the steps since the last look at the held-back requests."""

    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, figures: Mapping[str, float]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        return {name: total / self.steps for name, total in self.sums.items()}


def train_chooser(
    learner: Learner, fingerprint: str, *, checkpoint: Path | None = None, on_progress: Progress | None = None
) -> TrainedChooser:
    """Train to the last step, or until `patience` rounds brought nothing better; on the one thread that so little needs.

    With `checkpoint` a killed run goes on where its file stands; the file stays for the caller to delete.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(learner, fingerprint, checkpoint, on_progress)
    finally:
        torch.set_num_threads(threads)


def _train(learner: Learner, fingerprint: str, checkpoint: Path | None, on_progress: Progress | None) -> TrainedChooser:
    settings, started = learner.settings, time.perf_counter()
    state = (checkpoint and resume(checkpoint, fingerprint, learner)) or TrainingState(best={})
    resumed, written, figures = state.epoch, time.monotonic(), _Round()
    if not state.curve:
        _note(learner, state, {})
    while state.epoch < settings.num_steps and state.rounds_without_better < settings.patience:
        figures.add(learner.take_step(state.epoch))
        state.epoch += 1
        if on_progress is not None:
            on_progress(state.epoch, settings.num_steps)
        if state.epoch % settings.round_steps and state.epoch < settings.num_steps:
            continue
        _note(learner, state, figures.means())
        figures = _Round()
        if checkpoint is not None and time.monotonic() - written >= CHECKPOINT_SECONDS:
            write_checkpoint(checkpoint, fingerprint, learner, state)
            written = time.monotonic()
    learner.model.load_state_dict(state.best)
    return TrainedChooser(
        weights=learner.model.weights(),
        learning=tuple(state.curve),
        settings=settings,
        steps=state.epoch - resumed,
        resumed_steps=resumed,
        seconds=time.perf_counter() - started,
    )


def _note(learner: Learner, state: TrainingState, figures: Mapping[str, float]) -> None:
    learner.model.eval()
    with torch.no_grad():
        judged = learner.judge()
    learner.model.train()
    state.curve.append({"step": float(state.epoch), **figures, **judged})
    state.rounds_without_better += 1
    if judged["validation_loss"] < state.best_loss:
        state.best_loss, state.rounds_without_better = judged["validation_loss"], 0
        state.best = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def new_model(training: ChooserData, settings: Settings, budget_range_ms: tuple[float, float] | None) -> ChooserModule:
    """Return an untrained network that standardises its inputs as they are in training; None: the budget is not seen."""
    network = settings.network
    vectors_RF = training.vectors_RF
    std_F = vectors_RF.std(axis=0)
    varies_F = vectors_RF.min(axis=0) < vectors_RF.max(axis=0)
    scale_F = np.divide(1.0, std_F, out=np.zeros_like(std_F), where=varies_F)
    budget_mean, budget_scale = _of_log_uniform(budget_range_ms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ChooserModule(
            members=network.members,
            inputs=vectors_RF.shape[1] + 1,
            hidden_dim=network.hidden_dim,
            num_layers=network.num_layers,
            configs=len(training.configs),
            dropout=network.dropout,
        )
    model.standardise(np.append(vectors_RF.mean(axis=0), budget_mean), np.append(scale_F, budget_scale))
    return model


def _of_log_uniform(range_ms: tuple[float, float] | None) -> tuple[float, float]:
    """Return mean and 1 / standard deviation of ln(budget) over a range of budgets."""
    if range_ms is None or range_ms[0] == range_ms[1]:
        return 0.0, 0.0
    logs = np.log(np.linspace(*range_ms, 1000))
    return float(logs.mean()), float(1 / logs.std())


def new_optimizer(model: ChooserModule, settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW, whose decay leaves biases alone (Loshchilov and Hutter, 2019)."""
    groups: list[dict[str, Any]] = [
        {"params": model.decayed(), "weight_decay": settings.weight_decay},
        {"params": model.undecayed(), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def inputs_of(vectors_RF: NDArray[np.float64], budgets_ms: NDArray[np.float64] | float) -> Tensor:
    """Return the network's inputs (R, I): a request's numbers and ln of its budget."""
    budgets_R = np.broadcast_to(np.asarray(budgets_ms, dtype=np.float64), len(vectors_RF))
    return torch.from_numpy(np.column_stack([vectors_RF, np.log(budgets_R)]).astype(np.float32))


def outcome_of(
    column_BR: NDArray[np.intp], data: ChooserData, budgets_ms: tuple[float, ...], reward: Reward
) -> dict[str, float]:
    """Return mean reward, accuracy and share of kept budgets of the columns taken at every budget (B, R)."""
    rows_R = np.arange(len(data.names))
    accuracy_BR, latency_ms_BR = data.accuracy_RC[rows_R, column_BR], data.latency_ms_RC[rows_R, column_BR]
    budgets_B1 = np.asarray(budgets_ms)[:, None]
    return {
        "validation_reward": float(reward.of(accuracy_BR, latency_ms_BR, budgets_B1).mean()),
        "validation_accuracy": float(accuracy_BR.mean()),
        "validation_kept": float((latency_ms_BR <= budgets_B1).mean()),
    }


def fingerprint_of(learner: Learner) -> str:
    """Return a hash of everything that a run's weights follow from."""
    settings, parts = learner.settings, learner.parts
    told = [type(settings).__name__, asdict(settings), asdict(learner.reward), parts.budgets_ms]
    digest = hashlib.sha256(json.dumps(told).encode())
    for data in (parts.training, parts.validation):
        for array in (data.vectors_RF, data.accuracy_RC, data.latency_ms_RC, data.predicted_ms_RC, data.bound_ms_RC):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
