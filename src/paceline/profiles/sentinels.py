"""Did the machine keep its speed while it was profiled? What a run's sentinel measurements say.

The sentinel is one question under one configuration, measured between samples: it takes as long as before unless the
machine became faster or slower.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import cast

from scipy.stats import kruskal

from paceline.errors import ProfileDataError
from paceline.json_document import parsed_json, require_regular

JOURNALS = "sentinels-rank*.jsonl"
MOST_PARTS = 8
LEAST_IN_A_PART = 5
MOVED_SHARE = 0.10  # below it, latencies are moved less than questions move them
ERROR_PROBABILITY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDrift:
    """The speed of one rank's machine over its run.

    `medians_ms` are those of the sentinel's prefill in up to eight equal parts of the run, in order; `p_value` is the
    probability of parts so unlike, had the machine kept its speed and were each measurement on its own (Kruskal and Wallis,
    JASA 47, 1952).
    """

    rank: str
    count: int
    medians_ms: tuple[float, ...]
    p_value: float

    @property
    def share(self) -> float:
        """By how much the slowest part exceeds the fastest, as a share of the fastest."""
        return max(self.medians_ms) / min(self.medians_ms) - 1

    @property
    def moved(self) -> bool:
        """Whether the speed moved by more than MOVED_SHARE, and not by chance."""
        return self.share > MOVED_SHARE and self.p_value < ERROR_PROBABILITY

    def __str__(self) -> str:
        parts = ", ".join(f"{ms:.1f}" for ms in self.medians_ms)
        kept = "moved" if self.moved else "did not move beyond chance or 10 %"
        return (
            f"the machine's speed {kept} during the run: the sentinel's prefill took {parts} ms (medians of "
            f"{len(self.medians_ms)} parts in order, {self.share:.0%} apart, n = {self.count}, p = {self.p_value:.2g})"
        )

    @property
    def warning(self) -> str:
        """What a user of the profile is told where the speed moved."""
        return f"{self}; latencies of early and late samples differ by that: profile again on a quiet machine"


def machine_drift(prefill_ms: Sequence[float], *, rank: str = "0") -> MachineDrift | None:
    """Return how the machine's speed moved over the sentinel's latencies (ms), in order; None for fewer than ten."""
    parts = min(MOST_PARTS, len(prefill_ms) // LEAST_IN_A_PART)
    if parts < 2:
        return None
    edges = [len(prefill_ms) * part // parts for part in range(parts + 1)]
    groups = [list(prefill_ms[low:high]) for low, high in pairwise(edges)]
    alike = len(set(prefill_ms)) == 1  # the test knows no answer where all are equal
    p_value = 1.0 if alike else float(kruskal(*groups).pvalue)
    return MachineDrift(rank=rank, count=len(prefill_ms), medians_ms=tuple(map(median, groups)), p_value=p_value)


def read_drifts(store: Path) -> tuple[MachineDrift, ...]:
    """Return the drift of every rank whose sentinels lie in a native store; none for another layout, or too few of them.

    Raises ProfileDataError for a journal that cannot be read, and for a line that is no sentinel, an unfinished last one aside.
    """
    journals = sorted(store.glob(JOURNALS)) if store.is_dir() else []
    found = [machine_drift(_prefills_ms(path), rank=path.stem.removeprefix("sentinels-rank")) for path in journals]
    return tuple(each for each in found if each is not None)


def _prefills_ms(path: Path) -> list[float]:
    try:
        require_regular(path)
        whole = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was in flight
    except OSError as error:
        problem, mend = (
            f"cannot be read ({error.strerror or error})",
            "mend its permissions, or delete it: no sample is lost",
        )
        raise ProfileDataError(path, problem, expected="the journal of a rank's sentinels", mend=mend) from error
    return [_prefill_ms(line, path, number) for number, line in enumerate(whole, start=1)]


def _prefill_ms(line: bytes, path: Path, number: int) -> float:
    try:
        record = parsed_json(line)
    except ValueError:
        record = None
    told = cast("dict[str, object]", record).get("prefill_ms") if isinstance(record, dict) else None
    if type(told) in (int, float) and 0 < cast(float, told) < math.inf:
        return float(cast(float, told))
    raise ProfileDataError(
        path,
        f"line {number} is no sentinel measurement",
        expected="an object with `prefill_ms` above 0",
        mend="delete the line: no sample is lost with it",
        field="prefill_ms",
    )
