"""Controllers judged on held-out samples of a profile: what they scored, and how often they kept the budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from paceline.analyze import latency_of
from paceline.control import LookupTable
from paceline.control.controller import Controller
from paceline.errors import InvalidValueError
from paceline.evaluate.choices import Choices, Outcomes, choices_of, oracle_choices, outcomes_of
from paceline.evaluate.figures import BudgetFigures, PooledFigures, budget_figures, pooled_figures
from paceline.evaluate.price import ScaledTable, scaled_table
from paceline.profiles.requests import MeasuredRequests, measured_requests
from paceline.records import LatencyBudget, LatencyKind

TABLE, BOUND, ORACLE, SCALED_TABLE = "table", "bound", "oracle", "table_equal_adherence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every controller at every budget, over requests that were measured under all configurations.

    `incomplete` requests were not, and could not be judged. At each budget `best_fixed_adherence` is the largest share
    that any one configuration kept, in hindsight; the budget is possible where that is at least 1 − α.
    """

    latency_kind: LatencyKind
    alpha: float
    budgets_ms: tuple[float, ...]
    num_requests: int
    incomplete: int
    best_fixed_adherence: tuple[float, ...]
    controllers: dict[str, tuple[BudgetFigures, ...]]
    pooled: dict[str, PooledFigures | None]
    scaled_table: ScaledTable | None

    @property
    def within_possible(self) -> tuple[bool, ...]:
        """Whether any fixed configuration keeps the budget with a share of at least 1 − α."""
        return tuple(share >= 1 - self.alpha for share in self.best_fixed_adherence)


def evaluate(
    test: pl.DataFrame,
    controllers: Mapping[str, Controller],
    *,
    budgets_ms: Sequence[float],
    latency_kind: LatencyKind = "prefill",
    alpha: float = 0.05,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge controllers on samples that none of them was built from, all in one latency kind.

    The oracle is added, and where there are controllers `table` and `bound` the table scaled to the bound's adherence.
    Raises InvalidValueError for a controller of another latency kind, and where no request was measured under every
    configuration.
    """
    _require_kind(controllers, latency_kind)
    budgets = tuple(LatencyBudget(ms=float(budget_ms), kind=latency_kind).ms for budget_ms in budgets_ms)
    every = measured_requests(test, latency_of(latency_kind))
    requests = every.only(every.complete)
    if not budgets or not requests.names:
        raise InvalidValueError(
            "held-out samples",
            f"{len(every.names)} requests and {len(budgets)} budgets, no request measured under every configuration",
            "at least one budget, and one request that was: profile with the full grid for each sample",
        )
    played: dict[str, Choices] = {}
    for done, (name, controller) in enumerate(controllers.items()):
        played[name] = choices_of(name, controller, requests, budgets)
        if on_progress is not None:
            on_progress(done + 1, len(controllers))
    played[ORACLE] = oracle_choices(requests, budgets)
    return _evaluation(played, controllers.get(TABLE), requests, every, budgets, latency_kind, alpha)


def _evaluation(
    played: dict[str, Choices],
    table: Controller | None,
    requests: MeasuredRequests,
    every: MeasuredRequests,
    budgets_ms: tuple[float, ...],
    latency_kind: LatencyKind,
    alpha: float,
) -> Evaluation:
    kept_BC = (requests.latency_ms_RC <= np.asarray(budgets_ms)[:, None, None]).mean(axis=1)
    best_B: list[float] = kept_BC.max(axis=1).tolist()
    outcomes = {name: outcomes_of(choices, requests, budgets_ms) for name, choices in played.items()}
    scaled = None
    if isinstance(table, LookupTable) and BOUND in played:
        possible = [share >= 1 - alpha for share in best_B]
        scaled = scaled_table(table, outcomes[BOUND], requests, budgets_ms, possible)
        played = {**played, SCALED_TABLE: scaled.choices}
        outcomes[SCALED_TABLE] = outcomes_of(scaled.choices, requests, budgets_ms)
    return Evaluation(
        latency_kind=latency_kind,
        alpha=alpha,
        budgets_ms=budgets_ms,
        num_requests=len(requests.names),
        incomplete=len(every.names) - len(requests.names),
        best_fixed_adherence=tuple(best_B),
        controllers=_figures(played, outcomes, requests, budgets_ms),
        pooled={name: pooled_figures(choices, outcomes[name]) for name, choices in played.items()},
        scaled_table=scaled,
    )


def _figures(
    played: Mapping[str, Choices],
    outcomes: Mapping[str, Outcomes],
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
) -> dict[str, tuple[BudgetFigures, ...]]:
    return {name: budget_figures(choices, outcomes[name], requests, budgets_ms) for name, choices in played.items()}


def _require_kind(controllers: Mapping[str, Controller], latency_kind: LatencyKind) -> None:
    for name, controller in controllers.items():
        if controller.latency_kind != latency_kind:
            raise InvalidValueError(
                f"latency kind of controller {name}",
                controller.latency_kind,
                f"{latency_kind}, as the others and the samples: build it for {latency_kind} latencies",
            )
