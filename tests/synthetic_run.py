"""What a run would record of itself, made up: a small grid on no machine."""

from paceline.records import KnobGrid, Provenance

TOLD = {
    "model": "synthetic",
    "revision": None,
    "dtype": "float32",
    "device": "cpu",
    "driver": None,
    "clock": "none",
    "versions": {},
    "commit": None,
    "seed": 0,
    "grid": KnobGrid(tiers=("low",), top_ks=(4,), block_counts=(8,)),
    "block_ranking": (1,),
    "datasets": {"text_vqa": "synthetic"},
    "created": "2026-01-01T00:00:00Z",
    "settings": {},
}


def provenance(**changed) -> Provenance:
    """The made-up run's provenance, with other values where they are given."""
    return Provenance(**{**TOLD, **changed})
