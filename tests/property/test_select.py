import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.tune.select import AGGREGATIONS, SCORED, ScoreWeights, SweepRun, choose_threshold

LEVEL = st.floats(0.01, 100)
LEVELS = st.fixed_dictionaries(dict.fromkeys(SCORED, LEVEL))
THRESHOLDS = st.sampled_from([0, 10, 20, 30, 40])
RUNS = st.lists(st.dictionaries(THRESHOLDS, LEVELS, min_size=1), min_size=1, max_size=5).map(
    lambda runs: [SweepRun(name=str(index), levels=levels) for index, levels in enumerate(runs)]
)
WEIGHT = st.floats(0, 1)
WEIGHTS = st.builds(ScoreWeights, request=st.floats(0.01, 1), **dict.fromkeys(list(SCORED)[1:], WEIGHT))
AGGREGATION = st.sampled_from(list(AGGREGATIONS))


def halved(levels):
    return {name: level / 2 for name, level in levels.items()}


def chosen(runs, weights, run_agg):
    return choose_threshold(runs, baseline=0, weights=weights, run_agg=run_agg, rule="reference")


@given(RUNS, WEIGHTS, AGGREGATION, st.data())
def test_a_run_on_a_faster_machine_chooses_the_same(runs, weights, run_agg, data):
    """Scaling all of a run's metrics by a factor of its own leaves choice and scores as they were."""
    # powers of two divide without rounding, so that not even the last digit moves
    factors = [2.0 ** data.draw(st.integers(-20, 20)) for _ in runs]
    scaled = [
        SweepRun(
            name=run.name,
            levels={
                threshold: {name: level * factor for name, level in levels.items()}
                for threshold, levels in run.levels.items()
            },
        )
        for run, factor in zip(runs, factors, strict=True)
    ]
    assert chosen(scaled, weights, run_agg) == chosen(runs, weights, run_agg)


@given(RUNS, WEIGHTS, AGGREGATION, st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(runs, weights, run_agg, random):
    shuffled = random.sample(runs, len(runs))
    one, other = chosen(runs, weights, run_agg), chosen(shuffled, weights, run_agg)
    assert one.recommended == other.recommended and one.runs == other.runs


@given(RUNS, WEIGHTS, AGGREGATION)
def test_nothing_scores_clearly_better_and_nothing_smaller_as_well(runs, weights, run_agg):
    choice = chosen(runs, weights, run_agg)
    scores = {each.threshold: each.score for each in choice.scores}
    best = scores[choice.recommended]
    assert all(best <= score * (1 + 1e-6) for score in scores.values())
    assert all(best < score for threshold, score in scores.items() if threshold < choice.recommended)


@given(RUNS, WEIGHTS, AGGREGATION)
def test_a_threshold_equal_to_the_baseline_in_every_run_loses_to_it(runs, weights, run_agg):
    doubled = [
        SweepRun(name=run.name, levels={0: run.levels[min(run.levels)], 5: run.levels[min(run.levels)]}) for run in runs
    ]
    choice = chosen(doubled, weights, run_agg)
    assert choice.recommended == 0
    assert all(ratio == 1 for each in choice.scores for ratio in each.ratios.values())


@given(RUNS, WEIGHTS, AGGREGATION)
def test_what_is_better_in_everything_in_every_run_is_taken(runs, weights, run_agg):
    # in complete runs: a threshold that only a lucky run has may beat one that all have
    better = [
        SweepRun(name=run.name, levels={0: levels, 10: halved(levels), 50: halved(halved(levels))})
        for run in runs
        for levels in run.levels.values()
    ]
    assert chosen(better, weights, run_agg).recommended == 50


@given(RUNS, WEIGHTS, AGGREGATION, st.floats(0.1, 10))
def test_only_the_weights_proportions_count(runs, weights, run_agg, factor):
    # scores that the rounding of the weights could reorder are ties, and chosen alike, unless right at the edge of one
    stretched = ScoreWeights(**{name: weights.of(name) * factor for name in SCORED})
    one, other = chosen(runs, weights, run_agg), chosen(runs, stretched, run_agg)
    scores = {each.threshold: each.score for each in one.scores}
    assert abs(scores[one.recommended] - scores[other.recommended]) <= 1e-6 * scores[one.recommended]


NOISE = {
    "normal": lambda random, shape: random.normal(0, 0.05, shape),
    "heavy": lambda random, shape: 0.03 * random.standard_t(2, shape),
}


def noisy_sweep(random, noise, runs, others, better=0.0):
    """Synthetic: a cell's metrics share most of their noise, runs differ in speed; threshold 10 is better by a share."""
    of_cell, of_metric = (NOISE[noise](random, (runs, others + 1, count)) for count in (1, len(SCORED)))
    levels = np.exp(random.normal(0, 0.3, (runs, 1, 1)) + 0.8 * of_cell + 0.5 * of_metric)
    levels[:, 1] *= 1 - better
    return [
        SweepRun(
            name=str(run),
            levels={10 * place: dict(zip(SCORED, cell.tolist(), strict=True)) for place, cell in enumerate(cells)},
        )
        for run, cells in enumerate(levels)
    ]


def share_that_recommends(threshold_is, noise, runs, others, better=0.0, trials=1000):
    random = np.random.default_rng(7)
    found = 0
    for _ in range(trials):
        choice = choose_threshold(
            noisy_sweep(random, noise, runs, others, better), baseline=0, weights=ScoreWeights(), run_agg="mean"
        )
        found += threshold_is(choice.recommended)
    return found / trials


@pytest.mark.parametrize(
    ("noise", "runs", "others"), [("normal", 4, 1), ("normal", 5, 6), ("heavy", 4, 6), ("heavy", 5, 2)]
)
def test_noise_alone_is_recommended_in_one_sweep_of_twenty_at_most(monkeypatch, noise, runs, others):
    monkeypatch.setattr("paceline.tune.score_intervals.RELABELLED", 200)  # a thousand sweeps in seconds
    assert share_that_recommends(lambda threshold: threshold != 0, noise, runs, others) <= 0.05


def test_a_threshold_that_helps_clearly_is_found(monkeypatch):
    monkeypatch.setattr("paceline.tune.score_intervals.RELABELLED", 200)
    assert share_that_recommends(lambda threshold: threshold == 10, "normal", 5, 6, better=0.2, trials=200) >= 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["normal", "heavy"]), st.integers(4, 6), st.integers(1, 4), AGGREGATION)
def test_by_interval_neither_the_order_of_runs_nor_their_speed_matters(seed, noise, runs, others, run_agg):
    random = np.random.default_rng(seed)
    swept = noisy_sweep(random, noise, runs, others, better=0.1)
    faster = [
        SweepRun(
            name=run.name,
            levels={at: {name: level * 2.0**place for name, level in cell.items()} for at, cell in run.levels.items()},
        )
        for place, run in enumerate(reversed(swept))
    ]
    one, other = (
        choose_threshold(each, baseline=0, weights=ScoreWeights(), run_agg=run_agg) for each in (swept, faster)
    )
    assert one.recommended == other.recommended
    for mine, its in zip(one.scores[1:], other.scores[1:], strict=True):
        assert mine.interval.low == pytest.approx(its.interval.low)
        assert mine.interval.low < mine.score < mine.interval.high
