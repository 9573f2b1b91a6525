"""Random loads on vLLM's own scheduler class in virtual time: what must hold for every one of them.

`benchmarks/scheduler_invariants.py` runs the same over thousands.
"""

from collections import Counter
from dataclasses import replace

import pytest
from random_loads import POLICIES, Engines, random_load, random_settings, serve

from paceline.vllm_plugin import scheduler, stock

IMAGE_LOADS, TEXT_LOADS, EQUAL_LOADS = 320, 80, 160


@pytest.fixture(scope="module")
def engines(tiny_llm):
    return Engines(str(tiny_llm))


@pytest.mark.parametrize(("with_images", "count"), [(True, IMAGE_LOADS), (False, TEXT_LOADS)])
def test_every_request_ends_no_two_steps_are_empty_and_nothing_is_left_behind(engines, with_images, count):
    empty = steps = 0
    for number in range(count):
        load = random_load(number, with_images=with_images)
        served = serve(load, engines, scheduler, paceline=random_settings(number, load.step_tokens))
        assert served.violations() == [], f"load {number}"
        empty, steps = empty + served.idle, steps + len(served.executed)
    assert empty <= steps / 500  # a plan that is refused as a whole costs a step: foresight keeps that rare


# what stopped for ever, or stood still for hundreds of steps, before plans knew the encoder's cache
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("number", [25, 77, 83, 110, 135, 154, 184, 191, 233, 311])
def test_loads_that_stood_still_make_progress(engines, number, policy):
    served = serve(random_load(number), engines, scheduler, paceline={"policy": policy})
    assert served.violations() == [] and served.idle == 0


def test_first_come_first_served_takes_vllms_steps_for_texts(engines):
    preempted = in_flight = 0
    for number in range(EQUAL_LOADS):
        load = random_load(number, with_images=False).with_distinct_texts()
        ours, theirs = (serve(load, engines, build) for build in (scheduler, stock))
        assert ours.steps == theirs.steps, f"load {number}"
        preempted += any(step.preempted for step in ours.engine.steps)
        in_flight += load.in_flight > 1
    assert preempted and in_flight  # with memory running out, and with steps in flight, too


def test_first_come_first_served_takes_vllms_steps_for_images_where_the_encoder_has_room(engines):
    for number in range(EQUAL_LOADS):
        load = random_load(number).with_distinct_texts()
        wide = replace(load.encoder, compute_embeds=10_000, cache_embeds=10_000)
        load = replace(load, encoder=wide, blocks=1000)
        assert serve(load, engines, scheduler).steps == serve(load, engines, stock).steps, f"load {number}"


def test_first_come_first_served_needs_no_more_steps_than_vllm_where_the_encoder_has_none(engines):
    steps, equal = Counter(), 0
    for number in range(EQUAL_LOADS):
        load = random_load(number).with_distinct_texts()
        ours, theirs = (serve(load, engines, build) for build in (scheduler, stock))
        steps["ours"] += len(ours.executed)
        steps["theirs"] += len(theirs.executed)
        equal += ours.executed == theirs.executed
    assert steps["ours"] <= 1.01 * steps["theirs"]
    assert equal >= 0.8 * EQUAL_LOADS  # they part only where an earlier prompt waits for its image beside decodes


@pytest.mark.parametrize("policy", POLICIES)
def test_a_wall_clock_that_is_set_back_changes_nothing(engines, policy):
    for number in range(20):
        load = random_load(number)
        steady, jumping = (
            serve(load, engines, scheduler, paceline={"policy": policy}, wall=wall)
            for wall in (float, lambda step: step - 600.0 * (step > 5))
        )
        assert steady.steps == jumping.steps


def test_first_come_is_the_order_of_queueing_whatever_the_front_end_stamped(engines):
    # preprocessing and several front ends: a request may arrive before another and be queued after it
    load = random_load(3).with_distinct_texts()
    theirs = serve(load, engines, stock)
    for wall in (lambda step: -float(step), lambda step: float((7919 * step) % 101)):
        assert serve(load, engines, scheduler, wall=wall).steps == theirs.steps
