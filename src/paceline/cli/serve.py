"""`paceline serve`: one model in this process behind OpenAI's chat completions, under latency budgets."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.flags.model import (
    DeviceFlag,
    DtypeFlag,
    RevisionFlag,
    TemplateArgumentFlag,
    TrustFlag,
    template_arguments,
)
from paceline.cli.printing import note, print_raw, progress_bars
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.schedule.policies import POLICIES
from paceline.server.first_controller import first_controller
from paceline.server.limits import Limits
from paceline.server.serve import ServerSettings, build_server, load_served, read_keys, spans_to
from paceline.server.serve import serve as run_server


def serve(
    model: Annotated[str, typer.Argument(help="digits (ships with the package), a local folder or a hub id.")],
    controller: Annotated[
        Path | None,
        typer.Option(
            help="A table file, or the directory of an estimator or a learned controller.",
            show_default="for digits one that is measured on first start and kept",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8000,
    alpha: Annotated[float, typer.Option(help="Share of promised budgets that may be missed.")] = 0.05,
    default_budget_ms: Annotated[
        float | None,
        typer.Option(help="Budget of chats that ask for none.", show_default="the whole model answers them"),
    ] = None,
    certified_only: Annotated[
        bool, typer.Option("--certified-only", help="Take nothing that the table's certificate does not hold.")
    ] = False,
    policy: Annotated[str, typer.Option(help=f"Order of waiting requests: {', '.join(POLICIES)}.")] = "edf",
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="MODEL")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys of those who may ask, one a line.", show_default="everybody may")
    ] = None,
    allow_urls: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX", help="Fetch pictures from here; may be repeated.", show_default="data: URLs alone"
        ),
    ] = None,
    grace_seconds: Annotated[
        float, typer.Option(help="On SIGTERM, how long the answer that runs may take yet.", min=0, max=3600)
    ] = 30.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log the texts of chats too.")] = False,
    otlp_traces_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry's spans there: OTLP over HTTP, /v1/traces.")
    ] = None,
    device: DeviceFlag = "auto",
    dtype: DtypeFlag = "auto",
    revision: RevisionFlag = None,
    template_argument: TemplateArgumentFlag = None,
    trust_remote_code: TrustFlag = None,
) -> None:
    """Serve a model over HTTP under latency budgets: OpenAI's chat completions, one request at a time."""
    if policy not in POLICIES:
        raise UnknownChoiceError("policy", policy, tuple(POLICIES))
    settings = ServerSettings(
        name=served_model_name or model,
        alpha=alpha,
        default_budget_ms=default_budget_ms,
        policy=policy,
        keys=() if api_key_file is None else read_keys(api_key_file),
        allowed_urls=tuple(allow_urls or ()),
        log_prompts=log_prompts,
        limits=Limits(grace_seconds=grace_seconds),
    )
    loaded, controllers = load_served(
        model,
        _controller(model, controller),
        alpha=alpha,
        certified_only=certified_only,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        template_arguments=template_arguments(template_argument),
    )
    spans = None if otlp_traces_endpoint is None else spans_to(otlp_traces_endpoint, model=settings.name)
    served = build_server(loaded, controllers, settings, log=print_raw, spans=spans)
    try:
        run_server(served, host=host, port=port, on_listening=lambda at: note(f"{settings.name} at http://{host}:{at}"))
    finally:
        if spans is not None:
            spans.close()
    note("stopped")


def _controller(model: str, given: Path | None) -> Path:
    if given is not None:
        return given
    if model != "digits":
        raise InvalidValueError(
            "--controller", None, f"the controller of {model}: profile it, and build a table or train an estimator"
        )
    with progress_bars("profiling digits, once", "training its estimator") as (profiled, trained):
        return first_controller(on_begin=_note_first_start, on_profile=profiled, on_training=trained)


def _note_first_start(kept: Path) -> None:
    note(
        f"digits was not measured on this machine yet: it is now, once, in some minutes; what is found is kept in {kept}"
    )


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("serve")(serve)
