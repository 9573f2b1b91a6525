"""Both parts as one procedure over arrays: what the choosing part says, and the sequence of tests that is fixed from it.

Legend of array suffixes: M questions, L timed requests, C configurations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from paceline.certify.grid import largest
from paceline.certify.planning import fewest_questions, questions_needed, rounded_up
from paceline.certify.ratios import fewest_requests, latency_bounds, paired_latencies
from paceline.certify.sequence import Rule, StoppingRule, front_sequence
from paceline.certify.sets import SIGNIFICANT, sets_differ
from paceline.certify.smoothing import GridAccuracies, grid_accuracies
from paceline.errors import InvalidValueError
from paceline.records import KnobConfig

Floats = NDArray[np.float64]

LEAST_CHOOSING, MOST_CHOOSING = 20, 600
LARGE_SET = 1500  # certifying questions from which on answers are read at any time, not at two looks
PLANNED_POWER = 0.9
CAUTION = 1.0  # deviations by which a loss is taken to be larger than it looks when questions are planned
TIMED_REQUESTS = 45
BOUND_REQUESTS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGrid:
    """What the choosing part says of every configuration: accuracies, latencies in milliseconds, and bounds to certify.

    `answers_MC` are the answers themselves; `full` is the place of the full configuration. `by_set` holds the accuracies of
    each question set where sets differ beyond noise, else nothing.
    """

    configs: tuple[KnobConfig, ...]
    full: int
    accuracies: GridAccuracies
    latency_ms_C: Floats
    bound_ms_C: Floats
    answers_MC: Floats
    by_set: Mapping[str, GridAccuracies]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTest:
    """One step of the sequence: a configuration's place, the loss it is expected to have, its rule and its bound."""

    place: int
    expected_loss: float
    needed: int | None
    rule: StoppingRule
    bound_ms: float


def choosing_questions(total: int) -> int:
    """Return how many of all questions choose: about 50 of 450, 160 of 3,000 and 500 of 20,000; the rest may certify."""
    return int(np.clip(round(1.3 * total**0.6), LEAST_CHOOSING, MOST_CHOOSING))


def chosen_grid(
    answers_MC: Floats,
    latencies_LC: Floats,
    configs: Sequence[KnobConfig],
    random: Generator,
    *,
    sets_M: Sequence[str] = (),
) -> ChosenGrid:
    """Return what the answers (question, configuration) and milliseconds (request, configuration) of the choosing part say.

    Raises InvalidValueError for a grid of one configuration, too few questions and latencies of none.
    """
    require_grid(configs)
    full = largest(configs)
    names = sorted(set(sets_M))
    few = any(list(sets_M).count(name) < LEAST_CHOOSING for name in names)
    differ = len(names) > 1 and not few and sets_differ(answers_MC, sets_M, random) <= SIGNIFICANT
    rows = {name: np.array([each == name for each in sets_M]) for name in names} if differ else {}
    return ChosenGrid(
        configs=tuple(configs),
        full=full,
        accuracies=grid_accuracies(answers_MC, configs, random),
        latency_ms_C=paired_latencies(latencies_LC, full),
        bound_ms_C=latency_bounds(latencies_LC),
        answers_MC=np.asarray(answers_MC, dtype=np.float64),
        by_set={name: grid_accuracies(answers_MC[of], configs, random) for name, of in rows.items()},
    )


def require_grid(configs: Sequence[KnobConfig]) -> None:
    """Raise InvalidValueError for a grid that leaves nothing to choose."""
    if len(configs) < 2:
        raise InvalidValueError(
            "grid", f"{len(configs)} configuration", "two at least: with one there is nothing to choose or to certify"
        )


def planned_sequence(
    chosen: ChosenGrid, *, epsilon: float, delta: float, available: int, kind: Rule, most_shared: int = 1
) -> tuple[PlannedTest, ...]:
    """Return the tests of the front, closest to the full configuration first, with the questions that each may take.

    The last to be planned is the first whose loss, as far as the choosing part can tell, is above ε by two deviations. Questions
    are those at which a loss one deviation larger than it looks is certified nine times in ten, rounded up, at most the
    `available` ones; the e-process may always take all, for it ends by itself.
    """
    accuracy_C = chosen.accuracies.accuracy_C
    planned: list[PlannedTest] = []
    for place in front_sequence(accuracy_C, chosen.latency_ms_C, chosen.full):
        loss = float(accuracy_C[chosen.full] - accuracy_C[place])
        deviation = loss_deviation(chosen, place)
        if loss - 2 * deviation >= epsilon:
            break
        rates = loss + CAUTION * deviation, differing_rate(chosen, place)
        needed = needed_for(*rates, epsilon=epsilon, delta=delta, power=PLANNED_POWER)
        most = available if needed is None or kind == "e_process" else min(available, rounded_up(needed))
        rule = StoppingRule(kind=kind, epsilon=epsilon, delta=delta, questions=most, most_shared=most_shared)
        planned.append(
            PlannedTest(
                place=place,
                expected_loss=loss,
                needed=needed_for(loss, rates[1], epsilon=epsilon, delta=delta),
                rule=rule,
                bound_ms=float(chosen.bound_ms_C[place]),
            )
        )
    return tuple(planned)


def needed_for(loss: float, differing: float, *, epsilon: float, delta: float, power: float = 0.8) -> int | None:
    """Return the questions needed for a loss and a share of questions that differ; None where no number is enough."""
    differing = max(differing, abs(loss))
    return questions_needed((differing + loss) / 2, (differing - loss) / 2, epsilon, delta, power=power)


def loss_deviation(chosen: ChosenGrid, place: int) -> float:
    """Return the standard deviation of a configuration's loss as the choosing part's own pairs tell it."""
    losses_M = chosen.answers_MC[:, chosen.full] - chosen.answers_MC[:, place]
    return float(np.sqrt((losses_M.var() + 1 / (len(losses_M) + 2)) / len(losses_M)))


def differing_rate(chosen: ChosenGrid, place: int) -> float:
    """Return the share of questions whose answers differ, one more than were seen, in squares where they are graded."""
    losses_M = chosen.answers_MC[:, chosen.full] - chosen.answers_MC[:, place]
    return float(((losses_M**2).sum() + 1) / (len(losses_M) + 2))


def require_reach(planned: Sequence[PlannedTest], chosen: ChosenGrid, available: int) -> None:
    """Raise InvalidValueError, with the number needed, where the questions do not reach for the first of the sequence.

    They are taken to reach while a loss one deviation smaller than it looks could be certified more often than not.
    """
    if not planned:
        raise InvalidValueError(
            "certificate",
            "without a configuration",
            "a faster configuration whose loss may be below epsilon: ask for a larger epsilon, or profile a finer grid",
        )
    first = planned[0]
    rule, deviation = first.rule, loss_deviation(chosen, first.place)
    differing = differing_rate(chosen, first.place)
    hopeful = needed_for(first.expected_loss - deviation, differing, epsilon=rule.epsilon, delta=rule.delta, power=0.5)
    if hopeful is None or hopeful > available:
        needed = f"about {first.needed:,}" if first.needed else "no number of questions is enough, as far as it looks"
        name = chosen.configs[first.place].key
        raise InvalidValueError(
            "certifying questions",
            f"{available:,}",
            f"{needed}: {name}, the closest to the full configuration, loses {100 * first.expected_loss:.1f} points on the "
            f"choosing part and {100 * differing:.0f} % of answers differ; give more --questions, or a larger epsilon",
        )


def require_floor(available: int, *, epsilon: float, delta: float) -> None:
    """Raise InvalidValueError, before anything is asked, where not even identical answers would certify."""
    floor = fewest_questions(epsilon, delta)
    if available < floor:
        raise InvalidValueError(
            "certifying questions",
            f"{available:,}",
            f"{floor:,} at least: with epsilon {epsilon:g} and delta {delta:g} fewer certify nothing, not even a "
            "configuration whose every answer is the same; give more --questions, or a larger epsilon or delta",
        )


def timed_requests(available: int, delta: float) -> int:
    """Return how many requests test a latency bound; raises InvalidValueError where the questions do not reach for it."""
    fewest = fewest_requests(delta)
    if available < fewest:
        raise InvalidValueError(
            "certifying questions",
            f"{available:,}",
            f"{fewest:,} at least: fewer requests cannot show at delta {delta:g} that a latency bound holds for 95 of 100",
        )
    return min(available, max(fewest, BOUND_REQUESTS))
