"""Models spread over devices by accelerate's hooks, and quantised checkpoints: on tiny models, a CPU and its disk."""

import json
import shutil

import pytest
import torch

from paceline.control import TableEntry
from paceline.control.fixed import FixedConfiguration
from paceline.errors import InvalidValueError, ModelError, UnknownChoiceError
from paceline.measure.cache_check import cached_against_uncached
from paceline.measure.clock import CudaClock, HostClock, SynchronisedClock, clock_for
from paceline.measure.one_pass import answer_measured
from paceline.models import placement
from paceline.models.knobs import applied
from paceline.models.loading import EMBEDDED, load_model
from paceline.records import KnobConfig
from paceline.runtime import AdaptiveModel

LOW = KnobConfig(tier="low", top_k=2, num_active_blocks=10)
BLOCKS = {f"model.language_model.layers.{index}": "disk" if index % 2 else "cpu" for index in range(16)}
PARTS = {f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
PLACEMENTS = {
    "auto": "auto",
    "every other block on disk": {"model.visual": "cpu", "lm_head": "cpu", **PARTS, **BLOCKS},
    "encoder and embeddings on disk": {"model.visual": "disk", "lm_head": "disk", **PARTS, **BLOCKS}
    | {"model.language_model.embed_tokens": "disk"},
}


@pytest.fixture(scope="module", params=sorted(PLACEMENTS))
def spread(request, tmp_path_factory):
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("offload")
    return load_model("digits", device_map=PLACEMENTS[request.param], dtype="float32", offload_folder=folder)


@torch.no_grad()
def test_knobs_hold_and_the_model_is_restored_bit_for_bit(spread, digits, questions):
    request = digits.prepare(questions[0].picture, questions[0].prompt, "low")
    plain, own = (each.parts.model(**request.inputs).logits for each in (digits, spread))
    assert torch.allclose(own, plain, atol=1e-4)  # where weights lie in memory decides how sums are rounded
    with applied(digits.parts, LOW, digits.block_ranking):
        turned = digits.parts.model(**request.inputs).logits
    weights = {name: weight.device for name, weight in spread.parts.model.named_parameters()}
    with applied(spread.parts, LOW, spread.block_ranking):
        assert torch.allclose(spread.parts.model(**request.inputs).logits, turned, atol=1e-4)
    assert torch.equal(spread.parts.model(**request.inputs).logits, own) and not torch.allclose(turned, plain, atol=0.1)
    assert {name: weight.device for name, weight in spread.parts.model.named_parameters()} == weights


def test_a_controller_serves_a_model_that_is_spread(tmp_path, digits, questions):
    pytest.importorskip("accelerate")
    where = PLACEMENTS["encoder and embeddings on disk"]
    provenance = ({"model": "digits", "block_ranking": list(digits.block_ranking)},)
    entry = TableEntry(config=LOW, accuracy=1.0, latency_ms=1.0, num_samples=1, accuracy_std=0.0, latency_std_ms=0.0)
    controller = FixedConfiguration(entry=entry, latency_kind="prefill", provenance=provenance)
    adaptive = AdaptiveModel.from_pretrained(
        "digits", controller=controller, device_map=where, dtype="float32", offload_folder=tmp_path, max_new_tokens=4
    )
    assert {weight.device.type for weight in adaptive.model.parts.model.parameters()} == {"cpu", "meta"}
    asked = (questions[0].picture, questions[0].prompt)
    one = answer_measured(digits, *asked, LOW, ranking=digits.block_ranking, max_new_tokens=4, clock=HostClock())
    assert adaptive.generate(*asked, latency_budget_ms=1e6).text == one.text


@pytest.mark.parametrize(
    ("device_map", "device", "words"),
    [
        ("outo", "auto", "device of a device map 'outo' is unknown; expected auto, .*did you mean 'auto'"),
        ({}, "auto", "expected a device by the name of each part"),
        ({"model": "dsik"}, "auto", "'dsik' is unknown; expected cpu, cuda, cuda:0 or disk"),
        ({"model": "auto"}, "auto", "'auto' is unknown"),
        ({"model": 99}, "auto", "cuda:99"),
        ("auto", "cpu", "none beside a device map"),
        ({"lm_head": "cpu"}, "auto", "a device for every part of this model"),
    ],
)
def test_a_device_map_that_places_no_model_is_one_sentence(device_map, device, words):
    pytest.importorskip("accelerate")
    with pytest.raises((InvalidValueError, UnknownChoiceError), match=words):
        load_model("digits", device=device, device_map=device_map)


def test_marks_are_of_the_device_that_computes(spread, digits, questions):
    assert spread.device == torch.device("cpu") and spread.devices == (torch.device("cpu"),)
    asked = (questions[0].picture, questions[0].prompt, LOW)
    options = {"ranking": digits.block_ranking, "max_new_tokens": 4}
    answer = answer_measured(spread, *asked, clock=clock_for(*spread.devices), **options)
    times = answer.times
    assert answer.text == answer_measured(digits, *asked, clock=HostClock(), **options).text
    assert times.closure <= 0.01 and times.vision_ms > 0 and times.llm_prefill_ms > 0


def test_caches_agree_and_features_are_those_of_one_device(spread, digits, questions):
    request = spread.prepare(questions[0].picture, questions[0].prompt, "low")
    found = cached_against_uncached(spread.parts, request, skipped=frozenset({1, 5}))
    assert max(found.values()) < 1e-3
    own, spreads = (each.features(questions[0].picture, "Read the digits.") for each in (digits, spread))
    assert own == spreads


def test_a_clock_fits_the_devices():
    cpu, one, two = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
    kinds = [type(clock_for(*devices)) for devices in ((cpu,), (one,), (one, two), (one, cpu))]
    assert kinds == [HostClock, CudaClock, SynchronisedClock, SynchronisedClock]


def test_marks_of_several_devices_wait_for_all_of_them(monkeypatch):
    waited, devices = [], [torch.device("cuda", index) for index in range(2)]
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = clock_for(*devices)
    first, second = clock.mark(), clock.mark()
    assert waited == devices * 2 and clock.between_ms(first, second) >= 0


def without_weights(tmp_path, **config):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED["digits"], folder)
    (folder / "model.safetensors").unlink()  # whoever reads it fails otherwise
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **config}))
    return str(folder)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "from the moon"}, "from the moon"),
    ],
)
def test_a_quantised_checkpoint_that_nothing_here_reads_is_refused_before_its_weights(tmp_path, asked, kind):
    folder = without_weights(tmp_path, quantization_config=asked)
    with pytest.raises(ModelError, match=f"quantised by {kind}, which cannot be loaded here .* install that"):
        load_model(folder, device="cpu")


def test_a_device_map_without_accelerate_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"accelerate.* is not installed; expected it: pip install 'paceline\[hf\]'"):
        load_model(without_weights(tmp_path), device_map="auto")
