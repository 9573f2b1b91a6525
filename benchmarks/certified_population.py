"""Measure the complete profile that `benchmarks/certified_profile.py` draws from: the embedded model, every configuration.

    python benchmarks/certified_population.py [--per-set 1000] [--timed 60] [--batch-size 48] [--part 0 --parts 1]

Writes benchmarks/results/certified_population.npz: the accuracy of every question (question, configuration; 0 or 1), its data
set, and of `--timed` questions prefill and total milliseconds at batch size 1, configurations in a new random order for each.
Accuracies come from batched passes in which a tier's pictures are encoded once; they are kept in build/ block by block, so that
a killed run goes on, and `--parts` runs beside each other share the blocks (the one that starts without --part joins them).
The timed questions are answered both ways: the file says how many answers are equal, and what a cell took each way in seconds
of the processor and of the clock, since other work may share the machine.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paceline.checkout import own_commit
from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions
from paceline.measure.batched import answer_batched
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import answer_measured
from paceline.models.grid import default_grid
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.records import KnobConfig

OUT = Path(__file__).parent / "results" / "certified_population.npz"
WORK = Path("build/certified_population")
BLOCK = 96
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


def one_at_a_time(
    model: VisionLanguageModel, questions: list[VisualQuestion], configs: list[KnobConfig]
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Return prefill and total milliseconds, and texts (question, configuration), at batch size 1."""
    clock, random = clock_for(model.device), np.random.default_rng(SEED)
    prefill_ms, total_ms = (np.zeros((len(questions), len(configs)), dtype=np.float32) for _ in range(2))
    texts = [[""] * len(configs) for _ in questions]
    for row, question in enumerate(questions):
        picture = question.picture
        for column in random.permutation(len(configs)):
            answer = answer_measured(
                model,
                picture,
                question.prompt,
                configs[column],
                ranking=model.block_ranking or (),
                max_new_tokens=MAX_NEW_TOKENS,
                clock=clock,
            )
            prefill_ms[row, column], total_ms[row, column] = answer.times.prefill_ms, answer.times.total_ms
            texts[row][column] = answer.text
    return prefill_ms, total_ms, texts


def timed(call: Any) -> tuple[Any, float, float]:
    """Return what a call returns, its seconds of the processor and those of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    return call(), time.process_time() - cpu, time.perf_counter() - wall


def kept_blocks(
    model: VisionLanguageModel, questions: list[VisualQuestion], configs: list[KnobConfig], told: argparse.Namespace
) -> np.ndarray:
    """Return the accuracies of all questions, block by block from disk where they were measured before."""
    WORK.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(questions), BLOCK)
    for number, start in enumerate(starts):
        path = WORK / f"{len(questions)}-{start:05d}.npy"
        if number % told.parts != told.part or path.exists():
            continue
        found, _ = accuracies(model, questions[start : start + BLOCK], configs, told.batch_size)
        np.save(path.with_suffix(".part.npy"), found)
        path.with_suffix(".part.npy").rename(path)
        print(f"block {number + 1} of {len(starts)}", flush=True)
    missing = [start for start in starts if not (WORK / f"{len(questions)}-{start:05d}.npy").exists()]
    if missing:
        raise SystemExit(f"{len(missing)} blocks are still to be measured by the other parts")
    return np.concatenate([np.load(WORK / f"{len(questions)}-{start:05d}.npy") for start in starts])


def main() -> None:
    """Measure and write the population."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--per-set", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args()
    model = load_model("digits")
    configs = default_grid(model).configurations()
    questions = asked_questions(told.per_set)
    found = kept_blocks(model, questions, configs, told)
    few = questions[: told.timed]
    one_at_a_time(model, few[:2], configs)  # new shapes choose new kernels
    (prefill_ms, total_ms, singly), single_cpu, single_wall = timed(lambda: one_at_a_time(model, few, configs))
    (_, together), batch_cpu, batch_wall = timed(lambda: accuracies(model, few, configs, told.batch_size))
    equal = sum(a == b for one, other in zip(singly, together, strict=True) for a, b in zip(one, other, strict=True))
    cells = len(few) * len(configs)
    note = {
        "model": model.name,
        "split": SPLIT,
        "seed": SEED,
        "configurations": [each.key for each in configs],
        "datasets": list(DIGIT_SETS),
        "batch_size": told.batch_size,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "commit": own_commit(),
        "equal_answers": equal,
        "compared_answers": cells,
        "one_at_a_time_ms_a_cell": {"cpu": single_cpu / cells * 1e3, "wall": single_wall / cells * 1e3},
        "batched_ms_a_cell": {"cpu": batch_cpu / cells * 1e3, "wall": batch_wall / cells * 1e3},
    }
    np.savez_compressed(
        told.out,
        accuracy=found.astype(np.uint8),
        dataset=np.array([DIGIT_SETS.index(each.dataset) for each in questions], dtype=np.uint8),
        prefill_ms=prefill_ms,
        total_ms=total_ms,
        note=np.array(json.dumps(note)),
    )
    print(json.dumps(note, indent=2))


if __name__ == "__main__":
    main()
