"""Paceline's scheduler for vLLM: `--scheduler-cls paceline.vllm_plugin.scheduler`; `stock` is vLLM's own, with logs.

Both load when they are first used: vLLM loads `compile_key` in every process, most of which have no scheduler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.vllm_plugin.schedulers import scheduler, stock

__all__ = ["scheduler", "stock"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("paceline.vllm_plugin.schedulers"), name)
