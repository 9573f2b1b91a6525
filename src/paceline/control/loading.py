"""The controller of a file or directory, whichever it is: a lookup table, an estimator with its bounds, or a learned one."""

import warnings
from pathlib import Path

from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA, BoundController
from paceline.control.learned.artifact import is_chooser_directory, read_chooser
from paceline.control.learned.controller import LearnedController
from paceline.control.learned.network import ChooserNetwork
from paceline.control.table import LookupTable
from paceline.errors import ControllerError, EstimatorError, InvalidValueError, PacelineWarning
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.records import LatencyKind


def load_controller(
    path: Path | str,
    *,
    alpha: float = DEFAULT_ALPHA,
    latency_kind: LatencyKind | None = None,
    strict: bool = False,
    certified_only: bool = False,
) -> Controller:
    """Load a table file as a LookupTable, an estimator's directory as a BoundController, a learned controller's as such.

    `alpha` says what the bounds promise; a table promises nothing. `latency_kind` is that of the bounds: where it is None
    `ttft`, what a caller waits for the first token, or with a PacelineWarning `prefill` where the profile behind them is
    older than that; with `strict` that is an EstimatorError. A table and a learned controller have their own. Raises TableError,
    EstimatorError or ControllerError for what cannot be trusted, and InvalidValueError for an α that the bounds cannot
    promise and for another latency kind than a learned controller's. With `certified_only` a table gives the configurations
    of its certificate alone; TableError where it holds none, ControllerError for what is no table.
    """
    path = Path(path)
    if certified_only and path.is_dir():
        raise ControllerError(
            path,
            "is an estimator or a learned controller, which hold no certificate",
            expected="the table of `paceline profile --certify`, where certified configurations alone are asked for",
            mend="name that table, or leave certified_only out",
        )
    if is_chooser_directory(path):
        return _learned(path, alpha, latency_kind)
    if not path.is_dir():
        table = LookupTable.load(path)
        return table.certified_only() if certified_only else table
    model, bounds = NetworkEstimator.load(path), load_bounds(path)
    kind = latency_kind or served_kind(bounds, path, strict=strict)
    return BoundController(model=model, bounds=bounds, alpha=alpha, latency_kind=kind)


def served_kind(bounds: LatencyBounds, path: Path, *, strict: bool = False) -> LatencyKind:
    """Return what an estimator promises where nobody says: `ttft`, or `prefill`, warned of, where it has no such scores.

    Raises EstimatorError instead of warning when `strict`.
    """
    if "ttft" in bounds.scores:
        return "ttft"
    problem = "was calibrated on samples without T_ttft"
    mend = "profile again and train it anew to promise times to first token"
    if strict:
        raise EstimatorError(path, problem, expected="bounds of ttft", mend=f"{mend}, or ask for prefill by name")
    warnings.warn(
        f"{path} {problem}: its budgets are of the model's prefill, which ends before the caller has the first token; {mend}",
        PacelineWarning,
        stacklevel=3,
    )
    return "prefill"


def _learned(path: Path, alpha: float, latency_kind: LatencyKind | None) -> Controller:
    artifact = read_chooser(path)
    own = artifact.description.latency_kind
    if latency_kind not in (None, own):
        raise InvalidValueError("latency kind", latency_kind, f"{own}, which {path} was trained for")
    return LearnedController(
        chooser=ChooserNetwork(description=artifact.description, weights=artifact.weights),
        model=artifact.estimator,
        bounds=artifact.bounds,
        alpha=alpha,
    )
