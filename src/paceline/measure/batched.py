"""Accuracy apart from latency: many questions in one call of `generate()`, and a tier's pictures encoded once for all of its
configurations.

Nothing is timed here: a batch has no latency of one request. Pictures of equal input shapes share a batch, prompts are padded
on the left. The image encoder sees no knob but the tier, so what it gave under a tier's first configuration serves the others.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from typing import Any, Protocol

import torch
from torch.nn.functional import pad
from transformers import GenerationConfig

from paceline.datasets import VisualQuestion, score
from paceline.errors import InvalidValueError
from paceline.measure.greedy import greedy, own_settings_aside
from paceline.models.critical_section import replaced
from paceline.models.knobs import applied
from paceline.models.loading import PreparedRequest, VisionLanguageModel
from paceline.records import KnobConfig

MOST_IN_A_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedAnswer:
    """What one question was answered under one configuration, in a batch of `batch_size`; `accuracy` is None where the set is
    judged as a whole.

    `seconds` is the answer's share of the time that its batch took: no latency, but what the answer cost.
    """

    question: VisualQuestion
    config: KnobConfig
    text: str
    accuracy: float | None
    output_tokens: int
    batch_size: int
    seconds: float


class AnsweringHost(Protocol):
    """Answers many questions at once, for their accuracies."""

    def answers(self, questions: Sequence[VisualQuestion], configs: Sequence[KnobConfig]) -> Iterator[BatchedAnswer]:
        """Yield every question's answer under every configuration."""
        ...


def answer_batched(
    model: VisionLanguageModel,
    questions: Sequence[VisualQuestion],
    configurations: Sequence[KnobConfig],
    *,
    ranking: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[BatchedAnswer]:
    """Yield every question's answer under every configuration, batch by batch: all configurations of a batch before the next.

    A killed run has whole batches. Raises InvalidValueError for a batch of none, and what `prepare` and `applied` raise.
    """
    if not 1 <= batch_size <= MOST_IN_A_BATCH:
        raise InvalidValueError("batch_size", batch_size, f"a whole number from 1 to {MOST_IN_A_BATCH:,}")
    by_tier = {tier: [each for each in configurations if each.tier == tier] for tier in _tiers(configurations)}
    for start in range(0, len(questions), batch_size):
        some = questions[start : start + batch_size]
        for tier, configs in by_tier.items():
            yield from _answer_tier(model, some, tier, configs, ranking, max_new_tokens)


def _tiers(configurations: Sequence[KnobConfig]) -> list[str | None]:
    return list(dict.fromkeys(each.tier for each in configurations))


def _answer_tier(
    model: VisionLanguageModel,
    questions: Sequence[VisualQuestion],
    tier: str | None,
    configs: Sequence[KnobConfig],
    ranking: Sequence[int],
    max_new_tokens: int,
) -> Iterator[BatchedAnswer]:
    started = time.perf_counter()
    prepared = [(each, model.prepare(each.picture, each.prompt, tier)) for each in questions]
    prepared.sort(key=lambda pair: (_shapes(pair[1]), pair[1].inputs["input_ids"].shape[1]))
    generation = greedy(model.parts.model, max_new_tokens)
    for _, group in groupby(prepared, key=lambda pair: _shapes(pair[1])):
        alike = list(group)
        inputs = _joined([request for _, request in alike], int(generation.pad_token_id or 0))
        encoded: list[Any] = []
        for config in configs:
            with applied(model.parts, config, ranking), _encoded_once(model.parts.image_encoder_owner, encoded):
                new_BL = _generated(model.parts.model, inputs, generation)
            texts = [model.decode(ids_L) for ids_L in new_BL]
            seconds = (time.perf_counter() - started) / len(alike)
            for (question, _request), text, ids_L in zip(alike, texts, new_BL, strict=True):
                yield BatchedAnswer(
                    question=question,
                    config=config,
                    text=text,
                    accuracy=score(question, text),
                    output_tokens=_length(ids_L, generation.eos_token_id),
                    batch_size=len(alike),
                    seconds=seconds,
                )
            started = time.perf_counter()


def _generated(model: Any, inputs: dict[str, torch.Tensor], generation: GenerationConfig) -> torch.Tensor:
    with own_settings_aside(model):
        return model.generate(**inputs, generation_config=generation)[:, inputs["input_ids"].shape[1] :]


def _shapes(request: PreparedRequest) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of what does not run along the prompt: pictures that have them in common can be joined."""
    length = request.inputs["input_ids"].shape[1]
    return tuple(
        (name, tuple(value.shape))
        for name, value in sorted(request.inputs.items())
        if not _along_prompt(name, value, length)
    )


def _along_prompt(name: str, value: torch.Tensor, length: int) -> bool:
    return name.endswith(("_ids", "attention_mask")) and tuple(value.shape) == (1, length)


def _joined(requests: Sequence[PreparedRequest], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return the inputs of a batch: prompts padded on the left, the rest one after the other along its first dimension."""
    longest = max(each.inputs["input_ids"].shape[1] for each in requests)
    joined: dict[str, torch.Tensor] = {}
    for name, first in requests[0].inputs.items():
        values = [each.inputs[name] for each in requests]
        if _along_prompt(name, first, requests[0].inputs["input_ids"].shape[1]):
            fill = pad_token_id if name == "input_ids" else 0
            values = [pad(value, (longest - value.shape[1], 0), value=fill) for value in values]
        joined[name] = torch.cat(values)
    return joined


@contextmanager
def _encoded_once(owner: Any, kept: list[Any]) -> Generator[None]:
    """Let the image encoder's first result, which goes into `kept`, stand for all calls inside the block."""
    encode: Callable[..., Any] = owner.get_image_features

    @wraps(encode)  # generate() reads the signature to know which inputs belong to the encoder
    def once(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(encode(*args, **kwargs))
        return kept[0]

    with replaced(owner, "get_image_features", once):
        yield


def _length(ids_L: torch.Tensor, ends: int | list[int] | None) -> int:
    """Return the tokens of an answer up to its end token, that included; what follows is padding."""
    stops = torch.tensor([] if ends is None else ends, device=ids_L.device).reshape(-1)
    found = torch.isin(ids_L, stops).nonzero()
    return int(found[0]) + 1 if len(found) else int(ids_L.shape[0])
