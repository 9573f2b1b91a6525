"""What sentinels say of the machine; all latencies here are synthetic."""

import json

import numpy as np
import pytest

from paceline.errors import ProfileDataError
from paceline.profiles.sentinels import MOVED_SHARE, machine_drift, read_drifts


def noisy(count, seed, *, sigma=0.1, speed=None):
    """Latencies of 20 ms with lognormal noise, and a stall now and then, times what `speed` says of each."""
    random = np.random.default_rng(seed)
    stalls = np.where(random.random(count) < 0.05, 3.0, 1.0)
    return 20.0 * np.exp(sigma * random.standard_normal(count)) * stalls * (1.0 if speed is None else speed)


@pytest.mark.parametrize("count", [10, 17, 40, 200])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
def test_noise_alone_raises_no_alarm(count, sigma):
    """Of 400 runs whose machine kept its speed at most 1 % are accused, and chance on top of that (binomial, P < 0.001)."""
    alarms = sum(machine_drift(noisy(count, seed, sigma=sigma)).moved for seed in range(400))
    assert alarms <= 12


@pytest.mark.parametrize(
    "speed",
    [
        np.linspace(1.0, 1.5, 40),
        np.linspace(1.5, 1.0, 40),
        np.repeat([1.0, 1.4], 20),
        np.repeat([1.0, 1.4, 1.0], [28, 24, 28]),
    ],
    ids=["slower", "faster", "a step", "slower for a while"],
)
def test_a_machine_that_changes_its_speed_is_told(speed):
    found = [machine_drift(noisy(len(speed), seed, sigma=0.05, speed=speed)) for seed in range(100)]
    assert sum(each.moved for each in found) >= 90  # of 100
    assert 0.15 < np.median([each.share for each in found]) < 0.7


def test_a_small_move_is_none_however_certain():
    drift = machine_drift(20.0 * np.repeat([1.0, 1.0 + MOVED_SHARE / 2], 500) * (1 + 1e-3 * np.arange(1000) / 1000))
    assert drift.p_value < 1e-9 and not drift.moved


def test_what_is_told():
    drift = machine_drift([20.0, 20.1, 20.2, 20.1, 20.0, 30.0, 30.1, 30.2, 30.1, 30.3])
    assert drift.medians_ms == (20.1, 30.1) and drift.count == 10
    assert "speed moved during the run: the sentinel's prefill took 20.1, 30.1 ms" in str(drift)
    assert "profile again on a quiet machine" in drift.warning
    assert "did not move" in str(machine_drift([20.0] * 12))
    assert machine_drift([20.0] * 9) is None and machine_drift([]) is None


def test_every_rank_is_read_and_a_bad_line_is_named(tmp_path):
    assert read_drifts(tmp_path) == () == read_drifts(tmp_path / "none")
    for rank, late in (("0", 1.0), ("1", 2.0)):
        lines = [
            {"before_task": 50 * n, "prefill_ms": 20.0 * (late if n >= 6 else 1), "total_ms": 30.0} for n in range(12)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"sentinels-rank{rank}.jsonl").write_text(text + '{"before_task": 600, "prefi')
    assert [(each.rank, each.count, each.moved) for each in read_drifts(tmp_path)] == [
        ("0", 12, False),
        ("1", 12, True),
    ]
    for line in (
        "{",
        "[1]",
        '{"prefill_ms": null}',
        '{"prefill_ms": -1}',
        '{"prefill_ms": 1e999}',
        '{"prefill_ms": true}',
    ):
        (tmp_path / "sentinels-rank0.jsonl").write_text('{"prefill_ms": 20.0}\n' + line + "\n")
        with pytest.raises(ProfileDataError, match="line 2 is no sentinel measurement; expected .*delete the line"):
            read_drifts(tmp_path)
