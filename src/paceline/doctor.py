"""What this installation and this machine can do: packages, extras, device, threads, noise, and what will not work."""

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from paceline.checkout import own_commit
from paceline.measure.provenance import device_name
from paceline.slo import percentile

EXTRAS = {  # what is missing without it
    "hf": "models spread over several devices, and quantised checkpoints, which need the package of their kind beside it",
    "data": "public data sets from Parquet files or the hub",
    "report": "the pages of `paceline report` and `paceline evaluate --report`",
    "simulate": "the fast engine of `paceline simulate` and `paceline plan`",
    "server": "`paceline serve`, a model behind HTTP",
    "otel": "OpenTelemetry's spans of `paceline serve --otlp-traces-endpoint`",
    "vllm": "serving and profiling in vLLM",
}
FOR_DEVELOPERS = ("dev", "docs")
NOISE_SECONDS = 10.0
WORK_SIZE, WORK_ROUNDS = 256, 24  # matrices of a size and number that take a few milliseconds on one core
SLOW = 1.5  # times the median
QUIET_P95, NOISY_P95 = 1.1, 1.5  # of the median
Verdict = Literal["quiet", "uneven", "noisy"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredPackage:
    """One requirement of the package or of an extra, and what is installed of it; `extra` is None for what is always needed."""

    name: str
    extra: str | None
    required: str
    installed: str | None

    @property
    def fits(self) -> bool:
        """Whether it is installed in a version that is asked for."""
        return self.installed is not None and Requirement(f"x{self.required}").specifier.contains(
            self.installed, prereleases=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNoise:
    """How evenly a fixed piece of work ran, again and again: times in milliseconds, ratios of the median."""

    runs: int
    seconds: float
    median_ms: float
    p95_ratio: float
    worst_ratio: float
    slow_share: float
    speed_change: float
    stolen_share: float | None

    @property
    def verdict(self) -> Verdict:
        """What that means for measuring here."""
        if self.p95_ratio < QUIET_P95:
            return "quiet"
        return "uneven" if self.p95_ratio < NOISY_P95 else "noisy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How many threads would compute, on how many cores, beside how much other work, and how they wait."""

    cores: int
    torch_threads: int
    load: float | None
    wait_policy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found; `problems` are sentences, the worst first."""

    versions: dict[str, str]
    commit: str | None
    packages: tuple[RequiredPackage, ...]
    device: str
    threads: Threads
    noise: MachineNoise | None
    problems: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether everything that is always needed is there, in a version that is asked for."""
        return all(each.fits for each in self.packages if each.extra is None)


def diagnose(*, noise_seconds: float = NOISE_SECONDS, on_progress: Progress = lambda _done, _total: None) -> Diagnosis:
    """Return what this installation and this machine can do; looks at the machine's noise for `noise_seconds`, if above 0."""
    packages = required_packages()
    threads = threads_here()
    noise = machine_noise(noise_seconds, on_progress=on_progress) if noise_seconds > 0 else None
    cuda = torch.cuda.is_available()
    return Diagnosis(
        versions={"python": platform.python_version(), "paceline": _installed("paceline") or "not installed"},
        commit=own_commit(),
        packages=packages,
        device=device_name(torch.device("cuda" if cuda else "cpu")),
        threads=threads,
        noise=noise,
        problems=tuple(problems(packages, threads, noise, cuda=cuda)),
    )


def required_packages() -> tuple[RequiredPackage, ...]:
    """Return what the installed package asks for, extras included, and what is there of it."""
    try:
        lines = requires("paceline") or []
    except PackageNotFoundError:  # run from a folder: nothing tells what it needs
        lines = []
    found: list[RequiredPackage] = []
    for line in lines:
        one = Requirement(line)
        named = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        extra = named[1] if named else None
        if extra not in FOR_DEVELOPERS:
            found.append(
                RequiredPackage(name=one.name, extra=extra, required=str(one.specifier), installed=_installed(one.name))
            )
    return tuple(found)


def threads_here() -> Threads:
    """Return how many threads torch would compute with, on how many cores, and what else runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Threads(
        cores=cores,
        torch_threads=torch.get_num_threads(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        wait_policy=os.environ.get("OMP_WAIT_POLICY"),
    )


def machine_noise(
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    work: Callable[[], object] | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> MachineNoise:
    """Do the same piece of work for `seconds` and return how evenly it ran; 20 runs at least."""
    work = _matrices() if work is None else work
    for _ in range(3):
        work()
    stolen, begun = _stolen_and_all_ticks(), clock()
    times_ms: list[float] = []
    while (past := clock() - begun) < seconds or len(times_ms) < 20:
        started = clock()
        work()
        times_ms.append(1e3 * (clock() - started))
        on_progress(int(min(past, seconds)), int(seconds))
    return _noise_of(times_ms, past, _share_since(stolen))


def problems(
    packages: Sequence[RequiredPackage], threads: Threads, noise: MachineNoise | None, *, cuda: bool
) -> list[str]:
    """Return what will not work here, and what will work badly, as sentences with what mends them."""
    return [
        *_package_problems(packages),
        *_thread_problems(threads),
        *_noise_problems(noise),
        *([] if cuda else ["no CUDA device: models run on the processor, and vLLM needs its build for a CPU"]),
    ]


def _package_problems(packages: Sequence[RequiredPackage]) -> list[str]:
    wrong = [each for each in packages if not each.fits]
    said = [
        f"{each.name} {each.installed or 'is missing'}; {each.required or 'any version'} is needed: "
        "pip install --upgrade paceline"
        for each in wrong
        if each.extra is None
    ]
    for extra in dict.fromkeys(each.extra for each in wrong if each.extra is not None):
        names = ", ".join(
            f"{each.name}{each.required and ' '}{each.required} (here: {each.installed or 'none'})"
            for each in wrong
            if each.extra == extra
        )
        said.append(f"not here: {EXTRAS.get(extra, extra)}; it needs {names}: pip install 'paceline[{extra}]'")
    return said


def _thread_problems(threads: Threads) -> list[str]:
    said: list[str] = []
    if threads.torch_threads > threads.cores:
        said.append(
            f"torch computes with {threads.torch_threads} threads on {threads.cores} cores, which wait for each other: "
            f"set OMP_NUM_THREADS={threads.cores}"
        )
    busy = threads.load is not None and threads.load > threads.cores - 0.5
    if busy and threads.torch_threads > 1 and (threads.wait_policy or "").upper() != "PASSIVE":
        said.append(
            f"other work holds the cores (load {threads.load:.1f} on {threads.cores}) and threads that wait will spin: set "
            "OMP_WAIT_POLICY=PASSIVE, or everything takes many times as long"
        )
    return said


def _noise_problems(noise: MachineNoise | None) -> list[str]:
    if noise is None or noise.verdict == "quiet":
        return []
    stolen = f"; {noise.stolen_share:.0%} of the time was given to other virtual machines" if noise.stolen_share else ""
    return [
        f"the machine is {noise.verdict}: the same work took {noise.p95_ratio:.2f} times its median in 1 of 20 runs{stolen}. "
        "Bounds measured here will be wide; end other work before profiling"
    ]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _matrices() -> Callable[[], object]:
    left = torch.linspace(0, 1, WORK_SIZE * WORK_SIZE).reshape(WORK_SIZE, WORK_SIZE)

    def work() -> object:
        product = left
        for _ in range(WORK_ROUNDS):
            product = (left @ product).clamp_(0, 1)
        return product

    return work


def _noise_of(times_ms: Sequence[float], seconds: float, stolen_share: float | None) -> MachineNoise:
    median, third = percentile(times_ms, 50), len(times_ms) // 3
    return MachineNoise(
        runs=len(times_ms),
        seconds=seconds,
        median_ms=median,
        p95_ratio=percentile(times_ms, 95) / median,
        worst_ratio=max(times_ms) / median,
        slow_share=sum(each > SLOW * median for each in times_ms) / len(times_ms),
        speed_change=percentile(times_ms[-third:], 50) / percentile(times_ms[:third], 50),
        stolen_share=stolen_share,
    )


def _stolen_and_all_ticks() -> tuple[int, int] | None:
    place = Path("/proc/stat")
    if not place.exists():
        return None
    ticks = [int(word) for word in place.read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[7], sum(ticks)


def _share_since(before: tuple[int, int] | None) -> float | None:
    now = _stolen_and_all_ticks()
    if before is None or now is None or now[1] <= before[1]:
        return None
    return (now[0] - before[0]) / (now[1] - before[1])
