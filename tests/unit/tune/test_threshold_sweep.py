"""Sweeps over a host that answers at once (its times are synthetic): what is written, and how a sweep goes on."""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from paceline.errors import InvalidValueError, OutputPathError, ProfileConflictError, RequestFileError
from paceline.schedule.request_times import REQUEST_METRICS, RequestTimes
from paceline.schedule.settings import PlannerSettings
from paceline.tune.metrics_csv import read_metric
from paceline.tune.run_files import read_requests, request_metrics, write_run
from paceline.tune.select import SCORED, select_threshold
from paceline.tune.summary import summarize
from paceline.tune.sweep import SweepPlan, run_sweep, thresholds_up_to
from paceline.tune.workload import SyntheticLoad

LOAD = SyntheticLoad(count=12, rate=10.0, prompt_median=50, output_median=8)


@dataclass(frozen=True)
class Result:
    requests: tuple
    wall_seconds: float = 1.0
    steps: tuple = ()


def times(request, factor):
    scheduled = request.arrival_seconds + 0.01 * factor
    first = scheduled + 0.001 * factor * request.prompt_tokens
    end = first + 0.002 * factor * (request.output_tokens - 1)
    return RequestTimes(
        request_id=request.request_id,
        arrival_seconds=request.arrival_seconds,
        first_scheduled_seconds=scheduled,
        first_token_seconds=first,
        completion_seconds=end,
        execution_seconds=end - scheduled,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        ttft_budget_ms=request.ttft_budget_ms,
    )


class Killed(BaseException):
    """What a killed process looks like from inside."""


class Host:
    """Takes `factor(threshold)` times as long as without a threshold; dies in the run with the number `dies_in`."""

    def __init__(self, factor=lambda threshold: 1.0, dies_in=None):
        self.opened, self.factor, self.dies_in = [], factor, dies_in

    @contextmanager
    def open(self, settings):
        self.threshold = settings.min_chunk_threshold
        self.opened.append(self.threshold)
        yield self

    def replay(self, requests, *, on_progress):
        if len(self.opened) == self.dies_in:
            raise Killed
        on_progress(len(requests), len(requests))
        return Result(requests=tuple(times(request, self.factor(self.threshold)) for request in requests))


def plan(**changes):
    given = {"thresholds": (0, 10, 20), "repetitions": 2, "seed": 1, "settings": PlannerSettings(chunk_size=100)}
    return SweepPlan(**{**given, **changes})


def sweep(out, host, the_plan=None, conditions=None, on_progress=lambda done, total: None, day=1):
    start = datetime(2026, 1, day, tzinfo=UTC)
    seconds = iter(range(1000))
    return run_sweep(
        out,
        the_plan or plan(),
        workload_of=LOAD.workload,
        open_host=host.open,
        conditions=conditions or {"model": "none"},
        clock=lambda: start + timedelta(seconds=next(seconds) + 100 * len(host.opened)),
        on_progress=on_progress,
    )


def test_every_threshold_runs_once_a_repetition_and_select_reads_it(tmp_path):
    host = Host(factor=lambda threshold: {0: 1.0, 10: 0.5, 20: 2.0}[threshold])
    folders = sweep(tmp_path, host)
    assert sorted(host.opened[:3]) == sorted(host.opened[3:]) == [0, 10, 20]
    assert [folder.name for folder in folders] == ["20260101T000000.000000Z", "20260101T000501.000000Z"]
    for folder in folders:
        for threshold in ("0", "10", "20"):
            files = {path.name for path in (folder / threshold).glob("*.csv")}
            assert files == {f"{metric}.csv" for metric in REQUEST_METRICS}
            assert files == {path.name for path in (folder / threshold / "replica_0" / "plots").glob("*.csv")}
    choice = select_threshold(tmp_path, rule="reference")
    assert (choice.recommended, choice.runs, choice.left_out) == (10, 2, ())
    assert choice.scores[1].ratios == pytest.approx(
        {"request": 0.5, "prefill": 0.5, "prefill_exec_norm": 0.5, "request_exec_norm": 0.5, "decode": 0.5}
    )


def test_the_metrics_of_the_score_are_those_that_runs_write():
    assert {each.metric for each in SCORED.values()} == set(REQUEST_METRICS)


def test_repetitions_draw_their_own_loads_and_orders_but_thresholds_share_one(tmp_path):
    folders = sweep(tmp_path, Host(), plan(thresholds=tuple(range(0, 30, 3))))
    loads = [[read_requests(folder / name) for name in ("0", "15")] for folder in folders]
    assert loads[0][0] == loads[0][1] != loads[1][0] == loads[1][1]
    orders = [json.loads((folder / "repetition.json").read_text())["order"] for folder in folders]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("dies_in", range(1, 7))
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path, dies_in):
    first, second = Host(dies_in=dies_in), Host()
    with pytest.raises(Killed):
        sweep(tmp_path, first)
    told = []
    folders = sweep(tmp_path, second, on_progress=lambda done, total: told.append((done, total)), day=2)
    assert first.opened[:-1] + second.opened == first.opened + second.opened[1:]  # only the run that died is repeated
    assert len(first.opened) - 1 + len(second.opened) == 6
    assert told[-1] == (6 * 12, 6 * 12) and told == sorted(told)
    assert len(folders) == len(list(tmp_path.glob("*/repetition.json"))) == 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    third = Host()
    sweep(tmp_path, third)
    assert third.opened == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == {
        path: content for path, content in before.items() if path.suffix == ".csv"
    }


def test_what_a_kill_in_the_middle_of_writing_leaves_is_cleared_away(tmp_path):
    folders = sweep(tmp_path, Host())
    unfinished = folders[0] / ".10.4711.tmp"
    (folders[0] / "10").rename(unfinished)
    host = Host()
    sweep(tmp_path, host)
    assert host.opened == [10] and not unfinished.exists() and (folders[0] / "10").is_dir()


def test_more_repetitions_may_be_asked_for_later(tmp_path):
    sweep(tmp_path, Host(), plan(repetitions=1))
    host = Host()
    assert len(sweep(tmp_path, host, plan(repetitions=3), day=2)) == 3
    assert len(host.opened) == 6


@pytest.mark.parametrize(
    ("changes", "conditions", "words"),
    [
        ({"seed": 2}, None, "seed is 1 there and 2 here"),
        ({"thresholds": (0, 10)}, None, "thresholds is"),
        ({"settings": PlannerSettings(chunk_size=200)}, None, "scheduler is"),
        ({}, {"model": "other"}, "model is 'none' there and 'other' here"),
    ],
)
def test_another_sweep_is_not_mixed_into_this_one(tmp_path, changes, conditions, words):
    sweep(tmp_path, Host(), plan(repetitions=1))
    host = Host()
    with pytest.raises(ProfileConflictError, match=words):
        sweep(tmp_path, host, plan(**changes), conditions)
    assert host.opened == []


@pytest.mark.parametrize(("name", "content"), [("sweep.json", "[]"), ("sweep.json", "{"), ("x/repetition.json", "{}")])
def test_broken_descriptions_are_refused(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ProfileConflictError, match=name.split("/")[-1]):
        sweep(tmp_path, Host())


def test_two_sweeps_at_once_are_refused(tmp_path):
    class Rival(Host):
        def replay(self, requests, *, on_progress):
            with pytest.raises(ProfileConflictError, match="written by another sweep"):
                sweep(tmp_path, Host())
            return super().replay(requests, on_progress=on_progress)

    sweep(tmp_path, Rival(), plan(repetitions=1))


def test_plans_that_cannot_be_are_refused_before_any_run(tmp_path):
    with pytest.raises(InvalidValueError, match="min_chunk_threshold is 30"):
        plan(thresholds=(0, 30))
    with pytest.raises(InvalidValueError, match="0 among them"):
        plan(thresholds=(10,))
    with pytest.raises(InvalidValueError, match="repetitions is 0"):
        plan(repetitions=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputPathError):
        sweep(tmp_path / "file", Host())


def test_thresholds_go_by_step_up_to_below_30_percent_of_the_chunk():
    assert thresholds_up_to(None, chunk_size=100) == (0, 10, 20)
    assert thresholds_up_to(None, chunk_size=101) == (0, 10, 20, 30)
    assert thresholds_up_to(35, step=15, chunk_size=512) == (0, 15, 30)
    assert thresholds_up_to(None, chunk_size=8) == (0,)
    with pytest.raises(InvalidValueError, match="step is 0"):
        thresholds_up_to(None, step=0, chunk_size=100)
    with pytest.raises(InvalidValueError, match="largest threshold is -1"):
        thresholds_up_to(-1, chunk_size=100)


def test_a_run_read_back_is_the_run_and_its_cdf_runs_from_1_over_n_to_1(tmp_path):
    requests = tuple(times(request, 1.0) for request in LOAD.workload(3).requests)
    write_run(tmp_path / "run", Result(requests=requests), {"seed": 3})
    assert read_requests(tmp_path / "run") == requests
    for metric, values in request_metrics(requests).items():
        path = tmp_path / "run" / "replica_0" / "plots" / f"{metric}.csv"
        assert read_metric(path, metric) == values
        rows = [line.split(",") for line in path.read_text().splitlines()]
        assert rows[0] == ["Request Id", metric, "cdf"]
        assert [float(row[1]) for row in rows[1:]] == sorted(values.values())
        assert [float(row[2]) for row in rows[1:]] == pytest.approx([rank / 12 for rank in range(1, 13)])
    with pytest.raises(OutputPathError, match="exists already"):
        write_run(tmp_path / "run", Result(requests=requests), {})
    (tmp_path / "run" / "requests.jsonl").write_text('{"request_id": "1"}\n')
    with pytest.raises(RequestFileError, match="line 1"):
        read_requests(tmp_path / "run")


def test_a_summary_is_what_the_requests_say():
    requests = [
        RequestTimes(
            request_id=str(index),
            arrival_seconds=100.0 + index,
            first_scheduled_seconds=100.0 + index,
            first_token_seconds=100.0 + index + 0.1 * (index + 1),
            completion_seconds=101.0 + index,
            execution_seconds=0.5,
            prompt_tokens=10,
            output_tokens=1 if index == 0 else 3,
            ttft_budget_ms=None if index == 3 else 250.0,
        )
        for index in range(4)
    ]
    summary = summarize(requests)
    assert summary.duration_seconds == pytest.approx(4.0)
    assert summary.requests_per_second == pytest.approx(1.0)
    assert summary.output_tokens_per_second == pytest.approx(2.5)
    assert summary.ttft_ms[50].value == pytest.approx(250.0)  # of 100, 200, 300, 400
    assert summary.tpot_ms[50].value == pytest.approx(350.0)  # of 800, 700, 600 over two decode tokens each
    assert (summary.adherence.successes, summary.adherence.count) == (2, 3)
    assert summary.goodput_per_second == pytest.approx(0.5)
    assert summary.goodput_interval.low < 0.5 < summary.goodput_interval.high <= 0.75
    document = json.loads(json.dumps(summary.document(), allow_nan=False))
    assert document["adherence"] == pytest.approx(2 / 3) and document["ttft_ms"]["p99"]["ci"] is None
    with pytest.raises(InvalidValueError, match="at least one that finished"):
        summarize([])
