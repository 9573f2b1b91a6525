import numpy as np
import pytest
from load_limits import hull, relaxation
from load_scenes import World
from simulated_loads import STEP_TIME
from under_load import MIXED, blind

from paceline.errors import InvalidValueError
from paceline.simulate import LinearCost, StepWork, VaryingCost


def test_a_steps_factor_multiplies_its_time_and_the_last_one_stays():
    plain = LinearCost(STEP_TIME)
    cost, work = VaryingCost(plain, np.array([1.0, 0.5, 2.0])), StepWork(decodes=3, decode_context_tokens=90)
    assert [cost.seconds(step, work) / plain.seconds(step, work) for step in (0, 1, 2, 9)] == [1.0, 0.5, 2.0, 2.0]


@pytest.mark.parametrize("wrong", [[], [1.0, 0.0], [1.0, np.nan], [np.inf]])
def test_factors_that_are_no_times_are_refused(wrong):
    with pytest.raises(InvalidValueError, match="factors"):
        VaryingCost(LinearCost(STEP_TIME), np.array(wrong))


def test_the_front_is_what_an_amount_of_work_is_best_spent_on():
    work, values = np.array([1.0, 2.0, 3.0, 4.0, 0.5]), np.array([0.5, 0.4, 0.8, 0.85, 0.0])
    assert hull(work, values) == [0, 2, 3]


def test_no_run_is_worth_more_than_the_relaxation_of_its_stretch():
    world = World.load(None)  # synthetic arrivals
    t0 = 0.28
    for rate in (2.0, 5.0):
        scene = world.scene(1, requests=150, rate=rate, budgets=MIXED, t0=t0)
        right = world.answers.right[scene.questions]
        most = relaxation(world, scene, right, chunk_size=512)
        limited = np.isfinite(scene.budgets)
        for chosen in (np.full(150, 0), right.argmax(axis=1), blind(world, scene, chunk_size=512, by_request=True)):
            run = world.serve(scene, world.engine("edf", chunk_size=512, t0=t0), chosen)
            kept = run.first_token_seconds - run.load.arrival_seconds <= scene.budgets
            assert (right[np.arange(150), chosen] * kept)[limited].mean() <= most
