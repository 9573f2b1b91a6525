"""The controllers that one profile gives: built from its fit and calibration parts, to be judged on the third."""

from dataclasses import replace

from paceline.control.controller import Controller
from paceline.control.dataset_tables import DatasetTables
from paceline.control.estimated import DEFAULT_ALPHA, BoundController, PointController
from paceline.control.fixed import FixedConfiguration
from paceline.control.table_entry import DEFAULT_TOLERANCE
from paceline.estimate.bounds import LatencyBounds
from paceline.estimate.latency_model import LatencyModel
from paceline.fit.conformal import known_samples
from paceline.fit.table import build_dataset_tables, build_lookup_table
from paceline.profiles import Profile, SampleParts
from paceline.records import LatencyKind


def table_candidates(
    profile: Profile, parts: SampleParts, *, latency_kind: LatencyKind = "prefill", tolerance: float = DEFAULT_TOLERANCE
) -> dict[str, Controller]:
    """Return `table`, `dataset_tables` and `fixed_<configuration>` of each one, from the fit and calibration parts."""
    known = replace(profile, samples=known_samples(parts))
    table = build_lookup_table(known, latency_kind=latency_kind, tolerance=tolerance)
    tables = build_dataset_tables(known, latency_kind=latency_kind, tolerance=tolerance)
    fixed = {
        f"fixed_{entry.config.key}": FixedConfiguration(
            entry=entry, latency_kind=latency_kind, provenance=table.provenance
        )
        for entry in table.entries
    }
    return {"table": table, "dataset_tables": DatasetTables(tables=tables, otherwise=table), **fixed}


def estimator_candidates(
    model: LatencyModel,
    bounds: LatencyBounds,
    *,
    alpha: float = DEFAULT_ALPHA,
    latency_kind: LatencyKind = "prefill",
) -> dict[str, Controller]:
    """Return `point` and `bound`; the model must be of the fit part, the bounds of the calibration part."""
    return {
        "point": PointController(model=model, bounds=bounds, latency_kind=latency_kind),
        "bound": BoundController(model=model, bounds=bounds, alpha=alpha, latency_kind=latency_kind),
    }
