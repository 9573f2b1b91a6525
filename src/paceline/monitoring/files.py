"""The alert rules and the dashboard as files, for windows of one's own."""

import re
from collections.abc import Mapping
from pathlib import Path

from paceline.errors import InvalidValueError

ASSETS = Path(__file__).parent / "assets"
RULES, DASHBOARD = "paceline-alerts.yml", "paceline-grafana.json"
DEFAULT_WINDOW, DEFAULT_FOR, DEFAULT_BASELINE = "30m", "5m", "1d"
DURATION = re.compile(r"([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?")


def monitoring_files(
    *, window: str = DEFAULT_WINDOW, lasting: str = DEFAULT_FOR, baseline: str = DEFAULT_BASELINE
) -> Mapping[str, bytes]:
    """Return the rules and the dashboard by file name.

    Promises and decisions are counted over `window`, an alert fires once its condition was `lasting`, and drift is told against
    the median over `baseline`: durations as Prometheus writes them. Raises InvalidValueError for what is none.
    """
    given = {"@WINDOW@": ("window", window), "@FOR@": ("for", lasting), "@BASELINE@": ("baseline", baseline)}
    rules = (ASSETS / RULES).read_text(encoding="utf-8")
    for place, (name, duration) in given.items():
        if not duration or not DURATION.fullmatch(duration):
            raise InvalidValueError(name, duration, "a duration as Prometheus writes it, for example 30m")
        rules = rules.replace(place, duration)
    return {RULES: rules.encode(), DASHBOARD: (ASSETS / DASHBOARD).read_bytes()}
