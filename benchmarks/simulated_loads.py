"""Random loads and engines for simulations: one number is one case, and most run out of memory."""

from dataclasses import dataclass
from random import Random

import numpy as np

from paceline.schedule import LinearStepTime, PlannerSettings, PolicyWeights, TraceRequest
from paceline.schedule.policies import POLICIES
from paceline.simulate import (
    RULES,
    LinearCost,
    ReplayedCost,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    StepCost,
    VaryingCost,
    VidurTables,
)

STEP_TIME = LinearStepTime(
    base_ms=5.0,
    per_decode_token_ms=0.05,
    per_decode_context_token_ms=0.0001,
    per_prefill_token_ms=0.04,
    per_prefill_attention_token_ms=0.00001,
)
EXECUTION_TOLERANCE = 1e-9  # of a run's whole time: sums in another order
TABLE_TOKENS = 4096
LOGGED_STEPS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A load in time, the engine that serves it, and how long its steps take."""

    number: int
    requests: tuple[TraceRequest, ...]
    engine: SimulatedEngine
    cost: StepCost

    @property
    def load(self) -> RequestColumns:
        """The requests in columns."""
        return RequestColumns.of(self.requests)


def random_case(number: int, *, rules: tuple[str, ...] = RULES, most_requests: int = 60) -> Case:
    """Return the case of that number: rules and policies in turn, everything else drawn."""
    random = Random(f"simulated {number}")
    chosen = rules[number % len(rules)]
    chunk_size = random.choice([16, 32, 64, 128, 256])
    block_size = random.choice([1, 8, 16, 16, 16])
    requests = _requests(random, random.randint(2, most_requests), chunk_size)
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    least = 2 + -(-longest // block_size)
    watermark = random.choice([None, None, 0.0, 0.05])
    blocks = random.choice([least, least, least + 3, least + 10, 2 * least, 4000])
    planner = PlannerSettings(chunk_size=chunk_size)
    if chosen == "paceline":
        planner = random_planner(random, chunk_size, tuple(POLICIES)[number // len(rules) % len(POLICIES)])
    engine = SimulatedEngine(
        rules=chosen,
        planner=planner,
        max_num_seqs=random.choice([2, 4, 8, 16]),
        num_blocks=blocks + int(0.06 * blocks) + 1,  # the longest fits beside any watermark
        block_size=block_size,
        watermark=watermark,
        target_model=STEP_TIME,
    )
    return Case(number=number, requests=requests, engine=engine, cost=_cost(random, number))


def random_planner(random: Random, chunk_size: int, policy: str) -> PlannerSettings:
    """Return settings of the planner, each rule in use or not."""
    largest = random.randint(max(1, chunk_size // 4), chunk_size) if random.random() < 0.4 else None
    used = [random.random() < 0.4 for _ in range(4)]
    return PlannerSettings(
        chunk_size=chunk_size,
        policy=policy,
        weights=PolicyWeights(
            time_weight=random.choice([1.0, 5.0]),
            prompt_weight=random.choice([-0.01, -0.001, 0.0]),
            no_budget_seconds=0.3 if chunk_size < 100 else 3.0,
        ),
        min_chunk_threshold=random.randint(0, (chunk_size * 3 - 1) // 10) if used[0] else 0,
        min_chunk_tokens=random.randint(1, largest or chunk_size) if used[1] else 0,
        max_chunk_tokens=largest,
        max_partial_prefills=random.randint(1, 3) if used[2] else None,
        target_time_ms=random.choice([16.0, 20.0]) if used[3] else None,
        target_base_share=0.9,
    )


def differences(one: SimulatedRun, other: SimulatedRun) -> list[str]:
    """Return the columns in which two runs of one load differ; execution times may by rounding."""
    found: list[str] = []
    for name in (
        "first_scheduled_seconds",
        "first_token_seconds",
        "completion_seconds",
        "preemptions",
        "restart_prompt_tokens",
        "step_count",
    ):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            found.append(name)
    whole = float(other.completion_seconds.max())
    if not np.allclose(one.execution_seconds, other.execution_seconds, rtol=0, atol=EXECUTION_TOLERANCE * whole):
        found.append("execution_seconds")
    if one.steps is not None and other.steps is not None:
        names = [*type(one.steps).__slots__]
        found += [name for name in names if not np.array_equal(getattr(one.steps, name), getattr(other.steps, name))]
    return found


def _requests(random: Random, count: int, chunk_size: int) -> tuple[TraceRequest, ...]:
    pace = random.choice([0.002, 0.01, 0.05, 0.3])
    longest = random.choice([40, 200, 600])
    outputs = random.choice([10, 60, 200])
    now = random.choice([0.0, 3.0])
    requests: list[TraceRequest] = []
    budgets = Random(f"budgets {count} {now} {pace}")
    for index in range(count):
        now += random.choice([0.0, random.expovariate(1 / pace)])
        prompt = random.choice([1, 15, 16, 17, chunk_size, random.randint(1, longest), random.randint(1, longest)])
        output = random.choice([1, 2, random.randint(1, outputs), random.randint(1, outputs)])
        requests.append(
            TraceRequest(
                request_id=str(index),
                arrival_seconds=now,
                prompt_tokens=prompt,
                output_tokens=output,
                ttft_budget_ms=budgets.choice([None, 100.0, 100.0, 400.0, budgets.uniform(10, 3000)]),
            )
        )
    return tuple(requests)


def _cost(random: Random, number: int) -> StepCost:
    kind = random.choice(["linear", "linear", "tables", "log"])
    if kind == "linear":
        received = Random(f"received {number}").choice([0.0, 0.0, 0.0004, 0.003, 0.03])
        return LinearCost(STEP_TIME, request_seconds=received)
    numbers = np.random.default_rng(random.getrandbits(32))
    if random.random() < 0.2:
        inner = LinearCost(STEP_TIME) if kind == "log" else random_tables(numbers)
        return VaryingCost(inner, numbers.lognormal(0, 0.3, random.choice([1, 50, 3000])))
    if kind == "log":
        started = np.cumsum(numbers.exponential(random.choice([0.003, 0.01, 0.012]), LOGGED_STEPS))
        return ReplayedCost(
            closed_seconds=started - numbers.exponential(0.002, LOGGED_STEPS),
            started_seconds=started,
            execute_seconds=numbers.exponential(0.01, LOGGED_STEPS),
        )
    return random_tables(numbers)


def random_tables(numbers: np.random.Generator) -> VidurTables:
    """Return tables of random times, larger than any load here needs."""

    def by_tokens() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return numbers.uniform(0.001, 0.02, TABLE_TOKENS + 1)

    return VidurTables(
        path="random tables",
        before_attention=by_tokens(),
        communication=by_tokens(),
        layernorm=by_tokens(),
        mlp=by_tokens(),
        add=by_tokens(),
        decode=numbers.uniform(0.01, 0.1, (129, 65)),
        prefill=numbers.uniform(0.01, 0.1, (400, TABLE_TOKENS + 1)),
        decode_factor=1.1,
        prefill_factor=1.1,
        layers=32,
    )
