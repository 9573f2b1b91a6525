"""What an engine did: a record a step that executed, and one a request that finished, from stamps around the schedule.

Execution is timed from where `schedule()` returns to where `update_from_output()` begins, or from the previous step's
update where steps overlap (asynchronous scheduling, pipeline parallelism), so that the time a step waits behind another
counts once. A request executes as long as the steps it is in; of steps that it shares it gets the whole time.

A streaming session is a record a turn: what a turn brings is its prompt, what it answers its output, and the second
turn of session `a` is `a#2`.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import PrefillChunk, StepRecord
from paceline.vllm_plugin.line_log import LineLog
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
    used_blocks: int


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """One unfinished request, or turn of a session, over all of its attempts."""

    arrival_seconds: float
    first_scheduled_seconds: float
    preemptions_before: int
    first_token_seconds: float | None = None
    execution_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Session:
    """What the ended turns of a streaming session leave to the next one."""

    turns: int = 0
    known_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFlight:
    """A step until its output arrives, and what it is the time of: a session may be at its next turn by then."""

    step: ScheduledStep
    attempts: tuple[_Attempts, ...]


class EngineRecorder:
    """Turns stamps into StepRecords and RequestTimes and hands each on when it is complete.

    `engine` numbers the data-parallel engines of one run. A recorder that `may_stop` is given up when something in it
    fails, as serving must go on; any other raises, as its records are what the run is for.
    """

    def __init__(
        self,
        *,
        on_step: Callable[[StepRecord], None] | None = None,
        on_request: Callable[[RequestTimes], None] | None = None,
        on_close: Callable[[], None] | None = None,
        engine: int = 0,
        run: str | None = None,
        may_stop: bool = False,
    ) -> None:
        self.may_stop = may_stop
        self._on_step, self._on_request, self._on_close = on_step, on_request, on_close
        self._engine, self._run = engine, run
        self._in_flight: dict[int, _InFlight] = {}
        self._arrivals: dict[str, deque[float]] = {}
        self._attempts: dict[str, _Attempts] = {}
        self._sessions: dict[str, _Session] = {}
        self._updated_seconds = 0.0
        self._steps = 0

    def queued(self, request_id: str, *, arrival_seconds: float) -> None:
        """Take note of a request, or of a session's next turn, and when it arrived by the monotonic clock."""
        self._arrivals.setdefault(request_id, deque()).append(arrival_seconds)

    def scheduled(self, step: ScheduledStep, requests: Mapping[str, EngineRequest]) -> None:
        """Take note of a step that begins to execute."""
        for request_id in step.output.num_scheduled_tokens:
            if request_id not in self._attempts:
                self._attempts[request_id] = self._begun(requests[request_id], step.scheduled_seconds)
        attempts = tuple(self._attempts[request_id] for request_id in step.output.num_scheduled_tokens)
        self._in_flight[id(step.output)] = _InFlight(step=step, attempts=attempts)

    def executed(self, output: StepOutput, *, now_seconds: float) -> None:
        """Take note that a step's output has arrived."""
        done = self._in_flight.pop(id(output), None)
        if done is None:
            return
        started = max(done.step.returned_seconds, self._updated_seconds)
        self._updated_seconds = now_seconds
        seconds = now_seconds - started
        for attempts in done.attempts:
            attempts.execution_seconds += seconds
        number, self._steps = self._steps, self._steps + 1
        if self._on_step is not None:
            record = _step_record(done.step, number, started, seconds, engine=self._engine, run=self._run)
            self._on_step(record)

    def produced(self, requests: Iterable[EngineRequest], *, now_seconds: float) -> None:
        """Take note of the output tokens of requests, and of those that have ended."""
        for request in requests:
            attempts = self._attempts.get(request.request_id)
            if attempts is not None and attempts.first_token_seconds is None and request.num_output_tokens > 0:
                attempts.first_token_seconds = now_seconds
            if request.is_finished():
                if attempts is not None:
                    self._hand_on(request, attempts, now_seconds)
                self.forget((request.request_id,))

    def turn_ended(self, request: EngineRequest, *, now_seconds: float) -> None:
        """Take note that a streaming session's turn has its last token; the session may go on."""
        attempts = self._attempts.pop(request.request_id, None)
        if attempts is None:
            return
        if attempts.first_token_seconds is None and request.num_output_tokens > 0:
            attempts.first_token_seconds = now_seconds
        self._hand_on(request, attempts, now_seconds)
        session = self._sessions.setdefault(request.request_id, _Session())
        session.turns += 1
        # vLLM keeps what is computed: the last token, which is not, is dropped
        session.known_tokens = request.num_computed_tokens - request.num_output_placeholders

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drop what is known of requests: they have ended, or a client went away."""
        for request_id in request_ids:
            self._attempts.pop(request_id, None)
            self._arrivals.pop(request_id, None)
            self._sessions.pop(request_id, None)

    def close(self) -> None:
        """Take note that the engine ends."""
        if self._on_close is not None:
            self._on_close()

    def _begun(self, request: EngineRequest, scheduled_seconds: float) -> _Attempts:
        arrivals = self._arrivals.get(request.request_id)
        arrived = arrivals.popleft() if arrivals else scheduled_seconds
        return _Attempts(
            # a front end's clock may be ahead of this machine's
            arrival_seconds=min(arrived, scheduled_seconds),
            first_scheduled_seconds=scheduled_seconds,
            preemptions_before=request.num_preemptions,
        )

    def _hand_on(self, request: EngineRequest, attempts: _Attempts, now_seconds: float) -> None:
        if self._on_request is None or attempts.first_token_seconds is None or not request.num_output_tokens:
            return
        session = self._sessions.get(request.request_id, _Session())
        name = f"{request.request_id}#{session.turns + 1}" if session.turns else request.request_id
        times = RequestTimes(
            request_id=name,
            arrival_seconds=attempts.arrival_seconds,
            first_scheduled_seconds=attempts.first_scheduled_seconds,
            first_token_seconds=attempts.first_token_seconds,
            completion_seconds=now_seconds,
            execution_seconds=attempts.execution_seconds,
            prompt_tokens=request.num_prompt_tokens - session.known_tokens,
            output_tokens=request.num_output_tokens,
            preemptions=request.num_preemptions - attempts.preemptions_before,
        )
        self._on_request(times)


def file_recorder(logs: LogPaths, *, engine: int = 0) -> EngineRecorder | None:
    """Return a recorder that appends a JSON line each to the files; None when there is neither.

    Each line says which engine and which run it is of, as several may write to one file.
    """
    if logs.step_log is None and logs.request_log is None:
        return None
    run, closing = uuid4().hex[:8], ExitStack()
    steps, requests = (_opened(path, closing) for path in (logs.step_log, logs.request_log))
    origin = {"engine": engine, "run": run}
    return EngineRecorder(
        on_step=None if steps is None else lambda step: steps.append(step.line()),
        on_request=None if requests is None else lambda times: requests.append(json.dumps({**asdict(times), **origin})),
        on_close=closing.close,
        engine=engine,
        run=run,
        may_stop=True,
    )


def _opened(path: Path | None, closing: ExitStack) -> LineLog | None:
    if path is None:
        return None
    log = LineLog.open(path)
    closing.callback(log.close)
    return log


def _step_record(
    step: ScheduledStep, number: int, started_seconds: float, seconds: float, *, engine: int, run: str | None
) -> StepRecord:
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
        engine=engine,
        run=run,
        used_blocks=step.used_blocks,
    )
