"""What a controller needs of a latency model, whatever it was learned with.

Legend of array suffixes: C configurations, in the order of `configs`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paceline.records import KnobConfig, RequestFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEstimates:
    """Milliseconds of every configuration for one request.

    `prefill_ms_C` is T_vision_total + T_LLM_prefill; a total is prefill + decode_per_token · (output tokens − 1).
    `outside` names the features that lie outside what the model was trained on.
    """

    prefill_ms_C: NDArray[np.float64]
    decode_per_token_ms_C: NDArray[np.float64]
    outside: tuple[str, ...]


class LatencyModel(Protocol):
    """A pure function from a request's features to milliseconds; the same features always give the same answer."""

    @property
    def configs(self) -> tuple[KnobConfig, ...]:
        """The configurations that an estimate covers, in its order."""
        ...

    def estimate(self, features: RequestFeatures) -> LatencyEstimates:
        """Return the latencies of every configuration for one request.

        Raises InvalidValueError when the request says nothing of a tier that a configuration uses.
        """
        ...
