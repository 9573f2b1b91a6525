"""What the doctor says of machines and installations that are not this one."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.doctor import MachineNoise, RequiredPackage, Threads, machine_noise, problems, required_packages

QUIET = MachineNoise(
    runs=100, seconds=10, median_ms=5, p95_ratio=1.02, worst_ratio=1.1, slow_share=0, speed_change=1, stolen_share=0.0
)
CALM = Threads(cores=4, torch_threads=4, load=0.3, wait_policy=None)
NUMPY = RequiredPackage(name="numpy", extra=None, required=">=2.2", installed="2.4.6")
NUMBA = RequiredPackage(name="numba", extra="simulate", required=">=0.66", installed=None)


def said(*packages, threads=CALM, noise=QUIET, cuda=True):
    return problems(packages, threads, noise, cuda=cuda)


def test_nothing_is_said_of_a_machine_without_faults():
    assert said(NUMPY) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda: said(replace(NUMPY, installed="2.1.0")), ["numpy 2.1.0", ">=2.2", "pip install --upgrade paceline"]),
        (lambda: said(NUMBA), ["numba", "pip install 'paceline[simulate]'", "`paceline simulate`"]),
        (lambda: said(threads=replace(CALM, torch_threads=8)), ["8 threads on 4 cores", "OMP_NUM_THREADS=4"]),
        (lambda: said(threads=replace(CALM, load=5.0)), ["load 5.0 on 4", "OMP_WAIT_POLICY=PASSIVE"]),
        (lambda: said(noise=replace(QUIET, p95_ratio=1.8, stolen_share=0.2)), ["noisy", "1.80 times", "20%"]),
        (lambda: said(noise=replace(QUIET, p95_ratio=1.2)), ["uneven"]),
        (lambda: said(cuda=False), ["no CUDA device"]),
    ],
)
def test_each_fault_is_one_sentence_with_its_remedy(found, words):
    (sentence,) = found()
    assert all(word in sentence for word in words), sentence


def test_models_on_several_devices_ask_for_accelerate_alone():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["hf"] == ["accelerate>=1.15"]
    (sentence,) = said(RequiredPackage(name="accelerate", extra="hf", required=">=1.15", installed=None))
    assert sentence == (
        "not here: models spread over several devices, and quantised checkpoints, which need the package of their kind beside "
        "it; it needs accelerate >=1.15 (here: none): pip install 'paceline[hf]'"
    )


def test_a_requirement_without_a_version_leaves_no_gap_in_the_sentence():
    (sentence,) = said(replace(NUMBA, required=""))
    assert "needs numba (here: none)" in sentence


def test_threads_that_sleep_while_they_wait_are_no_fault_on_a_busy_machine():
    assert said(threads=replace(CALM, load=9.0, wait_policy="passive")) == []


def test_what_the_package_asks_for_is_read_from_its_own_metadata():
    found = {each.name: each for each in required_packages()}
    assert found["numpy"].extra is None and found["numpy"].fits
    assert found["numba"].extra == "simulate" and "ruff" not in found


@given(st.lists(st.integers(1, 1000), min_size=23, max_size=23))
def test_noise_is_the_spread_of_the_times_that_the_clock_shows(durations):
    now, told = 0, iter(durations)  # in sixteenths of a second, which are exact

    def work():
        nonlocal now
        now += next(told)

    found = machine_noise(0.0, clock=lambda: now / 16, work=work)
    measured = sorted(1e3 * each / 16 for each in durations[3:])  # three warm it up
    assert found.runs == 20
    assert measured[0] <= found.median_ms <= measured[-1]
    assert found.p95_ratio <= found.worst_ratio == measured[-1] / found.median_ms
    assert found.slow_share == sum(each > 1.5 * found.median_ms for each in measured) / 20


def test_a_clock_that_runs_on_ends_the_look():
    ticks = iter(range(10**6))
    found = machine_noise(100.0, clock=lambda: float(next(ticks)), work=lambda: None)
    assert found.seconds >= 100 and found.runs >= 20
