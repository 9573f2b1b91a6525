import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm

from paceline.errors import InvalidValueError
from paceline.slo import (
    MeanEstimate,
    Proportion,
    adherence,
    clustered_estimate,
    goodput_per_second,
    mean_estimate,
    percentile,
    percentile_interval,
    tolerance_rank,
)

NUMBERS = st.floats(-1e6, 1e6)
OUTCOMES = st.integers(1, 5000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count)))


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.floats(0, 100))
def test_percentile_is_numpys_linear_percentile(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-6)


@given(OUTCOMES, st.sampled_from([0.8, 0.95, 0.99]))
def test_proportion_interval_is_scipys_exact_one(outcomes: tuple[int, int], confidence: float) -> None:
    successes, count = outcomes
    found = Proportion(successes=successes, count=count).interval(confidence)
    expected = binomtest(successes, count).proportion_ci(confidence, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_proportion_prints_share_interval_and_count() -> None:
    assert str(Proportion(successes=1906, count=2000)) == "0.953 (95 % CI 0.943–0.962, n = 2,000)"


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_proportions_cannot_be_built(successes: int, count: int) -> None:
    with pytest.raises(InvalidValueError):
        Proportion(successes=successes, count=count)


@given(st.lists(NUMBERS, min_size=2, max_size=60))
def test_mean_interval_is_the_normal_one(values: list[float]) -> None:
    estimate = mean_estimate(values)
    interval = estimate.interval()
    assert interval is not None
    reach = norm.ppf(0.975) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert estimate.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert interval.high - interval.low == pytest.approx(2 * reach, rel=1e-6, abs=1e-6)


def test_one_value_has_no_mean_interval() -> None:
    assert mean_estimate([3.0]).interval() is None


@given(OUTCOMES)
def test_score_interval_of_yes_or_no_scores_is_wilsons(outcomes: tuple[int, int]) -> None:
    successes, count = outcomes
    share = successes / count
    found = MeanEstimate(mean=share, std=math.sqrt(share * (1 - share)), count=count).score_interval()
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_score_interval_keeps_its_width_when_every_score_is_one() -> None:
    interval = MeanEstimate(mean=1.0, std=0.0, count=20).score_interval()
    assert interval is not None
    assert interval.low < 0.9
    assert interval.high == pytest.approx(1.0)


def test_scores_that_vary_more_than_yes_or_no_get_the_normal_interval() -> None:
    estimate = MeanEstimate(mean=0.8, std=1.1, count=50)
    assert estimate.score_interval() == estimate.interval()


@given(st.integers(1, 400), st.floats(1, 99))
def test_percentile_interval_covers_as_often_as_promised(count: int, percent: float) -> None:
    # among distinct values the true percentile lies between ranks low and high with P(low <= B < high), B binomial
    interval = percentile_interval([float(rank) for rank in range(1, count + 1)], percent)
    if interval is None:
        smallest, largest = binom.cdf(0, count, percent / 100), binom.cdf(count - 1, count, percent / 100)
        assert smallest > 0.025 or largest < 0.975
    else:
        coverage = binom.cdf(interval.high - 1, count, percent / 100) - binom.cdf(
            interval.low - 1, count, percent / 100
        )
        assert coverage >= 0.95 - 1e-9


def test_adherence_counts_a_latency_equal_to_its_budget() -> None:
    assert adherence([90.0, 100.0, 101.0], [100.0, 100.0, 100.0]) == Proportion(successes=2, count=3)


def test_goodput_counts_only_what_kept_its_budget() -> None:
    assert goodput_per_second([50.0, 150.0, 20.0], [100.0, 100.0, 20.0], duration_seconds=4.0) == 0.5


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidValueError, match="one for each of 2"):
        adherence([1.0, 2.0], [1.0])
    with pytest.raises(InvalidValueError, match="duration"):
        goodput_per_second([1.0], [1.0], duration_seconds=0)
    with pytest.raises(InvalidValueError, match="at least one value"):
        percentile([], 50)
    with pytest.raises(InvalidValueError, match="from 0 to 100"):
        percentile([1.0], 101)
    with pytest.raises(InvalidValueError, match="confidence"):
        Proportion(successes=1, count=2).interval(95)


@pytest.mark.parametrize(("count", "rank"), [(44, None), (45, 45), (76, 76), (77, 76), (120, 118)])
def test_tolerance_ranks_of_95_percent_with_confidence_90_percent(count, rank):
    """The least counts for the largest and second largest value are tabulated (45 and 77) since Wilks, 1941."""
    assert tolerance_rank(count, 0.95, 0.9) == rank


@given(st.integers(1, 400), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_a_tolerance_rank_is_the_smallest_that_covers_with_confidence(count, share, confidence):
    rank = tolerance_rank(count, share, confidence)
    covered = [binom.cdf(below, count, share) for below in range(count)]  # P(fewer than rank of the draws lie below)
    expected = next((below + 1 for below, chance in enumerate(covered) if chance >= confidence), None)
    assert rank == expected or abs(covered[min(rank or count, expected or count) - 1] - confidence) < 1e-9


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=30), copies=st.integers(2, 5))
def test_questions_of_one_picture_that_score_alike_count_as_one(values, copies):
    repeated = [value for value in values for _ in range(copies)]
    clusters = [index for index in range(len(values)) for _ in range(copies)]
    shared = clustered_estimate(repeated, clusters)
    assert shared.mean == pytest.approx(mean_estimate(values).mean) and shared.count == len(repeated)
    wide, narrow = shared.interval(), mean_estimate(values).interval()
    if mean_estimate(values).std > 1e-6:
        assert (wide.low, wide.high) == pytest.approx((narrow.low, narrow.high))
    assert shared.score_interval().high - shared.score_interval().low >= (
        mean_estimate(repeated).score_interval().high - mean_estimate(repeated).score_interval().low - 1e-12
    )


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_clusters_of_one_change_nothing(values):
    assert clustered_estimate(values, range(len(values))) == mean_estimate(values)


def test_intervals_over_pictures_cover_where_plain_ones_do_not():
    random = np.random.default_rng(7)
    pictures = np.repeat(np.arange(60), 5)
    plain, clustered = 0, 0
    for _ in range(400):
        chance_P = random.beta(0.6, 0.6, 60)  # a picture is easy or hard for all of its questions
        values = (random.random(300) < chance_P[pictures]).astype(float).tolist()
        intervals = (
            mean_estimate(values).score_interval(),
            clustered_estimate(values, pictures.tolist()).score_interval(),
        )
        plain += intervals[0].low <= 0.5 <= intervals[0].high
        clustered += intervals[1].low <= 0.5 <= intervals[1].high
    assert plain < 0.85 * 400 and clustered > 0.91 * 400


def test_one_picture_alone_tells_as_much_as_one_question():
    found = clustered_estimate([1.0, 1.0, 0.0, 1.0], ["p"] * 4)
    assert found.design_effect == 4 and clustered_estimate([1.0] * 6, [0, 0, 1, 1, 2, 2]).design_effect == 2
    with pytest.raises(InvalidValueError, match="number of clusters"):
        clustered_estimate([1.0, 2.0], ["p"])
