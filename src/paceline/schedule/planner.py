"""One engine step within a token budget: decodes first, then prefill chunks of all requests in one policy order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import takewhile

from paceline.schedule.encoder import EncoderBudget, EncoderUnderway
from paceline.schedule.policies import SortKey, request_order
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import StepLoad, StepTimeModel, largest_chunk, with_chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step computes: prefill tokens by request id (those with none are left out) and decode tokens.

    `admitted` counts the waiting requests that got a chunk; `predicted_ms` is None without a step-time model.
    """

    chunks: Mapping[str, int]
    decode_tokens: int
    prefill_tokens: int
    admitted: int
    predicted_ms: float | None


def plan_step(
    *,
    settings: PlannerSettings,
    decodes: DecodeLoad,
    partial: Sequence[PrefillRequest],
    waiting: Iterable[PrefillRequest],
    room: int,
    step_time: StepTimeModel | None = None,
    encoder: EncoderBudget | None = None,
) -> StepPlan:
    """Plan one step: decodes, then chunks in policy order over partly prefilled and waiting requests alike.

    `waiting` comes in policy order and may be lazy: it is read no further than one beyond those admitted. At most
    `room` of them are admitted. A request that gets nothing for want of budget ends the step, so that none behind it
    passes it. Partly prefilled requests go on past a waiting one for three reasons only: no room, `max_partial_prefills`,
    and an encoder that takes none of its images; no other waiting request passes it then. A partly prefilled request
    whose next image the encoder does not take is passed by all: those that hold the encoder's room must get on, or it
    never frees. `encoder` is None where images cost nothing, or are not known. Raises InvalidValueError for a target
    without a step-time model.
    """
    if step_time is None:
        settings.require_model(None)
    step = _StepUnderway(settings, decodes, step_time, encoder, partial_count=len(partial), room=room)
    for _, is_new, request in _in_order(step, partial, waiting):
        wanted = step.wanted(request)
        chunk = step.encoder.reach(request.images, request.context_tokens, wanted)
        held_back = chunk < request.remaining_tokens and step.partial_limit_reached
        if is_new and (held_back or (wanted and not chunk)):
            step.admits_more = False
        elif wanted == 0:
            break
        elif chunk:
            step.add(request, chunk, is_new=is_new)
    return step.plan()


def _in_order(
    step: "_StepUnderway", partial: Sequence[PrefillRequest], waiting: Iterable[PrefillRequest]
) -> Iterator[tuple[SortKey, bool, PrefillRequest]]:
    """Yield (key, is waiting, request) in one order, lazily; the waiting ones end when the step admits no more."""
    key_of = request_order(step.settings.policy, step.settings.weights)
    started = sorted(((key_of(request), False, request) for request in partial), key=_first_two)
    new = ((key_of(request), True, request) for request in waiting)
    return merge(started, takewhile(lambda _: step.admits_more, new), key=_first_two)


def _first_two(entry: tuple[SortKey, bool, PrefillRequest]) -> tuple[SortKey, bool]:
    return entry[:2]


class _StepUnderway:
    """A step while chunks are added to it."""

    __slots__ = (
        "_admitted",
        "_limit_ms",
        "_load",
        "_model",
        "_open",
        "_room",
        "admits_more",
        "chunks",
        "encoder",
        "settings",
    )

    def __init__(
        self,
        settings: PlannerSettings,
        decodes: DecodeLoad,
        model: StepTimeModel | None,
        encoder: EncoderBudget | None,
        *,
        partial_count: int,
        room: int,
    ) -> None:
        self.settings, self._model = settings, model
        self._load = StepLoad(
            decode_tokens=min(decodes.tokens, settings.chunk_size),
            decode_context_tokens=decodes.context_tokens,
            prefill_tokens=0,
            prefill_attention_tokens=0.0,
        )
        self.encoder = EncoderUnderway(encoder, whole_images=settings.indivisible_tokens > 0)
        self._limit_ms: float | None = None  # of this step, once its first chunk is looked at
        self._open = partial_count  # requests that this step would leave partly prefilled
        self._room = room
        self._admitted = 0
        self.admits_more = room > 0
        self.chunks: dict[str, int] = {}

    @property
    def partial_limit_reached(self) -> bool:
        limit = self.settings.max_partial_prefills
        return limit is not None and self._open >= limit

    def wanted(self, request: PrefillRequest) -> int:
        """Return how many tokens of a request this step would take, whatever its encoder says; 0 when it must wait.

        Never 0 in an empty step.
        """
        used = self._load.decode_tokens + self._load.prefill_tokens
        left = self.settings.chunk_size - used
        most = min(request.remaining_tokens, left)
        fitting = self._fitting(request, most)
        if fitting < most:
            left = fitting  # time runs out before tokens do
        chunk = 0 if left < self.settings.min_chunk_threshold else _useful_chunk(self.settings, request, fitting)
        if chunk == 0 and used == 0:
            return _progress_chunk(self.settings, request, fitting, most)
        return chunk

    def add(self, request: PrefillRequest, chunk: int, *, is_new: bool) -> None:
        self.chunks[request.request_id] = chunk
        self.encoder.take(request.images, request.context_tokens, chunk)
        self._load = with_chunk(self._load, chunk_tokens=chunk, context_tokens=request.context_tokens)
        if is_new:
            self._admitted += 1
            self.admits_more = self._admitted < self._room
        self._open += is_new - (chunk == request.remaining_tokens)

    def plan(self) -> StepPlan:
        return StepPlan(
            chunks=self.chunks,
            decode_tokens=self._load.decode_tokens,
            prefill_tokens=self._load.prefill_tokens,
            admitted=self._admitted,
            predicted_ms=None if self._model is None else self._model.predict_ms(self._load),
        )

    def _fitting(self, request: PrefillRequest, most: int) -> int:
        target_ms, model = self.settings.target_time_ms, self._model
        if target_ms is None or model is None or not self._load.decode_tokens:
            return most  # nobody decodes: cutting would only add steps
        if self._limit_ms is None:
            useful = with_chunk(
                self._load, chunk_tokens=self.settings.useful_chunk(model), context_tokens=request.context_tokens
            )
            self._limit_ms = max(target_ms, model.predict_ms(useful))
        return largest_chunk(
            model, self._load, context_tokens=request.context_tokens, most_tokens=most, target_ms=self._limit_ms
        )


def _useful_chunk(settings: PlannerSettings, request: PrefillRequest, fitting: int) -> int:
    """Return the largest chunk of at most `fitting` tokens that is not too small and leaves no tail too small, or 0."""
    remaining, least = request.remaining_tokens, settings.min_chunk_tokens
    chunk = min(fitting, settings.max_chunk_tokens or fitting)
    if chunk < remaining < chunk + least:  # the tail would be too small: take it along, or leave it more
        chunk = remaining if fitting == remaining else remaining - least
    too_small = chunk < max(least, _indivisible(settings, request)) and chunk < remaining
    return 0 if too_small else chunk


def _progress_chunk(settings: PlannerSettings, request: PrefillRequest, fitting: int, most: int) -> int:
    """Return a chunk for a step that would be empty by the rules: within the target if any is, else the smallest."""
    indivisible = _indivisible(settings, request)
    chunk = min(fitting, settings.max_chunk_tokens or fitting)
    if chunk >= max(1, indivisible):
        return chunk
    return min(most, max(1, settings.min_chunk_threshold, settings.min_chunk_tokens, indivisible))


def _indivisible(settings: PlannerSettings, request: PrefillRequest) -> int:
    return request.image_tokens_ahead if settings.indivisible_tokens else 0
