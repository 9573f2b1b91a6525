"""Tables, and controllers of generated data, for tests of models under a controller."""

from latency_models import TokenLinear
from learned_controllers import synthetic_bounds

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.learned.controller import LearnedController
from paceline.records import KnobConfig
from paceline.runtime import AdaptiveModel

RANKING = [7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1]
SMALL, LARGE = (KnobConfig(tier=t, top_k=k, num_active_blocks=b) for t, k, b in (("low", 2, 8), ("high", 8, 16)))


def table(*, model="digits", rankings=(RANKING,), latencies=(10.0, 50.0), kind="prefill"):
    entries = [
        TableEntry(
            config=config, accuracy=accuracy, latency_ms=ms, num_samples=10, accuracy_std=0.1, latency_std_ms=1.0
        )
        for config, accuracy, ms in zip((SMALL, LARGE), (0.5, 0.9), latencies, strict=True)
    ]
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind=kind,
        datasets=("digits_read",),
        num_profiling_results=20,
        provenance=tuple({"model": model, "block_ranking": ranking} for ranking in rankings),
    )
    return LookupTable(entries=entries, metadata=metadata)


def adaptive(digits, **options):
    return AdaptiveModel(model=digits, controller=table(**options), max_new_tokens=4)


def learned(chooser, rates=(0.001, 0.002)):
    """Predicts far less than the embedded model takes, so that any budget of a test fits."""
    bounds = synthetic_bounds(
        (SMALL, LARGE), accuracies=(0.5, 0.9), provenance=({"model": "digits", "block_ranking": RANKING},)
    )
    model = TokenLinear(dict(zip((SMALL, LARGE), rates, strict=True)))
    return LearnedController(chooser=chooser, model=model, bounds=bounds)
