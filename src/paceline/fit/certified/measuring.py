"""What a certified profile asks of the model: requests one at a time for latencies, batches for accuracies, until time ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from paceline.datasets.question import VisualQuestion
from paceline.errors import InvalidValueError
from paceline.fit.certified.plan import CertifyPlan
from paceline.measure.batched import AnsweringHost
from paceline.measure.hosts import HostAlone, MeasuredHost
from paceline.measure.profiling import sweep_settings
from paceline.measure.sweep import sweep
from paceline.profiles import CONFIGURATION, ProfileStore
from paceline.profiles.answers import Answer, AnswerJournal, AnswerKey
from paceline.profiles.fields import KEY
from paceline.profiles.native import read_native
from paceline.records import KnobConfig


class OutOfTimeError(Exception):
    """The minutes are over; what was measured is kept. It never leaves this package."""


class CertifyingHost(MeasuredHost, AnsweringHost, Protocol):
    """Measures one question at a time, and answers many at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSamples:
    """Accuracy and prefill milliseconds of requests that ran one at a time, by question and configuration."""

    measured: dict[AnswerKey, tuple[float, float]]
    configs: tuple[KnobConfig, ...]

    def whole(self, question: VisualQuestion) -> bool:
        """Tell whether a question was measured under every configuration."""
        return all((question.dataset, question.sample_id, config) in self.measured for config in self.configs)

    def latencies(self, question: VisualQuestion) -> list[float]:
        """Return a whole question's milliseconds, in the order of configurations."""
        return [self.measured[question.dataset, question.sample_id, config][1] for config in self.configs]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCost:
    """What a store's measurements cost, in this run and those before it.

    `answers` were given in batches and took `answers_seconds`; `requests` ran one at a time and took `requests_seconds`, from
    picture to last token. `request_seconds` is the mean of one request over the whole grid, 0 where none was measured.
    """

    answers: int
    answers_seconds: float
    requests: int
    requests_seconds: float
    request_seconds: float


@dataclass(slots=True, kw_only=True)
class Measuring:
    """What runs the model, over its store and journal; raises OutOfTimeError when the deadline has passed."""

    host: CertifyingHost
    store: ProfileStore
    answers: AnswerJournal
    plan: CertifyPlan
    deadline: float
    clock: Callable[[], float]
    on_progress: Callable[[int, int], None]

    def time_each(
        self,
        questions: Sequence[VisualQuestion],
        configs: Sequence[KnobConfig],
        *,
        least: int = 0,
        on_question: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure questions one at a time under every configuration, those that are in the store already left out.

        `on_question` is called when another question is whole. Raises InvalidValueError where the first question shows that
        `least` of them do not fit the time.
        """
        started, first, width = self.clock(), -1, len(configs)

        def moved(done: int, total: int) -> None:
            nonlocal first, started
            self.on_progress(done, total)
            if first < 0:  # called before the warm-up
                first = done
                return
            if done == first + 1:
                started = self.clock()  # the warm-up is over
            if done == first + width and first == 0:
                self._require_time((self.clock() - started) * width / max(1, width - 1), least, width)
            if done % width == 0:
                on_question()
            if done < total:
                self.require_time()

        self.require_time()
        settings = sweep_settings(self.plan.measured, 0, 1)
        # of one configuration, nothing is to be told about its answers beside those of others
        host = self.host if len(configs) > 1 else HostAlone(host=self.host)
        sweep(host, questions, configs, self.store, settings, moved)

    def answer(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> None:
        """Answer questions in batches under every configuration; what is in the journal is not asked again."""
        step = self.plan.batch_size
        for start in range(0, len(questions), step):
            some = questions[start : start + step]
            open_for = {
                config: [each for each in some if (each.dataset, each.sample_id, config) not in self.answers.accuracies]
                for config in configs
            }
            left = [each for each in some if any(each in asked for asked in open_for.values())]
            wanted = [config for config in configs if open_for[config]]
            if left:
                self.require_time()
                self._answer_batch(left, wanted)
            self.on_progress(min(start + step, len(questions)) * len(configs), len(questions) * len(configs))

    def _answer_batch(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> None:
        for each in self.host.answers(questions, configs):
            name = each.question.dataset, each.question.sample_id
            if (*name, each.config) in self.answers.accuracies:
                continue
            assert each.accuracy is not None, "sets that are judged as a whole were refused"
            self.answers.append(
                Answer(
                    dataset=name[0],
                    sample_id=name[1],
                    config=each.config.key,
                    accuracy=each.accuracy,
                    pred=each.text,
                    output_tokens=each.output_tokens,
                    batch_size=each.batch_size,
                    seconds=each.seconds,
                )
            )

    def samples(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> TimedSamples:
        """Return what the store holds of these questions."""
        names = {(each.dataset, each.sample_id) for each in questions}
        columns = (*KEY, "accuracy", "T_vision_total", "T_LLM_prefill")
        found: dict[AnswerKey, tuple[float, float]] = {}
        for row in read_native(self.store.path, columns=columns).samples.iter_rows(named=True):
            if (row["dataset"], row["sample_id"]) in names:
                config = KnobConfig(**{name: row[name] for name in CONFIGURATION})
                found[row["dataset"], row["sample_id"], config] = (
                    row["accuracy"],
                    row["T_vision_total"] + row["T_LLM_prefill"],
                )
        return TimedSamples(measured=found, configs=tuple(configs))

    def answered(self, question: VisualQuestion, configs: Sequence[KnobConfig], samples: TimedSamples) -> bool:
        """Tell whether a question has an accuracy under every configuration, timed or in a batch."""
        return all(self._found(question, config, samples) is not None for config in configs)

    def accuracy(self, question: VisualQuestion, config: KnobConfig, samples: TimedSamples) -> float:
        """Return the accuracy of an answered question."""
        found = self._found(question, config, samples)
        assert found is not None, "only of questions that are answered"
        return found

    def batched_accuracy(self, question: VisualQuestion, config: KnobConfig) -> float:
        """Return the accuracy that a batched pass gave a question."""
        return self.answers.accuracies[question.dataset, question.sample_id, config]

    def _found(self, question: VisualQuestion, config: KnobConfig, samples: TimedSamples) -> float | None:
        key = question.dataset, question.sample_id, config
        return samples.measured[key][0] if key in samples.measured else self.answers.accuracies.get(key)

    def cost(self, choosing: Sequence[VisualQuestion]) -> MeasuredCost:
        """Return what was asked so far and how long it took; `choosing` are the questions that every configuration is asked."""
        columns = ("dataset", "sample_id", "T_preprocess", "T_total")
        names = {(each.dataset, each.sample_id) for each in choosing}
        everywhere, seconds = list[float](), 0.0
        for dataset, sample_id, before_ms, after_ms in read_native(
            self.store.path, columns=columns
        ).samples.iter_rows():
            took = ((before_ms or 0.0) + after_ms) / 1e3
            seconds += took
            if (dataset, sample_id) in names:
                everywhere.append(took)
        return MeasuredCost(
            answers=len(self.answers.accuracies),
            answers_seconds=self.answers.seconds,
            requests=len(self.store.done()),
            requests_seconds=seconds,
            request_seconds=fmean(everywhere) if everywhere else 0.0,
        )

    def require_time(self) -> None:
        """Raise OutOfTimeError when the deadline has passed."""
        if self.clock() >= self.deadline:
            raise OutOfTimeError(f"the {self.plan.minutes:g} minutes were over")

    def _require_time(self, seconds_a_question: float, least: int, width: int) -> None:
        needed = seconds_a_question * least / 60
        if self.plan.minutes is not None and needed > self.plan.minutes:
            raise InvalidValueError(
                "minutes",
                self.plan.minutes,
                f"{needed:.2g} at least: one question took {seconds_a_question:.1f} s under all {width} configurations, and "
                f"the first pass asks {least}; give more --minutes, or a smaller grid",
            )
