"""How much of an estimator's error in vLLM is the machine's: a store of `vllm_estimator.py` looked at, no engine started.

    python benchmarks/vllm_estimator_noise.py STORE [--again STORE]

Writes benchmarks/results/vllm_estimator_noise.json. All by the processor's clock, which leaves out the time that other work on
the machine took, and not what that work did to caches and clock rates meanwhile. Three questions are asked of the store:

- How far are two measurements of the same request apart, one right after the other? `--again` names a store whose requests were
  measured four times or more; of each half of them the least disturbed stands. Whoever knew what a request takes on average
  would be off by that, over the root of two.
- What do all configurations of a question have in common, that no line in its tokens tells? A store is measured question by
  question, so that is the question's, or the minute's: over both stores it correlates only where it is the question's.
- How far off are the estimator and ridge regression once the machine's speed of that minute is taken out: each prediction times
  the median of measured over predicted of the question's *other* configurations?
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from provenance import provenance

from paceline.fit.estimator.baselines import ridge
from paceline.fit.estimator.rows import decode_definition_of, latency_rows
from paceline.fit.estimator.training import train_estimator
from paceline.profiles import Split, read_profile, split_samples

RESULTS = Path(__file__).parent / "results" / "vllm_estimator_noise.json"
HEADS = ("prefill", "decode")
SEEDS = (3407, *range(1, 12))  # splits
QUESTION = ("dataset", "sample_id")
Floats = NDArray[np.float64]


def by_processor(samples: pl.DataFrame) -> pl.DataFrame:
    """Return the samples with the processor's milliseconds in place of the wall's."""
    told = [json.loads(text)["processor_ms"] for text in samples["metadata"]]
    steps = pl.when(pl.col("output_tokens") > 1).then(pl.col("T_LLM_decode") / (pl.col("output_tokens") - 1))
    return samples.with_columns(
        T_vision_total=pl.Series([each[0] for each in told], dtype=pl.Float64),
        T_LLM_prefill=pl.Series([each[1] for each in told], dtype=pl.Float64),
        T_LLM_decode=pl.Series([each[2] for each in told], dtype=pl.Float64),
    ).with_columns(T_decode_per_token=steps)


def noise_floor(samples: pl.DataFrame) -> dict[str, Any] | None:
    """Return by head how far the two halves of a request's repeats are apart, as a share of one; None without two repeats.

    Of each half stands the repeat that took the processor least, as among all of them.
    """
    apart: dict[str, list[float]] = {head: [] for head in HEADS}
    for text, tokens in zip(samples["metadata"], samples["output_tokens"], strict=True):
        numbers: list[float] = json.loads(text).get("processor_ms_of_all", [])
        every = [numbers[first : first + 3] for first in range(0, len(numbers), 3)]  # vision, prefill, decode
        if len(every) < 2:
            return None
        one, other = (min(every[start::2], key=sum) for start in (0, 1))
        apart["prefill"].append(abs(one[0] + one[1] - other[0] - other[1]) / (other[0] + other[1]))
        if tokens > 1:
            apart["decode"].append(abs(one[2] - other[2]) / other[2])
    return {
        head: {
            "apart": statistics.fmean(shares),
            "median_apart": statistics.median(shares),
            "knowing_the_mean": statistics.fmean(shares) / math.sqrt(2),
            "requests": len(shares),
        }
        for head, shares in apart.items()
    }


def common_to_questions(samples: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return by head what each question's measurements have in common: their mean log residual from a line in the tokens for
    each number of experts and blocks."""
    timed = samples.with_columns(
        tokens=(pl.col("actual_vision_tokens") + pl.col("actual_text_tokens")).cast(pl.Float64),
        prefill=pl.col("T_vision_total") + pl.col("T_LLM_prefill"),
        decode=pl.col("T_decode_per_token"),
    )
    found: dict[str, pl.DataFrame] = {}
    for head in HEADS:
        parts: list[pl.DataFrame] = []
        for _, group in timed.group_by("top_k", "num_active_blocks"):
            tokens_N, ms_N = group["tokens"].to_numpy(), group[head].to_numpy()
            line_N2 = np.stack([np.ones_like(tokens_N), tokens_N], axis=1)
            coefficients, *_ = np.linalg.lstsq(line_N2 / ms_N[:, None], np.ones_like(ms_N))
            parts.append(group.with_columns(residual=pl.Series(np.log(ms_N / (line_N2 @ coefficients)))))
        of_question = pl.concat(parts).group_by(QUESTION).agg(common=pl.col("residual").mean(), rows=pl.len())
        found[head] = of_question
    return found


def spread(samples: pl.DataFrame, again: pl.DataFrame | None) -> dict[str, Any]:
    """Return by head how much questions differ in what their configurations have in common, and how alike two runs are in it."""
    first = common_to_questions(samples)
    second = None if again is None else common_to_questions(again)
    found: dict[str, Any] = {}
    for head in HEADS:
        found[head] = {
            "standard_deviation": float(first[head]["common"].to_numpy().std(ddof=1)),
            "questions": first[head].height,
        }
        if second is not None:
            both = first[head].join(second[head].filter(pl.col("rows") >= 6), on=QUESTION, suffix="_again")
            pairs_N2 = both.select("common", "common_again").to_numpy()
            found[head] |= {
                "correlation_of_two_runs": float(np.corrcoef(pairs_N2.T)[0, 1]),
                "questions_of_both": both.height,
            }
    return found


def off_by(samples: pl.DataFrame) -> dict[str, Any]:
    """Return the relative errors of estimator and ridge on held-out questions, as measured and at the same minute's speed."""
    errors: dict[str, dict[str, list[tuple[float, float]]]] = {
        model: {head: [] for head in HEADS} for model in ("estimator", "ridge")
    }
    for seed in SEEDS:
        split = Split(seed=seed)
        parts = split_samples(samples, split)
        definition = decode_definition_of(parts.fit)
        rows = latency_rows(parts.test, definition)
        network = train_estimator(parts.fit, split=split).network
        predictions = {
            "estimator": np.stack(network.estimate_rows(rows.features_NF), axis=1),
            "ridge": ridge(latency_rows(parts.fit, definition))(rows.features_NF),
        }
        questions = list(zip(*(parts.test[name].cast(pl.String).to_list() for name in QUESTION), strict=True))
        for model, predicted_NK in predictions.items():
            for place, head in enumerate(HEADS):
                measured_N, predicted_N = rows.measured_ms_NK[:, place], predicted_NK[:, place]
                at_speed_N = predicted_N * speed_of_the_minute(questions, measured_N / predicted_N)
                both = (np.abs(each_N - measured_N) / measured_N for each_N in (predicted_N, at_speed_N))
                plain, corrected = (float(each_N.mean()) for each_N in both)
                errors[model][head].append((plain, corrected))
    return {model: {head: told(each) for head, each in heads.items()} for model, heads in errors.items()}


def speed_of_the_minute(questions: list[tuple[str, ...]], ratios_N: Floats) -> Floats:
    """Return for each row the median ratio of the other rows of its question."""
    of_question: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, question in enumerate(questions):
        of_question[question].append(row)
    speed_N = np.ones_like(ratios_N)
    for rows in of_question.values():
        for row in rows:
            speed_N[row] = np.median([ratios_N[other] for other in rows if other != row])
    return speed_N


def told(errors: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the mean over splits with its range, as measured and at the same minute's speed."""
    return {
        name: {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
        for name, values in zip(("as_measured", "at_the_minutes_speed"), zip(*errors, strict=True), strict=True)
    }


def main() -> None:
    """Look at the stores, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--again", type=Path, help="of the same questions, measured another time")
    given = parser.parse_args()
    samples = by_processor(read_profile(given.store).samples)
    again = None if given.again is None else by_processor(read_profile(given.again).samples)
    document = {
        **provenance("vllm_estimator_noise.py"),
        "model": "synthetic: wide_vlm, random weights, 16 blocks of 512, 32 experts of 192, 8 a token",
        "samples": samples.height,
        "samples_again": None if again is None else again.height,
        "splits": len(SEEDS),
        "noise_floor": noise_floor(samples if again is None else again),
        "common_to_a_question": spread(samples, again),
        "relative_error": off_by(samples),
    }
    print(json.dumps(document, indent=2))
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
