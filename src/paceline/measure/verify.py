"""Is this model safe to steer and to measure? The invariants, checked on it, as one record."""

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from paceline.datasets import VisualQuestion
from paceline.datasets.picture_source import DrawnPicture
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.clock import clock_for
from paceline.measure.greedy import greedy, own_settings_aside
from paceline.measure.load import LoadEffect, effects_under_load
from paceline.measure.one_pass import answer_measured, measure_generate
from paceline.models.critical_section import held
from paceline.models.knobs import applied, lacking_knobs, skipped_blocks
from paceline.models.loading import SETTINGS_FILE, PreparedRequest, VisionLanguageModel
from paceline.records import KnobConfig, KnobGrid, StageTimes
from paceline.slo import Interval, percentile, percentile_interval

T = TypeVar("T")
CACHE_LIMIT = 1e-3  # SPEC S1, float32
CLOSURE_LIMIT = 0.01  # SPEC S2
OTHER_LIMIT_SHORT, OTHER_LIMIT_LONG, LONG_MS = 0.15, 0.02, 1000.0
OVERHEAD_LIMIT = 0.01
GENERATED_TOKENS = 8
OTHER_SHAPES = (1536, 512), (1024, 1024)  # in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobCheck:
    """Does a knob change what the model computes, and does turning it down save prefill time?"""

    works: bool
    moves_latency: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTokens:
    """What one tier really brings into the prompt for the picture verified on: its tokens, those of the encoder, and its cap."""

    tier: str | None
    vision_tokens: int
    image_tokens: int
    cap: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The capability record of one model on one machine; shares are of 1, differences in logits.

    `lacking` says of each knob that the model's family or the model does not have why not. `unsupported_modes` are ways of
    decoding in which the model's own logits differ with a cache and without while every block runs: they are not judged.
    `under_load` says by knob what turning it down saves with several requests in flight; empty where that was not asked for.
    """

    model: str
    knobs: dict[str, KnobCheck | None]
    cache_max_abs_diff: float
    restore_max_abs_diff: float
    stage_closure: float
    other_share: float
    mean_total_ms: float
    hook_overhead: float
    hook_overhead_interval: Interval | None
    pairs: int
    lacking: dict[str, str]
    unsupported_modes: tuple[str, ...]
    tier_tokens: tuple[TierTokens, ...] = ()
    under_load: dict[str, tuple[LoadEffect, ...]] = field(default_factory=dict[str, tuple[LoadEffect, ...]])

    @property
    def failures(self) -> list[str]:
        """What does not hold, a sentence each; a knob without effect on latency is a caution, not a failure."""
        other_limit = OTHER_LIMIT_LONG if self.mean_total_ms >= LONG_MS else OTHER_LIMIT_SHORT
        checks = {
            f"cached and uncached logits differ by {self.cache_max_abs_diff:.1e} (limit {CACHE_LIMIT:g})": (
                self.cache_max_abs_diff >= CACHE_LIMIT
            ),
            f"the model is not restored: logits differ by {self.restore_max_abs_diff:.1e}": self.restore_max_abs_diff
            > 0,
            f"stages miss the total by {self.stage_closure:.2%} (limit {CLOSURE_LIMIT:.0%})": (
                self.stage_closure > CLOSURE_LIMIT
            ),
            f"{self.other_share:.1%} of the total is unattributed (limit {other_limit:.0%})": self.other_share
            > other_limit,
            f"hooks cost {self.hook_overhead:.2%} of generate() (limit {OVERHEAD_LIMIT:.0%})": self._overhead_too_large(),
        }
        broken = {
            f"the knob {name} has no effect{self._why_without(name)}": check is not None and not check.works
            for name, check in self.knobs.items()
        }
        return [sentence for sentence, fails in (checks | broken).items() if fails]

    def _why_without(self, knob: str) -> str:
        tokens = {each.image_tokens for each in self.tier_tokens}
        if knob != "tier" or len(tokens) != 1:
            return ""
        caps = ", ".join(f"{each.tier} {each.cap}" for each in self.tier_tokens)
        return (
            f": the picture takes {tokens.pop()} image tokens under every tier, and no other shape of it moves them; the caps "
            f"are {caps}: name smaller ones as tier_token_caps in the model's {SETTINGS_FILE}"
        )

    def _overhead_too_large(self) -> bool:
        """Judge by the whole interval: on a noisy machine the point estimate alone would accuse at random."""
        interval = self.hook_overhead_interval
        return self.hook_overhead > OVERHEAD_LIMIT if interval is None else interval.low > OVERHEAD_LIMIT


def verify(
    model: VisionLanguageModel,
    question: VisualQuestion,
    grid: KnobGrid,
    ranking: Sequence[int],
    *,
    pairs: int = 60,
    in_flight: Sequence[int] = (),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verification:
    """Check knobs, key-value cache, restoration, stage times and hook overhead on one question.

    `pairs` is the number of interleaved pairs behind each timing comparison. With `in_flight` every knob is timed again with so
    many requests in one batch, see `paceline.measure.load`.
    """
    steps, done = len(KNOB_FIELDS) + 4, itertools.count(1)

    def moved(found: T) -> T:
        on_progress(next(done), steps)
        return found

    full = max(grid.configurations(), key=lambda config: config.size)
    knobs = {name: moved(_check_knob(model, question, grid, ranking, name, full, pairs)) for name in KNOB_FIELDS}
    request = model.prepare(question.picture, question.prompt, full.tier)
    unsupported = _unsupported_modes(model, request)
    cache_difference = moved(_worst_cache_difference(model, request, grid, ranking, unsupported))
    restore_difference = moved(_restore_difference(model, request, grid, ranking))
    times = moved(_stage_times(model, question, grid, ranking))
    overhead = moved(overhead_ratios(model, request, pairs=pairs))
    return Verification(
        model=model.name,
        knobs=knobs,
        cache_max_abs_diff=cache_difference,
        restore_max_abs_diff=restore_difference,
        stage_closure=max(each.closure for each in times),
        other_share=sum(each.other_ms for each in times) / sum(each.total_ms for each in times),
        mean_total_ms=sum(each.total_ms for each in times) / len(times),
        hook_overhead=percentile(overhead, 50) - 1,
        hook_overhead_interval=_minus_one(percentile_interval(overhead, 50)),
        pairs=pairs,
        lacking=lacking_knobs(model.parts),
        unsupported_modes=unsupported,
        tier_tokens=_tier_tokens(model, question),
        under_load=_under_load(model, question, grid, ranking, pairs, in_flight) if in_flight else {},
    )


def _unsupported_modes(model: VisionLanguageModel, request: PreparedRequest) -> tuple[str, ...]:
    """Return the ways of decoding in which the model's own cache is not right while every block runs."""
    own = cached_against_uncached(model.parts, request, skipped=frozenset())
    return tuple(sorted(mode for mode, difference in own.items() if difference >= CACHE_LIMIT and mode != "plain"))


def _tier_tokens(model: VisionLanguageModel, question: VisualQuestion) -> tuple[TierTokens, ...]:
    requests = {tier: model.prepare(question.picture, question.prompt, tier) for tier in model.tiers}
    return tuple(
        TierTokens(
            tier=tier,
            vision_tokens=each.vision_tokens,
            image_tokens=each.image_tokens,
            cap=each.target_vision_tokens,
        )
        for tier, each in requests.items()
    )


def _under_load(
    model: VisionLanguageModel,
    question: VisualQuestion,
    grid: KnobGrid,
    ranking: Sequence[int],
    pairs: int,
    in_flight: Sequence[int],
) -> dict[str, tuple[LoadEffect, ...]]:
    full = max(grid.configurations(), key=lambda config: config.size)
    found: dict[str, tuple[LoadEffect, ...]] = {}
    for name in KNOB_FIELDS:
        lowest = _lowest(grid, full, name)
        if lowest is not None:
            asked = _moved_by(model, question, lowest, full) if name == "tier" else question
            inputs = {each: model.prepare(asked.picture, asked.prompt, each.tier).inputs for each in (full, lowest)}
            found[name] = effects_under_load(
                model, inputs, full=full, low=lowest, ranking=ranking, pairs=pairs, in_flight=in_flight
            )
    return found


KNOB_FIELDS = {"tier": "tiers", "top_k": "top_ks", "num_active_blocks": "block_counts"}


def _check_knob(
    model: VisionLanguageModel,
    question: VisualQuestion,
    grid: KnobGrid,
    ranking: Sequence[int],
    name: str,
    full: KnobConfig,
    pairs: int,
) -> KnobCheck | None:
    """Turn one knob down alone and compare; None when the model has no such knob or the grid one value of it."""
    lowest = _lowest(grid, full, name)
    if lowest is None:
        return None
    question = _moved_by(model, question, lowest, full) if name == "tier" else question
    difference = _logit_difference(model, question, full, lowest, ranking)
    ratios = _prefill_ratios(model, question, lowest, full, ranking, pairs)
    interval = percentile_interval(ratios, 50)
    saved = 1 - percentile(ratios, 50)
    shown = f" (95 % CI {1 - interval.high:.1%} to {1 - interval.low:.1%})" if interval else ""
    low_value, full_value = getattr(lowest, name), getattr(full, name)
    return KnobCheck(
        works=difference > 0,
        moves_latency=interval is not None and interval.high < 1,
        detail=f"{full_value} -> {low_value}: {saved:.1%} less prefill time{shown}, logits move by {difference:.2g}",
    )


def _lowest(grid: KnobGrid, full: KnobConfig, name: str) -> KnobConfig | None:
    """Return the grid's configuration with one knob turned all the way down; None where there is nothing to turn."""
    values = [value for value in getattr(grid, KNOB_FIELDS[name]) if value is not None]
    if len(values) < 2:
        return None
    return min((config for config in grid.configurations() if _differs_only(config, full, name)), key=lambda c: c.size)


def _moved_by(
    model: VisionLanguageModel, question: VisualQuestion, low: KnobConfig, full: KnobConfig
) -> VisualQuestion:
    """Return the question with a picture that the tier can move: its own, or that in another shape, for some families cut
    pictures by their shape and a few shapes come out alike."""

    def tokens(asked: VisualQuestion, config: KnobConfig) -> int:
        return model.prepare(asked.picture, asked.prompt, config.tier).vision_tokens

    reshaped = (DrawnPicture(image=question.picture.resize(size)) for size in OTHER_SHAPES)
    others = (replace(question, pictures=(picture,)) for picture in reshaped)
    moved = (asked for asked in (question, *others) if tokens(asked, low) != tokens(asked, full))
    return next(moved, question)


def _differs_only(config: KnobConfig, full: KnobConfig, name: str) -> bool:
    return all(getattr(config, other) == getattr(full, other) for other in KNOB_FIELDS if other != name)


@torch.no_grad()
def _last_logits(
    model: VisionLanguageModel, question: VisualQuestion, config: KnobConfig, ranking: Sequence[int]
) -> Any:
    request = model.prepare(question.picture, question.prompt, config.tier)
    with applied(model.parts, config, ranking):
        return model.parts.model(**request.inputs).logits[0, -1].float()


def _logit_difference(
    model: VisionLanguageModel, question: VisualQuestion, one: KnobConfig, other: KnobConfig, ranking: Sequence[int]
) -> float:
    first, second = (_last_logits(model, question, config, ranking) for config in (one, other))
    return float((first - second).abs().max())


def _prefill_ratios(
    model: VisionLanguageModel,
    question: VisualQuestion,
    low: KnobConfig,
    full: KnobConfig,
    ranking: Sequence[int],
    pairs: int,
) -> list[float]:
    """Return prefill time at `low` over prefill time at `full`, pair by pair, in alternating order."""
    clock = clock_for(*model.devices)

    def prefill_ms(config: KnobConfig) -> float:
        answer = answer_measured(
            model, question.picture, question.prompt, config, ranking=ranking, max_new_tokens=1, clock=clock
        )
        return answer.times.prefill_ms

    for config in (low, full, low, full):
        prefill_ms(config)
    ratios: list[float] = []
    for index in range(pairs):
        order = (low, full) if index % 2 else (full, low)
        measured = {config: prefill_ms(config) for config in order}
        ratios.append(measured[low] / measured[full])
    return ratios


def _worst_cache_difference(
    model: VisionLanguageModel,
    request: PreparedRequest,
    grid: KnobGrid,
    ranking: Sequence[int],
    unsupported: Collection[str],
) -> float:
    worst = 0.0
    for count in grid.block_counts:
        skipped = skipped_blocks(len(model.parts.blocks), count, ranking)
        found = cached_against_uncached(model.parts, request, skipped=skipped)
        worst = max(worst, *(each for mode, each in found.items() if mode not in unsupported))
    return worst


@torch.no_grad()
def _restore_difference(
    model: VisionLanguageModel, request: PreparedRequest, grid: KnobGrid, ranking: Sequence[int]
) -> float:
    before = _plain_logits(model, request)
    worst = 0.0
    for config in grid.configurations():
        with applied(model.parts, config, ranking):
            model.parts.model(**request.inputs)
        after = _plain_logits(model, request)
        worst = max(worst, float((after - before).abs().max()))
    return worst


def _plain_logits(model: VisionLanguageModel, request: PreparedRequest) -> Any:
    with held(model.parts.model, "plain passes"):
        return model.parts.model(**request.inputs).logits


def _stage_times(
    model: VisionLanguageModel, question: VisualQuestion, grid: KnobGrid, ranking: Sequence[int]
) -> list[StageTimes]:
    clock = clock_for(*model.devices)
    return [
        answer_measured(
            model,
            question.picture,
            question.prompt,
            config,
            ranking=ranking,
            max_new_tokens=GENERATED_TOKENS,
            clock=clock,
        ).times
        for config in grid.configurations()
        for _ in range(3)
    ]


def overhead_ratios(model: VisionLanguageModel, request: PreparedRequest, *, pairs: int) -> list[float]:
    """Return measured `generate()` over plain `generate()`, pair by pair, in alternating order."""
    clock = clock_for(*model.devices)
    generation = greedy(model.parts.model, GENERATED_TOKENS)
    plain_model: Any = model.parts.model

    def plain_ms() -> float:
        clock.settle()
        with held(plain_model, "plain passes"), own_settings_aside(plain_model):
            started = time.perf_counter()
            plain_model.generate(**request.inputs, generation_config=generation)
            clock.settle()
            return (time.perf_counter() - started) * 1e3

    def hooked_ms() -> float:
        return measure_generate(model.parts, request.inputs, generation=generation, clock=clock)[1].total_ms

    for warm_up in (plain_ms, hooked_ms, plain_ms, hooked_ms):
        warm_up()
    ratios: list[float] = []
    for index in range(pairs):
        order = (plain_ms, hooked_ms) if index % 2 else (hooked_ms, plain_ms)
        measured = {each: each() for each in order}
        ratios.append(measured[hooked_ms] / measured[plain_ms])
    return ratios


def _minus_one(interval: Interval | None) -> Interval | None:
    return None if interval is None else Interval(low=interval.low - 1, high=interval.high - 1)
