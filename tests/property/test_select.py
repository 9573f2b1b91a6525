from hypothesis import given
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
    return choose_threshold(runs, baseline=0, weights=weights, run_agg=run_agg)


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
