"""Paceline in vLLM: `--scheduler-cls paceline.vllm_plugin.scheduler`, `--worker-cls paceline.vllm_plugin.worker`, `--middleware
paceline.vllm_plugin.budgets`.

`scheduler` plans every step, `stock` is vLLM's own with logs, `worker` gives every request its own experts and blocks, `budgets`
chooses them for a request's latency budget. Each loads when it is first used: vLLM loads `compile_key` in every process, most of
which have none of them.

Not here: decisions and orders (`paceline.serving`, `paceline.schedule`). Nowhere else: the name of vLLM.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.vllm_plugin.budgets_server import budgets
    from paceline.vllm_plugin.schedulers import scheduler, stock
    from paceline.vllm_plugin.workers import worker

__all__ = ["budgets", "scheduler", "stock", "worker"]
HOMES = {
    "budgets": ("budgets_server", "budgets"),
    "scheduler": ("schedulers", "scheduler"),
    "stock": ("schedulers", "stock"),
    "worker": ("workers", "worker"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = HOMES[name]
    return getattr(import_module(f"paceline.vllm_plugin.{module}"), attribute)
