"""Loads by arrival time on vLLM's schedulers in virtual time: no model, the same figures on any machine.

A step lasts what a step-time model says. The model is the one that `benchmarks/scheduling.py` fitted on vLLM with a tiny
model on two cores: its fixed cost is large beside a token's, as on small models everywhere.
"""

import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported

from tiny_llm import write_tiny_llm

from paceline.schedule import EncoderBudget, LinearStepTime, RequestTimes, StepRecord
from paceline.tune.workload import SyntheticLoad
from paceline.vllm_plugin.made_up import MadeUpImage, made_up_request
from paceline.vllm_plugin.relied_on import EngineArgs, EngineRequest
from paceline.vllm_plugin.virtual import VirtualClock, VirtualEngine, virtual_scheduler

BLOCK_TOKENS = 16
VOCABULARY = 500
STEP_TIME = LinearStepTime(
    base_ms=3.37,
    per_decode_token_ms=0.0,
    per_decode_context_token_ms=0.000546,
    per_prefill_token_ms=0.0425,
    per_prefill_attention_token_ms=0.0000193,
)
DRAWN = SyntheticLoad(
    prompt_median=250,
    prompt_sigma=0.6,
    longest_prompt=1500,
    output_median=32,
    output_sigma=0.4,
    longest_output=256,
)
TEXT_BESIDE_IMAGES = replace(DRAWN, prompt_median=40, longest_prompt=300)
LARGEST_IMAGE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    """A request by sizes, and when it arrives."""

    number: int
    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    images: tuple[MadeUpImage, ...] = ()

    def built(self) -> EngineRequest:
        """Return it as vLLM's request; no two prompts share a prefix."""
        return made_up_request(
            str(self.number),
            Random(self.number).choices(range(1, VOCABULARY), k=self.prompt_tokens),
            output_tokens=self.output_tokens,
            block_tokens=BLOCK_TOKENS,
            images=self.images,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An engine by its limits: tokens a step, requests running at once, what its encoder does (None without images)."""

    step_tokens: int
    running: int
    encoder: EncoderBudget | None = None

    @property
    def blocks(self) -> int:
        """Enough memory for the longest requests in every place."""
        return self.running * 2048 // BLOCK_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """What became of a load; all times are of the virtual clock, which starts at 0."""

    steps: tuple[StepRecord, ...]
    requests: tuple[RequestTimes, ...]
    scheduler: Any

    @property
    def seconds(self) -> float:
        """When the last request ended."""
        return max(request.completion_seconds for request in self.requests)


def text_load(count: int, *, rate: float, seed: int) -> list[TimedRequest]:
    """Return Poisson arrivals of texts: lognormal lengths, prompts of 250 tokens in the median, answers of 32 (synthetic)."""
    drawn = replace(DRAWN, count=count, rate=rate).workload(seed)
    return [
        TimedRequest(
            number=number,
            arrival_seconds=each.arrival_seconds,
            prompt_tokens=each.prompt_tokens,
            output_tokens=each.output_tokens,
        )
        for number, each in enumerate(drawn.requests)
    ]


def short_and_long_load(count: int, *, rate: float, seed: int) -> list[TimedRequest]:
    """Return the same arrivals with the lengths of `vllm_overhead.py`'s burst: one prompt in five is long (synthetic)."""
    arrivals = replace(DRAWN, count=count, rate=rate).workload(seed).requests
    random = Random(f"short and long {seed}")
    return [
        TimedRequest(
            number=number,
            arrival_seconds=each.arrival_seconds,
            prompt_tokens=random.randint(200, 600) if random.random() < 0.2 else random.randint(10, 60),
            output_tokens=random.randint(8, 32),
        )
        for number, each in enumerate(arrivals)
    ]


def image_load(count: int, *, rate: float, seed: int) -> list[TimedRequest]:
    """Return the same arrivals and answers with one to three images of 100 to 300 tokens, and a little text (synthetic)."""
    drawn = replace(TEXT_BESIDE_IMAGES, count=count, rate=rate).workload(seed)
    random = Random(f"images {seed}")
    requests: list[TimedRequest] = []
    for number, each in enumerate(drawn.requests):
        images: list[MadeUpImage] = []
        tokens = each.prompt_tokens // 4
        for index in range(random.choice([1, 1, 2, 3])):
            size = random.randint(100, LARGEST_IMAGE)
            images.append(MadeUpImage(offset=tokens, tokens=size, content=f"{number} {index}"))
            tokens += size + random.randint(0, 5)
        requests.append(
            TimedRequest(
                number=number,
                arrival_seconds=each.arrival_seconds,
                prompt_tokens=tokens + each.prompt_tokens - each.prompt_tokens // 4,
                output_tokens=each.output_tokens,
                images=tuple(images),
            )
        )
    return requests


def tiny_config(folder: str) -> Any:
    """Return a configuration of vLLM's to be changed for each run: making one takes seconds."""
    return EngineArgs(
        model=str(write_tiny_llm(Path(folder), layers=1, hidden=32)),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        max_num_batched_tokens=512,
        max_num_seqs=64,
        block_size=BLOCK_TOKENS,
        scheduler_cls="paceline.vllm_plugin.scheduler",
    ).create_engine_config()


def serve_timed(
    config: Any,
    load: Sequence[TimedRequest],
    shape: Shape,
    build: Callable[..., Any],
    *,
    paceline: Mapping[str, object] | None = None,
    step_time: LinearStepTime = STEP_TIME,
    on_built: Callable[[Any], None] = lambda _: None,
    most_steps: int | None = None,
) -> TimedRun:
    """Serve a load to its end, or for so many steps; each request is handed over when its arrival time has come."""
    config.scheduler_config.max_num_batched_tokens = shape.step_tokens
    config.scheduler_config.max_num_seqs = shape.running
    config.additional_config = {} if paceline is None else {"paceline": dict(paceline)}
    clock = VirtualClock()
    scheduler = virtual_scheduler(config, blocks=shape.blocks, clock=clock, build=build, encoder=shape.encoder)
    on_built(scheduler)
    engine = VirtualEngine(scheduler=scheduler, clock=clock, step_time=step_time)
    coming = [(request.arrival_seconds, request.number, request) for request in load]
    heapq.heapify(coming)
    while coming or not engine.is_idle:
        if engine.is_idle:
            clock.seconds = max(clock.seconds, coming[0][0])
        while coming and coming[0][0] <= clock.seconds:
            arrival, _, request = heapq.heappop(coming)
            engine.add(request.built(), arrival_seconds=arrival)
        engine.step()
        if most_steps is not None and len(engine.steps) >= most_steps:
            break
    return TimedRun(steps=tuple(engine.steps), requests=tuple(engine.finished), scheduler=scheduler)


def seconds_per_prefill_token(run: TimedRun) -> float:
    """Return the mean over requests that `paceline tune aging` takes."""
    return fmean(request.prefill_time_execution_plus_preemption_normalized for request in run.requests)
