"""What an engine did: a record a step that executed, and one a request that finished, from stamps around the schedule.

Execution is timed from where `schedule()` returns to where `update_from_output()` begins, or from the previous step's
update where steps overlap (asynchronous scheduling, pipeline parallelism), so that the time a step waits behind another
counts once. A request executes as long as the steps it is in; of steps that it shares it gets the whole time.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import PrefillChunk, StepRecord
from paceline.vllm_plugin.relied_on import EngineRequest, StepOutput
from paceline.vllm_plugin.settings import LogPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledStep:
    """A step as it was scheduled, until its output arrives; times are of the monotonic clock."""

    output: StepOutput  # kept so that its id stays its own until the step is done
    scheduled_seconds: float
    returned_seconds: float
    plan_us: float
    predicted_ms: float | None
    token_budget: int
    decode_tokens: int
    decode_context_tokens: int
    chunks: Mapping[str, PrefillChunk]
    decoding: tuple[str, ...]
    waiting: int
    running: int


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """One unfinished request, over all of its attempts."""

    arrival_seconds: float
    first_scheduled_seconds: float
    first_token_seconds: float | None = None
    execution_seconds: float = 0.0


class EngineRecorder:
    """Turns stamps into StepRecords and RequestTimes and hands each on when it is complete."""

    def __init__(
        self,
        *,
        on_step: Callable[[StepRecord], None] | None = None,
        on_request: Callable[[RequestTimes], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._on_step, self._on_request, self._on_close = on_step, on_request, on_close
        self._in_flight: dict[int, ScheduledStep] = {}
        self._attempts: dict[str, _Attempts] = {}
        self._updated_seconds = 0.0
        self._steps = 0

    def scheduled(
        self, step: ScheduledStep, requests: Mapping[str, EngineRequest], *, wall_minus_monotonic_seconds: float
    ) -> None:
        """Take note of a step that begins to execute."""
        self._in_flight[id(step.output)] = step
        for request_id in step.output.num_scheduled_tokens:
            if request_id not in self._attempts:
                arrival = requests[request_id].arrival_time - wall_minus_monotonic_seconds
                self._attempts[request_id] = _Attempts(
                    # the wall clock may be set between two readings of it
                    arrival_seconds=min(arrival, step.scheduled_seconds),
                    first_scheduled_seconds=step.scheduled_seconds,
                )

    def executed(self, output: StepOutput, *, now_seconds: float) -> None:
        """Take note that a step's output has arrived."""
        step = self._in_flight.pop(id(output), None)
        if step is None:
            return
        started = max(step.returned_seconds, self._updated_seconds)
        self._updated_seconds = now_seconds
        seconds = now_seconds - started
        for request_id in output.num_scheduled_tokens:
            if request_id in self._attempts:
                self._attempts[request_id].execution_seconds += seconds
        if self._on_step is not None:
            self._on_step(_step_record(step, self._steps, started, seconds))
        self._steps += 1

    def produced(self, requests: Iterable[EngineRequest], *, now_seconds: float) -> None:
        """Take note of the output tokens of requests, and of those that have ended."""
        for request in requests:
            attempts = self._attempts.get(request.request_id)
            if attempts is None:
                continue
            if attempts.first_token_seconds is None and request.num_output_tokens > 0:
                attempts.first_token_seconds = now_seconds
            if request.is_finished():
                self._finish(request, attempts, now_seconds)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drop requests that ended from outside: a client went away."""
        for request_id in request_ids:
            self._attempts.pop(request_id, None)

    def close(self) -> None:
        """Take note that the engine ends."""
        if self._on_close is not None:
            self._on_close()

    def _finish(self, request: EngineRequest, attempts: _Attempts, now_seconds: float) -> None:
        del self._attempts[request.request_id]
        if self._on_request is None or attempts.first_token_seconds is None:
            return
        times = RequestTimes(
            request_id=request.request_id,
            arrival_seconds=attempts.arrival_seconds,
            first_scheduled_seconds=attempts.first_scheduled_seconds,
            first_token_seconds=attempts.first_token_seconds,
            completion_seconds=now_seconds,
            execution_seconds=attempts.execution_seconds,
            prompt_tokens=request.num_prompt_tokens,
            output_tokens=request.num_output_tokens,
            preemptions=request.num_preemptions,
        )
        self._on_request(times)


def file_recorder(logs: LogPaths) -> EngineRecorder | None:
    """Return a recorder that appends a JSON line each to the files; None when there is neither."""
    if logs.step_log is None and logs.request_log is None:
        return None
    files = ExitStack()
    steps, requests = (_appending(path, files) for path in (logs.step_log, logs.request_log))
    return EngineRecorder(
        on_step=None if steps is None else lambda step: _write(steps, step.line()),
        on_request=None if requests is None else lambda times: _write(requests, json.dumps(asdict(times))),
        on_close=files.close,
    )


def _step_record(step: ScheduledStep, number: int, started_seconds: float, seconds: float) -> StepRecord:
    return StepRecord(
        step=number,
        started_seconds=started_seconds,
        execute_ms=1e3 * seconds,
        plan_us=step.plan_us,
        schedule_us=1e6 * (step.returned_seconds - step.scheduled_seconds),
        predicted_ms=step.predicted_ms,
        token_budget=step.token_budget,
        decode_tokens=step.decode_tokens,
        decode_context_tokens=step.decode_context_tokens,
        chunks=step.chunks,
        decoding=step.decoding,
        waiting=step.waiting,
        running=step.running,
        preempted=tuple(sorted(step.output.preempted_req_ids or ())),
    )


def _appending(path: Path | None, files: ExitStack) -> IO[str] | None:
    # a line at a time: a killed engine loses at most the line that it was writing
    return None if path is None else files.enter_context(path.open("a", encoding="utf-8", buffering=1))


def _write(file: IO[str], line: str) -> None:
    file.write(line + "\n")
