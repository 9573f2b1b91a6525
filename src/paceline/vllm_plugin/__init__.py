"""Paceline in vLLM: `--scheduler-cls paceline.vllm_plugin.scheduler`, `--worker-cls paceline.vllm_plugin.worker`.

`scheduler` plans every step, `stock` is vLLM's own with logs, `worker` gives every request its own experts and blocks. Each loads
when it is first used: vLLM loads `compile_key` in every process, most of which have neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.vllm_plugin.schedulers import scheduler, stock
    from paceline.vllm_plugin.workers import worker

__all__ = ["scheduler", "stock", "worker"]
HOMES = {
    "scheduler": ("schedulers", "scheduler"),
    "stock": ("schedulers", "stock"),
    "worker": ("workers", "worker"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = HOMES[name]
    return getattr(import_module(f"paceline.vllm_plugin.{module}"), attribute)
