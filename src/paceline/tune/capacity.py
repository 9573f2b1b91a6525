"""How many equal engines a trace needs to keep a promise at an accuracy: by controller and by router, in the simulator.

A stretch of the trace needs the fewest engines with which the share of requests with a budget that keep it is at least
1 − α, and the mean accuracy at least the floor. Fixed engines serve all requests under one configuration, the one of least
work among those of the accuracy; controlled engines choose at each arrival (`paceline.schedule.LoadController`).

Of many engines a sample is served, with the share of the requests that falls to it: under `round_robin` exactly what these
get, under the other routers a smaller fleet's share, in which waiting is pooled less: such a plan errs towards too many.

The engines that suffice for n stretches suffice for a further one like them with probability n / (n + 1).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import ge
from pathlib import Path

import numpy as np
import polars as pl

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.profiles import read_profile
from paceline.records import KnobConfig
from paceline.schedule import EngineTime, LinearStepTime, LoadController, LoadSettings, PlannerSettings, PrefillWork
from paceline.schedule.look_ahead import own_seconds
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate import (
    ROUTERS,
    ArrivingRequest,
    Candidate,
    Choice,
    Choices,
    EngineState,
    LinearCost,
    LoadChooser,
    RequestColumns,
    SimulatedEngine,
    simulate_replicas,
)
from paceline.simulate.engine_settings import PACELINE
from paceline.tune.simulated import blocks_that_last

FIXED, CHOICES = "fixed", "choices"
CONTROLLERS = (FIXED, CHOICES)
MOST_REPLICAS = 4096
ROUNDING = 1e-9  # of a mean of accuracies: one that equals the floor is not below it
EXACT_TO, GUESSED_TO = 100, 16  # engines; and the share of itself, one in so many, by which a guess is taken to err
ENGINES_SERVED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedWay:
    """What a profile says of a configuration: accuracy, image tokens, and what its prefill takes in shares of the largest's.

    The share is of prefill time among configurations of one tier: what a tier saves is its tokens. `assumed` says that it was
    not measured in the steps of the engine that is planned for; accuracy is of so many `samples`.
    """

    config: KnobConfig
    accuracy: float
    image_tokens: int
    prefill_factor: float
    assumed: bool = False
    samples: int = 1

    def work(self, text_tokens: float) -> float:
        """Return tokens of prefill, in those of the largest configuration."""
        return (text_tokens + self.image_tokens) * self.prefill_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The engines that a controller and a router need, of each stretch; None where none of `MOST_REPLICAS` suffices."""

    controller: str
    router: str
    accuracy_floor: float
    replicas: tuple[int | None, ...]

    @property
    def planned(self) -> int | None:
        """The engines that suffice for all stretches."""
        return None if None in self.replicas else max(each for each in self.replicas if each is not None)


def ways_of(profile: Path, times: Mapping[str, LinearStepTime] | None = None) -> tuple[ServedWay, ...]:
    """Return what a profile says of each configuration; raises what `read_profile` raises, and InvalidValueError.

    `times` are an engine's step-time models by `KnobConfig.step_key`: the share of prefill time is what an image's tokens add
    to a step, against the most experts and blocks. Of a configuration without one it is the median over samples of requests
    alone on the profile's own device: an assumption for any other, and for steps that mix requests.
    """
    samples = read_profile(profile).samples
    if samples["accuracy"].null_count():
        raise InvalidValueError("profile", str(profile), "one whose samples have an accuracy each, not of whole sets")
    keys = ["tier", "top_k", "num_active_blocks"]
    figures = samples.group_by(keys).agg(
        pl.col("accuracy").mean(),
        pl.col("actual_vision_tokens").mean(),
        pl.col("T_LLM_prefill").median(),
        pl.len(),
    )
    rows = [
        (KnobConfig(tier=None if tier is None else str(tier), top_k=top_k, num_active_blocks=blocks), *numbers)
        for tier, top_k, blocks, *numbers in figures.rows()
    ]
    rows.sort(key=lambda row: row[0].size)
    largest = {config.tier: (config, prefill_ms) for config, _, _, prefill_ms, _ in rows}  # the last of each tier
    ways: list[ServedWay] = []
    for config, accuracy, tokens, prefill_ms, count in rows:
        whole, whole_ms = largest[config.tier]
        factor = _factor(times or {}, config, whole, round(tokens))
        ways.append(
            ServedWay(
                config=config,
                accuracy=float(accuracy),
                image_tokens=round(tokens),
                prefill_factor=factor or float(prefill_ms / whole_ms),
                assumed=not factor and config != whole,
                samples=count,
            )
        )
    return tuple(ways)


def _factor(times: Mapping[str, LinearStepTime], config: KnobConfig, whole: KnobConfig, tokens: int) -> float | None:
    """Return what a configuration's tokens add to a step in shares of the whole model's, None where either is not known."""
    own, of_all = times.get(config.step_key), times.get(whole.step_key)
    if own is None or of_all is None:
        return None
    prompt = PrefillWork(tokens=max(1, tokens))
    return own_seconds(own, prompt) / max(own_seconds(of_all, prompt), 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """What is planned for: engines of one kind, the ways of serving, the promise, and how choices are made.

    Of more than `engines_served` engines so many are served, with their share of the requests.
    """

    engine: SimulatedEngine
    time: EngineTime
    ways: tuple[ServedWay, ...]
    alpha: float
    settings: LoadSettings
    engines_served: int = ENGINES_SERVED

    def need(self, stretches: Sequence[RequestColumns], *, controller: str, router: str, accuracy_floor: float) -> Need:
        """Return what each stretch needs; the prompts of a stretch are texts, to which a way adds its image.

        Raises UnknownChoiceError for a controller or a router that does not exist.
        """
        if controller not in CONTROLLERS:
            raise UnknownChoiceError("controller", controller, CONTROLLERS)
        if router not in ROUTERS:
            raise UnknownChoiceError("router", router, tuple(ROUTERS))
        replicas: list[int | None] = []
        share = 1.0  # of the engines needed by the stretch before, in those that it could not do without
        for load in stretches:
            least = self.least(load)
            needed = fewest(
                lambda count, load=load: self.suffices(load, controller, router, accuracy_floor, count),
                least=least,
                guess=round(share * least),
            )
            share = share if needed is None else needed / least
            replicas.append(needed)
        return Need(controller=controller, router=router, accuracy_floor=accuracy_floor, replicas=tuple(replicas))

    def least(self, load: RequestColumns) -> int:
        """Return engines that no plan can do without: prompts under the way of least work, with every step full of them.

        Budgets may be missed by those of the longest prompts, whose work then has time.
        """
        limited = np.isfinite(load.budgets)
        if not limited.any():
            return 1
        cheapest = min(way.image_tokens * way.prefill_factor for way in self.ways)
        factor = min(way.prefill_factor for way in self.ways)
        works = np.sort(load.prompt_tokens[limited] * factor + cheapest)
        tokens = float(works[: math.ceil((1 - self.alpha) * len(works) - ROUNDING)].sum())
        spare_seconds = float(load.budgets[limited].max())
        seconds = float(load.arrival_seconds[-1] - load.arrival_seconds[0]) + spare_seconds
        work_seconds = tokens * self.time.step.per_prefill_token_ms / 1e3
        return min(MOST_REPLICAS, max(1, math.floor(work_seconds / seconds)))

    def suffices(
        self, load: RequestColumns, controller: str, router: str, accuracy_floor: float, replicas: int
    ) -> bool:
        """Return whether so many engines keep the promise on a stretch, at the accuracy."""
        attainment, accuracy = self.served(load, controller, router, accuracy_floor, replicas)
        return self.keeps(attainment) and accuracy >= accuracy_floor - ROUNDING

    def keeps(self, attainment: float) -> bool:
        """Return whether a share of budgets kept is what is promised."""
        return attainment >= 1 - self.alpha - ROUNDING

    def served(
        self, load: RequestColumns, controller: str, router: str, accuracy_floor: float, replicas: int
    ) -> tuple[float, float]:
        """Return the share of budgets kept, and the mean accuracy, with so many engines; 0 and 0 where nothing is able."""
        able = [way for way in self.ways if way.accuracy >= accuracy_floor - ROUNDING]
        if not able:
            return 0.0, 0.0
        if replicas > self.engines_served:
            load = load.part(np.flatnonzero(np.arange(len(load)) % replicas < self.engines_served))
            replicas = self.engines_served
        if controller == FIXED:
            text = float(load.prompt_tokens.mean())
            return self._kept(load, router, replicas, [min(able, key=lambda way: way.work(text))], None)
        controllers = [LoadController(self.settings, self.engine.planner, self.time.step) for _ in range(replicas)]
        ways = worthwhile(self.ways)
        accuracies = np.tile([way.accuracy for way in ways], (len(load), 1))
        choosers = [LoadChooser(each, accuracies) for each in controllers]

        def choose(state: EngineState, request: ArrivingRequest) -> Choice:
            return choosers[request.engine](state, request)

        return self._kept(load, router, replicas, ways, choose)

    def _kept(
        self,
        load: RequestColumns,
        router: str,
        replicas: int,
        ways: Sequence[ServedWay],
        choose: Callable[[EngineState, ArrivingRequest], Choice] | None,
    ) -> tuple[float, float]:
        served = load
        choices = None
        if choose is None:
            served = replace(
                load,
                prompt_tokens=load.prompt_tokens + ways[0].image_tokens,
                prefill_factor=np.full(len(load), ways[0].prefill_factor),
            )
        else:
            by_text = {text: candidates_of(ways, text) for text in set(load.prompt_tokens.tolist())}
            choices = Choices(candidates=[by_text[text] for text in load.prompt_tokens.tolist()], choose=choose)
        runs = simulate_replicas(
            served,
            self.engine,
            LinearCost.of(self.time),
            replicas=replicas,
            router=router,
            with_steps=False,
            choices=choices,
        )
        kept = limited = 0
        accuracy = 0.0
        for each in runs:
            budgets = load.budgets[each.requests]
            ttft = each.run.first_token_seconds - each.run.load.arrival_seconds
            has_budget = np.isfinite(budgets)
            kept += int((ttft <= budgets)[has_budget].sum())
            limited += int(has_budget.sum())
            chosen = each.run.chosen if each.run.chosen is not None else np.zeros(len(each.requests), dtype=np.int64)
            accuracy += float(np.array([way.accuracy for way in ways])[chosen].sum())
        return (kept / limited if limited else 1.0), accuracy / len(load)


def fewest(suffices: Callable[[int], bool], *, least: int = 1, guess: int | None = None) -> int | None:
    """Return the smallest number from `least` on that suffices; None where `MOST_REPLICAS` do not.

    From the guess, `least` without one, in steps that double, then by halving. Beyond `EXACT_TO` it is found to one in a
    hundred, and errs towards too many.
    """
    asked = cache(suffices)
    low, high = least - 1, min(max(least, guess or 0), MOST_REPLICAS)  # `low` does not suffice
    stride = high if high == least else max(1, high // GUESSED_TO)
    while asked(high) and high - stride > low and asked(high - stride):
        high, stride = high - stride, 2 * stride
    if asked(high):
        low = max(low, high - stride)
    while not asked(high):
        if high >= MOST_REPLICAS:
            return None
        low, high, stride = high, min(high + stride, MOST_REPLICAS), 2 * stride
    while high - low > max(1, (high - EXACT_TO) // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if asked(middle) else (middle, high)
    return high


def stretches_of(load: RequestColumns, count: int) -> list[RequestColumns]:
    """Return a load in so many parts of equal requests, each from time 0 on."""
    if not 1 <= count <= len(load):
        raise InvalidValueError("stretches", count, f"from 1 to {len(load)}, the requests of the load")
    parts = [load.part(part) for part in np.array_split(np.arange(len(load)), count)]
    return [replace(part, arrival_seconds=part.arrival_seconds - part.arrival_seconds[0]) for part in parts]


def worthwhile(ways: Sequence[ServedWay]) -> tuple[ServedWay, ...]:
    """Return the ways that no other equals in accuracy, image tokens and what they cost, being better in one of these."""

    def goodness(way: ServedWay) -> tuple[float, int, float]:
        return way.accuracy, -way.image_tokens, -way.prefill_factor

    figures = {goodness(way): way for way in reversed(ways)}  # of equal ones the first
    return tuple(
        way for own, way in figures.items() if not any(other != own and all(map(ge, other, own)) for other in figures)
    )


def engine_that_lasts(
    requests: Sequence[TraceRequest], ways: Sequence[ServedWay], *, chunk_size: int, max_num_seqs: int
) -> SimulatedEngine:
    """Return an engine with deadlines for an order, whose memory never runs out under any way of serving these requests."""
    image_tokens = max(way.image_tokens for way in ways)
    longest = [replace(each, prompt_tokens=each.prompt_tokens + image_tokens) for each in requests]
    return SimulatedEngine(
        rules=PACELINE,
        planner=PlannerSettings(chunk_size=chunk_size, policy="edf"),
        max_num_seqs=max_num_seqs,
        num_blocks=blocks_that_last(longest, max_num_seqs=max_num_seqs, block_size=16),
    )


def largest_of(ways: Sequence[ServedWay]) -> ServedWay:
    """Return the largest configuration's way of serving."""
    return max(ways, key=lambda way: way.config.size)


def alone_seconds(way: ServedWay, text_tokens: float, *, engine: SimulatedEngine, time: EngineTime) -> float:
    """Return what a prompt of so many tokens of text takes alone, by the step-time model."""
    tokens = max(1, round(text_tokens) + way.image_tokens)
    steps = -(-tokens // engine.planner.chunk_size)
    return steps * time.step.base_ms / 1e3 + own_seconds(
        time.step, PrefillWork(tokens=tokens, factor=way.prefill_factor)
    )


def candidates_of(ways: Sequence[ServedWay], text_tokens: int) -> list[Candidate]:
    """Return what a prompt of so many tokens of text may be served as."""
    return [Candidate(prompt_tokens=text_tokens + way.image_tokens, prefill_factor=way.prefill_factor) for way in ways]
