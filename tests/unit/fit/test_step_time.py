import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.errors import InvalidValueError, OutputPathError, StepTimeError
from paceline.fit.step_time import fit_configurations, fit_step_time, requests_received, save_step_time, whole_steps_ms
from paceline.schedule import EngineTime, LinearStepTime, PrefillChunk, StepLoad, StepRecord
from paceline.schedule.step_time import configuration_times

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


def kind_of(record: StepRecord) -> str | None:
    if record.chunks:
        return "mixed" if record.decode_tokens else "prefill_only"
    return "decode_only" if record.decode_tokens else None


def held_out_rows(log: list[StepRecord], *, warmup: int = 10) -> list[int]:
    """Every fifth block of ten of each kind of step, after the warm-up."""
    rows: list[int] = []
    for kind in ("decode_only", "mixed", "prefill_only"):
        of_kind = [index for index in range(warmup, len(log)) if kind_of(log[index]) == kind]
        block = max(1, min(10, len(of_kind) // 5))
        rows += [index for place, index in enumerate(of_kind) if place // block % 5 == 4]
    return rows


def served_log(
    *, arrivals_a_step: float, count: int = 1500, budget: int = 512, prompt: int | None = None, seed: int = 3
) -> list[StepRecord]:
    """Steps of a first-come server that fills them: decodes first, then chunks of prompts, with 5 % of noise (synthetic)."""
    random = np.random.default_rng(seed)
    waiting: list[list[int]] = []  # prompt, computed
    decoding: list[list[int]] = []  # context, answer left
    records: list[StepRecord] = []
    for step in range(count):
        for _ in range(int(random.poisson(arrivals_a_step))):
            waiting.append([prompt or int(np.clip(random.lognormal(5.5, 0.8), 1, 2000)), 0])
        chunks: dict[str, PrefillChunk] = {}
        started: list[list[int]] = []
        while waiting and len(decoding) + sum(each.tokens for each in chunks.values()) < budget and len(decoding) < 60:
            length, computed = waiting[0]
            left = budget - len(decoding) - sum(each.tokens for each in chunks.values())
            tokens = min(length - computed, left)
            chunks[f"r{step}-{len(chunks)}"] = PrefillChunk(tokens=tokens, context_tokens=computed)
            waiting[0][1] += tokens
            if waiting[0][1] == length:
                waiting.pop(0)
                started.append([length, int(np.clip(random.lognormal(3.5, 0.7), 1, 400))])
        record = taking(synthetic_log(1, prefill=False, decodes=False)[0], 0.0)
        record = replace(
            record,
            step=step,
            decode_tokens=len(decoding),
            decode_context_tokens=sum(context for context, _ in decoding),
            chunks=chunks,
        )
        if chunks or decoding:
            records.append(taking(record, SERVED.predict_ms(record.load) * (1 + 0.05 * float(random.normal()))))
        decoding = [[context + 1, left - 1] for context, left in decoding if left > 1] + started
    return records


SERVED = LinearStepTime(
    base_ms=10.0,
    per_decode_token_ms=0.05,
    per_decode_context_token_ms=2e-5,
    per_prefill_token_ms=0.0625,
    per_prefill_attention_token_ms=4e-6,
)


def chunk_ms(model: LinearStepTime, tokens: int) -> float:
    return model.predict_ms(StepLoad(prefill_tokens=tokens, prefill_attention_tokens=tokens * tokens / 2))


def test_a_load_that_leaves_the_engine_room_gives_the_costs_that_a_planner_weighs() -> None:
    fit = fit_step_time(served_log(arrivals_a_step=0.35))
    assert fit.model.base_ms == pytest.approx(SERVED.base_ms, rel=0.05)
    assert chunk_ms(fit.model, 128) == pytest.approx(chunk_ms(SERVED, 128), rel=0.05)
    assert fit.model.per_decode_token_ms == pytest.approx(SERVED.per_decode_token_ms, rel=0.4)
    assert {"decode_only", "mixed"} <= fit.held_out_by_kind.keys()
    assert all(error.relative_error < 0.06 for error in fit.held_out_by_kind.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_saturated_log_is_refused_with_the_load_to_run(seed: int) -> None:
    log = [record for record in served_log(arrivals_a_step=5.0, seed=seed) if record.load.prefill_tokens]
    full = [record for record in log if record.decode_tokens + record.load.prefill_tokens == 512]
    assert len(full) > 200
    with pytest.raises(StepTimeError, match="0 of the log's .* steps have decodes alone.*--rate` at half"):
        fit_step_time(full)
    # a few steps of decodes alone, all alike, are not enough, however well they are met
    alone = [replace(record, chunks={}) for record in full[10:22]]
    spread = [taking(record, SERVED.predict_ms(record.load)) for record in alone]
    with pytest.raises(StepTimeError, match="cannot tell what a step of .* decodes alone costs.*--rate` at half"):
        fit_step_time([*full, *spread])


def test_prompts_of_one_length_are_refused_with_the_lengths_to_run() -> None:
    with pytest.raises(StepTimeError, match="cannot tell what a chunk of .* tokens beside .*prompts of many different"):
        fit_step_time(served_log(arrivals_a_step=0.3, prompt=200, budget=4096))


def test_every_kind_of_step_is_held_out_a_rare_one_too() -> None:
    log = served_log(arrivals_a_step=0.35)
    alone = [replace(record, decode_tokens=0, decode_context_tokens=0) for record in log if record.chunks][:12]
    log[200:200] = [taking(record, SERVED.predict_ms(record.load)) for record in alone]
    fit = fit_step_time(log)
    counts = {kind: error.mae.count for kind, error in fit.held_out_by_kind.items()}
    expected = [kind_of(log[index]) for index in held_out_rows(log)]
    assert counts == {kind: expected.count(kind) for kind in ("decode_only", "mixed", "prefill_only")}
    assert counts["prefill_only"] >= 2
    assert fit.document()["held_out_by_kind"]["prefill_only"]["n"] == counts["prefill_only"]


def test_each_engine_and_run_warms_up() -> None:
    log = synthetic_log(300)
    cold = [taking(record, 1000.0) if record.step < 10 else record for record in log]
    runs = [
        replace(record, engine=engine, run=run) for engine, run in ((0, "a"), (1, "b"), (0, "c")) for record in cold
    ]
    fit = fit_step_time(sorted(runs, key=lambda record: record.step))
    assert fit.model.document() == pytest.approx(TRUE.document(), rel=1e-6)
    assert fit.held_out.rmse_ms == pytest.approx(0, abs=1e-6)


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
    assert fit.held_out.mae.count == 3990 - fit.fitted_steps == pytest.approx(3990 / 5, abs=60)


def test_held_out_steps_do_not_shape_the_model() -> None:
    log = synthetic_log(noise_ms=0.2)
    held_out = held_out_rows(log)
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


def followed(log: list[StepRecord], between_ms: float) -> list[StepRecord]:
    """The same steps, each started that long after the end of the one before, all serving one request throughout."""
    now, found = 0.0, []
    for record in log:
        chunks = {"always": PrefillChunk(tokens=1, context_tokens=0)} if record.chunks else {}
        decoding = () if chunks else ("always",)
        found.append(replace(record, started_seconds=now, chunks={**record.chunks, **chunks}, decoding=decoding))
        now += (TRUE.predict_ms(found[-1].load) + between_ms) / 1e3
    return [taking(record, TRUE.predict_ms(record.load)) for record in found]


def test_the_time_between_steps_is_part_of_the_whole_step_alone() -> None:
    log = followed(synthetic_log(), 1.5)
    fit = fit_step_time(log)
    assert fit.model.document() == pytest.approx(TRUE.document(), rel=1e-6)
    assert fit.whole is not None
    assert fit.whole.step.document() == pytest.approx({**TRUE.document(), "base_ms": TRUE.base_ms + 1.5}, rel=1e-6)
    assert fit.whole.per_request_ms == pytest.approx(0, abs=1e-6)


def test_whole_steps_add_up_to_the_time_that_passed() -> None:
    log = followed(synthetic_log(), 1.5)
    held_out = held_out_rows(log)
    stalls = np.cumsum([0.2 if index % 25 == 0 else 0.0 for index in range(len(log))])
    late = [
        replace(record, started_seconds=record.started_seconds + float(stalls[index]))
        for index, record in enumerate(log)
    ]
    fit = fit_step_time(late)
    assert fit.whole is not None
    assert fit.model.document() == pytest.approx(TRUE.document(), rel=1e-6)
    used = [index for index in range(10, len(late) - 1) if index not in held_out]
    passed_ms = sum(1e3 * (late[index + 1].started_seconds - late[index].started_seconds) for index in used)
    assert sum(fit.whole.step.predict_ms(late[index].load) for index in used) == pytest.approx(passed_ms, rel=1e-6)


def with_requests(log: list[StepRecord], comes: list[int], per_request_ms: float) -> list[StepRecord]:
    """The same steps with so many requests received before each: they wait from then on, and the step starts later."""
    waiting = late = 0.0
    found = []
    for record, count in zip(log, comes, strict=True):
        ended = (
            len(record.chunks) - 1 if record.chunks else 0
        )  # every chunk but the one of `always` is of its own request
        waiting, late = waiting + count, late + count * per_request_ms / 1e3
        found.append(replace(record, waiting=int(waiting), running=100, started_seconds=record.started_seconds + late))
        waiting -= ended
    return found


def test_what_a_request_takes_to_be_received_is_told_from_the_time_between_steps() -> None:
    comes = [int(each) for each in np.random.default_rng(5).choice([0, 0, 0, 1, 2], 400)]
    log = with_requests(followed(synthetic_log(), 0.7), [1000, *comes[1:]], 0.45)
    assert requests_received(log)[:-1] == comes[1:]
    fit = fit_step_time(log)
    assert fit.whole is not None
    assert fit.whole.per_request_ms == pytest.approx(0.45, rel=1e-6)
    assert fit.whole.step.base_ms == pytest.approx(TRUE.base_ms + 0.7, rel=1e-6)
    few = with_requests(followed(synthetic_log(), 0.7), [1000, *[0] * 399], 0.45)
    without = fit_step_time(few).whole
    assert without is not None and without.per_request_ms == 0  # nobody came


def test_requests_of_two_engines_are_counted_apart_and_the_last_step_says_nothing() -> None:
    def step(number: int, engine: int, there: int, names: tuple[str, ...]) -> StepRecord:
        return replace(
            synthetic_log(60)[0], step=number, engine=engine, waiting=0, running=there, chunks={}, decoding=names
        )

    log = [step(0, 0, 2, ("a", "b")), step(0, 1, 1, ("a",)), step(1, 0, 4, ("a",)), step(1, 1, 1, ("a",))]
    assert requests_received(log) == [3, 0, 0, 0]  # b ended, and three have come


def test_an_engine_that_waited_is_not_thought_busy() -> None:
    log = followed(synthetic_log(), 1.5)
    parted = [
        replace(record, started_seconds=record.started_seconds + 5.0 * index, chunks=record.chunks, decoding=())
        for index, record in enumerate(log)
        if not record.chunks
    ]
    assert np.isnan(whole_steps_ms(parted)).all()
    strangers = [replace(record, decoding=(), chunks=record.chunks) for record in synthetic_log()]
    assert fit_step_time(strangers).whole is None  # no step serves whom the one before served
    elsewhere = [replace(record, engine=record.step % 2) for record in log]
    assert np.isnan(whole_steps_ms(elsewhere)).all()  # the next step of an engine is not the next but one


def test_each_configuration_has_a_model_and_the_largest_is_the_one_of_all(tmp_path: Path) -> None:
    half = LinearStepTime(**{**TRUE.document(), "per_prefill_token_ms": TRUE.per_prefill_token_ms / 2})
    cheap = [taking(record, half.predict_ms(record.load)) for record in synthetic_log()]
    fit = fit_configurations({"2_8": cheap, "8_16": synthetic_log(), "none_8": cheap})
    assert fit.model == fit.configurations["8_16"] != fit.configurations["2_8"]
    save_step_time(fit, tmp_path / "step_time.json")
    assert LinearStepTime.load(tmp_path / "step_time.json") == fit.model
    assert configuration_times(tmp_path / "step_time.json") == fit.configurations
    assert fit.configurations["none_8"].per_prefill_token_ms == pytest.approx(half.per_prefill_token_ms)
    save_step_time(fit_step_time(synthetic_log()), tmp_path / "one.json")
    assert configuration_times(tmp_path / "one.json") == {}
    (tmp_path / "bad.json").write_text(json.dumps({**fit.document(), "configurations": {"2_8": 3}}))
    with pytest.raises(StepTimeError, match=r"bad.json: configurations.2_8 holds 3"):
        configuration_times(tmp_path / "bad.json")
    with pytest.raises(StepTimeError, match="configuration 2_8: the step log has 10 steps"):
        fit_configurations({"8_16": synthetic_log(), "2_8": synthetic_log(20)})
    with pytest.raises(InvalidValueError, match="configuration key"):
        fit_configurations({"8_16": synthetic_log(), "logs": synthetic_log()})


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
        (synthetic_log(decodes=False), "0 of the log's 390 steps have decodes alone; expected at least 10"),
    ],
)
def test_logs_that_cannot_tell_are_refused(log: list[StepRecord], message: str) -> None:
    with pytest.raises(StepTimeError, match=message):
        fit_step_time(log)


def test_two_hundred_mixed_steps_are_enough_and_warm_up_is_counted() -> None:
    assert fit_step_time(synthetic_log(210)).warmup_steps == 10
    log = synthetic_log(210)
    assert fit_step_time(log, warmup_steps=0).fitted_steps == 210 - len(held_out_rows(log, warmup=0))
    with pytest.raises(InvalidValueError, match="warmup_steps"):
        fit_step_time(synthetic_log(), warmup_steps=-1)


def test_the_file_reads_back_as_the_model_and_states_the_error(tmp_path: Path) -> None:
    strangers = [replace(record, decoding=()) for record in synthetic_log(noise_ms=0.2)]
    fit = fit_step_time(strangers)
    path = tmp_path / "new" / "step_time.json"
    assert save_step_time(fit, path) is None
    assert LinearStepTime.load(path) == fit.model
    assert EngineTime.load(path) == EngineTime(step=fit.model)  # the log has no pairs of steps to tell them apart
    whole = fit_step_time(followed(synthetic_log(), 1.5))
    save_step_time(whole, tmp_path / "whole.json")
    assert EngineTime.load(tmp_path / "whole.json") == whole.whole
    (tmp_path / "bad.json").write_text(json.dumps({**fit.document(), "whole_step": {"base_ms": 1}}))
    with pytest.raises(StepTimeError, match="per_decode_token_ms is None"):
        EngineTime.load(tmp_path / "bad.json")
    assert whole.whole is not None
    (tmp_path / "old.json").write_text(json.dumps({**fit.document(), "whole_step": whole.whole.step.document()}))
    assert EngineTime.load(tmp_path / "old.json") == EngineTime(step=whole.whole.step)
    less = {**whole.whole.document(), "per_request_ms": -0.1}
    (tmp_path / "less.json").write_text(json.dumps({**fit.document(), "whole_step": less}))
    with pytest.raises(StepTimeError, match=r"per_request_ms is -0.1; expected a finite number of at least 0; fit one"):
        EngineTime.load(tmp_path / "less.json")
    document = json.loads(path.read_text())
    assert document["held_out"]["n"] == fit.held_out.mae.count
    low, high = document["held_out"]["mae_ci_ms"]
    assert low < document["held_out"]["mae_ms"] < high
    assert save_step_time(fit, path) is not None
    with pytest.raises(OutputPathError):
        save_step_time(fit, tmp_path)
