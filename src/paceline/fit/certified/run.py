"""One certified profile from end to end: parts, choosing part, sealed plan, certifying part, table.

Everything is decided by what stands in the store, in the order that was written down, so a killed run goes on where it stood
and decides the same. Samples (one request at a time) tell latencies; answers of batched passes tell accuracies.
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paceline.certify.procedure import (
    LARGE_SET,
    LEAST_CHOOSING,
    TIMED_REQUESTS,
    ChosenGrid,
    PlannedTest,
    choosing_questions,
    chosen_grid,
    planned_sequence,
    require_floor,
    require_grid,
    require_reach,
    timed_requests,
)
from paceline.certify.sequence import Rule
from paceline.control.certificate import Certificate, CertifiedClaim
from paceline.datasets.question import VisualQuestion
from paceline.datasets.question_sets import QuestionSet
from paceline.errors import CertificateError, InvalidValueError
from paceline.fit.certified.measuring import CertifyingHost, Measuring, OutOfTimeError
from paceline.fit.certified.plan import CertifyPlan, SealedPlan, answers_sha256, fixed_plan, stopping_kind
from paceline.fit.certified.tables import write_tables
from paceline.fit.certified.testing import Tested, run_sequence
from paceline.measure.engine_profile import opened_engine, require_servable
from paceline.measure.hosts import ServingEngine
from paceline.measure.profiling import (
    asked_question,
    block_ranking,
    load_question_sets,
    model_host,
    profile_provenance,
)
from paceline.measure.strategies import choose
from paceline.models.grid import grid_of
from paceline.models.loading import VisionLanguageModel
from paceline.profiles import ProfileStore
from paceline.profiles.agreement import BatchAgreement, batch_agreement
from paceline.profiles.answers import AnswerJournal
from paceline.profiles.parts import QuestionParts, part_questions
from paceline.profiles.questions import AskedQuestion, Key
from paceline.profiles.reading import read_unjudged
from paceline.records import KnobConfig, KnobGrid, LatencyKind

LATENCY_KIND: LatencyKind = "prefill"
Progress = Callable[[int, int], None]
Decided = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedRun:
    """What a run left: the table, its certificate (None where time ended before one was begun), cells and seconds.

    `cells` counts answers of a question under a configuration in batches, in this run and those before it, `timed_cells` the
    requests that were timed, `full_cells` those of a full profile of the same questions; `cells_seconds` and
    `timed_cells_seconds` are what they took, `full_seconds` what that profile would, one request at a time. `agreement` is of
    an engine's answers: how many of those given together differ from those alone.
    """

    out: Path
    table: Path | None
    certificate: Certificate | None
    choosing_questions: int
    certifying_questions: int
    trust: float
    cells: int
    timed_cells: int
    full_cells: int
    cells_seconds: float
    timed_cells_seconds: float
    full_seconds: float
    agreement: BatchAgreement | None
    seconds: float
    stopped: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What a run works on."""

    plan: CertifyPlan
    out: Path
    configs: tuple[KnobConfig, ...]
    questions: dict[Key, VisualQuestion]
    asked: tuple[AskedQuestion, ...]
    parts: QuestionParts
    kind: Rule

    def of(self, keys: Sequence[Key]) -> list[VisualQuestion]:
        return [self.questions[key] for key in keys]


def run_certified(
    model: VisionLanguageModel,
    plan: CertifyPlan,
    out: Path | str,
    *,
    engine: ServingEngine | None = None,
    on_progress: Progress = lambda _done, _total: None,
    on_decided: Decided = lambda _text: None,
    clock: Callable[[], float] = time.monotonic,
) -> CertifiedRun:
    """Choose and certify into the store at `out`, going on where an earlier run of the same plan stopped.

    The table stands in `out/table.json` from the first choosing questions on, and says what is certain. With an `engine` it
    serves the model, whose own weights are gone afterwards. Raises InvalidValueError for a margin that the questions cannot
    support, with the number that would, CertificateError for a store whose parts or plan are not this run's.
    """
    out, started = Path(out), clock()
    deadline = math.inf if plan.minutes is None else started + 60 * plan.minutes
    grid = grid_of(model, tiers=plan.profile.tiers, top_ks=plan.profile.top_ks, block_counts=plan.profile.block_counts)
    sets = load_question_sets(plan.measured)
    setting = _setting(plan, out, grid, sets)
    ranking = block_ranking(model, setting.of(setting.parts.choosing))
    if engine is not None:
        require_servable(model, grid, ranking, engine)
    provenance = profile_provenance(model, plan.measured, grid, sets, ranking, engine=engine)
    with ExitStack() as stack:
        store = stack.enter_context(ProfileStore.open_or_create(out, provenance, questions=setting.asked))
        _seal_parts(out, setting.parts, bool(store.done()))
        measuring = Measuring(
            store=store,
            answers=stack.enter_context(AnswerJournal.open(out)),
            host=stack.enter_context(_host(model, plan, ranking, engine)),
            plan=plan,
            deadline=deadline,
            clock=clock,
            on_progress=on_progress,
        )
        found = _both_parts(setting, measuring, model.name, on_decided)
        store.compact()
    return replace(found, seconds=clock() - started)


def _setting(plan: CertifyPlan, out: Path, grid: KnobGrid, sets: Sequence[QuestionSet]) -> _Setting:
    """Return what a plan comes to; raises InvalidValueError for a grid or questions that cannot support what is asked."""
    configs = tuple(choose(plan.profile.strategy, grid, seed=plan.profile.seed, count=plan.profile.num_configs))
    require_grid(configs)
    questions = _within(sets, plan.questions)
    asked = tuple(asked_question(each) for each in questions)
    parts = part_questions(asked, choosing=choosing_questions(len(asked)), seed=plan.profile.seed)
    return _Setting(
        plan=plan,
        out=out,
        configs=configs,
        questions={(each.dataset, each.sample_id): each for each in questions},
        asked=asked,
        parts=parts,
        kind=_kind(plan, parts, sets),
    )


@contextmanager
def _host(
    model: VisionLanguageModel, plan: CertifyPlan, ranking: tuple[int, ...], engine: ServingEngine | None
) -> Generator[CertifyingHost]:
    profile = plan.measured
    if engine is None:
        yield model_host(model, profile, ranking)
        return
    with opened_engine(
        model,
        engine,
        ranking=ranking,
        seed=profile.seed,
        max_new_tokens=profile.max_new_tokens,
        per_step=profile.per_step,
    ) as host:
        yield host


def _kind(plan: CertifyPlan, parts: QuestionParts, sets: Sequence[QuestionSet]) -> Rule:
    """Return the stopping rule; raises InvalidValueError where the certifying questions cannot support what is asked."""
    available = len(parts.certifying)
    require_floor(available, epsilon=plan.epsilon, delta=plan.delta)
    timed_requests(available, plan.delta)
    scorers = [each.scorer for each in sets]
    return stopping_kind(plan, scorers, most_shared=parts.most_shared, large=available >= LARGE_SET)


def _both_parts(setting: _Setting, measuring: Measuring, model_name: str, on_decided: Decided) -> CertifiedRun:
    chosen, stopped = _choosing_part(setting, measuring)
    certificate = None
    if chosen is not None and stopped is None:
        certificate, stopped = _certifying_part(setting, measuring, chosen, model_name, on_decided)
    table = None if chosen is None else write_tables(setting.out, chosen, certificate, LATENCY_KIND)
    cost, full_cells = measuring.cost(setting.of(setting.parts.choosing)), len(setting.questions) * len(setting.configs)
    return CertifiedRun(
        out=setting.out,
        table=table,
        certificate=certificate,
        choosing_questions=len(setting.parts.choosing),
        certifying_questions=len(setting.parts.certifying),
        trust=0.0 if chosen is None else chosen.accuracies.trust,
        cells=cost.answers,
        timed_cells=cost.requests,
        full_cells=full_cells,
        cells_seconds=cost.answers_seconds,
        timed_cells_seconds=cost.requests_seconds,
        full_seconds=cost.request_seconds * full_cells,
        agreement=batch_agreement(read_unjudged(setting.out, columns=["metadata"]).samples),
        seconds=0.0,
        stopped=stopped,
    )


def _choosing_part(setting: _Setting, measuring: Measuring) -> tuple[ChosenGrid | None, str | None]:
    """Return what the choosing questions say, as far as time allowed, and why it is not all."""
    choosing = setting.of(setting.parts.choosing)
    timed = choosing[:TIMED_REQUESTS]
    stopped = None

    def usable() -> None:
        some = _chosen(setting, measuring, timed, choosing)
        if some is not None:
            write_tables(setting.out, some, None, LATENCY_KIND)

    try:
        measuring.time_each(timed, setting.configs, least=LEAST_CHOOSING, on_question=usable)
        measuring.answer(choosing[len(timed) :], setting.configs)
    except OutOfTimeError as error:
        stopped = f"{error} in the choosing part: nothing is certified"
    return _chosen(setting, measuring, timed, choosing), stopped


def _chosen(
    setting: _Setting, measuring: Measuring, timed: Sequence[VisualQuestion], choosing: Sequence[VisualQuestion]
) -> ChosenGrid | None:
    """Return what the questions say that every configuration has answered; None of fewer than two."""
    samples = measuring.samples(timed, setting.configs)
    whole = [each for each in choosing if measuring.answered(each, setting.configs, samples)]
    if len(whole) < 2 or not any(samples.whole(each) for each in timed):
        return None
    return chosen_grid(
        np.array([[measuring.accuracy(each, config, samples) for config in setting.configs] for each in whole]),
        np.array([samples.latencies(each) for each in timed if samples.whole(each)]),
        setting.configs,
        np.random.default_rng(setting.plan.profile.seed),
        sets_M=[each.dataset for each in whole],
    )


def _certifying_part(
    setting: _Setting, measuring: Measuring, chosen: ChosenGrid, model_name: str, on_decided: Decided
) -> tuple[Certificate, str | None]:
    """Fix the sequence, or read it where it is fixed, and run its tests; the table is written after each verdict."""
    fixed = _fixed_sequence(setting, chosen)
    for each in fixed.tests:
        on_decided(_planned_words(each, chosen))

    def certificate(tested: Sequence[Tested], stopped: str | None) -> Certificate:
        return _certificate(setting, chosen, fixed, tested, stopped, model_name)

    tested, stopped = run_sequence(
        measuring,
        fixed,
        chosen,
        setting.of(setting.parts.certifying),
        pictures=setting.parts.pictures,
        on_decided=on_decided,
        on_tested=lambda tested: write_tables(setting.out, chosen, certificate(tested, None), LATENCY_KIND),
    )
    return certificate(tested, stopped), stopped


def _fixed_sequence(setting: _Setting, chosen: ChosenGrid) -> SealedPlan:
    """Return the sequence as it stands sealed in the store, written there if it is not; raises InvalidValueError, with a
    table that stands, where the questions do not reach for its first test."""
    plan, available = setting.plan, len(setting.parts.certifying)
    planned = planned_sequence(
        chosen,
        epsilon=plan.epsilon,
        delta=plan.delta,
        available=available,
        kind=setting.kind,
        most_shared=setting.parts.most_shared,
    )
    try:
        require_reach(planned, chosen, available)
    except InvalidValueError:
        write_tables(setting.out, chosen, None, LATENCY_KIND)
        raise
    requests = timed_requests(available, plan.delta)
    return fixed_plan(setting.out, planned, chosen, requests=requests, told=_told(setting, chosen))


def _told(setting: _Setting, chosen: ChosenGrid) -> dict[str, object]:
    return {
        "epsilon": setting.plan.epsilon,
        "delta": setting.plan.delta,
        "seed": setting.plan.profile.seed,
        "latency_kind": LATENCY_KIND,
        "parts_sha256": setting.parts.sha256,
        "answers_sha256": answers_sha256(chosen),
    }


def _planned_words(test: PlannedTest, chosen: ChosenGrid) -> str:
    needed = (
        "no number of questions is expected to be enough" if test.needed is None else f"about {test.needed:,} needed"
    )
    return (
        f"to be tested: {chosen.configs[test.place].key}, seen to lose {100 * test.expected_loss:.1f} points, {needed}, at "
        f"most {test.rule.questions:,} asked; bound {test.bound_ms:.1f} ms"
    )


def _certificate(
    setting: _Setting,
    chosen: ChosenGrid,
    fixed: SealedPlan,
    tested: Sequence[Tested],
    stopped: str | None,
    model_name: str,
) -> Certificate:
    plan = setting.plan
    untested = [Tested.untested(each) for each in fixed.tests[len(tested) :]]
    mix: dict[str, int] = {}
    for dataset, _ in setting.parts.certifying:
        mix[dataset] = mix.get(dataset, 0) + 1
    return Certificate(
        epsilon=plan.epsilon,
        delta=plan.delta,
        rule=setting.kind,
        latency_kind=LATENCY_KIND,
        full=chosen.configs[chosen.full],
        claims=tuple(_claim(each, chosen) for each in (*tested, *untested)),
        choosing_questions=len(chosen.answers_MC),
        certifying_questions=len(setting.parts.certifying),
        mix=mix,
        model=model_name,
        seed=plan.profile.seed,
        plan_sha256=fixed.sha256,
        stopped=stopped,
    )


def _claim(tested: Tested, chosen: ChosenGrid) -> CertifiedClaim:
    accuracy, planned = tested.accuracy, tested.planned
    return CertifiedClaim(
        config=chosen.configs[planned.place],
        verdict=tested.verdict,
        asked=accuracy.asked,
        broken=accuracy.broken,
        mended=accuracy.mended,
        mean_loss=accuracy.mean_loss,
        bound_ms=planned.bound_ms,
        requests=tested.requests,
        exceeded=tested.exceeded,
        needed=planned.needed,
    )


def _within(sets: Sequence[QuestionSet], total: int) -> list[VisualQuestion]:
    """Return at most `total` questions, of the sets in turn."""
    columns = [list(each.questions) for each in sets]
    longest = max(len(column) for column in columns)
    in_turn = [column[row] for row in range(longest) for column in columns if row < len(column)]
    return in_turn[:total]


def _seal_parts(out: Path, parts: QuestionParts, measured: bool) -> None:
    """Write the parts before the first answer, or see that those there are the same."""
    held = QuestionParts.read(out)
    if held is None:
        if measured:
            raise CertificateError(
                out,
                "holds samples that were measured before questions were parted",
                expected="parts that are written down before the first answer",
                mend="certify into a new directory",
            )
        parts.write(out)
    elif held != parts:
        raise CertificateError(
            out,
            f"parted {len(held.choosing) + len(held.certifying):,} questions with seed {held.seed}, not "
            f"{len(parts.choosing) + len(parts.certifying):,} with seed {parts.seed} as now",
            expected="the same questions in the same parts",
            mend="go on with the same --questions, --datasets and --seed, or certify into a new directory",
        )
