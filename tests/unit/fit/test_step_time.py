import json
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import InvalidValueError, OutputPathError, StepTimeError
from paceline.fit.step_time import fit_step_time, save_step_time
from paceline.schedule import LinearStepTime, PrefillChunk, StepRecord

TRUE = LinearStepTime(
    base_ms=4.0,
    per_decode_token_ms=0.05,
    per_decode_context_token_ms=2e-5,
    per_prefill_token_ms=0.03,
    per_prefill_attention_token_ms=4e-6,
)


def synthetic_log(
    count: int = 400, *, noise_ms: float = 0.0, prefill: bool = True, decodes: bool = True, seed: int = 7
) -> list[StepRecord]:
    """Steps of random loads that take what TRUE says, and normal noise."""
    random = np.random.default_rng(seed)
    records: list[StepRecord] = []
    for step in range(count):
        decoding = int(random.integers(0, 60)) if decodes else 0
        chunks = {
            f"r{step}-{index}": PrefillChunk(
                tokens=int(random.integers(1, 512)), context_tokens=int(random.integers(0, 4000))
            )
            for index in range(int(random.integers(0, 3)) if prefill else 0)
        }
        record = StepRecord(
            step=step,
            started_seconds=step * 0.05,
            execute_ms=0.0,
            plan_us=30.0,
            schedule_us=200.0,
            predicted_ms=None,
            token_budget=1024,
            decode_tokens=decoding,
            decode_context_tokens=decoding * int(random.integers(100, 2000)),
            chunks=chunks,
            decoding=tuple(f"d{index}" for index in range(decoding)),
            waiting=0,
            running=decoding + len(chunks),
            preempted=(),
        )
        records.append(taking(record, max(0.01, TRUE.predict_ms(record.load) + float(random.normal(0, noise_ms)))))
    return records


def taking(record: StepRecord, execute_ms: float) -> StepRecord:
    cells = {name: getattr(record, name) for name in StepRecord.__dataclass_fields__}
    return StepRecord(**{**cells, "execute_ms": execute_ms})


def test_exact_steps_give_the_coefficients_back() -> None:
    fit = fit_step_time(synthetic_log())
    assert fit.model.document() == pytest.approx(TRUE.document(), rel=1e-6)
    assert fit.held_out.mae.mean == pytest.approx(0, abs=1e-9)


def test_the_held_out_error_is_the_noise() -> None:
    fit = fit_step_time(synthetic_log(4000, noise_ms=0.5))
    assert fit.model.document() == pytest.approx(TRUE.document(), rel=0.1)
    assert fit.held_out.mae.mean == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=0.1)
    assert fit.held_out.rmse_ms == pytest.approx(0.5, rel=0.1)
    assert fit.held_out.p95_ms == pytest.approx(0.98, rel=0.1)
    assert fit.held_out.baseline_mae_ms > 5 * fit.held_out.mae.mean
    assert fit.held_out.mae.count == 790
    assert fit.fitted_steps == 3200


def test_held_out_steps_do_not_shape_the_model() -> None:
    log = synthetic_log(noise_ms=0.2)
    held_out = [index for index in range(10, len(log)) if (index - 10) // 10 % 5 == 4]
    changed = [taking(record, 500.0) if index in held_out else record for index, record in enumerate(log)]
    first, second = fit_step_time(log), fit_step_time(changed)
    assert first.model == second.model
    assert second.held_out.mae.mean > 100 * first.held_out.mae.mean


def test_slow_first_steps_and_a_few_stalls_do_not_bend_the_fit() -> None:
    log = synthetic_log(noise_ms=0.2)
    slow = {*range(10), *range(25, 400, 20)}  # compilation first, then a pause every 20th step
    stalled = [taking(record, record.execute_ms + 300) if index in slow else record for index, record in enumerate(log)]
    clean, bent = fit_step_time(log).model, fit_step_time(stalled).model
    assert bent.document() == pytest.approx(clean.document(), rel=0.1)


def test_costs_are_never_negative() -> None:
    falling = [taking(record, 50.0 - record.decode_tokens / 2) for record in synthetic_log()]
    model = fit_step_time(falling).model
    assert model.per_decode_token_ms == 0
    assert min(model.document().values()) >= 0


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (synthetic_log(59), "has 49 steps beside 10 of warm-up; expected at least 50; run a longer"),
        ([], "has 0 steps"),
        (synthetic_log(prefill=False), "0 of the log's 390 steps have prefill; expected at least 10"),
        (synthetic_log(decodes=False), "0 of the log's 390 steps have decodes.*longer answers"),
    ],
)
def test_logs_that_cannot_tell_are_refused(log: list[StepRecord], message: str) -> None:
    with pytest.raises(StepTimeError, match=message):
        fit_step_time(log)


def test_sixty_steps_are_enough_and_warm_up_is_counted() -> None:
    assert fit_step_time(synthetic_log(60)).warmup_steps == 10
    assert fit_step_time(synthetic_log(50), warmup_steps=0).fitted_steps == 40
    with pytest.raises(InvalidValueError, match="warmup_steps"):
        fit_step_time(synthetic_log(), warmup_steps=-1)


def test_the_file_reads_back_as_the_model_and_states_the_error(tmp_path: Path) -> None:
    fit = fit_step_time(synthetic_log(noise_ms=0.2))
    path = tmp_path / "new" / "step_time.json"
    assert save_step_time(fit, path) is None
    assert LinearStepTime.load(path) == fit.model
    document = json.loads(path.read_text())
    assert document["held_out"]["n"] == fit.held_out.mae.count
    low, high = document["held_out"]["mae_ci_ms"]
    assert low < document["held_out"]["mae_ms"] < high
    assert save_step_time(fit, path) is not None
    with pytest.raises(OutputPathError):
        save_step_time(fit, tmp_path)
