"""The learner that sees everything: each configuration's accuracy is predicted, for every request was measured under all.

Nothing is sampled and nothing is estimated from rewards: GRPO has to be at least as good to be worth its trouble.
Legend of tensor suffixes: M members, B batch, R requests, I inputs, C configurations.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.control.learned.reward import Reward
from paceline.fit.learned.data import ChooserData, ChooserParts
from paceline.fit.learned.settings import SupervisedSettings
from paceline.fit.learned.training import inputs_of, new_model, new_optimizer, outcome_of

LEAST_SHARE = 0.02  # of correct answers: what a configuration's scores start from stays a finite logit


class SupervisedLearner:
    """Cross-entropy of every configuration's accuracy; a configuration that a request was not measured under has no part."""

    def __init__(self, parts: ChooserParts, settings: SupervisedSettings, reward: Reward) -> None:
        self.parts, self.settings, self.reward = parts, settings, reward
        self.model = new_model(parts.training, settings, None)
        _start_at_means(self.model.skip.bias, parts.training)
        self.optimizer = new_optimizer(self.model, settings)
        self._inputs_RI, self._accuracy_RC, self._measured_RC = _tensors(parts.training)
        self._held_inputs_RI, self._held_accuracy_RC, self._held_measured_RC = _tensors(parts.validation)

    @property
    def rewards_per_step(self) -> int:
        """Every configuration's, for each request of each member's batch."""
        members, configs = self.settings.network.members, len(self.parts.training.configs)
        return members * self.settings.batch_size * configs

    def take_step(self, step: int) -> Mapping[str, float]:
        """Take a step on a batch of its own for every member."""
        random = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        shape = self.settings.network.members, self.settings.batch_size
        rows_MB = torch.randint(len(self._inputs_RI), shape, generator=random)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.initial_seed()))  # dropout draws from the global generator
            logits_MBC = self.model(self._inputs_RI[rows_MB])
        loss = _loss(logits_MBC, self._accuracy_RC[rows_MB], self._measured_RC[rows_MB])
        self.optimizer.zero_grad()
        (loss * shape[0]).backward()  # members are independent: the mean over them would slow each down
        self.optimizer.step()
        return {"training_loss": float(loss.detach())}

    def judge(self) -> Mapping[str, float]:
        """Return the loss of the members' mean on held-back requests, and what the controller would score there."""
        share_RC = torch.sigmoid(self.model(self._held_inputs_RI)).mean(dim=0)
        loss = nn.functional.binary_cross_entropy(share_RC, self._held_accuracy_RC, self._held_measured_RC)
        taken_BR = best_fitting(share_RC.numpy(), self.parts.validation, self.parts.budgets_ms, self.reward)
        outcome = outcome_of(taken_BR, self.parts.validation, self.parts.budgets_ms, self.reward)
        return {"validation_loss": float(loss), **outcome}


def best_fitting(
    accuracy_RC: NDArray[np.float64], data: ChooserData, budgets_ms: tuple[float, ...], reward: Reward
) -> NDArray[np.intp]:
    """Return the columns (budget, request) of the largest predicted reward among the configurations whose bound fits.

    Where none fits, the one of the smallest bound.
    """
    return np.stack(
        [
            np.where(data.allowed(ms), reward.of(accuracy_RC, data.predicted_ms_RC, ms), -np.inf).argmax(axis=1)
            for ms in budgets_ms
        ]
    )


def _tensors(data: ChooserData) -> tuple[Tensor, Tensor, Tensor]:
    accuracy_RC, measured_RC = (torch.from_numpy(x.astype(np.float32)) for x in (data.accuracy_RC, data.measured_RC))
    return inputs_of(data.vectors_RF, 1.0), accuracy_RC, measured_RC


def _loss(logits_MBC: Tensor, accuracy_MBC: Tensor, measured_MBC: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits_MBC, accuracy_MBC, measured_MBC)


def _start_at_means(bias_MC: nn.Parameter, data: ChooserData) -> None:
    mean_C = np.clip(data.accuracy_RC.mean(axis=0), LEAST_SHARE, 1 - LEAST_SHARE)
    with torch.no_grad():
        bias_MC.copy_(torch.from_numpy(np.log(mean_C / (1 - mean_C))))
