"""The command line of `vllm serve` that serves a model under latency budgets: built here, run by whoever asks for it."""

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.loading import load_controller
from paceline.errors import EngineError, InvalidValueError, MissingExtraError
from paceline.json_document import parsed_json
from paceline.models.loading import EMBEDDED
from paceline.vllm_plugin.checkpoints import write_for_vllm
from paceline.wire.budget import default_budget

MODULE = "paceline.vllm_plugin"
SECTION = "paceline"
RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"
CONFIG, WORKER, SCHEDULER, SERVERS = "--additional-config", "--worker-cls", "--scheduler-cls", "--api-server-count"
# the embedded model's: it was trained in float32, on prompts of one picture and some words
EMBEDDED_FLAGS = {
    "--served-model-name": "digits",
    "--dtype": "float32",
    "--max-model-len": "512",
    "--limit-mm-per-prompt": '{"image": 1, "video": 0}',
}


def require_vllm() -> None:
    """Raise MissingExtraError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")


def serve_command(
    model: str,
    *,
    controller: Path,
    alpha: float | None = None,
    default_budget_ms: float | None = None,
    certified_only: bool = False,
    arguments: Sequence[str] = (),
) -> list[str]:
    """Return the words of `vllm serve` for a model under a controller, with further arguments of vLLM's own.

    The embedded model is first written as vLLM loads it, once, into the user's cache. With `certified_only` nothing is served but
    what the controller's certificate holds; `default_budget_ms` is the budget of chats that ask for none. Raises EngineError or
    InvalidValueError for arguments that budgets cannot stand beside, and what `load_controller` raises.
    """
    chosen = load_controller(controller, alpha=DEFAULT_ALPHA if alpha is None else alpha, certified_only=certified_only)
    given = [
        word.replace("_", "-", word.partition("=")[0].count("_")) if word.startswith("--") else word
        for word in arguments
    ]
    _refuse(given)
    default_budget(default_budget_ms)  # in range
    config, rest = _taken_out(given, CONFIG)
    served, flags = _served(model)
    words = [*_program(), "serve", served]
    for name, value in flags.items():
        words += [] if _value(rest, name) is not None else [name, value]
    words += [WORKER, f"{MODULE}.worker"]
    words += [] if _value(rest, SCHEDULER) is not None else [SCHEDULER, f"{MODULE}.scheduler"]
    words += ["--middleware", f"{MODULE}.budgets", "--trust-request-mm-kwargs", "--enable-per-request-metrics"]
    words += ["--enable-logging-iteration-details"]  # the middleware learns from steps, and keeps them out of the log
    ours = {} if alpha is None else {"alpha": alpha}
    ours |= {} if default_budget_ms is None else {"default_budget_ms": default_budget_ms}
    ours |= {"certified_only": True} if certified_only else {}
    return [*words, CONFIG, json.dumps(_settings(config, chosen, controller, ours)), *rest]


def _settings(
    given: str | None, chosen: Controller, controller: Path, asked: Mapping[str, float | bool]
) -> dict[str, Any]:
    try:
        whole = {} if given is None else parsed_json(given)
    except ValueError as error:
        raise InvalidValueError(CONFIG, given, f"a JSON object ({error})") from error
    section = cast("dict[str, Any]", whole).get(SECTION, {}) if isinstance(whole, dict) else None
    if not isinstance(whole, dict) or not isinstance(section, dict):
        raise InvalidValueError(CONFIG, given, f'a JSON object, with an object under "{SECTION}" if it has that')
    ours: dict[str, Any] = {"controller": str(controller.resolve()), "policy": section.get("policy", "edf"), **asked}
    rankings = [run["block_ranking"] for run in chosen.provenance if "block_ranking" in run]
    if rankings:
        ours["block_ranking"] = rankings[0]
    return {**cast("dict[str, Any]", whole), SECTION: {**cast("dict[str, Any]", section), **ours}}


def _refuse(words: Sequence[str]) -> None:
    servers, worker, scheduler = (_value(words, name) for name in (SERVERS, WORKER, SCHEDULER))
    refusals = {
        f"{SERVERS} is {servers}, and each API server would know of its own requests alone; expected 1": servers
        not in (None, "1"),
        "--grpc has no middleware, which decides; leave it out": "--grpc" in words,
        f"{RUST_FRONTEND} is set, and that front end has no middleware, which decides; unset it": (
            os.environ.get(RUST_FRONTEND, "0") not in ("", "0")
        ),
        f"{WORKER} is given; leave it out: it is {MODULE}.worker": worker is not None,
        f"{SCHEDULER} is {scheduler}; expected {MODULE}.scheduler or {MODULE}.stock": scheduler is not None
        and not scheduler.startswith(MODULE),
    }
    for problem, holds in refusals.items():
        if holds:
            raise EngineError(f"budgets cannot be kept on this server: {problem}")


def _program() -> list[str]:
    script = Path(sys.executable).with_name("vllm")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "vllm.entrypoints.cli.main"]


def _served(model: str) -> tuple[str, dict[str, str]]:
    if model not in EMBEDDED:
        return model, {}
    source = EMBEDDED[model]
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "paceline" / f"{model}-vllm-{digest}"
    if not folder.is_dir():
        write_for_vllm(source, folder)
    return str(folder), {**EMBEDDED_FLAGS, "--served-model-name": model}


def _value(words: Sequence[str], name: str) -> str | None:
    """Return what a flag is given, the last time it is; None where it is not."""
    found = None
    for place, word in enumerate(words):
        if word == name:
            found = words[place + 1] if place + 1 < len(words) else ""
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def _taken_out(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Return a flag's value and the words without it."""
    rest: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == name:
            skip = True
        elif not word.startswith(f"{name}="):
            rest.append(word)
    return _value(words, name), rest
