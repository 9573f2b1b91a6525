"""GRPO: a chooser over the grid that learns from what its own choices earned, compared within groups.

A group is a set of configurations drawn for one request and budget. The advantage of each is its reward less the group's
mean, over a standard deviation; no value network is needed (Shao et al., "DeepSeekMath", 2024). Configurations
whose bound does not fit the budget have no probability, in training as in use (invalid action masking: Huang and Ontañón,
2022); where none fits, the choice of the controller with bounds has all of it. Rewards come from the profile, so no model
runs.

Legend of tensor suffixes: M members, B batch (a request and a budget), G group, I inputs, C configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from paceline.analyze import uniform_budgets
from paceline.control.learned.reward import Reward
from paceline.fit.learned.data import ChooserParts
from paceline.fit.learned.settings import GrpoSettings
from paceline.fit.learned.training import inputs_of, new_model, new_optimizer, outcome_of

LEAST_LOGIT = -1e4  # finite: its probability is 0, and 0 · its logarithm is 0 and not NaN
SMALLEST_SPREAD = 1e-4  # of rewards; below it they count as equal


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRequests:
    """Requests drawn for one step, each with a budget: inputs, what every configuration would earn, which may be taken."""

    inputs_BI: Tensor
    earned_BC: Tensor
    allowed_BC: Tensor
    bound_choice_B: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnGroups:
    """Groups of configurations, with log-probabilities under the chooser that drew them and under the reference."""

    inputs_BI: Tensor
    allowed_BC: Tensor
    old_MBG: Tensor
    reference_MBC: Tensor
    taken_MBG: Tensor
    advantage_MBG: Tensor


class GrpoLearner:
    """A chooser that starts as a copy of the controller with bounds and is held near that copy."""

    def __init__(self, parts: ChooserParts, settings: GrpoSettings, reward: Reward) -> None:
        self.parts, self.settings, self.reward = parts, settings, reward
        self.model = new_model(parts.training, settings, parts.budget_range_ms)
        self._clone()
        self._reference = new_model(parts.training, settings, parts.budget_range_ms)
        self._reference.load_state_dict(self.model.state_dict())
        self._reference.eval()
        self.optimizer = new_optimizer(self.model, settings)

    @property
    def rewards_per_step(self) -> int:
        """One for each configuration drawn, counted once however many inner steps are taken on it."""
        return self.settings.network.members * self.settings.batch_size * self.settings.group_size

    def take_step(self, step: int) -> Mapping[str, float]:
        """Draw requests and groups, and take the inner steps on them."""
        random = np.random.default_rng([self.settings.seed, 1, step])
        groups, earned_mean = self._groups(self._drawn(random), random)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.integers(2**31)))  # dropout draws from the global generator
            figures: dict[str, float] = {}
            for _ in range(self.settings.inner_steps):
                figures = self._inner_step(groups)
        return {"training_reward": earned_mean, **figures}

    def judge(self) -> Mapping[str, float]:
        """Return what the chooser's favourites earn on held-back requests at every budget."""
        data, budgets_ms = self.parts.validation, self.parts.budgets_ms
        logits = [self.model(inputs_of(data.vectors_RF, ms)).mean(dim=0).numpy() for ms in budgets_ms]
        taken_BR = np.stack(
            [
                np.where(data.allowed(ms), each, -np.inf).argmax(axis=1)
                for each, ms in zip(logits, budgets_ms, strict=True)
            ]
        )
        outcome = outcome_of(taken_BR, data, budgets_ms, self.reward)
        return {"validation_loss": -outcome["validation_reward"], **outcome}

    def _clone(self) -> None:
        optimizer, data = new_optimizer(self.model, self.settings), self.parts.training
        for step in range(self.settings.cloning_steps):
            drawn = self._drawn(np.random.default_rng([self.settings.seed, 0, step]))
            logits_MBC = log_choice(self.model.eval()(drawn.inputs_BI), drawn.allowed_BC)
            target_MB = drawn.bound_choice_B.expand(logits_MBC.shape[:2])
            loss = nn.functional.cross_entropy(logits_MBC.reshape(-1, len(data.configs)), target_MB.reshape(-1))
            optimizer.zero_grad()
            (loss * len(logits_MBC)).backward()
            optimizer.step()
        self.model.train()

    def _drawn(self, random: np.random.Generator) -> DrawnRequests:
        data = self.parts.training
        rows_B = random.integers(len(data.names), size=self.settings.batch_size)
        budgets_B = uniform_budgets(self.parts.budget_range_ms, random, len(rows_B))
        batch = data.at(rows_B)
        choice_B = batch.bound_choice(budgets_B)
        rewards_BC = self.reward.of(batch.accuracy_RC, batch.latency_ms_RC, budgets_B[:, None])
        return DrawnRequests(
            inputs_BI=inputs_of(batch.vectors_RF, budgets_B),
            earned_BC=torch.from_numpy(rewards_BC.astype(np.float32)),
            allowed_BC=torch.from_numpy(batch.allowed(budgets_B)),
            bound_choice_B=torch.from_numpy(choice_B),
        )

    def _groups(self, drawn: DrawnRequests, random: np.random.Generator) -> tuple["DrawnGroups", float]:
        """Draw a group of configurations from the chooser as it is, for every request; return their mean reward too."""
        with torch.no_grad():
            self.model.eval()
            old_MBC = log_choice(self.model(drawn.inputs_BI), drawn.allowed_BC)
            reference_MBC = log_choice(self._reference(drawn.inputs_BI), drawn.allowed_BC)
            self.model.train()
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        flat = old_MBC.exp().reshape(-1, old_MBC.shape[-1])
        taken = torch.multinomial(flat, self.settings.group_size, replacement=True, generator=generator)
        taken_MBG = taken.reshape(*old_MBC.shape[:2], -1)
        earned_MBG = drawn.earned_BC.expand_as(old_MBC).gather(-1, taken_MBG)
        groups = DrawnGroups(
            inputs_BI=drawn.inputs_BI,
            allowed_BC=drawn.allowed_BC,
            old_MBG=old_MBC.gather(-1, taken_MBG),
            reference_MBC=reference_MBC,
            taken_MBG=taken_MBG,
            advantage_MBG=advantages(earned_MBG, self.settings.advantage_scale),
        )
        return groups, float(earned_MBG.mean())

    def _inner_step(self, groups: DrawnGroups) -> dict[str, float]:
        settings = self.settings
        now_MBC = log_choice(self.model(groups.inputs_BI), groups.allowed_BC)
        ratio_MBG = (now_MBC.gather(-1, groups.taken_MBG) - groups.old_MBG).exp()
        gained_MBG = clipped_gain(ratio_MBG, groups.advantage_MBG, settings.clip)
        probability_MBC = now_MBC.exp()
        kl = (probability_MBC * (now_MBC - groups.reference_MBC)).sum(dim=-1).mean()
        entropy_MB = -(probability_MBC * now_MBC).sum(dim=-1)
        missing = (settings.entropy_floor - entropy_MB).clamp(min=0).mean()
        loss = settings.kl_weight * kl + settings.entropy_weight * missing - gained_MBG.mean()
        self.optimizer.zero_grad()
        (loss * len(now_MBC)).backward()  # members are independent: the mean over them would slow each down
        self.optimizer.step()
        return {"kl": float(kl.detach()), "entropy": float(entropy_MB.detach().mean())}


def clipped_gain(ratio_MBG: Tensor, advantage_MBG: Tensor, clip: float) -> Tensor:
    """Return min(ratio · advantage, clipped ratio · advantage), as in PPO (Schulman et al., 2017): small steps only."""
    return torch.minimum(ratio_MBG * advantage_MBG, ratio_MBG.clamp(1 - clip, 1 + clip) * advantage_MBG)


def advantages(earned_MBG: Tensor, scale: str) -> Tensor:
    """Return rewards less their group's mean, over the standard deviation of the `group` or of the `batch`.

    0 in a group of equal rewards. A batch is one member's: members do not touch one another.
    """
    centred_MBG = earned_MBG - earned_MBG.mean(dim=-1, keepdim=True)
    over = (-1,) if scale == "group" else (-2, -1)
    return centred_MBG / (centred_MBG.square().mean(dim=over, keepdim=True).sqrt() + SMALLEST_SPREAD)


def log_choice(logits_MBC: Tensor, allowed_BC: Tensor) -> Tensor:
    """Return log-probabilities over the configurations that may be taken; the others have next to none."""
    return torch.log_softmax(torch.where(allowed_BC, logits_MBC, LEAST_LOGIT), dim=-1)
