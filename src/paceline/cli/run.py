"""`paceline run`: answer one request within a latency budget."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.cli.flags.model import (
    DeviceFlag,
    DeviceMapFlag,
    DtypeFlag,
    ModelAsked,
    OffloadFolderFlag,
    RevisionFlag,
    TemplateArgumentFlag,
    TrustFlag,
)
from paceline.cli.printing import JsonFlag, note, print_facts, print_json
from paceline.control.loading import load_controller
from paceline.errors import InvalidValueError
from paceline.models.chats import user_message
from paceline.models.pictures import open_picture
from paceline.records import LatencyBudget, Sampling
from paceline.runtime import DEFAULT_MAX_NEW_TOKENS, AdaptiveAnswer, AdaptiveModel, compute_as_measured


def run(
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    budget: Annotated[float, typer.Option(help="Latency budget in milliseconds, of the controller's latency kind.")],
    controller: Annotated[
        Path,
        typer.Option(
            "--controller", "--table", help="A table file, or the directory of an estimator or a learned controller."
        ),
    ],
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture; may be repeated. Without one the request is text alone.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message before the question.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse a budget that nothing keeps, and a controller measured elsewhere.",
        ),
    ] = False,
    certified_only: Annotated[
        bool, typer.Option("--certified-only", help="Take nothing that the table's certificate does not hold.")
    ] = False,
    warmup: Annotated[
        int, typer.Option(help="Untimed runs first: a process's first request is slow.", min=0, max=1000)
    ] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = DEFAULT_MAX_NEW_TOKENS,
    per_step: Annotated[bool, typer.Option("--per-step", help="Show the time of every decode step too.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Draw tokens at this temperature.", show_default="greedy decoding")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Draw tokens from the nucleus of this share.", show_default="greedy decoding"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of what is drawn.", show_default="a new one")] = None,
    device: DeviceFlag = "auto",
    dtype: DtypeFlag = "auto",
    revision: RevisionFlag = None,
    template_argument: TemplateArgumentFlag = None,
    trust_remote_code: TrustFlag = None,
    device_map: DeviceMapFlag = None,
    offload_folder: OffloadFolderFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer one question about one picture under the most accurate configuration that keeps the budget.

    Several pictures, or none, are answered too; what a controller knows comes from requests with one, so of others nothing is
    promised.
    """
    sampling = _sampling(temperature, top_p, seed)
    wanted = LatencyBudget(ms=budget)
    pictures = [open_picture(each) for each in image or ()]
    chosen = load_controller(controller, strict=strict, certified_only=certified_only)
    compute_as_measured(chosen)
    loading = ModelAsked(
        name=model,
        device=device,
        dtype=dtype,
        revision=revision,
        template_argument=template_argument,
        trust_remote_code=trust_remote_code,
        device_map=device_map,
        offload_folder=offload_folder,
    )
    adaptive = AdaptiveModel.from_pretrained(
        model, controller=chosen, max_new_tokens=max_new_tokens, strict=strict, **loading.arguments()
    )
    opened, asked = _request(pictures, prompt, system), _request(image or [], prompt, system)
    adaptive.decide(**opened, latency_budget_ms=wanted.ms, strict=strict)  # refuses before it warms up
    adaptive.warm_up(**opened, latency_budgets_ms=[wanted.ms], runs=warmup)
    answer = adaptive.generate(
        **asked, latency_budget_ms=wanted.ms, strict=strict, per_step=per_step, sampling=sampling
    )
    if as_json:
        print_json(_document(answer))
    else:
        _print_answer(answer)


def _sampling(temperature: float | None, top_p: float | None, seed: int | None) -> Sampling | None:
    if temperature is None and top_p is None:
        if seed is not None:
            raise InvalidValueError("--seed", seed, "--temperature or --top-p beside it: greedy decoding draws nothing")
        return None
    given = {"temperature": temperature, "top_p": top_p}
    return Sampling(**{name: value for name, value in given.items() if value is not None}, seed=seed)


def _request(images: list[Any], prompt: str, system: str | None) -> Mapping[str, Any]:
    """Return one question about one picture as it is, and all else as a chat."""
    if len(images) == 1 and system is None:
        return {"image": images[0], "prompt": prompt}
    before = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*before, *user_message(images, prompt)]}


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
    unseen = "pictures" in answer.outside
    nearest = "" if answer.promised or unseen else " (nothing fits; nearest taken)"
    rows = [
        ("answer", answer.text),
        ("configuration", f"tier {config.tier}, top_k {config.top_k}, {config.num_active_blocks} blocks"),
        ("tokens", f"{answer.vision_tokens} of pictures, {answer.text_tokens} of text"),
        ("budget", f"{answer.budget_ms:g} ms of {answer.latency_kind}: {kept}"),
        ("expected", f"{answer.predicted_ms:.1f} ms{nearest}"),
        ("bound", _bound_words(answer, unseen)),
        ("measured", f"{answer.measured_ms:.1f} ms"),
        ("time to first token", f"{times.ttft_ms:.1f} ms"),
        ("vision", f"{times.vision_ms:.1f} ms"),
        ("LLM prefill", f"{times.llm_prefill_ms:.1f} ms"),
        ("decode", f"{times.decode_ms:.1f} ms, {times.decode_steps} steps"),
        ("other", f"{times.other_ms:.1f} ms"),
        ("total", f"{times.total_ms:.1f} ms after {times.preprocess_ms:.1f} ms of preprocessing"),
        ("decision", f"{answer.decision_us:.1f} µs, after {answer.features_us:.1f} µs of looking at the request"),
    ]
    if answer.sampling is not None:
        drawn = answer.sampling
        rows.append(("sampling", f"temperature {drawn.temperature:g}, top_p {drawn.top_p:g}, seed {drawn.seed}"))
    if times.decode_step_ms:
        rows.append(("decode steps", ", ".join(f"{step:.1f}" for step in times.decode_step_ms)))
    print_facts("", rows)
    if unseen:
        note("the controller was measured on requests with one picture; nothing is promised of this one")
    _note_promise(answer, [name for name in answer.outside if name != "pictures"], fits=answer.promised or unseen)


def _bound_words(answer: AdaptiveAnswer, unseen: bool) -> str:
    if answer.bound_ms is not None:
        return f"{answer.bound_ms:.1f} ms"
    return (
        "none: not for this number of pictures"
        if unseen
        else "none: a mean or point estimate, exceeded about half the time"
    )


def _note_promise(answer: AdaptiveAnswer, outside: list[str], *, fits: bool) -> None:
    if outside:
        note(f"beyond what the controller was measured on: {', '.join(outside)}")
    if answer.refused and "pictures" not in answer.outside:
        note("what the learned controller prefers does not fit; the most accurate configuration that does was taken")
    if not fits:
        note("no configuration keeps this budget; --strict makes that an error")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("run")(run)
