"""Which price of an engine's time serves a load best: found in the simulator, before anybody waits for it.

A price is κ, the accuracy that each of those who arrive during a prefill is taken to lose by waiting for it
(`paceline.control.work_price`). At 0 everybody takes all that fits his own budget, and the next tight one finds no room; too high
a price gives accuracy away where there is room. Which one is right depends on what the configurations cost and bring and on the
budgets, little on the load. Its worth is its value: the mean, over requests with a budget, of the accuracy of the
configuration that served where the budget was kept, and 0 where it was missed.

Some stretches of the load choose, the others judge what was chosen: there it is compared with no such price, and with every
configuration served to all under the same order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from statistics import stdev

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError
from paceline.schedule import EngineTime, LoadController, LoadSettings
from paceline.serving.pricing import PER_ARRIVAL, price_settings
from paceline.simulate import Choices, LinearCost, LoadChooser, RequestColumns, SimulatedEngine, simulate
from paceline.tune.capacity import ROUNDING, ServedWay, alone_seconds, candidates_of, largest_of, worthwhile
from paceline.tune.student import t_half_width

PRICES = (0.0, 0.06, 0.12, PER_ARRIVAL, 0.5, 1.0)
FIRST_SHARE = 0.25  # of a stretch that counts for nothing: its bounds are cold, its queue is empty
NOT_ASKED = -1e3  # the worth of a way that a request cannot be served as


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTuning:
    """What prices are tried on: an engine, the ways of serving, α of the bounds, a floor, and budgets of a server's own.

    Requests without a budget are served whole, or with `default_budget_seconds` where a server has that.
    """

    engine: SimulatedEngine
    time: EngineTime
    ways: tuple[ServedWay, ...]
    alpha: float = 0.1
    floor: float = 0.0
    default_budget_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.ways:
            raise InvalidValueError("ways", 0, "at least one configuration")
        if not 0 < self.alpha < 1:
            raise InvalidValueError("alpha", self.alpha, "a share between 0 and 1")
        default = self.default_budget_seconds
        if default is not None and not 0 < default < math.inf:
            raise InvalidValueError("default_budget_seconds", default, "a finite number of seconds above 0")

    def t0_seconds(self, text_tokens: float) -> float:
        """Return what a prompt of so many tokens of text takes alone under the largest configuration."""
        return alone_seconds(self.whole, text_tokens, engine=self.engine, time=self.time)

    @property
    def whole(self) -> ServedWay:
        """The largest configuration."""
        return largest_of(self.ways)

    def chosen(self, load: RequestColumns, per_arrival: float) -> "Served":
        """Return what comes of choices at arrival with a price, in accuracy of each who arrives meanwhile.

        Prompts of the load are texts, to which a way adds its image.
        """
        t0_seconds = self.t0_seconds(float(load.prompt_tokens.mean()))
        price = price_settings(t0_seconds, floor=self.floor, per_arrival=per_arrival)
        settings = LoadSettings(alpha=self.alpha, price=price)
        controller = LoadController(settings, self.engine.planner, self.time.step)
        ways = list(dict.fromkeys((*worthwhile(self.ways), self.whole)))
        accuracies = np.array([way.accuracy for way in ways])
        believed = np.tile(accuracies, (len(load), 1))
        budgets = load.budgets
        if self.default_budget_seconds is not None:
            budgets = np.where(np.isfinite(budgets), budgets, self.default_budget_seconds)
        else:
            others = np.array([way != self.whole for way in ways])
            believed[np.ix_(~np.isfinite(budgets), others)] = NOT_ASKED
        by_text = {text: candidates_of(ways, text) for text in set(load.prompt_tokens.tolist())}
        chooser = LoadChooser(controller, believed)
        choices = Choices(candidates=[by_text[text] for text in load.prompt_tokens.tolist()], choose=chooser)
        run = simulate(
            replace(load, ttft_budget_seconds=budgets), self.engine, LinearCost.of(self.time), choices=choices
        )
        if run.chosen is None:
            raise AssertionError("a run with choices has no choices")
        ttft = run.first_token_seconds - run.load.arrival_seconds
        promised = np.array([each.promised for each in chooser.decisions])
        return Served.of(load, ttft, accuracies[run.chosen], promised=promised, kept=ttft <= budgets)

    def fixed(self, load: RequestColumns, way: ServedWay) -> "Served":
        """Return what comes of one configuration for all, under the same order."""
        served = replace(
            load,
            prompt_tokens=load.prompt_tokens + way.image_tokens,
            prefill_factor=np.full(len(load), way.prefill_factor),
        )
        run = simulate(served, self.engine, LinearCost.of(self.time))
        ttft = run.first_token_seconds - run.load.arrival_seconds
        nothing = np.zeros(len(load), dtype=np.bool_)
        return Served.of(load, ttft, np.full(len(load), way.accuracy), promised=nothing, kept=nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What came of a stretch, its first part left out: means over requests with a budget, and counts of promises."""

    value: float
    attainment: float
    accuracy: float
    promised: int
    promises_kept: int

    @staticmethod
    def of(
        load: RequestColumns,
        ttft_seconds: NDArray[np.float64],
        accuracies: NDArray[np.float64],
        *,
        promised: NDArray[np.bool_],
        kept: NDArray[np.bool_],
    ) -> "Served":
        """Count a run's requests; raises InvalidValueError where none that counts has a budget."""
        counts = np.arange(len(load)) >= FIRST_SHARE * len(load)
        limited = np.isfinite(load.budgets) & counts
        if not limited.any():
            raise InvalidValueError("budgets", "none after the first quarter of a stretch", "requests with a budget")
        in_time = (ttft_seconds <= load.budgets)[limited]
        return Served(
            value=float((accuracies[limited] * in_time).mean()),
            attainment=float(in_time.mean()),
            accuracy=float(accuracies[limited].mean()),
            promised=int((promised & counts).sum()),
            promises_kept=int((promised & kept & counts).sum()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedPrice:
    """A price, and what came of the stretches that choose, by load."""

    per_arrival: float
    served: tuple[tuple[Served, ...], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The mean value at each load."""
        return tuple(_mean([each.value for each in stretches]) for stretches in self.served)

    @property
    def value(self) -> float:
        """The mean over loads."""
        return _mean(self.values)

    def is_as_good_as(self, other: "TriedPrice") -> bool:
        """Return whether this value is below another's by at most a standard error of the differences, stretch by stretch."""
        by_stretch = list(zip(*self.served, strict=True)), list(zip(*other.served, strict=True))
        less = [
            _mean([theirs.value for theirs in their_loads]) - _mean([own.value for own in own_loads])
            for own_loads, their_loads in zip(*by_stretch, strict=True)
        ]
        error = stdev(less) / len(less) ** 0.5 if len(less) > 1 else 0.0
        return _mean(less) <= error + ROUNDING


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPrice:
    """On stretches that chose nothing, at one load: values of the chosen price, of none, and of the best configuration for all.

    The best is the one of the largest mean on these very stretches: nobody knows it beforehand.
    """

    priced: tuple[Served, ...]
    none: tuple[Served, ...]
    fixed: tuple[Served, ...]
    fixed_way: ServedWay

    @property
    def promises(self) -> tuple[int, int]:
        """Promises kept and promises given."""
        return sum(each.promises_kept for each in self.priced), sum(each.promised for each in self.priced)

    def less(self, others: Sequence[Served]) -> tuple[float, float | None]:
        """Return by how much the price's value exceeds another's on the same stretches, and Student's half width."""
        differences = [one.value - other.value for one, other in zip(self.priced, others, strict=True)]
        return _mean(differences), t_half_width(differences)


@dataclass(frozen=True, kw_only=True)
class TunedPrice:
    """The prices that were tried, and how the best of them does at each load on stretches that chose nothing."""

    t0_seconds: float
    tried: tuple[TriedPrice, ...]
    judged: tuple[JudgedPrice, ...]

    @cached_property
    def best(self) -> TriedPrice:
        """That of servers, if its value is within a standard error of the largest, else the smallest that is.

        The error is that of differences on the same stretches, so chance alone changes no price. One stretch says nothing of
        chance: then only an equal value is as good.
        """
        top = max(self.tried, key=lambda each: each.value)
        good = [each for each in self.tried if each.is_as_good_as(top)]
        own = [each for each in good if each.per_arrival == PER_ARRIVAL]
        return own[0] if own else min(good, key=attrgetter("per_arrival"))


def tune_price(
    tuning: PriceTuning,
    loads: Sequence[Sequence[RequestColumns]],
    *,
    prices: Sequence[float] = PRICES,
    on_progress: Callable[[int, int], None] | None = None,
) -> TunedPrice:
    """Return the price that serves stretches of loads best: of each load the first, third, ... choose, the others judge.

    Raises InvalidValueError for fewer than two stretches.
    """
    if not loads or any(len(stretches) < 2 for stretches in loads):
        raise InvalidValueError(
            "stretches", min(map(len, loads), default=0), "at least 2: one that chooses, one that judges"
        )
    own = sorted(set(prices))
    total = len(own) + len(loads)
    tried: list[TriedPrice] = []
    for price in own:
        served = tuple(tuple(tuning.chosen(load, price) for load in stretches[::2]) for stretches in loads)
        tried.append(TriedPrice(per_arrival=price, served=served))
        if on_progress is not None:
            on_progress(len(tried), total)
    t0_seconds = tuning.t0_seconds(float(np.mean([load.prompt_tokens.mean() for load in loads[0]])))
    best = TunedPrice(t0_seconds=t0_seconds, tried=tuple(tried), judged=()).best.per_arrival
    judged: list[JudgedPrice] = []
    for stretches in loads:
        judged.append(_judged(tuning, stretches[1::2], best))
        if on_progress is not None:
            on_progress(len(tried) + len(judged), total)
    return TunedPrice(t0_seconds=t0_seconds, tried=tuple(tried), judged=tuple(judged))


def best_for_all(tuning: PriceTuning, stretches: Sequence[RequestColumns]) -> tuple[ServedWay, tuple[Served, ...]]:
    """Return the configuration that is best for all of these stretches, and what comes of it on each."""
    fixed = {way: tuple(tuning.fixed(load, way) for load in stretches) for way in worthwhile(tuning.ways)}
    best = max(fixed, key=lambda way: _mean([each.value for each in fixed[way]]))
    return best, fixed[best]


def _judged(tuning: PriceTuning, stretches: Sequence[RequestColumns], per_arrival: float) -> JudgedPrice:
    way, fixed = best_for_all(tuning, stretches)
    return JudgedPrice(
        priced=tuple(tuning.chosen(load, per_arrival) for load in stretches),
        none=tuple(tuning.chosen(load, 0.0) for load in stretches),
        fixed=fixed,
        fixed_way=way,
    )


def with_budgets(load: RequestColumns, budgets_seconds: Sequence[float], seed: int) -> RequestColumns:
    """Return a load whose requests without a budget have one of these, drawn with equal chance; infinite is none.

    Raises InvalidValueError for no budgets, or one that is not above 0.
    """
    if not budgets_seconds or not all(each > 0 for each in budgets_seconds):
        raise InvalidValueError("budgets", list(budgets_seconds), "at least one, each above 0")
    drawn = np.random.default_rng(seed).choice(np.array(budgets_seconds, dtype=np.float64), len(load))
    return replace(load, ttft_budget_seconds=np.where(np.isfinite(load.budgets), load.budgets, drawn))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
