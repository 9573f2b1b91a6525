"""What a controller takes for every held-out request at every budget, and what the request then took and scored.

Legend of array suffixes: B budgets, R requests, C configurations.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.control.controller import Controller
from paceline.errors import InvalidValueError, PacelineWarning
from paceline.profiles.requests import MeasuredRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The configuration taken, as a column of the requests' matrices, and whether the controller said that it fits."""

    column_BR: NDArray[np.intp]
    promised_BR: NDArray[np.bool_]
    outside_R: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What the requests turned out to take (ms) and to score under the configurations taken."""

    latency_ms_BR: NDArray[np.float64]
    accuracy_BR: NDArray[np.float64]
    kept_BR: NDArray[np.bool_]


def choices_of(name: str, controller: Controller, requests: MeasuredRequests, budgets_ms: Sequence[float]) -> Choices:
    """Ask a controller about every request and budget; raises InvalidValueError for a configuration not measured."""
    column_of = {config: column for column, config in enumerate(requests.configs)}
    shape = len(budgets_ms), len(requests.names)
    column_BR, promised_BR = np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.bool_)
    outside_R = np.zeros(shape[1], dtype=np.bool_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted
        for place, budget_ms in enumerate(budgets_ms):
            for row, features in enumerate(requests.features):
                decision = controller.predict(budget_ms, features=features)
                column = column_of.get(decision.config)
                if column is None:
                    raise InvalidValueError(
                        f"configuration of controller {name}",
                        decision.config.key,
                        "one that the held-out samples were measured under: judge it on a profile of its own grid",
                    )
                column_BR[place, row], promised_BR[place, row] = column, decision.within_budget
                outside_R[row] |= bool(decision.outside)
    return Choices(column_BR=column_BR, promised_BR=promised_BR, outside_R=outside_R)


def oracle_choices(requests: MeasuredRequests, budgets_ms: Sequence[float]) -> Choices:
    """Return the best choice in hindsight: the most accurate configuration that kept the budget, the faster of equals.

    Where none kept it, the fastest.
    """
    latency_ms_RC, accuracy_RC = requests.latency_ms_RC, requests.accuracy_RC
    kept_BRC = latency_ms_RC <= np.asarray(budgets_ms)[:, None, None]
    some_BR = np.asarray(kept_BRC.any(axis=2))
    best_BR = np.where(kept_BRC, accuracy_RC, -np.inf).max(axis=2)
    is_best_BRC = kept_BRC & (accuracy_RC == best_BR[:, :, None])
    fastest_BR = np.where(is_best_BRC, latency_ms_RC, np.inf).argmin(axis=2)
    column_BR = np.where(some_BR, fastest_BR, latency_ms_RC.argmin(axis=1))
    return Choices(column_BR=column_BR, promised_BR=some_BR, outside_R=np.zeros(len(requests.names), dtype=np.bool_))


def same_for_all(columns_B: Sequence[int], requests: MeasuredRequests) -> Choices:
    """Return the choices of a rule that takes one configuration a budget, whatever the request."""
    shape = len(columns_B), len(requests.names)
    return Choices(
        column_BR=np.broadcast_to(np.asarray(columns_B, dtype=np.intp)[:, None], shape),
        promised_BR=np.ones(shape, dtype=np.bool_),
        outside_R=np.zeros(shape[1], dtype=np.bool_),
    )


def outcomes_of(choices: Choices, requests: MeasuredRequests, budgets_ms: Sequence[float]) -> Outcomes:
    """Look up what the choices led to."""
    rows_R = np.arange(len(requests.names))
    latency_ms_BR = requests.latency_ms_RC[rows_R, choices.column_BR]
    return Outcomes(
        latency_ms_BR=latency_ms_BR,
        accuracy_BR=requests.accuracy_RC[rows_R, choices.column_BR],
        kept_BR=latency_ms_BR <= np.asarray(budgets_ms)[:, None],
    )
