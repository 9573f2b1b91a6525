"""The fast engine takes the reference's steps, whatever the load, the rules and the settings, memory running out included.

`benchmarks/simulator.py --equality 1000` compares as many more as one likes.
"""

import pytest
from simulated_loads import differences, random_case

from paceline.errors import PacelineError
from paceline.simulate import RULES, simulate

CASES = 1_200  # of them three in ten run out of memory


def _both(case):
    return [simulate(case.load, case.engine, case.cost, computed_by=engine) for engine in ("fast", "reference")]


@pytest.mark.parametrize("rules", RULES)
def test_both_engines_take_the_same_steps(rules):
    preempting = steps = 0
    for number in range(CASES // len(RULES)):
        case = random_case(number, rules=(rules,))
        fast, reference = _both(case)
        assert differences(fast, reference) == [], f"case {number}"
        preempting += bool(reference.preemptions.sum())
        steps += reference.step_count
    assert preempting > CASES // len(RULES) // 5 and steps > 10_000


@pytest.mark.parametrize("rules", RULES)
def test_times_are_the_same_without_steps_being_recorded(rules):
    for number in range(30):
        case = random_case(number, rules=(rules,))
        recorded, bare = (simulate(case.load, case.engine, case.cost, with_steps=wanted) for wanted in (True, False))
        assert bare.steps is None and differences(bare, recorded) == []


@pytest.mark.parametrize("rules", RULES)
def test_nothing_of_a_step_exceeds_what_the_engine_has(rules):
    for number in range(40):
        case = random_case(number, rules=(rules,))
        run = simulate(case.load, case.engine, case.cost)
        steps, engine = run.steps, case.engine
        assert (steps.decode_tokens + steps.prefill_tokens <= engine.planner.chunk_size).all()
        assert (steps.running <= engine.max_num_seqs).all()
        assert (steps.started_seconds[1:] >= (steps.started_seconds + steps.seconds)[:-1]).all()
        assert (run.completion_seconds >= run.first_token_seconds).all()
        assert (run.first_token_seconds >= run.first_scheduled_seconds).all()
        assert (run.first_scheduled_seconds >= case.load.arrival_seconds).all()
        # every token but the last is computed once, and again after each preemption
        computed = steps.prefill_tokens.sum() + steps.decode_tokens.sum()
        needed = (run.load.prompt_tokens + run.load.output_tokens - 1).sum()
        assert computed == needed if not run.preemptions.any() else computed >= needed


def test_both_engines_end_with_the_same_sentence():
    same = 0
    for number in range(60):
        case = random_case(number)
        tight = type(case.engine)(
            **{name: getattr(case.engine, name) for name in case.engine.__slots__ if name != "num_blocks"},
            num_blocks=max(2, case.engine.num_blocks // 2),
        )
        sentences = []
        for engine in ("fast", "reference"):
            try:
                simulate(case.load, tight, case.cost, computed_by=engine)
                sentences.append("")
            except PacelineError as error:
                sentences.append(str(error))
        assert sentences[0] == sentences[1], f"case {number}"
        same += bool(sentences[0])
    assert same > 10
