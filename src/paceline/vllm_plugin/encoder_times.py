"""How long the image encoder took, on its way from the worker to the API server: on what vLLM sends from one to the next anyway.

A step's output carries the seconds to the scheduler, a request's trace headers carry its own to the front end, where they are
read with its first token. No message more is sent, and nothing waits.
"""

import time
from collections.abc import Mapping
from typing import Any

OUTPUT_SECONDS = "paceline_encoder_seconds"  # of a step, on the worker's output
HEADER_MS = "paceline-vision-ms"  # of a request, among its trace headers


class EncoderClock:
    """Notes how long the image encoder ran in each step of a model runner, where the host's clock can tell."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def follow(self, runner: Any) -> None:
        """Note the time of every run of the encoder from now on."""
        encode = runner._execute_mm_encoder

        def execute_mm_encoder(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            encoded = encode(*args, **kwargs)
            if encoded:
                self._seconds += time.perf_counter() - start
            return encoded

        runner._execute_mm_encoder = execute_mm_encoder

    def tell(self, output: Any) -> Any:
        """Return a step's output, with the time that its encoder took where it ran; None stays None, for another comes."""
        if output is not None and self._seconds:
            setattr(output, OUTPUT_SECONDS, self._seconds)
            self._seconds = 0.0
        return output


def with_encoder_ms(headers: Mapping[str, str] | None, ms: float) -> dict[str, str]:
    """Return a request's trace headers with so many milliseconds more of the encoder."""
    return {**(headers or {}), HEADER_MS: repr(ms + (encoder_ms(headers) or 0.0))}


def encoder_ms(headers: Mapping[str, str] | None) -> float | None:
    """Return the milliseconds that the encoder took for a request, all its pictures together; None where it did not run."""
    said = None if headers is None else headers.get(HEADER_MS)
    return None if said is None else float(said)
