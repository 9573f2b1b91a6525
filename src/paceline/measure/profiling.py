"""One profiling run from end to end: grid, block ranking, provenance, sweep, compaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.datasets.question import VisualQuestion
from paceline.datasets.question_sets import QuestionSet, SetRequest, load_question_set, set_requests
from paceline.errors import InvalidValueError
from paceline.measure.greedy import settings_put_aside
from paceline.measure.provenance import provenance_of
from paceline.measure.strategies import choose, require_strategy
from paceline.measure.sweep import SweepSettings, sweep
from paceline.models.grid import grid_of
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.loading import VisionLanguageModel
from paceline.profiles import ProfileStore
from paceline.profiles.questions import AskedQuestion
from paceline.profiles.sentinels import MachineDrift, read_drifts
from paceline.records import KnobConfig, KnobGrid, Provenance, require_seed

CALIBRATION_QUESTIONS = 24
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


def run_profile(
    model: VisionLanguageModel,
    plan: ProfilePlan,
    out: Path | str,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ProfileRun:
    """Profile `model` into the store at `out`, going on where an earlier run of the same plan stopped.

    With `world_size` > 1 every rank measures its share into its own journal, and none compacts. Raises
    ProfileConflictError when the store holds another run, OutputPathError when it cannot be written.
    """
    out = Path(out)
    grid = grid_of(model, tiers=plan.tiers, top_ks=plan.top_ks, block_counts=plan.block_counts)
    configurations = choose(plan.strategy, grid, seed=plan.seed, count=plan.num_configs)
    sets = load_question_sets(plan)
    questions = [question for each in sets for question in each.questions]
    ranking = block_ranking(model, questions)
    provenance = profile_provenance(model, plan, grid, sets, ranking)
    settings = sweep_settings(plan, ranking, rank, world_size)
    asked = [asked_question(question) for question in questions]
    with ProfileStore.open_or_create(out, provenance, rank, questions=asked) as store:
        added = sweep(model, questions, configurations, store, settings, on_progress)
        parquet = store.compact() if world_size == 1 else None
        return ProfileRun(
            out=out,
            grid=grid,
            configurations=tuple(configurations),
            block_ranking=ranking,
            samples_added=added,
            samples_total=len(store.done()),
            torn_bytes=store.torn_bytes,
            parquet=parquet,
            sets=sets,
            drifts=read_drifts(out),
        )


def profile_provenance(
    model: VisionLanguageModel, plan: ProfilePlan, grid: KnobGrid, sets: Sequence[QuestionSet], ranking: tuple[int, ...]
) -> Provenance:
    """Return where the numbers of this plan come from, on this machine and now."""
    return provenance_of(
        model,
        grid=grid,
        ranking=ranking,
        scorers={each.name: each.scorer for each in sets},
        seed=plan.seed,
        settings=_settings(plan, sets, settings_put_aside(model.parts.model)),
        sources={each.name: each.source for each in sets if each.source is not None},
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


def sweep_settings(plan: ProfilePlan, ranking: tuple[int, ...], rank: int, world_size: int) -> SweepSettings:
    """Return how this plan's sweeps are run."""
    return SweepSettings(
        ranking=ranking,
        seed=plan.seed,
        max_new_tokens=plan.max_new_tokens,
        warmup_runs=plan.warmup_runs,
        sentinel_every=plan.sentinel_every,
        per_step=plan.per_step,
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
