"""`paceline profile`: measure a model over a grid of configurations."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.certified import CertifyAsked, profile_certified
from paceline.cli.flags.engine import NO_ENGINE_ARGS, EngineArgsFlag, serving_engine
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
from paceline.cli.flags.profiles import note_drifts
from paceline.cli.flags.questions import PLACES, SplitFlag, TemplateHelp
from paceline.cli.printing import JsonFlag, note, print_facts, print_json, progress_bar
from paceline.datasets import DIGIT_SETS
from paceline.datasets.question_sets import QuestionSet
from paceline.errors import InvalidValueError
from paceline.fit.certified.plan import DEFAULT_QUESTIONS
from paceline.measure.engine_profile import STEPS
from paceline.measure.profiling import ProfilePlan, ProfileRun, run_profile
from paceline.measure.ranks import share_of
from paceline.measure.strategies import STRATEGIES
from paceline.models.loading import load_model
from paceline.records import ENGINES


def profile(
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="Directory of the profile; an unfinished one is gone on with.")],
    datasets: Annotated[
        list[str] | None,
        typer.Option(help=f"Question sets; public ones as NAME={PLACES}.", show_default="the digit sets"),
    ] = None,
    samples: Annotated[int, typer.Option(help="Questions of each dataset, or all of one that holds fewer.")] = 25,
    split: SplitFlag = None,
    prompt_template: Annotated[
        list[str] | None,
        typer.Option(help=f"{TemplateHelp}, for all public sets or NAME=TEMPLATE.", show_default="each set's own"),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(help="Scorer by id, for all public sets or NAME=ID.", show_default="the official rules"),
    ] = None,
    tiers: TiersFlag = None,
    top_k: TopKFlag = None,
    blocks: BlocksFlag = None,
    strategy: Annotated[str, typer.Option(help=f"Which configurations of the grid: {', '.join(STRATEGIES)}.")] = "full",
    num_configs: Annotated[int | None, typer.Option(help="How many configurations the lhs strategy takes.")] = None,
    seed: Annotated[int, typer.Option(help="Order of measurement, questions and sampled strategies.")] = 3407,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 32,
    warmup: Annotated[int, typer.Option(help="Runs of each configuration before the first is kept.")] = 2,
    sentinel_every: Annotated[int, typer.Option(help="Samples between two measurements of the drift sentinel.")] = 50,
    per_step: Annotated[bool, typer.Option("--per-step", help="Keep the time of every decode step too.")] = False,
    prefetch: Annotated[
        bool,
        typer.Option(
            "--prefetch", help="Open the next question while one is measured, on cores that are measured too."
        ),
    ] = False,
    engine: Annotated[
        str, typer.Option(help=f"What runs the model: {', '.join(ENGINES)}; milliseconds of one are none of another's.")
    ] = ENGINES[0],
    engine_args: EngineArgsFlag = NO_ENGINE_ARGS,
    device: DeviceFlag = "auto",
    dtype: DtypeFlag = "auto",
    revision: RevisionFlag = None,
    trust_remote_code: TrustFlag = None,
    template_argument: TemplateArgumentFlag = None,
    device_map: DeviceMapFlag = None,
    offload_folder: OffloadFolderFlag = None,
    certify: Annotated[
        str | None,
        typer.Option(
            metavar="EPS,DELTA",
            help="Choose on few questions and certify on others: within EPS of the full configuration with error DELTA.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="With --certify: stop in time, with what is certain then.")
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(
            help="With --certify: questions over all datasets, both parts.", show_default=f"{DEFAULT_QUESTIONS:,}"
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="With --certify: questions answered at once.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure every stage of generate(), and the accuracy, under every configuration of a grid.

    Killed at any moment, it loses the sample in flight; the same command goes on where it stopped. Under torchrun every
    rank measures its share into its own journal; join them with `paceline merge`. With --engine vllm all configurations of a
    question are answered together, and each is then measured alone in the same engine. With --certify a few questions choose,
    others certify: a table with its certificate at a fraction of the cost.
    """
    serving = serving_engine(engine, engine_args)
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
    plan = ProfilePlan(
        datasets=names(datasets) or DIGIT_SETS,
        samples=samples,
        split=split,
        prompt_templates=tuple(prompt_template or ()),
        scorers=names(scorer) or (),
        tiers=names(tiers),
        top_ks=whole_numbers("--top-k", top_k),
        block_counts=whole_numbers("--blocks", blocks),
        strategy=strategy,
        num_configs=num_configs,
        seed=seed,
        max_new_tokens=max_new_tokens,
        warmup_runs=warmup,
        sentinel_every=sentinel_every,
        per_step=per_step,
        prefetch=prefetch,
    )
    if device_map is not None and serving is not None:
        raise InvalidValueError(
            "--device-map", device_map, f"none with --engine {engine}: give --engine-args how it spreads a model"
        )
    if certify is not None:
        profile_certified(
            CertifyAsked(
                model=asked,
                out=out,
                margin=certify,
                minutes=minutes,
                questions=questions,
                batch_size=batch_size,
                engine=serving,
                as_json=as_json,
            ),
            plan,
        )
        return
    for flag, value in (("--minutes", minutes), ("--questions", questions), ("--batch-size", batch_size)):
        if value is not None:
            raise InvalidValueError(flag, value, "nothing without --certify: `--samples` says how many are measured")
    share = share_of()
    rank, world_size = share.rank, share.world_size
    loaded = load_model(model, **asked.arguments())
    with progress_bar(f"profiling {model}" + (f" (rank {rank} of {world_size})" if world_size > 1 else "")) as move:
        run = run_profile(loaded, plan, out, rank=rank, world_size=world_size, engine=serving, on_progress=move)
    if as_json:
        print_json(_document(run))
        note_drifts(run.drifts)
    else:
        _print_run(run)


def _document(run: ProfileRun) -> dict[str, object]:
    return {
        "out": str(run.out),
        "configs": len(run.configurations),
        "block_ranking": list(run.block_ranking),
        "samples_added": run.samples_added,
        "samples_total": run.samples_total,
        "torn_bytes": run.torn_bytes,
        "datasets": {each.name: _set_document(each) for each in run.sets},
        "drift": [{**asdict(each), "share": each.share, "moved": each.moved} for each in run.drifts],
        "answers_together": None if run.agreement is None else run.agreement.document(),
        "parquet": None if run.parquet is None else str(run.parquet),
    }


def _set_document(asked: QuestionSet) -> dict[str, object]:
    source = None if asked.source is None else asdict(asked.source)
    return {"scorer": asked.scorer, "questions": len(asked.questions), "source": source}


def _set_words(asked: QuestionSet) -> str:
    source, count = asked.source, len(asked.questions)
    if source is None:
        return f"{count:,} questions, scorer {asked.scorer}"
    revision = f" at {source.revision}" if source.revision else ""
    left_out = f"; {source.left_out:,} rows without a picture are not part of the set" if source.left_out else ""
    return (
        f"{count:,} of {source.available:,} questions, scorer {asked.scorer}, from {source.place}{revision}{left_out}"
    )


def _print_run(run: ProfileRun) -> None:
    if run.torn_bytes:
        note(f"the last run was cut off: {run.torn_bytes} bytes of an unfinished sample were dropped and measured anew")
    knobs = (
        ("tier", run.grid.tiers),
        ("top_k", run.grid.top_ks),
        ("num_active_blocks", run.grid.block_counts),
    )
    rows = [(name, ", ".join(str(value) for value in values)) for name, values in knobs]
    rows += [(each.name, _set_words(each)) for each in run.sets]
    rows += [("configurations", len(run.configurations)), ("samples added", f"{run.samples_added:,}")]
    rows += [
        ("samples in all", f"{run.samples_total:,}"),
        ("least important blocks first", str(list(run.block_ranking))),
    ]
    print_facts(f"Profile in {run.out}", rows)
    if run.agreement is not None:
        note(str(run.agreement), mark="caution" if run.agreement.differing else "")
        note(
            f"the cost of steps is in {run.out / STEPS}, a log for each top_k and block count: `paceline tune step-time` fits it"
        )
    for each in run.drifts:
        note(each.warning if each.moved else str(each), mark="caution" if each.moved else "")
    note(f"next: paceline budgets {run.out}    paceline table build --results-dir {run.out} --output-file table.json")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("profile", cls=ListFlagCommand)(profile)
