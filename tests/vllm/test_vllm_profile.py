"""A profile made in vLLM: the embedded model with pictures, answered together and measured alone, by the command a user runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from paceline.cli import main
from paceline.errors import EngineError, ModelError, ProfileConflictError
from paceline.measure.profiling import ProfilePlan, load_questions, run_profile
from paceline.models.loading import load_model
from paceline.profiles import read_profile
from paceline.records import EngineAnswer
from paceline.vllm_plugin import measuring
from paceline.vllm_plugin.measuring import VllmProfile

HERE = Path(__file__).parent
QUESTIONS, CONFIGS, BEFORE_THE_KILL = 22, 4, 7


def profiled(out, *arguments):
    paths = [HERE / "torchvision_standin", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "engine_profile.py"), str(out), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A profile that was killed on the way and gone on with, and what the second command said."""
    out = tmp_path_factory.mktemp("engine") / "profile"
    done = profiled(out, str(BEFORE_THE_KILL))
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout)


def test_it_goes_on_after_a_kill_and_measures_everything_once(stored):
    out, told = stored
    samples = read_profile(out).samples
    assert samples.height == QUESTIONS * CONFIGS == told["samples_total"]
    assert told["samples_added"] == samples.height - BEFORE_THE_KILL
    assert samples.select("dataset", "sample_id", "tier", "top_k").is_unique().all()


def test_stages_are_those_of_the_engine_and_add_up(stored):
    out, _ = stored
    samples = read_profile(out).samples
    stages = pl.col("T_vision_total") + pl.col("T_LLM_prefill") + pl.col("T_LLM_decode") + pl.col("T_other")
    checked = samples.select(
        closes=(stages / pl.col("T_total") - 1).abs() < 0.01,
        first_token_last=pl.col("T_ttft")
        >= pl.col("T_preprocess") + pl.col("T_vision_total") + pl.col("T_LLM_prefill") - 1e-6,
        positive=(pl.col("T_vision_total") > 0) & (pl.col("T_LLM_prefill") > 0) & (pl.col("T_preprocess") > 0),
        decodes=(pl.col("T_LLM_decode") > 0) == (pl.col("output_tokens") > 1),
        one_token=pl.col("T_decode_per_token").is_null() == (pl.col("output_tokens") == 1),
    )
    assert checked.select(pl.all().all()).row(0) == (True,) * checked.width
    metadata = [json.loads(text) for text in samples["metadata"]]
    assert all(each["queue_ms"] >= 0 and len(each["processor_ms"]) == 3 for each in metadata)
    by_tier = dict(samples.group_by("tier").agg(pl.col("actual_vision_tokens").mean()).iter_rows())
    assert by_tier["low"] < by_tier["high"]


def test_answers_are_those_of_transformers_together_and_alone(stored):
    out, told = stored
    profile = read_profile(out)
    model = load_model("digits", device="cpu", dtype="float32")
    plan = ProfilePlan(
        datasets=("digits_read",),
        samples=11,
        tiers=("low", "high"),
        top_ks=(2, 8),
        block_counts=(16,),
        max_new_tokens=6,
        warmup_runs=0,
    )
    own = run_profile(model, plan, out.with_name("transformers"))
    here = read_profile(own.out).samples
    keys = ["dataset", "sample_id", "tier", "top_k", "num_active_blocks"]
    both = here.join(profile.samples, on=keys, suffix="_engine")
    assert both.height == 44
    for name in ("pred", "accuracy", "output_tokens", "actual_vision_tokens", "actual_text_tokens"):
        assert both[name].to_list() == both[f"{name}_engine"].to_list()
    assert told["answers_together"]["count"] == QUESTIONS * CONFIGS and told["answers_together"]["differing"] == 0
    assert all(json.loads(text)["answered_together"] == CONFIGS for text in profile.samples["metadata"])


def test_the_engine_stands_in_the_provenance_and_does_not_mix(stored):
    out, _ = stored
    [run] = read_profile(out).provenance
    assert (run.engine, run.clock, run.versions["vllm"][:5]) == ("vllm", "time.monotonic", "0.32.")
    assert "max_num_batched_tokens" in str(run.settings["engine_args"])
    model = load_model("digits", device="cpu", dtype="float32")
    with pytest.raises(ProfileConflictError, match="engine is 'vllm', but this run's engine is 'transformers'"):
        run_profile(model, ProfilePlan(datasets=("digits_read",), samples=2), out)


def test_budgets_tables_estimators_and_step_times_are_made_of_it(stored, tmp_path, capsys):
    out, _ = stored
    table, estimator = tmp_path / "table.json", tmp_path / "estimator"
    assert main.run(["budgets", str(out), "--latency", "ttft", "--json"]) == 0
    assert main.run(["table", "build", "--results-dir", str(out), "--output-file", str(table)]) == 0
    assert json.loads(table.read_text())["metadata"]["provenance"][0]["engine"] == "vllm"
    assert main.run(["estimator", "train", str(out), "--out", str(estimator), "--num-epochs", "2"]) == 0
    assert main.run(["estimator", "eval", str(estimator), str(out)]) == 0
    capsys.readouterr()
    for pair in ("2_16", "8_16"):
        assert (
            main.run(["tune", "step-time", str(out / "steps" / pair), "-o", str(tmp_path / "step.json"), "--json"]) == 0
        )
        fitted = json.loads(capsys.readouterr().out)
        assert fitted["per_prefill_token_ms"] > 0 and fitted["fitted_steps"] > 50


def test_arguments_that_are_the_profiles_own_are_refused():
    with pytest.raises(EngineError, match="'worker_cls' is set by the profile itself; take it out"):
        VllmProfile(arguments={"worker_cls": "mine"})


def test_a_prompt_that_vllm_reads_otherwise_is_refused():
    model = load_model("digits", device="cpu", dtype="float32")
    [question] = load_questions(ProfilePlan(datasets=("digits_read",), samples=1))
    request = model.unencoded(question.picture, question.prompt, "low")
    with pytest.raises(ModelError, match="vLLM made .* tokens of a prompt that has .* in transformers"):
        measuring._as_expected(EngineAnswer(prompt_ids=(*request.ids, 3), token_ids=(9,)), request)
