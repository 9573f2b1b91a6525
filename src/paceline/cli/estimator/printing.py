"""What `paceline estimator` prints: tables for people, the parts of JSON documents for programs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paceline.cli.printing import print_table, say
from paceline.estimate.feasibility import FeasibleConfig
from paceline.fit.estimator.coverage import BoundCoverage
from paceline.fit.estimator.evaluation import (
    PERCENTILES,
    EstimatorEvaluation,
    HeadErrors,
    LatencyErrors,
    MaeDifference,
)
from paceline.records import KnobConfig, RequestFeatures

ERROR_COLUMNS = ("", "n", "MAE ms", "95 % CI", "RMSE ms", "relative", "median")
PERCENTILE_COLUMNS = ("predicted − measured", *PERCENTILES)
GAIN_COLUMNS = ("baseline", "prefill", "decode a token")
GROUP_COLUMNS = ("", "n", "prefill MAE ms", "relative", "decode MAE ms", "relative")
PREDICTED_COLUMNS = ("configuration", "prefill", "decode a token")
FEASIBLE_COLUMNS = (*PREDICTED_COLUMNS, "total", "max tokens", "feasible")


def print_evaluation(evaluation: EstimatorEvaluation, *, groups: bool) -> None:
    """Print errors of both latencies next to the baselines', and by data set and configuration where asked."""
    named = {"estimator": evaluation.errors} | {name: each.errors for name, each in evaluation.baselines.items()}
    judged = f"{evaluation.n:,} held-out measurements of {evaluation.num_samples:,} samples"
    _print_errors(f"Prefill: {judged}", named, "prefill")
    if evaluation.errors.decode is not None:
        _print_errors("Decode, a token", named, "decode")
    print_table("Distribution of errors, ms", PERCENTILE_COLUMNS, _percentile_rows(evaluation.errors))
    gains = [
        (name, *(_gain(each.estimator_minus_baseline.get(head)) for head in ("prefill", "decode")))
        for name, each in evaluation.baselines.items()
    ]
    print_table(
        "Mean |error| of the estimator minus the baseline's, ms (95 % CI; below 0: better)", GAIN_COLUMNS, gains
    )
    if groups:
        for title, found in (("By data set", evaluation.by_dataset), ("By configuration", evaluation.by_config)):
            print_table(title, GROUP_COLUMNS, [_group_row(name, each) for name, each in found.items()])


def print_coverage(coverage: BoundCoverage) -> None:
    """Print how often decisions by the bound kept their budgets."""
    if coverage.kept is None:
        say(f"Bounds promise {coverage.target:.3f}; no held-out decision by them could be judged.")
        return
    low, high = min(coverage.budgets_ms), max(coverage.budgets_ms)
    say(
        f"Bounds promise {coverage.target:.3f}. Decisions by the bound, prefill budgets {low:g} to {high:g} ms, one a "
        f"request, kept their budget: {coverage.kept}; for {coverage.none_fit:,} requests nothing fitted.",
    )


def print_predictions(
    request: RequestFeatures, outside: Sequence[str], rows: Sequence[tuple[KnobConfig, float, float]]
) -> None:
    """Print the latencies of one request under some configurations."""
    print_table(
        f"Estimated latencies, ms: {_request_words(request)}",
        PREDICTED_COLUMNS,
        [(config.key, f"{prefill_ms:.2f}", _milliseconds(decode_ms)) for config, prefill_ms, decode_ms in rows],
    )
    _print_outside(outside)


def print_feasible(
    request: RequestFeatures,
    outside: Sequence[str],
    found: Sequence[FeasibleConfig],
    budget_ms: float,
    expected_output_tokens: float,
) -> None:
    """Print what a budget allows each configuration."""
    fitting = sum(each.feasible for each in found)
    print_table(
        f"{fitting} of {len(found)} configurations answer {expected_output_tokens:g} tokens within {budget_ms:g} ms: "
        f"{_request_words(request)}; times in ms",
        FEASIBLE_COLUMNS,
        [_feasible_row(each) for each in found],
    )
    say("These are means, which about half of the requests exceed; a bound (paceline run) promises.")
    _print_outside(outside)


def coverage_document(coverage: BoundCoverage) -> dict[str, Any]:
    """Return the coverage as its part of the JSON document of `paceline estimator eval`."""
    kept = coverage.kept
    interval = None if kept is None else kept.interval()
    return {
        "target": coverage.target,
        "policy_level": None if kept is None else kept.share,
        "ci": None if interval is None else [interval.low, interval.high],
        "n": 0 if kept is None else kept.count,
        "none_fit": coverage.none_fit,
        "budgets_ms": list(coverage.budgets_ms),
    }


def request_document(request: RequestFeatures, outside: Sequence[str]) -> dict[str, Any]:
    """Return what was asked for, and the features beyond the training ranges, as a part of a JSON document."""
    vision_tokens = {"none" if tier is None else tier: count for tier, count in request.vision_tokens.items()}
    return {"vision_tokens": vision_tokens, "text_tokens": request.text_tokens, "outside": list(outside)}


def prediction_document(config: KnobConfig, prefill_ms: float, decode_ms: float) -> dict[str, Any]:
    """Return the latencies of a configuration as a part of a JSON document; null for a latency that is unknown."""
    decode = None if math.isnan(decode_ms) else decode_ms
    return {**_knobs(config), "T_prefill_total": prefill_ms, "T_decode_per_token": decode}


def feasible_document(found: FeasibleConfig) -> dict[str, Any]:
    """Return what a budget allows a configuration as a part of a JSON document; null for what is unknown."""
    return {
        **_knobs(found.config),
        "T_prefill_total": found.prefill_ms,
        "T_decode_per_token": found.decode_per_token_ms,
        "T_total": found.total_ms,
        "max_output_tokens": found.max_output_tokens,
        "feasible": found.feasible,
    }


def _print_errors(title: str, named: Mapping[str, HeadErrors], head: str) -> None:
    found = [(name, getattr(errors, head)) for name, errors in named.items()]
    print_table(title, ERROR_COLUMNS, [_error_row(name, errors) for name, errors in found])


def _error_row(name: str, errors: LatencyErrors) -> list[str]:
    interval = errors.mae_interval
    return [
        name,
        f"{errors.n:,}",
        f"{errors.mae_ms:.3f}",
        f"{interval.low:.2f} … {interval.high:.2f}" if interval else "-",
        f"{errors.rmse_ms:.3f}",
        _share(errors.relative_error),
        _share(errors.median_relative_error),
    ]


def _percentile_rows(errors: HeadErrors) -> list[list[str]]:
    found = (("prefill", errors.prefill), ("decode a token", errors.decode))
    return [[name, *(f"{each.error_percentiles_ms[cut]:.2f}" for cut in PERCENTILES)] for name, each in found if each]


def _group_row(name: str, errors: HeadErrors) -> list[object]:
    decode = (None, None)
    if errors.decode is not None:
        decode = (f"{errors.decode.mae_ms:.3f}", _share(errors.decode.relative_error))
    prefill = errors.prefill
    return [name, f"{errors.n:,}", f"{prefill.mae_ms:.3f}", _share(prefill.relative_error), *decode]


def _gain(gain: MaeDifference | None) -> str | None:
    if gain is None:
        return None
    interval = f" ({gain.interval.low:+.3f} … {gain.interval.high:+.3f})" if gain.interval else ""
    return f"{gain.difference_ms:+.3f}{interval}"


def _feasible_row(found: FeasibleConfig) -> list[object]:
    return [
        found.config.key,
        f"{found.prefill_ms:.2f}",
        _milliseconds(found.decode_per_token_ms),
        _milliseconds(found.total_ms),
        found.max_output_tokens,
        "yes" if found.feasible else "no",
    ]


def _print_outside(outside: Sequence[str]) -> None:
    if outside:
        say(f"{', '.join(outside)} beyond what the estimator was trained on: extrapolated", mark="caution")


def _request_words(request: RequestFeatures) -> str:
    vision = ", ".join(f"{count} of {tier}" if tier else f"{count}" for tier, count in request.vision_tokens.items())
    return f"image tokens {vision}; text tokens {request.text_tokens}"


def _knobs(config: KnobConfig) -> dict[str, str | int | None]:
    return {"tier": config.tier, "top_k": config.top_k, "num_active_blocks": config.num_active_blocks}


def _milliseconds(value: float | None) -> str | None:
    return None if value is None or math.isnan(value) else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
