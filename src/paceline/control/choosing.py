"""A controller's choice among the tiers that a caller allows, with the configuration that needs the least beside it; no warning.

A host that serves many callers is not warned of a budget that nothing keeps, it answers for it.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from paceline.control.controller import Controller
from paceline.control.estimated import BoundController
from paceline.control.table import LookupTable, require_budget
from paceline.control.table_entry import TableEntry
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import Decision, KnobConfig, RequestFeatures

Tiers = Collection[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is taken for a request, and what would need the smallest budget of all that is allowed."""

    taken: Decision
    least: Decision


def configurations(controller: Controller) -> tuple[KnobConfig, ...]:
    """Return what a table or a controller by bounds chooses among; raises UnknownChoiceError for another."""
    if isinstance(controller, LookupTable):
        return tuple(entry.config for entry in controller.entries)
    if isinstance(controller, BoundController):
        return controller.ranked.configs
    raise UnknownChoiceError("controller", type(controller).__name__, ("LookupTable", "BoundController"))


def preference(decision: Decision) -> tuple[float, float, tuple[int, int, int]]:
    """Return the order in which decisions that fit are preferred, the first the smallest: most accurate, faster, smaller."""
    return -decision.accuracy, decision.latency_ms, decision.config.size


def needed_ms(decision: Decision) -> float:
    """Return the budget that a decision needs: its bound, or what it takes where the controller bounds nothing."""
    return decision.latency_ms if decision.bound_ms is None else decision.bound_ms


def choose(controller: Controller, budget_ms: float, features: RequestFeatures, tiers: Tiers) -> Choice:
    """Return the most accurate configuration of these tiers that fits the budget; the one that needs least, marked, if none does.

    A table takes what fits the budget itself, without its tolerance. Raises InvalidValueError for a budget that is not above 0,
    and for tiers without a configuration.
    """
    require_budget(budget_ms)
    if isinstance(controller, LookupTable):
        return _of_table(controller, budget_ms, tiers)
    if isinstance(controller, BoundController):
        return _of_bounds(controller, budget_ms, features, tiers)
    raise UnknownChoiceError("controller", type(controller).__name__, ("LookupTable", "BoundController"))


def _of_table(table: LookupTable, budget_ms: float, tiers: Tiers) -> Choice:
    allowed = [entry for entry in table.entries if entry.config.tier in tiers]  # fastest first
    if not allowed:
        raise _no_configuration(tiers)
    fitting = [entry for entry in allowed if entry.latency_ms <= budget_ms]
    least = _decided(allowed[0], within_budget=bool(fitting))
    if not fitting:
        return Choice(taken=least, least=least)
    best = min(fitting, key=lambda entry: (-entry.accuracy, entry.latency_ms, entry.config.size))
    return Choice(taken=_decided(best, within_budget=True), least=least)


def _of_bounds(controller: BoundController, budget_ms: float, features: RequestFeatures, tiers: Tiers) -> Choice:
    times, ranked = controller.times(features), controller.ranked
    allowed_C = np.array([config.tier in tiers for config in ranked.configs])
    sequence_C = times.sequence_C[allowed_C[times.sequence_C]]
    if not len(sequence_C):
        raise _no_configuration(tiers)
    # the tiers are the caller's, not the calibration's: bounds are tested in the same order, over fewer
    times = replace(times, sequence_C=sequence_C)
    fitting = [place for place in ranked.fitting(budget_ms, times).tolist() if allowed_C[place]]
    least = ranked.decision(int(sequence_C[0]), times, within_budget=bool(fitting))
    if not fitting:
        return Choice(taken=least, least=least)
    return Choice(taken=ranked.decision(fitting[0], times), least=least)


def _decided(entry: TableEntry, *, within_budget: bool) -> Decision:
    return Decision(
        config=entry.config,
        accuracy=entry.accuracy,
        latency_ms=entry.latency_ms,
        num_samples=entry.num_samples,
        within_budget=within_budget,
    )


def _no_configuration(tiers: Tiers) -> InvalidValueError:
    return InvalidValueError("tiers", sorted(map(str, tiers)), "tiers that the controller has configurations of")
