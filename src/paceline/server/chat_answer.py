"""One chat completion: waited for, generated, and written as one JSON document or as a stream of events."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.errors import InvalidValueError, ModelError, PictureError, RequestRefusedError
from paceline.records import KnobConfig
from paceline.schedule.requests import PrefillRequest
from paceline.server.counts import Counts
from paceline.server.engine import Engine, Run, ended
from paceline.server.limits import Limits
from paceline.server.question import OUTCOME, Answered, AnswersQuestions, Caps, FirstToken, Outcome, Question
from paceline.serving.answer import refusal
from paceline.serving.middleware import FETCHED, RECEIVED, TICKET, TIMES
from paceline.serving.ticket import Ticket
from paceline.wire.report import error_body

logger = logging.getLogger("paceline.server")
LETTERS_A_TOKEN = 16  # three to five in texts, eight in deeply indented code


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What answers chats: a model, its turns, and the name it is served under."""

    name: str
    model: AnswersQuestions
    engine: Engine
    counts: Counts
    limits: Limits
    created: int = field(default_factory=lambda: int(time.time()))
    clock: Callable[[], float] = time.perf_counter
    wall: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with how it is to be answered: under which configuration, from when on, and how it is written.

    `patient_until` is when it would rather be refused than wait on, by the clock of receipts.
    """

    question: Question
    config: KnobConfig
    caps: Caps
    order: PrefillRequest
    stream: bool
    include_usage: bool
    patient_until: float | None = None


class ChatAnswer(Response):
    """Answers one chat, and ends it at its next token once its client has left."""

    def __init__(self, host: Host, asked: Asked) -> None:
        super().__init__()
        self.host, self.asked = host, asked
        self._id, self._created = asked.order.request_id, int(host.wall())
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        outcome: Outcome = scope.setdefault(OUTCOME, Outcome())
        outcome.request_id, outcome.streamed = self._id, self.asked.stream
        outcome.pictures, outcome.config = len(self.asked.question.pictures), self.asked.config
        outcome.times = scope.get(TIMES) or outcome.times
        outcome.times.fetch_ms = scope.get(FETCHED)
        answering = asyncio.ensure_future(self._answered(outcome, send))
        leaving = asyncio.ensure_future(_left(receive))
        given_up = "client_left"
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the server ends, and its grace is over
            given_up = "server_stopped"
            raise
        finally:
            answering.cancel()
            leaving.cancel()
            try:
                await ended(answering)
                await ended(leaving)
            finally:  # the server may end while a client that has left is waited for
                outcome.ended_seconds = self.host.clock()
                if answering.cancelled():
                    outcome.error = given_up
        if not answering.cancelled():
            answering.result()

    async def _answered(self, outcome: Outcome, send: Send) -> None:
        try:
            async with self._run(outcome) as run:
                if self.asked.stream:
                    await self._stream(run, outcome, send)
                else:
                    await self._whole(run, outcome, send)
        except RequestRefusedError as refused:
            await self._refuse(refused, outcome, send)
        except (InvalidValueError, ModelError, PictureError) as error:
            await self._refuse(RequestRefusedError(str(error), param="messages"), outcome, send)
        except TimeoutError:  # the client does not take its answer
            outcome.error = "client_stuck"
            raise
        except Exception as error:  # whatever a model may raise: this answer fails, and the server goes on
            logger.exception("request %s failed", self._id)
            refused = RequestRefusedError(
                f"the model failed on this request ({type(error).__name__}); ask again",
                status=503,
                code="engine_failed",
                headers={"retry-after": "1"},
            )
            await self._refuse(refused, outcome, send)

    @asynccontextmanager
    async def _run(self, outcome: Outcome) -> AsyncGenerator[Run[Answered]]:
        asked, engine = self.asked, self.host.engine
        patience = None
        if asked.patient_until is not None:
            patience = max(0.0, asked.patient_until - self.host.clock())
        async with engine.turn(asked.order, patience_seconds=patience):
            since_ms = 1e3 * (self.host.clock() - asked.order.arrival_seconds)
            outcome.times.started(since_ms - (outcome.times.fetch_ms or 0.0))
            work = partial(self.host.model.answer, asked.question, asked.config, asked.caps)
            async with engine.run(work) as run:
                yield run

    async def _texts(self, run: Run[Answered], outcome: Outcome) -> AsyncGenerator[str]:
        """Give the texts as they come, the first with its token, the last with what was held back."""
        async for piece in run.pieces():
            if isinstance(piece, FirstToken):
                times = outcome.times
                times.preprocess_ms, times.vision_ms = piece.preprocess_ms, piece.vision_ms
                times.prefill_ms = piece.prefill_ms
                times.prefilled_at(piece.seconds)
            else:
                yield piece
        answered = run.ended.result()
        outcome.finish_reason = answered.finish_reason
        outcome.prompt_tokens, outcome.completion_tokens = answered.prompt_tokens, answered.completion_tokens
        self.host.counts.finished(
            finish_reason=answered.finish_reason,
            prompt_tokens=answered.prompt_tokens,
            completion_tokens=answered.completion_tokens,
            seconds=self.host.clock() - self.asked.order.arrival_seconds,
            first_token_seconds=(outcome.times.first_token_seconds or 0.0) - self.asked.order.arrival_seconds,
        )
        yield answered.rest

    async def _whole(self, run: Run[Answered], outcome: Outcome, send: Send) -> None:
        text = "".join([text async for text in self._texts(run, outcome)])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": outcome.finish_reason}
        document = self._document("chat.completion", [choice], usage=run.ended.result().usage)
        body = json.dumps(document).encode()
        await self._start(send, b"application/json", [(b"content-length", str(len(body)).encode())])
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, run: Run[Answered], outcome: Outcome, send: Send) -> None:
        opening = self._event({"role": "assistant", "content": ""})
        async for text in self._texts(run, outcome):
            if not self._begun:
                await self._start(send, b"text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
                await _part(send, opening + self._event({"content": text}))
            elif text:
                await _part(send, self._event({"content": text}))
        ending = self._event({}, finish_reason=outcome.finish_reason)
        if self.asked.include_usage:
            ending += _event(self._document("chat.completion.chunk", [], usage=run.ended.result().usage))
        await _part(send, ending)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _refuse(self, refused: RequestRefusedError, outcome: Outcome, send: Send) -> None:
        outcome.error = refused.code
        self.host.counts.failed(refused.code)
        if not self._begun:
            await refusal(send, refused)
            return
        await send({"type": "http.response.body", "body": b"data: " + error_body(refused) + b"\n\ndata: [DONE]\n\n"})

    async def _start(self, send: Send, kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._begun = True
        told = [(b"content-type", kind), (b"x-request-id", self._id.encode()), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": told})

    def _event(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._document("chat.completion.chunk", [choice]))

    def _document(self, kind: str, choices: list[Any], **fields: Any) -> dict[str, Any]:
        named = {"id": self._id, "object": kind, "created": self._created, "model": self.host.name}
        return {**named, "choices": choices, **fields}


def asked_of(host: Host, question: Question, scope: Scope, *, low: bool, stream: bool, usage: bool) -> Asked:
    """Return how a question is to be answered: as its ticket says, or without a budget under all of the model."""
    ticket: Ticket | None = scope.get(TICKET)
    promise = None if ticket is None else ticket.promise
    letters = sum(len(str(message)) for message in question.messages)
    _require_room(host, letters + len(str(dict(question.template_arguments))))
    rough = 1 + letters // 4 + len(question.pictures) * host.model.largest_picture_tokens
    tokens = rough if promise is None else max(1, promise.text_tokens + promise.image_tokens)
    order = PrefillRequest(
        request_id=f"chatcmpl-{host.counts.number()}",
        queue_number=host.counts.accepted,
        arrival_seconds=scope.get(RECEIVED) or host.clock(),
        prompt_tokens=tokens,
        remaining_tokens=tokens,
        ttft_budget_seconds=None if ticket is None else ticket.queued_with_seconds,
    )
    whole = host.model.whole(low=low)
    until = None
    if promise is not None and promise.asked.on_infeasible == "refuse":
        until = order.arrival_seconds + promise.asked.ms / 1e3
    return Asked(
        question=question,
        config=whole if promise is None else promise.config,
        caps=None if ticket is None else ticket.caps or None,
        order=order,
        stream=stream,
        include_usage=usage,
        patient_until=until,
    )


def _require_room(host: Host, letters: int) -> None:
    """Raise RequestRefusedError (400) for a chat that is too long by far: counting its tokens would keep the model."""
    most = None if host.model.context is None else LETTERS_A_TOKEN * host.model.context
    if most is not None and letters > most:
        raise RequestRefusedError(
            f"the chat has {letters:,} letters, which no {host.model.context:,} tokens hold, this model's context: shorten it",
            code="context_length_exceeded",
            param="messages",
        )


async def _left(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"
