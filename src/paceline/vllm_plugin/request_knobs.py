"""What a request to vLLM asks for: knobs and a budget, values in its `extra_args`, over HTTP `vllm_xargs`.

They come from clients, so nothing in them is trusted: what is no number asks for nothing, and what is out of range is brought
into it. A budget counts from when the engine queues the request: who hands it over takes off what it took until then.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

TOP_K, ACTIVE_BLOCKS, TTFT_BUDGET_MS = "paceline_top_k", "paceline_active_blocks", "paceline_ttft_budget_ms"
# a client that knew how salts are made could read, and fill, the cached prefixes of another configuration
SECRET = secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class RequestKnobs:
    """Experts a token and decoder blocks that one request asks for; None for as many as the model has."""

    top_k: int | None = None
    num_active_blocks: int | None = None


NATIVE = RequestKnobs()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobLimits:
    """What a loaded model allows: experts a token (None without experts) and its blocks, of which some must stay."""

    top_k: int | None
    num_blocks: int
    fewest_blocks: int = 1

    def clamped(self, asked: RequestKnobs) -> RequestKnobs:
        """Return the knobs within these limits; what comes to all of the model's is native."""
        top_k = None if asked.top_k is None or self.top_k is None else min(max(asked.top_k, 1), self.top_k)
        blocks = asked.num_active_blocks
        blocks = None if blocks is None else min(max(blocks, self.fewest_blocks), self.num_blocks)
        return RequestKnobs(
            top_k=None if top_k == self.top_k else top_k,
            num_active_blocks=None if blocks == self.num_blocks else blocks,
        )


def asked_knobs(sampling_params: object) -> RequestKnobs:
    """Return what a request's sampling parameters ask for; native for a request that samples nothing."""
    cells = _extra(sampling_params)
    return RequestKnobs(top_k=_whole(cells.get(TOP_K)), num_active_blocks=_whole(cells.get(ACTIVE_BLOCKS)))


def asked_budget_seconds(sampling_params: object) -> float | None:
    """Return the seconds that a request asks its first token for; None without a number of ms above 0."""
    value = _extra(sampling_params).get(TTFT_BUDGET_MS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return value / 1e3


def is_steered(sampling_params: object) -> bool:
    """Tell whether a request has knobs or a budget."""
    return asked_knobs(sampling_params) != NATIVE or asked_budget_seconds(sampling_params) is not None


def budget_asked(ttft_budget_ms: float | None) -> dict[str, float] | None:
    """Return the `extra_args` that ask for a budget; None without one."""
    return None if ttft_budget_ms is None else {TTFT_BUDGET_MS: ttft_budget_ms}


def salted(cache_salt: str | None, knobs: RequestKnobs) -> str | None:
    """Return the salt of a request's cached prefixes: keys and values under other knobs are other keys and values."""
    if knobs == NATIVE:
        return cache_salt
    return f"{SECRET}:{knobs.top_k}:{knobs.num_active_blocks}:{cache_salt or ''}"


def _extra(sampling_params: object) -> Mapping[str, object]:
    extra = getattr(sampling_params, "extra_args", None)
    return extra if isinstance(extra, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN and infinities are no numbers of experts, and equal nothing or only themselves
    return int(value) if float("-inf") < value < float("inf") else None
