"""What a certificate may be asked for."""

from paceline.errors import InvalidValueError


def require_margin(epsilon: float, delta: float) -> None:
    """Raise InvalidValueError unless ε is a loss of accuracy strictly between 0 and 1, and δ a probability up to a half."""
    if not 0 < epsilon < 1:
        raise InvalidValueError(
            "epsilon", epsilon, "the largest loss of accuracy, between 0 and 1, for example 0.03 for three points"
        )
    if not 0 < delta <= 0.5:
        raise InvalidValueError(
            "delta", delta, "the probability of a false certificate, above 0 and at most 0.5, for example 0.1"
        )
