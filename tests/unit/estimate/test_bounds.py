import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_models import bounds_of, scores_of
from safetensors.numpy import load, save

from paceline.errors import EstimatorError, InvalidValueError
from paceline.estimate.bounds import ConformalScores, LatencyBounds, least_requests
from paceline.estimate.bounds_file import DESCRIPTION, SCORES, bounds_files, file_sha256, load_bounds
from paceline.estimate.description import WEIGHTS_FILE

SCORES_DRAWN = st.lists(st.floats(-3, 3), min_size=1, max_size=60)
ALPHAS = st.sampled_from([0.05, 0.1, 0.5, 0.01]) | st.floats(0.001, 0.999)


@given(SCORES_DRAWN, ALPHAS)
def test_the_quantile_is_the_one_of_the_definition(scores: list[float], alpha: float) -> None:
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    found = scores_of([scores]).quantiles(alpha)[0]
    if rank > len(scores):
        assert found == math.inf
    else:
        assert found == sorted(scores)[max(rank, 1) - 1]


@pytest.mark.parametrize(("count", "rank"), [(19, 19), (20, 20), (39, 38), (99, 95), (100, 96)])
def test_ranks_are_not_moved_by_rounding(count: int, rank: int) -> None:
    assert scores_of([[float(score) for score in range(1, count + 1)]]).quantiles(0.05)[0] == rank


@given(SCORES_DRAWN, ALPHAS, ALPHAS)
def test_a_safer_promise_is_never_a_smaller_bound(scores: list[float], one: float, other: float) -> None:
    held = scores_of([scores])
    low, high = sorted((one, other))
    assert held.quantiles(low)[0] >= held.quantiles(high)[0]


def test_a_configuration_with_few_scores_takes_a_pooled_quantile() -> None:
    few, many = [0.5, 0.6], [score / 1000 for score in range(100)]
    scores = scores_of([many, few])
    assert scores.pooled_configs(0.05).tolist() == [False, True]
    own, pooled = scores.quantiles(0.05)
    assert own == 0.095
    assert pooled == scores.pooled_quantile(0.05) == 0.096  # requests 0 and 1 put half their weight on 0.5 and 0.6


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from([45, 120, 400]), st.sampled_from([0.8, 0.9]))
def test_a_calibration_keeps_its_promise_with_the_confidence_asked_for(
    seed: int, count: int, confidence: float
) -> None:
    """Of a thousand calibrations, those whose own coverage is below 0.95; scores are uniform, so coverage is the bound."""
    random = np.random.default_rng(seed)
    bounds = [scores_of([random.random(count).tolist()]).quantiles(0.05, confidence)[0] for _ in range(1000)]
    below = np.mean(np.array(bounds) < 0.95)
    allowed = 1 - confidence
    assert below <= allowed + 4.5 * (allowed * confidence / 1000) ** 0.5
    plain = [scores_of([random.random(count).tolist()]).quantiles(0.05)[0] for _ in range(1000)]
    assert np.mean(np.array(plain) < 0.95) > allowed  # the plain quantile promises an average only


@given(SCORES_DRAWN, st.sampled_from([0.5, 0.8, 0.9, 0.99]))
def test_more_confidence_is_never_a_smaller_bound(scores: list[float], confidence: float) -> None:
    held = scores_of([scores])
    assert held.quantiles(0.2, confidence + 0.005)[0] >= held.quantiles(0.2, confidence)[0]
    assert held.pooled_quantile(0.2, confidence) == held.quantiles(0.2, confidence)[0]  # one score a request


@pytest.mark.parametrize(("confidence", "least"), [(None, 19), (0.8, 32), (0.9, 45), (0.95, 59)])
def test_a_promise_takes_as_many_requests_as_it_says(confidence: float | None, least: int) -> None:
    assert least_requests(0.05, confidence) == least
    many, few = (bounds_of([list(range(count))] * 4) for count in (least, least - 1))
    assert np.isfinite(many.factors(0.05, "prefill", confidence)).all()
    with pytest.raises(InvalidValueError, match=f"so that {least} calibrate them"):
        few.factors(0.05, "prefill", confidence)


def test_siblings_of_one_request_count_as_one() -> None:
    """A request with a hundred scores must not outvote those with one."""
    crowd = [[9.0, *([math.nan] * 40)]] * 100
    single = [math.nan, *[index / 100 for index in range(40)]]
    flat = [(score, row) for scores in [*crowd, single] for row, score in enumerate(scores) if not math.isnan(score)]
    scores = ConformalScores(
        scores_N=np.array(sorted(score for score, _ in flat)),
        requests_N=np.array([row for _, row in sorted(flat)], dtype=np.int32),
        counts_C=np.array([len(flat)]),
    )
    # 41 requests: the weight of 1/42 at 9 and of 1/42 for the request to come leave 40/42 below
    assert scores.pooled_quantile(0.05) == 0.39
    assert scores.pooled_quantile(0.03) == 9.0
    assert scores.pooled_quantile(0.02) == math.inf


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.1, 0.3]))
def test_a_fresh_request_exceeds_the_bound_with_probability_alpha_at_most(seed: int, alpha: float) -> None:
    """Marginal coverage over many calibrations; the mean over 400 of them is known to about 0.01."""
    random = np.random.default_rng(seed)
    exceeded = []
    for _ in range(400):
        scores = scores_of([random.standard_t(2, 40).tolist()])
        exceeded.append((random.standard_t(2, 200) > scores.quantiles(alpha)[0]).mean())
    assert np.mean(exceeded) <= alpha + 4.5 * np.std(exceeded) / 20


def test_the_pooled_quantile_covers_requests_whose_scores_move_together() -> None:
    random = np.random.default_rng(7)
    exceeded = []
    for _ in range(400):
        shift_R = random.normal(0, 0.3, 40)
        held = scores_of([(shift_R + random.normal(0, 0.1, 40)).tolist() for _ in range(6)])
        exceeded.append((random.normal(0, 0.3, 500) + random.normal(0, 0.1, 500) > held.pooled_quantile(0.1)).mean())
    assert np.mean(exceeded) <= 0.1 + 4.5 * np.std(exceeded) / 20


@pytest.mark.parametrize(
    ("per_config", "match"),
    [([[]], "at least one score"), ([[math.inf]], "finite numbers")],
)
def test_scores_that_cannot_be_are_refused(per_config: list[list[float]], match: str) -> None:
    with pytest.raises(InvalidValueError, match=match):
        scores_of(per_config)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS_FILE).write_bytes(b"synthetic weights")
    write(tmp_path, bounds_of([[0.1, 0.3, 0.2], [], [0.5], [0.2, 0.1]], provenance=({"model": "x"},)))
    return tmp_path


def write(directory: Path, bounds: LatencyBounds) -> None:
    digest = file_sha256(directory / WEIGHTS_FILE)
    for name, content in bounds_files(bounds, estimator_sha256=digest).items():
        (directory / name).write_bytes(content)


def test_bounds_read_back_are_the_same(artifact: Path) -> None:
    found = load_bounds(artifact)
    held = bounds_of([[0.1, 0.3, 0.2], [], [0.5], [0.2, 0.1]])
    assert found.configs == held.configs
    assert found.provenance == ({"model": "x"},)
    for kind in ("prefill", "total"):
        for name in ("scores_N", "requests_N", "counts_C"):
            assert np.array_equal(getattr(found.scores[kind], name), getattr(held.scores[kind], name))


def test_what_is_expected_of_bounds_is_read_back_and_files_of_older_versions_have_none(artifact: Path) -> None:
    assert load_bounds(artifact).expected == {}
    assert load_bounds(artifact).expected_factors("prefill").tolist() == [1, 1, 1, 1]
    told = np.array([1.5, 1.0, 2.0, 1.1])
    write(artifact, bounds_of([[0.1], [], [0.5], [0.2]], expected={"prefill": told}))
    assert load_bounds(artifact).expected_factors("prefill").tolist() == told.tolist()
    assert load_bounds(artifact).expected_factors("total").tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("told", [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [1.0, math.nan, 1.0, 1.0]])
def test_expected_bounds_that_cannot_be_are_refused(told: list[float]) -> None:
    with pytest.raises(InvalidValueError, match="expected bounds of total .* a number above 0 for each of 4"):
        bounds_of([[0.1], [], [0.5], [0.2]], expected={"total": np.array(told)})


def edit(artifact: Path, change: Any) -> None:
    document = json.loads((artifact / DESCRIPTION).read_text())
    change(document)
    (artifact / DESCRIPTION).write_text(json.dumps(document))


def test_bounds_that_carry_checks_of_an_older_version_are_read_and_none_are_written(artifact: Path) -> None:
    assert "checks" not in json.loads((artifact / DESCRIPTION).read_text())
    edit(artifact, lambda d: d.update(schema_version=1, checks=[{"latency_kind": "prefill", "kept": 92}]))
    assert load_bounds(artifact).provenance == ({"model": "x"},)


def swap_configs(document: dict[str, Any]) -> None:
    configs = document["configs"]
    configs[0]["config"], configs[1]["config"] = configs[1]["config"], configs[0]["config"]


def test_a_description_without_its_seal_is_refused_and_one_older_than_seals_is_read(artifact: Path) -> None:
    edit(artifact, lambda document: document.pop("description_sha256"))
    with pytest.raises(EstimatorError, match="was changed after it was written"):
        load_bounds(artifact)
    edit(artifact, lambda document: document.update(schema_version=1))
    assert len(load_bounds(artifact).configs) == 4


def test_a_description_laid_out_anew_is_read(artifact: Path) -> None:
    document = json.loads((artifact / DESCRIPTION).read_text())
    (artifact / DESCRIPTION).write_text(json.dumps(dict(sorted(document.items())), indent=7))
    assert len(load_bounds(artifact).configs) == 4


DAMAGE = {
    "format": lambda d: d.update(format="another"),
    "schema_version": lambda d: d.update(schema_version=3),
    "latency_kinds": lambda d: d.update(latency_kinds=["decode"]),
    "configs": lambda d: d.update(configs={}),
    r"configs\[0\].accuracy is": lambda d: d["configs"][0].update(accuracy="high"),
    "accuracy is nan": lambda d: d["configs"][0].update(accuracy=math.nan),
    r"configs\[1\].num_samples is True": lambda d: d["configs"][1].update(num_samples=True),
    "configuration key": lambda d: d["configs"][0].update(config="low_8"),
    "none twice": lambda d: d["configs"].__setitem__(1, d["configs"][0]),
    "one for each of 3 configurations": lambda d: d["configs"].pop(),
    "missing": lambda d: d["configs"][0].pop("accuracy"),
    r"provenance\[0\]": lambda d: d.update(provenance=["x"]),
    "was changed after it was written": swap_configs,
    "it was changed, cut short": lambda d: d.update(scores_sha256="0" * 64),
    "the file of the estimator that these bounds are of": lambda d: d.update(estimator_sha256="0" * 64),
}


@pytest.mark.parametrize("match", DAMAGE)
def test_a_description_that_cannot_be_trusted_is_refused(match: str, artifact: Path) -> None:
    edit(artifact, DAMAGE[match])
    with pytest.raises(EstimatorError, match=match) as raised:
        load_bounds(artifact)
    assert str(artifact) in str(raised.value)
    assert "paceline estimator train" in str(raised.value) or "version of paceline" in str(raised.value)


@pytest.mark.parametrize("name", [DESCRIPTION, SCORES, WEIGHTS_FILE])
def test_a_file_that_is_cut_short_or_missing_is_refused(name: str, artifact: Path) -> None:
    path = artifact / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(EstimatorError, match=name):
        load_bounds(artifact)
    path.unlink()
    with pytest.raises(EstimatorError, match="cannot be read"):
        load_bounds(artifact)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays.pop("total.counts_C"), "total.counts_C is missing"),
        (lambda arrays: arrays.update({"total.counts_C": np.array([1.0, 2, 3, 4])}), "of float64"),
        (lambda arrays: arrays.update({"prefill.counts_C": np.array([1, 1, 1, 1])}), "add up to 6"),
        (lambda arrays: arrays["prefill.scores_N"].__setitem__(0, math.nan), "finite"),
        (lambda arrays: arrays["prefill.scores_N"].__setitem__(0, 8.0), "ascending"),
        (lambda arrays: arrays["prefill.requests_N"].__setitem__(0, 77), "numbers from 0 on"),
    ],
)
def test_scores_that_cannot_be_trusted_are_refused(change: Any, match: str, artifact: Path) -> None:
    arrays = {name: array.copy() for name, array in load((artifact / SCORES).read_bytes()).items()}
    change(arrays)
    (artifact / SCORES).write_bytes(save(arrays))
    edit(artifact, lambda document: document.update(scores_sha256=file_sha256(artifact / SCORES)))
    with pytest.raises(EstimatorError, match=match):
        load_bounds(artifact)


def test_what_is_no_tensor_file_is_refused(artifact: Path) -> None:
    (artifact / SCORES).write_bytes(b"nothing of the kind")
    edit(artifact, lambda document: document.update(scores_sha256=file_sha256(artifact / SCORES)))
    with pytest.raises(EstimatorError, match="cannot be read"):
        load_bounds(artifact)
