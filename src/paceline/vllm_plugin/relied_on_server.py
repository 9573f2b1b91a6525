"""What Paceline's middleware relies on in vLLM's API server: apart from `relied_on`, for a server's process has no scheduler."""

# pyright: reportMissingImports=false
import os
import time
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import aclosing
from functools import wraps
from typing import Any

from paceline.errors import EngineError, MissingExtraError

try:
    from vllm.version import __version__ as VLLM_VERSION
except ModuleNotFoundError as error:
    if error.name not in ("vllm", "vllm.version"):
        raise
    raise MissingExtraError("vllm", "vllm") from error

from starlette.datastructures import Headers
from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX, AuthenticationMiddleware

from paceline.serving.answer import EngineTimes
from paceline.vllm_plugin.encoder_times import encoder_ms

SUPPORTED_SERIES = "0.32."
STATE = ("args", "vllm_config", "engine_client", "log_stats")
MODULE = "paceline.vllm_plugin"
OWN_PREFIX = "/paceline/"  # what tells of requests is for those who may ask
# model types whose tiers, as vLLM's own processors take them, were compared with transformers (tests/vllm)
COMPARED_TIERS = ("idefics3", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm")


def require_server(state: Any) -> None:
    """Raise EngineError for an API server that budgets cannot be kept on, with what to change."""
    if not VLLM_VERSION.startswith(SUPPORTED_SERIES):
        raise EngineError(
            f"vLLM {VLLM_VERSION} is not supported; expected {SUPPORTED_SERIES}x; run: pip install 'paceline[vllm]', or leave "
            "--middleware out"
        )
    missing = [name for name in STATE if not hasattr(state, name)]
    if missing:
        raise EngineError(f"the state of vLLM's API server lacks {', '.join(missing)}; expected what vLLM 0.32 has")
    args, config = state.args, state.vllm_config
    refusals = {
        f"--api-server-count is {args.api_server_count}, and each API server would know of its own requests alone; expected 1": (
            (args.api_server_count or 1) > 1
        ),
        f"--worker-cls is not Paceline's, which runs each request's own experts and blocks; set it to {MODULE}.worker": (
            MODULE not in str(config.parallel_config.worker_cls)
        ),
        f"--scheduler-cls is not Paceline's; set it to {MODULE}.scheduler or {MODULE}.stock": (
            MODULE not in str(config.scheduler_config.scheduler_cls)
        ),
        "--disable-log-stats leaves requests without a time to first token; leave it out": not state.log_stats,
    }
    for problem, holds in refusals.items():
        if holds:
            raise EngineError(f"budgets cannot be kept on this server: {problem}; or leave --middleware out")


def require_trusted_tiers(state: Any, model_type: str) -> None:
    """Raise EngineError where a tier may count other tokens than vLLM does, which ends the engine, and where a server would
    refuse the image processor's arguments that a tier is."""
    if model_type not in COMPARED_TIERS:
        raise EngineError(
            f"budgets cannot be kept on this server: tiers were compared in vLLM for {', '.join(COMPARED_TIERS)} and not for "
            f"{model_type}, where one may end the engine; leave --middleware out, or serve the model in process"
        )
    if not state.args.trust_request_mm_kwargs:
        raise EngineError(
            "budgets cannot be kept on this server: a tier is mm_processor_kwargs, which it refuses; add "
            "--trust-request-mm-kwargs: what clients send of them is stripped, or taken as a limit beside a budget"
        )


def most_pictures(model_config: Any) -> int | None:
    """Return how many pictures a server takes in one request (`--limit-mm-per-prompt`); None for a model that sees none."""
    found = model_config.multimodal_config
    return None if found is None else int(found.get_limit_per_prompt("image"))


def admission(args: Any) -> Callable[[MutableMapping[str, Any]], bool]:
    """Return who may be read at all: those whom vLLM's own check of API keys, which stands behind this middleware, admits."""
    tokens = [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
    if not tokens:
        return lambda _: True
    check = AuthenticationMiddleware(app=None, tokens=tokens)  # pyright: ignore[reportArgumentType]

    def admits(scope: MutableMapping[str, Any]) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return not path.startswith((*GUARDED_PREFIX, OWN_PREFIX)) or check.verify_token(Headers(scope=scope))

    return admits


def tell_times(engine_client: Any, current: Callable[[], EngineTimes | None]) -> None:
    """Let an engine's client note in `current()`, where that is not None, when each request was handed to the engine, when
    it had its first token, and what came between.
    """
    generate = engine_client.generate

    @wraps(generate)
    def timed(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        times = current()
        if times is not None and times.handed_over_wall is None:
            times.handed_over_wall = time.time()
        outputs = generate(*args, **kwargs)
        return outputs if times is None else _noted(outputs, times)

    engine_client.generate = timed


def tell_encoder_times(engine_client: Any) -> None:
    """Let an engine's client note in a request's own statistics what the image encoder took for it."""
    processor = engine_client.output_processor
    process, requests = processor.process_outputs, processor.request_states

    @wraps(process)
    def processed(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            if output.trace_headers and (ms := encoder_ms(output.trace_headers)) is not None:
                request = requests.get(output.request_id)
                if request is not None and request.stats is not None:
                    request.stats.paceline_encoder_ms = ms
        return process(outputs, *args, **kwargs)

    processor.process_outputs = processed


async def _noted(outputs: AsyncGenerator[Any, None], times: EngineTimes) -> AsyncGenerator[Any, None]:
    async with aclosing(outputs):
        async for output in outputs:
            if times.first_token_wall is None:
                _note(output.metrics, times)
            yield output


def _note(metrics: Any, times: EngineTimes) -> None:
    """Read vLLM's RequestStateStats: the front end's wall clock and the engine's monotonic one, both in seconds."""
    if metrics is None or not metrics.first_token_latency:
        return
    if 0 < metrics.queued_ts <= metrics.scheduled_ts <= metrics.first_token_ts:
        times.queue_ms = 1e3 * (metrics.scheduled_ts - metrics.queued_ts)
        times.vision_ms = getattr(metrics, "paceline_encoder_ms", None)
        times.prefill_ms = 1e3 * (metrics.first_token_ts - metrics.scheduled_ts) - (times.vision_ms or 0.0)
    times.first_token_at(metrics.arrival_time + metrics.first_token_latency)


def tell_steps(engine_client: Any, note: Callable[[int, int, float], None]) -> None:
    """Let an engine's client tell `note` of each step: its prompt tokens, its decodes' tokens, and its milliseconds.

    vLLM tells them under --enable-logging-iteration-details; what it would log of each step is left out of its log.
    """
    manager = getattr(engine_client, "logger_manager", None)
    if manager is None:
        return
    record = manager.record

    @wraps(record)
    def noted(*args: Any, scheduler_stats: Any = None, **kwargs: Any) -> Any:
        details = getattr(scheduler_stats, "iteration_details", None)
        if details is not None:
            scheduler_stats.iteration_details = None
            if not details.is_dummy:
                note(details.num_ctx_tokens, details.num_generation_tokens, details.elapsed_ms)
        return record(*args, scheduler_stats=scheduler_stats, **kwargs)

    manager.record = noted
