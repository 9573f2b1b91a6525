"""How long an engine step takes: what the planner asks of a model, and the linear model fitted on a step log."""

import math
from bisect import bisect_left
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

from paceline.errors import InvalidValueError, StepTimeError
from paceline.json_document import parsed_json

FIT = "fit one with `paceline tune step-time`"
WHOLE_STEP = "whole_step"  # key of the second set of coefficients in a model's file
PER_REQUEST = "per_request_ms"  # a key of that
CONFIGURATIONS = "configurations"  # key of the coefficients by `KnobConfig.step_key`


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """What one step computes; `prefill_attention_tokens` is the sum of chunk · (context + chunk / 2) over its chunks."""

    decode_tokens: int = 0
    decode_context_tokens: int = 0
    prefill_tokens: int = 0
    prefill_attention_tokens: float = 0.0


class StepTimeModel(Protocol):
    """Predicts a step's time; never less for a larger load. The step planner, and a simulated engine, run on it."""

    def predict_ms(self, load: StepLoad) -> float:
        """Return the time that a step of this load takes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearStepTime:
    """A step time that is a sum of non-negative terms: one a step, and one for each figure of its load."""

    base_ms: float
    per_decode_token_ms: float
    per_decode_context_token_ms: float
    per_prefill_token_ms: float
    per_prefill_attention_token_ms: float

    def __post_init__(self) -> None:
        for name, value in self.document().items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(name, value, "a finite number of at least 0")

    def predict_ms(self, load: StepLoad) -> float:
        """Return the predicted time of a step."""
        return (
            self.base_ms
            + self.per_decode_token_ms * load.decode_tokens
            + self.per_decode_context_token_ms * load.decode_context_tokens
            + self.per_prefill_token_ms * load.prefill_tokens
            + self.per_prefill_attention_token_ms * load.prefill_attention_tokens
        )

    def document(self) -> dict[str, float]:
        """Return the coefficients by name, ready for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def load(path: Path | str) -> "LinearStepTime":
        """Read the coefficients from a JSON file that may hold more; raises StepTimeError with what is wrong."""
        return _model(_document(path), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTime:
    """What moves a simulated clock: a `step` up to the start of the next, and what it takes to receive a request between two."""

    step: LinearStepTime
    per_request_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_request_ms) and self.per_request_ms >= 0):
            raise InvalidValueError(PER_REQUEST, self.per_request_ms, "a finite number of at least 0")

    def document(self) -> dict[str, float]:
        """Return the coefficients by name, ready for JSON."""
        return {**self.step.document(), PER_REQUEST: self.per_request_ms}

    @staticmethod
    def load(path: Path | str) -> "EngineTime":
        """Read it from the file of a step-time model, from a step's own time where that has no other; raises StepTimeError."""
        document = _document(path)
        whole = document.get(WHOLE_STEP)
        if whole is None:
            return EngineTime(step=_model(document, path))
        place = f"{path}: {WHOLE_STEP}"
        cells = {PER_REQUEST: 0.0, **_object(whole, place)}
        step, per_request_ms = _model(cells, path), _coefficient(cells, PER_REQUEST, path)
        try:
            return EngineTime(step=step, per_request_ms=per_request_ms)
        except InvalidValueError as error:
            raise StepTimeError(f"{place}: {error}; {FIT}") from error


def configuration_times(path: Path | str) -> dict[str, LinearStepTime]:
    """Read the models of single configurations by `KnobConfig.step_key`; none where the file has none.

    Each is of steps under that configuration alone, decodes among them. Raises StepTimeError.
    """
    place = f"{path}: {CONFIGURATIONS}"
    found = _object(_document(path).get(CONFIGURATIONS, {}), place)
    return {key: _model(_object(cells, f"{place}.{key}"), f"{place}.{key}") for key, cells in found.items()}


def largest_chunk(
    model: StepTimeModel, load: StepLoad, *, context_tokens: int, most_tokens: int, target_ms: float
) -> int:
    """Return the largest chunk of 0 to `most_tokens` that a step of `load` can take within the target.

    Bisection; every other probe interpolates, which meets a nearly linear model in five probes instead of eleven.
    """

    def step_ms(chunk: int) -> float:
        return model.predict_ms(with_chunk(load, chunk_tokens=chunk, context_tokens=context_tokens))

    fits, fits_ms = 0, model.predict_ms(load)
    exceeds, exceeds_ms = most_tokens, step_ms(most_tokens)
    if fits_ms > target_ms:
        return 0
    if exceeds_ms <= target_ms:
        return most_tokens
    interpolates = True
    while exceeds - fits > 1:
        share = (target_ms - fits_ms) / (exceeds_ms - fits_ms) if interpolates else 0.5
        chunk = min(max(fits + int(share * (exceeds - fits)), fits + 1), exceeds - 1)
        chunk_ms = step_ms(chunk)
        if chunk_ms <= target_ms:
            fits, fits_ms = chunk, chunk_ms
        else:
            exceeds, exceeds_ms = chunk, chunk_ms
        interpolates = not interpolates
    return fits


def useful_chunk(model: StepTimeModel, *, base_share: float, most_tokens: int) -> int:
    """Return the smallest chunk for which a step without it is at most `base_share` of a step with it alone.

    That is where the fixed cost of a step has become that small a part; `most_tokens` where no chunk gets there.
    """
    allowed_ms = model.predict_ms(StepLoad()) / base_share

    def too_small(chunk: int) -> bool:
        return model.predict_ms(with_chunk(StepLoad(), chunk_tokens=chunk, context_tokens=0)) < allowed_ms

    return min(most_tokens, 1 + bisect_left(range(1, most_tokens), True, key=lambda chunk: not too_small(chunk)))


def with_chunk(load: StepLoad, *, chunk_tokens: int, context_tokens: int) -> StepLoad:
    """Return the load with one prefill chunk more; its attention is the query-key pairs of a causal chunk."""
    attention = chunk_tokens * (context_tokens + chunk_tokens / 2)
    return StepLoad(
        decode_tokens=load.decode_tokens,
        decode_context_tokens=load.decode_context_tokens,
        prefill_tokens=load.prefill_tokens + chunk_tokens,
        prefill_attention_tokens=load.prefill_attention_tokens + attention,
    )


def _document(path: Path | str) -> dict[str, Any]:
    try:
        document = parsed_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StepTimeError(f"{path} cannot be read ({error.strerror}); {FIT}") from error
    except ValueError as error:
        raise StepTimeError(f"{path} is not a JSON document ({error}); {FIT}") from error
    return _object(document, str(path))


def _object(document: object, place: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise StepTimeError(f"{place} holds {document!r:.60}; expected an object of coefficients; {FIT}")
    return cast(dict[str, Any], document)


def _model(cells: dict[str, Any], path: Path | str) -> LinearStepTime:
    values = {each.name: _coefficient(cells, each.name, path) for each in fields(LinearStepTime)}
    try:
        return LinearStepTime(**values)
    except InvalidValueError as error:
        raise StepTimeError(f"{path}: {error}; {FIT}") from error


def _coefficient(cells: dict[str, Any], name: str, path: Path | str) -> float:
    value = cells.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StepTimeError(f"{path}: {name} is {value!r:.60}; expected a number of ms; {FIT}")
    return float(value)
