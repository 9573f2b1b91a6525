"""A server with the page, budgets and a synthetic engine, on a port of this machine: what it takes is slept, not computed."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import uvicorn
from serving_desk import chat, event, new_desk, table

from paceline.page.files import page_files
from paceline.records import KnobConfig
from paceline.serving.middleware import CURRENT, BudgetMiddleware, received_parts

ANSWERS = {"low": "4 8", "medium": "4 8 2", "high": "4 8 2 0", None: "I see no picture."}
# latencies in ms and accuracies, synthetic: long beside what a busy machine adds
PAGE_CONFIGS = {
    KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks): (
        5 * (12.0 * (1 + tier_idx) ** 1.5 + top_k + blocks / 2),
        0.4 + 0.15 * tier_idx + 0.01 * top_k + 0.01 * blocks,
    )
    for tier_idx, tier in enumerate(("low", "medium", "high"))
    for top_k in (2, 8)
    for blocks in (8, 16)
}


class SyntheticServer:
    """An ASGI application with the routes of Paceline's servers; `slowed` multiplies what the engine takes."""

    def __init__(
        self,
        *,
        configs=PAGE_CONFIGS,
        calibration=50,
        lists_recent=True,
        alpha=0.05,
        budgets=True,
        answers=ANSWERS,
        model="synthetic",
    ):
        self.configs = configs
        self.desk = new_desk(controllers={"ttft": table(configs)}, alpha=alpha)
        for _ in range(calibration):
            self.desk.alone["ttft"].scores.pooled.observe(13.0, 10.0)
        self.more_reports = []
        self.lists_recent, self.budgets, self.answers, self.model = lists_recent, budgets, answers, model
        self.slowed, self.received, self.authorizations = 0.2, [], []
        self.budgeted = BudgetMiddleware(self.engine, self.desk)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.authorizations.append(dict(scope["headers"]).get(b"authorization"))
        page = page_files().get(scope["path"])
        if page is not None:
            await _answer(send, page.content, page.headers)
        elif scope["path"] == "/paceline/recent" and self.lists_recent:
            reports = self.more_reports + self.desk.recent_document()
            await _answer(send, json.dumps(reports).encode())
        elif scope["path"] == "/v1/models":
            await _answer(send, json.dumps({"data": [{"id": self.model}]}).encode())
        elif scope["path"] == "/health":
            await _answer(send, b"{}")
        elif scope["path"] == "/metrics" or (scope["path"] == "/v1/chat/completions" and self.budgets):
            await self.budgeted(scope, receive, send)
        else:
            await self.engine(scope, receive, send)

    async def engine(self, scope, receive, send):
        if scope["path"] == "/metrics":
            await _answer(send, b"", {"content-type": "text/plain"})
            return
        if scope["path"] != "/v1/chat/completions":
            await _answer(send, b'{"error": {"message": "no such path"}}', status=404)
            return
        fields = json.loads(b"".join(await received_parts(receive)))
        self.received.append(fields)
        tier, seconds = self.cost(fields)
        await asyncio.sleep(self.slowed * seconds)
        times = CURRENT.get()
        if times is not None:
            times.queue_ms, times.prefill_ms = 0.1 * seconds * 1e3, 0.8 * self.slowed * seconds * 1e3
            times.first_token_wall = time.time()
        words = self.answers[tier]
        if not fields.get("stream"):
            body = {"choices": [{"message": {"content": words}}], "usage": {"completion_tokens": len(words)}}
            await _answer(send, json.dumps(body).encode())
            return
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
        await send(start)
        parts = [event(choices=[{"delta": {"role": "assistant", "content": ""}}])]
        parts += [event(choices=[{"delta": {"content": f"{word} "}}]) for word in words.split()]
        if (fields.get("stream_options") or {}).get("include_usage"):
            parts.append(event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": len(parts)}))
        for part in [*parts, b"data: [DONE]\n\n"]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0.002)
        await send({"type": "http.response.body", "body": b""})

    def cost(self, fields):
        extra, kwargs = fields.get("vllm_xargs") or {}, fields.get("mm_processor_kwargs")
        if not extra:
            return ("high", 0.05) if "image_url" in json.dumps(fields["messages"]) else (None, 0.01)
        tokens = (kwargs or {}).get("size", {}).get("longest_edge")
        tier = {10: "low", 40: "medium", 90: "high"}.get(tokens)
        config = KnobConfig(
            tier=tier or "low", top_k=extra["paceline_top_k"], num_active_blocks=extra["paceline_active_blocks"]
        )
        return tier, self.configs[config][0] / 1e3


async def _answer(send, body, headers=None, status=200):
    given = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(name.encode(), value.encode()) for name, value in given.items()]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(app):
    """Serve an ASGI application from a thread of this process; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", loop="asyncio", timeout_graceful_shutdown=1))
    ready = threading.Event()
    started = server.startup

    async def startup(sockets=None):
        await started(sockets)
        ready.set()

    server.startup = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def ask_over_http(address, budget_ms, **fields):
    """Ask a server and return its answer's bytes; an error's body where it refuses."""
    body = json.dumps(chat(budget_ms, **fields)).encode()
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.read()
