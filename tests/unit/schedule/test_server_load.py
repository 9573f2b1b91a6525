import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_loads import STEP_TIME

from paceline.schedule import (
    DecodeLoad,
    LoadCandidate,
    LoadController,
    LoadSettings,
    PlannerSettings,
    PolicyWeights,
    PrefillWork,
    ServerLoad,
    StepLoad,
)
from paceline.schedule.server_load import MILLISECONDS


def new_load(policy="fcfs", *, chunk_size=1, model=MILLISECONDS):
    planner = PlannerSettings(chunk_size=chunk_size, policy=policy, weights=PolicyWeights(no_budget_seconds=5.0))
    return ServerLoad(LoadController(LoadSettings(), planner, model))


def admitted(load, name, seconds, *, now=0.0, budget=None, tokens=100, after=0.0):
    work = load.work_of(tokens, seconds)
    decision = load.decide([LoadCandidate(accuracy=1.0, work=work)], now_seconds=now, ttft_budget_seconds=budget)
    load.admit(name, decision, work, now_seconds=now, after_seconds=after)
    return decision


@pytest.mark.parametrize("model", [MILLISECONDS, STEP_TIME])
@pytest.mark.parametrize("tokens", [1, 100, 513, 3000])
def test_work_takes_alone_what_it_is_said_to(model, tokens):
    load = new_load(chunk_size=1 if model is MILLISECONDS else 512, model=model)
    assert admitted(load, "a", 0.25, tokens=tokens).predicted_seconds == pytest.approx(0.25)


def test_a_prompt_beside_decodes_costs_what_its_configuration_adds_to_a_step():
    """Alone a configuration also saves of the step's fixed cost, which those who decode beside it need whatever it is."""
    base, token = STEP_TIME.base_ms, STEP_TIME.per_prefill_token_ms
    whole = replace(STEP_TIME, per_prefill_attention_token_ms=0.0)
    small = replace(whole, base_ms=0.4 * base, per_prefill_token_ms=0.8 * token)
    planner = PlannerSettings(chunk_size=512)
    load = ServerLoad(LoadController(LoadSettings(), planner, whole), by_configuration={"8_16": whole, "2_8": small})
    tokens, beside = 500, 0.03  # seconds of what is in no step: preprocessing, the vision tower
    alone = (0.4 * base + 0.8 * token * tokens) / 1e3 + beside
    assert load.work_of(tokens, alone).factor < 1.0 + 1e3 * beside / (base + token * tokens)
    work = load.work_of(tokens, alone, configuration="2_8")
    assert work.factor * token * tokens / 1e3 == pytest.approx(0.8 * token * tokens / 1e3 + beside)
    assert load.work_of(tokens, alone, configuration="4_8") == load.work_of(tokens, alone)  # not measured
    quick = load.work_of(tokens, 1e-6, configuration="2_8")  # never less than its tokens add
    assert quick.factor == pytest.approx(0.8)


def test_what_is_ahead_is_worked_off_as_time_passes():
    load = new_load()
    admitted(load, "a", 1.0)
    assert admitted(load, "b", 0.5, now=0.25).predicted_seconds == pytest.approx(1.25)
    assert load.wait_seconds(now_seconds=0.75) == pytest.approx(0.75, abs=0.02)
    load.prefilled("a", now_seconds=0.8)  # earlier than thought
    assert load.wait_seconds(now_seconds=0.8) == pytest.approx(0.5, abs=0.02)
    load.ended("b", now_seconds=0.8)  # went away
    assert load.wait_seconds(now_seconds=0.8) == 0.0
    load.ended("a", now_seconds=0.9)
    assert not len(load) and load.decodes.tokens == 0


@given(st.lists(st.floats(0.0, 0.05), min_size=1, max_size=60), st.integers(1, 300))
def test_what_is_worked_off_does_not_depend_on_how_often_it_is_looked_at(gaps, tokens):
    often, once, now = new_load(), new_load(), 0.0
    for load in (often, once):
        admitted(load, "a", 2.0, tokens=tokens)
        load.started("a", now_seconds=0.0)
    for gap in gaps:
        now += gap
        seen = often.wait_seconds(now_seconds=now)
    assert seen == pytest.approx(once.wait_seconds(now_seconds=now), abs=1.01 * 2.0 / tokens)


def test_under_an_order_by_size_each_candidate_has_its_own_place():
    load = new_load("spf")
    admitted(load, "a", 1.0, tokens=50)
    works = [load.work_of(100, 0.5), load.work_of(10, 0.2)]
    candidates = [LoadCandidate(accuracy=1.0, work=work) for work in works]
    large, small = load.predicted_seconds(candidates, now_seconds=0.0, ttft_budget_seconds=None)
    assert (large, small) == (pytest.approx(1.5), pytest.approx(0.2))


def test_where_one_is_served_at_a_time_nobody_is_computed_before_its_turn():
    load = new_load()
    admitted(load, "a", 1.0)
    admitted(load, "b", 1.0)
    load.started("a", now_seconds=0.0)
    assert load.wait_seconds(now_seconds=3.0) == pytest.approx(1.0, abs=0.02)  # it is late
    load.prefilled("a", now_seconds=3.0)
    assert load.wait_seconds(now_seconds=4.0) == pytest.approx(1.0)  # it answers
    load.ended("a", now_seconds=4.0)
    load.started("b", now_seconds=4.0)
    assert load.wait_seconds(now_seconds=4.5) == pytest.approx(0.5, abs=0.02)


def test_a_first_token_is_waited_for_however_late_it_is():
    load = new_load()
    admitted(load, "a", 0.1)
    assert load.wait_seconds(now_seconds=50.0) > 0
    assert "a" in load.controller.ahead


def test_tight_budgets_pass_under_an_order_by_deadline_and_nobody_passes_one_that_is_served():
    load = new_load("edf")
    admitted(load, "loose", 1.0, budget=4.0)
    assert admitted(load, "tight", 0.1, budget=0.5).predicted_seconds == pytest.approx(0.1)
    single = new_load("edf")
    admitted(single, "loose", 1.0, budget=4.0, after=2.0)
    single.started("loose", now_seconds=0.0)
    assert admitted(single, "tight", 0.1, budget=9.0, now=0.5).predicted_seconds == pytest.approx(2.6, abs=0.02)


def test_where_one_is_served_at_a_time_its_answer_is_waited_for_too():
    load = new_load()
    admitted(load, "a", 1.0, after=3.0)
    admitted(load, "b", 1.0, after=3.0)
    load.started("a", now_seconds=0.0)
    assert load.wait_seconds(now_seconds=0.0) == pytest.approx(8.0)
    load.prefilled("a", now_seconds=1.0)
    assert load.wait_seconds(now_seconds=1.0) == pytest.approx(7.0)
    load.measured("a", 1.0)
    assert load.wait_seconds(now_seconds=2.0) == pytest.approx(6.0)
    assert load.controller.scores.count(None) == 1
    assert load.wait_seconds(now_seconds=20.0) == pytest.approx(4.0)  # it is late, and its end is yet to be seen
    load.ended("a", now_seconds=20.0)
    load.started("b", now_seconds=20.0)
    assert load.wait_seconds(now_seconds=20.5) == pytest.approx(3.5, abs=0.02)


def test_steps_tell_who_was_prefilled_and_how_slow_the_machine_is():
    load = new_load("edf", chunk_size=512, model=STEP_TIME)
    admitted(load, "loose", 0.5, tokens=1000, budget=4.0)
    admitted(load, "tight", 0.5, tokens=1000, budget=1.0)
    step = StepLoad(prefill_tokens=512, prefill_attention_tokens=512 * 256.0)
    seconds = STEP_TIME.predict_ms(step) / 1e3
    load.stepped(prefill_tokens=512, decode_tokens=0, seconds=seconds, now_seconds=0.3)
    assert load.controller.ahead.work_of("tight") == PrefillWork(
        tokens=488, context_tokens=512, factor=load.controller.ahead.work_of("tight").factor
    )
    assert load.controller.ahead.work_of("loose").tokens == 1000
    slow = new_load(chunk_size=512, model=STEP_TIME)
    for number in range(100):
        admitted(slow, number, STEP_TIME.predict_ms(step) / 1e3, tokens=512)
        slow.stepped(prefill_tokens=512, decode_tokens=0, seconds=1.5 * seconds, now_seconds=float(number))
        slow.prefilled(number, now_seconds=float(number))
        slow.ended(number, now_seconds=float(number))
    assert slow.controller.drift.factor == pytest.approx(1.5, rel=0.02)


def test_who_decodes_has_a_token_more_behind_it_at_each_step():
    load = new_load(chunk_size=512, model=STEP_TIME)
    admitted(load, "a", 0.5, tokens=100)
    load.prefilled("a", now_seconds=0.1)
    for step in range(5):
        load.stepped(prefill_tokens=0, decode_tokens=1, seconds=0.01, now_seconds=0.2 + step)
    admitted(load, "b", 0.5, tokens=50)
    load.prefilled("b", now_seconds=6.0)
    assert load.decodes == DecodeLoad(tokens=2, context_tokens=100 + 5 + 50)
    load.stepped(prefill_tokens=0, decode_tokens=2, seconds=0.01, now_seconds=6.1)
    assert load.decodes == DecodeLoad(tokens=2, context_tokens=106 + 51)
    load.ended("a", now_seconds=6.2)
    assert load.decodes == DecodeLoad(tokens=1, context_tokens=51)


def test_a_request_that_was_given_up_is_no_score():
    load = new_load()
    admitted(load, "a", 1.0)
    load.ended("a", now_seconds=0.5)
    load.measured("a", 0.5)
    load.prefilled("a", now_seconds=0.6)
    assert load.controller.scores.count(None) == 0 and not load.controller.awaited and load.decodes.tokens == 0


EVENTS = ("arrives", "prefilled", "measured", "ended", "started", "stepped", "asks")
events = st.lists(
    st.tuples(
        st.sampled_from(EVENTS),
        st.integers(0, 5),  # which request
        st.floats(-5000.0, 5000.0),  # by how much the clock goes on, or jumps
        st.sampled_from([None, 0.01, 0.3, 7.0]),
        st.floats(1e-6, 100.0),
        st.integers(1, 5000),
    ),
    max_size=40,
)


@given(events, st.sampled_from(["fcfs", "edf"]), st.sampled_from([MILLISECONDS, STEP_TIME]), st.booleans())
def test_whatever_a_host_and_its_clock_say_predictions_are_times_and_nothing_is_left(told, policy, model, single):
    host = Host(new_load(policy, chunk_size=1 if model is MILLISECONDS else 256, model=model), 3.0 * single)
    for event, which, forward, budget, seconds, tokens in told:
        host.now += forward
        host.tell(event, which, budget, seconds, tokens)
        assert len(host.load) == len(host.there)
    load = host.load
    for name in host.there.values():
        load.ended(name, now_seconds=host.now)
    assert not len(load) and not len(load.controller.ahead) and not load.controller.awaited
    assert load.decodes.tokens == 0 and load.wait_seconds(now_seconds=host.now) == 0


class Host:
    """Whoever tells a load of its requests, in whatever order, by a clock that may jump."""

    def __init__(self, load, after):
        self.load, self.after = load, after
        self.now, self.count, self.there = 1000.0, 0, {}

    def tell(self, event, which, budget, seconds, tokens):
        load, name, now = self.load, self.there.get(which, "nobody"), {"now_seconds": self.now}
        if event == "arrives":
            load.ended(name, **now)
            self.count += 1
            self.there[which] = self.count
            decision = admitted(load, self.count, seconds, now=self.now, budget=budget, tokens=tokens, after=self.after)
            assert 0 <= decision.predicted_seconds < math.inf
        elif event == "prefilled":
            load.prefilled(name, **now)
        elif event == "measured":
            load.measured(name, seconds)
        elif event == "ended":
            load.ended(name, **now)
            self.there.pop(which, None)
        elif event == "started" and self.after:
            load.started(name, **now)
        elif event == "stepped":
            load.stepped(prefill_tokens=tokens, decode_tokens=which, seconds=seconds, **now)
        else:
            assert 0 <= load.wait_seconds(ttft_budget_seconds=budget, **now) < math.inf
