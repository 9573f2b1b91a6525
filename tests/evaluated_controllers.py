"""Synthetic samples with request vectors, and stand-ins for learned controllers that decide by rule; nothing was learned."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from latency_models import synthetic_samples

from paceline.control.estimated import BoundController
from paceline.records import Decision, KnobConfig, LatencyKind, RequestFeatures
from paceline.request_vector import DECIMALS, RANGES, REQUEST_VECTOR_VERSION, request_vector


def synthetic_samples_with_vectors(count: int = 200, *, seed: int = 1) -> pl.DataFrame:
    """Synthetic samples whose metadata hold random vectors; the number `brightness` says whether the smallest is right."""
    samples, random = synthetic_samples(count, seed=seed), np.random.default_rng(seed)
    lows, highs = np.array(list(RANGES.values())).T
    names = samples["sample_id"].unique().sort()
    metadata = {name: _metadata(random.uniform(lows, highs)) for name in names}
    return samples.with_columns(metadata=pl.col("sample_id").replace_strict(metadata, return_dtype=pl.String))


def _metadata(vector: np.ndarray) -> str:
    numbers = [round(float(number), DECIMALS) for number in vector]
    stored = {"request_features": numbers, "request_features_version": REQUEST_VECTOR_VERSION}
    return json.dumps({"synthetic": True, **stored})


@dataclass(frozen=True, slots=True, kw_only=True)
class RuledBySight:
    """Takes, of what the bound allows, what `pick` says of the request's vector; the bound's choice where nothing fits."""

    bound: BoundController
    pick: Callable[[float, tuple[float, ...], Sequence[KnobConfig]], KnobConfig]
    refuses: bool = False

    @property
    def latency_kind(self) -> LatencyKind:
        return self.bound.latency_kind

    @property
    def provenance(self) -> tuple[dict[str, object], ...]:
        return self.bound.provenance

    def predict(self, budget_ms: float, *, features: RequestFeatures | None = None, strict: bool = False) -> Decision:
        decision = self.bound.predict(budget_ms, features=features, strict=strict)
        assert features is not None
        fitting = self.bound.fitting(budget_ms, features)
        if not fitting:
            return decision
        taken = self.pick(budget_ms, request_vector(features), fitting)
        return replace(decision, config=taken, refused=self.refuses)
