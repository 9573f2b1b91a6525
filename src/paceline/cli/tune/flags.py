"""Flags that `paceline tune replay` and `paceline tune threshold sweep` share, and the records they become."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from sys import maxsize
from typing import Annotated, Any, cast

import typer

from paceline.errors import InvalidValueError
from paceline.json_document import parsed_json
from paceline.records import require_seed
from paceline.schedule.policies import POLICIES, PolicyWeights
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import EngineTime, LinearStepTime
from paceline.simulate import LinearCost, SimulatedEngine
from paceline.simulate.engine_settings import VLLM
from paceline.tune.context import context_tokens
from paceline.tune.environment import package_versions
from paceline.tune.host import OpenHost
from paceline.tune.simulated import blocks_that_last, open_simulated
from paceline.tune.trace import read_trace
from paceline.tune.workload import LoadScaling, SyntheticLoad, Workload, require_context, scaled

NO_ENGINE_ARGUMENTS = "{}"
MACHINE_CLOCK, PROCESSOR_CLOCK, VIRTUAL_CLOCK = "machine", "processor", "virtual"
SIMULATED_ARGUMENTS = {"max_num_seqs": 128, "block_size": 16}  # of vLLM's, with what stands for them
DEFAULT_LOAD, DEFAULT_WEIGHTS = SyntheticLoad(), PolicyWeights()
LONGEST_OVER_MEDIAN = 4


TraceOption = Annotated[Path | None, typer.Option(help="CSV or JSONL of arrivals and lengths (docs/traces.md).")]
SyntheticOption = Annotated[
    bool, typer.Option("--synthetic", help="Poisson arrivals, lognormal lengths; labelled synthetic.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Serve the first so many requests.", show_default="all; 200 of a synthetic load"),
]
LengthScaleOption = Annotated[float, typer.Option(help="Multiply prompt and output tokens by this.")]
SpeedOption = Annotated[float, typer.Option(help="Divide arrival times by this.")]
RateOption = Annotated[
    float | None, typer.Option(help="Offered load in requests a second.", show_default="as the arrivals are")
]
TtftBudgetMsOption = Annotated[float | None, typer.Option(help="First-token budget of requests that bring none.")]
PromptMedianOption = Annotated[int, typer.Option(help="Synthetic: median prompt tokens.")]
OutputMedianOption = Annotated[int, typer.Option(help="Synthetic: median output tokens.")]
PolicyOption = Annotated[str, typer.Option(help=f"Order of prefills: {', '.join(POLICIES)}.")]
TimeWeightOption = Annotated[float, typer.Option(help="Aging: priority a second.")]
PromptWeightOption = Annotated[float, typer.Option(help="Aging: priority a token.")]
ChunkSizeOption = Annotated[int, typer.Option(help="Token budget of a step.")]
MinChunkTokensOption = Annotated[int, typer.Option(help="Smallest chunk that does not finish its prompt.")]
MaxChunkTokensOption = Annotated[int | None, typer.Option(help="Most tokens of one prompt a step.")]
MaxPartialPrefillsOption = Annotated[int | None, typer.Option(help="Most prompts partly prefilled.")]
TargetTimeMsOption = Annotated[float | None, typer.Option(help="Step time to keep; needs --step-time.")]
TargetBaseShareOption = Annotated[float, typer.Option(help="Most a useful chunk's step may spend on its fixed cost.")]
StepTimeOption = Annotated[Path | None, typer.Option(help="Model file of `paceline tune step-time`.")]
ModelArgument = Annotated[str, typer.Argument(help="What vLLM is to serve: a local folder or a hub id.")]
SweptModelArgument = Annotated[
    str | None, typer.Argument(help="What vLLM is to serve: a local folder or a hub id; not needed with --simulate.")
]
MaxModelLenOption = Annotated[int | None, typer.Option(help="Context.", show_default="the model's own")]
EngineArgsOption = Annotated[str, typer.Option(help="Further engine arguments, a JSON object.")]
SeedOption = Annotated[int, typer.Option(help="Draws synthetic loads, prompts and the order of runs.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    """What is served: a trace or a synthetic load, and what is done to it."""

    trace: Path | None
    synthetic: bool
    limit: int | None
    length_scale: float
    speed: float
    rate: float | None
    ttft_budget_ms: float | None
    prompt_median: int
    output_median: int

    def loads(self, max_model_len: int) -> Callable[[int], Workload]:
        """Return the load by seed; a trace is the same for every seed, and read once."""
        if (self.trace is None) is not self.synthetic:
            given = None if self.trace is None else f"{self.trace} and --synthetic"
            raise InvalidValueError("load", given, "one of --trace FILE and --synthetic")
        scaling = LoadScaling(
            limit=self.limit,
            length_scale=self.length_scale,
            speed=self.speed,
            rate=None if self.synthetic else self.rate,  # a synthetic load is drawn at its rate
            ttft_budget_ms=self.ttft_budget_ms,
        )
        if self.trace is None:
            return lambda seed: _within(scaled(self._drawn().workload(seed), scaling), max_model_len)
        whole = _within(scaled(read_trace(self.trace), scaling), max_model_len)
        return lambda seed: whole  # noqa: ARG005

    def _drawn(self) -> SyntheticLoad:
        return SyntheticLoad(
            count=DEFAULT_LOAD.count if self.limit is None else self.limit,
            rate=DEFAULT_LOAD.rate if self.rate is None else self.rate,
            prompt_median=self.prompt_median,
            longest_prompt=LONGEST_OVER_MEDIAN * self.prompt_median,
            output_median=self.output_median,
            longest_output=LONGEST_OVER_MEDIAN * self.output_median,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerFlags:
    """How steps are filled, `min_chunk_threshold` aside."""

    policy: str
    time_weight: float
    prompt_weight: float
    chunk_size: int
    min_chunk_tokens: int
    max_chunk_tokens: int | None
    max_partial_prefills: int | None
    target_time_ms: float | None
    target_base_share: float
    step_time: Path | None

    def settings(self, *, min_chunk_threshold: int = 0) -> PlannerSettings:
        """Return the planner's settings; raises InvalidValueError or UnknownChoiceError for those that cannot work."""
        settings = self.planner(min_chunk_threshold=min_chunk_threshold)
        settings.require_model(self.model())
        return settings

    def planner(self, *, min_chunk_threshold: int = 0) -> PlannerSettings:
        """Return the planner's settings, whatever predicts its steps."""
        return PlannerSettings(
            policy=self.policy,
            weights=PolicyWeights(time_weight=self.time_weight, prompt_weight=self.prompt_weight),
            chunk_size=self.chunk_size,
            min_chunk_threshold=min_chunk_threshold,
            min_chunk_tokens=self.min_chunk_tokens,
            max_chunk_tokens=self.max_chunk_tokens,
            max_partial_prefills=self.max_partial_prefills,
            target_time_ms=self.target_time_ms,
            target_base_share=self.target_base_share,
        )

    def model(self) -> LinearStepTime | None:
        """Return the step-time model that is named; None when none is."""
        return None if self.step_time is None else LinearStepTime.load(self.step_time)

    def engine_time(self) -> EngineTime | None:
        """Return what moves a simulated clock: a step with what the engine does until the next; None without a file."""
        return None if self.step_time is None else EngineTime.load(self.step_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """What vLLM is started with, the scheduler aside."""

    model: str | None
    max_model_len: int | None
    engine_args: str
    seed: int

    def __post_init__(self) -> None:
        require_seed(self.seed)

    @property
    def context_tokens(self) -> int:
        """The longest request, prompt and answer together; nothing limits it where no model is named."""
        if self.model is None:
            return maxsize if self.max_model_len is None else self.max_model_len
        return context_tokens(self.model, self.max_model_len)

    def opener(self, scheduler: SchedulerFlags, *, clock: str = MACHINE_CLOCK) -> OpenHost:
        """Return what starts an engine by the named clock, or its scheduler alone in virtual time.

        Raises MissingExtraError where vLLM is not installed.
        """
        arguments, step_time = self._arguments(scheduler), scheduler.model()
        if clock == VIRTUAL_CLOCK:
            host = import_module("paceline.vllm_plugin.virtual_replay").VirtualVllm
            by: dict[str, Any] = {"engine_time": scheduler.engine_time()}
        else:
            host = import_module("paceline.vllm_plugin.replay").OfflineVllm
            by = {"clock": import_module("paceline.vllm_plugin.clocks").CLOCKS[clock]()}
        return partial(host.open, self.model, engine_args=arguments, seed=self.seed, step_time=step_time, **by)

    def simulated_opener(self, scheduler: SchedulerFlags, workload: Workload) -> OpenHost:
        """Return what opens a simulated engine of the same arguments, by vLLM's names; raises InvalidValueError."""
        step_time, engine_time = scheduler.model(), scheduler.engine_time()
        if step_time is None or engine_time is None:
            expected = "a model of `paceline tune step-time`: in virtual time it is the clock"
            raise InvalidValueError("--step-time", None, expected)
        given = self._arguments(scheduler)
        numbers = {name: _whole(given, name, default) for name, default in SIMULATED_ARGUMENTS.items()}
        blocks = blocks_that_last(
            workload.requests, max_num_seqs=numbers["max_num_seqs"], block_size=numbers["block_size"]
        )
        engine = SimulatedEngine(
            rules=VLLM,
            planner=PlannerSettings(chunk_size=scheduler.chunk_size),
            max_num_seqs=numbers["max_num_seqs"],
            num_blocks=_whole(given, "num_gpu_blocks_override", blocks),
            block_size=numbers["block_size"],
            target_model=step_time,
        )
        return open_simulated(engine, LinearCost.of(engine_time))

    def conditions(self, scheduler: SchedulerFlags) -> dict[str, object]:
        """Return what must not change between runs that are compared, ready for JSON."""
        step_time = scheduler.model()
        return {
            "model": self.model,
            "engine_args": self._arguments(scheduler),
            "step_time": step_time and step_time.document(),
            "versions": package_versions(),
        }

    def _arguments(self, scheduler: SchedulerFlags) -> dict[str, Any]:
        # the stock scheduler too is to fill steps of chunk_size
        given: dict[str, Any] = {"max_num_batched_tokens": scheduler.chunk_size, **self._given_arguments()}
        return given if self.max_model_len is None else {**given, "max_model_len": self.max_model_len}

    def _given_arguments(self) -> dict[str, Any]:
        try:
            parsed = parsed_json(self.engine_args)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            expected = """a JSON object, for example '{"dtype": "float32"}'"""
            raise InvalidValueError("--engine-args", self.engine_args, expected)
        return cast("dict[str, Any]", parsed)


def _whole(given: dict[str, Any], name: str, default: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"--engine-args {name}", value, "a whole number of at least 1")
    return value


def _within(workload: Workload, max_model_len: int) -> Workload:
    require_context(workload, max_model_len)
    return workload
