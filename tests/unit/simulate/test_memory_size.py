"""Blocks from a model's configuration and a device's memory; `tests/vllm/test_memory_size.py` asks vLLM itself."""

import json
from dataclasses import replace

import pytest

from paceline.errors import InvalidValueError
from paceline.simulate.memory_size import DeviceMemory, ModelShape, blocks_of_memory, weights_bytes

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
A100 = DeviceMemory(total_bytes=80 * 2**30)


def shape_of(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return ModelShape.load(tmp_path)


@pytest.mark.parametrize(("config", "devices", "blocks"), [(LLAMA_8B, 1, 30_208), (LLAMA_70B, 2, 3_328)])
def test_vidur_makes_as_many_blocks_of_its_own_models(tmp_path, config, devices, blocks):
    memory = replace(A100, tensor_parallel=devices)
    assert blocks_of_memory("vidur", shape_of(tmp_path, config), memory, block_size=16) == blocks


@pytest.mark.parametrize("rules", ["vllm", "paceline"])
def test_vllm_makes_blocks_of_what_weights_and_activations_leave(tmp_path, rules):
    shape = shape_of(tmp_path, LLAMA_8B)
    block_bytes = 32 * 2 * 8 * 128 * 2 * 16
    assert shape.bytes_per_block(16) == block_bytes
    memory = DeviceMemory(total_bytes=1_000 * block_bytes, other_bytes=100 * block_bytes, utilization=0.9)
    assert blocks_of_memory(rules, shape, memory, block_size=16) == 800
    assert blocks_of_memory(rules, shape, replace(memory, tensor_parallel=2), block_size=16) == 1_600
    assert blocks_of_memory(rules, shape, replace(memory, tensor_parallel=32), block_size=16) == 6_400  # one head each
    assert blocks_of_memory(rules, shape, replace(memory, kv_dtype_bytes=1), block_size=16) == 1_600
    assert blocks_of_memory(rules, shape, memory, block_size=32) == 400


def test_heads_and_their_size_are_what_is_left_out(tmp_path):
    config = {name: value for name, value in LLAMA_8B.items() if name != "num_key_value_heads"}
    assert shape_of(tmp_path, config).kv_heads == 32
    assert shape_of(tmp_path, {**LLAMA_8B, "head_dim": 64}).head_size == 64


def test_a_model_with_images_has_the_caches_of_its_text_model(tmp_path):
    whole = {"model_type": "some_vlm", "hidden_size": 7, "torch_dtype": "float16", "text_config": LLAMA_8B}
    assert shape_of(tmp_path, whole) == shape_of(tmp_path, LLAMA_8B)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kv_lora_rank": 512}, "its attention is latent"),
        ({"mamba_d_state": 16}, "it has state-space layers"),
        ({"sliding_window": 4096}, "its attention slides"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "it has layers of sliding_attention"),
        ({"num_hidden_layers": None}, "num_hidden_layers of .*config.json is None; expected a whole number"),
        ({"torch_dtype": "int3"}, "dtype of .*config.json is 'int3'"),
    ],
)
def test_caches_of_another_kind_are_refused(tmp_path, changed, words):
    with pytest.raises(InvalidValueError, match=words):
        shape_of(tmp_path, {**LLAMA_8B, **changed})


def test_a_window_that_is_not_used_is_none(tmp_path):
    assert shape_of(tmp_path, {**LLAMA_8B, "sliding_window": 4096, "use_sliding_window": False}).layers == 32


@pytest.mark.parametrize("rules", ["vidur", "vllm"])
def test_a_model_that_fills_the_memory_is_a_sentence(tmp_path, rules):
    memory = DeviceMemory(total_bytes=10 * 2**30, other_bytes=16 * 10**9)
    with pytest.raises(InvalidValueError, match="holds no block of key-value cache beside 16,000,000,000 bytes"):
        blocks_of_memory(rules, shape_of(tmp_path, LLAMA_8B), memory, block_size=16)


def test_what_is_no_config_is_a_sentence(tmp_path):
    with pytest.raises(InvalidValueError, match="a readable config.json"):
        ModelShape.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InvalidValueError, match="holds an object"):
        ModelShape.load(tmp_path)
    for wrong in ({"total_bytes": 0}, {"utilization": 0.0}, {"utilization": 1.1}, {"other_bytes": -1}):
        with pytest.raises(InvalidValueError):
            replace(A100, **wrong)


def test_weights_are_the_files_beside_the_config(tmp_path):
    assert weights_bytes(tmp_path) is None
    for number in range(2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(b"0" * 50)
    assert weights_bytes(tmp_path) == weights_bytes(tmp_path / "config.json") == 100
