"""Requests as clients make them, good and bad, each with the statuses that SPEC S14 allows it."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from serving_desk import picture_url
from simulated_network import Ask

PICTURE = picture_url()
KEY = "a-key-of-the-server"
TTFT_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms", "x-sgl-ttft-slo-ms")
TOTAL_HEADERS = ("request-timeout-ms", "x-envoy-expected-rq-timeout-ms")


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A way to ask wrongly: what it changes, and what is told to it."""

    status: int
    param: str | None = None
    code: str | None = None
    fields: tuple[tuple[str, Any], ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None


DEEP = b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}"
MANY = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}] * 17}]
ELSEWHERE = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://192.0.2.9/a.png"}}]},
]
WRONG = {
    "budget below 0": Wrong(status=400, param="latency_budget_ms", fields=(("latency_budget_ms", -3),)),
    "budget of 0": Wrong(status=400, param="latency_budget_ms", fields=(("latency_budget_ms", 0),)),
    "budget of words": Wrong(status=400, param="latency_budget_ms", fields=(("latency_budget_ms", "soon"),)),
    "budget of truth": Wrong(status=400, param="latency_budget_ms", fields=(("latency_budget_ms", True),)),
    "budget of weeks": Wrong(status=400, param="latency_budget_ms", fields=(("latency_budget_ms", 3_600_001),)),
    "budget of no number": Wrong(
        status=400, param="latency_budget_ms", body=b'{"messages":[{"role":"user"}],"latency_budget_ms":NaN}'
    ),
    "two budgets": Wrong(
        status=400,
        fields=(("latency_budget_ms", 20),),
        headers=((b"x-llm-d-slo-ttft-ms", b"30"),),
        param="x-llm-d-slo-ttft-ms",
    ),
    "two totals": Wrong(
        status=400,
        headers=((b"request-timeout-ms", b"20"), (b"x-envoy-expected-rq-timeout-ms", b"30")),
        param="x-envoy-expected-rq-timeout-ms",
    ),
    "header of words": Wrong(status=400, param="x-slo-ttft-ms", headers=((b"x-slo-ttft-ms", b"soon"),)),
    "kind without a budget": Wrong(status=400, param="latency_budget_kind", fields=(("latency_budget_kind", "ttft"),)),
    "another kind": Wrong(
        status=400, param="latency_budget_kind", fields=(("latency_budget_ms", 9), ("latency_budget_kind", "p99"))
    ),
    "total and first": Wrong(
        status=400,
        param="latency_budget_kind",
        fields=(("latency_budget_kind", "total"),),
        headers=((b"x-sgl-ttft-slo-ms", b"30"),),
    ),
    "perhaps": Wrong(
        status=400, param="on_infeasible", fields=(("latency_budget_ms", 9), ("on_infeasible", "perhaps"))
    ),
    "another model": Wrong(status=404, code="model_not_found", fields=(("model", "other"),)),
    "two answers": Wrong(status=400, param="n", fields=(("n", 2),)),
    "no messages": Wrong(status=400, param="messages", fields=(("messages", []),)),
    "no tokens": Wrong(status=400, param="max_tokens", fields=(("max_tokens", 0),)),
    "no JSON": Wrong(status=400, body=b'{"messages": [', code="invalid_value"),
    "no object": Wrong(status=400, body=b"[1]", code="invalid_value"),
    "too deep": Wrong(status=400, code="too_deep", body=DEEP),
    "another type": Wrong(status=415, code="unsupported_media_type", headers=((b"content-type", b"text/plain"),)),
    "too large": Wrong(status=413, code="request_too_large", headers=((b"content-length", b"99999999"),)),
    "larger than told": Wrong(status=413, code="request_too_large", headers=((b"content-length", b"1"),), body=b"x"),
    "many headers": Wrong(
        status=431, code="headers_too_large", headers=tuple((b"x-%d" % number, b"1") for number in range(120))
    ),
    "long headers": Wrong(status=431, code="headers_too_large", headers=((b"x-long", b"y" * 33_000),)),
    "no key": Wrong(status=401, code="invalid_api_key"),
    "another key": Wrong(
        status=401, code="invalid_api_key", headers=((b"authorization", b"Bearer another-key-of-it"),)
    ),
    "many pictures": Wrong(status=413, code="too_many_images", fields=(("messages", MANY),)),
    "picture elsewhere": Wrong(
        status=400, param="messages", fields=(("messages", ELSEWHERE), ("latency_budget_ms", 50))
    ),
    "picture that is none": Wrong(
        status=415,
        code="unsupported_image",
        fields=(
            (
                "messages",
                [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                    }
                ],
            ),
        ),
    ),
}
LOOKS = {
    "/v1/models": (200,),
    "/v1/models/m": (200,),
    "/v1/models/other": (404,),
    "/health": (200, 503),
    "/metrics": (200,),
    "/paceline/recent": (200,),
    "/nothing": (404,),
}


def chat_body(number: int, *, pictures: int = 1, detail: str | None = None, padding: int = 0, **fields: Any) -> bytes:
    """Return the body of a chat whose text says its number."""
    image = {"url": PICTURE} if detail is None else {"url": PICTURE, "detail": detail}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": image} for _ in range(pictures)]
    parts.append({"type": "text", "text": f"request {number} " + "x" * padding})
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}], **fields}).encode()


def wrong_ask(rng: Random, number: int, at: float, *, keys: bool, largest_body: int) -> Ask:
    """Return a request that is refused whatever the server does."""
    names = [name for name in WRONG if keys or "key" not in name]
    name = rng.choice(names)
    wrong = WRONG[name]
    fields = dict(wrong.fields)
    body = wrong.body
    if name == "larger than told":
        body = b" " * (largest_body + 1)
    elif body is None:
        body = chat_body(number, pictures=0, **{"max_tokens": 2, **fields})
    headers = list(wrong.headers)
    if keys and "key" not in name:
        headers.append((b"authorization", b"Bearer " + KEY.encode()))
    told = {"kind": "wrong", "name": name, "wrong": wrong, "engine": False}
    return Ask(number=number, at=at, body=body, headers=headers, parts=rng.choice((1, 1, 3)), told=told)


def look(rng: Random, number: int, at: float, *, keys: bool) -> Ask:
    """Return a look at a page of the server."""
    path = rng.choice(tuple(LOOKS))
    headers = [(b"authorization", b"Bearer " + KEY.encode())] if keys else []
    told = {"kind": "look", "engine": False}
    return Ask(number=number, at=at, method="GET", path=path, headers=headers, told=told)


def chat_ask(rng: Random, number: int, at: float, **told: Any) -> Ask:
    """Return a good chat; `told` says its budget (None without one), its kind, and the rest as SPEC S14 names it."""
    budget, kind, refuse = told["budget"], told["budget_kind"], told["refuse"]
    fields: dict[str, Any] = {"max_tokens": told["tokens"]}
    headers: list[tuple[bytes, bytes]] = []
    if told["stream"]:
        fields["stream"] = True
    if told["stream"] and rng.random() < 0.3:
        fields["stream_options"] = {"include_usage": True}
    told["ceiling"] = False  # of a proxy, which its client knows nothing of
    if budget is not None:
        in_header = rng.random() < 0.3
        told["ceiling"] = in_header and kind == "total"
        if in_header:
            name = rng.choice(TOTAL_HEADERS if kind == "total" else TTFT_HEADERS)
            headers.append((name.encode(), f"{budget:.3f}".encode()))
            told["budget"] = budget = float(f"{budget:.3f}")
        else:
            fields["latency_budget_ms"] = budget
            if kind == "total" or rng.random() < 0.2:
                fields["latency_budget_kind"] = kind
        if refuse or rng.random() < 0.2:
            fields["on_infeasible"] = "refuse" if refuse else "degrade"
    if told["keys"]:
        headers.append((b"authorization", b"Bearer " + KEY.encode()))
    body = chat_body(number, pictures=told["pictures"], detail=told["detail"], padding=told["padding"], **fields)
    told |= {"kind": "chat", "engine": True, "usage": "stream_options" in fields}
    parts = rng.choice((1, 1, 1, 2, 4))
    gap = rng.choice((0.0, 0.003, 0.05)) if parts > 1 else 0.0
    return Ask(number=number, at=at, body=body, headers=headers, parts=parts, gap=gap, told=told)
