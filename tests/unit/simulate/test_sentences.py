"""What cannot be simulated is a sentence that says what is wrong, what was expected and how to mend it."""

from dataclasses import replace

import numpy as np
import pytest

from paceline.errors import InvalidValueError, StepTimeError, UnknownChoiceError
from paceline.schedule import LinearStepTime, PlannerSettings, PrefillChunk
from paceline.simulate import (
    LinearCost,
    ReplayedCost,
    RequestColumns,
    SimulatedEngine,
    StepWork,
    VaryingCost,
    VidurTables,
    simulate,
)

STEP_TIME = LinearStepTime(
    base_ms=5.0,
    per_decode_token_ms=0.05,
    per_decode_context_token_ms=0.0001,
    per_prefill_token_ms=0.04,
    per_prefill_attention_token_ms=0.00001,
)
ENGINE = SimulatedEngine(rules="vllm", planner=PlannerSettings(chunk_size=64), max_num_seqs=4, num_blocks=20)


def columns(*requests):
    arrivals, prompts, outputs = zip(*requests, strict=True)
    return RequestColumns(
        arrival_seconds=np.array(arrivals, dtype=float),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
    )


@pytest.mark.parametrize(
    ("requests", "sentence"),
    [
        ([(1.0, 5, 5), (0.5, 5, 5)], r"arrival_seconds\[1\] is 0\.5; expected at least 1\.0.*sort"),
        ([(0.0, 5, 5), (0.5, 5, 0)], r"output_tokens\[1\] is 0; expected at least 1"),
        ([(0.0, 0, 5)], r"prompt_tokens\[0\] is 0"),
        ([(-1.0, 5, 5)], r"arrival_seconds\[0\] is -1\.0"),
        ([(float("nan"), 5, 5)], r"arrival_seconds\[0\] is nan"),
    ],
)
def test_a_load_that_cannot_be_is_refused_with_its_index(requests, sentence):
    with pytest.raises(InvalidValueError, match=sentence):
        columns(*requests)


def test_one_request_is_a_load():
    run = simulate(columns((3.0, 5, 1)), ENGINE, LinearCost(STEP_TIME))
    assert run.step_count == 1 and run.preemptions.tolist() == [0]
    assert run.first_token_seconds == run.completion_seconds == 3.0 + run.steps.seconds[0]


@pytest.mark.parametrize("rules", ["vidur", "vllm", "paceline"])
def test_a_request_that_can_never_be_admitted_is_named(rules):
    load = columns((0.0, 5, 5), (1.0, 400, 5), (2.0, 5, 5))
    with pytest.raises(InvalidValueError, match="request 1 can never be admitted, its 400 tokens need 25 blocks of 16"):
        simulate(load, replace(ENGINE, rules=rules), LinearCost(STEP_TIME))


@pytest.mark.parametrize("rules", ["vidur", "vllm", "paceline"])
def test_a_request_that_outgrows_the_cache_alone_is_named(rules):
    with pytest.raises(InvalidValueError, match="request 0 can never be admitted"):
        simulate(columns((0.0, 100, 500)), replace(ENGINE, rules=rules), LinearCost(STEP_TIME))


def test_a_log_that_is_too_short_is_named():
    log = ReplayedCost(closed_seconds=np.zeros(3), started_seconds=np.zeros(3), execute_seconds=np.ones(3))
    with pytest.raises(StepTimeError, match="ends after 3 steps"):
        simulate(columns((0.0, 100, 50)), ENGINE, log)


def tables(**changed):
    by_tokens = np.ones(101)
    made = VidurTables(
        path="tables.npz",
        before_attention=by_tokens,
        communication=0 * by_tokens,
        layernorm=by_tokens,
        mlp=by_tokens,
        add=by_tokens,
        decode=np.ones((3, 3)),
        prefill=np.ones((3, 101)),
        decode_factor=1.1,
        prefill_factor=1.1,
        layers=2,
    )
    return replace(made, **changed)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (StepWork(decodes=3, decode_context_tokens=9), r"attn_decode has no entry \[3, 1\], its shape is \[3, 3\]"),
        (StepWork(decodes=1, decode_context_tokens=128), r"attn_decode has no entry \[1, 3\]"),
        (StepWork(chunks=[PrefillChunk(tokens=5, context_tokens=200)]), r"attn_prefill has no entry \[4, 5\]"),
        (StepWork(chunks=[PrefillChunk(tokens=99, context_tokens=0)] * 2), r"attn_prefill has no entry \[0, 140\]"),
        (StepWork(chunks=[PrefillChunk(tokens=60, context_tokens=0)] * 2), r"attn_pre_proj has no entry \[120\]"),
    ],
)
def test_a_table_that_is_too_small_is_named_with_its_index(work, sentence):
    with pytest.raises(StepTimeError, match=sentence):
        tables().seconds(0, work)


@pytest.mark.parametrize(
    ("changed", "error", "sentence"),
    [
        ({"rules": "vlm"}, UnknownChoiceError, "did you mean 'vllm'"),
        ({"max_num_seqs": 65}, InvalidValueError, "chunk_size is 64; expected at least 65"),
        ({"num_blocks": 0}, InvalidValueError, "num_blocks is 0"),
        ({"watermark": 1.0}, InvalidValueError, "watermark is 1.0; expected a share"),
        ({"planner": PlannerSettings(chunk_size=64, policy="srtf")}, InvalidValueError, "rules 'paceline'"),
    ],
)
def test_engines_that_cannot_be_are_refused(changed, error, sentence):
    with pytest.raises(error, match=sentence):
        replace(ENGINE, **changed)


def test_files_that_are_no_tables_are_refused(tmp_path):
    path = tmp_path / "tables.npz"
    path.write_bytes(b"PK")
    with pytest.raises(StepTimeError, match="cannot be read as tables"):
        VidurTables.load(path)
    np.savez(path, meta="{}")
    with pytest.raises(StepTimeError, match=r"meta\.layers_per_stage is None"):
        VidurTables.load(path)


def test_who_arrives_while_a_logged_step_is_scheduled_is_in_the_next():
    log = ReplayedCost(
        closed_seconds=np.array([0.0, 1.0, 2.0]),
        started_seconds=np.array([0.2, 1.2, 2.2]),
        execute_seconds=np.full(3, 0.5),
    )
    for engine in ("fast", "reference"):
        run = simulate(columns((0.0, 5, 2), (1.1, 5, 1)), ENGINE, log, computed_by=engine)
        assert run.first_scheduled_seconds.tolist() == [0.2, 2.2]
        assert run.first_token_seconds.tolist() == [0.7, 2.7]


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_table_whose_steps_vary_and_that_is_too_small_is_named(engine):
    varying = VaryingCost(cost=tables(), factors=np.array([1.0, 1.1]))
    with pytest.raises(StepTimeError, match=r"table attn_\w+ has no entry"):
        simulate(columns((0.0, 60, 900)), replace(ENGINE, num_blocks=4000), varying, computed_by=engine)
