"""Random loads for vLLM's schedulers: texts and images, arrivals, aborts, small memory, small encoder budgets and caches.

A load is all of what a scheduler meets, drawn from one number: the same number is the same load, for any scheduler.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from paceline.schedule import EncoderBudget, LinearStepTime
from paceline.vllm_plugin.made_up import MadeUpImage, made_up_request
from paceline.vllm_plugin.relied_on import EngineArgs, EngineRequest, RequestStatus
from paceline.vllm_plugin.virtual import VirtualClock, VirtualEngine, virtual_scheduler

BLOCK_TOKENS = 16
MOST_STEPS = 5000
MOST_IDLE = 20
VOCABULARY = 500
POLICIES = ("fcfs", "spf", "srtf", "aging", "edf")
STEP_TIME = LinearStepTime(
    base_ms=5.0,
    per_decode_token_ms=0.05,
    per_decode_context_token_ms=0.0001,
    per_prefill_token_ms=0.04,
    per_prefill_attention_token_ms=0.00001,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """A request by sizes: handed over before step `step`, given up by its client before step `abort_step`."""

    name: str
    step: int
    prompt_tokens: int
    output_tokens: int
    images: tuple[MadeUpImage, ...] = ()
    text_seed: int = 0  # prompts of equal seeds share the prefix of the shorter
    priority: int = 0
    abort_step: int | None = None
    ttft_budget_ms: float | None = None

    def built(self, *, arrival_time: float) -> EngineRequest:
        """Return it as vLLM's request; `arrival_time` is the front end's wall clock."""
        return made_up_request(
            self.name,
            Random(self.text_seed).choices(range(1, VOCABULARY), k=self.prompt_tokens),
            output_tokens=self.output_tokens,
            block_tokens=BLOCK_TOKENS,
            images=self.images,
            priority=self.priority,
            arrival_time=arrival_time,
            ttft_budget_ms=self.ttft_budget_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests, and the engine that serves them."""

    number: int
    requests: tuple[LoadRequest, ...]
    step_tokens: int
    running: int
    blocks: int
    encoder: EncoderBudget | None
    in_flight: int = 1

    def with_distinct_texts(self) -> "Load":
        """Return the load with no prefix in common between two prompts."""
        return replace(self, requests=tuple(replace(request, text_seed=int(request.name)) for request in self.requests))


@dataclass(slots=True)
class Served:
    """What one scheduler made of a load."""

    steps: list[dict[str, int]] = field(default_factory=list[dict[str, int]])  # tokens by request, empty steps too
    idle_twice: int = 0  # times that two steps in a row were empty though a request could have been served
    idle: int = 0
    unfinished: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    engine: VirtualEngine | None = None

    @property
    def executed(self) -> list[dict[str, int]]:
        """The steps that computed something."""
        return [step for step in self.steps if step]

    def violations(self) -> list[str]:
        """Return what a scheduler must never do and this one did."""
        found = [f"never ends: {', '.join(self.unfinished)}"] if self.unfinished else []
        found += [f"two steps in a row without work, {self.idle_twice} times"] if self.idle_twice else []
        return found + [f"keeps {name}" for name in self.leaks]


def random_load(number: int, *, with_images: bool = True) -> Load:
    """Return the load of that number."""
    random = Random(f"load {number} {with_images}")
    step_tokens = random.choice([32, 64, 128, 256])
    largest = random.choice([20, 60, 120]) if with_images else 0
    requests = tuple(_request(random, index, largest) for index in range(random.randint(2, 14)))
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    least_blocks = 2 + -(-longest // BLOCK_TOKENS)
    encoder = None
    if with_images:
        # vLLM never goes below the largest image
        encoder = EncoderBudget(
            compute_embeds=random.choice([largest, largest + largest // 2, 3 * largest]),
            cache_embeds=random.choice([largest, largest + largest // 2, 2 * largest, 5 * largest]),
        )
    return Load(
        number=number,
        requests=requests,
        step_tokens=step_tokens,
        running=random.choice([2, 4, 8, 16]),
        blocks=random.choice([least_blocks, least_blocks + 10, 2 * least_blocks, 500, 500]),
        encoder=encoder,
        in_flight=random.choice([1, 1, 2]),
    )


def _request(random: Random, index: int, largest: int) -> LoadRequest:
    parts = random.choice([0, 1, 1, 2, 3]) if largest else 0
    images: list[MadeUpImage] = []
    tokens = random.choice([0, 1, random.randint(1, 60)])
    for part in range(parts):
        size = random.choice([largest, random.randint(1, largest)])
        shared = random.random() < 0.15
        content = f"shared {size}" if shared else f"{index} {part}"
        images.append(MadeUpImage(offset=tokens, tokens=size, content=content))
        tokens += size + random.choice([0, 1, random.randint(1, 80)])
    tokens = max(1, tokens + random.choice([0, random.randint(1, 40), random.randint(1, 300)]))
    step = random.choice([0, 0, random.randint(0, 30)])
    return LoadRequest(
        name=str(index),
        step=step,
        prompt_tokens=tokens,
        output_tokens=random.choice([1, random.randint(1, 8), random.randint(1, 40)]),
        images=tuple(images),
        text_seed=index if images else random.choice([index, 1000]),
        abort_step=step + random.randint(0, 20) if random.random() < 0.08 else None,
        ttft_budget_ms=[None, 50.0, 400.0][index % 3],
    )


def random_settings(number: int, step_tokens: int) -> dict[str, object]:
    """Return a section of settings for the load of that number: every policy in turn, half of them with nothing else."""
    random = Random(f"settings {number}")
    chosen: dict[str, object] = {"policy": POLICIES[number % len(POLICIES)]}
    own: list[dict[str, object]] = [
        {"min_chunk_threshold": step_tokens // 4},
        {"min_chunk_tokens": step_tokens // 3},
        {"max_chunk_tokens": max(1, step_tokens // 3)},
        {"max_partial_prefills": random.randint(1, 2)},
        {"target_time_ms": 12.0, "target_base_share": 0.5, "step_time": STEP_TIME.document()},
    ]
    return chosen | (random.choice(own) if random.random() < 0.5 else {})


class Engines:
    """vLLM's configurations of one model, changed for each load: making one takes longer than serving a load."""

    def __init__(self, model: str) -> None:
        self._configs = {asynchronous: _config(model, asynchronous) for asynchronous in (False, True)}

    def configured(self, load: Load, paceline: Mapping[str, object] | None) -> Any:
        """Return a configuration for the load; `paceline` is the plugin's section of it."""
        config = self._configs[load.in_flight > 1]
        config.scheduler_config.max_num_batched_tokens = load.step_tokens
        config.scheduler_config.max_num_seqs = min(load.running, load.step_tokens)
        config.additional_config = {} if paceline is None else {"paceline": dict(paceline)}
        return config


def _config(model: str, asynchronous: bool) -> Any:
    config = EngineArgs(
        model=model,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        max_num_batched_tokens=128,
        max_num_seqs=8,
        block_size=BLOCK_TOKENS,
        scheduler_cls="paceline.vllm_plugin.scheduler",
    ).create_engine_config()
    config.scheduler_config.async_scheduling = asynchronous  # the CPU platform says no: no model runs here
    return config


def serve(
    load: Load,
    engines: Engines,
    build: Callable[..., Any],
    *,
    paceline: Mapping[str, object] | None = None,
    wall: Callable[[int], float] = float,
) -> Served:
    """Serve a load to its end under the scheduler that `build` makes; `wall` gives the front end's clock by step.

    It stops where the load ends, where steps stay empty, or after many steps: see `Served.violations`.
    """
    clock = VirtualClock()
    config = engines.configured(load, paceline)
    scheduler = virtual_scheduler(config, blocks=load.blocks, clock=clock, build=build, encoder=load.encoder)
    engine = VirtualEngine(scheduler=scheduler, clock=clock, step_time=STEP_TIME, in_flight=load.in_flight)
    served = Served(engine=engine)
    coming = sorted(load.requests, key=lambda request: (request.step, int(request.name)))
    was_idle = False
    for step in range(MOST_STEPS):
        while coming and coming[0].step <= step:
            request = coming.pop(0)
            engine.add(request.built(arrival_time=wall(step)), arrival_seconds=clock.seconds)
        for request in load.requests:
            if request.abort_step == step:
                scheduler.finish_requests([request.name], RequestStatus.FINISHED_ABORTED)
        if not coming and engine.is_idle:
            served.leaks = leaks(scheduler)
            return served
        could_run = not engine.awaited and scheduler.get_num_unfinished_requests() > 0
        output = engine.step()
        served.steps.append(dict(output.num_scheduled_tokens))
        is_idle = could_run and not output.total_num_scheduled_tokens
        served.idle += is_idle
        served.idle_twice += is_idle and was_idle
        was_idle = is_idle
        if served.idle_twice > MOST_IDLE:
            break
    served.unfinished = tuple(sorted(scheduler.requests))
    return served


def leaks(scheduler: Any) -> tuple[str, ...]:
    """Return what an idle scheduler still holds, of what it should have given back."""
    cache, pool = scheduler.encoder_cache_manager, scheduler.kv_cache_manager.block_pool
    held = {
        "requests": len(scheduler.requests),
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting) + len(scheduler.kv_holding_waiting),
        "deferred": len(scheduler.deferred_waiting),
        "prefills in flight": len(scheduler._inflight_prefills),
        "blocks": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
        "encoder cache": cache.cache_size - cache.num_freeable_slots,
        "encoder references": len(cache.request_cached_ids),
    }
    return tuple(name for name, count in held.items() if count)
