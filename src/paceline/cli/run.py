"""`paceline run`: answer one question within a latency budget."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.cli.flags.model import DeviceFlag, DtypeFlag, RevisionFlag
from paceline.cli.printing import JsonFlag, note, print_facts, print_json
from paceline.control.loading import load_controller
from paceline.models.pictures import open_picture
from paceline.records import LatencyBudget
from paceline.runtime import DEFAULT_MAX_NEW_TOKENS, AdaptiveAnswer, AdaptiveModel


def run(
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    image: Annotated[Path, typer.Option(help="The picture.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    budget: Annotated[float, typer.Option(help="Latency budget in milliseconds, of the controller's latency kind.")],
    controller: Annotated[
        Path,
        typer.Option(
            "--controller", "--table", help="A table file, or the directory of an estimator or a learned controller."
        ),
    ],
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse a budget that nothing keeps, and a controller measured elsewhere.",
        ),
    ] = False,
    warmup: Annotated[
        int, typer.Option(help="Untimed runs first: a process's first request is slow.", min=0, max=1000)
    ] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = DEFAULT_MAX_NEW_TOKENS,
    per_step: Annotated[bool, typer.Option("--per-step", help="Show the time of every decode step too.")] = False,
    device: DeviceFlag = "auto",
    dtype: DtypeFlag = "auto",
    revision: RevisionFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer one question about one picture under the most accurate configuration that keeps the budget."""
    picture = open_picture(image)
    wanted = LatencyBudget(ms=budget)
    chosen = load_controller(controller, strict=strict)
    adaptive = AdaptiveModel.from_pretrained(
        model,
        controller=chosen,
        device=device,
        dtype=dtype,
        revision=revision,
        max_new_tokens=max_new_tokens,
        strict=strict,
    )
    adaptive.decide(picture, prompt, latency_budget_ms=wanted.ms, strict=strict)  # refuses before it warms up
    adaptive.warm_up(picture, prompt, [wanted.ms], runs=warmup)
    answer = adaptive.generate(image, prompt, latency_budget_ms=wanted.ms, strict=strict, per_step=per_step)
    if as_json:
        print_json(_document(answer))
    else:
        _print_answer(answer)


def _document(answer: AdaptiveAnswer) -> dict[str, Any]:
    return {
        **asdict(answer),
        "ttft_ms": answer.times.ttft_ms,
        "prefill_ms": answer.times.prefill_ms,
        "other_ms": answer.times.other_ms,
        "decode_per_token_ms": answer.times.decode_per_token_ms,
    }


def _print_answer(answer: AdaptiveAnswer) -> None:
    config, times = answer.config, answer.times
    kept = "kept" if answer.within_budget else "missed"
    rows = [
        ("answer", answer.text),
        ("configuration", f"tier {config.tier}, top_k {config.top_k}, {config.num_active_blocks} blocks"),
        ("budget", f"{answer.budget_ms:g} ms of {answer.latency_kind}: {kept}"),
        ("expected", f"{answer.predicted_ms:.1f} ms" + ("" if answer.promised else " (nothing fits; nearest taken)")),
        (
            "bound",
            "none: a mean or point estimate, exceeded about half the time"
            if answer.bound_ms is None
            else f"{answer.bound_ms:.1f} ms",
        ),
        ("measured", f"{answer.measured_ms:.1f} ms"),
        ("time to first token", f"{times.ttft_ms:.1f} ms"),
        ("vision", f"{times.vision_ms:.1f} ms"),
        ("LLM prefill", f"{times.llm_prefill_ms:.1f} ms"),
        ("decode", f"{times.decode_ms:.1f} ms, {times.decode_steps} steps"),
        ("other", f"{times.other_ms:.1f} ms"),
        ("total", f"{times.total_ms:.1f} ms after {times.preprocess_ms:.1f} ms of preprocessing"),
        ("decision", f"{answer.decision_us:.1f} µs, after {answer.features_us:.1f} µs of looking at the request"),
    ]
    if times.decode_step_ms:
        rows.append(("decode steps", ", ".join(f"{step:.1f}" for step in times.decode_step_ms)))
    print_facts("", rows)
    if answer.outside:
        note(f"beyond what the controller was measured on: {', '.join(answer.outside)}")
    if answer.refused:
        note("what the learned controller prefers does not fit; the most accurate configuration that does was taken")
    if not answer.promised:
        note("no configuration keeps this budget; --strict makes that an error")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("run")(run)
