"""The reference engine: one step after another, each formed by the rules' own objects; as slow as it is plain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.schedule.requests import DecodeLoad
from paceline.schedule.step_log import PrefillChunk
from paceline.simulate.choosing import EngineState, ExecutedSteps, PromptColumns, executed_steps
from paceline.simulate.engine_settings import VIDUR, SimulatedEngine
from paceline.simulate.load import Integers, RequestColumns
from paceline.simulate.never import never_admitted
from paceline.simulate.result import SimulatedRun, StepColumns
from paceline.simulate.rules import RULES_BY_NAME, Request, Step
from paceline.simulate.step_work import StepCost, StepWork


def simulate_reference(load: RequestColumns, engine: SimulatedEngine, cost: StepCost) -> SimulatedRun:
    """Serve a load to its end; raises InvalidValueError for a request that can never be admitted."""
    simulation = Simulation(engine, cost)
    for row in load.rows():
        simulation.receive(*row)
    return simulation.finish()


class Simulation:
    """The state of a run: the clock, the rules with all requests that arrived, and what happened so far.

    Requests are received in the order of arrival. Nothing happens before `advance_before` or `finish` let it.
    """

    def __init__(self, engine: SimulatedEngine, cost: StepCost) -> None:
        self._cost = cost
        self._rules = RULES_BY_NAME[engine.rules](engine)
        self._requests: list[Request] = []
        self._arrivals: list[float] = []
        self._arrived = self._finished = 0
        self._now = 0.0
        self._first_scheduled: list[float] = []
        self._first_token: list[float] = []
        self._completion: list[float] = []
        self._execution: list[float] = []
        self._log = _StepLog()

    @property
    def waiting(self) -> int:
        """Requests that were received and are not admitted yet."""
        return len(self._requests) - self._arrived + self._rules.waiting_count

    def receive(
        self,
        arrival_seconds: float,
        prompt_tokens: int,
        output_tokens: int,
        prefill_factor: float = 1.0,
        ttft_budget_seconds: float = math.inf,
    ) -> None:
        """Take note of a request that arrives then; no step that starts before has been formed yet, or none ever will."""
        request = Request(
            index=len(self._requests),
            prompt_tokens=prompt_tokens,
            total_tokens=prompt_tokens + output_tokens,
            tokens=prompt_tokens,
            restart_tokens=prompt_tokens,
            prefill_factor=prefill_factor,
            ttft_budget_seconds=ttft_budget_seconds,
        )
        self._requests.append(request)
        self._arrivals.append(arrival_seconds)
        for column in (self._first_scheduled, self._first_token, self._completion):
            column.append(math.nan)
        self._execution.append(0.0)

    def advance_before(self, seconds: float) -> None:
        """Form and execute every step that starts before this time."""
        while self._finished < len(self._requests) and self._next_start() < seconds and self._advance(seconds):
            pass

    def state_at(self, seconds: float) -> EngineState:
        """Return the state once every step that starts before this time has been formed."""
        ready, coming = max(self._now, seconds), list[tuple[Request, float]]()
        for request in self._requests[self._arrived :]:
            coming.append((request, ready))
            ready += self._cost.request_seconds
        partial, waiting = self._rules.ordered(coming)
        decoding = [request.computed for request in self._rules.running if request.decodes]
        return EngineState(
            now_seconds=seconds,
            ready_seconds=ready,
            decodes=DecodeLoad(tokens=len(decoding), context_tokens=sum(decoding)),
            partial=self._prompts(partial),
            waiting=self._prompts(waiting),
            free_blocks=self._rules.free,
            progress=_Progress(self._log, self._requests, self._first_token, seconds),
        )

    def finish(self) -> SimulatedRun:
        """Serve all that was received and return the run."""
        while self._finished < len(self._requests):
            if not self._advance(math.inf):
                head = self._rules.head()
                raise never_admitted(self._rules.engine, head.index, head.tokens)
        return self._run()

    def _next_start(self) -> float:
        is_idle = not self._rules.running and not self._rules.waiting_count
        return max(self._now, self._arrivals[self._arrived]) if is_idle else self._now

    def _advance(self, until: float) -> bool:
        """Form and execute one step, or go on to the next arrival when none can be formed.

        False when there is none, and when requests that had to be received have held the step up until that time.
        """
        number = len(self._log.started)
        closes = self._cost.queue_closes_seconds(number, self._next_start())
        while self._arrived < len(self._arrivals) and self._arrivals[self._arrived] <= closes:
            self._rules.queue(self._requests[self._arrived], closes)
            self._arrived += 1
            closes += self._cost.request_seconds
        self._now = self._cost.start_seconds(number, closes)
        if self._cost.request_seconds and self._now >= until:
            return False
        step = self._rules.step()
        if step.decoding or step.chunks:
            self._execute(step)
        elif step.preempted or self._rules.retries(step):
            self._log.note_preempted(step)
        elif self._arrived < len(self._arrivals):
            self._now = self._arrivals[self._arrived]
        else:
            return False
        return True

    def _execute(self, step: Step) -> None:
        work = _work(step, self._rules.engine)
        seconds = self._seconds(step, work)
        served = [*((request, 1) for request in step.decoding), *step.chunks]
        for request, _ in served:
            self._execution[request.index] += seconds
            if math.isnan(self._first_scheduled[request.index]):
                self._first_scheduled[request.index] = self._now
        used = self._rules.engine.usable_blocks - self._rules.free
        self._log.add(step, work, self._now, seconds, (self._rules.waiting_count, len(self._rules.running), used))
        self._now += seconds
        for request, tokens in served:
            self._progress(request, tokens)
        self._rules.running[:] = [request for request in self._rules.running if request.blocks]

    def _seconds(self, step: Step, work: StepWork) -> float:
        """Return how long a step takes: what its chunks add to its decodes is shared by the prompts' own factors."""
        number = len(self._log.started)
        seconds = self._cost.seconds(number, work)
        tokens, weighted = 0, 0.0
        for request, chunk in step.chunks:
            tokens += chunk
            weighted += request.prefill_factor * chunk
        share = weighted / tokens if tokens else 1.0
        if share == 1.0:
            return seconds
        decodes = StepWork(decodes=work.decodes, decode_context_tokens=work.decode_context_tokens)
        alone = self._cost.seconds(number, decodes) if work.decodes else 0.0
        return alone + share * (seconds - alone)

    def _prompts(self, requests: Sequence[Request]) -> PromptColumns:
        def integers(name: str) -> Integers:
            return np.array([getattr(request, name) for request in requests], dtype=np.int64)

        return PromptColumns(
            number=integers("index"),
            prompt_tokens=integers("prompt_tokens"),
            remaining_tokens=integers("missing"),
            context_tokens=integers("computed"),
            arrival_seconds=np.array([self._arrivals[request.index] for request in requests], dtype=np.float64),
            prefill_factor=np.array([request.prefill_factor for request in requests], dtype=np.float64),
            resumed=integers("preemptions") > 0,
            ttft_budget_seconds=np.array([request.ttft_budget_seconds for request in requests], dtype=np.float64),
        )

    def _progress(self, request: Request, tokens: int) -> None:
        """Count what a step computed for a request: when nothing is missing any more, it has generated a token."""
        request.computed += tokens
        if request.missing:
            return
        request.tokens += 1
        request.decodes = True
        if math.isnan(self._first_token[request.index]):
            self._first_token[request.index] = self._now
        if request.tokens == request.total_tokens:
            self._completion[request.index] = self._now
            self._rules.free += request.blocks
            request.blocks = 0
            self._finished += 1

    def _run(self) -> SimulatedRun:
        return SimulatedRun(
            load=RequestColumns(
                arrival_seconds=np.array(self._arrivals),
                prompt_tokens=np.array([request.prompt_tokens for request in self._requests], dtype=np.int64),
                output_tokens=np.array(
                    [request.total_tokens - request.prompt_tokens for request in self._requests], dtype=np.int64
                ),
                prefill_factor=RequestColumns.without_ones(
                    np.array([request.prefill_factor for request in self._requests], dtype=np.float64)
                ),
                ttft_budget_seconds=np.array([request.ttft_budget_seconds for request in self._requests]),
            ),
            first_scheduled_seconds=np.array(self._first_scheduled),
            first_token_seconds=np.array(self._first_token),
            completion_seconds=np.array(self._completion),
            execution_seconds=np.array(self._execution),
            preemptions=np.array([request.preemptions for request in self._requests], dtype=np.int64),
            restart_prompt_tokens=np.array([request.restart_tokens for request in self._requests], dtype=np.int64),
            step_count=len(self._log.started),
            steps=self._log.columns(),
        )


def _work(step: Step, engine: SimulatedEngine) -> StepWork:
    chunks: list[PrefillChunk] = []
    last_tokens: list[PrefillChunk] = []
    for request, tokens in step.chunks:
        is_last = request.missing == 1 and request.tokens > request.prompt_tokens and engine.rules != VIDUR
        chunk = PrefillChunk(tokens=tokens, context_tokens=request.computed)
        (last_tokens if is_last else chunks).append(chunk)
    return StepWork(
        decodes=len(step.decoding),
        decode_context_tokens=sum(request.computed for request in step.decoding),
        chunks=chunks,
        last_tokens=last_tokens,
    )


@dataclass(slots=True)
class _StepLog:
    """Steps as they are executed; those preempted by a step that serves nobody count to the next one that does."""

    started: list[float] = field(default_factory=list[float])
    seconds: list[float] = field(default_factory=list[float])
    counts: list[tuple[int, int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int, int]])
    chunks: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    chunk_offsets: list[int] = field(default_factory=lambda: [0])
    preempted: list[int] = field(default_factory=list[int])
    preempted_offsets: list[int] = field(default_factory=lambda: [0])
    spans: list[list[int]] = field(default_factory=list[list[int]])  # request, first step, end
    live: dict[int, int] = field(default_factory=dict[int, int])  # request: its span

    def note_preempted(self, step: Step) -> None:
        self.preempted += [request.index for request in step.preempted]

    def add(self, step: Step, work: StepWork, now: float, seconds: float, held: tuple[int, int, int]) -> None:
        """Write a step down; `held` counts those who wait, those who run, and their blocks."""
        number = len(self.started)
        self.started.append(now)
        self.seconds.append(seconds)
        self.counts.append((work.decodes, work.decode_context_tokens, *held))
        self.chunks += [(request.index, tokens, request.computed) for request, tokens in step.chunks]
        self.chunk_offsets.append(len(self.chunks))
        self.note_preempted(step)
        self.preempted_offsets.append(len(self.preempted))
        before, self.live = self.live, {}
        for request in step.decoding:
            span = before.get(request.index, -1)
            if span < 0 or self.spans[span][2] != number:
                span = len(self.spans)
                self.spans.append([request.index, number, number])
            self.spans[span][2] = number + 1
            self.live[request.index] = span

    def columns(self) -> StepColumns:
        counts, chunks, spans = (
            _integer_columns(self.counts, 5),
            _integer_columns(self.chunks, 3),
            _integer_columns(self.spans, 3),
        )
        return StepColumns(
            started_seconds=np.array(self.started),
            seconds=np.array(self.seconds),
            decode_tokens=counts[0],
            decode_context_tokens=counts[1],
            waiting=counts[2],
            running=counts[3],
            used_blocks=counts[4],
            chunk_offsets=np.array(self.chunk_offsets, dtype=np.int64),
            chunk_request=chunks[0],
            chunk_tokens=chunks[1],
            chunk_context_tokens=chunks[2],
            preempted_offsets=np.array(self.preempted_offsets, dtype=np.int64),
            preempted_request=np.array(self.preempted, dtype=np.int64),
            decode_request=spans[0],
            decode_first_step=spans[1],
            decode_end_step=spans[2],
        )


@dataclass(frozen=True, slots=True)
class _Progress:
    """What a run had done by a time, for a chooser."""

    log: _StepLog
    requests: Sequence[Request]
    first_token: Sequence[float]
    until: float

    def first_token_seconds(self, number: int) -> float:
        """Return when a request had its first token; NaN while it has none."""
        seconds = self.first_token[number]
        return seconds if seconds <= self.until else math.nan

    def executed(self, first: int) -> ExecutedSteps:
        """Return the steps from number `first` on that have ended."""
        log, end = self.log, len(self.log.started)
        while end > first and log.started[end - 1] + log.seconds[end - 1] > self.until:
            end -= 1
        begins = log.chunk_offsets[min(first, end)]
        chunks = _integer_columns(log.chunks[begins : log.chunk_offsets[end]], 3)
        counts = _integer_columns(log.counts[first:end], 5)
        factors = [self.requests[request].prefill_factor for request in chunks[0].tolist()]
        return executed_steps(
            seconds=np.array(log.seconds[first:end], dtype=np.float64),
            decode_tokens=counts[0],
            decode_context_tokens=counts[1],
            chunk_ends=np.array(log.chunk_offsets[first + 1 : end + 1], dtype=np.int64) - begins,
            chunk_tokens=chunks[1],
            chunk_context_tokens=chunks[2],
            chunk_factors=np.array(factors, dtype=np.float64),
        )


def _integer_columns(rows: Sequence[Sequence[int]], width: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(len(rows), width).T)
