"""The embedded demonstration: profile the model that ships with the package, build its table, keep five budgets."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from paceline.control import LookupTable
from paceline.datasets import DIGIT_SETS, VisualQuestion, digit_questions, score
from paceline.errors import OutputPathError
from paceline.fit import build_lookup_table, save_table
from paceline.measure.profiling import ProfilePlan, ProfileRun, run_profile
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.profiles import read_profile
from paceline.profiles.atomic import keep_old, write_atomically
from paceline.runtime import AdaptiveAnswer, AdaptiveModel
from paceline.slo import Proportion

MODEL = "digits"
BUDGETS = 5
MAX_NEW_TOKENS = 8  # four digits and the end token, with room
SAMPLE_PICTURE, SAMPLE_PROMPT = "picture.png", "Read the digits."


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """One held-out request: the question, the answer and whether that was right."""

    question: VisualQuestion
    answer: AdaptiveAnswer
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration did, and where it left it."""

    out: Path
    profile: ProfileRun
    table: LookupTable
    budgets_ms: tuple[float, ...]
    requests: tuple[DemoRequest, ...]

    def at(self, budget_ms: float) -> list[DemoRequest]:
        """Return the requests that had this budget."""
        return [request for request in self.requests if request.answer.budget_ms == budget_ms]


def run_demo(
    out: Path,
    *,
    samples: int,
    requests: int,
    on_profile: Callable[[int, int], None],
    on_request: Callable[[int, int], None],
) -> DemoResult:
    """Profile, build a table, answer `requests` held-out questions under each of five budgets, write `summary.json`.

    `samples` is per question set. A demo that was stopped goes on in the same directory. Raises OutputPathError when
    `out` cannot be written, ProfileConflictError when it holds a profile of another machine or version.
    """
    _make_writable(out)
    model = load_model(MODEL, device="cpu")
    plan = ProfilePlan(datasets=DIGIT_SETS, samples=samples, max_new_tokens=MAX_NEW_TOKENS)
    profile = run_profile(model, plan, out / "profile", on_progress=on_profile)
    table = build_lookup_table(read_profile(out / "profile"))
    save_table(table, out / "table.json")
    budgets_ms = spread_budgets(table)
    answered = _answer_held_out(model, table, budgets_ms, requests, on_request, out)
    result = DemoResult(out=out, profile=profile, table=table, budgets_ms=budgets_ms, requests=tuple(answered))
    keep_old(out / "summary.json")
    write_atomically(out / "summary.json", (json.dumps(summary(result), indent=2) + "\n").encode())
    return result


def spread_budgets(table: LookupTable) -> tuple[float, ...]:
    """Return five budgets, evenly spread from the fastest configuration's latency to the slowest's, in 0.1 ms."""
    fastest, slowest = table.latency_range_ms
    return tuple(round(fastest + (slowest - fastest) * step / (BUDGETS - 1) + 0.05, 1) for step in range(BUDGETS))


def summary(result: DemoResult) -> dict[str, object]:
    """Return everything the demonstration found, as `summary.json` holds it."""
    kept = Proportion(successes=sum(r.answer.within_budget for r in result.requests), count=len(result.requests))
    right = Proportion(successes=sum(r.correct for r in result.requests), count=len(result.requests))
    return {
        "model": MODEL,
        "profile": {
            "n": result.profile.samples_total,
            "configs": len(result.profile.configurations),
            "datasets": list(DIGIT_SETS),
        },
        "latency_kind": result.table.latency_kind,
        "budgets": list(result.budgets_ms),
        "requests": [_request_row(request) for request in result.requests],
        "adherence": kept.share,
        "accuracy": right.share,
        "by_budget": [_budget_row(result, budget_ms) for budget_ms in result.budgets_ms],
    }


def proportions(requests: list[DemoRequest]) -> tuple[Proportion, Proportion]:
    """Return accuracy and adherence of some requests."""
    right = Proportion(successes=sum(request.correct for request in requests), count=len(requests))
    kept = Proportion(successes=sum(request.answer.within_budget for request in requests), count=len(requests))
    return right, kept


def _answer_held_out(
    model: VisionLanguageModel,
    table: LookupTable,
    budgets_ms: tuple[float, ...],
    count: int,
    on_request: Callable[[int, int], None],
    out: Path,
) -> list[DemoRequest]:
    """Answer the same held-out questions under every budget, budgets taking turns, so that drift falls on all alike."""
    adaptive = AdaptiveModel(model=model, controller=table, max_new_tokens=MAX_NEW_TOKENS)
    questions = _held_out(count)
    questions[0].picture.save(out / SAMPLE_PICTURE)
    adaptive.warm_up(questions[0].picture, questions[0].prompt, budgets_ms)
    answered: list[DemoRequest] = []
    for question in questions:
        for budget_ms in budgets_ms:
            answer = adaptive.generate(question.picture, question.prompt, latency_budget_ms=budget_ms)
            correct = score(question, answer.text) == 1.0
            answered.append(DemoRequest(question=question, answer=answer, correct=correct))
            on_request(len(answered), len(questions) * len(budgets_ms))
    return answered


def _held_out(count: int) -> list[VisualQuestion]:
    """Return `count` test questions, the question sets taking turns; their scans were never profiled or trained on."""
    share = -(-count // len(DIGIT_SETS))
    sets = [digit_questions(dataset, split="test", count=share) for dataset in DIGIT_SETS]
    return [each for each in chain.from_iterable(zip_longest(*sets)) if each is not None][:count]


def _request_row(request: DemoRequest) -> dict[str, object]:
    answer = request.answer
    return {
        "sample_id": request.question.sample_id,
        "prompt": request.question.prompt,
        "budget_ms": answer.budget_ms,
        "tier": answer.config.tier,
        "top_k": answer.config.top_k,
        "num_active_blocks": answer.config.num_active_blocks,
        "promised_ms": answer.predicted_ms,
        "measured_ms": answer.measured_ms,
        "answer": answer.text,
        "expected": request.question.references[0],
        "correct": request.correct,
        "within_budget": answer.within_budget,
    }


def _budget_row(result: DemoResult, budget_ms: float) -> dict[str, object]:
    right, kept = proportions(result.at(budget_ms))
    right_ci, kept_ci = right.interval(), kept.interval()
    return {
        "budget_ms": budget_ms,
        "accuracy": right.share,
        "accuracy_ci": [right_ci.low, right_ci.high],
        "adherence": kept.share,
        "adherence_ci": [kept_ci.low, kept_ci.high],
        "n": kept.count,
    }


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(out, error.strerror or str(error)) from error
    if not os.access(out, os.W_OK):
        raise OutputPathError(out, "permission denied")
