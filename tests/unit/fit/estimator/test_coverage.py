import numpy as np
import pytest
from latency_models import GRID, steady_bounds, synthetic_samples, token_linear

from paceline.control.estimated import BoundController
from paceline.errors import InvalidValueError
from paceline.fit.conformal import calibrate_bounds
from paceline.fit.estimator.coverage import BoundCheck, bound_coverage, check_bound
from paceline.profiles import Split, split_samples


def test_the_bound_keeps_its_promise_on_fresh_samples_at_every_budget() -> None:
    """Adherence over many splits of synthetic samples whose noise differs by configuration; a point estimate's does not."""
    noise = dict(zip(GRID, (0.05, 0.3, 0.1, 0.2), strict=True))
    kept, promised, kept_by_point, said_by_point = (np.zeros(4) for _ in range(4))
    budgets_ms = (12.0, 20.0, 40.0, 60.0)
    for seed in range(25):
        parts = split_samples(synthetic_samples(250, seed=seed, noise_of=noise), Split(seed=seed))
        bounds = calibrate_bounds(token_linear(), parts)
        pure_point = steady_bounds(1.0)  # factors of 1
        for held, counts in ((bounds, (kept, promised)), (pure_point, (kept_by_point, said_by_point))):
            controller = BoundController(model=token_linear(), bounds=held, alpha=0.1)
            checks = check_bound(controller, parts.test, budgets_ms)
            counts[0][:] += [check.kept for check in checks]
            counts[1][:] += [check.num_requests - check.none_fit for check in checks]
    assert (kept / promised >= 0.89).all()  # 0.9 less what 25 splits leave to chance
    assert (kept_by_point / said_by_point).min() < 0.85


def test_the_check_counts_what_it_says() -> None:
    parts = split_samples(synthetic_samples(60, noise=0.0), Split(seed=3))
    controller = BoundController(model=token_linear(), bounds=steady_bounds(1.0))
    tight, loose = check_bound(controller, parts.test, (1e-3, 1e6))
    count = parts.test["sample_id"].n_unique()
    assert (tight.num_requests, tight.none_fit, tight.kept) == (count, count, 0)
    assert (loose.num_requests, loose.none_fit, loose.kept) == (count, 0, count)


def check(requests: int, none_fit: int, kept: int, budget_ms: float = 10.0) -> BoundCheck:
    return BoundCheck(budget_ms=budget_ms, num_requests=requests, none_fit=none_fit, kept=kept)


def test_coverage_adds_up_requests_at_their_budgets() -> None:
    found = bound_coverage([check(10, 4, 5), check(10, 0, 10, 20.0)], 0.05)
    assert found.kept is not None
    assert (found.kept.successes, found.kept.count, found.none_fit, found.target) == (15, 16, 4, 0.95)
    assert found.budgets_ms == (10.0, 20.0)
    assert bound_coverage([check(3, 3, 0)], 0.05).kept is None
    assert bound_coverage([], 0.05).kept is None


def test_a_check_with_impossible_counts_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="bound check"):
        check(100, 5, 96)
