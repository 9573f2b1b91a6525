"""Half widths of Student's 95 % intervals for few values: standard library only."""

from collections.abc import Sequence
from statistics import stdev

# of 1 to 19 degrees of freedom
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)


def t_half_width(values: Sequence[float]) -> float | None:
    """Return the half width of a mean's 95 % interval, a little wide beyond 20 values; None for fewer than two."""
    if len(values) < 2:
        return None
    return T_95[min(len(values) - 1, len(T_95)) - 1] * stdev(values) / len(values) ** 0.5
