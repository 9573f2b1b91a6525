"""An e-process against a loss of ε or more: evidence that may be read at any time, for graded answers and shared pictures too.

Whoever bets against H0 multiplies a capital of 1 by 1 + λ (ε − d) at every question, d the loss of accuracy in −1 to 1; under H0
the capital is expected not to grow, whatever came before, so it reaches 1/δ with probability δ at most (Ville's inequality).
Several λ bet side by side with equal shares, fixed beforehand (Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", 2024). Questions about one picture are not independent: then a picture is one bet, on the sum of its
questions' losses over the largest number of questions that a picture has.

Legend of array suffixes: T bets in order (questions, or pictures), B bets side by side.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BETS = 32
SMALLEST_BET = 0.02
LARGEST_SHARE = 0.98  # of 1/(1 − ε), at which one broken answer takes all


def log_evidence(losses_T: Floats, epsilon: float, weights_T: Floats | None = None) -> Floats:
    """Return the logarithm of the e-process after each bet.

    `losses_T` are mean losses of pictures and `weights_T` their numbers of questions over the largest (1 where it is None).
    """
    losses_T = np.asarray(losses_T, dtype=np.float64)
    if not len(losses_T):
        return losses_T
    weights_T = np.ones(len(losses_T)) if weights_T is None else np.asarray(weights_T, dtype=np.float64)
    bets_B = _bets(epsilon)
    gains_T = weights_T * (epsilon - losses_T)
    capital_TB = np.cumsum(np.log1p(np.outer(gains_T, bets_B)), axis=0)
    peak_T = capital_TB.max(axis=1)
    return peak_T + np.log(np.exp(capital_TB - peak_T[:, None]).mean(axis=1))


def first_crossing(losses_T: Floats, epsilon: float, delta: float, weights_T: Floats | None = None) -> int | None:
    """Return after how many bets the evidence first reaches 1/δ; None while it has not."""
    crossed = np.flatnonzero(log_evidence(losses_T, epsilon, weights_T) >= -np.log(delta))
    return int(crossed[0]) + 1 if len(crossed) else None


def _bets(epsilon: float) -> Floats:
    return np.geomspace(SMALLEST_BET, LARGEST_SHARE / (1 - epsilon), BETS)
