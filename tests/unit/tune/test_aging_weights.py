"""Aging's weights from a run, against figures worked out by hand (synthetic runs)."""

import json
from types import SimpleNamespace

import pytest

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.schedule import RequestTimes
from paceline.tune.aging import PREFILL_METRIC, aging_weights
from paceline.tune.metrics_csv import write_metric
from paceline.tune.run_files import REQUESTS, write_run

SECONDS = {"a": 0.004, "b": 0.001, "c": 0.010, "d": 0.002, "e": 0.003}  # mean .004, median .003, p80 .004 + .2 * .006


@pytest.fixture(params=["replica_0/plots", "."])
def run(tmp_path, request):
    write_metric(tmp_path / request.param / f"{PREFILL_METRIC}.csv", PREFILL_METRIC, SECONDS)
    return tmp_path


def test_weights_are_those_worked_out_by_hand(run):
    document = json.loads(json.dumps(aging_weights(run).document()))
    assert document["seconds_per_prefill_token"] == pytest.approx({"mean": 0.004, "median": 0.003, "p80": 0.0052})
    assert (document["time_weight"], document["prompt_weight"]) == (1.0, pytest.approx(-0.004))
    # 250 tokens a second * 0.3
    assert document["alternative"] == {"time_weight": pytest.approx(75.0), "prompt_weight": -1.0}
    assert document["requests"] == 5


@pytest.mark.parametrize(("statistic", "seconds"), [("median", 0.003), ("p80", 0.0052)])
def test_another_statistic_and_another_factor(run, statistic, seconds):
    weights = aging_weights(run, statistic=statistic, short_request_factor=1.0)
    assert weights.weights.prompt_weight == pytest.approx(-seconds)
    # without the factor both ways give the same order: they are in proportion
    assert weights.alternative.time_weight == pytest.approx(1 / seconds)


def test_what_cannot_be_is_refused(run, tmp_path_factory):
    with pytest.raises(UnknownChoiceError, match="did you mean 'median'"):
        aging_weights(run, statistic="medain")
    with pytest.raises(InvalidValueError, match="short request factor is 0"):
        aging_weights(run, short_request_factor=0)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(RequestFileError, match=f"has no {PREFILL_METRIC}.csv.*replica_0"):
        aging_weights(empty)
    write_metric(empty / f"{PREFILL_METRIC}.csv", PREFILL_METRIC, {"a": 0.0})
    with pytest.raises(RequestFileError, match="the mean is 0"):
        aging_weights(empty)


def finished(name, *, prefill_seconds, prompt_tokens):
    return RequestTimes(
        request_id=name,
        arrival_seconds=0.0,
        first_scheduled_seconds=1.0,
        first_token_seconds=1.0 + prefill_seconds,
        completion_seconds=10.0,
        execution_seconds=2.0,
        prompt_tokens=prompt_tokens,
        output_tokens=2,
    )


@pytest.fixture
def recorded(tmp_path):
    # 0.5 s for 10 tokens and 1 s for 990: .05 and .00101 a token, 1.5 s for 1,000 together
    requests = (
        finished("short", prefill_seconds=0.5, prompt_tokens=10),
        finished("long", prefill_seconds=1.0, prompt_tokens=990),
    )
    write_run(tmp_path / "run", SimpleNamespace(requests=requests, steps=(), wall_seconds=10.0), {})
    return tmp_path / "run"


def test_the_mean_weighted_by_tokens_stands_beside_the_one_over_requests(recorded, run):
    found = aging_weights(recorded)
    assert found.seconds_per_prefill_token["mean"] == pytest.approx((0.05 + 1 / 990) / 2)
    assert found.token_weighted_mean == pytest.approx(0.0015)
    assert found.weights.prompt_weight == pytest.approx(-(0.05 + 1 / 990) / 2)  # as the default has always been
    weighted = aging_weights(recorded, statistic="token_weighted_mean")
    assert weighted.weights.prompt_weight == pytest.approx(-0.0015)
    assert weighted.alternative.time_weight == pytest.approx(0.3 / 0.0015)
    assert weighted.document()["token_weighted_mean"] == pytest.approx(0.0015)
    # metric files of another tool say nothing of lengths
    assert aging_weights(run).document()["token_weighted_mean"] is None
    with pytest.raises(RequestFileError, match="lengths of its prompts are not known.*another statistic"):
        aging_weights(run, statistic="token_weighted_mean")


def test_a_request_without_a_length_is_named(recorded):
    lines = (recorded / REQUESTS).read_text().splitlines()
    (recorded / REQUESTS).write_text(lines[0] + "\n")
    with pytest.raises(RequestFileError, match="lacks request 'long'"):
        aging_weights(recorded)
