"""What one server answered, under the names that vLLM's metrics have."""

import secrets
from collections import Counter
from collections.abc import Iterable

from paceline.wire.metrics import TTFT_BOUNDS_S, Histogram

E2E_BOUNDS_S = (*TTFT_BOUNDS_S, 120, 300)
LATEST_SHARE = 0.1  # of the latest answer in the moving averages


class Counts:
    """Requests, tokens and times since the server started; for one event loop."""

    def __init__(self) -> None:
        self.accepted, self._series = 0, secrets.token_hex(6)
        self.prompt_tokens, self.completion_tokens = 0, 0
        self.successes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.first_token, self.whole = Histogram(TTFT_BOUNDS_S), Histogram(E2E_BOUNDS_S)
        self.mean_decode_ms = 0.0  # of the last answers, from the first token on

    def number(self) -> str:
        """Count one accepted request and return its number, with what tells this server from others."""
        self.accepted += 1
        return f"{self._series}-{self.accepted}"

    def finished(
        self,
        *,
        finish_reason: str,
        prompt_tokens: int,
        completion_tokens: int,
        seconds: float,
        first_token_seconds: float,
    ) -> None:
        """Count one answer; times are from the last byte of its request."""
        self.successes[finish_reason] += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.first_token.observe(max(0.0, first_token_seconds))
        self.whole.observe(max(0.0, seconds))
        share = max(1 / sum(self.successes.values()), LATEST_SHARE)
        self.mean_decode_ms += share * (1e3 * (seconds - first_token_seconds) - self.mean_decode_ms)

    def failed(self, code: str) -> None:
        """Count one request that was refused or failed, by the code it was told."""
        self.failures[code] += 1

    def text(self, *, running: int, waiting: int) -> str:
        """Return the page as Prometheus reads it (text format 0.0.4)."""
        lines = [
            *_series("vllm:num_requests_running", "gauge", "Requests that have the model.", {"": running}),
            *_series("vllm:num_requests_waiting", "gauge", "Requests that wait for it.", {"": waiting}),
            *_series("vllm:prompt_tokens_total", "counter", "Tokens of prompts.", {"": self.prompt_tokens}),
            *_series("vllm:generation_tokens_total", "counter", "Tokens of answers.", {"": self.completion_tokens}),
            *_series(
                "vllm:request_success_total",
                "counter",
                "Answers, by how they ended.",
                {f'{{finished_reason="{name}"}}': count for name, count in self.successes.items()},
            ),
            *_series(
                "paceline:requests_failed_total",
                "counter",
                "Requests that were refused or failed, by the code they were told.",
                {f'{{code="{name}"}}': count for name, count in self.failures.items()},
            ),
            *self.first_token.lines(
                "vllm:time_to_first_token_seconds", "From a request's last byte to its first token."
            ),
            *self.whole.lines("vllm:e2e_request_latency_seconds", "From a request's last byte to its answer's end."),
        ]
        return "\n".join(lines) + "\n"


def _series(name: str, kind: str, said: str, values: dict[str, int]) -> Iterable[str]:
    yield f"# HELP {name} {said}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{labels} {value}"
