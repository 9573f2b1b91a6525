"""How many questions a certificate needs, said before any of them is asked."""

import math

from scipy.stats import norm

from paceline.certify.margin import require_margin

POWER = 0.8
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)


def fewest_questions(epsilon: float, delta: float) -> int:
    """Return the questions without which nothing can be certified, even if every answer is the same: ln δ / ln(1 − ε)."""
    require_margin(epsilon, delta)
    return math.ceil(math.log(delta) / math.log1p(-epsilon) - 1e-9)


def questions_needed(
    broken_rate: float, mended_rate: float, epsilon: float, delta: float, *, power: float = POWER
) -> int | None:
    """Return the questions at which a configuration of these rates is certified with this probability; None where its loss
    is ε or more and no number is enough.

    By the normal approximation of the score test, at least `fewest_questions`.
    """
    loss = broken_rate - mended_rate
    if loss >= epsilon:
        return None
    null, true = 2 * mended_rate + epsilon - epsilon**2, broken_rate + mended_rate - loss**2
    deviations = norm.ppf(1 - delta) * math.sqrt(null) + norm.ppf(power) * math.sqrt(max(true, 0.0))
    return max(fewest_questions(epsilon, delta), math.ceil((deviations / (epsilon - loss)) ** 2))


def rounded_up(questions: int) -> int:
    """Return the next of 10, 12, 15, 20, 25, 30, 40, 50, 60 and 80 times a power of ten: 1,234 becomes 1,500."""
    tens = 10 ** max(0, len(str(questions)) - 2)
    return next(step * tens for step in STEPS if step * tens >= questions)
