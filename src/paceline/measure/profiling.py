"""One profiling run from end to end: grid, block ranking, provenance, sweep, compaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.datasets import VisualQuestion, digit_questions
from paceline.errors import InvalidValueError
from paceline.measure.greedy import settings_put_aside
from paceline.measure.provenance import provenance_of
from paceline.measure.strategies import choose, require_strategy
from paceline.measure.sweep import SweepSettings, sweep
from paceline.models.grid import grid_of
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.loading import VisionLanguageModel
from paceline.profiles import ProfileStore
from paceline.records import KnobConfig, KnobGrid, require_seed

CALIBRATION_QUESTIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """What to measure; `samples` is per dataset, None for a knob means the model's default values."""

    datasets: tuple[str, ...]
    samples: int
    split: str = "validation"
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

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidValueError("samples", self.samples, "at least 1 a dataset")
        if not self.datasets or len(set(self.datasets)) != len(self.datasets):
            raise InvalidValueError("datasets", self.datasets, "at least one, none twice")
        for name, least in (("max_new_tokens", 1), ("warmup_runs", 0), ("sentinel_every", 1)):
            if getattr(self, name) < least:
                raise InvalidValueError(name, getattr(self, name), f"a whole number of at least {least}")
        require_seed(self.seed)
        require_strategy(self.strategy, self.num_configs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRun:
    """What a run did: new and total samples of this rank, and where they are."""

    out: Path
    grid: KnobGrid
    configurations: tuple[KnobConfig, ...]
    block_ranking: tuple[int, ...]
    samples_added: int
    samples_total: int
    torn_bytes: int
    parquet: Path | None


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
    questions = load_questions(plan)
    ranking = block_ranking(model, questions)
    put_aside = settings_put_aside(model.parts.model)
    provenance = provenance_of(
        model,
        grid=grid,
        ranking=ranking,
        datasets=plan.datasets,
        seed=plan.seed,
        settings=_settings(plan, put_aside),
    )
    settings = _sweep_settings(plan, ranking, rank, world_size)
    with ProfileStore.open_or_create(out, provenance, rank) as store:
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
        )


def load_questions(plan: ProfilePlan) -> list[VisualQuestion]:
    """Return the plan's questions, `samples` of each dataset, in the order of its datasets."""
    return [
        question
        for dataset in plan.datasets
        for question in digit_questions(dataset, split=plan.split, count=plan.samples, seed=plan.seed)
    ]


def block_ranking(model: VisionLanguageModel, questions: Sequence[VisualQuestion]) -> tuple[int, ...]:
    """Return the ranking that the model ships with, or block influence over the first questions at the high tier."""
    if model.block_ranking is not None:
        return model.block_ranking
    requests = (
        model.prepare(each.picture, each.prompt, model.tiers[-1]).inputs for each in questions[:CALIBRATION_QUESTIONS]
    )
    return rank_blocks(block_influence(model.parts, requests), protected=model.parts.protected_blocks)


def _sweep_settings(plan: ProfilePlan, ranking: tuple[int, ...], rank: int, world_size: int) -> SweepSettings:
    return SweepSettings(
        ranking=ranking,
        seed=plan.seed,
        max_new_tokens=plan.max_new_tokens,
        warmup_runs=plan.warmup_runs,
        sentinel_every=plan.sentinel_every,
        per_step=plan.per_step,
        rank=rank,
        world_size=world_size,
    )


def _settings(plan: ProfilePlan, unused: Mapping[str, str]) -> dict[str, str | int | float | bool | None]:
    return {
        "split": plan.split,
        "max_new_tokens": plan.max_new_tokens,
        "warmup_runs": plan.warmup_runs,
        "sentinel_every": plan.sentinel_every,
        "per_step": plan.per_step,
        "empty_cache": "never inside a pass",
        "generation_settings_put_aside": ", ".join(f"{name}={value}" for name, value in unused.items()) or None,
    }
