"""What one answer must be, by what its client asked and saw: statuses and bodies as SPEC S14 says, times by the virtual clock."""

import json
import math
from typing import Any

from asked_requests import LOOKS, Wrong
from fake_engines import text_of
from simulated_network import Exchange

ERROR_FIELDS = {"message", "type", "param", "code"}
REPORT_FIELDS = {
    "config", "image_tokens", "budget_ms", "budget_kind", "bound_ms", "expected_ms", "ttft_ms", "total_ms", "within_budget",
    "promised", "degraded", "alpha", "calibration_n",
}  # fmt: skip
RETRIED = (429, 503)
ROUNDING_MS = 2e-3


class Answer:
    """One whole answer, read as a client reads it; `problems` are (invariant, what is wrong)."""

    def __init__(self, exchange: Exchange, *, tick_ms: float) -> None:
        self.exchange, self.ask, self.told = exchange, exchange.ask, exchange.ask.told
        self.tick_ms = tick_ms  # what a callback may take: how far apart a moment and its stamp may lie
        self.problems: list[tuple[str, str]] = []
        self.report: dict[str, Any] | None = None
        self.code: str | None = None
        self.text: str | None = None

    def wrong(self, invariant: str, what: str) -> None:
        self.problems.append(
            (invariant, f"request {self.ask.number} ({self.told.get('name', self.told['kind'])}): {what}")
        )

    def check(self) -> None:
        """Check all that holds for any answer that came whole."""
        exchange = self.exchange
        status, headers, body = exchange.status, exchange.headers, exchange.body
        length = headers.get("content-length")
        if length is not None and int(length) != len(body):
            self.wrong("status codes", f"content-length is {length} and the body has {len(body)} bytes")
        if status != 200 and self.ask.path != "/health":
            self._check_error(status, headers, body)
        allowed = self._allowed()
        if status not in allowed:
            self.wrong("status codes", f"status {status} ({self.code}), expected {sorted(allowed)}")
        elif status == 200 and self.told["kind"] == "chat":
            self._check_chat(headers, body)
        elif self.told["kind"] == "wrong" and status == self.told["wrong"].status:
            self._check_wrong(self.told["wrong"], body)

    def _check_error(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            self.wrong("status codes", f"{status} without an error object: {body[:80]!r}")
            return
        self.code = error.get("code")
        if not set(error) >= ERROR_FIELDS or not error["message"] or not self.code:
            self.wrong("status codes", f"an error object without its fields: {error}")
        retry = headers.get("retry-after", "")
        if status in RETRIED and not (retry.isdigit() and int(retry) >= 1):
            self.wrong("status codes", f"{status} without a time to come back: {retry!r}")
        if status == 422 and not error.get("least_budget_ms", 0) > self.told["budget"]:
            self.wrong("status codes", f"422 names a least budget of {error.get('least_budget_ms')} ms")
        if status == 429 and "expected_wait_ms" in error and not error["expected_wait_ms"] >= 0:
            self.wrong("status codes", f"429 expects to wait {error['expected_wait_ms']} ms")

    def _allowed(self) -> set[int]:
        told, path = self.told, self.ask.path
        if told["kind"] == "look":
            return set(LOOKS[path])
        busy = {503} if told.get("may_be_503") else set()
        if told["kind"] == "wrong":
            return {told["wrong"].status} | busy
        allowed = {200} | busy | set(told.get("may_fail", ()))
        if told["budget"] is not None and told["refuse"]:
            allowed |= {422, 429}
        return allowed

    def _check_wrong(self, wrong: Wrong, body: bytes) -> None:
        error = json.loads(body)["error"]
        for name in ("param", "code"):
            expected = getattr(wrong, name)
            if expected is not None and error[name] != expected:
                self.wrong("status codes", f"{name} is {error[name]!r}, expected {expected!r}")

    def _check_chat(self, headers: dict[str, str], body: bytes) -> None:
        streamed = headers.get("content-type", "").startswith("text/event-stream")
        if streamed != self.told["stream"]:
            self.wrong("answers are their own", f"stream is {streamed}")
            return
        usage = self._read_stream(body) if streamed else self._read_whole(body)
        if self.code is not None:  # it failed in the middle, and said so
            return
        tokens = self.told["tokens"]
        if self.text is not None and not self.told.get("cut") and self.text != text_of(self.ask.number, tokens):
            self.wrong("answers are their own", f"said {self.text[:60]!r}")
        if usage is not None and usage["completion_tokens"] * 1 != tokens and not self.told.get("cut"):
            self.wrong("answers are their own", f"usage {usage}, expected {tokens} tokens")
        asked_budget = self.told["budget"] is not None and not self.told["ceiling"]
        asked_usage = self.told["usage"] or asked_budget or not streamed
        if (usage is not None) != asked_usage:
            self.wrong("answers are their own", f"usage is {usage} where asked is {asked_usage}")
        if (self.report is not None) != (self.told["budget"] is not None and asked_usage):
            self.wrong("status codes", f"the report is {self.report} for a budget of {self.told['budget']} ms")
        if self.report is not None:
            self._check_report(headers, self.report)

    def _read_whole(self, body: bytes) -> dict[str, Any] | None:
        document = json.loads(body)
        self.report = document.get("paceline")
        self.text = document["choices"][0]["message"]["content"]
        return document.get("usage")

    def _read_stream(self, body: bytes) -> dict[str, Any] | None:
        events = body.split(b"\n\n")
        if events.pop() != b"" or events[-1] != b"data: [DONE]":
            self.wrong("each request ends exactly once", f"a stream ends with {body[-40:]!r}")
            return None
        usage, text = None, ""
        for event in events[:-1]:
            chunk = json.loads(event.removeprefix(b"data: "))
            if "error" in chunk:
                self.code = chunk["error"]["code"]
                if not self.told.get("may_fail_midway"):
                    self.wrong("status codes", f"a stream says {chunk}")
                return None
            text += "".join(choice["delta"].get("content", "") for choice in chunk["choices"])
            if chunk.get("usage"):
                if usage is not None:
                    self.wrong("each request ends exactly once", "a stream says its usage twice")
                usage, self.report = chunk["usage"], chunk.get("paceline")
        self.text = text
        return usage

    def _check_report(self, headers: dict[str, str], report: dict[str, Any]) -> None:
        told, kind = self.told, self.told["budget_kind"]
        missing = REPORT_FIELDS - set(report)
        if missing or ("not_promised_because" in report) == report.get("promised"):
            self.wrong("status codes", f"the report lacks {missing}, or its reason: {report}")
            return
        if (report["budget_ms"], report["budget_kind"]) != (told["budget"], kind):
            self.wrong("status codes", f"the report is of {report['budget_ms']} ms {report['budget_kind']}")
        if report["degraded"] and report["promised"]:
            self.wrong("nothing promised too early", "promised though nothing keeps it")
        if report["promised"] and (report["bound_ms"] is None or report["bound_ms"] > told["budget"] + ROUNDING_MS):
            self.wrong(
                "nothing promised too early", f"promised {told['budget']} ms with a bound of {report['bound_ms']}"
            )
        bound = headers.get("x-paceline-bound-ms")
        if (bound is None) != (report["bound_ms"] is None) or (bound and abs(float(bound) - report["bound_ms"]) > 0.01):
            self.wrong("status codes", f"the header's bound is {bound}, the report's {report['bound_ms']}")
        if "x-paceline-config" not in headers or "queue;dur=" not in headers.get("server-timing", ""):
            self.wrong("status codes", f"an answer without its headers: {headers}")
        self._check_times(report)

    def _check_times(self, report: dict[str, Any]) -> None:
        """The times are those of the virtual clock: from the last byte to the first token, and to the report."""
        exchange, told = self.exchange, self.told
        received = exchange.received_at
        assert received is not None
        measured = report["ttft_ms"] if told["budget_kind"] == "ttft" else report["total_ms"]
        expected = None if measured is None else measured <= told["budget"]
        close = measured is not None and abs(measured - told["budget"]) < ROUNDING_MS
        if report["within_budget"] != expected and not close:
            self.wrong(
                "within_budget agrees with the clock", f"{measured} ms of {told['budget']} is {report['within_budget']}"
            )
        first, last = self._first_token_ms(received)
        if report["ttft_ms"] is None or not first - ROUNDING_MS <= report["ttft_ms"] <= last + ROUNDING_MS:
            self.wrong(
                "within_budget agrees with the clock", f"ttft is {report['ttft_ms']}, by the clock {first} to {last}"
            )
        sent = 1e3 * (self._report_sent_at() - received)
        if not report["total_ms"] <= sent + ROUNDING_MS or (
            not self.ask.reads and sent - report["total_ms"] > 60 * self.tick_ms + ROUNDING_MS
        ):
            self.wrong("within_budget agrees with the clock", f"total is {report['total_ms']}, by the clock {sent}")

    def _first_token_ms(self, received: float) -> tuple[float, float]:
        """Return between which milliseconds the first token came: to the socket in a stream, else from the engine."""
        if not self.told["stream"]:
            begun = self.told["run"].first_token
            return 1e3 * (begun - received), 1e3 * (begun - received)
        tokens = [when for when, _, message in self.exchange.messages[1:] if b'"content": ' in message["body"]]
        after = [when for when, _, _ in self.exchange.messages if when > tokens[0]]
        last = after[0] if after and self.tick_ms else tokens[0]
        return 1e3 * (tokens[0] - received), 1e3 * (last - received)

    def _report_sent_at(self) -> float:
        if not self.told["stream"]:
            return self.exchange.messages[0][0]
        found = [when for when, _, message in self.exchange.messages[1:] if b'"paceline"' in message["body"]]
        return found[0] if found else math.inf
