"""What a wrong latency costs in training, row by row.

Legend of tensor suffixes: B batch, K heads (prefill, decode).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from paceline.errors import UnknownChoiceError

HUBER_REACH = 0.1  # of the mean latency: beyond it an error counts linearly, so that a stall does not lead the fit
SMALLEST_MS = 1e-3  # added, for a logarithm needs a number above 0; no stage of a model is faster

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def squared(predicted_BK: Tensor, measured_BK: Tensor, scale_K: Tensor) -> Tensor:
    """Return squared milliseconds; the scale is not looked at, so prefill outweighs decode as its times do."""
    del scale_K
    return (predicted_BK - measured_BK) ** 2


def scaled(predicted_BK: Tensor, measured_BK: Tensor, scale_K: Tensor) -> Tensor:
    """Return squared errors in units of each head's mean latency: both heads weigh the same."""
    return ((predicted_BK - measured_BK) / scale_K) ** 2


def huber(predicted_BK: Tensor, measured_BK: Tensor, scale_K: Tensor) -> Tensor:
    """Return squared errors up to HUBER_REACH of the mean latency, linear ones beyond, in units of that mean."""
    error_BK = ((predicted_BK - measured_BK) / scale_K).abs()
    return torch.where(error_BK < HUBER_REACH, error_BK**2, HUBER_REACH * (2 * error_BK - HUBER_REACH))


def logarithmic(predicted_BK: Tensor, measured_BK: Tensor, scale_K: Tensor) -> Tensor:
    """Return squared differences of logarithms: relative errors, the same for fast and slow configurations."""
    del scale_K
    return (torch.log(predicted_BK + SMALLEST_MS) - torch.log(measured_BK + SMALLEST_MS)) ** 2


LOSSES: dict[str, Loss] = {"mse": squared, "scaled": scaled, "huber": huber, "log": logarithmic}


def loss_named(name: str) -> Loss:
    """Return a loss by name; raises UnknownChoiceError."""
    if name not in LOSSES:
        raise UnknownChoiceError("loss", name, tuple(LOSSES))
    return LOSSES[name]
