"""Two profiles of one grid against each other, question by question: what an upgrade made slower, or less accurate.

Questions about one picture change alike: intervals count pictures where a profile tells them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from paceline.analyze import latency_of, require_latency
from paceline.errors import InvalidValueError
from paceline.profiles import CONFIGURATION, Profile
from paceline.profiles.told import Name, pictures_of, told_questions
from paceline.records import KnobConfig, LatencyKind
from paceline.slo import Interval, MeanEstimate, clustered_estimate

CONFIDENCE = 0.95
FEWEST_PAIRS = 10  # of a configuration, about as many pictures; a normal interval of fewer says too much
NAME = ("dataset", "sample_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """One configuration on the questions that both profiles hold: latency after over before, and the accuracy that changed.

    `ratio` is the geometric mean over `pairs` questions, `accuracy` the mean difference (0 to 1).
    """

    config: KnobConfig
    pairs: int
    ratio: float
    ratio_interval: Interval
    accuracy: float
    accuracy_interval: Interval

    @property
    def slower(self) -> bool:
        """Whether all of the interval is above 1."""
        return self.ratio_interval.low > 1

    @property
    def faster(self) -> bool:
        """Whether all of the interval is below 1."""
        return self.ratio_interval.high < 1

    @property
    def less_accurate(self) -> bool:
        """Whether all of the interval is below 0."""
        return self.accuracy_interval.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileComparison:
    """What changed from one profile to another. Intervals hold together: with probability 0.95 all of them are right.

    `all_ratio` is the geometric mean over all pairs: where every configuration changed alike the machine is as likely a cause
    as the upgrade. `left_out` counts the samples of either profile that the other does not have.
    """

    latency_kind: LatencyKind
    pairs: int
    left_out: int
    all_ratio: float
    changes: tuple[ConfigChange, ...]

    @property
    def slower(self) -> tuple[ConfigChange, ...]:
        """The configurations that became slower, the most slowed first."""
        return tuple(sorted((each for each in self.changes if each.slower), key=lambda each: -each.ratio))

    @property
    def less_accurate(self) -> tuple[ConfigChange, ...]:
        """The configurations that became less accurate, the largest loss first."""
        return tuple(sorted((each for each in self.changes if each.less_accurate), key=lambda each: each.accuracy))


def compare_profiles(after: Profile, before: Profile, *, latency_kind: LatencyKind = "prefill") -> ProfileComparison:
    """Pair the samples of two profiles by question and configuration, and return what changed.

    The intervals are normal ones of means of differences (of logarithms, for latencies), with Bonferroni's correction for
    both figures of every configuration; with the column `metadata` they count the pictures that questions share. Raises
    InvalidValueError where no configuration has questions about ten pictures in both.
    """
    for each in (after, before):
        require_latency(each.samples, latency_kind)
    paired = _rows(after, latency_kind).join(
        _rows(before, latency_kind), on=[*NAME, *CONFIGURATION], suffix="_before", nulls_equal=True
    )
    pictures = _pictures(after.samples)
    groups = [
        (part, shown)
        for part in paired.partition_by(CONFIGURATION)
        if len(set(shown := _shown(part, pictures))) >= FEWEST_PAIRS
    ]
    if not groups:
        raise InvalidValueError(
            "profiles to compare",
            f"{paired.height} questions under one configuration in both",
            f"at least {FEWEST_PAIRS} of one configuration, about as many pictures: profile the same questions, with one seed",
        )
    confidence = 1 - (1 - CONFIDENCE) / (2 * len(groups))
    changes = sorted((_change(part, shown, confidence) for part, shown in groups), key=lambda each: each.config.size)
    return ProfileComparison(
        latency_kind=latency_kind,
        pairs=paired.height,
        left_out=after.samples.height + before.samples.height - 2 * paired.height,
        all_ratio=math.exp(paired.select(_log_ratio().mean()).item()),
        changes=tuple(changes),
    )


def _rows(profile: Profile, latency_kind: LatencyKind) -> pl.DataFrame:
    return profile.samples.select(
        pl.col("dataset").cast(pl.String),
        "sample_id",
        pl.col("tier").cast(pl.String),
        "top_k",
        "num_active_blocks",
        "accuracy",
        latency_ms=latency_of(latency_kind),
    )


def _log_ratio() -> pl.Expr:
    return (pl.col("latency_ms") / pl.col("latency_ms_before")).log()


def _pictures(samples: pl.DataFrame) -> Mapping[Name, Name]:
    """Return what each question shares its picture under; nothing where the samples do not tell."""
    if "metadata" not in samples.columns:
        return {}
    told = told_questions(samples)
    return dict(zip(told, pictures_of(told, list(told)), strict=True))


def _shown(part: pl.DataFrame, pictures: Mapping[Name, Name]) -> list[Name]:
    """Return the picture of each row, or the question itself where none is told."""
    return [pictures.get(name, name) for name in part.select(NAME).iter_rows()]


def _change(part: pl.DataFrame, shown: list[Name], confidence: float) -> ConfigChange:
    ratio, accuracy = (
        _estimate(part, expression, shown)
        for expression in (_log_ratio(), pl.col("accuracy") - pl.col("accuracy_before"))
    )
    logs, points = ratio.interval(confidence), accuracy.interval(confidence)
    assert logs is not None and points is not None, "there are ten pairs"
    return ConfigChange(
        config=KnobConfig(**{name: part[name][0] for name in CONFIGURATION}),
        pairs=part.height,
        ratio=math.exp(ratio.mean),
        ratio_interval=Interval(low=math.exp(logs.low), high=math.exp(logs.high)),
        accuracy=accuracy.mean,
        accuracy_interval=points,
    )


def _estimate(part: pl.DataFrame, expression: pl.Expr, shown: list[Name]) -> MeanEstimate:
    return clustered_estimate(part.select(expression.alias("value"))["value"].to_list(), shown)
