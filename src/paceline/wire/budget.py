"""A request's budget: `latency_budget_ms` in its body first, then the headers that gateways and engines have for it."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from paceline.errors import InvalidValueError, RequestRefusedError

BUDGET_FIELD, KIND_FIELD, INFEASIBLE_FIELD = "latency_budget_ms", "latency_budget_kind", "on_infeasible"
BUDGET_FIELDS = (BUDGET_FIELD, KIND_FIELD, INFEASIBLE_FIELD)
# llm-d's header, its older name, and SGLang's
TTFT_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms", "x-sgl-ttft-slo-ms")
# ceilings of whole requests, which proxies set by themselves
TOTAL_HEADERS = ("request-timeout-ms", "x-envoy-expected-rq-timeout-ms")
LARGEST_BUDGET_MS = 3_600_000
EXPECTED = f"a number of milliseconds above 0 and at most {LARGEST_BUDGET_MS:,}, for example 300"

BudgetKind = Literal["ttft", "total"]
OnInfeasible = Literal["degrade", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBudget:
    """The milliseconds that one request asks for, of its time to first token or of the whole, and what to do if none fits.

    `from_proxy` marks a ceiling that stands in a header alone, which proxies add to every request; `by_default` a budget that the
    request did not ask for: the server gives it to those without one.
    """

    ms: float
    kind: BudgetKind = "ttft"
    on_infeasible: OnInfeasible = "degrade"
    from_proxy: bool = False
    by_default: bool = False

    @property
    def is_callers(self) -> bool:
        """Whether the caller itself asked, and so knows what an answer under a budget looks like."""
        return not (self.from_proxy or self.by_default)


def read_budget(fields: Mapping[str, object], headers: Iterable[tuple[bytes, bytes]]) -> AskedBudget | None:
    """Return the budget of a request's body fields and headers (lower-case names, as ASGI has them); None without one.

    A budget of the time to first token goes before a ceiling of the whole, which may stand beside it. Raises
    RequestRefusedError (400) for what is no budget and for different values in two places.
    """
    kind = _choice(fields, KIND_FIELD, ("ttft", "total"))
    on_infeasible = _choice(fields, INFEASIBLE_FIELD, ("degrade", "refuse")) or "degrade"
    said: dict[str, list[tuple[str, float]]] = {"ttft": [], "total": []}
    in_body = fields.get(BUDGET_FIELD)
    if in_body is not None:
        said[kind or "ttft"].append((BUDGET_FIELD, _number(in_body)))
    for name, value in headers:
        header = name.decode("latin-1").lower()
        if header in TTFT_HEADERS or header in TOTAL_HEADERS:
            said["ttft" if header in TTFT_HEADERS else "total"].append((header, _header_number(header, value)))
    _require_one(kind, said)
    for each in ("ttft", "total"):
        if said[each]:
            from_proxy = each == "total" and in_body is None and kind is None
            return AskedBudget(ms=said[each][0][1], kind=each, on_infeasible=on_infeasible, from_proxy=from_proxy)  # pyright: ignore[reportArgumentType]
    return None


def default_budget(ms: float | None) -> AskedBudget | None:
    """Return what a server gives requests that ask for nothing, None for nothing; raises InvalidValueError out of range."""
    if ms is None:
        return None
    if isinstance(ms, bool) or not isinstance(ms, int | float) or not 0 < ms <= LARGEST_BUDGET_MS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValueError("default_budget_ms", ms, EXPECTED)
    return AskedBudget(ms=float(ms), by_default=True)


def _require_one(kind: str | None, said: Mapping[str, list[tuple[str, float]]]) -> None:
    for places in said.values():
        (first, ms), *others = places or [("", 0.0)]
        for other, other_ms in others:
            if other_ms != ms:
                raise RequestRefusedError(
                    f"{first} says {ms:g} ms and {other} says {other_ms:g} ms; expected one budget: leave one of them out",
                    param=other,
                )
    if kind == "total" and said["ttft"]:
        raise RequestRefusedError(
            f"{KIND_FIELD} is 'total' and {said['ttft'][0][0]} is a budget of the time to first token; expected one of them",
            param=KIND_FIELD,
        )
    if kind is not None and not said[kind]:
        raise RequestRefusedError(
            f"{KIND_FIELD} is {kind!r} without a budget; expected {BUDGET_FIELD} too", param=KIND_FIELD
        )


def _choice(fields: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str | None:
    value = fields.get(name)
    if value is None or value in choices:
        return value  # pyright: ignore[reportReturnType]
    raise RequestRefusedError(f"{name} is {_shown(value)}; expected {' or '.join(choices)}", param=name)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestRefusedError(f"{BUDGET_FIELD} is {_shown(value)}; expected {EXPECTED}", param=BUDGET_FIELD)
    return _in_range(BUDGET_FIELD, value)


def _header_number(name: str, value: bytes) -> float:
    text = value.decode("latin-1").strip()
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text):
        raise RequestRefusedError(f"the header {name} is {_shown(text)}; expected {EXPECTED}", param=name)
    return _in_range(name, float(text))


def _in_range(name: str, value: int | float) -> float:
    if not 0 < value <= LARGEST_BUDGET_MS or math.isnan(value):
        raise RequestRefusedError(f"{name} is {_shown(value)}; expected {EXPECTED}", param=name)
    return float(value)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
