"""vLLM's schedulers without a model: real scheduling and memory, made-up tokens; synchronous or with steps in flight."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from vllm import EngineArgs, SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from paceline.schedule.request_times import RequestTimes
from paceline.schedule.step_log import StepRecord
from paceline.vllm_plugin import scheduler as planned
from paceline.vllm_plugin.recording import EngineRecorder

BLOCK_TOKENS = 16
MOST_STEPS = 2000


@dataclass
class DryLoad:
    """A request by sizes; it arrives before the step of that number."""

    prompt_tokens: int
    output_tokens: int
    step: int = 0
    seed: int = 0  # requests of equal seeds share the prefix of the shorter
    features: list[Any] = field(default_factory=list)


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
        "scheduler_cls": "paceline.vllm_plugin.scheduler",
        "additional_config": {} if paceline is None else {"paceline": paceline},
        **engine_args,
    }
    config = EngineArgs(model=str(model), **arguments).create_engine_config()
    config.scheduler_config.async_scheduling = asynchronous  # the CPU platform says no: no model runs here
    return config


def dry_scheduler(config, *, blocks=200, build=planned):
    group = KVCacheGroupSpec(
        ["layer"], FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=32, dtype=torch.float32)
    )
    config.cache_config.num_gpu_blocks = blocks
    return build(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[group]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        hash_block_size=BLOCK_TOKENS,
        log_stats=True,
    )


def dry_request(name, load: DryLoad, *, arrival_time: float = 0.0) -> Request:
    init_none_hash(sha256)
    return Request(
        request_id=str(name),
        prompt_token_ids=Random(load.seed).choices(range(1, 500), k=load.prompt_tokens),
        sampling_params=SamplingParams(max_tokens=load.output_tokens, ignore_eos=True),
        pooling_params=None,
        arrival_time=arrival_time,
        mm_features=load.features,
        block_hasher=get_request_block_hasher(BLOCK_TOKENS, sha256),
    )


def run_dry(scheduler, loads: Sequence[DryLoad], *, in_flight: int = 1) -> DryRun:
    """Serve the loads to their ends; `in_flight` steps are scheduled before the first one's output is there."""
    run = DryRun([], [], [], [], {})
    scheduler.recorder = EngineRecorder(on_step=run.steps.append, on_request=run.times.append)
    queued: deque[tuple[Any, list[str]]] = deque()
    for step in range(MOST_STEPS):
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
    names = list(output.num_scheduled_tokens)
    scheduler.update_from_output(
        output,
        ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[[7] if name in sampled else [] for name in names],
        ),
    )
