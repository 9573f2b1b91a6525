"""What a simulation leaves: when what happened to each request, and every step, in columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import PrefillChunk, StepRecord
from paceline.schedule.trace_request import TraceRequest
from paceline.simulate.load import Floats, Integers, RequestColumns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepColumns:
    """Every step; the chunks of step i stand at `chunk_offsets[i]` to `chunk_offsets[i + 1]` of the chunk columns.

    `preempted_offsets` are the same for preemptions. A request decodes in all steps from `decode_first_step` up to
    `decode_end_step`, excluded; it may have several such spans, which stand in the order in which an engine serves them.
    `waiting` and `running` count requests, and `used_blocks` the blocks that they hold, once the step was planned.
    """

    started_seconds: Floats
    seconds: Floats
    decode_tokens: Integers
    decode_context_tokens: Integers
    waiting: Integers
    running: Integers
    used_blocks: Integers
    chunk_offsets: Integers
    chunk_request: Integers
    chunk_tokens: Integers
    chunk_context_tokens: Integers
    preempted_offsets: Integers
    preempted_request: Integers
    decode_request: Integers
    decode_first_step: Integers
    decode_end_step: Integers

    def __len__(self) -> int:
        return len(self.started_seconds)

    @property
    def prefill_tokens(self) -> Integers:
        """Prompt tokens of each step."""
        sums = np.concatenate(([0], np.cumsum(self.chunk_tokens)))
        return sums[self.chunk_offsets[1:]] - sums[self.chunk_offsets[:-1]]

    def decoding(self) -> Iterator[list[int]]:
        """Yield the requests that decode in each step, in order."""
        begin: dict[int, list[int]] = {}
        for span, step in enumerate(self.decode_first_step.tolist()):
            begin.setdefault(step, []).append(span)
        ends, requests = self.decode_end_step.tolist(), self.decode_request.tolist()
        live: list[int] = []
        for step in range(len(self)):
            live = [span for span in live if ends[span] > step] + begin.get(step, [])
            yield [requests[span] for span in live]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedRun:
    """Times in seconds, one entry a request in each column.

    `restart_prompt_tokens` is the prompt of the last attempt: tokens generated before a preemption are part of it.
    `steps` is None when they were not asked for. `chosen` holds the candidate that served each request, None where there
    was no choice; the load's prompts and factors are the chosen ones.
    """

    load: RequestColumns
    first_scheduled_seconds: Floats
    first_token_seconds: Floats
    completion_seconds: Floats
    execution_seconds: Floats
    preemptions: Integers
    restart_prompt_tokens: Integers
    step_count: int
    steps: StepColumns | None
    chosen: Integers | None = None

    def request_times(self, requests: Sequence[TraceRequest]) -> tuple[RequestTimes, ...]:
        """Return a record a request, with the names and budgets of the trace that was simulated."""
        columns = (
            self.first_scheduled_seconds.tolist(),
            self.first_token_seconds.tolist(),
            self.completion_seconds.tolist(),
            self.execution_seconds.tolist(),
            self.preemptions.tolist(),
        )
        return tuple(
            RequestTimes(
                request_id=request.request_id,
                arrival_seconds=request.arrival_seconds,
                first_scheduled_seconds=scheduled,
                first_token_seconds=first,
                completion_seconds=completed,
                execution_seconds=executed,
                prompt_tokens=request.prompt_tokens,
                output_tokens=request.output_tokens,
                preemptions=preemptions,
                ttft_budget_ms=request.ttft_budget_ms,
            )
            for request, scheduled, first, completed, executed, preemptions in zip(requests, *columns, strict=True)
        )


def step_records(
    steps: StepColumns, names: Sequence[str], *, token_budget: int, engine: int = 0
) -> tuple[StepRecord, ...]:
    """Return the steps as a log would hold them; a plan's own time does not exist in virtual time."""

    def name(request: int) -> str:
        return names[request]

    starts, seconds = steps.started_seconds.tolist(), steps.seconds.tolist()
    counts = (steps.decode_tokens.tolist(), steps.decode_context_tokens.tolist())
    queues = (steps.waiting.tolist(), steps.running.tolist(), steps.used_blocks.tolist())
    chunks = list(
        zip(steps.chunk_request.tolist(), steps.chunk_tokens.tolist(), steps.chunk_context_tokens.tolist(), strict=True)
    )
    chunk_at, preempted_at = steps.chunk_offsets.tolist(), steps.preempted_offsets.tolist()
    preempted = steps.preempted_request.tolist()
    return tuple(
        StepRecord(
            step=step,
            started_seconds=starts[step],
            execute_ms=1e3 * seconds[step],
            plan_us=0.0,
            schedule_us=0.0,
            predicted_ms=None,
            token_budget=token_budget,
            decode_tokens=counts[0][step],
            decode_context_tokens=counts[1][step],
            chunks={
                name(request): PrefillChunk(tokens=tokens, context_tokens=context)
                for request, tokens, context in chunks[chunk_at[step] : chunk_at[step + 1]]
            },
            decoding=tuple(name(request) for request in decoding),
            waiting=queues[0][step],
            running=queues[1][step],
            preempted=tuple(sorted(name(each) for each in preempted[preempted_at[step] : preempted_at[step + 1]])),
            engine=engine,
            used_blocks=queues[2][step],
        )
        for step, decoding in enumerate(steps.decoding())
    )
