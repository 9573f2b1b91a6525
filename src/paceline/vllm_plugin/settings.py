"""Settings from `--additional-config '{"paceline": {...}}'`, checked against the engine before it serves anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from paceline.errors import InvalidValueError, OutputPathError, UnknownChoiceError
from paceline.schedule.policies import PolicyWeights
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import LinearStepTime, StepTimeModel
from paceline.vllm_plugin.compile_key import SECTION
from paceline.vllm_plugin.relied_on import EngineLimits

WEIGHT_KEYS = ("time_weight", "prompt_weight", "no_budget_seconds")
PLANNER_KEYS = (
    "policy",
    "chunk_size",
    "min_chunk_threshold",
    "min_chunk_tokens",
    "target_time_ms",
    "target_base_share",
    "max_partial_prefills",
    "max_chunk_tokens",
)
LOG_KEYS = ("step_log", "request_log")
KNOB_KEYS = ("block_ranking", "controller")  # not the scheduler's: the worker's, and whoever chooses for requests
# the API server's, beside the controller
BUDGET_KEYS = (
    "alpha",
    "default_budget_ms",
    "client_knobs",
    "certified_only",
    "price_floor",
    "price_per_arrival",
    "price_step",
    "price_share",
)
KEYS = (*PLANNER_KEYS, *WEIGHT_KEYS, "step_time", *LOG_KEYS, *KNOB_KEYS, *BUDGET_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPaths:
    """Where an engine's logs go; None for nowhere."""

    step_log: Path | None = None
    request_log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """What one engine is told: how steps are filled, by which step-time model, and where logs go."""

    planner: PlannerSettings
    step_time: StepTimeModel | None = None
    logs: LogPaths = field(default_factory=LogPaths)


def section(additional_config: object) -> dict[str, Any]:
    """Return Paceline's part of vLLM's additional config, empty when there is none.

    Raises UnknownChoiceError for a key that does not exist, InvalidValueError when it is not an object.
    """
    whole = cast(Mapping[str, object], additional_config) if isinstance(additional_config, Mapping) else {}
    cells = whole.get(SECTION, {})
    if not isinstance(cells, Mapping):
        raise InvalidValueError(f"additional_config[{SECTION!r}]", cells, 'an object such as {"policy": "srtf"}')
    typed = dict(cast(Mapping[str, Any], cells))
    for key in typed:
        if key not in KEYS:
            raise UnknownChoiceError(f"key of additional_config[{SECTION!r}]", key, KEYS)
    return typed


def read_settings(additional_config: object, limits: EngineLimits) -> PluginSettings:
    """Return the settings for an engine of these limits; what is not given is vLLM's own behaviour.

    Raises UnknownChoiceError, InvalidValueError, StepTimeError or OutputPathError with the key that is wrong.
    """
    cells = section(additional_config)
    given = {key: cells[key] for key in PLANNER_KEYS if cells.get(key) is not None}
    for key in ("target_time_ms", "target_base_share", *WEIGHT_KEYS):
        _require_number(key, cells.get(key))
    weights = PolicyWeights(**{key: cells[key] for key in WEIGHT_KEYS if cells.get(key) is not None})
    given.setdefault("chunk_size", limits.step_tokens)
    planner = PlannerSettings(**given, weights=weights, indivisible_tokens=limits.whole_image_tokens)
    _require_fit(planner, limits)
    step_time = read_step_time(cells.get("step_time"))
    planner.require_model(step_time)
    return PluginSettings(planner=planner, step_time=step_time, logs=read_logs(additional_config))


def controller_path(additional_config: object) -> Path | None:
    """Return the file or folder of the controller that chooses for this engine's requests; None for none.

    Raises InvalidValueError for what is no path. Nothing is read of it here: `control.loading` does.
    """
    given = section(additional_config).get("controller")
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise InvalidValueError(
            "controller", given, "the path of a table, an estimator or a learned controller, as `paceline run` takes it"
        )
    return Path(given)


def read_logs(additional_config: object) -> LogPaths:
    """Return where the logs go, tried for writing; raises InvalidValueError or OutputPathError."""
    cells = section(additional_config)
    return LogPaths(**{key: _log_path(key, cells.get(key)) for key in LOG_KEYS})


def planner_config(planner: PlannerSettings, *, step_time: LinearStepTime | None = None) -> dict[str, Any]:
    """Return the additional config that `read_settings` turns into these settings."""
    cells = {key: getattr(planner, key) for key in PLANNER_KEYS}
    cells |= {key: getattr(planner.weights, key) for key in WEIGHT_KEYS}
    cells["step_time"] = None if step_time is None else step_time.document()
    return {SECTION: {key: value for key, value in cells.items() if value is not None}}


def _require_fit(planner: PlannerSettings, limits: EngineLimits) -> None:
    if planner.chunk_size > limits.step_tokens:
        expected = f"at most {limits.step_tokens}, the engine's tokens a step; raise --max-num-batched-tokens too"
        raise InvalidValueError("chunk_size", planner.chunk_size, expected)
    decodes = min(limits.running_requests * limits.decode_tokens, limits.step_tokens)
    if planner.chunk_size < decodes:
        each = "a token" if limits.decode_tokens == 1 else f"a token and {limits.decode_tokens - 1} drafts"
        expected = (
            f"at least {decodes}, {each} for every running request; or lower --max-num-seqs: "
            "decodes beyond it would wait for others to end"
        )
        raise InvalidValueError("chunk_size", planner.chunk_size, expected)


def read_step_time(given: object) -> LinearStepTime | None:
    """Return the step-time model of `step_time`, the path of a file or its object; None for none given."""
    sources: dict[type, Callable[[Any], LinearStepTime]] = {
        str: LinearStepTime.load,
        dict: _coefficients,
    }
    if given is None:
        return None
    if type(given) not in sources:
        raise InvalidValueError("step_time", given, "the path of a file from `paceline tune step-time`, or its object")
    return sources[type(given)](given)


def _coefficients(cells: dict[str, Any]) -> LinearStepTime:
    names = tuple(LinearStepTime.__dataclass_fields__)
    if set(cells) != set(names):
        raise InvalidValueError("step_time", sorted(cells), f"exactly {', '.join(names)}")
    for name in names:
        _require_number(name, cells[name])
    return LinearStepTime(**cells)


def _require_number(key: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidValueError(key, value, "a number")


def _log_path(key: str, given: object) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise InvalidValueError(key, given, "the path of a file to write, one JSON line each")
    path = Path(given)
    try:
        with path.open("a"):
            return path
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
