"""`paceline profile --certify`: choose on few questions, certify on others, print what is certain."""

from dataclasses import dataclass, replace
from pathlib import Path

from paceline.cli.flags.model import ModelAsked
from paceline.cli.printing import note, print_facts, print_json, progress_bar
from paceline.cli.table import print_certificate
from paceline.errors import InvalidValueError
from paceline.fit.certified import CertifiedRun, CertifyPlan, run_certified
from paceline.fit.certified.plan import parse_margin
from paceline.measure.hosts import ServingEngine
from paceline.measure.profiling import ProfilePlan
from paceline.measure.ranks import share_of
from paceline.models.loading import load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyAsked:
    """The flags of a certified profile that a plain one does not read; None for one that was not given."""

    model: ModelAsked
    out: Path
    margin: str
    minutes: float | None
    questions: int | None
    batch_size: int | None
    engine: ServingEngine | None
    as_json: bool


def profile_certified(asked: CertifyAsked, profile: ProfilePlan) -> None:
    """Run a certified profile and print it; raises InvalidValueError under torchrun."""
    epsilon, delta = parse_margin(asked.margin)
    world_size = share_of().world_size
    if world_size > 1:
        raise InvalidValueError("ranks", world_size, "one with --certify: its tests read answers in one sealed order")
    plan = CertifyPlan(profile=profile, epsilon=epsilon, delta=delta, minutes=asked.minutes)
    if asked.questions is not None:
        plan = replace(plan, questions=asked.questions)
    if asked.batch_size is not None:
        plan = replace(plan, batch_size=asked.batch_size)
    model = load_model(asked.model.name, **asked.model.arguments())
    with progress_bar(f"certifying {asked.model.name}") as move:
        run = run_certified(model, plan, asked.out, engine=asked.engine, on_progress=move, on_decided=note)
    if asked.as_json:
        print_json(_document(run))
    else:
        _print_run(run, served=asked.engine is not None)


def _document(run: CertifiedRun) -> dict[str, object]:
    return {
        "out": str(run.out),
        "table": None if run.table is None else str(run.table),
        "certificate": None if run.certificate is None else run.certificate.document(),
        "choosing_questions": run.choosing_questions,
        "certifying_questions": run.certifying_questions,
        "trust_in_smoothing": run.trust,
        "cells": run.cells,
        "timed_cells": run.timed_cells,
        "full_cells": run.full_cells,
        "cells_seconds": run.cells_seconds,
        "timed_cells_seconds": run.timed_cells_seconds,
        "full_seconds": run.full_seconds,
        "answers_together": None if run.agreement is None else run.agreement.document(),
        "seconds": run.seconds,
        "stopped": run.stopped,
    }


def _print_run(run: CertifiedRun, *, served: bool) -> None:
    spent, seconds = run.cells + run.timed_cells, run.cells_seconds + run.timed_cells_seconds
    rows = [
        (
            "choosing questions",
            f"{run.choosing_questions:,}; accuracies {run.trust:.0%} smoothed over the grid, the rest plain means",
        ),
        ("certifying questions", f"{run.certifying_questions:,} at most"),
        (
            "answers",
            f"{spent:,}, of which {run.timed_cells:,} one at a time with their latency and {run.cells:,} in batches: "
            f"{spent / run.full_cells:.1%} of the full grid's {run.full_cells:,}",
        ),
        (
            "their time",
            f"{seconds:,.0f} s, of which {run.timed_cells_seconds:,.0f} one at a time and {run.cells_seconds:,.0f} in batches: "
            f"{seconds / run.full_seconds:.1%} of about {run.full_seconds:,.0f} s of the full grid one at a time"
            if run.full_seconds
            else "no request was measured",
        ),
        ("seconds of this run", f"{run.seconds:,.0f}"),
    ]
    print_facts(f"Certified profile in {run.out}", rows)
    if run.certificate is not None:
        print_certificate(run.certificate)
    if run.stopped:
        note(run.stopped, mark="caution")
    if run.agreement is not None:
        note(str(run.agreement), mark="caution" if run.agreement.differing else "")
    if run.table is not None:
        serve = "vllm serve MODEL --certified-only --controller" if served else "run MODEL --certified-only --table"
        note(f"next: paceline table show {run.table}    paceline {serve} {run.table} …")
