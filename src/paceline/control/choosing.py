"""A controller's choice among the tiers that a caller allows, with the configuration that needs the least beside it; no warning.

A host that serves many callers is not warned of a budget that nothing keeps, it answers for it.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from paceline.control.controller import Controller
from paceline.control.estimated import BoundController
from paceline.control.table import LookupTable, require_budget
from paceline.control.table_entry import TableEntry
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import Decision, KnobConfig, RequestFeatures

# by tier that is allowed: what a controller's milliseconds come to here
Scales = Mapping[str | None, Callable[[float], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What fits a request's budget, the preferred first; of all that is `allowed` the one that needs least, and the largest."""

    fitting: tuple[Decision, ...]
    allowed: tuple[Decision, ...]
    least: Decision
    largest: Decision

    @property
    def taken(self) -> Decision:
        """What is preferred of what fits, or else what needs least, marked."""
        return self.fitting[0] if self.fitting else self.least


def configurations(controller: Controller) -> tuple[KnobConfig, ...]:
    """Return what a table or a controller by bounds chooses among; raises UnknownChoiceError for another."""
    if isinstance(controller, LookupTable):
        return tuple(entry.config for entry in controller.entries)
    if isinstance(controller, BoundController):
        return controller.ranked.configs
    raise _unknown(controller)


def needed_ms(decision: Decision) -> float:
    """Return the budget that a decision needs: its bound, or what it takes where the controller bounds nothing."""
    return decision.latency_ms if decision.bound_ms is None else decision.bound_ms


def choose(controller: Controller, budget_ms: float, features: RequestFeatures, scales: Scales) -> Choice:
    """Return the most accurate configuration that fits the budget, or else the one that needs least, marked.

    `scales` names the tiers that are allowed, and says what a number of their milliseconds comes to here. A table takes what
    fits the budget itself, without its tolerance; bounds are tested in their fixed sequence within each tier. Raises
    InvalidValueError for a budget that is not above 0, and for tiers without a configuration.
    """
    require_budget(budget_ms)
    if isinstance(controller, LookupTable):
        return _of_table(controller, budget_ms, scales)
    if isinstance(controller, BoundController):
        return _of_bounds(controller, budget_ms, features, scales)
    raise _unknown(controller)


def options(controller: Controller, features: RequestFeatures, tiers: Collection[str | None]) -> tuple[Decision, ...]:
    """Return what a controller says of each of its configurations of these tiers for a request, whatever its budget.

    Raises InvalidValueError for tiers without a configuration.
    """
    if isinstance(controller, LookupTable):
        found = tuple(_decided(each, within_budget=True) for each in controller.entries if each.config.tier in tiers)
    elif isinstance(controller, BoundController):
        times, ranked = controller.times(features), controller.ranked
        places = [place for place, config in enumerate(ranked.configs) if config.tier in tiers]
        found = tuple(ranked.decision(place, times) for place in places)
    else:
        raise _unknown(controller)
    if not found:
        raise _no_configuration(tiers)
    return found


def _of_table(table: LookupTable, budget_ms: float, scales: Scales) -> Choice:
    allowed = [entry for entry in table.entries if entry.config.tier in scales]
    if not allowed:
        raise _no_configuration(scales)

    def needs_ms(entry: TableEntry) -> float:
        return scales[entry.config.tier](entry.latency_ms)

    fitting = [entry for entry in allowed if needs_ms(entry) <= budget_ms]
    least = _decided(min(allowed, key=needs_ms), within_budget=bool(fitting))
    fitting.sort(key=lambda entry: (-entry.accuracy, entry.latency_ms, entry.config.size))
    largest = _decided(max(allowed, key=lambda entry: entry.config.size), within_budget=True)
    return Choice(
        fitting=tuple(_decided(each, within_budget=True) for each in fitting),
        allowed=tuple(_decided(each, within_budget=True) for each in allowed),
        least=least,
        largest=largest,
    )


def _of_bounds(controller: BoundController, budget_ms: float, features: RequestFeatures, scales: Scales) -> Choice:
    times, ranked = controller.times(features), controller.ranked
    tiers = [config.tier for config in ranked.configs]
    needs_C = np.array(
        [
            scales[tier](needed) if tier in scales else math.inf
            for tier, needed in zip(tiers, times.limits().tolist(), strict=True)
        ]
    )
    fits_C = needs_C <= budget_ms
    first: list[int] = []
    for tier in scales:
        # the tiers and scales are not the artifact's calibration: within each, its bounds are tested in the same order
        sequence_C = times.sequence_C[[tiers[place] == tier for place in times.sequence_C.tolist()]]
        fits_C[sequence_C] = np.logical_and.accumulate(fits_C[sequence_C])
        first += sequence_C[:1].tolist()
    if not first:
        raise _no_configuration(scales)
    fitting = ranked.in_order(fits_C.nonzero()[0], times.latencies_C).tolist()
    least = ranked.decision(min(first, key=needs_C.__getitem__), times, within_budget=bool(fitting))
    allowed = [ranked.decision(place, times) for place, tier in enumerate(tiers) if tier in scales]
    return Choice(
        fitting=tuple(ranked.decision(place, times) for place in fitting),
        allowed=tuple(allowed),
        least=least,
        largest=max(allowed, key=lambda each: each.config.size),
    )


def _decided(entry: TableEntry, *, within_budget: bool) -> Decision:
    return Decision(
        config=entry.config,
        accuracy=entry.accuracy,
        latency_ms=entry.latency_ms,
        num_samples=entry.num_samples,
        within_budget=within_budget,
    )


def _no_configuration(tiers: Collection[str | None]) -> InvalidValueError:
    return InvalidValueError("tiers", sorted(map(str, tiers)), "tiers that the controller has configurations of")


def _unknown(controller: Controller) -> UnknownChoiceError:
    return UnknownChoiceError("controller", type(controller).__name__, ("LookupTable", "BoundController"))
