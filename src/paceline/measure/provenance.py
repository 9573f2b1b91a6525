"""What a profile's numbers depend on, read from this machine and stored with them."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from paceline.checkout import own_commit
from paceline.measure.clock import clock_for
from paceline.measure.hosts import ServingEngine
from paceline.models.loading import VisionLanguageModel
from paceline.records import ENGINES, TEMPLATE_ARGUMENTS, KnobGrid, Provenance, QuestionSource

RECORDED_PACKAGES = ("paceline", "torch", "transformers", "numpy", "pillow")


def provenance_of(
    model: VisionLanguageModel,
    *,
    grid: KnobGrid,
    ranking: Sequence[int],
    scorers: Mapping[str, str],
    seed: int,
    settings: dict[str, str | int | float | bool | None],
    sources: Mapping[str, QuestionSource],
    engine: ServingEngine | None = None,
) -> Provenance:
    """Return the provenance of a run on this machine, now; `scorers` and `sources` are by data set.

    `engine` serves the model, None where transformers runs it in this process.
    """
    served = {} if engine is None else {engine.name: engine.version}
    return Provenance(
        model=model.name,
        revision=model.revision,
        dtype=model.dtype_name,
        device=device_name(model.device),
        driver=_driver(model.device),
        clock=clock_for(*model.devices).name if engine is None else engine.clock,
        versions={"python": platform.python_version(), **_versions(), **served},
        commit=own_commit(),
        seed=seed,
        grid=grid,
        block_ranking=tuple(ranking),
        datasets=dict(scorers),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={
            **settings,
            **template_settings(model),
            **_remote_code(model),
            "torch_threads": torch.get_num_threads(),
        },
        sources=dict(sources),
        engine=ENGINES[0] if engine is None else engine.name,
    )


def template_settings(model: VisionLanguageModel) -> dict[str, str]:
    """Return the arguments that the model's chat template is given, as a profile's settings hold them; nothing without any."""
    arguments = model.prompts.template_arguments
    return {TEMPLATE_ARGUMENTS: json.dumps(arguments, sort_keys=True, ensure_ascii=False)} if arguments else {}


def _remote_code(model: VisionLanguageModel) -> dict[str, str]:
    return {} if model.remote_code is None else {"remote_code": model.remote_code}


def device_name(device: torch.device) -> str:
    """Return the device's own name: the GPU's, or the processor's model and its core count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()} ({len(_allowed_cores())} cores)"


def _allowed_cores() -> Sequence[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _driver(device: torch.device) -> str | None:
    return f"CUDA {torch.version.cuda}" if device.type == "cuda" else None


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
