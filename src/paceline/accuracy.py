"""Accuracies of a profile by data set, configuration and type of question, and how far configurations differ.

Questions about one picture are not independent: intervals count pictures, not questions. Configurations are compared on the
questions that both answered, pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from paceline.analyze import of_datasets
from paceline.datasets.scorers.tally import official_count, root_mean_square_error
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.profiles.fields import CONFIGURATION
from paceline.profiles.questions import AskedQuestion, Key
from paceline.profiles.told import Name, ToldQuestion, pictures_of, told_questions
from paceline.records import KnobConfig
from paceline.slo import CONFIDENCE, Interval, MeanEstimate, clustered_estimate

ACCURACY_COLUMNS = ("dataset", "sample_id", *CONFIGURATION, "accuracy", "pred", "metadata")
COUNTING = "tally"  # scorers of counts: their sets report the error of the numbers too


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAccuracy:
    """The mean accuracy of some questions of a set under one configuration; `label` is None for all of the set.

    `interval` is a 95 % interval over pictures, None for a single question. `count_rmse` is the root mean square error of counts,
    for sets of counts.
    """

    dataset: str
    config: KnobConfig
    label: str | None
    accuracy: MeanEstimate
    pictures: int
    interval: Interval | None
    count_rmse: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedAccuracy:
    """How much more accurate `config` is than `against` on the same questions, with a 95 % interval over pictures.

    `better` and `worse` count the questions on which it scored more and less.
    """

    dataset: str
    config: KnobConfig
    against: KnobConfig
    difference: float
    interval: Interval | None
    questions: int
    better: int
    worse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyAnalysis:
    """Accuracies of every set and configuration, by type of question too, and differences to one configuration a set."""

    overall: tuple[GroupAccuracy, ...]
    by_type: tuple[GroupAccuracy, ...]
    differences: tuple[PairedAccuracy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """One configuration's answers to one set, in the order of names."""

    dataset: str
    config: KnobConfig
    names: list[Name]
    accuracy: list[float]
    pred: list[str]


def analyze_accuracy(
    samples: pl.DataFrame,
    *,
    datasets: Sequence[str] | None = None,
    against: KnobConfig | None = None,
    questions: Mapping[Key, AskedQuestion] | None = None,
) -> AccuracyAnalysis:
    """Return the accuracies of samples with ACCURACY_COLUMNS; types and pictures are those that their metadata tells.

    Differences are to `against`, or to the largest configuration of each set. `questions` give the true counts of sets of
    counts. Raises UnknownChoiceError for a configuration that was not measured.
    """
    samples = of_datasets(samples, datasets)
    told = told_questions(samples)
    answers = _answers(samples)
    chosen = {dataset: _against(dataset, answers, against) for dataset in dict.fromkeys(a.dataset for a in answers)}
    counts = {name: each for name, each in (questions or {}).items() if each.scorer.startswith(COUNTING)}
    return AccuracyAnalysis(
        overall=tuple(_group(each, None, range(len(each.names)), told, counts) for each in answers),
        by_type=tuple(group for each in answers for group in _by_type(each, told, counts)),
        differences=tuple(
            _paired(each, chosen[each.dataset], told) for each in answers if each.config != chosen[each.dataset].config
        ),
    )


def design_effects(samples: pl.DataFrame) -> dict[tuple[str, KnobConfig], float]:
    """Return how much the variance of each accuracy grows by pictures that questions share, by data set and configuration."""
    told = told_questions(samples)
    return {
        (each.dataset, each.config): clustered_estimate(each.accuracy, pictures_of(told, each.names)).design_effect
        for each in _answers(samples)
    }


def _answers(samples: pl.DataFrame) -> list[_Answers]:
    if samples.is_empty():
        raise InvalidValueError("profile", "empty", "at least one sample; measure one with `paceline profile`")
    frame = samples.with_columns(pl.col("dataset", "tier").cast(pl.String)).sort("dataset", "sample_id")
    found: list[_Answers] = []
    for part in frame.partition_by("dataset", *CONFIGURATION, maintain_order=True):
        first: dict[str, Any] = part.row(0, named=True)
        found.append(
            _Answers(
                dataset=first["dataset"],
                config=KnobConfig(**{name: first[name] for name in CONFIGURATION}),
                names=list(part.select("dataset", "sample_id").iter_rows()),
                accuracy=part["accuracy"].to_list(),
                pred=part["pred"].to_list() if "pred" in part.columns else [],
            )
        )
    return sorted(found, key=lambda each: (each.dataset, each.config.size))


def _against(dataset: str, answers: Sequence[_Answers], against: KnobConfig | None) -> _Answers:
    """Return the answers of one set that the others are compared with."""
    own = [each for each in answers if each.dataset == dataset]
    if against is None:
        return max(own, key=lambda each: each.config.size)
    named = next((each for each in own if each.config == against), None)
    if named is None:
        raise UnknownChoiceError(f"configuration of {dataset}", against.key, [each.config.key for each in own])
    return named


def _by_type(
    answers: _Answers, told: Mapping[Name, ToldQuestion], counts: Mapping[Key, AskedQuestion]
) -> list[GroupAccuracy]:
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(answers.names):
        for label in told[name].types:
            rows_of.setdefault(label, []).append(row)
    return [_group(answers, label, rows, told, counts) for label, rows in sorted(rows_of.items())]


def _group(
    answers: _Answers,
    label: str | None,
    rows: Sequence[int],
    told: Mapping[Name, ToldQuestion],
    counts: Mapping[Key, AskedQuestion],
) -> GroupAccuracy:
    names = [answers.names[row] for row in rows]
    pictures = pictures_of(told, names)
    estimate = clustered_estimate([answers.accuracy[row] for row in rows], pictures)
    return GroupAccuracy(
        dataset=answers.dataset,
        config=answers.config,
        label=label,
        accuracy=estimate,
        pictures=len(set(pictures)),
        interval=estimate.score_interval(),
        count_rmse=_rmse(
            [(answers.pred[row], counts[answers.names[row]]) for row in rows if answers.names[row] in counts]
        ),
    )


def _rmse(said: Sequence[tuple[str, AskedQuestion]]) -> float | None:
    """Return the error of counts; answers that the official script cannot read as a number are outside it, as there."""
    read = [(official_count(pred), int(question.references[0])) for pred, question in said]
    pairs = [(count, true) for count, true in read if count is not None]
    if not pairs:
        return None
    return root_mean_square_error([count for count, _ in pairs], [true for _, true in pairs])


def _paired(one: _Answers, other: _Answers, told: Mapping[Name, ToldQuestion]) -> PairedAccuracy:
    theirs = dict(zip(other.names, other.accuracy, strict=True))
    both = [(name, mine - theirs[name]) for name, mine in zip(one.names, one.accuracy, strict=True) if name in theirs]
    if not both:
        raise InvalidValueError(
            f"questions of {one.dataset}",
            f"none under both {one.config.key} and {other.config.key}",
            "configurations that answered the same questions",
        )
    differences = [difference for _, difference in both]
    pictures = pictures_of(told, [name for name, _ in both])
    estimate = clustered_estimate(differences, pictures)
    return PairedAccuracy(
        dataset=one.dataset,
        config=one.config,
        against=other.config,
        difference=estimate.mean,
        interval=estimate.interval() if estimate.std else _none_differs(len(set(pictures)), estimate),
        questions=len(both),
        better=sum(each > 0 for each in differences),
        worse=sum(each < 0 for each in differences),
    )


def _none_differs(pictures: int, estimate: MeanEstimate) -> Interval | None:
    """Return what equal answers to all questions leave open: with 95 % at most this share of pictures would differ."""
    if estimate.mean:
        return None
    share = 1 - (1 - CONFIDENCE) ** (1 / pictures)
    return Interval(low=-share, high=share)


def accuracy_document(analysis: AccuracyAnalysis) -> dict[str, Any]:
    """Return the analysis as the JSON document of `paceline accuracy`."""
    return {
        "overall": [_group_document(each) for each in analysis.overall],
        "by_type": [_group_document(each) for each in analysis.by_type],
        "differences": [
            {
                "dataset": each.dataset,
                "config": each.config.key,
                "against": each.against.key,
                "difference": each.difference,
                "interval": _ends(each.interval),
                "questions": each.questions,
                "better": each.better,
                "worse": each.worse,
            }
            for each in analysis.differences
        ],
    }


def _group_document(group: GroupAccuracy) -> dict[str, Any]:
    return {
        "dataset": group.dataset,
        "config": group.config.key,
        "type": group.label,
        "accuracy": group.accuracy.mean,
        "interval": _ends(group.interval),
        "questions": group.accuracy.count,
        "pictures": group.pictures,
        "design_effect": group.accuracy.design_effect,
        "count_rmse": group.count_rmse,
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
