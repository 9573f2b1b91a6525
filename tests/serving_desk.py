"""A desk over a synthetic table and sizes of its own, and an ASGI application that answers as an engine's server does."""

import asyncio
import base64
import io
import json
from itertools import pairwise

from PIL import Image

from paceline.control.table import LookupTable
from paceline.control.table_entry import TableEntry, TableMetadata
from paceline.models.families.plans import TierPlan
from paceline.records import TIERS, KnobConfig
from paceline.serving.desk import Desk
from paceline.serving.rewriting import KnobNames

NAMES = KnobNames(
    top_k="paceline_top_k", active_blocks="paceline_active_blocks", ttft_budget_ms="paceline_ttft_budget_ms"
)
CONFIGS = {  # latency in ms and accuracy: more of each costs more
    KnobConfig(tier=tier, top_k=top_k, num_active_blocks=16): (
        10.0 * (1 + tier_idx) + top_k,
        0.5 + 0.1 * tier_idx + 0.01 * top_k,
    )
    for tier_idx, tier in enumerate(TIERS)
    for top_k in (2, 8)
}
TOKENS = {"low": 10, "medium": 40, "high": 90}


class FakeSizes:
    tiers = TIERS
    smallest_cap = TOKENS[TIERS[0]]

    def text_tokens(self, messages, *, arguments=None):
        return sum(len(part.get("text", "").split()) for message in messages for part in message["content"])

    def plans(self, pictures, *, caps=None):
        cap = min((cap for cap in caps or () if cap is not None), default=None)
        capped = {tier: min(tokens, cap or tokens) for tier, tokens in TOKENS.items()}
        return {
            tier: TierPlan(tokens=tokens * len(pictures), arguments={"size": {"longest_edge": tokens}})
            for tier, tokens in capped.items()
        }

    def cap_under(self, width, height, arguments):
        return arguments["size"]["longest_edge"]


def table(configs=CONFIGS):
    return LookupTable(
        entries=[
            TableEntry(
                config=config, accuracy=accuracy, latency_ms=ms, num_samples=5, accuracy_std=0.0, latency_std_ms=0.0
            )
            for config, (ms, accuracy) in configs.items()
        ],
        metadata=TableMetadata(
            aggregation_method="mean",
            tolerance=0.05,
            latency_kind="ttft",
            datasets=("synthetic",),
            num_profiling_results=30,
        ),
    )


def new_desk(**settings):
    settings = {"controllers": {"ttft": table()}, "sizes": FakeSizes(), "alpha": 0.05, "names": NAMES} | settings
    return Desk(**settings)


def calibrated_desk(*, factor=1.0, **settings):
    """A desk that has seen fifty requests take what was predicted, times a factor."""
    desk = new_desk(**settings)
    for _ in range(50):
        desk.alone["ttft"].scores.pooled.observe(factor * 10.0, 10.0)
    return desk


def picture_url(width=40, height=30):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chat(budget_ms=None, *, picture=True, **fields):
    parts = [{"type": "text", "text": "How many?"}]
    image = fields.pop("image", {})
    for each in picture if isinstance(picture, list) else [image] * picture:
        parts.insert(0, {"type": "image_url", "image_url": {"url": picture_url(), **each}})
    body = {"model": "m", "messages": [{"role": "user", "content": parts}], **fields}
    return body if budget_ms is None else {**body, "latency_budget_ms": budget_ms}


class Client:
    """One connection to an ASGI application: what it sends, and what it got."""

    def __init__(self, body, *, path="/v1/chat/completions", headers=(), method="POST", parts=1, leaves_after=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        at = [len(data) * part // parts for part in range(parts + 1)]
        self.incoming = [
            {"type": "http.request", "body": data[first:last], "more_body": last < len(data)}
            for first, last in pairwise(at)
        ]
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers],
        }
        self.gone, self.leaves_after = asyncio.Event(), leaves_after
        self.sent = []

    async def receive(self):
        if self.leaves_after is not None and self.leaves_after <= 0:
            return {"type": "http.disconnect"}
        if self.leaves_after is not None:
            self.leaves_after -= 1
        if self.incoming:
            return self.incoming.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        await asyncio.sleep(0)
        self.sent.append(message)

    async def ask(self, app):
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def document(self):
        return json.loads(self.body)


def event(**fields):
    return f"data: {json.dumps(fields)}\n\n".encode()


def stream_of(tokens):
    yield event(choices=[{"delta": {"role": "assistant", "content": ""}}])
    for token in tokens:
        yield event(choices=[{"delta": {"content": token}}])
    yield event(choices=[], usage={"completion_tokens": len(tokens)})
    yield b"data: [DONE]\n\n"


class FakeServer:
    """Answers as vLLM's server does; `step()` is awaited wherever a server waits, and what was received is kept."""

    def __init__(self, step=None, *, status=200, on_start=None):
        self.step = step or (lambda: asyncio.sleep(0))
        self.status, self.on_start, self.received = status, on_start, []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.received.append((scope, message["body"]))
        await self.step()
        if self.on_start is not None:
            self.on_start()
        try:
            document = json.loads(message["body"])
        except ValueError:
            document = {}
        streams = self.status == 200 and isinstance(document, dict) and document.get("stream")
        kind = b"text/event-stream" if streams else b"application/json"
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-type", kind)]})
        await self.step()
        if not streams:
            answer = b'{"choices":[{"message":{"content":"42"}}],"usage":{"completion_tokens":1}}'
            await send({"type": "http.response.body", "body": answer, "more_body": True})
            await self.step()
            await send({"type": "http.response.body", "body": b""})
            return
        for part in stream_of(["4", "2"]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await self.step()
        await send({"type": "http.response.body", "body": b""})
