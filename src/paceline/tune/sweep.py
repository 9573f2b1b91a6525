"""Sweeping `min_chunk_threshold`: every threshold in every repetition, one directory each, resumable.

`OUT/sweep.json` says what is swept; `OUT/<start time>/` is one repetition and `OUT/<start time>/<threshold>/` one run.
A run's directory appears when the run is finished, so that what is there is never run again.
"""

import json
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from os import close
from pathlib import Path
from random import Random
from typing import cast

from paceline.errors import InvalidValueError, OutputPathError, ProfileConflictError
from paceline.json_document import parsed_json
from paceline.profiles.atomic import make_directory, write_atomically
from paceline.profiles.locking import hold_lock
from paceline.records import require_seed
from paceline.schedule.settings import THRESHOLD_PERCENT, PlannerSettings
from paceline.tune.host import OnProgress, OpenHost
from paceline.tune.metrics_csv import PLOTS
from paceline.tune.run_files import write_run
from paceline.tune.workload import Workload

DEFAULT_STEP = 10
DEFAULT_REPETITIONS = 5  # `select` needs 4
SWEEP_FILE, REPETITION_FILE, LOCK_FILE = "sweep.json", "repetition.json", ".lock"
# beside the plots, as SPEC S10 has it: OUT/<start time>/<threshold>/*.csv
SWEEP_METRIC_FOLDERS = (PLOTS, Path())

MOST_THRESHOLDS, MOST_REPETITIONS = 1000, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What is swept: thresholds under otherwise equal settings, each once a repetition, in an order drawn by seed."""

    thresholds: tuple[int, ...]
    repetitions: int
    seed: int
    settings: PlannerSettings

    def __post_init__(self) -> None:
        if not 1 <= self.repetitions <= MOST_REPETITIONS:
            raise InvalidValueError("repetitions", self.repetitions, f"1 to {MOST_REPETITIONS:,}")
        require_seed(self.seed)
        require_seed(self.seed + self.repetitions - 1)  # a load of its own for every repetition
        if 0 not in self.thresholds:
            raise InvalidValueError(
                "thresholds", self.thresholds, "0 among them: it is what the others are compared with"
            )
        for threshold in self.thresholds:
            self.settings_at(threshold)  # refused here, not after an hour of runs

    def settings_at(self, threshold: int) -> PlannerSettings:
        """Return the settings of one run."""
        return replace(self.settings, min_chunk_threshold=threshold)

    def order(self, repetition: int) -> list[int]:
        """Return the thresholds in a repetition's own order, so that a drift of the machine favours none of them."""
        shuffled = list(self.thresholds)
        Random(f"{self.seed} {repetition}").shuffle(shuffled)
        return shuffled


def thresholds_up_to(largest: int | None, *, step: int = DEFAULT_STEP, chunk_size: int) -> tuple[int, ...]:
    """Return 0, step, … up to `largest`; None goes up to the last one below 30 % of chunk_size."""
    if step < 1:
        raise InvalidValueError("step", step, "at least 1")
    if largest is None:
        largest = max(0, (THRESHOLD_PERCENT * chunk_size - 1) // 100)
    if largest < 0:
        raise InvalidValueError("largest threshold", largest, "at least 0")
    if largest // step >= MOST_THRESHOLDS:
        raise InvalidValueError(
            "number of thresholds", largest // step + 1, f"at most {MOST_THRESHOLDS:,}: take a larger step"
        )
    return tuple(range(0, largest + 1, step))


def run_sweep(
    out: Path,
    plan: SweepPlan,
    *,
    workload_of: Callable[[int], Workload],
    open_host: OpenHost,
    conditions: Mapping[str, object],
    clock: Callable[[], datetime],
    on_progress: OnProgress,
) -> list[Path]:
    """Run what is missing of a sweep and return the directories of its repetitions.

    `workload_of` gives a repetition's load; `conditions` (model, engine, versions, as JSON) must not change between the
    calls that continue one sweep. `on_progress` counts requests over all runs. Raises ProfileConflictError when `out`
    holds another sweep or another process is at it.
    """
    with _sole_writer(out):
        _require_same_sweep(out, _sweep_document(plan, workload_of(0), conditions))
        folders = _repetition_folders(out)
        counted = _RequestCount(runs=plan.repetitions * len(plan.thresholds), on_progress=on_progress)
        for repetition in range(plan.repetitions):
            if repetition not in folders:
                folders[repetition] = _new_repetition(out, plan, repetition, clock())
            workload = workload_of(repetition)
            for threshold in plan.order(repetition):
                run = folders[repetition] / str(threshold)
                if not run.exists():
                    with open_host(plan.settings_at(threshold)) as host:
                        result = host.replay(workload.requests, on_progress=counted.within_run)
                    document = {**_run_document(plan, threshold, workload), **conditions}
                    write_run(run, result, document, metric_folders=SWEEP_METRIC_FOLDERS)
                counted.end_run(len(workload.requests))
    return [folders[repetition] for repetition in range(plan.repetitions)]


class _RequestCount:
    """Progress over all runs, in requests."""

    def __init__(self, *, runs: int, on_progress: OnProgress) -> None:
        self._runs, self._on_progress, self._before = runs, on_progress, 0

    def within_run(self, done: int, total: int) -> None:
        self._on_progress(self._before + done, self._runs * total)

    def end_run(self, requests: int) -> None:
        self._before += requests
        self._on_progress(self._before, self._runs * requests)


def _sweep_document(plan: SweepPlan, workload: Workload, conditions: Mapping[str, object]) -> dict[str, object]:
    document = {"thresholds": plan.thresholds, **_run_document(plan, 0, workload), **conditions}
    return cast("dict[str, object]", json.loads(json.dumps(document)))  # as it will be read back: lists, no tuples


def _run_document(plan: SweepPlan, threshold: int, workload: Workload) -> dict[str, object]:
    return {"seed": plan.seed, "scheduler": asdict(plan.settings_at(threshold)), "load": workload.document()}


def _require_same_sweep(out: Path, document: dict[str, object]) -> None:
    path = out / SWEEP_FILE
    if not path.exists():
        write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
        return
    try:
        kept = cast("dict[str, object]", parsed_json(path.read_bytes()))
        changed = [name for name in document if kept.get(name) != document[name]]
    except (ValueError, AttributeError) as error:
        raise ProfileConflictError(
            f"{path} is no sweep's description ({error}); expected the file that `paceline tune threshold sweep` wrote: "
            "choose another --out"
        ) from error
    if changed:
        name = changed[0]
        raise ProfileConflictError(
            f"{out} holds another sweep: {name} is {kept.get(name)!r} there and {document[name]!r} here; expected the "
            "same command to go on with it, or another --out"
        )


def _repetition_folders(out: Path) -> dict[int, Path]:
    """Return the repetitions begun already, and clear away what a killed run left of its unfinished directory."""
    folders: dict[int, Path] = {}
    for path in sorted(out.glob(f"*/{REPETITION_FILE}")):
        try:
            folders[int(cast("dict[str, int]", parsed_json(path.read_bytes()))["repetition"])] = path.parent
        except (ValueError, KeyError, TypeError) as error:
            raise ProfileConflictError(
                f"{path} does not say which repetition it is ({error}); expected the file that `paceline tune threshold "
                "sweep` wrote: remove that directory to run the repetition again"
            ) from error
        for unfinished in path.parent.glob(".*.tmp"):
            shutil.rmtree(unfinished)
    return folders


def _new_repetition(out: Path, plan: SweepPlan, repetition: int, started: datetime) -> Path:
    folder = out / f"{started:%Y%m%dT%H%M%S.%fZ}"
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputPathError(folder, error.strerror or str(error)) from error
    document = {"repetition": repetition, "order": plan.order(repetition)}
    write_atomically(folder / REPETITION_FILE, (json.dumps(document, indent=2) + "\n").encode())
    return folder


@contextmanager
def _sole_writer(out: Path) -> Generator[None]:
    try:
        make_directory(out)
    except OSError as error:
        raise OutputPathError(out, error.strerror or str(error)) from error
    try:
        lock = hold_lock(out / LOCK_FILE, guards=out)
    except ProfileConflictError:
        raise ProfileConflictError(
            f"{out} is being written by another sweep; expected one at a time: wait for it to end, or choose another --out"
        ) from None
    try:
        yield
    finally:
        close(lock)
