"""How long a request is expected to wait for its turn where one is answered at a time, prompt and answer alike: no promise."""

from collections.abc import Callable

from paceline.server.counts import Counts
from paceline.serving.ledger import AcceptedRequest, Ledger


def expected_turn_ms(counts: Counts) -> Callable[[Ledger, float], float]:
    """Return the expected wait in milliseconds, by what answers took so far."""

    def wait_ms(ledger: Ledger, now_seconds: float) -> float:
        unfinished = ledger.unfinished
        if not unfinished:
            return 0.0
        prefilling = {entry.number for entry in ledger.prefilling}
        left = [_left_ms(entry, entry.number in prefilling, counts) for entry in unfinished]
        # the first of them has been at it since it was accepted, at most
        running_ms = min(1e3 * (now_seconds - unfinished[0].accepted_seconds), left[0])
        return max(0.0, sum(left) - max(0.0, running_ms))

    return wait_ms


def _left_ms(entry: AcceptedRequest, prefilling: bool, counts: Counts) -> float:
    decode_ms = counts.mean_decode_ms
    if not prefilling:
        return decode_ms
    return decode_ms + (counts.mean_first_token_ms if entry.expected_ms is None else entry.expected_ms)
