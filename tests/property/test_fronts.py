from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from paceline.analyze import ConfigPoint, compare_fronts, pareto_front, recommend_budgets
from paceline.records import KnobConfig


def point(index: int, accuracy: float, latency_ms: float) -> ConfigPoint:
    config = KnobConfig(tier=None, top_k=None, num_active_blocks=index + 1)
    spread = {"accuracy_std": 0.0, "latency_std_ms": 0.0, "num_samples": 1}
    return ConfigPoint(config=config, accuracy=accuracy, latency_ms=latency_ms, **spread)


# few distinct values, so that equal accuracies and latencies are common
PAIRS = st.tuples(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), st.sampled_from([10.0, 20.0]) | st.floats(1, 400))
POINTS = st.lists(PAIRS, min_size=1, max_size=40).map(
    lambda pairs: [point(i, a, ms) for i, (a, ms) in enumerate(pairs)]
)


def beats(one: ConfigPoint, other: ConfigPoint) -> bool:
    no_worse = one.accuracy >= other.accuracy and one.latency_ms <= other.latency_ms
    return no_worse and (one.accuracy > other.accuracy or one.latency_ms < other.latency_ms)


@given(POINTS)
def test_the_front_is_exactly_what_nothing_beats(points: list[ConfigPoint]) -> None:
    expected = {each.config for each in points if not any(beats(other, each) for other in points)}
    assert {each.config for each in pareto_front(points)} == expected


@given(POINTS)
def test_the_front_runs_from_the_fastest_to_the_most_accurate(points: list[ConfigPoint]) -> None:
    front = pareto_front(points)
    assert [each.latency_ms for each in front] == sorted(each.latency_ms for each in front)
    assert [each.accuracy for each in front] == sorted(each.accuracy for each in front)
    assert front[0].latency_ms == min(each.latency_ms for each in points)
    assert front[-1].accuracy == max(each.accuracy for each in points)


@given(st.lists(POINTS, min_size=1, max_size=5))
def test_recommended_budgets_span_every_front(sets: list[list[ConfigPoint]]) -> None:
    across = compare_fronts([pareto_front(points) for points in sets])
    budgets = recommend_budgets(across.min_ms, across.max_ms, across.min_ms, across.max_ms).budgets_ms
    assert across.min_ms - 1e-6 <= budgets[0] < across.min_ms + 10
    assert across.max_ms - 1e-6 <= budgets[-1] < across.max_ms + 10
    assert list(budgets) == sorted(set(budgets))
    assert budgets[0] > 0 or across.min_ms < 1e-6
    if budgets[-1] - budgets[0] >= 10:
        assert all(budget % 50 == 0 for budget in budgets[1:-1])
    assert all(later - sooner <= 50 for sooner, later in pairwise(budgets))
    assert across.jaccard is None or 0 <= across.jaccard <= 1
