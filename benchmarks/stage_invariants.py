"""Do the stages add up, what do the hooks cost, and is the key-value cache right while blocks are skipped?

    python benchmarks/stage_invariants.py [--model digits] [--pairs 300]

Writes benchmarks/results/stage_invariants.json. On the default grid of a model and one question a set: closure and
unattributed share of every sample, decode of 0, the hooks' overhead (interleaved pairs, median with its distribution-free
interval), and cached against uncached logits over every block count of 8 to 16 and ten random skip sets with early blocks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from paceline.datasets import DIGIT_SETS, digit_questions
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import answer_measured
from paceline.measure.profiling import block_ranking
from paceline.measure.verify import overhead_ratios
from paceline.models.grid import default_grid
from paceline.models.knobs import skipped_blocks
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.records import StageTimes
from paceline.slo import percentile, percentile_interval

RESULTS = Path(__file__).parent / "results" / "stage_invariants.json"
ROUNDS = 10


def measured_passes(model: VisionLanguageModel, ranking: tuple[int, ...]) -> list[StageTimes]:
    """Measure every configuration on one question of each set, in turns; the first round warms up."""
    questions = [digit_questions(name, split="validation", count=1)[0] for name in DIGIT_SETS]
    clock, kept = clock_for(model.device), list[StageTimes]()
    for round_index in range(ROUNDS + 1):
        for config in default_grid(model).configurations():
            for question in questions:
                answer = answer_measured(
                    model, question.picture, question.prompt, config, ranking=ranking, max_new_tokens=8, clock=clock
                )
                kept += [answer.times] if round_index else []
    return kept


def skip_sets(blocks: int) -> list[frozenset[int]]:
    """Return ten random sets of skipped blocks, each with some of the first three."""
    random = np.random.default_rng(3407)
    sets: list[frozenset[int]] = []
    for _ in range(10):
        early = random.choice(3, size=int(random.integers(1, 4)), replace=False)
        later = random.choice(np.arange(3, blocks), size=int(random.integers(0, blocks // 2)), replace=False)
        sets.append(frozenset(int(index) for index in (*early, *later)))
    return sets


def cache_differences(model: VisionLanguageModel, ranking: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Return the largest difference of logits by mode of decoding, over block counts and over random skip sets."""
    question = digit_questions("digits_read", split="validation", count=1)[0]
    request, blocks = model.prepare(question.picture, question.prompt, "high"), len(model.parts.blocks)
    groups = {
        "block counts of the grid": [
            skipped_blocks(blocks, count, ranking) for count in range(blocks // 2, blocks + 1, 2)
        ],
        "ten random skip sets with early blocks": skip_sets(blocks),
    }
    worst: dict[str, dict[str, float]] = {}
    for name, sets in groups.items():
        found = [cached_against_uncached(model.parts, request, skipped=skipped) for skipped in sets]
        worst[name] = {mode: max(each[mode] for each in found) for mode in found[0]}
    return worst


def figures(model: VisionLanguageModel, pairs: int) -> dict[str, Any]:
    """Measure everything; shares are of 1, times in milliseconds, differences in logits."""
    question = digit_questions("digits_read", split="validation", count=1)[0]
    ranking = block_ranking(model, [question])
    passes = measured_passes(model, ranking)
    overhead = overhead_ratios(model, model.prepare(question.picture, question.prompt, "high"), pairs=pairs)
    interval = percentile_interval(overhead, 50)
    assert interval is not None
    totals = [each.total_ms for each in passes]
    others = [each.other_ms / each.total_ms for each in passes]
    return {
        "samples": len(passes),
        "total_ms": {"median": percentile(totals, 50), "p5": percentile(totals, 5), "p95": percentile(totals, 95)},
        "closure_worst": max(each.closure for each in passes),
        "other_share": sum(each.other_ms for each in passes) / sum(totals),
        "other_share_by_sample": {"median": percentile(others, 50), "p95": percentile(others, 95), "max": max(others)},
        "gaps_ms_median": {
            name: percentile([getattr(each, name) for each in passes], 50)
            for name in ("before_vision_ms", "vision_to_decoder_ms", "first_token_to_decode_ms", "after_last_step_ms")
        },
        "decode_of_0_with_more_than_one_token": sum(each.output_tokens > 1 and each.decode_ms == 0 for each in passes),
        "hook_overhead": percentile(overhead, 50) - 1,
        "hook_overhead_ci": [interval.low - 1, interval.high - 1],
        "pairs": pairs,
        "cache_max_abs_diff": cache_differences(model, ranking),
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    document = {
        **provenance("stage_invariants.py"),
        "model": model.name,
        **figures(model, arguments.pairs),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
