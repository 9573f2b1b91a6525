"""What `soak.py` counts in each stretch of its load, what that comes to, and what must not be."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from paceline.control.estimated import DEFAULT_ALPHA as ALPHA
from paceline.slo import Proportion

LOADS = (0.8, 1.3)
# of a half's last third over its second: the allocator keeps pages for larger heaps of requests
MOST_GROWTH_MIB = 24.0
ANSWERS = ("200", "429", "503")
GAVE_UP = "gave up"  # a client that has waited for long; no failure where more is asked for than can be answered


@dataclass(slots=True)
class Window:
    """What became of the requests of one stretch of time: `sent` so many, each `late_ms` behind the time drawn for it."""

    load: float
    from_seconds: float
    sent: int = 0
    late_ms: list[float] = field(default_factory=list[float])
    statuses: Counter[str] = field(default_factory=Counter[str])
    first_ms: list[float] = field(default_factory=list[float])
    total_ms: list[float] = field(default_factory=list[float])
    promised: int = 0
    kept: int = 0
    process: dict[str, float] = field(default_factory=dict[str, float])
    _whole: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return it in plain values; those of a window whose answers are all there are made once."""
        if self._whole is not None:
            return self._whole
        made = self._document()
        if self.process and self.statuses.total() == self.sent:
            self._whole = made
        return made

    def _document(self) -> dict[str, Any]:
        return {
            "load": self.load,
            "from_seconds": round(self.from_seconds, 1),
            "answers": dict(sorted(self.statuses.items())),
            "sent_late_ms": percentiles(self.late_ms),
            "promised": self.promised,
            "kept": self.kept,
            "first_ms": percentiles(self.first_ms),
            "total_ms": percentiles(self.total_ms),
            **self.process,
        }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median and the 95th percentile, None of no values."""
    if not values:
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "n": len(values)}


def thirds(windows: Sequence[Window]) -> list[list[Window]]:
    """Return the first, second and last third of some windows."""
    size = len(windows) // 3
    return [list(windows[:size]), list(windows[size : 2 * size]), list(windows[2 * size :])]


def summary(windows: Sequence[Window], load: float) -> dict[str, Any]:
    """Return what one half came to: answers, coverage with its interval, and what its last third has over its first."""
    own = [each for each in windows if each.load == load]
    promised, kept = sum(each.promised for each in own), sum(each.kept for each in own)
    found: dict[str, Any] = {
        "requests": sum(each.statuses.total() for each in own),
        "answers": dict(sorted(sum((each.statuses for each in own), Counter()).items())),
        "first_ms": percentiles([value for each in own for value in each.first_ms]),
        "sent_late_ms": percentiles([value for each in own for value in each.late_ms]),
        "promises_kept": share_of(kept, promised),
    }
    if len(own) >= 3:
        first, _, last = thirds(own)
        medians = [np.median([value for each in part for value in each.first_ms] or [np.nan]) for part in (first, last)]
        found |= {
            "median_first_ms_of_the_last_third_over_the_first": None
            if np.isnan(medians).any()
            else round(float(medians[1] / medians[0]), 3),
            "memory_mib_of_the_last_third_over_the_first": round(_memory(last) - _memory(first), 2),
            "promises_kept_by_thirds": [
                share_of(sum(each.kept for each in part), sum(each.promised for each in part)) for part in thirds(own)
            ],
        }
    return found


def _memory(windows: Sequence[Window]) -> float:
    return float(np.median([each.process["memory_mib"] for each in windows]))


def share_of(hits: int, count: int) -> dict[str, Any] | None:
    """Return a share with its interval, None of none."""
    if not count:
        return None
    share = Proportion(successes=hits, count=count)
    interval = share.interval()
    return {"share": round(share.share, 4), "ci": [round(interval.low, 4), round(interval.high, 4)], "n": count}


def complaints(windows: Sequence[Window], at_rest: Sequence[Mapping[str, float]], exit_code: int | None) -> list[str]:
    """Return what must not be: lost answers, descriptors or threads left behind, memory that goes on growing, broken promises."""
    found = [
        f"{count} answers at {load:.0%} were {name}"
        for load in LOADS
        for name, count in sum((each.statuses for each in windows if each.load == load), Counter()).items()
        if name not in (ANSWERS if load <= 1 else (*ANSWERS, GAVE_UP))
    ]
    for earlier, later in pairwise(at_rest[1:]):  # before the load some threads are not there yet
        for name in ("descriptors", "threads"):
            if later[name] > earlier[name]:
                found.append(f"{later[name]:.0f} {name} at rest, {earlier[name]:.0f} before")
    for load in LOADS:
        own = [each for each in windows if each.load == load]
        kept = share_of(sum(each.kept for each in own), sum(each.promised for each in own))
        if kept is not None and kept["ci"][1] < 1 - ALPHA:
            found.append(
                f"{kept['share']:.2%} of {kept['n']:,} promises at {load:.0%} were kept; expected {1 - ALPHA:.0%}"
            )
        if len(own) >= 6:
            _, second, last = thirds(own)
            growth = _memory(last) - _memory(second)
            if growth > MOST_GROWTH_MIB:
                found.append(f"memory at {load:.0%} grew by {growth:.1f} MiB in the last third")
    return found + ([f"the server ended with {exit_code}"] if exit_code else [])
