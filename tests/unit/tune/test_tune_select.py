"""The score of SPEC S10 and both rules against figures worked out by hand (synthetic sweeps)."""

import csv
import json
import re

import pytest

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.tune.select import (
    AGGREGATIONS,
    LEAST_RUNS,
    SCORED,
    ScoreWeights,
    SweepRun,
    choose_threshold,
    select_threshold,
)
from paceline.tune.sweep import DEFAULT_REPETITIONS

METRICS = [each.metric for each in SCORED.values()]


def write_cell(folder, values):
    """Write five metric files of two requests each; `values` in the order of SCORED."""
    folder.mkdir(parents=True)
    for metric, (one, other) in zip(METRICS, values, strict=True):
        with (folder / f"{metric}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([("Request Id", metric, "cdf"), (0, one, 0.5), (1, other, 1.0)])


def scaled_pairs(factors):
    return [(factor * 1.0, factor * 3.0) for factor in factors]


@pytest.fixture
def sweep(tmp_path):
    """Two runs on machines of unlike speed; ratios to each one's own threshold 0 are (run 1, run 2):

    10: request 0.5 0.7, prefill 0.8 1.0, prefill-normalized 1.2 0.8, request-normalized 1 1, decode 2 1
    20: request 1 1, prefill 0.5 0.5, prefill-normalized 1 1, request-normalized 1 3, decode 1 1
    """
    ratios = {
        "first": {0: [1, 1, 1, 1, 1], 10: [0.5, 0.8, 1.2, 1, 2], 20: [1, 0.5, 1, 1, 1]},
        "second": {0: [1, 1, 1, 1, 1], 10: [0.7, 1.0, 0.8, 1, 1], 20: [1, 0.5, 1, 3, 1]},
    }
    for run, speed in (("first", 1), ("second", 7)):
        for threshold, factors in ratios[run].items():
            write_cell(tmp_path / run / str(threshold), scaled_pairs([speed * factor for factor in factors]))
    return tmp_path


def scores(choice):
    return {each.threshold: each.score for each in choice.scores}


# by hand, mean: 10: .35*.6 + .35*.9 + .2*1 + .05*1 + .05*1.5 = .85;   20: .35 + .35*.5 + .2 + .05*2 + .05 = .875
# p90: 10: .35*.68 + .35*.98 + .2*1.16 + .05 + .05*1.9 = .958;         20: .35 + .175 + .2 + .05*2.8 + .05 = .915
# max: 10: .35*.7 + .35 + .2*1.2 + .05 + .05*2 = .985;                 20: .35 + .175 + .2 + .05*3 + .05 = .925
BY_HAND = {"mean": (0.85, 0.875, 10), "median": (0.85, 0.875, 10), "p90": (0.958, 0.915, 20), "max": (0.985, 0.925, 20)}


@pytest.mark.parametrize("run_agg", BY_HAND)
def test_scores_are_those_worked_out_by_hand(sweep, run_agg):
    at_10, at_20, recommended = BY_HAND[run_agg]
    choice = select_threshold(sweep, run_agg=run_agg, rule="reference")
    assert scores(choice) == pytest.approx({0: 1.0, 10: at_10, 20: at_20})
    assert (choice.recommended, choice.runs, choice.left_out, choice.fallbacks) == (recommended, 2, (), {})


def test_the_percentile_is_linear_and_the_normalized_metrics_are_means(tmp_path):
    # P95 of (1, 3) is 2.9 and of (2, 3) 2.95; means are 2 and 2.5
    write_cell(tmp_path / "run" / "0", [(1, 3)] * 5)
    write_cell(tmp_path / "run" / "10", [(2, 3)] * 5)
    ratios = select_threshold(tmp_path).scores[1].ratios
    assert ratios == pytest.approx(
        {
            "request": 2.95 / 2.9,
            "prefill": 2.95 / 2.9,
            "prefill_exec_norm": 1.25,
            "request_exec_norm": 1.25,
            "decode": 1.25,
        }
    )


def test_the_document_has_the_keys_that_others_read(sweep):
    document = json.loads(json.dumps(select_threshold(sweep, rule="reference").document()))
    assert document["recommended"] == 10 and document["runs"] == 2
    assert list(document["thresholds"]) == ["0", "10", "20"]
    keys = (
        "runs request_ratio prefill_ratio prefill_exec_norm_ratio request_exec_norm_ratio decode_ratio score score_ci"
    )
    assert list(document["thresholds"]["10"]) == keys.split()
    assert document["thresholds"]["10"]["request_ratio"] == pytest.approx(0.6)
    assert document["thresholds"]["20"]["runs"] == 2


def test_weights_decide(sweep):
    only_decode = ScoreWeights(request=0, prefill=0, prefill_exec_norm=0, request_exec_norm=0, decode=2)
    choice = select_threshold(sweep, weights=only_decode)
    assert scores(choice) == pytest.approx({0: 2.0, 10: 3.0, 20: 2.0})
    assert choice.recommended == 0  # equal scores: the smaller threshold


def test_both_places_of_the_files_are_read(sweep):
    expected = scores(select_threshold(sweep))
    cell = sweep / "second" / "10"
    plots = cell / "replica_0" / "plots"
    plots.mkdir(parents=True)
    for file in cell.glob("*.csv"):
        file.rename(plots / file.name)
    assert scores(select_threshold(sweep)) == expected


def test_another_baseline_and_the_fallback_to_a_runs_smallest(sweep):
    choice = select_threshold(sweep, baseline=10)
    assert scores(choice)[10] == pytest.approx(1.0)
    for file in (sweep / "second" / "10").iterdir():
        file.unlink()
    (sweep / "second" / "10").rmdir()
    choice = select_threshold(sweep, baseline=10, rule="reference")
    assert choice.fallbacks == {"second": 0} and choice.left_out == ()
    assert {each.threshold: each.runs for each in choice.scores} == {0: 2, 10: 1, 20: 2}
    # second run, by its own 0: prefill ratio 0.5 at 20; first run by its 10: 0.5 / 0.8
    assert choice.scores[2].ratios["prefill"] == pytest.approx((0.5 + 0.5 / 0.8) / 2)


def test_a_cell_without_a_file_is_left_out_and_listed(sweep):
    missing = sweep / "first" / "0" / "prefill_e2e_time.csv"
    missing.unlink()
    choice = select_threshold(sweep, rule="reference")
    assert choice.fallbacks == {"first": 10}
    (sentence,) = choice.left_out
    assert str(missing) in sentence and "has no prefill_e2e_time.csv" in sentence
    assert choice.document()["left_out"] == [sentence]


BAD_FILES = {
    "Request Id,prefill_e2e_time,cdf\n0,nan,1\n": "line 2, column 'prefill_e2e_time'",
    "Request Id,prefill_e2e_time,cdf\n0,-1,1\n": "a number of at least 0",
    "Request Id,prefill_e2e_time,cdf\n0,1,0.5\n0,2,1\n": "line 3, column 'Request Id'",
    "Request Id,prefill_e2e_time,cdf\n": "holds no request",
    "Request Id,other,cdf\n0,1,1\n": "line 1, column 'prefill_e2e_time'",
    "Request Id,prefill_e2e_time,cdf\n0,0,1\n": "comes to 0",
    "": "column 'Request Id'",
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_cell_with_a_bad_file_is_left_out_and_says_where(sweep, content):
    (sweep / "first" / "10" / "prefill_e2e_time.csv").write_text(content)
    choice = select_threshold(sweep)
    assert BAD_FILES[content] in choice.left_out[0]
    assert {each.threshold: each.runs for each in choice.scores} == {0: 2, 10: 1, 20: 2}


def test_nothing_left_to_compare_is_an_error_that_lists_why(sweep):
    for file in sweep.glob("*/*/request_execution_time.csv"):
        file.unlink()
    with pytest.raises(RequestFileError, match="no run to compare.*first.10.*second.20"):
        select_threshold(sweep)


def test_directories_that_are_no_runs_are_told_of(sweep):
    (sweep / "notes").mkdir()
    (sweep / ".hidden").mkdir()
    (sweep / "first" / "010").mkdir()
    assert select_threshold(sweep).left_out == (
        f"{sweep / 'notes'}: holds no directory named after a threshold, such as 0 or 20",
    )


def test_wrong_settings_are_refused(sweep, tmp_path):
    with pytest.raises(UnknownChoiceError, match="'medain' is unknown.*mean 'median'"):
        select_threshold(sweep, run_agg="medain")
    with pytest.raises(UnknownChoiceError, match="'refernce' is unknown.*mean 'reference'"):
        select_threshold(sweep, rule="refernce")
    with pytest.raises(InvalidValueError, match="baseline is -1"):
        select_threshold(sweep, baseline=-1)
    with pytest.raises(InvalidValueError, match="w_decode is nan"):
        ScoreWeights(decode=float("nan"))
    with pytest.raises(InvalidValueError, match="at least one above 0"):
        ScoreWeights(request=0, prefill=0, prefill_exec_norm=0, request_exec_norm=0, decode=0)
    with pytest.raises(RequestFileError, match="No such file"):
        select_threshold(tmp_path / "none")


def runs_of(ratios, *, levels=(1.0, 2.0, 3.0, 4.0, 5.0)):
    """A run a row; each threshold's metrics are its ratio times the run's own levels, whose speed differs by run."""
    return [
        SweepRun(
            name=f"{row:02d}",
            levels={
                threshold: {name: (row + 1) * ratio * level for name, level in zip(SCORED, levels, strict=True)}
                for threshold, ratio in by_threshold.items()
            },
        )
        for row, by_threshold in enumerate(ratios)
    ]


def by_interval(ratios, **more):
    return choose_threshold(runs_of(ratios), baseline=0, weights=ScoreWeights(), **more)


def test_two_runs_are_too_few_and_the_reason_says_how_many_are_needed(sweep):
    choice = select_threshold(sweep)
    assert (choice.rule, choice.recommended, choice.runs) == ("interval", 0, 2)
    assert choice.scores == select_threshold(sweep, rule="reference").scores and choice.scores[1].interval is None
    assert choice.reason.startswith("2 runs compare another threshold with 0, too few")
    assert f"--repetitions {LEAST_RUNS}" in choice.reason and DEFAULT_REPETITIONS >= LEAST_RUNS


def test_what_is_better_in_every_run_by_more_than_noise_is_taken_and_its_interval_holds_its_worth():
    noisy = [{0: 1.0, 10: 0.9 + 0.01 * row, 20: 1.0 - 0.02 * row} for row in range(5)]
    choice = by_interval(noisy)
    at_10, at_20 = choice.scores[1], choice.scores[2]
    assert choice.recommended == 10 and "lies below the baseline's score of 1.0000" in choice.reason
    assert at_10.interval.low < 0.92 < at_10.interval.high < 1
    assert at_20.interval.low < 0.96 < 1 < at_20.interval.high  # a score below the baseline's, and not told from it
    assert at_10.score / at_10.interval.low == pytest.approx(at_20.interval.high / at_20.score)  # one reach for all
    assert choice.scores[0].interval is None
    assert choice.document()["thresholds"]["10"]["score_ci"] == [at_10.interval.low, at_10.interval.high]


def test_noise_leaves_the_baseline_and_says_how_many_runs_would_show_what_looks_better():
    choice = by_interval([{0: 1.0, 10: 0.98}, {0: 1.0, 10: 1.1}, {0: 1.0, 10: 0.9}, {0: 1.0, 10: 0.96}])
    assert choice.scores[1].score == pytest.approx(0.985) and choice.recommended == 0
    needed = int(re.search(r"some ([\d,]+) runs would show it", choice.reason)[1].replace(",", ""))
    assert needed > 100
    worse = by_interval([{0: 1.0, 10: 1.1}, {0: 1.0, 10: 1.2}, {0: 1.0, 10: 1.0}, {0: 1.0, 10: 1.1}])
    assert (worse.recommended, worse.reason) == (0, "no threshold scores better")


def test_runs_without_the_baseline_are_left_out_and_a_threshold_of_few_runs_is_shown_without_interval():
    ratios = [{0: 1.0, 10: 0.5, 20: 0.5} for _ in range(4)] + [{10: 1.0, 20: 9.0}, {0: 1.0, 30: 0.1}]
    choice = by_interval(ratios)
    assert (choice.recommended, choice.runs) == (10, 5)
    assert choice.left_out == ("run 04 has no threshold 0 to compare with",) and choice.fallbacks == {}
    assert [(each.threshold, each.runs, each.interval is None) for each in choice.scores] == [
        (0, 5, True),
        (10, 4, False),
        (20, 4, False),
        (30, 1, True),
    ]


def test_without_any_baseline_nothing_is_compared():
    choice = by_interval([{10: 1.0, 20: 0.5}] * 5)
    assert (choice.recommended, choice.runs, choice.scores) == (0, 0, ())
    assert len(choice.left_out) == 5 and "0 runs compare" in choice.reason


@pytest.mark.parametrize("run_agg", AGGREGATIONS)
def test_every_aggregation_and_weighting_has_its_intervals(run_agg):
    ratios = [{0: 1.0, 10: 0.7 + 0.01 * row, 20: 1.0 + 0.02 * row} for row in range(6)]
    assert by_interval(ratios, run_agg=run_agg).recommended == 10
    doubled = choose_threshold(runs_of(ratios), baseline=0, weights=ScoreWeights(decode=3.05), run_agg=run_agg)
    at_10 = doubled.scores[1]
    assert doubled.scores[0].score == pytest.approx(4.0) and doubled.recommended == 10
    assert at_10.interval.low < at_10.score < at_10.interval.high < 4.0
