"""What a sweep measures on: a model in this process, or an engine that serves it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image

from paceline.datasets.question import VisualQuestion
from paceline.datasets.scoring import score
from paceline.measure.batched import BatchedAnswer, answer_batched
from paceline.measure.clock import Clock
from paceline.measure.one_pass import MeasuredAnswer, answer_measured
from paceline.models.loading import VisionLanguageModel
from paceline.models.vision_language import UnencodedRequest
from paceline.records import EngineAnswer, EngineMeasurement, KnobConfig, MetadataValue, RequestFeatures


class MeasuredHost(Protocol):
    """Answers one question at a time under a configuration, measured; an engine answers several together before that."""

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return what a question shows before it runs."""
        ...

    def answer_all(self, picture: Image.Image, prompt: str, configs: Sequence[KnobConfig]) -> Mapping[KnobConfig, str]:
        """Return the answers to one question under all configurations at once; none from a host that has no batches."""
        ...

    def measure(self, picture: Image.Image, prompt: str, config: KnobConfig) -> MeasuredAnswer:
        """Answer a question with the host to itself, and measure it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHost:
    """A transformers model in this process: one pass of `generate()` a sample."""

    model: VisionLanguageModel
    ranking: tuple[int, ...]
    max_new_tokens: int
    clock: Clock
    per_step: bool = False

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return what a question shows before it runs."""
        return self.model.features(picture, prompt)

    def answer_all(self, picture: Image.Image, prompt: str, configs: Sequence[KnobConfig]) -> Mapping[KnobConfig, str]:
        """Return no answers: one request at a time is measured here."""
        del picture, prompt, configs
        return {}

    def measure(self, picture: Image.Image, prompt: str, config: KnobConfig) -> MeasuredAnswer:
        """Answer a question in one pass, and measure it."""
        return answer_measured(
            self.model,
            picture,
            prompt,
            config,
            ranking=self.ranking,
            max_new_tokens=self.max_new_tokens,
            clock=self.clock,
            per_step=self.per_step,
        )

    def answers(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> Iterator[BatchedAnswer]:
        """Yield every question's answer under every configuration, all questions in one batch."""
        yield from answer_batched(
            self.model,
            questions,
            configs,
            ranking=self.ranking,
            max_new_tokens=self.max_new_tokens,
            batch_size=len(questions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAlone:
    """A host whose answers are all its measured ones: nothing is asked twice."""

    host: MeasuredHost

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return what a question shows before it runs."""
        return self.host.features(picture, prompt)

    def answer_all(self, picture: Image.Image, prompt: str, configs: Sequence[KnobConfig]) -> Mapping[KnobConfig, str]:
        """Return no answers: each is measured alone."""
        del picture, prompt, configs
        return {}

    def measure(self, picture: Image.Image, prompt: str, config: KnobConfig) -> MeasuredAnswer:
        """Answer a question with the host to itself, and measure it."""
        return self.host.measure(picture, prompt, config)


class MeasuringEngine(Protocol):
    """An engine that has started: one copy of the weights, every request under its own configuration."""

    def answer_all(self, requests: Sequence[tuple[UnencodedRequest, KnobConfig]]) -> list[EngineAnswer]:
        """Answer requests together; the answers are in their order."""
        ...

    def measure(self, request: UnencodedRequest, config: KnobConfig) -> EngineMeasurement:
        """Answer one request alone, and measure it by the engine's clock."""
        ...

    def step_lines(self, config: KnobConfig, tokens: Sequence[int], *, seed: int) -> list[str]:
        """Serve a synthetic load of text under one configuration and return its step log, a JSON line each."""
        ...


class ServingEngine(Protocol):
    """A kind of engine, not started yet, that a profile can be made with."""

    @property
    def name(self) -> str:
        """The engine's name in the provenance."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def clock(self) -> str:
        """The clock that its milliseconds are of."""
        ...

    @property
    def arguments(self) -> Mapping[str, object]:
        """What it is started with, beside what the profile sets."""
        ...

    @property
    def device_type(self) -> str:
        """The kind of device that it computes on, as torch calls it."""
        ...

    def open(
        self, model: str, *, revision: str | None, dtype: str, ranking: Sequence[int], seed: int, max_new_tokens: int
    ) -> AbstractContextManager[MeasuringEngine]:
        """Start it, and stop it when the block ends."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHost:
    """An engine beside the model it serves, of which the tokenizer, the tiers and the picture features are used here."""

    engine: MeasuringEngine
    model: VisionLanguageModel
    per_step: bool = False

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return what a question shows before it runs."""
        return self.model.features(picture, prompt)

    def answer_all(self, picture: Image.Image, prompt: str, configs: Sequence[KnobConfig]) -> Mapping[KnobConfig, str]:
        """Return the answers to one question under all configurations, given to the engine together."""
        requests = [(self.model.unencoded(picture, prompt, config.tier), config) for config in configs]
        answers = self.engine.answer_all(requests)
        return {config: self._text(answer) for config, answer in zip(configs, answers, strict=True)}

    def measure(self, picture: Image.Image, prompt: str, config: KnobConfig) -> MeasuredAnswer:
        """Answer a question with the engine to itself, and measure it."""
        request = self.model.unencoded(picture, prompt, config.tier)
        measured = self.engine.measure(request, config)
        kept: dict[str, MetadataValue] = {"queue_ms": measured.queue_ms}
        if measured.processor_ms is not None:
            kept["processor_ms"] = list(measured.processor_ms)
        times = measured.times if self.per_step else measured.times.without_steps()
        return MeasuredAnswer(text=self._text(measured.answer), times=times, request=request, kept=kept)

    def answers(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> Iterator[BatchedAnswer]:
        """Yield every question's answer under every configuration, all given to the engine together."""
        started = time.perf_counter()
        asked = [(question, config) for question in questions for config in configs]
        found = self.engine.answer_all([*self._requests(questions, configs)])
        texts = [self._text(each) for each in found]
        seconds = (time.perf_counter() - started) / max(1, len(asked))
        for (question, config), text, each in zip(asked, texts, found, strict=True):
            yield BatchedAnswer(
                question=question,
                config=config,
                text=text,
                accuracy=score(question, text),
                output_tokens=len(each.token_ids),
                batch_size=len(asked),
                seconds=seconds,
            )

    def _requests(
        self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]
    ) -> Iterator[tuple[UnencodedRequest, KnobConfig]]:
        for question in questions:
            picture, tiers = question.picture, dict.fromkeys(config.tier for config in configs)
            requests = {tier: self.model.unencoded(picture, question.prompt, tier) for tier in tiers}
            yield from ((requests[config.tier], config) for config in configs)

    def _text(self, answer: EngineAnswer) -> str:
        return self.model.decode(torch.tensor(answer.token_ids))
