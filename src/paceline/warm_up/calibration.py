"""How far a server's bounds are calibrated, as its page of metrics says; light, for a probe starts anew each time."""

import re
from dataclasses import dataclass

from paceline.errors import RemoteServerError
from paceline.quick.asking import Caller

METRICS_PATH = "/metrics"
NAMES = ("paceline:calibration_requests", "paceline:calibration_needed", "paceline:drift_factor")
PAGE_SECONDS = 10.0  # that the page may take: the server may be busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Requests alone in a server that its bounds rest on, and how many they need; `drift_factor` is None before that."""

    requests: int
    needed: int
    drift_factor: float | None

    @property
    def reached(self) -> bool:
        """Whether the server promises anything."""
        return self.requests >= self.needed


def calibration_of(caller: Caller) -> Calibration:
    """Return what a server says; raises RemoteServerError where it does not answer, or knows no budgets."""
    status, page = caller.get(METRICS_PATH, timeout_seconds=PAGE_SECONDS)
    found = dict(re.findall(r"^(paceline:\w+) (\S+)$", page.decode(errors="replace"), re.MULTILINE))
    try:
        requests, needed, drift = (float(found[name]) for name in NAMES)
        return Calibration(
            requests=int(requests), needed=int(needed), drift_factor=None if drift != drift else drift
        )  # NaN before it is known
    except (KeyError, ValueError, OverflowError) as error:
        problem = f"answered {status} to {METRICS_PATH} without a usable {NAMES[0]}"
        mend = "name a server with budgets: paceline vllm serve or paceline serve with --controller"
        raise RemoteServerError(str(caller.address), problem, mend=mend) from error
