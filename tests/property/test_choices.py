"""Requests with candidates: both engines show a chooser the same state, and serve what it chooses in the same steps."""

from dataclasses import fields, replace
from random import Random

import numpy as np
import pytest
from simulated_loads import differences, random_case

from paceline.errors import InvalidValueError
from paceline.schedule import PrefillChunk
from paceline.simulate import (
    ROUTERS,
    RULES,
    ArrivingRequest,
    Candidate,
    Choices,
    EngineState,
    LinearCost,
    PromptColumns,
    ReplayedCost,
    StepWork,
    simulate,
    simulate_replicas,
)

CASES = 40


def clocked_case(number, rules):
    """A random case whose step times depend on the work: a log's do not."""
    while True:
        case = random_case(number, rules=(rules,))
        if not isinstance(case.cost, ReplayedCost):
            return case
        number += 1000


def random_candidates(case):
    random = Random(f"candidates {case.number}")
    return [
        [
            Candidate(
                prompt_tokens=random.randint(1, request.prompt_tokens),
                prefill_factor=random.choice([1.0, 1.0, 0.5, random.uniform(0.1, 3)]),
            )
            for _ in range(random.randint(1, 4))
        ]
        for request in case.requests
    ]


def numbers(state, request):
    """Everything that a chooser can see, as plain numbers."""
    seen = [
        state.now_seconds,
        state.ready_seconds,
        state.decodes.tokens,
        state.decodes.context_tokens,
        state.free_blocks,
    ]
    for prompts in (state.partial, state.waiting):
        seen += [getattr(prompts, each.name).tolist() for each in fields(PromptColumns)]
    seen += [repr(state.progress.first_token_seconds(number)) for number in range(request.number)]
    for first in (0, 3):
        executed = state.progress.executed(first)
        seen += [getattr(executed, each.name).tolist() for each in fields(executed)]
    return seen


def chooser(seen):
    def choose(state: EngineState, request: ArrivingRequest) -> int:
        seen.append(numbers(state, request))
        work = state.decodes.context_tokens + int(state.waiting.remaining_tokens.sum()) + request.index
        return work % len(request.candidates)

    return choose


@pytest.mark.parametrize("rules", RULES)
def test_both_engines_show_and_serve_the_same(rules):
    waiting = partial = chosen_factors = 0
    for number in range(CASES):
        case = clocked_case(number, rules)
        candidates = random_candidates(case)
        runs, seen = [], []
        for engine in ("fast", "reference"):
            seen.append([])
            choices = Choices(candidates=candidates, choose=chooser(seen[-1]))
            runs.append(simulate(case.load, case.engine, case.cost, computed_by=engine, choices=choices))
        assert seen[0] == seen[1], f"case {number}"
        assert differences(*runs) == [] and np.array_equal(runs[0].chosen, runs[1].chosen), f"case {number}"
        served = [of[index] for of, index in zip(candidates, runs[0].chosen, strict=True)]
        assert runs[0].load.prompt_tokens.tolist() == [each.prompt_tokens for each in served]
        assert runs[0].load.factors.tolist() == [each.prefill_factor for each in served]
        # what a chooser made of a load is a load: served without choices it takes the same steps
        assert differences(simulate(runs[0].load, case.engine, case.cost), runs[0]) == []
        waiting += sum(len(each[13]) for each in seen[0])
        partial += sum(len(each[5]) for each in seen[0])
        chosen_factors += sum(each.prefill_factor != 1 for each in served)
    assert waiting > 500 and partial > 30 and chosen_factors > 300


@pytest.mark.parametrize("router", ROUTERS)
def test_both_engines_choose_alike_behind_a_router(router):
    for number in range(12):
        case = clocked_case(number, RULES[number % 3])
        candidates = random_candidates(case)
        fast, reference = (
            simulate_replicas(
                case.load,
                case.engine,
                case.cost,
                replicas=3,
                router=router,
                computed_by=engine,
                choices=Choices(candidates=candidates, choose=chooser([])),
            )
            for engine in ("fast", "reference")
        )
        for one, other in zip(fast, reference, strict=True):
            assert np.array_equal(one.requests, other.requests) and np.array_equal(one.run.chosen, other.run.chosen)
            assert differences(one.run, other.run) == []
            # one engine alone, with the same choices, does the same
            alone = simulate(one.run.load, case.engine, case.cost)
            assert differences(alone, one.run) == []


@pytest.mark.parametrize("rules", ["vllm", "paceline"])  # a victim of Vidur's rules decodes the rest of its prompt
def test_the_state_is_what_the_run_was_doing(rules):
    """Held to the finished run: who waited, what had been computed, what had a first token, by each arrival."""
    for number in range(10):
        case = clocked_case(number, rules)
        states = []

        def first(state, request, states=states):
            executed = state.progress.executed(0)
            states.append(
                (state, executed, [state.progress.first_token_seconds(each) for each in range(request.number)])
            )
            return 0

        candidates = [[Candidate(prompt_tokens=request.prompt_tokens)] for request in case.requests]
        run = simulate(
            case.load,
            case.engine,
            case.cost,
            choices=Choices(candidates=candidates, choose=first),
            computed_by="reference",
        )
        ends = run.steps.started_seconds + run.steps.seconds
        for index, (state, executed, first_tokens) in enumerate(states):
            arrival = case.requests[index].arrival_seconds
            assert state.now_seconds == arrival
            begun = int((run.steps.started_seconds < arrival).sum())
            ready = max(arrival, ends[begun - 1]) if begun else arrival
            # those who came during the step are received once it has ended
            assert ready <= state.ready_seconds <= ready + (len(state.waiting) + 1e-9) * case.cost.request_seconds
            assert len(executed) == (ends <= arrival).sum()
            assert executed.prefill_tokens.tolist() == run.steps.prefill_tokens[: len(executed)].tolist()
            known = [seconds if seconds <= arrival else np.nan for seconds in run.first_token_seconds[:index]]
            np.testing.assert_array_equal(first_tokens, known)
            held = set(state.partial.number.tolist()) | set(state.waiting.number.tolist())
            assert held == {
                each
                for each in range(index)
                if not np.isfinite(run.completion_seconds[each]) or run.completion_seconds[each] > state.ready_seconds
            } - set(_decoding(run, begun, index))


def _decoding(run, begun, index):
    """Requests that had no tokens left to prefill after the first `begun` steps."""
    missing = dict(enumerate(run.load.prompt_tokens[:index].tolist()))
    computed = dict.fromkeys(missing, 0)
    generated = dict.fromkeys(missing, 0)
    chunks = run.steps.chunk_offsets
    for step, decoding in zip(range(begun), run.steps.decoding(), strict=False):
        for each in run.steps.preempted_request[
            run.steps.preempted_offsets[step] : run.steps.preempted_offsets[step + 1]
        ]:
            computed[int(each)] = 0
        for each in decoding:
            computed[each] += 1
            generated[each] += 1
        for at in range(chunks[step], chunks[step + 1]):
            request = int(run.steps.chunk_request[at])
            computed[request] = int(run.steps.chunk_context_tokens[at] + run.steps.chunk_tokens[at])
            generated[request] += computed[request] >= run.load.prompt_tokens[request] + generated[request]
    return [
        each
        for each in missing
        if generated[each] and computed[each] == run.load.prompt_tokens[each] + generated[each] - 1
    ]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_factors_scale_what_chunks_add(factor):
    for number in range(12):
        case = clocked_case(3 * number, "vllm")
        count = len(case.requests)
        load = replace(case.load, prefill_factor=np.full(count, factor))
        run = simulate(load, case.engine, case.cost)
        steps = run.steps
        for step in range(len(steps)):
            chunks = [
                PrefillChunk(tokens=int(steps.chunk_tokens[at]), context_tokens=int(steps.chunk_context_tokens[at]))
                for at in range(steps.chunk_offsets[step], steps.chunk_offsets[step + 1])
            ]
            if not chunks or not isinstance(case.cost, LinearCost):
                continue
            decodes = {
                "decodes": int(steps.decode_tokens[step]),
                "decode_context_tokens": int(steps.decode_context_tokens[step]),
            }
            whole = case.cost.seconds(step, StepWork(**decodes, chunks=chunks))
            alone = case.cost.seconds(step, StepWork(**decodes)) if decodes["decodes"] else 0.0
            assert steps.seconds[step] == pytest.approx(alone + factor * (whole - alone), rel=1e-12)


def test_factors_of_one_change_no_bit():
    for number in range(12):
        case = clocked_case(number, RULES[number % 3])
        ones = replace(case.load, prefill_factor=np.ones(len(case.requests)))
        for engine in ("fast", "reference"):
            plain, same = (simulate(load, case.engine, case.cost, computed_by=engine) for load in (case.load, ones))
            assert differences(plain, same) == [] and np.array_equal(plain.steps.seconds, same.steps.seconds)
            assert same.load.prefill_factor is None


def test_what_cannot_be_chosen_is_refused():
    case = clocked_case(0, "vllm")
    candidates = [[Candidate(prompt_tokens=5)] for _ in case.requests]

    def served(candidates, chosen=0, cost=case.cost):
        choices = Choices(candidates=candidates, choose=lambda _state, _request: chosen)
        return simulate(case.load, case.engine, cost, choices=choices)

    with pytest.raises(
        InvalidValueError, match="choice for request 0 is 1; expected the index of one of its 1 candidates"
    ):
        served(candidates, chosen=1)
    with pytest.raises(InvalidValueError, match="number of candidates is 1; expected"):
        served(candidates[:1])
    with pytest.raises(InvalidValueError, match=r"candidates\[0\] is \[\]; expected at least one way"):
        served([[], *candidates[1:]])
    log = ReplayedCost(closed_seconds=np.zeros(9), started_seconds=np.zeros(9), execute_seconds=np.ones(9))
    with pytest.raises(InvalidValueError, match="expected none with a replayed log"):
        served(candidates, cost=log)
    with pytest.raises(InvalidValueError, match="expected none with a replayed log"):
        simulate(replace(case.load, prefill_factor=np.ones(len(case.requests))), case.engine, log)
    with pytest.raises(InvalidValueError, match=r"prefill_factor\[1\] is 0\.0; expected a finite number above 0"):
        replace(case.load, prefill_factor=np.array([1.0, 0.0, *[1.0] * (len(case.requests) - 2)]))
    with pytest.raises(InvalidValueError, match="prefill_factor is nan"):
        Candidate(prompt_tokens=5, prefill_factor=float("nan"))
    with pytest.raises(InvalidValueError, match="prompt_tokens is 0"):
        Candidate(prompt_tokens=0)
