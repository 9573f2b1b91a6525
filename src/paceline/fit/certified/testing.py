"""The certifying part: each configuration of the sealed sequence against the full one, until the first that is not certified."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.certify.procedure import ChosenGrid, PlannedTest
from paceline.certify.ratios import bound_kept
from paceline.certify.sequence import AccuracyVerdict, judge_accuracy
from paceline.control.certificate import Verdict
from paceline.datasets.question import VisualQuestion
from paceline.fit.certified.measuring import Measuring, OutOfTimeError
from paceline.fit.certified.plan import SealedPlan
from paceline.records import KnobConfig

NOTHING = AccuracyVerdict(certified=None, asked=0, broken=0, mended=0, mean_loss=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A planned test with what was found: the accuracy's verdict, and how many timed requests took longer than the bound."""

    planned: PlannedTest
    accuracy: AccuracyVerdict
    requests: int
    exceeded: int
    whole: bool

    @staticmethod
    def untested(planned: PlannedTest) -> "Tested":
        """Return a test that was not begun."""
        return Tested(planned=planned, accuracy=NOTHING, requests=0, exceeded=0, whole=False)

    @property
    def verdict(self) -> Verdict:
        """Certified where both claims passed at δ each (intersection–union), failed where one cannot pass any more."""
        if self.accuracy.certified is False:
            return "failed"
        if not self.whole:
            return "open"
        kept = bound_kept(self.exceeded, self.requests, self.planned.rule.delta)
        if not kept:
            return "failed"
        return "certified" if self.accuracy.certified else "open"


def run_sequence(
    measuring: Measuring,
    fixed: SealedPlan,
    chosen: ChosenGrid,
    questions: Sequence[VisualQuestion],
    *,
    pictures: Sequence[int],
    on_decided: Callable[[str], None],
    on_tested: Callable[[Sequence[Tested]], object],
) -> tuple[list[Tested], str | None]:
    """Return the tests that were begun with their verdicts, and why the sequence ended early, if time ended it."""
    done: list[Tested] = []
    for planned in fixed.tests:
        config, full = chosen.configs[planned.place], chosen.configs[chosen.full]
        try:
            tested = _tested(measuring, planned, (full, config), questions, pictures, fixed.requests)
        except OutOfTimeError as error:
            done.append(_so_far(measuring, planned, (full, config), questions, pictures, fixed.requests))
            on_tested(done)
            return done, f"{error} while {config.key} was tested"
        done.append(tested)
        on_tested(done)
        on_decided(_words(tested, config))
        if tested.verdict != "certified":
            break
    return done, None


def _tested(
    measuring: Measuring,
    planned: PlannedTest,
    pair: tuple[KnobConfig, KnobConfig],
    questions: Sequence[VisualQuestion],
    pictures: Sequence[int],
    requests: int,
) -> Tested:
    """Ask until the accuracy is decided, then time requests unless it failed; what is known already is not asked again."""
    verdict, asked = NOTHING, 0
    while verdict.certified is None:
        asked = _next_look(planned, asked, measuring.plan.batch_size)
        measuring.answer(questions[:asked], pair)
        verdict = judge_accuracy(_losses(measuring, pair, questions[:asked]), planned.rule, pictures[:asked])
    if verdict.certified:
        measuring.time_each(questions[:requests], pair[1:])
    return _so_far(measuring, planned, pair, questions, pictures, requests)


def _next_look(planned: PlannedTest, asked: int, step: int) -> int:
    if planned.rule.kind == "two_looks":
        return next(look for look in planned.rule.looks if look > asked)
    return min(asked + step, planned.rule.questions)


def _so_far(
    measuring: Measuring,
    planned: PlannedTest,
    pair: tuple[KnobConfig, KnobConfig],
    questions: Sequence[VisualQuestion],
    pictures: Sequence[int],
    requests: int,
) -> Tested:
    """Return what the store says of a test now."""
    known = 0
    while known < planned.rule.questions and all(_is_known(measuring, questions[known], config) for config in pair):
        known += 1
    losses_M = _losses(measuring, pair, questions[:known])
    samples = measuring.samples(questions[:requests], pair[1:])
    times = [samples.latencies(each)[0] for each in questions[:requests] if samples.whole(each)]
    return Tested(
        planned=planned,
        accuracy=judge_accuracy(losses_M, planned.rule, pictures[:known]),
        requests=len(times),
        exceeded=sum(time > planned.bound_ms for time in times),
        whole=len(times) == requests,
    )


def _is_known(measuring: Measuring, question: VisualQuestion, config: KnobConfig) -> bool:
    return (question.dataset, question.sample_id, config) in measuring.answers.accuracies


def _losses(
    measuring: Measuring, pair: tuple[KnobConfig, KnobConfig], questions: Sequence[VisualQuestion]
) -> np.ndarray:
    full, other = pair
    return np.array(
        [measuring.batched_accuracy(each, full) - measuring.batched_accuracy(each, other) for each in questions]
    )


def _words(tested: Tested, config: KnobConfig) -> str:
    accuracy = tested.accuracy
    loss = f"{100 * accuracy.mean_loss:+.2f} points lost on {accuracy.asked:,} questions"
    late = f", {tested.exceeded} of {tested.requests} requests over the bound" if tested.requests else ""
    return f"{tested.verdict}: {config.key}, {loss}{late}"
