"""Smoothing over the grid: what it gains where there is structure, and that it never misleads where there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.certify.grid import largest, ordinal_places
from paceline.certify.sets import sets_differ
from paceline.certify.smoothing import grid_accuracies, smoothed_means
from paceline.errors import InvalidValueError
from paceline.records import KnobConfig, KnobGrid

GRID = KnobGrid(tiers=("low", "medium", "high"), top_ks=(4, 8, 12), block_counts=(12, 14, 16)).configurations()
SEEDS = st.integers(0, 2**32 - 1)


def paired_answers(accuracy_C: np.ndarray, questions: int, random: np.random.Generator) -> np.ndarray:
    """Return right and wrong answers (question, configuration): a question's difficulty is shared by its answers."""
    shared = random.normal(size=(questions, 1))
    own = random.normal(size=(questions, len(accuracy_C)))
    from scipy.stats import norm

    return (0.8 * shared + 0.6 * own < norm.ppf(accuracy_C)).astype(float)


def additive(random: np.random.Generator) -> np.ndarray:
    """Return accuracies that rise with every knob."""
    places = ordinal_places(GRID)
    gains = [np.concatenate([[0], np.cumsum(random.uniform(0.02, 0.08, 2))]) for _ in range(3)]
    return 0.5 + sum(gain[places[:, knob].astype(int)] for knob, gain in enumerate(gains))


def error(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean(((found - found.mean()) - (true - true.mean())) ** 2)))


@settings(deadline=None, max_examples=5)
@given(seed=SEEDS)
def test_neighbours_lend_strength_where_accuracy_rises_with_the_knobs(seed: int) -> None:
    random = np.random.default_rng(seed)
    smoothed, plain = [], []
    for _ in range(12):
        true = additive(random)
        answers = paired_answers(true, 60, random)
        smoothed.append(error(grid_accuracies(answers, GRID, random).accuracy_C, true))
        plain.append(error(answers.mean(axis=0), true))
    assert np.mean(smoothed) < 0.75 * np.mean(plain)


@settings(deadline=None, max_examples=5)
@given(seed=SEEDS)
def test_a_grid_without_structure_does_not_mislead(seed: int) -> None:
    random = np.random.default_rng(seed)
    found, plain = [], []
    for _ in range(12):
        true = random.permutation(additive(random))
        answers = paired_answers(true, 120, random)
        found.append(error(grid_accuracies(answers, GRID, random).accuracy_C, true))
        plain.append(error(answers.mean(axis=0), true))
    assert np.mean(found) < 1.1 * np.mean(plain)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, questions=st.integers(2, 12), size=st.integers(1, 27))
def test_any_part_of_a_grid_and_any_answers_give_finite_accuracies_of_the_same_level(
    seed: int, questions: int, size: int
) -> None:
    random = np.random.default_rng(seed)
    configs = [GRID[place] for place in random.permutation(27)[:size]]
    answers = random.integers(0, 2, (questions, size)).astype(float)
    found = grid_accuracies(answers, configs, random)
    assert np.isfinite(found.accuracy_C).all() and np.isfinite(found.std_C).all() and (found.std_C >= 0).all()
    assert found.accuracy_C.mean() == pytest.approx(answers.mean())
    assert smoothed_means(answers, configs).mean() == pytest.approx(answers.mean())


def test_equal_answers_to_all_questions_leave_nothing_to_choose_by() -> None:
    found = grid_accuracies(np.ones((20, 27)), GRID, np.random.default_rng(0))
    assert found.accuracy_C == pytest.approx(np.ones(27))


@pytest.mark.parametrize("answers", [np.ones((1, 27)), np.ones((5, 26)), np.ones(27)])
def test_answers_of_another_shape_are_refused(answers: np.ndarray) -> None:
    with pytest.raises(InvalidValueError, match="two questions or more, each under 27 configurations"):
        grid_accuracies(answers, GRID, np.random.default_rng(0))


def test_a_knob_of_one_value_or_none_has_no_place() -> None:
    dense = [KnobConfig(tier=None, top_k=None, num_active_blocks=blocks) for blocks in (16, 8, 12)]
    assert ordinal_places(dense).tolist() == [[2], [0], [1]]
    assert largest(dense) == 0
    assert ordinal_places(dense[:1]).shape == (1, 0)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_sets_that_differ_only_in_level_do_not_differ_and_those_of_other_order_do(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = additive(random)
    names = ["a"] * 150 + ["b"] * 150
    reversed_too = np.concatenate([paired_answers(true, 150, random), paired_answers(true[::-1], 150, random)])
    assert sets_differ(reversed_too, names, random) <= 0.01
    p = [
        sets_differ(paired_answers(true, 120, random), ["a"] * 60 + ["b"] * 60, random, draws=99) <= 0.01
        for _ in range(10)
    ]
    assert sum(p) <= 3  # each with probability 0.01
    assert sets_differ(reversed_too, ["a"] * 300, random) == 1.0
