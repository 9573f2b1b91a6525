"""Learned controllers in an evaluation: stand-ins of a known rule, on synthetic samples with request vectors."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from evaluated_controllers import RuledBySight, synthetic_samples_with_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_models import token_linear

from paceline.control.controller import Controller
from paceline.control.estimated import BoundController
from paceline.errors import InvalidValueError
from paceline.evaluate import Evaluation, evaluate, evaluation_document
from paceline.evaluate.choices import choices_of, oracle_choices
from paceline.evaluate.figures import decision_times
from paceline.evaluate.knob_shares import knob_shares, knob_values
from paceline.evaluate.names import BOUND, ORACLE, ORACLE_WITHIN_BOUND, SCALED_TABLE, scaled_table_for
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds
from paceline.profiles import Profile, Split, split_samples
from paceline.profiles.request_features import RequestVectors, request_vectors
from paceline.profiles.requests import measured_requests
from paceline.records import KnobConfig

SOURCE = Path("synthetic")
BUDGETS_MS = (5.0, 16.0, 25.0, 40.0, 1000.0)
SAMPLES = synthetic_samples_with_vectors(240)
PARTS = split_samples(SAMPLES, Split(seed=4))
VECTORS = request_vectors(PARTS.test, SOURCE)
BOUNDS = calibrate_bounds(token_linear(), PARTS)
BOUND_CONTROLLER = BoundController(model=token_linear(), bounds=BOUNDS)


def candidates() -> dict[str, Controller]:
    profile = Profile(samples=SAMPLES, provenance=(), source=SOURCE, left_out=())
    return {"table": table_candidates(profile, PARTS)["table"], **estimator_candidates(token_linear(), BOUNDS)}


CANDIDATES = candidates()


def chosen_by(seed: int):
    """A rule without sense: which of the fitting configurations follows from seed, budget and vector alone."""

    def pick(budget_ms: float, vector: tuple[float, ...], fitting: Sequence[KnobConfig]) -> KnobConfig:
        return fitting[
            np.random.default_rng([seed, int(budget_ms), *(round(1e6 * abs(x)) for x in vector)]).integers(len(fitting))
        ]

    return pick


def judged(pick=None, *, refuses: bool = False, name: str = "grpo", vectors: RequestVectors = VECTORS) -> Evaluation:
    learned = RuledBySight(bound=BOUND_CONTROLLER, pick=pick or chosen_by(0), refuses=refuses)
    return evaluate(PARTS.test, {**CANDIDATES, name: learned}, budgets_ms=BUDGETS_MS, vectors=vectors)


def best_first() -> dict[tuple[float, ...], list[KnobConfig]]:
    """By vector, the configurations in the order of hindsight: the most accurate, then the faster."""
    rows = PARTS.test.with_columns(ms=pl.col("T_vision_total") + pl.col("T_LLM_prefill"))
    ordered = rows.sort(["accuracy", "ms"], descending=[True, False])
    found: dict[tuple[float, ...], list[KnobConfig]] = {}
    for (_, name), vector in zip(VECTORS.names, VECTORS.vectors_RF.tolist(), strict=True):
        of_request = ordered.filter(pl.col("sample_id") == name)
        found[tuple(vector)] = [
            KnobConfig(**row) for row in of_request.select("tier", "top_k", "num_active_blocks").iter_rows(named=True)
        ]
    return found


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_nobody_who_keeps_to_the_bounds_beats_the_oracle_within_them(seed):
    found = judged(chosen_by(seed))
    rows = zip(found.controllers["grpo"], found.controllers[BOUND], found.controllers[ORACLE_WITHIN_BOUND], strict=True)
    for learned, bound, best in rows:
        assert max(learned.accuracy.mean, bound.accuracy.mean) <= best.accuracy.mean + 1e-12
        assert best.none_fit == bound.none_fit


def test_the_oracle_within_the_bound_is_the_best_of_what_fits_and_recovers_all():
    ordered = best_first()

    def pick(_budget_ms: float, vector: tuple[float, ...], fitting: Sequence[KnobConfig]) -> KnobConfig:
        return next(config for config in ordered[vector] if config in fitting)

    found = judged(pick)
    for learned, oracle in zip(found.controllers["grpo"], found.controllers[ORACLE_WITHIN_BOUND], strict=True):
        assert (learned.configs, learned.accuracy, learned.adherence) == (
            oracle.configs,
            oracle.accuracy,
            oracle.adherence,
        )
    recovered = {(each.base, each.best): each for each in found.learned["grpo"].recovered}
    within = recovered[BOUND, ORACLE_WITHIN_BOUND].overall
    assert within is not None and within.interval is not None
    assert (within.share, within.interval.low, within.interval.high) == pytest.approx((1, 1, 1))


def test_the_bounds_own_choices_recover_nothing_and_keep_as_many_budgets():
    def first(_budget_ms: float, _vector: tuple[float, ...], fitting: Sequence[KnobConfig]) -> KnobConfig:
        return fitting[0]

    found = judged(first).learned["grpo"]
    within = next(each for each in found.recovered if each.base == BOUND).overall
    assert within is not None and within.share == 0.0 and within.gain.difference == 0.0
    assert found.adherence_minus_bound is not None
    assert (found.adherence_minus_bound.difference, found.adherence_minus_bound.interval.high) == (0.0, 0.0)


def test_a_table_is_scaled_to_the_learned_controllers_own_adherence():
    found = judged()
    own = found.learned["grpo"].scaled_table
    assert own is not None and found.scaled_table is not None
    scaled, learned = found.controllers[scaled_table_for("grpo")], found.controllers["grpo"]
    for place, reached in enumerate(own.reached):
        if reached:
            assert scaled[place].adherence.successes >= learned[place].adherence.successes
        expected = scaled[place].accuracy.mean - learned[place].accuracy.mean
        assert own.prices[place].difference == pytest.approx(expected)
        headline = found.learned["grpo"].recovered[0]
        assert headline.budgets[place].gain.difference == pytest.approx(-expected)
        distance = found.controllers[ORACLE][place].accuracy.mean - scaled[place].accuracy.mean
        assert headline.budgets[place].distance == pytest.approx(distance)
    assert SCALED_TABLE in found.controllers  # that of the bound, as without learned controllers


def test_refused_decisions_are_counted():
    found = judged(refuses=True)
    learned, bound = found.controllers["grpo"], found.controllers[BOUND]
    assert [row.refused for row in learned] == [found.num_requests - row.none_fit for row in bound]
    assert [row.refused for row in judged().controllers["grpo"]] == [0] * len(BUDGETS_MS)
    assert all(row.refused == 0 for row in bound)
    rows = found.controllers["grpo"]
    learned = evaluation_document(found)["learned"]["grpo"]
    assert learned["refused"] == sum(row.refused for row in rows)
    assert learned["decisions"] == len(BUDGETS_MS) * found.num_requests


def test_figures_by_question_set_add_up():
    found = judged()
    sizes = {name: sum(dataset == name for dataset, _ in VECTORS.names) for name in {d for d, _ in VECTORS.names}}
    for rows in found.controllers.values():
        for row in rows:
            assert {name: sum(counts.values()) for name, counts in row.configs_by_dataset.items()} == sizes
            summed: dict[str, int] = {}
            for counts in row.configs_by_dataset.values():
                for key, count in counts.items():
                    summed[key] = summed.get(key, 0) + count
            assert summed == row.configs
            mean = sum(sizes[name] * each for name, each in row.accuracy_by_dataset.items()) / sum(sizes.values())
            assert mean == pytest.approx(row.accuracy.mean)


def test_knob_shares_are_those_of_all_budgets():
    rows = judged().controllers["grpo"]
    shares = knob_shares(rows)
    assert [each.dataset for each in shares] == ["synthetic_one", "synthetic_two"]
    for each in shares:
        low = sum(count for row in rows for key, count in row.configs_by_dataset[each.dataset].items() if "low" in key)
        assert each.decisions == sum(sum(row.configs_by_dataset[each.dataset].values()) for row in rows)
        named = {value.words: share for value, share in each.shares.items()}
        assert named["tier low"] == pytest.approx(low / each.decisions)
        assert named["4 experts"] == 1
        assert named["8 blocks"] + named["16 blocks"] == pytest.approx(1)
    assert [value.words for value in knob_values(shares)] == [
        "tier low",
        "tier high",
        "4 experts",
        "8 blocks",
        "16 blocks",
    ]


def test_vectors_reach_the_controllers_whole_and_in_order():
    seen: list[tuple[float, ...]] = []

    def look(_budget_ms: float, vector: tuple[float, ...], fitting: Sequence[KnobConfig]) -> KnobConfig:
        seen.append(vector)
        return fitting[0]

    judged(look)
    assert seen[-len(VECTORS.names) :] == [tuple(row) for row in VECTORS.vectors_RF.tolist()]


def test_without_vectors_a_controller_that_needs_them_says_so():
    learned = RuledBySight(bound=BOUND_CONTROLLER, pick=chosen_by(0))
    with pytest.raises(InvalidValueError, match="picture"):
        evaluate(PARTS.test, {"grpo": learned}, budgets_ms=(1000.0,))


def test_vectors_of_other_requests_are_refused():
    others = replace(VECTORS, names=VECTORS.names[::-1])
    with pytest.raises(InvalidValueError, match="request vectors"):
        judged(vectors=others)
    with pytest.raises(InvalidValueError, match="request vectors"):
        judged(vectors=request_vectors(PARTS.fit, SOURCE))


def test_requests_that_are_left_out_take_their_vectors_along():
    gap = (pl.col("sample_id") == PARTS.test["sample_id"][0]) & (pl.col("num_active_blocks") == 8)
    test = PARTS.test.filter(~gap)
    seen: list[tuple[float, ...]] = []

    def look(_budget_ms: float, vector: tuple[float, ...], fitting: Sequence[KnobConfig]) -> KnobConfig:
        seen.append(vector)
        return fitting[0]

    learned = RuledBySight(bound=BOUND_CONTROLLER, pick=look)
    found = evaluate(test, {"grpo": learned}, budgets_ms=(1000.0,), vectors=request_vectors(test, SOURCE))
    complete = [
        row
        for name, row in zip(VECTORS.names, VECTORS.vectors_RF.tolist(), strict=True)
        if name[1] != PARTS.test["sample_id"][0]
    ]
    assert found.incomplete == 1
    assert seen == [tuple(row) for row in complete]


def test_a_decision_takes_as_long_as_the_clock_says():
    requests = measured_requests(PARTS.test, pl.col("T_total"))
    ticks = iter(range(0, 10**9, 1500))
    choices = choices_of("bound", BOUND_CONTROLLER, requests, BUDGETS_MS, clock_ns=lambda: next(ticks))
    times = decision_times(choices)
    assert times is not None
    assert (times.mean_us, times.median_us, times.p95_us) == (1.5, 1.5, 1.5)
    assert decision_times(oracle_choices(requests, BUDGETS_MS)) is None


def test_decisions_are_timed_for_what_decides_alone():
    found = judged()
    assert set(found.decision_times) == {*CANDIDATES, "grpo"}
    for times in found.decision_times.values():
        assert times.count == len(BUDGETS_MS) * found.num_requests
        assert 0 < times.median_us <= times.p95_us


def test_the_document_of_a_learned_controller_is_json_with_its_keys():
    found = judged(name="supervised_second")
    document = json.loads(json.dumps(evaluation_document(found), allow_nan=False))
    learned = document["learned"]["supervised_second"]
    assert [(each["from"], each["to"]) for each in learned["recovered"]] == [
        ("table_equal_adherence_supervised_second", "oracle"),
        ("bound", "oracle_within_bound"),
        ("table", "oracle"),
    ]
    for each in learned["recovered"]:
        assert {"share", "share_ci", "gain", "distance"} == set(each["overall"])
        assert len(each["budgets"]) == len(BUDGETS_MS)
        assert each["budgets_counted"] == sum(row["counted"] for row in each["budgets"])
    assert {"adherence", "adherence_ci"} == set(learned["adherence_minus_bound"])
    row = document["controllers"]["supervised_second"][0]
    assert {"refused", "configs_by_dataset", "accuracy_by_dataset"} <= set(row)
    assert set(document["decision_us"]["bound"]) == {"mean_us", "median_us", "p95_us", "count"}
