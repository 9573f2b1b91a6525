"""Which requests a step serves, and with how many tokens, under the rules of Vidur, of vLLM and of Paceline in vLLM.

`docs/simulate.md` states the rules; each class here is one set of them, over the same state.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paceline.schedule.planner import plan_step
from paceline.schedule.policies import request_order
from paceline.schedule.queue import PolicyQueue
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.simulate.engine_settings import PACELINE, VIDUR, VLLM, SimulatedEngine


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A request on its way: of `total_tokens` it has `tokens`, its prompt and what it generated; `computed` have keys
    and values in `blocks`. It `decodes` when one token is left to compute, the last that it generated."""

    index: int
    prompt_tokens: int
    total_tokens: int
    tokens: int
    restart_tokens: int  # what this attempt has to prefill
    computed: int = 0
    blocks: int = 0
    decodes: bool = False
    queue_number: int = 0
    queued_seconds: float = 0.0
    preemptions: int = 0
    prefill_factor: float = 1.0
    ttft_budget_seconds: float = math.inf

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one is generated."""
        return self.tokens - self.computed


@dataclass(slots=True)
class Step:
    """What a step serves, in the order of the engine's own loop, and whom it preempts, in order."""

    decoding: list[Request] = field(default_factory=list[Request])
    chunks: list[tuple[Request, int]] = field(default_factory=list[tuple[Request, int]])
    preempted: list[Request] = field(default_factory=list[Request])
    left: int = 0  # of the token budget

    def add(self, request: Request, tokens: int) -> None:
        """Serve a request."""
        if request.decodes:
            self.decoding.append(request)
        else:
            self.chunks.append((request, tokens))
        self.left -= tokens


class Rules(Protocol):
    """One set of rules; `running` holds blocks, decodes first, and the last of it is preempted first."""

    engine: SimulatedEngine
    running: list[Request]
    free: int

    @property
    def waiting_count(self) -> int:
        """How many requests wait."""
        ...

    def queue(self, request: Request, now_seconds: float) -> None:
        """Put a new request into the queue."""
        ...

    def head(self) -> Request:
        """Return the first of the queue."""
        ...

    def ordered(self, coming: Sequence[tuple[Request, float]]) -> tuple[list[Request], list[Request]]:
        """Return who is partly prefilled and who waits, in order, as if those who come were queued at these times."""
        ...

    def step(self) -> Step:
        """Form a step: take blocks, admit and preempt."""
        ...

    def retries(self, step: Step) -> bool:
        """Whether an empty step is followed by another one that may serve somebody though nothing else happens."""
        ...


class ServedAsTheyCome:
    """What rules without a policy share: memory, who runs, and a queue in the order of arrival."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine, self.free = engine, engine.usable_blocks
        self.running: list[Request] = []
        self._waiting: deque[Request] = deque()

    @property
    def waiting_count(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def queue(self, request: Request, now_seconds: float) -> None:  # noqa: ARG002
        """Queue last."""
        self._waiting.append(request)

    def head(self) -> Request:
        """Return the first of the queue."""
        return self._waiting[0]

    def ordered(self, coming: Sequence[tuple[Request, float]]) -> tuple[list[Request], list[Request]]:
        """Return who is partly prefilled and who waits, in order, as if those who come were queued at these times."""
        partial = [request for request in self.running if not request.decodes]
        return partial, [*self._waiting, *(request for request, _ in coming)]


class VidurRules(ServedAsTheyCome):
    """Vidur's sarathi scheduler (microsoft/vidur at 7d475133) with one stage.

    A prompt's blocks are taken at admission, which leaves the watermark; every decode wants a free block, even if it
    needs none; after a preemption others are admitted; and a victim that was partly prefilled loses the rest of its
    prompt, which is decoded instead.
    """

    def retries(self, step: Step) -> bool:  # noqa: ARG002
        """Never: whoever can be admitted is admitted at once."""
        return False

    def step(self) -> Step:
        """Serve decodes, then the partial prefill, then new requests strictly in order."""
        step = Step(left=self.engine.planner.chunk_size)
        position = 0
        while position < len(self.running) and self.running[position].decodes:
            if self._decode(self.running[position], step):
                position += 1
        for request in self.running[position:]:
            step.add(request, min(request.missing, step.left))
        while step.left and self._waiting and self._admits(self._waiting[0]):
            request = self._waiting.popleft()
            self.running.append(request)
            _take(self, request, request.tokens)
            step.add(request, min(request.missing, step.left))
        return step

    def _decode(self, request: Request, step: Step) -> bool:
        while self.free < 1:
            victim = self.running.pop()
            victim.tokens = victim.tokens if victim.decodes else victim.computed
            _preempt(self, victim, step)
            self._waiting.appendleft(victim)
            if victim is request:
                return False
        _take(self, request, request.tokens)
        step.add(request, 1)
        return True

    def _admits(self, request: Request) -> bool:
        needed = _blocks(self.engine, request.tokens)
        has_room = len(self.running) < self.engine.max_num_seqs
        return has_room and self.free - needed >= self.engine.watermark_blocks


class VllmRules(ServedAsTheyCome):
    """vLLM 0.32's scheduler: first come, first served, chunked prefill, no prefix cache, one step at a time.

    Blocks are taken for what a step computes; an admission wants all blocks of the prompt free, and the watermark while
    something runs; who is preempted keeps his tokens, goes to the head of the queue, and nobody is admitted in that step.
    """

    def retries(self, step: Step) -> bool:
        """After a preemption: the next step admits."""
        return bool(step.preempted)

    def step(self) -> Step:
        """Serve those that run in the order of admission, then admit in the order of queueing."""
        return _vllm_step(
            self, list(self._waiting), tokens_of=lambda request: request.missing, requeue=self._waiting.appendleft
        )

    def remove(self, request: Request) -> None:
        """Take an admitted request out of the queue."""
        self._waiting.remove(request)


class PacelineRules:
    """Paceline's scheduler in vLLM 0.32: a plan of `plan_step` says how many tokens each prompt gets, then vLLM's rules.

    While somebody is partly prefilled, a waiting request is offered to the plan only if its blocks fit beside those of
    the ones offered before it and of all that runs. Of a plan something always comes, unless a request outgrows the
    whole cache, which ends a run: what the plugin does then, for images and prefixes, is not needed here.
    """

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine, self.free = engine, engine.usable_blocks
        self.running: list[Request] = []
        order = request_order(engine.planner.policy, engine.planner.weights)
        self._key_of: Callable[[Request], tuple[float, ...]] = lambda request: order(_view(request))
        self._waiting: PolicyQueue[Request] = PolicyQueue(self._key_of)
        self._queued = 0

    @property
    def waiting_count(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def queue(self, request: Request, now_seconds: float) -> None:
        """Queue where the policy's key belongs."""
        request.queue_number, request.queued_seconds = self._queued, now_seconds
        self._queued += 1
        self._waiting.push(request)

    def head(self) -> Request:
        """Return the first by the policy."""
        return self._waiting.peek()

    def ordered(self, coming: Sequence[tuple[Request, float]]) -> tuple[list[Request], list[Request]]:
        """Return who is partly prefilled and who waits, by the policy, as if those who come were queued at these times."""
        for request, queued_seconds in coming:
            request.queue_number, request.queued_seconds = request.index, queued_seconds  # as `queue` will have it
        partial = sorted((request for request in self.running if not request.decodes), key=self._key_of)
        return partial, sorted([*self._waiting, *(request for request, _ in coming)], key=self._key_of)

    def retries(self, step: Step) -> bool:
        """After a preemption: the next step admits."""
        return bool(step.preempted)

    def step(self) -> Step:
        """Plan a step, then serve what vLLM's rules let through of the plan."""
        decoding = [request for request in self.running if request.decodes]
        partial = sorted((request for request in self.running if not request.decodes), key=self._key_of)
        self.running[:] = [*decoding, *partial]
        room = self.engine.max_num_seqs - len(self.running)
        by_name: dict[str, Request] = {}
        plan = plan_step(
            settings=self.engine.planner,
            decodes=DecodeLoad(tokens=len(decoding), context_tokens=sum(request.computed for request in decoding)),
            partial=[_view(request) for request in partial],
            waiting=self._offers(decoding, partial, by_name) if room else (),
            room=room,
            step_time=self.engine.target_model,
        )
        admitted = [request for name, request in by_name.items() if name in plan.chunks]

        def planned(request: Request) -> int:
            return request.missing if request.decodes else plan.chunks.get(str(request.index), 0)

        return _vllm_step(self, admitted, tokens_of=planned, requeue=self._waiting.push)

    def remove(self, request: Request) -> None:
        """Take an admitted request out of the queue."""
        self._waiting.remove(request)

    def _offers(
        self, decoding: list[Request], partial: list[Request], offered: dict[str, Request]
    ) -> Iterator[PrefillRequest]:
        free = self.free - self._running_blocks(decoding, partial) - self.engine.watermark_blocks if partial else None
        for request in self._waiting:
            if free is not None:
                free -= _blocks(self.engine, request.tokens)
                if free < 0:
                    return
            offered[str(request.index)] = request
            yield _view(request)

    def _running_blocks(self, decoding: list[Request], partial: list[Request]) -> int:
        """Return the blocks that running requests would take in this step, partial prefills before all new ones."""
        left = self.engine.planner.chunk_size - len(decoding)
        blocks = sum(_blocks(self.engine, request.tokens) - request.blocks for request in decoding)
        for request in partial:
            tokens = min(left, request.missing)
            blocks += _blocks(self.engine, request.computed + tokens) - request.blocks
            left -= tokens
        return blocks


RULES_BY_NAME: dict[str, Callable[[SimulatedEngine], Rules]] = {
    VIDUR: VidurRules,
    VLLM: VllmRules,
    PACELINE: PacelineRules,
}


def _vllm_step(
    rules: VllmRules | PacelineRules,
    candidates: Iterable[Request],
    *,
    tokens_of: Callable[[Request], int],
    requeue: Callable[[Request], None],
) -> Step:
    """Serve those that run in their order, then the candidates in theirs, each with at most `tokens_of` it."""
    step = Step(left=rules.engine.planner.chunk_size)
    position = 0
    while position < len(rules.running) and step.left:
        request = rules.running[position]
        tokens = min(tokens_of(request), step.left)
        if tokens and not _make_room(rules, request, tokens, step, requeue):
            return step
        if tokens:
            step.add(request, tokens)
        position += 1
    if step.preempted:
        return step
    for request in candidates:
        if not step.left or len(rules.running) == rules.engine.max_num_seqs:
            break
        needed = _blocks(rules.engine, request.tokens)
        if needed + (rules.engine.watermark_blocks if rules.running else 0) > rules.free:
            break
        rules.remove(request)
        rules.running.append(request)
        tokens = min(tokens_of(request), step.left)
        _take(rules, request, tokens)
        step.add(request, tokens)
    return step


def _make_room(
    rules: VllmRules | PacelineRules, request: Request, tokens: int, step: Step, requeue: Callable[[Request], None]
) -> bool:
    """Take a running request's blocks, preempting from the end for them; False when it is the victim itself."""
    while _blocks(rules.engine, request.computed + tokens) - request.blocks > rules.free:
        victim = rules.running.pop()
        _preempt(rules, victim, step)
        requeue(victim)
        if victim is request:
            return False
    _take(rules, request, request.computed + tokens)
    return True


def _take(rules: Rules, request: Request, tokens: int) -> None:
    """Let a request hold blocks for so many tokens."""
    more = _blocks(rules.engine, tokens) - request.blocks
    rules.free -= more
    request.blocks += more


def _preempt(rules: Rules, victim: Request, step: Step) -> None:
    rules.free += victim.blocks
    victim.blocks = victim.computed = 0
    victim.decodes = False
    victim.restart_tokens = victim.tokens
    victim.preemptions += 1
    step.preempted.append(victim)


def _blocks(engine: SimulatedEngine, tokens: int) -> int:
    return -(-tokens // engine.block_size)


def _view(request: Request) -> PrefillRequest:
    return PrefillRequest(
        request_id=str(request.index),
        queue_number=request.queue_number,
        arrival_seconds=request.queued_seconds,
        prompt_tokens=request.prompt_tokens,
        remaining_tokens=request.missing,
        context_tokens=request.computed,
        resumed=request.preemptions > 0,
        ttft_budget_seconds=None if request.ttft_budget_seconds == math.inf else request.ttft_budget_seconds,
    )
