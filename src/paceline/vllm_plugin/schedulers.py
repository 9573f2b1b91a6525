"""Which scheduler an engine gets: vLLM's own, synchronous or asynchronous, with plans or with logs only."""

import time
from collections.abc import Callable
from typing import Any

from paceline.vllm_plugin.planned import PlannedSteps
from paceline.vllm_plugin.prefixes import SaltedPrefixes
from paceline.vllm_plugin.recorded import RecordedSteps
from paceline.vllm_plugin.recording import file_recorder
from paceline.vllm_plugin.relied_on import AsyncScheduler, Scheduler, engine_number, read_limits
from paceline.vllm_plugin.settings import read_logs, read_settings
from paceline.vllm_plugin.timed_encoders import TimedEncoders


class PlannedScheduler(SaltedPrefixes, TimedEncoders, PlannedSteps, RecordedSteps, Scheduler):
    """vLLM's synchronous scheduler under a plan."""


class PlannedAsyncScheduler(SaltedPrefixes, TimedEncoders, PlannedSteps, RecordedSteps, AsyncScheduler):
    """vLLM's asynchronous scheduler under a plan: a step is planned while the one before it executes."""


class RecordedScheduler(SaltedPrefixes, TimedEncoders, RecordedSteps, Scheduler):
    """vLLM's synchronous scheduler as it is, recorded."""


class RecordedAsyncScheduler(SaltedPrefixes, TimedEncoders, RecordedSteps, AsyncScheduler):
    """vLLM's asynchronous scheduler as it is, recorded."""


def scheduler(*, vllm_config: Any, clock: Callable[[], float] = time.monotonic, **arguments: Any) -> Any:
    """Return Paceline's scheduler for an engine, asynchronous where the engine is; `--scheduler-cls` names this function.

    `clock` says in seconds when a request is queued; it must never step back. Raises EngineError for an engine that
    cannot be planned, and what `read_settings` raises.
    """
    settings = read_settings(vllm_config.additional_config, read_limits(vllm_config))
    chosen = PlannedAsyncScheduler if vllm_config.scheduler_config.async_scheduling else PlannedScheduler
    built = chosen(vllm_config=vllm_config, settings=settings, clock=clock, **arguments)
    built.step_time = settings.step_time
    built.recorder = file_recorder(settings.logs, engine=engine_number(vllm_config))
    return built


def stock(*, vllm_config: Any, **arguments: Any) -> Any:
    """Return vLLM's own scheduler with the same logs, to compare with; of the settings only the logs are read."""
    logs = read_logs(vllm_config.additional_config)
    chosen = RecordedAsyncScheduler if vllm_config.scheduler_config.async_scheduling else RecordedScheduler
    built = chosen(vllm_config=vllm_config, **arguments)
    built.recorder = file_recorder(logs, engine=engine_number(vllm_config))
    return built
