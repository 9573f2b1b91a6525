"""vLLM's schedulers without a model: real scheduling and memory, made-up tokens; synchronous or with steps in flight."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from vllm import EngineArgs
from vllm.v1.request import Request

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import StepRecord
from paceline.vllm_plugin import scheduler as planned
from paceline.vllm_plugin.made_up import MadeUpImage, made_up_output, made_up_request
from paceline.vllm_plugin.recording import EngineRecorder
from paceline.vllm_plugin.virtual import VirtualClock, virtual_scheduler

BLOCK_TOKENS = 16
MOST_STEPS = 2000


@dataclass
class DryLoad:
    """A request by sizes; it arrives before the step of that number."""

    prompt_tokens: int
    output_tokens: int
    step: int = 0
    seed: int = 0  # requests of equal seeds share the prefix of the shorter
    images: tuple[MadeUpImage, ...] = ()
    priority: int = 0


@dataclass
class DryRun:
    outputs: list[Any]
    plans: list[Any]
    steps: list[StepRecord]
    times: list[RequestTimes]
    requests: dict[str, Request]


def engine_config(model, *, budget=128, sequences=8, asynchronous=False, paceline=None, **engine_args):
    arguments = {
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_batched_tokens": budget,
        "max_num_seqs": sequences,
        "block_size": BLOCK_TOKENS,
        "scheduler_cls": "paceline.vllm_plugin.scheduler",
        "additional_config": {} if paceline is None else {"paceline": paceline},
        **engine_args,
    }
    config = EngineArgs(model=str(model), **arguments).create_engine_config()
    config.scheduler_config.async_scheduling = asynchronous  # the CPU platform says no: no model runs here
    return config


def dry_scheduler(config, *, blocks=200, build=planned, encoder=None, clock=None):
    return virtual_scheduler(config, blocks=blocks, clock=clock or VirtualClock(), build=build, encoder=encoder)


def dry_request(name, load: DryLoad, *, arrival_time: float = 0.0) -> Request:
    return made_up_request(
        str(name),
        Random(load.seed).choices(range(1, 500), k=load.prompt_tokens),
        output_tokens=load.output_tokens,
        block_tokens=BLOCK_TOKENS,
        images=load.images,
        priority=load.priority,
        arrival_time=arrival_time,
    )


def run_dry(scheduler, loads: Sequence[DryLoad], *, in_flight: int = 1) -> DryRun:
    """Serve the loads to their ends, a second a step; `in_flight` steps are scheduled before the first one's output."""
    run = DryRun([], [], [], [], {})
    scheduler.recorder = EngineRecorder(on_step=run.steps.append, on_request=run.times.append)
    queued: deque[tuple[Any, list[str]]] = deque()
    clock = getattr(getattr(scheduler, "_queueing", None), "clock", VirtualClock())
    for step in range(MOST_STEPS):
        clock.seconds = float(step)
        for number, load in enumerate(loads):
            if load.step == step:
                run.requests[str(number)] = dry_request(number, load, arrival_time=float(step))
                scheduler.add_request(run.requests[str(number)])
        if not scheduler.has_requests():
            while queued:
                update(scheduler, *queued.popleft())
            if len(run.requests) == len(loads):
                return run
        output = scheduler.schedule()
        run.outputs.append(output)
        run.plans.append(getattr(scheduler, "step_plan", None))
        sampled = [name for name in output.num_scheduled_tokens if not run.requests[name].is_prefill_chunk]
        queued.append((output, sampled))
        if len(queued) >= in_flight or not output.total_num_scheduled_tokens:
            update(scheduler, *queued.popleft())
    raise AssertionError(f"requests unfinished after {MOST_STEPS} steps: {sorted(scheduler.requests)}")


def update(scheduler, output, sampled: Sequence[str]) -> None:
    """Give the scheduler a made-up output: one token for each request that had no prompt left to compute."""
    scheduler.update_from_output(output, made_up_output(output, sampled))
