"""The engine that `vllm_under_load.py` measured, for the simulator: its results hold table, step-time model, T0 and rate."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from paceline.records import KnobConfig
from paceline.schedule import EngineTime, LinearStepTime, LoadController, LoadSettings, PlannerSettings, ServerLoad
from paceline.simulate import RequestColumns, SimulatedEngine
from paceline.tune.capacity import ServedWay
from paceline.tune.price import PriceTuning

BUDGETS_T0 = (0.5, 1.0, 2.0, 4.0, math.inf)
DEFAULT_BUDGET_T0, NEW_TOKENS = 20.0, 6


def tuning_of(measured: Mapping[str, Any], *, alpha: float) -> PriceTuning:
    """Return the engine with its ways of serving, each with the work that a server takes it for."""
    model = LinearStepTime(**measured["step_time"])
    planner = PlannerSettings(chunk_size=measured["chunk_size"], policy="edf")
    line, text = ServerLoad(LoadController(LoadSettings(), planner, model)), measured["text_tokens"]
    ways = tuple(
        ServedWay(
            config=KnobConfig(**cell["config"]),
            accuracy=cell["accuracy"],
            image_tokens=cell["image_tokens"],
            prefill_factor=line.work_of(cell["image_tokens"] + text, cell["latency_ms"] / 1e3).factor,
        )
        for cell in measured["table"]
    )
    largest_ms = max(cell["latency_ms"] for cell in measured["table"])
    return PriceTuning(
        engine=SimulatedEngine(rules="paceline", planner=planner, max_num_seqs=16, num_blocks=100_000),
        time=EngineTime(step=model),
        ways=ways,
        alpha=alpha,
        default_budget_seconds=DEFAULT_BUDGET_T0 * largest_ms / 1e3,
    )


def drawn(measured: Mapping[str, Any], load: float, *, requests: int, seed: int) -> RequestColumns:
    """Return Poisson arrivals at a share of the whole model's rate, with budgets of equal chance."""
    numbers = np.random.default_rng(seed)
    rate, t0_seconds = load * measured["simulated_at_per_second"], measured["t0_ms"] / 1e3
    return RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(1 / rate, requests)),
        prompt_tokens=np.full(requests, measured["text_tokens"]),
        output_tokens=np.full(requests, NEW_TOKENS),
        ttft_budget_seconds=t0_seconds * numbers.choice(np.array(BUDGETS_T0), requests).astype(np.float64),
    )
