"""The controller of a file or directory, whichever it is: a lookup table, or an estimator with its bounds."""

from pathlib import Path

from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA, BoundController
from paceline.control.table import LookupTable
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.records import LatencyKind


def load_controller(
    path: Path | str, *, alpha: float = DEFAULT_ALPHA, latency_kind: LatencyKind = "prefill"
) -> Controller:
    """Load a table file as a LookupTable, or the directory of an estimator as a BoundController.

    `alpha` and `latency_kind` say what the bounds promise; a table promises nothing and keeps its own latency kind. Raises
    TableError or EstimatorError for what cannot be trusted, and InvalidValueError for an α that the bounds cannot promise.
    """
    path = Path(path)
    if not path.is_dir():
        return LookupTable.load(path)
    model, bounds = NetworkEstimator.load(path), load_bounds(path)
    return BoundController(model=model, bounds=bounds, alpha=alpha, latency_kind=latency_kind)
