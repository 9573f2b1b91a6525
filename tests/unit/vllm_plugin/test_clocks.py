"""The clocks of a replay."""

import time

from paceline.vllm_plugin.clocks import MonotonicClock, ProcessorClock


def test_processor_time_skips_waits_and_what_others_take():
    clock = ProcessorClock()
    before, started = clock(), time.monotonic()
    clock.wait_until(before + 1000.0)
    assert time.monotonic() - started < 100.0
    assert before + 1000.0 <= clock() < before + 1100.0
    clock.wait_until(before)  # has come already
    assert clock() >= before + 1000.0
    assert clock.wall_ahead_seconds() == 0.0


def test_processor_time_is_that_of_work():
    clock, machine = ProcessorClock(), MonotonicClock()
    before, machine_before = clock(), machine()
    machine.wait_until(machine_before + 0.2)
    assert machine() >= machine_before + 0.2
    assert clock() - before < 0.1  # nothing was computed meanwhile
    sum(range(1_000_000))
    assert clock() > before


def test_the_wall_clock_is_ahead_by_what_it_is():
    clock = MonotonicClock()
    ahead = clock.wall_ahead_seconds()
    assert abs(clock() + ahead - time.time()) < 5.0
