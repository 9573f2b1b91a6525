"""Controllers judged on held-out samples of a profile: what they scored, and how often they kept the budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from paceline.analyze import latency_of, require_latency
from paceline.control import LookupTable
from paceline.control.controller import Controller
from paceline.errors import InvalidValueError
from paceline.evaluate.choices import (
    Choices,
    Outcomes,
    SaysWhatFits,
    choices_of,
    oracle_choices,
    oracle_within_bound_choices,
    outcomes_of,
)
from paceline.evaluate.figures import (
    BudgetFigures,
    DecisionTimes,
    PooledFigures,
    budget_figures,
    decision_times,
    pooled_figures,
)
from paceline.evaluate.names import BOUND, ORACLE, ORACLE_WITHIN_BOUND, TABLE, is_learned, scaled_table_for
from paceline.evaluate.price import ScaledTable, scaled_table
from paceline.evaluate.recovered import LearnedFigures, learned_figures
from paceline.profiles.request_features import RequestVectors
from paceline.profiles.requests import MeasuredRequests, measured_requests
from paceline.profiles.told import pictures_of, told_questions
from paceline.records import LatencyBudget, LatencyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Every controller at every budget, over requests that were measured under all configurations.

    `incomplete` requests were not, and could not be judged. At each budget `best_fixed_adherence` is the largest share
    that any one configuration kept, in hindsight; the budget is possible where that is at least 1 − α. `scaled_table` is
    that of the bound; `learned` judges the learned controllers against the others.
    """

    latency_kind: LatencyKind
    alpha: float
    budgets_ms: tuple[float, ...]
    num_requests: int
    incomplete: int
    best_fixed_adherence: tuple[float, ...]
    controllers: dict[str, tuple[BudgetFigures, ...]]
    pooled: dict[str, PooledFigures | None]
    decision_times: dict[str, DecisionTimes]
    scaled_table: ScaledTable | None
    learned: dict[str, LearnedFigures]

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
    vectors: RequestVectors | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge controllers on samples that none of them was built from, all in one latency kind.

    The oracle is added; where there are controllers `table` and `bound` the table scaled to the bound's adherence, and to
    that of every learned one; where `bound` says what fits, the oracle within its bounds. Learned controllers go by their
    names (`paceline.evaluate.names`) and need `vectors`, those that profiling stored with the samples of `test`. With the column
    `metadata`, intervals of accuracies count pictures.
    Raises InvalidValueError for a controller of another latency kind, for vectors of other requests, and where no request
    was measured under every configuration.
    """
    _require_kind(controllers, latency_kind)
    budgets = tuple(LatencyBudget(ms=float(budget_ms), kind=latency_kind).ms for budget_ms in budgets_ms)
    require_latency(test, latency_kind)
    every = _with_pictures(measured_requests(test, latency_of(latency_kind)), test)
    requests = (every if vectors is None else _with_vectors(every, vectors)).only(every.complete)
    if not budgets or not requests.names:
        raise InvalidValueError(
            "held-out samples",
            f"{len(every.names)} requests and {len(budgets)} budgets, no request measured under every configuration",
            "at least one budget, and one request that was: profile with the full grid for each sample",
        )
    played = _played(controllers, requests, budgets, on_progress)
    return _evaluation(played, controllers.get(TABLE), requests, len(every.names), budgets, latency_kind, alpha)


def _played(
    controllers: Mapping[str, Controller],
    requests: MeasuredRequests,
    budgets_ms: tuple[float, ...],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Choices]:
    played: dict[str, Choices] = {}
    for done, (name, controller) in enumerate(controllers.items()):
        played[name] = choices_of(name, controller, requests, budgets_ms)
        if on_progress is not None:
            on_progress(done + 1, len(controllers))
    played[ORACLE] = oracle_choices(requests, budgets_ms)
    bound = controllers.get(BOUND)
    if isinstance(bound, SaysWhatFits):
        played[ORACLE_WITHIN_BOUND] = oracle_within_bound_choices(bound, played[BOUND], requests, budgets_ms)
    return played


def _evaluation(
    played: dict[str, Choices],
    table: Controller | None,
    requests: MeasuredRequests,
    count: int,
    budgets_ms: tuple[float, ...],
    latency_kind: LatencyKind,
    alpha: float,
) -> Evaluation:
    kept_BC = (requests.latency_ms_RC <= np.asarray(budgets_ms)[:, None, None]).mean(axis=1)
    best_B: list[float] = kept_BC.max(axis=1).tolist()
    possible = [share >= 1 - alpha for share in best_B]
    outcomes = {name: outcomes_of(choices, requests, budgets_ms) for name, choices in played.items()}
    scaled = _scaled_tables(table, outcomes, requests, budgets_ms, possible)
    played = {**played, **{scaled_table_for(name): each.choices for name, each in scaled.items()}}
    outcomes |= {
        name: outcomes_of(choices, requests, budgets_ms) for name, choices in played.items() if name not in outcomes
    }
    return Evaluation(
        latency_kind=latency_kind,
        alpha=alpha,
        budgets_ms=budgets_ms,
        num_requests=len(requests.names),
        incomplete=count - len(requests.names),
        best_fixed_adherence=tuple(best_B),
        controllers=_figures(played, outcomes, requests, budgets_ms),
        pooled={name: pooled_figures(choices, outcomes[name]) for name, choices in played.items()},
        decision_times={name: times for name, each in played.items() if (times := decision_times(each)) is not None},
        scaled_table=scaled.get(BOUND),
        learned={
            name: learned_figures(name, outcomes, scaled.get(name), possible, requests.pictures)
            for name in played
            if is_learned(name)
        },
    )


def _scaled_tables(
    table: Controller | None,
    outcomes: Mapping[str, Outcomes],
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
    possible: Sequence[bool],
) -> dict[str, ScaledTable]:
    if not isinstance(table, LookupTable):
        return {}
    return {
        name: scaled_table(table, judged, requests, budgets_ms, possible)
        for name, judged in outcomes.items()
        if name == BOUND or is_learned(name)
    }


def _figures(
    played: Mapping[str, Choices],
    outcomes: Mapping[str, Outcomes],
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
) -> dict[str, tuple[BudgetFigures, ...]]:
    return {name: budget_figures(choices, outcomes[name], requests, budgets_ms) for name, choices in played.items()}


def _with_pictures(requests: MeasuredRequests, test: pl.DataFrame) -> MeasuredRequests:
    if "metadata" not in test.columns:
        return requests
    return replace(requests, pictures=tuple(pictures_of(told_questions(test), list(requests.names))))


def _with_vectors(requests: MeasuredRequests, vectors: RequestVectors) -> MeasuredRequests:
    if vectors.names != requests.names:
        raise InvalidValueError(
            "request vectors",
            f"those of {len(vectors.names)} requests",
            f"those of the {len(requests.names)} held-out requests, as `request_vectors` reads them from the same samples",
        )
    rows: list[list[float]] = vectors.vectors_RF.tolist()
    features = [replace(each, vector=tuple(row)) for each, row in zip(requests.features, rows, strict=True)]
    return replace(requests, features=tuple(features))


def _require_kind(controllers: Mapping[str, Controller], latency_kind: LatencyKind) -> None:
    for name, controller in controllers.items():
        if controller.latency_kind != latency_kind:
            raise InvalidValueError(
                f"latency kind of controller {name}",
                controller.latency_kind,
                f"{latency_kind}, as the others and the samples: build it for {latency_kind} latencies",
            )
