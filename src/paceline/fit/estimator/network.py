"""The latency network and one step of its training.

Legend of tensor suffixes: B batch, F features in the order of FEATURES, T terms of work, A knob parts, P request parts, K heads
(prefill, decode).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paceline.errors import InvalidValueError
from paceline.estimate.artifact import WORK_WEIGHT
from paceline.estimate.features import FEATURES, tier_index
from paceline.estimate.work_terms import KNOB_PART_OF_T, REQUEST_PART_OF_T, TERMS
from paceline.fit.estimator.losses import loss_named

PARAMETER_LIMIT = 200_000
PREFILL, DECODE = "T_prefill_total", "T_decode_per_token"

Values = Tensor | float | Sequence[float | None] | None


class LatencyPrediction(NamedTuple):
    """Milliseconds of each row: prefill (vision and LLM), and decode a step; the total is prefill + decode · (tokens − 1)."""

    T_prefill_total: Tensor
    T_decode_per_token: Tensor


class BudgetFeasibility(NamedTuple):
    """What a budget allows each row.

    `max_output_tokens` counts whole tokens, the first among them: it comes from prefill and costs no decode step; 0 when
    prefill alone exceeds the budget, infinite when decode costs nothing. `feasible` holds when the expected output fits.
    """

    feasible: Tensor
    max_output_tokens: Tensor
    T_prefill_total: Tensor
    T_decode_per_token: Tensor
    T_total: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Features and measured milliseconds of a batch; a weight of 0 leaves a row out of that head's loss."""

    features_BF: Tensor
    measured_BK: Tensor
    weight_BK: Tensor


class LatencyEstimator(nn.Module):
    """Five features to two latencies that are never negative, standardised inside by statistics of the training data.

    `feature_scale_F` is 1 / standard deviation, and 0 for a feature that never varied: what was never seen to matter
    moves nothing. `target_scale_K` is the mean measured latency of each head, so that a head starts at the mean. A `structured`
    one starts at what the work costs instead, `work_weight_TK` by `paceline.estimate.work_terms`, and learns what that misses.
    """

    feature_mean_F: Tensor
    feature_scale_F: Tensor
    target_scale_K: Tensor
    work_weight_TK: Tensor

    def __init__(self, hidden_dim: int = 256, num_layers: int = 2, *, structured: bool = False) -> None:
        super().__init__()
        self.structured = structured
        _require_size(hidden_dim, num_layers)
        self.hidden_dim, self.num_layers = hidden_dim, num_layers
        widths = [len(FEATURES), *[hidden_dim] * num_layers]
        self.encoder = nn.Sequential(
            *(
                part
                for width, next_width in pairwise(widths)
                for part in (nn.Linear(width, next_width), nn.LayerNorm(next_width), nn.ReLU())
            )
        )
        self.prefill_head, self.decode_head = nn.Linear(hidden_dim, 1), nn.Linear(hidden_dim, 1)
        for head in (self.prefill_head, self.decode_head):
            nn.init.zeros_(head.bias)  # squareplus(0) = 1: the head starts around the mean of its target
            if structured:
                nn.init.zeros_(head.weight)  # and exactly at what its work costs
        self.register_buffer("feature_mean_F", torch.zeros(len(FEATURES)))
        self.register_buffer("feature_scale_F", torch.ones(len(FEATURES)))
        self.register_buffer("target_scale_K", torch.ones(2))
        if structured:
            self.register_buffer(WORK_WEIGHT, torch.zeros(len(TERMS), 2))

    def standardise(
        self,
        *,
        feature_mean_F: Tensor,
        feature_scale_F: Tensor,
        target_scale_K: Tensor,
        work_weight_TK: Tensor | None = None,
    ) -> None:
        """Keep the statistics of the training data, and what its work costs; before the first training step."""
        if work_weight_TK is not None:
            self.work_weight_TK.copy_(work_weight_TK)
        self.feature_mean_F.copy_(feature_mean_F)
        self.feature_scale_F.copy_(feature_scale_F)
        self.target_scale_K.copy_(target_scale_K)

    def forward(
        self,
        *,
        vision_tokens: Values,
        text_tokens: Values,
        tier_idx: Values,
        top_k: Values,
        num_active_blocks: Values,
    ) -> LatencyPrediction:
        """Return the latencies of tensors, lists or numbers that broadcast together; None for a knob the model lacks.

        Raises InvalidValueError for a feature that is not a finite number.
        """
        given = (vision_tokens, text_tokens, tier_idx, top_k, num_active_blocks)
        return self.predict_rows(self._rows(dict(zip(FEATURES, given, strict=True))))

    def predict_rows(self, features_BF: Tensor) -> LatencyPrediction:
        """Return the latencies of rows of features in the order of FEATURES."""
        hidden = self.encoder((features_BF - self.feature_mean_F) * self.feature_scale_F)
        prefill, decode = self.prefill_head(hidden).squeeze(-1), self.decode_head(hidden).squeeze(-1)
        scale_BK = terms_of(features_BF) @ self.work_weight_TK if self.structured else self.target_scale_K
        return LatencyPrediction(squareplus(prefill) * scale_BK[..., 0], squareplus(decode) * scale_BK[..., 1])

    @torch.no_grad()
    def predict_from_config(self, config: Mapping[str, object]) -> LatencyPrediction:
        """Return the latencies of named features, with `tier` as a name or a list of names instead of `tier_idx`."""
        features = dict(config)
        if "tier" in features:
            features["tier_idx"] = _tier_indices(features.pop("tier"))
        if set(features) != set(FEATURES):
            raise InvalidValueError("configuration", sorted(features), f"{', '.join(FEATURES)} (or tier for tier_idx)")
        return self(**features)

    @torch.no_grad()
    def max_output_tokens(self, budget_ms: float, **features: Values) -> Tensor:
        """Return the most output tokens, the first among them, that keep a budget of milliseconds; 0 when none does."""
        return _most_tokens(self(**features), _require_budget(budget_ms))

    @torch.no_grad()
    def check_budget_feasibility(
        self, *, latency_budget: float, expected_output_tokens: float = 1.0, **features: Values
    ) -> BudgetFeasibility:
        """Return which rows keep a budget of milliseconds at the expected output length, and how long they may answer."""
        if not expected_output_tokens >= 1:
            raise InvalidValueError("expected_output_tokens", expected_output_tokens, "a number of at least 1")
        predicted = self(**features)
        total = predicted.T_prefill_total + predicted.T_decode_per_token * (expected_output_tokens - 1)
        most = _most_tokens(predicted, _require_budget(latency_budget))
        return BudgetFeasibility(
            feasible=total <= latency_budget,
            max_output_tokens=most,
            T_prefill_total=predicted.T_prefill_total,
            T_decode_per_token=predicted.T_decode_per_token,
            T_total=total,
        )

    def _rows(self, features: Mapping[str, Values]) -> Tensor:
        columns = torch.broadcast_tensors(*(self._column(name, features[name]) for name in FEATURES))
        return torch.stack(columns, dim=-1)

    def _column(self, name: str, values: Values) -> Tensor:
        if values is None:
            values = 0.0
        elif isinstance(values, list | tuple):
            values = [0.0 if value is None else value for value in values]
        column = torch.as_tensor(values, dtype=torch.float32, device=self.feature_mean_F.device)
        if not torch.isfinite(column).all():
            raise InvalidValueError(name, values, "finite numbers")
        return column


class LatencyEstimatorTrainer:
    """One Adam step at a time on a batch of measured latencies."""

    def __init__(
        self,
        model: LatencyEstimator,
        device: torch.device | str = "cpu",
        lr: float = 1e-3,
        *,
        weight_decay: float = 1e-5,
        loss: str = "mse",
    ) -> None:
        self.model, self.device = model.to(device), torch.device(device)
        self.loss = loss_named(loss)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)

    def train_step(self, batch: Mapping[str, Values]) -> dict[str, float]:
        """Take one step on the five features, `T_prefill_total` and `T_decode_per_token` (NaN or None without decode).

        Returns the losses before the step: `loss`, and its parts `prefill` and `decode`.
        """
        with torch.no_grad():
            features_BF = self.model._rows({name: batch[name] for name in FEATURES})  # pyright: ignore[reportPrivateUsage]
            measured_BK = torch.stack([_targets(batch[name], self.device) for name in (PREFILL, DECODE)], dim=-1)
            known_BK = torch.isfinite(measured_BK)
            weight_BK = known_BK / known_BK.float().mean(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        losses_K = self.train_on(
            TrainingBatch(features_BF=features_BF, measured_BK=measured_BK.nan_to_num(), weight_BK=weight_BK)
        )
        prefill, decode = losses_K.tolist()
        return {"loss": prefill + decode, "prefill": prefill, "decode": decode}

    def train_on(self, batch: TrainingBatch) -> Tensor:
        """Take one step on prepared tensors; returns the loss of each head before the step."""
        self.model.train()
        losses_K = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses_K.sum().backward()
        self.optimizer.step()
        return losses_K.detach()

    def losses(self, batch: TrainingBatch) -> Tensor:
        """Return the weighted mean loss of each head: equal weights of prefill and decode make up the whole."""
        return self.row_losses(batch).mean(dim=0)

    def row_losses(self, batch: TrainingBatch) -> Tensor:
        """Return the weighted loss of every row and head."""
        predicted_BK = torch.stack(self.model.predict_rows(batch.features_BF), dim=-1)
        return self.loss(predicted_BK, batch.measured_BK, self.model.target_scale_K) * batch.weight_BK


def terms_of(features_BF: Tensor) -> Tensor:
    """Return the terms of rows of features: `paceline.estimate.work_terms.term_rows` in torch."""
    vision, text, tier, top_k, blocks = features_BF.unbind(-1)
    one, tokens = torch.ones_like(vision), vision + text
    knobs_BA = torch.stack([one, top_k, blocks, top_k * blocks, (tier >= 1) * one, (tier >= 2) * one], dim=-1)
    requests_BP = torch.stack([one, vision, vision**2, tokens, tokens**2], dim=-1)
    return knobs_BA[..., KNOB_PART_OF_T] * requests_BP[..., REQUEST_PART_OF_T]


def squareplus(x: Tensor) -> Tensor:
    """Return (x + sqrt(x² + 4)) / 2: 1 at 0, never negative, and with a slope that fades as 1 / x² only.

    Barron, "Squareplus: a softplus-like algebraic rectifier" (2021). Far below 0 a ReLU's slope is 0 and a softplus's
    is below what Adam can tell from 0, so such a head would never train again; this one does.
    """
    root = torch.sqrt(x * x + 4)
    # the second form is the same number, without the cancellation that would flatten the slope below about -1,000
    return torch.where(x >= 0, (x + root) / 2, 2 / (root - x.clamp(max=0)))


def _most_tokens(predicted: LatencyPrediction, budget_ms: float) -> Tensor:
    prefill, decode = predicted
    return torch.where(prefill > budget_ms, 0.0, torch.floor((budget_ms - prefill) / decode) + 1)


def _require_budget(budget_ms: float) -> float:
    if not 0 < budget_ms < float("inf"):
        raise InvalidValueError("latency budget", budget_ms, "a number of milliseconds above 0, for example 200")
    return budget_ms


def _require_size(hidden_dim: int, num_layers: int) -> None:
    if hidden_dim < 1 or num_layers < 1:
        raise InvalidValueError("hidden_dim, num_layers", (hidden_dim, num_layers), "whole numbers of at least 1")
    count = (len(FEATURES) + 5) * hidden_dim + (num_layers - 1) * hidden_dim * (hidden_dim + 3) + 2
    if count > PARAMETER_LIMIT:
        raise InvalidValueError(
            "hidden_dim, num_layers",
            (hidden_dim, num_layers),
            f"a network of at most {PARAMETER_LIMIT:,} parameters; this one would have {count:,}",
        )


def _tier_indices(tiers: object) -> Values:
    if isinstance(tiers, list | tuple):
        return [_tier_index(tier) for tier in tiers]
    return _tier_index(tiers)


def _tier_index(tier: object) -> float:
    if tier is None or isinstance(tier, str):
        return tier_index(tier)
    raise InvalidValueError("tier", tier, "low, medium or high, or a list of them")


def _targets(values: Values, device: torch.device) -> Tensor:
    if isinstance(values, list | tuple):
        values = [float("nan") if value is None else value for value in values]
    return torch.as_tensor(values, dtype=torch.float32, device=device)
