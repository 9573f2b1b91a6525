"""What a certificate promises, held against enumeration and against draws at the boundary."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from paceline.certify.betting import first_crossing, log_evidence
from paceline.certify.exact import certifies, most_broken, score
from paceline.certify.planning import fewest_questions, questions_needed, rounded_up
from paceline.certify.ratios import bound_kept, fewest_requests, latency_bounds, paired_latencies
from paceline.certify.sequence import StoppingRule, front_sequence, judge_accuracy

MARGINS = st.sampled_from([0.01, 0.03, 0.05, 0.1, 0.3])
LEVELS = st.sampled_from([0.025, 0.05, 0.1, 0.2])
RATES = st.floats(0.0, 0.45)


def enumerated(questions: int, epsilon: float, delta: float, mended_rate: float) -> float:
    """Return the probability of a false certificate at a loss of exactly ε, over every possible count."""
    broken_rate = mended_rate + epsilon
    total = 0.0
    for b in range(questions + 1):
        for g in range(questions + 1 - b):
            if certifies(b, g, questions, epsilon, delta):
                n = questions - b - g
                ways = math.comb(questions, b) * math.comb(questions - b, g)
                total += ways * broken_rate**b * mended_rate**g * max(0.0, 1 - broken_rate - mended_rate) ** n
    return total


@settings(deadline=None, max_examples=25)
@given(questions=st.integers(1, 30), epsilon=MARGINS, delta=LEVELS, share=st.floats(0, 1))
def test_no_rate_of_mended_answers_makes_the_exact_test_err_more_often_than_delta(
    questions: int, epsilon: float, delta: float, share: float
) -> None:
    assert enumerated(questions, epsilon, delta, share * (1 - epsilon) / 2) <= delta * (1 + 1e-9)


@settings(deadline=None, max_examples=20)
@given(questions=st.integers(2, 200), epsilon=MARGINS, delta=LEVELS)
def test_fewer_broken_or_more_mended_answers_never_undo_a_certificate(
    questions: int, epsilon: float, delta: float
) -> None:
    region = most_broken(questions, epsilon, delta)
    mended = np.arange(questions + 1)
    reachable = region[: questions + 1]
    assert (reachable <= questions - mended).all()
    inner = mended[:-1][reachable[:-1] < questions - mended[:-1]]  # not cut by the triangle's own edge
    assert (reachable[inner + 1] >= np.minimum(reachable[inner], questions - inner - 1)).all()


@settings(deadline=None, max_examples=12)
@given(epsilon=st.sampled_from([0.03, 0.05, 0.1, 0.3]), delta=LEVELS)
def test_identical_answers_certify_from_the_floor_on_and_not_before(epsilon: float, delta: float) -> None:
    floor = fewest_questions(epsilon, delta)
    assert (1 - epsilon) ** floor <= delta < (1 - epsilon) ** (floor - 1)
    assert not certifies(0, 0, floor - 1, epsilon, delta) if floor > 1 else True
    assert certifies(0, 0, math.ceil(1.05 * floor) + 1, epsilon, delta)


@settings(deadline=None, max_examples=200)
@given(b=st.integers(0, 60), g=st.integers(0, 60), rest=st.integers(0, 200), epsilon=MARGINS)
def test_the_score_keeps_the_restricted_estimate_a_probability(b: int, g: int, rest: int, epsilon: float) -> None:
    questions = b + g + rest
    if not questions:
        return
    found = float(score(b, g, questions, epsilon))
    assert math.isfinite(found)
    assert np.sign(found) == np.sign(round(b - g - questions * epsilon, 9)) or abs(found) < 1e-9


def false_share(certified: int, runs: int, delta: float) -> bool:
    """Tell whether so many false certificates are no proof of more than δ: the binomial tail stays above one in 10⁶."""
    return float(binom.sf(certified - 1, runs, delta)) > 1e-6


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.sampled_from([0.02, 0.05, 0.1]), mended=st.floats(0, 0.1))
def test_a_loss_of_epsilon_is_seldom_certified_by_either_rule(seed: int, epsilon: float, mended: float) -> None:
    random, delta, runs, questions = np.random.default_rng(seed), 0.1, 300, 240
    rates = [mended + epsilon, mended, 1 - 2 * mended - epsilon]
    losses = random.choice([1.0, -1.0, 0.0], p=rates, size=(runs, questions))
    for kind in ("two_looks", "e_process"):
        rule = StoppingRule(kind=kind, epsilon=epsilon, delta=delta, questions=questions)
        false = sum(judge_accuracy(row, rule).certified is True for row in losses)
        assert false_share(false, runs, delta), (kind, false)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), per_picture=st.integers(2, 6))
def test_questions_that_stand_or_fall_with_their_picture_are_not_counted_as_many(seed: int, per_picture: int) -> None:
    """All questions of a picture have one loss: what a test of single questions would take for much evidence."""
    random, epsilon, delta, runs, pictures = np.random.default_rng(seed), 0.1, 0.1, 300, 60
    losses = random.choice([1.0, -1.0, 0.0], p=[0.15, 0.05, 0.8], size=(runs, pictures)).repeat(per_picture, axis=1)
    names = np.arange(pictures).repeat(per_picture).tolist()
    rule = StoppingRule(
        kind="e_process", epsilon=epsilon, delta=delta, questions=pictures * per_picture, most_shared=per_picture
    )
    false = sum(judge_accuracy(row, rule, names).certified is True for row in losses)
    assert false_share(false, runs, delta), false


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), epsilon=st.sampled_from([0.03, 0.1]))
def test_graded_answers_at_a_mean_loss_of_epsilon_are_seldom_certified(seed: int, epsilon: float) -> None:
    random, delta, runs, questions = np.random.default_rng(seed), 0.1, 300, 250
    graded = random.choice([0.0, 0.3, 0.6, 0.9, 1.0], size=(runs, questions, 2))
    losses = graded[..., 0] - graded[..., 1]
    losses = np.where(random.random(losses.shape) < epsilon / 2, 1.0, losses)
    shift = epsilon - epsilon / 2  # the mean of the others is 0, that of the ones in ε / 2 of the cases is 1
    losses = np.where((losses != 1.0) & (random.random(losses.shape) < shift / (1 - epsilon / 2)), 1.0, losses)
    rule = StoppingRule(kind="e_process", epsilon=epsilon, delta=delta, questions=questions)
    false = sum(judge_accuracy(row, rule).certified is True for row in losses)
    assert false_share(false, runs, delta), false


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 200), epsilon=st.sampled_from([0.03, 0.1]))
def test_a_verdict_depends_on_the_answers_alone_and_stands_once_given(seed: int, cut: int, epsilon: float) -> None:
    losses = np.random.default_rng(seed).choice([1.0, -1.0, 0.0], p=[0.02, 0.02, 0.96], size=200)
    for kind in ("two_looks", "e_process"):
        rule = StoppingRule(kind=kind, epsilon=epsilon, delta=0.1, questions=200)
        early, late = judge_accuracy(losses[:cut], rule), judge_accuracy(losses, rule)
        assert late.certified is not None
        if early.certified is not None:
            assert early.certified == late.certified
        if early.certified:
            assert late.asked == early.asked <= cut


@settings(deadline=None, max_examples=60)
@given(losses=st.lists(st.floats(-1, 1), min_size=1, max_size=30), epsilon=MARGINS, weight=st.floats(0.1, 1.0))
def test_evidence_is_the_mean_of_the_products_of_its_bets(losses: list[float], epsilon: float, weight: float) -> None:
    from paceline.certify.betting import BETS, LARGEST_SHARE, SMALLEST_BET

    bets = np.geomspace(SMALLEST_BET, LARGEST_SHARE / (1 - epsilon), BETS)
    wealth = np.mean([np.prod([1 + bet * weight * (epsilon - loss) for loss in losses]) for bet in bets])
    found = log_evidence(np.array(losses), epsilon, np.full(len(losses), weight))[-1]
    assert found == pytest.approx(math.log(wealth), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 20))
def test_every_step_of_the_sequence_costs_accuracy_and_gains_time(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    accuracy, latency = random.integers(0, 6, count) / 5, random.integers(1, 6, count).astype(float)
    full = int(np.argmax(latency))
    found = front_sequence(accuracy, latency, full)
    assert full not in found
    assert all(accuracy[a] > accuracy[b] and latency[a] > latency[b] for a, b in pairwise(found))
    for place in range(count):
        if latency[place] < latency[full] and place not in found:
            assert any(
                latency[other] <= latency[place] and accuracy[other] >= accuracy[place]
                for other in range(count)
                if other != place
            )


@settings(deadline=None, max_examples=100)
@given(broken=RATES, mended=RATES, epsilon=MARGINS, delta=LEVELS)
def test_no_plan_is_below_the_floor_and_none_reaches_a_loss_of_epsilon(
    broken: float, mended: float, epsilon: float, delta: float
) -> None:
    needed = questions_needed(broken, mended, epsilon, delta)
    if broken - mended >= epsilon:
        assert needed is None
    else:
        assert needed is not None and needed >= fewest_questions(epsilon, delta)
        assert needed <= rounded_up(needed) <= 1.34 * needed + 1


@settings(deadline=None, max_examples=60)
@given(delta=LEVELS)
def test_a_latency_bound_that_nothing_exceeds_is_kept_from_the_fewest_requests_on(delta: float) -> None:
    fewest = fewest_requests(delta)
    assert bound_kept(0, fewest, delta) and not bound_kept(0, fewest - 1, delta)
    assert not bound_kept(fewest, fewest, delta)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), full=st.integers(0, 3))
def test_what_slows_a_question_down_for_all_configurations_leaves_their_ratios_alone(seed: int, full: int) -> None:
    random = np.random.default_rng(seed)
    true = random.uniform(1, 9, 4)
    busy = random.uniform(0.5, 4, (30, 1))
    found = paired_latencies(true * busy, full)
    assert found / found[full] == pytest.approx(true / true[full], rel=1e-9)
    assert found[full] == pytest.approx((true[full] * busy).mean(), rel=1e-9)
    assert latency_bounds(true * busy) / true == pytest.approx(latency_bounds(np.ones(4) * busy))


def test_evidence_of_nothing_is_none() -> None:
    assert len(log_evidence(np.zeros(0), 0.1)) == 0
    assert first_crossing(np.zeros(0), 0.1, 0.1) is None
