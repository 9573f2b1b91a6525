"""An engine that serves many requests at once, as vLLM is: its steps are the product's planner's, its memory has blocks.

An ASGI application behind the middleware, and steps in virtual time: decodes first, then chunks of prompts in the order of a
policy; a request whose next token has no block is preempted, and computes again what it had.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_engines import number_in, word
from virtual_loop import VirtualLoop

from paceline.schedule import DecodeLoad, LinearStepTime, PlannerSettings, PrefillRequest, StepLoad, plan_step
from paceline.schedule.policies import request_order
from paceline.serving.middleware import CURRENT

BLOCK = 16  # tokens
LARGEST = 90  # image tokens of a request without a plan
STEP_TIME = LinearStepTime(
    base_ms=4.0,
    per_decode_token_ms=0.2,
    per_decode_context_token_ms=0.001,
    per_prefill_token_ms=0.15,
    per_prefill_attention_token_ms=0.0002,
)


def share_of(top_k: int | None) -> float:
    """Return what a prompt's tokens cost under a top_k, beside all experts."""
    return 1.0 if top_k is None else 0.5 + top_k / 16


def alone_ms(tokens: int, top_k: int | None, chunk: int) -> float:
    """Return what a prompt takes that is alone in the engine."""
    total, context = 0.0, 0
    while context < tokens:
        part = min(chunk, tokens - context)
        load = StepLoad(prefill_tokens=part, prefill_attention_tokens=part * (context + part / 2))
        total, context = total + share_of(top_k) * STEP_TIME.predict_ms(load), context + part
    return total


@dataclass(eq=False, kw_only=True)
class Seat:
    """One request in the engine."""

    number: int
    prompt: int
    wanted: int
    top_k: int | None
    queue_number: int
    arrival: float
    budget: float | None
    times: Any
    pieces: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    computed: int = 0  # of its prompt and what it has said
    said: int = 0
    resumed: bool = False
    blocks: int = 0
    prefilled_tokens: int = 0  # in all steps together

    @property
    def length(self) -> int:
        return self.prompt + self.said

    @property
    def decodes(self) -> bool:
        return self.said > 0 and self.computed >= self.length - 1

    def order(self) -> PrefillRequest:
        return PrefillRequest(
            request_id=str(self.number),
            queue_number=self.queue_number,
            arrival_seconds=self.arrival,
            prompt_tokens=self.prompt,
            remaining_tokens=max(1, self.length - self.computed),
            context_tokens=self.computed,
            resumed=self.resumed,
            ttft_budget_seconds=self.budget,
        )


class BatchedEngine:
    """Answers chats as an engine's own server does; `stepped` is told each step that has ended."""

    def __init__(
        self, loop: VirtualLoop, settings: PlannerSettings, *, blocks: int, slow: Callable[[float], float], wrong: Any
    ) -> None:
        self.loop, self.settings, self.blocks, self._slow, self._wrong = loop, settings, blocks, slow, wrong
        self.free = blocks
        self.seats: list[Seat] = []
        self.entered = self.steps = 0
        self.stepped: Callable[[int, int, float], None] = lambda prefill, decode, ms: None
        self.on_enter: Callable[[Seat], None] = lambda seat: None
        self._stepping = False
        self._order = request_order(settings.policy, settings.weights)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        document = json.loads((await receive())["body"])
        seat = self._enter(document, CURRENT.get())
        answering = asyncio.ensure_future(self._answer(seat, bool(document.get("stream")), send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            leaving.cancel()
            self._abort(seat)
        if answering.done() and not answering.cancelled():
            answering.result()

    def _enter(self, document: dict[str, Any], times: Any) -> Seat:
        knobs, arguments = document.get("vllm_xargs") or {}, document.get("mm_processor_kwargs")
        pictures = json.dumps(document["messages"]).count('"image_url": {')
        a_picture = LARGEST if arguments is None else arguments["size"]["longest_edge"]
        words = len(f"request {number_in(document['messages'])}".split())
        budget = knobs.get("paceline_ttft_budget_ms")
        self.entered += 1
        seat = Seat(
            number=number_in(document["messages"]),
            prompt=words + a_picture * pictures,
            wanted=document["max_tokens"],
            top_k=knobs.get("paceline_top_k"),
            queue_number=self.entered,
            arrival=self.loop.now,
            budget=None if budget is None else budget / 1e3,
            times=times,
        )
        self.on_enter(seat)
        self.seats.append(seat)
        self._kick()
        return seat

    async def _answer(self, seat: Seat, streams: bool, send: Any) -> None:
        kind = b"text/event-stream" if streams else b"application/json"
        texts = []
        for place in range(seat.wanted):
            piece = await seat.pieces.get()
            if isinstance(piece, Exception):
                raise piece
            texts.append(piece)
            if streams and not place:
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
                await _event(send, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
            if streams:
                await _event(send, choices=[{"index": 0, "delta": {"content": piece}}])
        usage = {"prompt_tokens": seat.prompt, "completion_tokens": len(texts)}
        if streams:
            await _event(send, choices=[], usage=usage)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        body = json.dumps({"choices": [{"message": {"content": "".join(texts)}}], "usage": usage}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})

    def _abort(self, seat: Seat) -> None:
        if seat in self.seats:
            self.seats.remove(seat)
        self._give_back(seat)

    # steps

    def _kick(self) -> None:
        if not self._stepping and self.seats:
            self._stepping = True
            self.loop.call_soon(self._step)

    def _step(self) -> None:
        decoding = [seat for seat in self.seats if seat.decodes]
        for seat in list(decoding):  # the last that came gives way
            while seat in decoding and not self._holds(seat, seat.length + 1):
                victim = decoding[-1]
                decoding.remove(victim)
                self._preempt(victim)
        partial = [seat for seat in self.seats if seat.computed and not seat.decodes]
        waiting = sorted((seat for seat in self.seats if not seat.computed), key=lambda seat: self._order(seat.order()))
        decodes = DecodeLoad(tokens=len(decoding), context_tokens=sum(seat.length for seat in decoding))
        room = self._room(waiting)
        plan = plan_step(
            settings=self.settings,
            decodes=decodes,
            partial=[seat.order() for seat in partial],
            waiting=[seat.order() for seat in waiting],
            room=room,
            step_time=STEP_TIME,
        )
        by_number = {str(seat.number): seat for seat in (*partial, *waiting)}
        chunks = [(by_number[name], tokens) for name, tokens in plan.chunks.items()]
        self._check(plan, chunks, decoding, waiting)
        self._check_order(plan.chunks, partial, waiting[:room])
        if not chunks and not decoding:
            self._stepping = False
            if self.seats:
                self._wrong("bounded wait", f"a step does nothing for {len(self.seats)} requests")
            return
        for seat, _ in chunks:
            if not self._holds(seat, seat.length):
                self._wrong("nothing is left at rest", f"request {seat.number} was admitted without memory")
        ms = self._ms(chunks, decodes) * self._slow(self.loop.now)
        self.steps += 1
        self.loop.call_later(ms / 1e3, self._ended, chunks, decoding, ms)

    def _check(self, plan: Any, chunks: list[tuple[Seat, int]], decoding: list[Seat], waiting: list[Seat]) -> None:
        tokens = sum(count for _, count in chunks)
        if tokens + len(decoding) > max(self.settings.chunk_size, len(decoding)) or tokens != plan.prefill_tokens:
            self._wrong(
                "a step keeps its budget", f"{tokens} tokens and {len(decoding)} decodes of {self.settings.chunk_size}"
            )
        for seat, count in chunks:
            if not 0 < count <= seat.length - seat.computed:
                self._wrong(
                    "a step keeps its budget", f"request {seat.number} gets {count} of {seat.length - seat.computed}"
                )
        new = [seat for seat, _ in chunks if not seat.computed]
        if new != waiting[: len(new)] or len(new) != plan.admitted:
            self._wrong("bounded wait", f"{[seat.number for seat in new]} pass {[seat.number for seat in waiting]}")
        held = sum(seat.blocks for seat in self.seats)
        if held + self.free != self.blocks:
            self._wrong("nothing is left at rest", f"{held} blocks are held and {self.free} free of {self.blocks}")

    def _check_order(self, chunks: Any, partial: list[Seat], waiting: list[Seat]) -> None:
        """Who gets nothing in a step is passed by nobody that it has room for."""
        ordered = sorted((*partial, *waiting), key=lambda seat: (self._order(seat.order()), not seat.computed))
        given = [str(seat.number) in chunks for seat in ordered]
        if any(given[given.index(False) :] if False in given else ()):
            self._wrong("bounded wait", f"{[seat.number for seat in ordered]} get {given} in a step")

    def _ms(self, chunks: list[tuple[Seat, int]], decodes: DecodeLoad) -> float:
        load = StepLoad(
            decode_tokens=decodes.tokens,
            decode_context_tokens=decodes.context_tokens if decodes.tokens else 0,
            prefill_tokens=sum(count for _, count in chunks),
            prefill_attention_tokens=sum(count * (seat.computed + count / 2) for seat, count in chunks),
        )
        alone = StepLoad(decode_tokens=load.decode_tokens, decode_context_tokens=load.decode_context_tokens)
        alone_ms = STEP_TIME.predict_ms(alone) if decodes.tokens else 0.0
        share = sum(share_of(seat.top_k) * count for seat, count in chunks) / max(1, load.prefill_tokens)
        return alone_ms + (share if chunks else 1.0) * (STEP_TIME.predict_ms(load) - alone_ms)

    def _ended(self, chunks: list[tuple[Seat, int]], decoding: list[Seat], ms: float) -> None:
        self._stepping = False
        for seat, count in chunks:
            seat.computed += count
            seat.prefilled_tokens += count
            if seat in self.seats and seat.computed >= seat.length:
                self._says(seat)
        for seat in decoding:
            if seat in self.seats:
                seat.computed += 1
                self._says(seat)
        self.stepped(sum(count for _, count in chunks), len(decoding), ms)
        self._kick()

    def _says(self, seat: Seat) -> None:
        first = not seat.said
        seat.said += 1
        seat.computed = seat.length - 1
        if first and seat.times is not None:
            self.loop.call_soon_threadsafe(seat.times.prefilled_at, self.loop.now)
        self.loop.call_soon_threadsafe(seat.pieces.put_nowait, word(seat.number, seat.said - 1))
        if seat.said == seat.wanted:
            self.seats.remove(seat)
            self._give_back(seat)

    # memory

    def _holds(self, seat: Seat, tokens: int) -> bool:
        """Take what a request lacks for so many tokens; False where there is not as much."""
        more = -(-tokens // BLOCK) - seat.blocks
        if more > self.free:
            return False
        if more > 0:
            seat.blocks, self.free = seat.blocks + more, self.free - more
        return True

    def _room(self, waiting: list[Seat]) -> int:
        left = self.free
        for place, seat in enumerate(waiting):
            left -= -(-(seat.length + 1) // BLOCK) - seat.blocks
            if left < 0:
                return place
        return len(waiting)

    def _preempt(self, seat: Seat) -> None:
        self._give_back(seat)
        seat.computed, seat.resumed = 0, True

    def _give_back(self, seat: Seat) -> None:
        self.free, seat.blocks = self.free + seat.blocks, 0


async def _event(send: Any, **fields: Any) -> None:
    await send({"type": "http.response.body", "body": f"data: {json.dumps(fields)}\n\n".encode(), "more_body": True})


async def _left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
