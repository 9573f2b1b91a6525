"""A closed loop over plan_step for tests: arrivals, prefill, decoding and random preemption, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from paceline.schedule import (
    DecodeLoad,
    PlannerSettings,
    PolicyQueue,
    PrefillRequest,
    StepPlan,
    StepTimeModel,
    TraceRequest,
    plan_step,
    request_order,
)

STEP_SECONDS = 0.01


@dataclass(eq=False)
class Live:
    trace: TraceRequest
    remaining: int
    number: int
    context: int = 0
    generated: int = 0
    resumed: bool = False

    @property
    def record(self) -> PrefillRequest:
        budget = self.trace.ttft_budget_ms
        return PrefillRequest(
            request_id=self.trace.request_id,
            queue_number=self.number,
            arrival_seconds=self.trace.arrival_seconds,
            prompt_tokens=self.trace.prompt_tokens,
            remaining_tokens=self.remaining,
            context_tokens=self.context,
            resumed=self.resumed,
            ttft_budget_seconds=None if budget is None else budget / 1e3,
        )

    def preempt(self) -> None:
        self.remaining, self.context = self.trace.prompt_tokens + self.generated, 0
        self.resumed = True


@dataclass(frozen=True)
class Seen:
    """One step: what the planner was given, in full, and what it planned."""

    clock_seconds: float
    decodes: DecodeLoad
    partial: tuple[PrefillRequest, ...]
    waiting: tuple[PrefillRequest, ...]
    room: int
    plan: StepPlan


@dataclass
class ClosedLoop:
    settings: PlannerSettings
    trace: list[TraceRequest]
    max_running: int
    step_time: StepTimeModel | None = None
    preemptions: int = 0
    seed: int = 0
    finished: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        order = request_order(self.settings.policy, self.settings.weights)
        self.queue: PolicyQueue[Live] = PolicyQueue(lambda live: order(live.record))
        self.coming = sorted(self.trace, key=lambda each: -each.arrival_seconds)
        self.running: list[Live] = []
        self.random = Random(self.seed)
        self.clock_seconds = 0.0

    def steps(self) -> Iterator[Seen]:
        """Run to the end, yielding after every step."""
        while self.coming or self.queue or self.running:
            self._arrive()
            self._preempt_some()
            seen = self._plan()
            self._execute(seen.plan)
            yield seen

    def _arrive(self) -> None:
        if not self.queue and not self.running:
            self.clock_seconds = max(self.clock_seconds, self.coming[-1].arrival_seconds)
        while self.coming and self.coming[-1].arrival_seconds <= self.clock_seconds:
            trace = self.coming.pop()
            self.queue.push(Live(trace, trace.prompt_tokens, len(self.trace) - len(self.coming)))

    def _preempt_some(self) -> None:
        if self.running and self.preemptions and self.random.random() < 0.2:
            self.preemptions -= 1
            victim = self.running.pop(self.random.randrange(len(self.running)))
            victim.preempt()
            self.queue.push(victim)

    def _plan(self) -> Seen:
        decoding = [live for live in self.running if not live.remaining]
        partial = tuple(live.record for live in self.running if live.remaining)
        decodes = DecodeLoad(tokens=len(decoding), context_tokens=sum(live.context for live in decoding))
        room = self.max_running - len(self.running)
        plan = plan_step(
            settings=self.settings,
            decodes=decodes,
            partial=partial,
            waiting=(live.record for live in self.queue),
            room=room,
            step_time=self.step_time,
        )
        waiting = tuple(live.record for live in self.queue)
        return Seen(self.clock_seconds, decodes, partial, waiting, room, plan)

    def _execute(self, plan: StepPlan) -> None:
        decoding = [live for live in self.running if not live.remaining]
        self.random.shuffle(decoding)
        done = decoding[: plan.decode_tokens]
        for live in [*self.queue, *self.running]:
            if chunk := plan.chunks.get(live.trace.request_id):
                live.remaining, live.context = live.remaining - chunk, live.context + chunk
                if live in self.queue:
                    self.queue.remove(live)
                    self.running.append(live)
                if not live.remaining:
                    done.append(live)
        for live in done:
            live.generated += 1
            live.context += 1
            live.resumed = False
            if live.generated >= live.trace.output_tokens:
                self.running.remove(live)
                self.finished.append(live.trace.request_id)
        self.clock_seconds += STEP_SECONDS
