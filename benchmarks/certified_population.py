"""Measure the complete profile that `benchmarks/certified_profile.py` draws from: the embedded model, every configuration.

    python benchmarks/certified_population.py --latencies demo-out/profile [--per-set 1000] [--batch-size 48]
        [--profiles STORE ...] [--part 0 --parts 1] [--collect]

Writes benchmarks/results/certified_population.npz: the accuracy of every question (question, configuration; 0 or 1) and its data
set, from batched passes in which a tier's pictures are encoded once. They are kept in build/ block by block, so that a killed run
goes on; `--parts` runs beside each other share the blocks; `--collect` measures nothing and joins what is there. Complete
questions of other profiles of the same model are joined by `--profiles`. Prefill milliseconds at batch size 1 (request,
configuration) come from a profile, that of `paceline demo` for example. Some questions are answered both ways: the file says how
many of those answers are equal, and what a cell took each way in time of the processor. Other work may share the machine.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions
from paceline.measure.batched import answer_batched
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import answer_measured
from paceline.models.grid import default_grid
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.profiles import read_profile
from paceline.records import KnobConfig

OUT = Path(__file__).parent / "results" / "certified_population.npz"
WORK = Path("build/certified_population")
BLOCK, COMPARED = 96, 8
SPLIT, SEED, MAX_NEW_TOKENS = "test", 18, 32


def asked_questions(per_set: int) -> list[VisualQuestion]:
    """Return the questions of all sets in a random order, the same at every call."""
    questions = [q for name in DIGIT_SETS for q in digit_questions(name, split=SPLIT, count=per_set, seed=SEED)]
    return [questions[place] for place in np.random.default_rng(SEED).permutation(len(questions))]


def accuracies(
    model: VisionLanguageModel, questions: list[VisualQuestion], configs: list[KnobConfig], batch_size: int
) -> tuple[np.ndarray, list[list[str]]]:
    """Return accuracies and texts (question, configuration) of a batched pass."""
    rows = {each.sample_id: row for row, each in enumerate(questions)}
    columns = {config: column for column, config in enumerate(configs)}
    found = np.full((len(questions), len(configs)), np.nan, dtype=np.float32)
    texts = [[""] * len(configs) for _ in questions]
    answers = answer_batched(
        model,
        questions,
        configs,
        ranking=model.block_ranking or (),
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=batch_size,
    )
    for each in answers:
        row, column = rows[each.question.sample_id], columns[each.config]
        found[row, column], texts[row][column] = each.accuracy, each.text
    return found, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Questions of a profile that every configuration answered: accuracies and prefill milliseconds."""

    names: list[tuple[str, str]]
    accuracy: np.ndarray
    prefill_ms: np.ndarray


def complete_questions(store: Path, configs: list[KnobConfig]) -> Measured:
    """Return the complete questions of a profile."""
    columns = {config: column for column, config in enumerate(configs)}
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in read_profile(store).samples.iter_rows(named=True):
        config = KnobConfig(tier=row["tier"], top_k=row["top_k"], num_active_blocks=row["num_active_blocks"])
        if config in columns:
            rows.setdefault((row["dataset"], row["sample_id"]), {})[columns[config]] = row
    whole = {name: found for name, found in sorted(rows.items()) if len(found) == len(configs)}
    in_order = [[found[column] for column in range(len(configs))] for found in whole.values()]
    return Measured(
        names=list(whole),
        accuracy=np.array([[cell["accuracy"] for cell in found] for found in in_order], dtype=np.float32),
        prefill_ms=np.array([[cell["T_vision_total"] + cell["T_LLM_prefill"] for cell in found] for found in in_order]),
    )


def kept_blocks(
    model: VisionLanguageModel, questions: list[VisualQuestion], configs: list[KnobConfig], told: argparse.Namespace
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Return the accuracies of all questions with their names, block by block from disk where they were measured before."""
    WORK.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(questions), BLOCK)
    for number, start in enumerate(starts):
        path = WORK / f"{len(questions)}-{start:05d}.npy"
        if told.collect or number % told.parts != told.part or path.exists():
            continue
        found, _ = accuracies(model, questions[start : start + BLOCK], configs, told.batch_size)
        np.save(path.with_suffix(".part.npy"), found)
        path.with_suffix(".part.npy").rename(path)
        print(f"block {number + 1} of {len(starts)}", flush=True)
    there = [start for start in starts if (WORK / f"{len(questions)}-{start:05d}.npy").exists()]
    if len(there) < len(starts) and not told.collect:
        raise SystemExit(f"{len(starts) - len(there)} blocks are still to be measured by the other parts")
    blocks = [np.load(WORK / f"{len(questions)}-{start:05d}.npy") for start in there]
    rows = [row for start in there for row in range(start, min(start + BLOCK, len(questions)))]
    return np.concatenate(blocks), [(questions[row].dataset, questions[row].sample_id) for row in rows]


def compared(model: VisionLanguageModel, configs: list[KnobConfig], batch_size: int) -> dict[str, float | int]:
    """Return how many answers are equal in batches and one at a time, and the processor's milliseconds a cell of both."""
    questions = asked_questions(COMPARED)
    clock = clock_for(model.device)
    before = time.process_time()
    _, together = accuracies(model, questions, configs, batch_size)
    between = time.process_time()
    singly = [
        [
            answer_measured(
                model,
                each.picture,
                each.prompt,
                config,
                ranking=model.block_ranking or (),
                max_new_tokens=MAX_NEW_TOKENS,
                clock=clock,
            ).text
            for config in configs
        ]
        for each in questions
    ]
    after = time.process_time()
    pairs = [pair for one, other in zip(together, singly, strict=True) for pair in zip(one, other, strict=True)]
    return {
        "compared_answers": len(pairs),
        "equal_answers": sum(one == other for one, other in pairs),
        "batched_cpu_ms_a_cell": (between - before) / len(pairs) * 1e3,
        "one_at_a_time_cpu_ms_a_cell": (after - between) / len(pairs) * 1e3,
    }


def main() -> None:
    """Measure and write the population."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--latencies", type=Path, required=True)
    parser.add_argument("--profiles", type=Path, nargs="*", default=[])
    parser.add_argument("--per-set", type=int, default=1000)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args()
    model = load_model("digits")
    configs = default_grid(model).configurations()
    found, names = kept_blocks(model, asked_questions(told.per_set), configs, told)
    timed = complete_questions(told.latencies, configs)
    known = dict(zip(names, found, strict=True))
    for other in (timed, *(complete_questions(store, configs) for store in told.profiles)):
        known |= dict(zip(other.names, other.accuracy, strict=True))
    note = {
        "model": model.name,
        "split": SPLIT,
        "seed": SEED,
        "configurations": [each.key for each in configs],
        "datasets": list(DIGIT_SETS),
        "questions_in_batches": len(names),
        "questions_of_profiles": len(known) - len(names),
        "batch_size": told.batch_size,
        "threads": torch.get_num_threads(),
        **provenance("certified_population.py"),
        **compared(model, configs, told.batch_size),
    }
    np.savez_compressed(
        told.out,
        accuracy=np.array(list(known.values())).astype(np.uint8),
        dataset=np.array([DIGIT_SETS.index(dataset) for dataset, _ in known], dtype=np.uint8),
        prefill_ms=timed.prefill_ms.astype(np.float32),
        note=np.array(json.dumps(note)),
    )
    print(json.dumps(note, indent=2))


if __name__ == "__main__":
    main()
