"""Calibrating latency bounds: what a latency model's predictions turned out to miss by, on samples it never saw.

Split conformal (Vovk et al., 2005; Romano et al., 2019; see `paceline.estimate.bounds`): the model is fitted on one part of
the samples, the scores log(measured / predicted) come from a second; a third judges the promise
(`paceline.fit.estimator.coverage`). Parts share no sample, for the configurations of one sample are not independent of one
another.

Legend of array suffixes: R requests, C configurations, N scores.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.analyze import latency_of
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.errors import EstimatorError, PacelineWarning
from paceline.estimate.bounds import (
    SMALLEST_MS,
    CalibratedConfig,
    ConformalScores,
    LatencyBounds,
    least_requests,
    predicted_ms,
    require_alpha,
)
from paceline.estimate.bounds_file import bounds_files, file_sha256
from paceline.estimate.description import WEIGHTS_FILE, EstimatorDescription
from paceline.estimate.latency_model import LatencyModel
from paceline.fit.table import aggregate_configs
from paceline.profiles import CONFIGURATION, Profile, SampleParts, Split, split_samples
from paceline.profiles.atomic import write_atomically
from paceline.profiles.parts import refuse_choosing_part
from paceline.profiles.questions import pictures_of_profile
from paceline.profiles.requests import MeasuredRequests, measured_requests
from paceline.profiles.splits import DEFAULT_SEED, picture_shared
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind, Provenance, RequestFeatures

MOST_EXPECTED_OF = 2000
SPARE = 1.3
LARGEST_CALIBRATION_SHARE = 0.45
RETRAIN = "train the estimator on this profile"


def calibrate_bounds(
    model: LatencyModel, parts: SampleParts, *, provenance: Sequence[Provenance] = ()
) -> LatencyBounds:
    """Return the bounds of a model that was fitted on `parts.fit`, calibrated on `parts.calibration`.

    Accuracies come from both parts, answer lengths and what is expected of bounds from the fitted one; `parts.test` is not
    looked at.
    """
    configs = calibrated_configs(model.configs, parts)
    lengths_C = np.array([each.expected_output_tokens for each in configs])
    scores: dict[LatencyKind, ConformalScores] = {}
    expected: dict[LatencyKind, NDArray[np.float64]] = {}
    some_fitted = _some_requests(parts.fit)
    for kind in _told_kinds(parts.calibration):
        scores[kind] = _scores_of(model, parts.calibration, kind, lengths_C)
        expected[kind] = expected_factors(_scores_of(model, some_fitted, kind, lengths_C))
    runs = tuple(json.loads(msgspec.json.encode(run)) for run in provenance)
    return LatencyBounds(configs=configs, scores=scores, expected=expected, provenance=runs)


def _scores_of(
    model: LatencyModel, samples: pl.DataFrame, kind: LatencyKind, lengths_C: NDArray[np.float64]
) -> ConformalScores:
    requests = measured_requests(samples, latency_of(kind))
    predicted_RC = predicted_matrix(model, requests.features, kind, lengths_C)
    return conformal_scores(_in_order_of(model.configs, requests), predicted_RC)


def _some_requests(samples: pl.DataFrame) -> pl.DataFrame:
    """Return the samples of at most 2,000 requests, any of them alike: an order of configurations takes no more."""
    names = samples.select("dataset", "sample_id").unique(maintain_order=True)
    some = names.sample(min(MOST_EXPECTED_OF, names.height), seed=DEFAULT_SEED)
    return samples.join(some, on=["dataset", "sample_id"], how="semi", maintain_order="left")


def _told_kinds(samples: pl.DataFrame) -> tuple[LatencyKind, ...]:
    """Return the latency kinds that all samples tell: a profile older than T_ttft has no ttft, and one that holds older
    samples beside newer ones none either, with a PacelineWarning."""
    older = samples["T_ttft"].null_count() if "T_ttft" in samples.columns else samples.height
    if 0 < older < samples.height:
        warnings.warn(
            f"{older:,} of {samples.height:,} calibrating samples are older than T_ttft, so these bounds are of prefill and "
            "total alone; profile again into a new directory to promise times to first token",
            PacelineWarning,
            stacklevel=3,
        )
    untold = older > 0
    return tuple(kind for kind in LATENCY_KINDS if not (kind == "ttft" and untold))


def split_for(num_samples: int, *, alpha: float, seed: int = DEFAULT_SEED) -> Split:
    """Return the usual split, with a larger calibration share where a small profile needs it to promise 1 − α.

    A promise takes `least_requests(α)` calibrating requests; the share aims at 30 % more, for which part a sample falls
    into is left to chance. The part that judges is the same either way.
    """
    require_alpha(alpha)
    usual = Split(seed=seed)
    wanted = SPARE * least_requests(alpha) / max(num_samples, 1)
    return replace(usual, calibration_share=min(max(usual.calibration_share, wanted), LARGEST_CALIBRATION_SHARE))


def usual_split(profile: Profile, *, alpha: float = DEFAULT_ALPHA, seed: int = DEFAULT_SEED) -> Split:
    """Return the usual split of a profile, by picture where its store tells that some questions share one."""
    names = set(profile.samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique().iter_rows())
    pictures = {name: picture for name, picture in pictures_of_profile(profile.source).items() if name in names}
    by_picture = len(pictures) == len(names) and picture_shared(pictures)
    independent = len(set(pictures.values())) if by_picture else len(names)
    return replace(split_for(independent, alpha=alpha, seed=seed), by_picture=by_picture)


def parts_of_profile(profile: Profile, split: Split) -> SampleParts:
    """Part a profile; a split by picture takes the pictures that its store tells.

    Raises CertificateError where questions that chose configurations would calibrate their bounds.
    """
    parts = split_samples(profile.samples, split, pictures_of_profile(profile.source) if split.by_picture else None)
    refuse_choosing_part(profile.source, parts.calibration, purpose="calibrating bounds")
    return parts


def split_of(description: EstimatorDescription) -> Split:
    """Return how samples were parted when an estimator was trained: what it did not see then can judge now."""
    told = description.split
    return Split(
        seed=int(told["seed"]),
        calibration_share=told["calibration_share"],
        test_share=told["test_share"],
        by_picture=bool(told.get("by_picture", False)),  # a description older than the field parted by sample
    )


def calibrated_configs(configs: Sequence[KnobConfig], parts: SampleParts) -> tuple[CalibratedConfig, ...]:
    """Return accuracy (fit and calibration parts) and mean answer length (fit part) of every configuration, in order."""
    entries = {each.config: each for each in aggregate_configs(known_samples(parts), "mean", "prefill")}
    lengths = {
        KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks): mean
        for tier, top_k, blocks, mean in parts.fit.group_by(CONFIGURATION)
        .agg(pl.col("output_tokens").mean())
        .iter_rows()
    }
    unknown = [config.key for config in configs if config not in lengths]
    if unknown:
        raise EstimatorError(
            "latency model",
            f"covers {', '.join(unknown)}, which the fitted samples do not",
            expected="a model of this profile",
            mend=RETRAIN,
        )
    return tuple(
        CalibratedConfig(
            config=config,
            accuracy=entries[config].accuracy,
            accuracy_std=entries[config].accuracy_std,
            num_samples=entries[config].num_samples,
            expected_output_tokens=lengths[config],
        )
        for config in configs
    )


def known_samples(parts: SampleParts) -> pl.DataFrame:
    """Return the samples that a controller may know: those of the fit and the calibration part."""
    return pl.concat([parts.fit, parts.calibration])


def conformal_scores(measured_ms_RC: NDArray[np.float64], predicted_ms_RC: NDArray[np.float64]) -> ConformalScores:
    """Return log(measured / predicted) of every configuration, ascending; NaN measurements are left out."""
    scores_RC = np.log(np.maximum(measured_ms_RC, SMALLEST_MS)) - np.log(predicted_ms_RC)
    scores_CR = scores_RC.T
    order_CR = np.argsort(scores_CR, axis=1, kind="stable")  # NaN comes last
    known_CR = ~np.isnan(np.take_along_axis(scores_CR, order_CR, axis=1))
    requests_N = order_CR[known_CR]
    return ConformalScores(
        scores_N=np.take_along_axis(scores_CR, order_CR, axis=1)[known_CR],
        requests_N=np.unique(requests_N, return_inverse=True)[1].astype(np.int32),
        counts_C=known_CR.sum(axis=1),
    )


def expected_factors(scores: ConformalScores) -> NDArray[np.float64]:
    """Return exp of the 95th percentile of every configuration's scores, that of all scores where it has none.

    Of samples that a model was fitted on it says where bounds are to be expected before anything is calibrated.
    """
    starts = np.cumsum(scores.counts_C) - scores.counts_C
    own = [scores.scores_N[start : start + count] for start, count in zip(starts, scores.counts_C, strict=True)]
    return np.exp([np.quantile(each if len(each) else scores.scores_N, 1 - DEFAULT_ALPHA) for each in own])


def predicted_matrix(
    model: LatencyModel, features: Sequence[RequestFeatures], kind: LatencyKind, lengths_C: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the predicted milliseconds of every request under every configuration of the model.

    A tier that a request was not measured under is given the image tokens of its largest known one: nothing that was
    measured depends on that prediction.
    """
    tiers = {config.tier for config in model.configs}
    return np.stack([predicted_ms(model.estimate(_with_every_tier(each, tiers)), kind, lengths_C) for each in features])


def save_bounds(bounds: LatencyBounds, directory: Path) -> None:
    """Write the bounds into the artifact directory of the estimator that they calibrate.

    Raises OutputPathError when that cannot be written. The description is written last and names the hashes of the other
    files, so a write that was cut short is refused when read.
    """
    weights_sha256 = file_sha256(directory / WEIGHTS_FILE)
    for name, content in bounds_files(bounds, estimator_sha256=weights_sha256).items():
        write_atomically(directory / name, content)


def _in_order_of(configs: Sequence[KnobConfig], requests: MeasuredRequests) -> NDArray[np.float64]:
    unknown = [config.key for config in requests.configs if config not in configs]
    if unknown:
        raise EstimatorError(
            "latency model",
            f"does not cover {', '.join(unknown)}, which samples were measured under",
            expected="a model of the whole grid",
            mend=RETRAIN,
        )
    found = np.full((len(requests.names), len(configs)), np.nan)
    found[:, [configs.index(config) for config in requests.configs]] = requests.latency_ms_RC
    return found


def _with_every_tier(features: RequestFeatures, tiers: set[str | None]) -> RequestFeatures:
    missing = tiers - features.vision_tokens.keys()
    if not missing:
        return features
    largest = max(features.vision_tokens.values())
    return RequestFeatures(
        text_tokens=features.text_tokens,
        vision_tokens={**dict.fromkeys(missing, largest), **features.vision_tokens},
        dataset=features.dataset,
    )
