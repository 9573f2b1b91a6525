"""The embedded demonstration: profile the model that ships with the package, learn what it costs, keep five budgets.

Every held-out question is answered under every budget by two controllers in turn: the lookup table, which promises mean
latencies, and the estimator with its bound, which promises that 95 of 100 requests keep their budgets.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from pathlib import Path

import numpy as np

from paceline.control import LookupTable
from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.loading import load_controller
from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions, score
from paceline.errors import MissingExtraError, OutputPathError, PacelineWarning
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.estimate.request import typical_request
from paceline.fit import build_lookup_table, save_table
from paceline.fit.conformal import split_for
from paceline.fit.estimator.artifact import train_artifact
from paceline.measure.profiling import ProfilePlan, ProfileRun, run_profile
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.profiles import read_profile
from paceline.profiles.atomic import keep_old, make_directory, write_atomically
from paceline.records import LatencyKind
from paceline.runtime import AdaptiveAnswer, AdaptiveModel
from paceline.slo import Proportion

no_page: MissingExtraError | None = None  # the demonstration does without charts
try:
    from paceline.report import write_report
except MissingExtraError as missing:
    no_page = missing

MODEL = "digits"
BUDGETS = 5
ROOM = 1.1  # of the smallest budget over the smallest bound
MAX_NEW_TOKENS = 8  # four digits and the end token, with room
SAMPLE_PICTURE, SAMPLE_PROMPT = "picture.png", "Read the digits."
BOUND, TABLE = "bound", "table"
KIND: LatencyKind = "ttft"  # what a caller waits
FEWEST_SAMPLES = 34  # of a set: with these, 48 of 102 questions calibrate; a bound at 95 % takes 45

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """One held-out request under one budget and controller: the question, the answer and whether that was right."""

    question: VisualQuestion
    controller: str
    answer: AdaptiveAnswer
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoProgress:
    """What is told, as (done, total), while the demonstration profiles, trains and answers."""

    on_profile: Progress
    on_training: Progress
    on_request: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration did, and where it left it."""

    out: Path
    profile: ProfileRun
    table: LookupTable
    budgets_ms: tuple[float, ...]
    requests: tuple[DemoRequest, ...]

    def at(self, controller: str, budget_ms: float) -> list[DemoRequest]:
        """Return the requests that a controller answered under this budget."""
        return [each for each in self.of(controller) if each.answer.budget_ms == budget_ms]

    def of(self, controller: str) -> list[DemoRequest]:
        """Return the requests that a controller answered."""
        return [each for each in self.requests if each.controller == controller]


def run_demo(out: Path, *, samples: int, requests: int, progress: DemoProgress) -> DemoResult:
    """Profile, build table and estimator, answer `requests` held-out questions under each of five budgets, write it down.

    `samples` is per question set. `out` gets the profile, `table.json`, `estimator/`, `summary.json` and, where charts can be
    drawn (extra `[report]`), `report.html`. A
    demo that was stopped goes on in the same directory. Raises OutputPathError when `out` cannot be written,
    ProfileConflictError when it holds a profile of another machine or version, and InvalidValueError for too few samples.
    """
    make_writable(out)
    model = load_model(MODEL, device="cpu")
    plan = ProfilePlan(datasets=DIGIT_SETS, samples=samples, max_new_tokens=MAX_NEW_TOKENS)
    run = run_profile(model, plan, out / "profile", on_progress=progress.on_profile)
    profile = read_profile(out / "profile")
    table = build_lookup_table(profile, latency_kind=KIND)
    save_table(table, out / "table.json")
    split = split_for(samples * len(DIGIT_SETS), alpha=DEFAULT_ALPHA)
    train_artifact(profile, out / "estimator", split=split, on_progress=progress.on_training)
    if no_page is None:
        write_report(out / "profile", out / "report.html", latency_kind=KIND)  # pyright: ignore[reportPossiblyUnboundVariable]
    controllers = {BOUND: load_controller(out / "estimator", latency_kind=KIND), TABLE: table}
    budgets_ms = spread_budgets(out / "estimator")
    answered = _answer_held_out(model, controllers, budgets_ms, _held_out(requests, out), progress.on_request)
    result = DemoResult(out=out, profile=run, table=table, budgets_ms=budgets_ms, requests=tuple(answered))
    keep_old(out / "summary.json")
    write_atomically(out / "summary.json", (json.dumps(summary(result), indent=2) + "\n").encode())
    return result


def spread_budgets(estimator: Path) -> tuple[float, ...]:
    """Return five budgets in 0.1 ms, evenly spread over what the bounds of a typical request ask for.

    From a little above the smallest bound, so that larger requests fit too, to the slowest configuration's prediction
    under the median bound factor: the largest factor may be that of one stalled measurement.
    """
    network, bounds = NetworkEstimator.load(estimator), load_bounds(estimator)
    estimated_C = network.estimate(typical_request(network.description)).prefill_ms_C
    places = [network.configs.index(each.config) for each in bounds.configs]
    bounds_C = estimated_C[places] * bounds.factors(DEFAULT_ALPHA, KIND)
    low, high = ROOM * float(bounds_C.min()), float(estimated_C.max() * np.median(bounds.factors(DEFAULT_ALPHA, KIND)))
    return tuple(round(low + (high - low) * step / (BUDGETS - 1) + 0.05, 1) for step in range(BUDGETS))


def summary(result: DemoResult) -> dict[str, object]:
    """Return everything the demonstration found, as `summary.json` holds it; `requests` are those of the bound."""
    return {
        "model": MODEL,
        "profile": {
            "n": result.profile.samples_total,
            "configs": len(result.profile.configurations),
            "datasets": list(DIGIT_SETS),
        },
        "latency_kind": result.table.latency_kind,
        "alpha": DEFAULT_ALPHA,
        "budgets": list(result.budgets_ms),
        **_controller_document(result, BOUND),
        "table": _controller_document(result, TABLE),
    }


def proportions(requests: list[DemoRequest]) -> tuple[Proportion, Proportion]:
    """Return accuracy and adherence of some requests."""
    right = Proportion(successes=sum(request.correct for request in requests), count=len(requests))
    kept = Proportion(successes=sum(request.answer.within_budget for request in requests), count=len(requests))
    return right, kept


def _answer_held_out(
    model: VisionLanguageModel,
    controllers: Mapping[str, Controller],
    budgets_ms: tuple[float, ...],
    questions: list[VisualQuestion],
    on_request: Progress,
) -> list[DemoRequest]:
    """Answer the same questions under every budget, budgets and controllers taking turns: drift falls on all alike."""
    adaptive = {
        name: AdaptiveModel(model=model, controller=controller, max_new_tokens=MAX_NEW_TOKENS)
        for name, controller in controllers.items()
    }
    for each in adaptive.values():
        each.warm_up(questions[0].picture, questions[0].prompt, budgets_ms)
    turns = list(product(questions, budgets_ms, adaptive))
    answered: list[DemoRequest] = []
    for question, budget_ms, name in turns:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted and shown
            answer = adaptive[name].generate(question.picture, question.prompt, latency_budget_ms=budget_ms)
        correct = score(question, answer.text) == 1.0
        answered.append(DemoRequest(question=question, controller=name, answer=answer, correct=correct))
        on_request(len(answered), len(turns))
    return answered


def _held_out(count: int, out: Path) -> list[VisualQuestion]:
    """Return `count` test questions, the question sets taking turns; their scans were never profiled or trained on.

    The first one's picture is left in `out` for the user to try.
    """
    share = -(-count // len(DIGIT_SETS))
    sets = [digit_questions(dataset, split="test", count=share) for dataset in DIGIT_SETS]
    questions = [each for each in chain.from_iterable(zip_longest(*sets)) if each is not None][:count]
    questions[0].picture.save(out / SAMPLE_PICTURE)
    return questions


def _controller_document(result: DemoResult, controller: str) -> dict[str, object]:
    requests = result.of(controller)
    right, kept = proportions(requests)
    return {
        "requests": [_request_row(request) for request in requests],
        "adherence": kept.share,
        "accuracy": right.share,
        "by_budget": [_budget_row(result.at(controller, budget_ms), budget_ms) for budget_ms in result.budgets_ms],
    }


def _request_row(request: DemoRequest) -> dict[str, object]:
    answer = request.answer
    return {
        "sample_id": request.question.sample_id,
        "prompt": request.question.prompt,
        "budget_ms": answer.budget_ms,
        "tier": answer.config.tier,
        "top_k": answer.config.top_k,
        "num_active_blocks": answer.config.num_active_blocks,
        "promised": answer.promised,
        "promised_ms": promised_ms(answer),
        "expected_ms": answer.predicted_ms,
        "measured_ms": answer.measured_ms,
        "answer": answer.text,
        "expected": request.question.references[0],
        "correct": request.correct,
        "within_budget": answer.within_budget,
    }


def promised_ms(answer: AdaptiveAnswer) -> float:
    """Return what a controller said the latency would stay under: its bound, or the mean of one that has none."""
    return answer.predicted_ms if answer.bound_ms is None else answer.bound_ms


def _budget_row(requests: list[DemoRequest], budget_ms: float) -> dict[str, object]:
    right, kept = proportions(requests)
    right_ci, kept_ci = right.interval(), kept.interval()
    return {
        "budget_ms": budget_ms,
        "accuracy": right.share,
        "accuracy_ci": [right_ci.low, right_ci.high],
        "adherence": kept.share,
        "adherence_ci": [kept_ci.low, kept_ci.high],
        "none_fits": sum(not request.answer.promised for request in requests),
        "n": kept.count,
    }


def make_writable(out: Path) -> None:
    """Make the directory unless it stands; raises OutputPathError where it cannot be made or written."""
    try:
        make_directory(out)
    except OSError as error:
        raise OutputPathError(out, error.strerror or str(error)) from error
    if not os.access(out, os.W_OK):
        raise OutputPathError(out, "permission denied")
