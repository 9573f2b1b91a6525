"""A small table with a certificate: the largest configuration is the full one, the middle one passed, the smallest failed."""

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.certificate import Certificate, CertifiedClaim
from paceline.records import KnobConfig

CONFIGS = [KnobConfig(tier="low", top_k=k, num_active_blocks=16) for k in (1, 4, 8)]


def claim(config, verdict, **values):
    counts = {
        "asked": 100,
        "broken": 2,
        "mended": 1,
        "mean_loss": 0.01,
        "bound_ms": 30.0,
        "requests": 60,
        "exceeded": 1,
    }
    return CertifiedClaim(config=config, verdict=verdict, needed=90, **{**counts, **values})


def certificate(*claims, **values):
    told = {
        "epsilon": 0.03,
        "delta": 0.1,
        "rule": "two_looks",
        "latency_kind": "prefill",
        "full": CONFIGS[2],
        "choosing_questions": 50,
        "certifying_questions": 400,
        "mix": {"digits_read": 200, "digits_count": 200},
        "model": "digits",
        "seed": 1,
        "plan_sha256": "ab" * 32,
    }
    return Certificate(claims=claims, **{**told, **values})


def certified_table(held):
    entries = [
        TableEntry(
            config=config,
            accuracy=0.5 + place / 10,
            latency_ms=10.0 * (place + 1),
            num_samples=50,
            accuracy_std=0.4,
            latency_std_ms=1.0,
        )
        for place, config in enumerate(CONFIGS)
    ]
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("digits_read",),
        num_profiling_results=150,
        certificate=held,
        chosen_on=50,
    )
    return LookupTable(entries=entries, metadata=metadata)


HELD = certificate(claim(CONFIGS[1], "certified"), claim(CONFIGS[0], "failed", broken=9))
