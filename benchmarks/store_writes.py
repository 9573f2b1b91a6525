"""Time what safety costs the profile store: a sample appended with and without waiting for the disk, and opening.

    python benchmarks/store_writes.py [--samples 2000] [--rounds 5] [--directory DIRECTORY]

Writes benchmarks/results/store_writes.json. The samples are synthetic. Both ways take turns, in blocks of 100 samples into
two stores on one disk; the figures are those of the disk that DIRECTORY is on, by default the temporary folder's.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from provenance import provenance

from paceline.profiles import ProfileStore
from paceline.records import KnobGrid, ProfileSample, Provenance

RESULTS = Path(__file__).parent / "results" / "store_writes.json"
BLOCK = 100
RUN = Provenance(
    model="synthetic",
    revision=None,
    dtype="none",
    device="none: the samples are generated",
    driver=None,
    clock="none",
    versions={},
    commit=None,
    seed=0,
    grid=KnobGrid(tiers=("low",), top_ks=(4,), block_counts=(16,)),
    block_ranking=(),
    datasets={"text_vqa": "synthetic"},
    created="2026-01-01T00:00:00Z",
    settings={"synthetic": True},
)


def sample(index: int) -> ProfileSample:
    """Return one synthetic sample."""
    return ProfileSample(
        dataset="text_vqa",
        sample_id=str(index),
        tier="low",
        top_k=4,
        num_active_blocks=16,
        target_vision_tokens=432,
        actual_vision_tokens=430,
        actual_text_tokens=20,
        output_tokens=3,
        accuracy=1.0,
        pred="synthetic",
        metadata={"synthetic": True},
        T_vision_total=31.0,
        T_LLM_prefill=60.0,
        T_LLM_decode=40.0,
        T_decode_per_token=20.0,
        T_total=133.0,
    )


def one_round(directory: Path, samples: int) -> dict[str, float]:
    """Return microseconds a sample, and milliseconds to make a store, with and without waiting for the disk."""
    figures: dict[str, float] = {}
    stores: dict[str, ProfileStore] = {}
    seconds = {"with fsync": 0.0, "without": 0.0}
    for name in seconds:
        start = time.perf_counter()
        stores[name] = ProfileStore.open_or_create(directory / name, RUN, fsync=name == "with fsync")
        figures[f"making a store {name}, ms"] = (time.perf_counter() - start) * 1e3
    for first in range(0, samples, BLOCK):
        for name, store in stores.items():
            block = [sample(index) for index in range(first, first + BLOCK)]
            start = time.perf_counter()
            for each in block:
                store.append(each)
            seconds[name] += time.perf_counter() - start
    for name, store in stores.items():
        store.close()
        figures[f"a sample {name}, us"] = seconds[name] / samples * 1e6
    return figures


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            rounds.append(one_round(Path(folder), arguments.samples))
    figures: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        figures[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        print(f"{name:<34} {figures[name]['median']:8.1f} ({min(values):.1f} to {max(values):.1f})")
    document = {
        **provenance("store_writes.py"),
        "data": "synthetic",
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "figures": figures,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
