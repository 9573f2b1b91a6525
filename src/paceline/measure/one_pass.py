"""Measure one request in one call of `generate()`: every stage directly, every gap between them, nothing subtracted.

`generate()` encodes images before the first top-level forward, so the image encoder is marked at the method that it
calls on the base model, and prefill at the first decoder block. Marks in order:

    start | vision start, end | first block start | first forward end | decode start ... last forward end | end
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from paceline.errors import ModelError
from paceline.measure.clock import Clock
from paceline.measure.greedy import greedy, own_settings_aside
from paceline.measure.listener import Listener, Told
from paceline.measure.sampled import TokenSampler
from paceline.models.critical_section import held, replaced
from paceline.models.knobs import applied
from paceline.models.loading import PreparedRequest, VisionLanguageModel
from paceline.models.structure import ModelParts
from paceline.models.vision_language import UnencodedRequest
from paceline.records import KnobConfig, MetadataValue, Sampling, StageTimes


@dataclass(slots=True)
class _Marks:
    """The moments of one pass, in the clock's own units."""

    vision_starts: list[Any] = field(default_factory=list[Any])
    vision_ends: list[Any] = field(default_factory=list[Any])
    first_block_start: Any = None
    forward_starts: list[Any] = field(default_factory=list[Any])
    forward_ends: list[Any] = field(default_factory=list[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredAnswer:
    """The text of one request with its stage times and token counts; `sampling` with its seed, None where it was greedy.

    `kept` is what else a profile is to keep of it.
    """

    text: str
    times: StageTimes
    request: PreparedRequest | UnencodedRequest
    sampling: Sampling | None = None
    kept: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])


def answer_measured(
    model: VisionLanguageModel,
    picture: Image.Image,
    prompt: str,
    config: KnobConfig,
    *,
    ranking: Sequence[int],
    max_new_tokens: int,
    clock: Clock,
    per_step: bool = False,
    called_at: float | None = None,
) -> MeasuredAnswer:
    """Answer one question under `config` and measure it; preprocessing is timed apart, outside the total.

    `called_at` is the moment, in seconds of `time.perf_counter`, from which the caller waits for the first token.
    """
    return request_measured(
        model,
        partial(model.prepare, picture, prompt),
        config,
        ranking=ranking,
        max_new_tokens=max_new_tokens,
        clock=clock,
        per_step=per_step,
        called_at=called_at,
    )


def request_measured(
    model: VisionLanguageModel,
    prepare: Callable[[str | None], PreparedRequest],
    config: KnobConfig,
    *,
    ranking: Sequence[int],
    max_new_tokens: int,
    clock: Clock,
    per_step: bool = False,
    called_at: float | None = None,
    sampling: Sampling | None = None,
    listener: Listener | None = None,
    to_the_last: bool = False,
) -> MeasuredAnswer:
    """Answer the request that `prepare` encodes at a tier, as `answer_measured` does a question about one picture.

    Decoding is greedy, or by `sampling`; what is measured is the same. `listener` hears of each token and may end the answer.
    With `to_the_last` no end token ends it before `max_new_tokens`.
    """
    sampler = None if sampling is None else TokenSampler(sampling)
    started = time.perf_counter()
    request = prepare(config.tier)
    prepared = time.perf_counter()
    preprocess_ms = (prepared - started) * 1e3
    with applied(model.parts, config, ranking):
        waited_ms = (time.perf_counter() - prepared) * 1e3
        ids_S, times = measure_generate(
            model.parts,
            request.inputs,
            generation=greedy(model.parts.model, max_new_tokens, to_the_last=to_the_last),
            clock=clock,
            preprocess_ms=preprocess_ms,
            waited_ms=waited_ms,
            called_at=called_at,
            per_step=per_step,
            sampler=sampler,
            listener=listener,
        )
    drawn = None if sampler is None else sampler.sampling
    return MeasuredAnswer(text=model.decode(ids_S), times=times, request=request, sampling=drawn)


def measure_generate(
    parts: ModelParts,
    inputs: Mapping[str, torch.Tensor],
    *,
    generation: GenerationConfig,
    clock: Clock,
    preprocess_ms: float = 0.0,
    waited_ms: float = 0.0,
    called_at: float | None = None,
    per_step: bool = False,
    sampler: TokenSampler | None = None,
    listener: Listener | None = None,
) -> tuple[torch.Tensor, StageTimes]:
    """Call `generate()` once and return the new token ids (sequence) with their stage times.

    `inputs` is one request (batch 1); `sampler` draws its tokens, else the most probable are taken; `listener` hears of each.
    Raises ModelError when the pass did not have the stages expected of it, and what the listener raises.
    """
    marks = _Marks()
    told = None if listener is None else Told(listener, lambda: _until_first_token(marks, clock))
    with _marked(parts, marks, clock), own_settings_aside(parts.model):
        clock.settle()
        host_start = time.perf_counter()
        start = clock.mark()
        sequence_BL = _generate(parts.model, inputs, generation, sampler, told)
        end = clock.mark()
        clock.settle()
        total_ms = (time.perf_counter() - host_start) * 1e3
    ids_S = sequence_BL[0, inputs["input_ids"].shape[1] :]
    pictures = bool((inputs["input_ids"] == parts.image_token_id).any())
    _check_stages(marks, int(ids_S.shape[0]), pictures=pictures)
    times = _stage_times(marks, start, end, total_ms, clock, per_step)
    ahead_ms = None if called_at is None else (host_start - called_at) * 1e3
    return ids_S, replace(times, preprocess_ms=preprocess_ms, waited_ms=waited_ms, ahead_ms=ahead_ms)


@contextmanager
def _marked(parts: ModelParts, marks: _Marks, clock: Clock) -> Generator[None]:
    """Record the moments of a pass; the model is left as it was."""

    def block_starts(_module: nn.Module, _args: Any) -> None:
        if marks.first_block_start is None:
            marks.first_block_start = clock.mark()

    def forward_starts(_module: nn.Module, _args: Any) -> None:
        marks.forward_starts.append(clock.mark())

    def forward_ends(_module: nn.Module, _args: Any, _output: Any) -> None:
        marks.forward_ends.append(clock.mark())

    with ExitStack() as stack:
        stack.enter_context(held(parts.model, "marks"))
        stack.enter_context(_encoder_marked(parts, marks, clock))
        stack.callback(parts.blocks[0].register_forward_pre_hook(block_starts).remove)
        stack.callback(parts.model.register_forward_pre_hook(forward_starts).remove)
        stack.callback(parts.model.register_forward_hook(forward_ends).remove)
        yield


@contextmanager
def _encoder_marked(parts: ModelParts, marks: _Marks, clock: Clock) -> Generator[None]:
    owner, name = parts.image_encoder_owner, parts.image_encoder_name
    encode: Callable[..., Any] = getattr(owner, name)

    @wraps(encode)  # generate() reads the signature to know which inputs belong to the encoder
    def marked(*args: Any, **kwargs: Any) -> Any:
        marks.vision_starts.append(clock.mark())
        features = encode(*args, **kwargs)
        marks.vision_ends.append(clock.mark())
        return features

    with replaced(owner, name, marked):
        yield


def _generate(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    generation: GenerationConfig,
    sampler: TokenSampler | None,
    told: Told | None,
) -> torch.Tensor:
    drawing = {} if sampler is None else {"logits_processor": LogitsProcessorList([sampler])}
    telling = {} if told is None else {"stopping_criteria": StoppingCriteriaList([told])}
    return model.generate(**inputs, generation_config=generation, **drawing, **telling)


def _check_stages(marks: _Marks, output_tokens: int, *, pictures: bool) -> None:
    if len(marks.vision_ends) != int(pictures):
        raise ModelError(
            f"the image encoder ran {len(marks.vision_ends)} times in one generate(); expected once for a request with "
            "a picture, and never for one without"
        )
    if marks.first_block_start is None or len(marks.forward_ends) != output_tokens:
        raise ModelError(
            f"{len(marks.forward_ends)} forward passes gave {output_tokens} tokens; expected one a token: chunked prefill "
            "and assisted decoding cannot be measured in stages"
        )


def _until_first_token(marks: _Marks, clock: Clock) -> tuple[float, float]:
    """Return the milliseconds of vision and of LLM prefill once the first token's forward pass has ended."""
    vision_ms = clock.between_ms(marks.vision_starts[0], marks.vision_ends[0]) if marks.vision_ends else 0.0
    return vision_ms, clock.between_ms(marks.first_block_start, marks.forward_ends[0])


def _stage_times(marks: _Marks, start: Any, end: Any, total_ms: float, clock: Clock, per_step: bool) -> StageTimes:
    first_token, last_token = marks.forward_ends[0], marks.forward_ends[-1]
    decode_starts = marks.forward_starts[1:]
    step_edges = [*decode_starts, last_token]
    steps = [clock.between_ms(a, b) for a, b in pairwise(step_edges)] if per_step else []
    # without a picture there is no vision stage: all that precedes the first block stands before it
    seen = (marks.vision_starts[0], marks.vision_ends[0]) if marks.vision_ends else (marks.first_block_start,) * 2
    return StageTimes(
        preprocess_ms=0.0,
        before_vision_ms=clock.between_ms(start, seen[0]),
        vision_ms=clock.between_ms(*seen),
        vision_to_decoder_ms=clock.between_ms(seen[1], marks.first_block_start),
        llm_prefill_ms=clock.between_ms(marks.first_block_start, first_token),
        first_token_to_decode_ms=clock.between_ms(first_token, decode_starts[0]) if decode_starts else 0.0,
        decode_ms=clock.between_ms(decode_starts[0], last_token) if decode_starts else 0.0,
        after_last_step_ms=clock.between_ms(last_token, end),
        total_ms=total_ms,
        output_tokens=len(marks.forward_ends),
        decode_step_ms=tuple(steps),
    )
