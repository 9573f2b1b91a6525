"""Run (multimodal) LLMs to a latency budget. Names load when they are first used: importing paceline imports no torch.

Not here: names for one user alone. What stands in `__all__` is the public API; rooms have more, and may change it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from paceline.control import LookupTable
    from paceline.control.estimated import BoundController
    from paceline.control.learned.controller import LearnedController
    from paceline.control.loading import load_controller
    from paceline.errors import PacelineError
    from paceline.estimate.network import NetworkEstimator
    from paceline.fit import build_lookup_table, build_lookup_table_from_core_exp, save_table
    from paceline.fit.estimator.artifact import train_artifact
    from paceline.fit.estimator.network import LatencyEstimator, LatencyEstimatorTrainer
    from paceline.fit.learned.artifact import train_controller
    from paceline.measure.profiling import ProfilePlan, run_profile
    from paceline.measure.verify import verify
    from paceline.models.knobs import applied
    from paceline.models.loading import load_model
    from paceline.profiles import ProfileStore, read_profile
    from paceline.records import (
        Decision,
        KnobConfig,
        KnobGrid,
        LatencyBudget,
        ProfileSample,
        Provenance,
        RequestFeatures,
        Sampling,
        StageTimes,
    )
    from paceline.runtime import AdaptiveAnswer, AdaptiveModel

_HOME = {
    "AdaptiveAnswer": "paceline.runtime",
    "AdaptiveModel": "paceline.runtime",
    "BoundController": "paceline.control.estimated",
    "Decision": "paceline.records",
    "KnobConfig": "paceline.records",
    "KnobGrid": "paceline.records",
    "LatencyBudget": "paceline.records",
    "LatencyEstimator": "paceline.fit.estimator.network",
    "LatencyEstimatorTrainer": "paceline.fit.estimator.network",
    "LearnedController": "paceline.control.learned.controller",
    "LookupTable": "paceline.control",
    "NetworkEstimator": "paceline.estimate.network",
    "PacelineError": "paceline.errors",
    "ProfilePlan": "paceline.measure.profiling",
    "ProfileSample": "paceline.records",
    "ProfileStore": "paceline.profiles",
    "Provenance": "paceline.records",
    "RequestFeatures": "paceline.records",
    "Sampling": "paceline.records",
    "StageTimes": "paceline.records",
    "applied": "paceline.models.knobs",
    "build_lookup_table": "paceline.fit",
    "build_lookup_table_from_core_exp": "paceline.fit",
    "load_controller": "paceline.control.loading",
    "load_model": "paceline.models.loading",
    "read_profile": "paceline.profiles",
    "run_profile": "paceline.measure.profiling",
    "save_table": "paceline.fit",
    "train_artifact": "paceline.fit.estimator.artifact",
    "train_controller": "paceline.fit.learned.artifact",
    "verify": "paceline.measure.verify",
}

__all__ = [  # noqa: RUF022  in the order of the pipeline: measure, build, serve
    "ProfilePlan",
    "run_profile",
    "load_model",
    "applied",
    "verify",
    "ProfileStore",
    "read_profile",
    "build_lookup_table",
    "build_lookup_table_from_core_exp",
    "save_table",
    "LatencyEstimator",
    "LatencyEstimatorTrainer",
    "train_artifact",
    "train_controller",
    "NetworkEstimator",
    "LookupTable",
    "BoundController",
    "LearnedController",
    "load_controller",
    "AdaptiveModel",
    "AdaptiveAnswer",
    "KnobConfig",
    "KnobGrid",
    "LatencyBudget",
    "RequestFeatures",
    "Sampling",
    "StageTimes",
    "ProfileSample",
    "Provenance",
    "Decision",
    "PacelineError",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
