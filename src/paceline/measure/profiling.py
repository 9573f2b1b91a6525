"""One profiling run from end to end: grid, block ranking, provenance, sweep, compaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.datasets.question import VisualQuestion
from paceline.datasets.question_sets import QuestionSet, SetRequest, load_question_set, set_requests
from paceline.errors import InvalidValueError
from paceline.measure.clock import clock_for
from paceline.measure.engine_profile import engine_settings, opened_engine, require_servable, write_step_logs
from paceline.measure.greedy import settings_put_aside
from paceline.measure.hosts import ModelHost, ServingEngine
from paceline.measure.provenance import provenance_of
from paceline.measure.strategies import choose, require_strategy
from paceline.measure.sweep import SweepSettings, sweep
from paceline.models.grid import grid_of
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.loading import VisionLanguageModel
from paceline.profiles import ProfileStore
from paceline.profiles.agreement import BatchAgreement, batch_agreement
from paceline.profiles.questions import AskedQuestion
from paceline.profiles.reading import read_unjudged
from paceline.profiles.sentinels import MachineDrift, read_drifts
from paceline.records import KnobConfig, KnobGrid, Provenance, require_seed

CALIBRATION_QUESTIONS = 24
Progress = Callable[[int, int], None]
MOST = 1_000_000  # of anything that is counted out one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """What to measure; `samples` is per dataset, None for a knob means the model's default values.

    `datasets` are names of digit sets, or `name=place` of public ones; `prompt_templates` and `scorers` are `name=value`, or a
    value alone for all public sets. `split` None takes each set's own.
    """

    datasets: tuple[str, ...]
    samples: int
    split: str | None = None
    prompt_templates: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    tiers: tuple[str, ...] | None = None
    top_ks: tuple[int, ...] | None = None
    block_counts: tuple[int, ...] | None = None
    strategy: str = "full"
    num_configs: int | None = None
    seed: int = 3407
    max_new_tokens: int = 32
    warmup_runs: int = 2
    sentinel_every: int = 50
    per_step: bool = False
    prefetch: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MOST:
            raise InvalidValueError("samples", self.samples, f"1 to {MOST:,} a dataset")
        self.set_requests()
        for name, least in (("max_new_tokens", 1), ("warmup_runs", 0), ("sentinel_every", 1)):
            if not least <= getattr(self, name) <= MOST:
                raise InvalidValueError(name, getattr(self, name), f"a whole number from {least} to {MOST:,}")
        require_seed(self.seed)
        require_strategy(self.strategy, self.num_configs)

    def set_requests(self) -> tuple[SetRequest, ...]:
        """Return the data sets as they are to be read and asked."""
        return set_requests(
            self.datasets, split=self.split, prompt_templates=self.prompt_templates, scorers=self.scorers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRun:
    """What a run did: new and total samples of this rank, where they are, and how the machine's speed moved meanwhile."""

    out: Path
    grid: KnobGrid
    configurations: tuple[KnobConfig, ...]
    block_ranking: tuple[int, ...]
    samples_added: int
    samples_total: int
    torn_bytes: int
    parquet: Path | None
    sets: tuple[QuestionSet, ...]
    drifts: tuple[MachineDrift, ...]
    agreement: BatchAgreement | None


def run_profile(
    model: VisionLanguageModel,
    plan: ProfilePlan,
    out: Path | str,
    *,
    rank: int = 0,
    world_size: int = 1,
    engine: ServingEngine | None = None,
    on_progress: Progress = lambda _done, _total: None,
    on_step_logs: Progress = lambda _done, _total: None,
) -> ProfileRun:
    """Profile `model` into the store at `out`, going on where an earlier run of the same plan stopped.

    With `world_size` > 1 every rank measures its share into its own journal, and none compacts. With an `engine` it serves the
    model, whose own weights are gone afterwards, and the cost of steps is logged too. Raises ProfileConflictError when the
    store holds another run, OutputPathError when it cannot be written.
    """
    out = Path(out)
    run = _run(model, plan, out)
    if engine is not None:
        _require_one_process(world_size)
        require_servable(model, run.grid, run.ranking, engine)
    provenance = profile_provenance(model, plan, run.grid, run.sets, run.ranking, engine=engine)
    settings = sweep_settings(plan, rank, world_size)
    asked = [asked_question(question) for question in run.questions]
    with ProfileStore.open_or_create(out, provenance, rank, questions=asked) as store:
        if engine is None:
            added = run.on_model(model, store, settings, on_progress)
        else:
            added = run.on_engine(model, engine, store, settings, on_progress, on_step_logs)
        parquet = store.compact() if world_size == 1 else None
        return run.told(store, added, parquet, served=engine is not None)


def _run(model: VisionLanguageModel, plan: ProfilePlan, out: Path) -> "_Run":
    """Return what a plan comes to on this model."""
    grid = grid_of(model, tiers=plan.tiers, top_ks=plan.top_ks, block_counts=plan.block_counts)
    sets = load_question_sets(plan)
    questions = [question for each in sets for question in each.questions]
    return _Run(
        plan=plan,
        grid=grid,
        sets=sets,
        questions=questions,
        configurations=choose(plan.strategy, grid, seed=plan.seed, count=plan.num_configs),
        ranking=block_ranking(model, questions),
        out=out,
    )


def profile_provenance(
    model: VisionLanguageModel,
    plan: ProfilePlan,
    grid: KnobGrid,
    sets: Sequence[QuestionSet],
    ranking: tuple[int, ...],
    *,
    engine: ServingEngine | None = None,
) -> Provenance:
    """Return where the numbers of this plan come from, on this machine and now."""
    own = {} if engine is None else engine_settings(engine)
    return provenance_of(
        model,
        grid=grid,
        ranking=ranking,
        scorers={each.name: each.scorer for each in sets},
        seed=plan.seed,
        settings={**_settings(plan, sets, settings_put_aside(model.parts.model)), **own},
        sources={each.name: each.source for each in sets if each.source is not None},
        engine=engine,
    )


def model_host(model: VisionLanguageModel, plan: ProfilePlan, ranking: tuple[int, ...]) -> ModelHost:
    """Return the model as this plan measures it in this process."""
    return ModelHost(
        model=model,
        ranking=ranking,
        max_new_tokens=plan.max_new_tokens,
        clock=clock_for(*model.devices),
        per_step=plan.per_step,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What is asked under which configurations, wherever the model runs."""

    plan: ProfilePlan
    grid: KnobGrid
    sets: tuple[QuestionSet, ...]
    questions: Sequence[VisualQuestion]
    configurations: Sequence[KnobConfig]
    ranking: tuple[int, ...]
    out: Path

    def on_model(
        self, model: VisionLanguageModel, store: ProfileStore, settings: SweepSettings, on_progress: Progress
    ) -> int:
        host = model_host(model, self.plan, self.ranking)
        return sweep(host, self.questions, self.configurations, store, settings, on_progress)

    def on_engine(
        self,
        model: VisionLanguageModel,
        engine: ServingEngine,
        store: ProfileStore,
        settings: SweepSettings,
        on_progress: Progress,
        on_step_logs: Progress,
    ) -> int:
        plan = self.plan
        with opened_engine(
            model,
            engine,
            ranking=self.ranking,
            seed=plan.seed,
            max_new_tokens=plan.max_new_tokens,
            per_step=plan.per_step,
        ) as host:
            added = sweep(host, self.questions, self.configurations, store, settings, on_progress)
            write_step_logs(
                host.engine,
                model,
                self.questions,
                self.configurations,
                self.out,
                seed=plan.seed,
                on_progress=on_step_logs,
            )
        return added

    def told(self, store: ProfileStore, added: int, parquet: Path | None, *, served: bool) -> ProfileRun:
        """Return what the run did, which added so many samples; `served` where an engine answered together too."""
        return ProfileRun(
            out=self.out,
            grid=self.grid,
            configurations=tuple(self.configurations),
            block_ranking=self.ranking,
            samples_added=added,
            samples_total=len(store.done()),
            torn_bytes=store.torn_bytes,
            parquet=parquet,
            sets=self.sets,
            drifts=read_drifts(self.out),
            agreement=batch_agreement(read_unjudged(self.out, columns=["metadata"]).samples) if served else None,
        )


def load_question_sets(plan: ProfilePlan) -> tuple[QuestionSet, ...]:
    """Return the plan's data sets in its order, each with its `samples` questions, or all of a set of fewer."""
    return tuple(load_question_set(each, count=plan.samples, seed=plan.seed) for each in plan.set_requests())


def load_questions(plan: ProfilePlan) -> list[VisualQuestion]:
    """Return the plan's questions, in the order of its datasets."""
    return [question for each in load_question_sets(plan) for question in each.questions]


def block_ranking(model: VisionLanguageModel, questions: Sequence[VisualQuestion]) -> tuple[int, ...]:
    """Return the ranking that the model ships with, or block influence over the first questions at the high tier."""
    if model.block_ranking is not None:
        return model.block_ranking
    requests = (
        model.prepare(each.picture, each.prompt, model.tiers[-1]).inputs for each in questions[:CALIBRATION_QUESTIONS]
    )
    return rank_blocks(block_influence(model.parts, requests), protected=model.parts.protected_blocks)


def asked_question(question: VisualQuestion) -> AskedQuestion:
    """Return what a store keeps of a question: its hashes, and how it is judged."""
    return AskedQuestion(
        dataset=question.dataset,
        sample_id=question.sample_id,
        picture_sha256=question.picture_sha256,
        prompt_sha256=question.prompt_sha256,
        scorer=question.scorer,
        references=question.references,
        choices=question.choices,
        picture_id=question.picture_id,
        types=question.types,
    )


def _require_one_process(world_size: int) -> None:
    if world_size > 1:
        raise InvalidValueError(
            "WORLD_SIZE",
            world_size,
            "1 with an engine: it spreads a model over devices by its own arguments; run without torchrun",
        )


def sweep_settings(plan: ProfilePlan, rank: int, world_size: int) -> SweepSettings:
    """Return how this plan's sweeps are run."""
    return SweepSettings(
        seed=plan.seed,
        warmup_runs=plan.warmup_runs,
        sentinel_every=plan.sentinel_every,
        prefetch=plan.prefetch,
        rank=rank,
        world_size=world_size,
    )


def _settings(
    plan: ProfilePlan, sets: Sequence[QuestionSet], unused: Mapping[str, str]
) -> dict[str, str | int | float | bool | None]:
    return {
        "split": ", ".join(dict.fromkeys(each.split for each in sets)),
        "max_new_tokens": plan.max_new_tokens,
        "warmup_runs": plan.warmup_runs,
        "sentinel_every": plan.sentinel_every,
        "per_step": plan.per_step,
        # only where it was asked for: stores that are older than it can be gone on with
        **({"prefetch": True} if plan.prefetch else {}),
        "empty_cache": "never inside a pass",
        "generation_settings_put_aside": ", ".join(f"{name}={value}" for name, value in unused.items()) or None,
    }
