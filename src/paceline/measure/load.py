"""What a knob saves while several requests are in flight: one prefill of n requests against the same under the lower value.

In one process on transformers, n requests in flight are one batch: n copies of one request go through the image encoder and the
first forward together. A server that batches as it pleases, with queues and decodes between, is another matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from paceline.errors import ModelError
from paceline.measure.clock import Clock, clock_for
from paceline.measure.greedy import greedy
from paceline.measure.one_pass import measure_generate
from paceline.models.families.joining import Several, joined
from paceline.models.knobs import applied
from paceline.models.loading import VisionLanguageModel
from paceline.records import KnobConfig
from paceline.slo import Interval, percentile_interval

IN_FLIGHT = (1, 4, 8)
MOST_PAIRS = 20  # a batch of eight takes eight times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEffect:
    """A knob turned down with `in_flight` requests in one batch: the prefill of the whole batch (vision and LLM) in
    milliseconds at both values, medians of interleaved pairs, and the share saved with its 95 % interval.

    `reason` says why there is nothing else: the family's requests do not go through the model together.
    """

    in_flight: int
    full_ms: float | None = None
    low_ms: float | None = None
    saved: float | None = None
    saved_interval: Interval | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    config: KnobConfig
    inputs: Mapping[str, torch.Tensor]


def effects_under_load(
    model: VisionLanguageModel,
    inputs: Mapping[KnobConfig, Mapping[str, torch.Tensor]],
    *,
    full: KnobConfig,
    low: KnobConfig,
    ranking: Sequence[int],
    pairs: int,
    in_flight: Sequence[int] = IN_FLIGHT,
) -> tuple[LoadEffect, ...]:
    """Return what `low` saves over `full` for every number of requests; `inputs` are one request's, by configuration."""
    return tuple(
        _effect(model, count, [_batch(model, inputs[config], config, count) for config in (full, low)], ranking, pairs)
        for count in in_flight
    )


def _batch(model: VisionLanguageModel, inputs: Mapping[str, torch.Tensor], config: KnobConfig, count: int) -> _Batch:
    along = model.parts.family.several.along
    return _Batch(config=config, inputs=joined([inputs] * count, Several(along=along)) if count > 1 else inputs)


def _effect(
    model: VisionLanguageModel, count: int, batches: Sequence[_Batch], ranking: Sequence[int], pairs: int
) -> LoadEffect:
    clock = clock_for(*model.devices)
    try:
        for batch in (*batches, *batches):  # warm-up, and whether the family takes a batch at all
            _prefill_ms(model, batch, ranking, clock)
    except (ValueError, RuntimeError, IndexError, ModelError) as error:
        return LoadEffect(
            in_flight=count, reason=f"{count} requests do not go through this model in one batch: {_line(error)}"
        )
    measured: dict[KnobConfig, list[float]] = {batch.config: [] for batch in batches}
    for index in range(min(pairs, MOST_PAIRS)):
        for batch in batches if index % 2 else batches[::-1]:
            measured[batch.config].append(_prefill_ms(model, batch, ranking, clock))
    full_ms, low_ms = (measured[batch.config] for batch in batches)
    ratios = [low / full for full, low in zip(full_ms, low_ms, strict=True)]
    interval = percentile_interval(ratios, 50)
    return LoadEffect(
        in_flight=count,
        full_ms=median(full_ms),
        low_ms=median(low_ms),
        saved=1 - median(ratios),
        saved_interval=None if interval is None else Interval(low=1 - interval.high, high=1 - interval.low),
    )


def _prefill_ms(model: VisionLanguageModel, batch: _Batch, ranking: Sequence[int], clock: Clock) -> float:
    generation = greedy(model.parts.model, 1)
    with applied(model.parts, batch.config, ranking):
        return measure_generate(model.parts, batch.inputs, generation=generation, clock=clock)[1].prefill_ms


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
