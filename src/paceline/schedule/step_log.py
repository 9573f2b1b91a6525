"""The engine's step log: one JSON line for every step that executed."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paceline.errors import StepLogError
from paceline.json_document import parsed_json
from paceline.schedule.json_lines import parsed_lines
from paceline.schedule.step_time import StepLoad, with_chunk

KINDS: dict[str, type | tuple[type, ...]] = {
    "a whole number": int,
    "a whole number or null": (int, type(None)),
    "a number": (int, float),
    "a number or null": (int, float, type(None)),
    "a list": list,
    "an object": dict,
    "text": str,
    "text or null": (str, type(None)),
}
FIELDS = {
    "step": "a whole number",
    "started_seconds": "a number",
    "execute_ms": "a number",
    "plan_us": "a number",
    "schedule_us": "a number",
    "predicted_ms": "a number or null",
    "token_budget": "a whole number",
    "decode_tokens": "a whole number",
    "decode_context_tokens": "a whole number",
    "prefill_tokens": "a whole number",
    "prefill_attention_tokens": "a number",
    "chunks": "an object",
    "decoding": "a list",
    "waiting": "a whole number",
    "running": "a whole number",
    "preempted": "a list",
}
# what logs of earlier versions lack, with its kind and what stands for it
LATER_FIELDS: Mapping[str, tuple[str, int | None]] = {
    "engine": ("a whole number", 0),
    "run": ("text or null", None),
    "used_blocks": ("a whole number or null", None),
}
LARGEST = sys.float_info.max
DERIVED = ("prefill_tokens", "prefill_attention_tokens")  # written for readers, computed from the chunks here


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """The prompt tokens of one request that one step computed, and the context before them."""

    tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One executed step; `chunks` by request id, `decoding` and `preempted` hold request ids.

    `waiting` and `running` count requests once the step was planned; `predicted_ms` is None without a step-time model.
    The clock of `started_seconds` is the engine's, the same for all lines of a run. `engine` numbers the data-parallel
    engines that may write to one log, `run` tells one start of an engine from another; steps are numbered within both.
    `used_blocks` are those of the key-value cache that requests hold once the step was planned; None where not known.
    """

    step: int
    started_seconds: float
    execute_ms: float
    plan_us: float
    schedule_us: float
    predicted_ms: float | None
    token_budget: int
    decode_tokens: int
    decode_context_tokens: int
    chunks: Mapping[str, PrefillChunk]
    decoding: tuple[str, ...]
    waiting: int
    running: int
    preempted: tuple[str, ...]
    engine: int = 0
    run: str | None = None
    used_blocks: int | None = None

    @property
    def load(self) -> StepLoad:
        """What the step computed, as a step-time model takes it."""
        return step_load(
            self.decode_tokens, decode_context_tokens=self.decode_context_tokens, chunks=self.chunks.values()
        )

    def line(self) -> str:
        """Return the record as one JSON line, without its line break."""
        load = self.load
        cells = {name: getattr(self, name) for name in (*FIELDS, *LATER_FIELDS) if name not in DERIVED}
        cells["chunks"] = {name: [chunk.tokens, chunk.context_tokens] for name, chunk in self.chunks.items()}
        cells["prefill_tokens"] = load.prefill_tokens
        cells["prefill_attention_tokens"] = load.prefill_attention_tokens
        return json.dumps(cells, allow_nan=False)

    @staticmethod
    def from_line(line: str) -> "StepRecord":
        """Read one line back; keys that it does not know are ignored. Raises StepLogError with the field that is wrong."""
        try:
            cells = parsed_json(line)
        except ValueError as error:
            raise StepLogError(f"{line!r:.60} is not JSON ({error}); expected one object a line") from error
        fields = _typed(cells, "an object", "the line")
        values = {name: _field(fields, name, kind) for name, kind in FIELDS.items()}
        for name, (kind, missing) in LATER_FIELDS.items():
            values[name] = _field({name: missing, **fields}, name, kind)
        stated = {name: values.pop(name) for name in DERIVED}
        values["chunks"] = {name: _chunk(name, pair) for name, pair in values["chunks"].items()}
        for name in ("decoding", "preempted"):
            values[name] = tuple(_typed(each, "text", f"a request id of {name}") for each in values[name])
        record = StepRecord(**values)
        load = record.load
        for name, value in stated.items():
            if value != getattr(load, name):
                raise StepLogError(f"{name} is {value}; expected {getattr(load, name)}, as the chunks give")
        return record


def step_load(decode_tokens: int, *, decode_context_tokens: int, chunks: Iterable[PrefillChunk]) -> StepLoad:
    """Return what a step of these decodes and chunks computes, as a step-time model takes it."""
    load = StepLoad(decode_tokens=decode_tokens, decode_context_tokens=decode_context_tokens)
    for chunk in chunks:
        load = with_chunk(load, chunk_tokens=chunk.tokens, context_tokens=chunk.context_tokens)
    return load


def read_step_log(path: Path | str) -> tuple[StepRecord, ...]:
    """Return the records of a step log in its order; several engines and runs may have written to it.

    Torn lines, which killed engines leave, are left out and counted in a PacelineWarning. Raises StepLogError with the
    line and field that cannot be trusted, when steps of several engines or runs cannot be told apart, or when there is
    no record.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StepLogError(f"{path} cannot be read ({error}); expected a step log that an engine wrote") from error
    numbered = parsed_lines(text, path, lambda line, number: (number, _record(line, number, path)))
    if not numbered:
        raise StepLogError(f"{path} holds no step; expected one JSON line a step, from a run that executed some")
    latest: dict[tuple[int, str | None], int] = {}
    for number, record in numbered:
        before = latest.get((record.engine, record.run), -1)
        if record.step <= before:
            raise StepLogError(
                f"{path}, line {number}: step {record.step} of engine {record.engine} stands after its step {before}; "
                "expected rising steps, or lines that say which engine and run they are of: two of them wrote this log; "
                "give each a log of its own, or split the file before that line"
            )
        latest[record.engine, record.run] = record.step
    return tuple(record for _, record in numbered)


def _record(line: str, number: int, path: Path | str) -> StepRecord:
    try:
        return StepRecord.from_line(line)
    except StepLogError as error:
        raise StepLogError(f"{path}, line {number}: {error}; delete the line to read the rest") from error


def _chunk(name: str, pair: object) -> PrefillChunk:
    place = f"chunks.{name}"
    numbers = [_typed(each, "a whole number", place) for each in _typed(pair, "a list", place)]
    if len(numbers) != 2 or min(numbers) < 0:
        raise StepLogError(f"{place} is {numbers!r:.60}; expected [tokens, context tokens]")
    return PrefillChunk(tokens=numbers[0], context_tokens=numbers[1])


def _field(cells: dict[str, Any], name: str, kind: str) -> Any:
    if name not in cells:
        raise StepLogError(f"field {name} is missing; expected {kind}")
    value = _typed(cells[name], kind, name)
    if isinstance(value, int | float) and not 0 <= value <= LARGEST:  # NaN is not, either
        raise StepLogError(f"{name} is {value!r:.60}; expected {kind} of at least 0")
    return value


def _typed(value: object, kind: str, place: str) -> Any:
    if not isinstance(value, KINDS[kind]) or isinstance(value, bool):
        raise StepLogError(f"{place} is {value!r:.60}; expected {kind}")
    return cast(Any, value)
