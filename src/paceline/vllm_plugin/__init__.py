"""Paceline's scheduler for vLLM: `--scheduler-cls paceline.vllm_plugin.scheduler`; `stock` is vLLM's own, with logs."""

from paceline.vllm_plugin.schedulers import scheduler, stock

__all__ = ["scheduler", "stock"]
