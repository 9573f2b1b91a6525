"""What a controller takes for every held-out request at every budget, and what the request then took and scored.

Legend of array suffixes: B budgets, R requests, C configurations.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from paceline.control.controller import Controller
from paceline.errors import InvalidValueError, PacelineWarning
from paceline.profiles.requests import MeasuredRequests
from paceline.records import Decision, KnobConfig, RequestFeatures


@runtime_checkable
class SaysWhatFits(Protocol):
    """A controller that can tell which configurations its rule would allow."""

    def fitting(self, budget_ms: float, features: RequestFeatures) -> tuple[KnobConfig, ...]:
        """Return the configurations that fit the budget; none where nothing does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The configuration taken, as a column of the requests' matrices, and what the controller said of it.

    `promised` where it said that it fits, `refused` where the choice was not its own but its fallback's. `decision_us_BR`
    is how long each decision took in microseconds; None where nothing decided, as in hindsight.
    """

    column_BR: NDArray[np.intp]
    promised_BR: NDArray[np.bool_]
    refused_BR: NDArray[np.bool_]
    outside_R: NDArray[np.bool_]
    decision_us_BR: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What the requests turned out to take (ms) and to score under the configurations taken."""

    latency_ms_BR: NDArray[np.float64]
    accuracy_BR: NDArray[np.float64]
    kept_BR: NDArray[np.bool_]


def choices_of(
    name: str,
    controller: Controller,
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
    clock_ns: Callable[[], int] = perf_counter_ns,
) -> Choices:
    """Ask a controller about every request and budget; raises InvalidValueError for a configuration not measured."""
    column_of = _columns(requests)
    decisions: list[Decision] = []
    marks_ns: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted
        for budget_ms in budgets_ms:
            for features in requests.features:
                begun_ns = clock_ns()
                decision = controller.predict(budget_ms, features=features)
                marks_ns.append((begun_ns, clock_ns()))
                decisions.append(decision)
                _require_measured(name, decision, column_of)
    shape = len(budgets_ms), len(requests.names)
    outside_BR = np.array([bool(each.outside) for each in decisions]).reshape(shape)
    return Choices(
        column_BR=np.array([column_of[each.config] for each in decisions], dtype=np.intp).reshape(shape),
        promised_BR=np.array([each.within_budget for each in decisions], dtype=np.bool_).reshape(shape),
        refused_BR=np.array([each.refused for each in decisions], dtype=np.bool_).reshape(shape),
        outside_R=np.asarray(outside_BR.any(axis=0)),
        decision_us_BR=np.array([(ended - begun) / 1000 for begun, ended in marks_ns]).reshape(shape),
    )


def oracle_choices(requests: MeasuredRequests, budgets_ms: Sequence[float]) -> Choices:
    """Return the best choice in hindsight: the most accurate configuration that kept the budget, the faster of equals.

    Where none kept it, the fastest.
    """
    kept_BRC = requests.latency_ms_RC <= np.asarray(budgets_ms)[:, None, None]
    some_BR = np.asarray(kept_BRC.any(axis=2))
    column_BR = np.where(some_BR, _best_of(kept_BRC, requests), requests.latency_ms_RC.argmin(axis=1))
    return _in_hindsight(column_BR, some_BR)


def oracle_within_bound_choices(
    bound: SaysWhatFits, taken: Choices, requests: MeasuredRequests, budgets_ms: Sequence[float]
) -> Choices:
    """Return the best choice in hindsight among the configurations that a bound allows: the most accurate, then the faster.

    Where it allows none, what its controller took: no learner under the same rule can do better.
    """
    column_of = _columns(requests)
    allowed_BRC = np.zeros((*taken.column_BR.shape, len(requests.configs)), dtype=np.bool_)
    for place, budget_ms in enumerate(budgets_ms):
        for row, features in enumerate(requests.features):
            allowed_BRC[place, row, [column_of[config] for config in bound.fitting(budget_ms, features)]] = True
    some_BR = np.asarray(allowed_BRC.any(axis=2))
    return _in_hindsight(np.where(some_BR, _best_of(allowed_BRC, requests), taken.column_BR), some_BR)


def same_for_all(columns_B: Sequence[int], requests: MeasuredRequests) -> Choices:
    """Return the choices of a rule that takes one configuration a budget, whatever the request."""
    shape = len(columns_B), len(requests.names)
    column_BR = np.broadcast_to(np.asarray(columns_B, dtype=np.intp)[:, None], shape)
    return _in_hindsight(column_BR, np.ones(shape, dtype=np.bool_))


def outcomes_of(choices: Choices, requests: MeasuredRequests, budgets_ms: Sequence[float]) -> Outcomes:
    """Look up what the choices led to."""
    rows_R = np.arange(len(requests.names))
    latency_ms_BR = requests.latency_ms_RC[rows_R, choices.column_BR]
    return Outcomes(
        latency_ms_BR=latency_ms_BR,
        accuracy_BR=requests.accuracy_RC[rows_R, choices.column_BR],
        kept_BR=latency_ms_BR <= np.asarray(budgets_ms)[:, None],
    )


def _columns(requests: MeasuredRequests) -> dict[KnobConfig, int]:
    return {config: column for column, config in enumerate(requests.configs)}


def _require_measured(name: str, decision: Decision, column_of: dict[KnobConfig, int]) -> None:
    if decision.config not in column_of:
        raise InvalidValueError(
            f"configuration of controller {name}",
            decision.config.key,
            "one that the held-out samples were measured under: judge it on a profile of its own grid",
        )


def _best_of(allowed_BRC: NDArray[np.bool_], requests: MeasuredRequests) -> NDArray[np.intp]:
    """Return the most accurate column that is allowed, the fastest of equals; any column where none is."""
    latency_ms_RC, accuracy_RC = requests.latency_ms_RC, requests.accuracy_RC
    best_BR = np.where(allowed_BRC, accuracy_RC, -np.inf).max(axis=2)
    is_best_BRC = allowed_BRC & (accuracy_RC == best_BR[:, :, None])
    return np.where(is_best_BRC, latency_ms_RC, np.inf).argmin(axis=2)


def _in_hindsight(column_BR: NDArray[np.intp], promised_BR: NDArray[np.bool_]) -> Choices:
    shape = column_BR.shape
    return Choices(
        column_BR=column_BR,
        promised_BR=promised_BR,
        refused_BR=np.zeros(shape, dtype=np.bool_),
        outside_R=np.zeros(shape[1], dtype=np.bool_),
    )
