"""Flags of a command that can run a model in an engine that serves it."""

from importlib import import_module
from typing import Annotated, Any, cast

import typer

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.json_document import parsed_json
from paceline.measure.hosts import ServingEngine
from paceline.records import ENGINES

NO_ENGINE_ARGS = "{}"
TRANSFORMERS = ENGINES[0]
EngineArgsFlag = Annotated[str, typer.Option(help="Further arguments of the engine, a JSON object.")]


def serving_engine(name: str, arguments: str) -> ServingEngine | None:
    """Return the engine of that name, not started yet; None for transformers, which runs a model in this process.

    Raises UnknownChoiceError, InvalidValueError for arguments that are no object or are not needed, and MissingExtraError or
    EngineError for an engine that is not installed or of another version.
    """
    if name not in ENGINES:
        raise UnknownChoiceError("engine", name, ENGINES)
    parsed = _object(arguments)
    if name != TRANSFORMERS:
        # by name: only the plugin may import vLLM, and only where it is asked for
        return cast("ServingEngine", import_module("paceline.vllm_plugin.measuring").VllmProfile(arguments=parsed))
    if parsed:
        raise InvalidValueError("--engine-args", arguments, "none without --engine vllm")
    return None


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = parsed_json(text)
    except ValueError as error:
        raise InvalidValueError("--engine-args", text, f"a JSON object ({error})") from error
    if not isinstance(parsed, dict):
        raise InvalidValueError("--engine-args", text, 'a JSON object, for example {"max_num_batched_tokens": 4096}')
    return cast("dict[str, Any]", parsed)
