"""Time tables and budgets from profiles of 0.16, 1.6 and 16 million samples, next to a plain loop over JSON.

    python benchmarks/profile_scale.py [--sizes 163859 1638588 16385880] [--rounds 5] [--data DIRECTORY]

Writes benchmarks/results/profile_scale.json. The profiles are synthetic and say so in their metadata: 9 datasets under
27 configurations. The largest size is measured from Parquet alone. Every measurement runs in its own process; peak
memory is that of the process and the largest of its children together. Files are warm: every way runs once unmeasured.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from provenance import provenance

from paceline.analyze import analyzed_columns
from paceline.fit import build_lookup_table
from paceline.profiles import SCHEMA, read_profile, write_core_exp
from paceline.profiles.description import StoreDescription
from paceline.profiles.parquet import ParquetNote, metadata_of
from paceline.profiles.store import write_store
from paceline.records import TIERS, KnobConfig, KnobGrid, Provenance

DATASETS = (
    "coco_2014_vqa",
    "text_vqa",
    "okvqa",
    "doc_qa",
    "st_qa",
    "science_qa_img",
    "mmmu",
    "tally_qa",
    "coco_caption",
)
GRID = KnobGrid(tiers=TIERS, top_ks=(4, 6, 8), block_counts=(12, 14, 16))
LARGEST_JSON = 2_000_000
MEBIBYTE = 2**20
RESULTS = Path(__file__).parent / "results" / "profile_scale.json"
SYNTHETIC = Provenance(
    model="synthetic",
    revision=None,
    dtype="none",
    device="none: the samples are generated",
    driver=None,
    clock="none",
    versions={"polars": pl.__version__},
    commit=None,
    seed=3407,
    grid=GRID,
    block_ranking=(),
    datasets=dict.fromkeys(DATASETS, "synthetic"),
    created="2026-01-01T00:00:00Z",
    settings={"synthetic": True},
)


def generated(dataset: str, config: KnobConfig, count: int, random: np.random.Generator) -> pl.DataFrame:
    """Return `count` synthetic samples of one dataset under one configuration."""
    tier, blocks, top_k = config.size
    vision_ms = random.lognormal(np.log(20 + 20 * tier), 0.1, count)
    prefill_ms = random.lognormal(np.log(3 * blocks + 2 * top_k + 20 * tier), 0.15, count)
    output_tokens = random.integers(1, 20, count)
    decode_ms = (output_tokens - 1) * random.lognormal(np.log(20), 0.1, count)
    right = random.random(count) < 0.4 + 0.05 * tier + 0.01 * blocks + 0.01 * top_k
    columns = {
        "dataset": [dataset] * count,
        "sample_id": [f"{dataset}-{index:07d}" for index in range(count)],
        "tier": [config.tier] * count,
        "top_k": [config.top_k] * count,
        "num_active_blocks": [config.num_active_blocks] * count,
        "target_vision_tokens": [144 * (3, 7, 13)[tier]] * count,
        "actual_vision_tokens": random.integers(100, 144 * (3, 7, 13)[tier], count),
        "actual_text_tokens": random.integers(8, 60, count),
        "output_tokens": output_tokens,
        "accuracy": right.astype(float),
        "pred": [("yes", "no", "a red bus")[index % 3] for index in range(count)],
        "metadata": ['{"synthetic":true}'] * count,
        "T_vision_total": vision_ms,
        "T_LLM_prefill": prefill_ms,
        "T_LLM_decode": decode_ms,
        "T_decode_per_token": pl.Series(decode_ms / np.maximum(output_tokens - 1, 1)).set(
            pl.Series(output_tokens == 1), None
        ),
        "T_total": vision_ms + prefill_ms + decode_ms + random.uniform(1, 3, count),
        "T_preprocess": random.uniform(2, 6, count),
        "T_ttft": vision_ms + prefill_ms + random.uniform(4, 9, count),
        "T_other": random.uniform(1, 3, count),
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def generated_parts(total: int) -> Iterator[pl.DataFrame]:
    """Yield a profile of `total` samples, one configuration of one dataset at a time."""
    random = np.random.default_rng(3407)
    cells = [(dataset, config) for dataset in DATASETS for config in GRID.configurations()]
    for index, (dataset, config) in enumerate(cells):
        yield generated(dataset, config, total // len(cells) + (index < total % len(cells)), random)


def generate(total: int, directory: Path) -> None:
    """Write `samples.parquet` and, up to LARGEST_JSON samples, the core-exp directory, a native store and its copy."""
    pieces = directory / "pieces"
    pieces.mkdir(parents=True)
    for index, part in enumerate(generated_parts(total)):
        part.write_parquet(pieces / f"{index:03d}.parquet")
    note = ParquetNote(description=StoreDescription(provenance=(SYNTHETIC,)), journal_bytes={})
    pl.scan_parquet(pieces / "*.parquet").sink_parquet(directory / "samples.parquet", metadata=metadata_of(note))
    shutil.rmtree(pieces)
    if total <= LARGEST_JSON:
        samples = pl.read_parquet(directory / "samples.parquet")
        write_core_exp(samples, directory / "core-exp")
        write_store(directory / "store", samples, StoreDescription(provenance=(SYNTHETIC,)))
        shutil.copytree(directory / "store", directory / "copy")


def table_from_profile(path: Path) -> dict[str, tuple[float, float]]:
    """Build the table as `paceline table build` does; returns accuracy and latency in ms of each configuration."""
    table = build_lookup_table(read_profile(path, columns=analyzed_columns("prefill")))
    return {each.config.key: (each.accuracy, each.latency_ms) for each in table.entries}


def table_from_plain_loop(path: Path) -> dict[str, tuple[float, float]]:
    """The same figures by json.load, a dict a sample and a loop: what one writes without thinking of size."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(path.glob("*/*.json")):
        with file.open() as opened:
            document = json.load(opened)
        for result in document["per_sample_results"]:
            key = f"{result['tier']}_{result['top_k']}_{result['num_active_blocks']}"
            latency_ms = result["T_vision_total"] + result["T_LLM_prefill"]
            kept = {"dataset": file.parent.name, "accuracy": result["accuracy"], "latency_ms": latency_ms}
            samples.setdefault(key, []).append(kept)
    return {
        key: (
            float(np.mean([each["accuracy"] for each in results])),
            float(np.mean([each["latency_ms"] for each in results])),
        )
        for key, results in samples.items()
    }


TABLES: dict[str, Callable[[Path], dict[str, tuple[float, float]]]] = {
    "profile": table_from_profile,
    "plain": table_from_plain_loop,
}


def measure_here(way: str, path: Path) -> None:
    """Build one table in this process and print its time and the table itself as JSON."""
    start = time.perf_counter()
    table = TABLES[way](path)
    seconds = time.perf_counter() - start
    peak_kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "peak_mib": peak_kib / 1024, "table": table}))


def in_own_process(command: list[str]) -> dict[str, Any]:
    """Run a command; returns its wall time, its peak memory and what it printed, read as JSON."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    document = json.loads(printed or b"{}")
    peak_mib = document.get("peak_mib", usage.ru_maxrss / 1024)
    return {"process_seconds": seconds, "peak_mib": peak_mib, "printed": document}


def spread(values: list[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measured(command: list[str], rounds: int) -> tuple[dict[str, Any], Any]:
    """Run a command once to warm the files and then `rounds` times; returns the figures and the last print-out."""
    runs = [in_own_process(command) for _ in range(rounds + 1)][1:]
    figures: dict[str, Any] = {name: spread([run[name] for run in runs]) for name in ("process_seconds", "peak_mib")}
    if "seconds" in runs[0]["printed"]:
        figures["seconds"] = spread([run["printed"]["seconds"] for run in runs])
    return figures, runs[-1]["printed"]


def measure_size(total: int, data: Path, rounds: int) -> dict[str, Any]:
    """Generate the profile of one size where it is missing, and measure every way to use it."""
    directory = data / str(total)
    this = [sys.executable, __file__]
    if not directory.exists():
        in_own_process([*this, "--generate", str(total), str(directory)])
    parquet, core_exp = directory / "samples.parquet", directory / "core-exp"
    ways = {"table from Parquet": [*this, "--measure", "profile", str(parquet)]}
    if core_exp.exists():
        ways["table from core-exp JSON"] = [*this, "--measure", "profile", str(core_exp)]
        ways["table from a store"] = [*this, "--measure", "profile", str(directory / "store")]
        ways["table from a copied store"] = [*this, "--measure", "profile", str(directory / "copy")]
        ways["plain loop over core-exp JSON"] = [*this, "--measure", "plain", str(core_exp)]
    budgets = [sys.executable, "-m", "paceline.cli.main", "budgets", str(parquet), "--json"]
    figures: dict[str, Any] = {"parquet_mib": parquet.stat().st_size / MEBIBYTE}
    tables: list[dict[str, list[float]]] = []
    for name, command in ways.items():
        figures[name], printed = measured(command, rounds)
        tables.append(printed["table"])
        report(total, name, figures[name])
    figures["paceline budgets from Parquet"], _ = measured(budgets, rounds)
    report(total, "paceline budgets from Parquet", figures["paceline budgets from Parquet"])
    check_agreement(tables)
    return figures


def check_agreement(tables: list[dict[str, list[float]]]) -> None:
    """Stop unless every way gave the same table: fast and wrong is no result."""
    for table in tables[1:]:
        same = table.keys() == tables[0].keys() and all(np.allclose(table[key], tables[0][key]) for key in table)
        if not same:
            raise SystemExit("the ways to build a table disagree")


def report(total: int, name: str, figures: dict[str, Any]) -> None:
    """Print one line a way: time of the call and of the whole process, and peak memory."""
    call = f"call {figures['seconds']['median']:.3f} s, " if "seconds" in figures else ""
    process = figures["process_seconds"]
    print(
        f"{total:>12,} samples  {name:<32} {call}process {process['median']:.2f} s "
        f"({process['min']:.2f}-{process['max']:.2f}), peak {figures['peak_mib']['median']:.0f} MiB",
        flush=True,
    )


def main() -> None:
    """Generate the profiles, measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[163_859, 1_638_588, 16_385_880])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="keep the generated profiles here and use those that are there")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_here(arguments.measure[0], Path(arguments.measure[1]))
        return
    if arguments.generate:
        generate(int(arguments.generate[0]), Path(arguments.generate[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder)
        sizes = {str(total): measure_size(total, data, arguments.rounds) for total in arguments.sizes}
    document = {
        **provenance("profile_scale.py", "polars"),
        "data": "synthetic: 9 datasets under 27 configurations",
        "rounds": arguments.rounds,
        "sizes": sizes,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
