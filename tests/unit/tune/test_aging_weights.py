"""Aging's weights from a run, against figures worked out by hand (synthetic runs)."""

import json

import pytest

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.tune.aging import PREFILL_METRIC, aging_weights
from paceline.tune.metrics_csv import write_metric

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
