"""`paceline verify`: is a model safe to steer and to measure on this machine?"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.cli.flags.lists import ListFlagCommand
from paceline.cli.flags.model import (
    BlocksFlag,
    DeviceFlag,
    DeviceMapFlag,
    DtypeFlag,
    ModelAsked,
    OffloadFolderFlag,
    RevisionFlag,
    TemplateArgumentFlag,
    TiersFlag,
    TopKFlag,
    TrustFlag,
    names,
    whole_numbers,
)
from paceline.cli.printing import JsonFlag, note, print_facts, print_json, print_table, progress_bar, write_document
from paceline.datasets import digit_questions
from paceline.measure.load import IN_FLIGHT, LoadEffect
from paceline.measure.profiling import block_ranking
from paceline.measure.verify import KnobCheck, Verification
from paceline.measure.verify import verify as verify_model
from paceline.models.grid import grid_of
from paceline.models.loading import load_model
from paceline.profiles.atomic import require_file_path


def verify(
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    tiers: TiersFlag = None,
    top_k: TopKFlag = None,
    blocks: BlocksFlag = None,
    pairs: Annotated[
        int, typer.Option(help="Interleaved pairs behind each timing comparison.", min=10, max=100_000)
    ] = 60,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The capability record; an older one is kept beside it.")
    ] = Path("capability.json"),
    under_load: Annotated[
        bool,
        typer.Option(
            "--under-load", help="Time every knob with 1, 4 and 8 requests in flight too: one batch of as many."
        ),
    ] = False,
    device: DeviceFlag = "auto",
    dtype: DtypeFlag = "auto",
    revision: RevisionFlag = None,
    template_argument: TemplateArgumentFlag = None,
    trust_remote_code: TrustFlag = None,
    device_map: DeviceMapFlag = None,
    offload_folder: OffloadFolderFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Check knobs, key-value cache, restoration and stage times; exit code 1 when one fails."""
    require_file_path(out)
    asked = ModelAsked(
        name=model,
        device=device,
        dtype=dtype,
        revision=revision,
        template_argument=template_argument,
        trust_remote_code=trust_remote_code,
        device_map=device_map,
        offload_folder=offload_folder,
    )
    loaded = load_model(model, **asked.arguments())
    grid = grid_of(
        loaded,
        tiers=names(tiers),
        top_ks=whole_numbers("--top-k", top_k),
        block_counts=whole_numbers("--blocks", blocks),
    )
    questions = digit_questions("digits_read", split="validation", count=24)
    with progress_bar(f"verifying {model}") as move:
        record = verify_model(
            loaded,
            questions[0],
            grid,
            block_ranking(loaded, questions),
            pairs=pairs,
            in_flight=IN_FLIGHT if under_load else (),
            on_progress=move,
        )
    document = _document(record)
    if as_json:
        print_json(document)
    else:
        _print_record(record)
    write_document(out, document)
    if record.failures:
        raise typer.Exit(1)


def _document(record: Verification) -> dict[str, Any]:
    return {**asdict(record), "failures": record.failures}


def _print_record(record: Verification) -> None:
    interval = record.hook_overhead_interval
    shown = f" (95 % CI {interval.low:+.2%} to {interval.high:+.2%}, {record.pairs} pairs)" if interval else ""
    rows = [
        ("cached against uncached logits, largest difference", f"{record.cache_max_abs_diff:.1e}"),
        ("restored against untouched logits, largest difference", f"{record.restore_max_abs_diff:.1e}"),
        ("stages + gaps against the total, worst sample", f"{record.stage_closure:.3%}"),
        ("unattributed share of the total", f"{record.other_share:.1%}"),
        ("mean total", f"{record.mean_total_ms:.1f} ms"),
        ("hooks' cost over plain generate(), median", f"{record.hook_overhead:+.2%}{shown}"),
    ]
    print_facts(f"Verification of {record.model}", rows)
    knobs = [_knob_row(name, check, record.lacking.get(name)) for name, check in record.knobs.items()]
    print_table("Knobs, each turned down alone", ("knob", "works", "moves latency", "detail"), knobs)
    tokens = [(each.tier, each.vision_tokens, each.image_tokens, each.cap) for each in record.tier_tokens]
    print_table("Tokens of the picture, by tier", ("tier", "in the prompt", "of the encoder", "cap"), tokens)
    loads = [_load_row(name, each) for name, effects in record.under_load.items() for each in effects]
    if loads:
        columns = ("knob", "requests in one batch", "prefill ms, full", "turned down", "saved (95 % CI)")
        print_table("Knobs under load, each turned down alone", columns, loads)
    for name, check in record.knobs.items():
        if check is not None and not check.moves_latency:
            note(f"{name} does not move latency on this model here; leave it out of the grid", mark="caution")
    for mode in record.unsupported_modes:
        note(f"{mode} decoding differs with a cache and without on this model itself; it is not judged", mark="caution")
    for sentence in record.failures:
        note(sentence, mark="fails")
    if not record.failures:
        note("all checks hold")


def _knob_row(name: str, check: KnobCheck | None, lacking: str | None) -> tuple[object, ...]:
    if check is None:
        return name, None, None, lacking or "the grid has one value"
    return name, check.works, check.moves_latency, check.detail


def _load_row(name: str, effect: LoadEffect) -> tuple[object, ...]:
    if effect.full_ms is None or effect.low_ms is None or effect.saved is None:
        return name, effect.in_flight, None, None, effect.reason
    interval = effect.saved_interval
    shown = f" ({interval.low:.1%} to {interval.high:.1%})" if interval else ""
    return name, effect.in_flight, f"{effect.full_ms:.1f}", f"{effect.low_ms:.1f}", f"{effect.saved:.1%}{shown}"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("verify", cls=ListFlagCommand)(verify)
