import math
from dataclasses import replace

import numpy as np
import pytest
from simulated_loads import STEP_TIME

from paceline.control.work_price import PriceSettings
from paceline.errors import InvalidValueError
from paceline.schedule import (
    DecodeLoad,
    LoadCandidate,
    LoadController,
    LoadSettings,
    PlannerSettings,
    PolicyWeights,
    PrefillWork,
    StepLoad,
)
from paceline.simulate import Candidate, Choices, LinearCost, LoadChooser, RequestColumns, SimulatedEngine, simulate

EDF = PlannerSettings(chunk_size=256, policy="edf", weights=PolicyWeights(no_budget_seconds=5.0))
SMALL, LARGE = PrefillWork(tokens=100), PrefillWork(tokens=1000)
CANDIDATES = [LoadCandidate(accuracy=0.9, work=LARGE), LoadCandidate(accuracy=0.6, work=SMALL)]
NOBODY = DecodeLoad(tokens=0, context_tokens=0)


def decided(controller, budget, *, now=0.0, candidates=CANDIDATES):
    return controller.decide(
        candidates, arrival_seconds=now, ready_seconds=now, ttft_budget_seconds=budget, decodes=NOBODY
    )


PLAIN = LoadSettings()


def calibrated(settings=PLAIN, *, ratio=1.0, budgets=(None, 0.05, 0.1, 0.2, 1.0)):
    controller = LoadController(settings, EDF, STEP_TIME)
    for budget in budgets:
        for _ in range(20):
            controller.scores.observe(controller.kind(budget), measured_seconds=ratio, predicted_seconds=1.0)
    return controller


def test_nothing_is_promised_while_cold_and_it_says_so():
    controller = LoadController(LoadSettings(), EDF, STEP_TIME)
    for number in range(12):
        decision = decided(controller, 1.0, now=float(number))
        assert decision.promised == (number >= 9)
        if number < 9:
            assert (decision.unpromised, decision.bound_seconds) == ("cold", None)
        controller.admit(number, decision, LARGE, arrival_seconds=float(number), ready_seconds=float(number))
        controller.finished(number, number + decision.predicted_seconds)


def test_a_bound_that_does_not_fit_gives_way_to_a_smaller_configuration():
    assert decided(calibrated(), 0.1).chosen == 0
    assert decided(calibrated(ratio=1.6), 0.1).chosen == 1  # predicted 65 ms, bounded by 104


def test_relegation_is_by_the_point_estimate_never_by_the_bound():
    fastest = decided(calibrated(), 1.0, candidates=CANDIDATES[1:]).predicted_seconds
    wide = calibrated(ratio=30.0, budgets=(None, fastest))
    kept = decided(wide, 1.01 * fastest)
    assert (kept.unpromised, kept.ttft_budget_seconds, kept.chosen) == ("none_fit", 1.01 * fastest, 1)
    late = decided(wide, 0.99 * fastest)
    assert (late.unpromised, late.ttft_budget_seconds, late.chosen) == ("relegated", None, 1)
    stays = decided(calibrated(LoadSettings(relegates=False)), 0.99 * fastest)
    assert stays.ttft_budget_seconds == 0.99 * fastest and not stays.promised


def test_who_is_late_anyway_gets_the_least_work_though_more_would_stand_in_a_step_as_long():
    controller = calibrated()
    behind = PrefillWork(tokens=1000, factor=5.0)  # fills up the step of whoever stands before it
    first = decided(controller, 1.0, candidates=[LoadCandidate(accuracy=0.9, work=behind)])
    controller.admit("behind", first, behind, arrival_seconds=0.0, ready_seconds=0.0)
    works = [PrefillWork(tokens=250), PrefillWork(tokens=100)]
    larger, smaller = (
        decided(controller, 0.5, candidates=[LoadCandidate(accuracy=0.5, work=work)]).predicted_seconds
        for work in works
    )
    assert larger < smaller
    late = decided(controller, 0.9 * larger, candidates=[LoadCandidate(accuracy=0.5, work=work) for work in works])
    assert (late.unpromised, late.chosen, late.is_least) == ("relegated", 1, True)
    most = decided(calibrated(), 1.0)
    assert (most.chosen, most.is_least) == (0, False)
    assert not decided(calibrated(), 1.0, candidates=CANDIDATES[1:]).is_least  # it had no choice


def test_a_request_does_not_take_the_time_that_was_promised_to_those_behind_it():
    controller = calibrated()
    first = decided(controller, 0.15)
    assert first.chosen == 0 and first.promised
    controller.admit("first", first, LARGE, arrival_seconds=0.0, ready_seconds=0.0)
    # due earlier, so before it; the large configuration fits its own budget and would make the first late
    second = decided(controller, 0.1, now=0.04)
    assert second.chosen == 1 and second.promised
    selfish = calibrated(LoadSettings(keeps_promises=False))
    selfish.admit("first", first, LARGE, arrival_seconds=0.0, ready_seconds=0.0)
    assert decided(selfish, 0.1, now=0.04).chosen == 0


def test_a_request_without_a_budget_pays_the_price_and_is_promised_nothing():
    free = decided(calibrated(), None)
    assert (free.chosen, free.unpromised, free.ttft_budget_seconds) == (0, "no_budget", None)
    dear = LoadSettings(price=PriceSettings(floor=10.0))
    assert decided(calibrated(dear), None).chosen == 1


def test_a_burst_is_paid_for_by_those_who_come_soon_and_by_nobody_after_a_pause():
    controller = calibrated(LoadSettings(price=PriceSettings(step=50.0, share=0.5)))
    for name in range(8):
        decision = decided(controller, None)
        controller.admit(name, decision, LARGE, arrival_seconds=0.0, ready_seconds=0.0)
    for name in range(8):
        controller.finished(name, 0.1)
    soon, later = decided(controller, None, now=0.01), decided(controller, None, now=60.0)
    assert soon.chosen == 1 and soon.price_per_second > 5
    assert later.chosen == 0 and later.price_per_second == controller.price_at(60.0) == 0
    assert decided(controller, 0.001, now=60.0).price_per_second == 0  # relegated
    assert decided(controller, None, now=0.01) == soon  # nobody was admitted: nothing has changed


def test_drift_from_steps_reaches_the_next_prediction():
    controller = calibrated()
    before = decided(controller, 1.0).predicted_seconds
    load = StepLoad(prefill_tokens=256, prefill_attention_tokens=256 * 128.0)
    for _ in range(100):
        controller.stepped(load, 1.2 * 0.5 * STEP_TIME.predict_ms(load) / 1e3, factor=0.5)
    assert decided(controller, 1.0).predicted_seconds == pytest.approx(1.2 * before, rel=0.01)


def test_an_accuracy_counts_times_the_chance_that_it_comes_in_time():
    close = [LoadCandidate(accuracy=0.9, work=LARGE), LoadCandidate(accuracy=0.8, work=SMALL)]
    near = 1.1 * decided(calibrated(), 1.0, candidates=close[:1]).predicted_seconds

    def chosen(settings, candidates, *, late):
        controller = LoadController(settings, EDF, STEP_TIME)
        for number in range(100):  # some took 1.5 times what was predicted
            ratio = 1.5 if number % 10 < late else 1.0
            controller.scores.observe(controller.kind(near), measured_seconds=ratio, predicted_seconds=1.0)
        decision = decided(controller, near, candidates=candidates)
        return decision.chosen, decision.unpromised

    plain = {"alpha": 0.3, "weighs_chances": False}
    assert chosen(LoadSettings(**plain), close, late=2) == (0, None)
    assert chosen(LoadSettings(alpha=0.3), close, late=2) == (1, None)  # 0.9 * 0.79 is less than 0.8 * 0.99
    # where nothing is bounded by the budget, the chance decides, and not the time alone
    slow = [LoadCandidate(accuracy=0.9, work=LARGE), LoadCandidate(accuracy=0.6, work=PrefillWork(tokens=950))]
    assert chosen(LoadSettings(alpha=0.1), slow, late=4) == (0, "none_fit")
    assert chosen(LoadSettings(alpha=0.1, weighs_chances=False), slow, late=4) == (1, "none_fit")


def test_no_candidates_are_refused():
    with pytest.raises(InvalidValueError, match="candidates"):
        decided(calibrated(), 1.0, candidates=[])


def overload(seed, *, requests=300, gap=0.03):
    numbers = np.random.default_rng(seed)
    load = RequestColumns(
        arrival_seconds=np.cumsum(numbers.exponential(gap, requests)),
        prompt_tokens=np.full(requests, 1000),
        output_tokens=numbers.integers(1, 30, requests),
        ttft_budget_seconds=numbers.choice([0.06, 0.15, 0.4, math.inf], requests),
    )
    ways = [
        Candidate(prompt_tokens=tokens, prefill_factor=factor) for tokens in (1000, 400, 100) for factor in (1.0, 0.6)
    ]
    accuracies = np.tile([0.95, 0.9, 0.85, 0.8, 0.7, 0.6], (requests, 1))
    return load, [ways] * requests, accuracies


def served(seed, settings, *, computed_by="fast"):
    load, candidates, accuracies = overload(seed)
    engine = SimulatedEngine(rules="paceline", planner=EDF, max_num_seqs=64, num_blocks=9000, target_model=STEP_TIME)
    chooser = LoadChooser(LoadController(settings, EDF, STEP_TIME), accuracies)
    run = simulate(
        load,
        engine,
        LinearCost(STEP_TIME),
        computed_by=computed_by,
        choices=Choices(candidates=candidates, choose=chooser),
    )
    return load, run, chooser.decisions


PRICED = LoadSettings(price=PriceSettings(floor=1.0, step=1.0, share=0.5))


def test_both_engines_lead_to_the_same_decisions():
    fast, reference = (served(1, PRICED, computed_by=engine) for engine in ("fast", "reference"))
    assert fast[2] == reference[2]
    assert (fast[1].first_token_seconds == reference[1].first_token_seconds).all()
    assert {each.unpromised for each in fast[2]} >= {None, "cold", "no_budget"}


@pytest.mark.parametrize("seed", range(3))
def test_promises_are_kept_and_bounds_fit_budgets_under_overload(seed):
    load, run, decisions = served(seed, PRICED)
    ttft = run.first_token_seconds - run.load.arrival_seconds
    promised = np.array([each.promised for each in decisions])
    assert promised.mean() > 0.4
    for each, budget in zip(decisions, load.budgets.tolist(), strict=True):
        assert not each.promised or each.bound_seconds <= budget
    assert (ttft <= load.budgets)[promised].mean() >= 0.9
    assert (ttft[np.isinf(load.budgets)] < 10).all()  # nobody starves


def test_a_price_makes_room_for_the_requests_to_come():
    kept = {}
    for name, settings in {"priced": PRICED, "free": LoadSettings()}.items():
        shares = []
        for seed in range(4):
            load, run, _ = served(seed, replace(settings, keeps_promises=False))
            with_budget = np.isfinite(load.budgets)
            shares.append((run.first_token_seconds - run.load.arrival_seconds <= load.budgets)[with_budget].mean())
        kept[name] = np.mean(shares)
    assert kept["priced"] > kept["free"] + 0.02
