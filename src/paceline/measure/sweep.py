"""Measure every question under every configuration, into a store that survives being killed.

One state for every measurement: each configuration is warmed up first (new shapes choose new kernels), the order of
configurations is drawn anew for every question from the seed, so that drift of the machine falls on all of them alike,
and a sentinel (one fixed question under one fixed configuration) is measured in between to show what drift there was.
What a question shows before it runs is looked at once, between measurements, and kept with each of its samples; its
picture is open only while it is asked. Under `prefetch` the next question is opened and looked at meanwhile, by another thread:
quicker where pictures are large, on cores that are then shared with what is measured.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import numpy as np
from PIL import Image

from paceline.datasets import VisualQuestion, score
from paceline.measure.hosts import MeasuredHost
from paceline.measure.one_pass import MeasuredAnswer
from paceline.profiles.agreement import ALONE, TOGETHER
from paceline.profiles.request_features import vector_metadata
from paceline.records import KnobConfig, MetadataValue, ProfileSample


class SampleSink(Protocol):
    """What a sweep needs of a store: what is done, and a place for the next sample."""

    def done(self) -> set[tuple[str, str, KnobConfig]]:
        """Return (dataset, sample id, configuration) of everything measured so far, by any rank."""
        ...

    def append(self, sample: ProfileSample) -> None:
        """Keep one sample, so that it outlives the process."""
        ...

    def append_sentinel(self, record: dict[str, float | int | str]) -> None:
        """Keep one sentinel measurement."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """How a sweep is run; everything that could change its numbers."""

    seed: int
    warmup_runs: int = 2
    sentinel_every: int = 50
    prefetch: bool = False
    rank: int = 0
    world_size: int = 1


Task = tuple[VisualQuestion, KnobConfig]


def remaining_tasks(
    questions: Sequence[VisualQuestion],
    configurations: Sequence[KnobConfig],
    done: set[tuple[str, str, KnobConfig]],
    settings: SweepSettings,
) -> list[Task]:
    """Return what this rank still has to measure: its questions in order, configurations shuffled for each."""
    tasks: list[Task] = []
    for index, question in enumerate(questions):
        if index % settings.world_size != settings.rank:
            continue
        order = np.random.default_rng([settings.seed, index]).permutation(len(configurations))
        for position in order:
            config = configurations[int(position)]
            if (question.dataset, question.sample_id, config) not in done:
                tasks.append((question, config))
    return tasks


def sweep(
    host: MeasuredHost,
    questions: Sequence[VisualQuestion],
    configurations: Sequence[KnobConfig],
    sink: SampleSink,
    settings: SweepSettings,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Measure what is not in `sink` yet and return how many samples were added; killed, it loses the one in flight.

    Where the host answers a question under all configurations together, that answer is kept and judged, and marked where the
    one that was measured is another. `on_progress(done, total)` counts this rank's samples, those of earlier runs included.
    """
    tasks = remaining_tasks(questions, configurations, sink.done(), settings)
    mine = len(range(settings.rank, len(questions), settings.world_size)) * len(configurations)
    on_progress(mine - len(tasks), mine)
    if not tasks:
        return 0
    first = questions[0].picture, questions[0].prompt
    for config in dict.fromkeys(config for _question, config in tasks):
        for _ in range(settings.warmup_runs):
            host.measure(*first, config)
    largest = max(configurations, key=lambda config: config.size)
    count = 0
    groups = [(question, [config for _, config in group]) for question, group in groupby(tasks, key=itemgetter(0))]
    for (question, configs), (picture, known) in zip(
        groups, _opened(host, [question for question, _ in groups], prefetch=settings.prefetch), strict=True
    ):
        together = host.answer_all(picture, question.prompt, configurations)
        for config in configs:
            if count % settings.sentinel_every == 0:
                sink.append_sentinel(_sentinel_record(host.measure(*first, largest), count))
            measured = host.measure(picture, question.prompt, config)
            sink.append(_sample(question, config, measured, together, known))
            count += 1
            on_progress(mine - len(tasks) + count, mine)
    return len(tasks)


Opened = tuple[Image.Image, Mapping[str, MetadataValue]]


def _opened(host: MeasuredHost, questions: Sequence[VisualQuestion], *, prefetch: bool) -> Generator[Opened]:
    """Yield every question's picture and what it shows; with `prefetch` one question ahead, whose error waits for its turn."""

    def opened(question: VisualQuestion) -> Opened:
        picture = question.picture
        return picture, vector_metadata(host.features(picture, question.prompt))

    if not prefetch:
        yield from map(opened, questions)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as ahead:
        coming = ahead.submit(opened, questions[0])
        for following in questions[1:]:
            now, coming = coming.result(), ahead.submit(opened, following)
            yield now
        yield coming.result()


def _sample(
    question: VisualQuestion,
    config: KnobConfig,
    measured: MeasuredAnswer,
    together: Mapping[KnobConfig, str],
    known: Mapping[str, MetadataValue],
) -> ProfileSample:
    times = measured.times
    steps: dict[str, list[float]] = {"decode_step_ms": list(times.decode_step_ms)} if times.decode_step_ms else {}
    answer = together.get(config, measured.text)
    batch: dict[str, MetadataValue] = {TOGETHER: len(together)} if together else {}
    if answer != measured.text:
        batch[ALONE] = measured.text
    return ProfileSample(
        dataset=question.dataset,
        sample_id=question.sample_id,
        tier=config.tier,
        top_k=config.top_k,
        num_active_blocks=config.num_active_blocks,
        target_vision_tokens=measured.request.target_vision_tokens,
        actual_vision_tokens=measured.request.vision_tokens,
        actual_text_tokens=measured.request.text_tokens,
        output_tokens=times.output_tokens,
        accuracy=score(question, answer),
        pred=answer,
        metadata={**question.stored_metadata, **steps, **batch, **measured.kept, **known},
        T_vision_total=times.vision_ms,
        T_LLM_prefill=times.llm_prefill_ms,
        T_LLM_decode=times.decode_ms,
        T_decode_per_token=times.decode_per_token_ms,
        T_total=times.total_ms,
        T_preprocess=times.preprocess_ms,
        T_ttft=times.ttft_ms,
        T_other=times.other_ms,
    )


def _sentinel_record(answer: MeasuredAnswer, before_task: int) -> dict[str, float | int | str]:
    times = answer.times
    return {"before_task": before_task, "prefill_ms": times.prefill_ms, "total_ms": times.total_ms}
