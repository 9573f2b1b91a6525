"""Blocks of the key-value cache: what the simulator makes of a model's configuration is what vLLM makes of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_llm import write_tiny_llm
from tiny_moe import write_tiny_moe
from vllm import LLM
from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
from vllm.v1.worker.utils import request_memory

from paceline.simulate.memory_size import DeviceMemory, ModelShape, blocks_of_memory
from paceline.vllm_plugin.relied_on import release_devices

CACHE_BYTES = 2**30  # VLLM_CPU_KVCACHE_SPACE of conftest.py, in GiB
MODELS = {
    "dense": lambda folder: write_tiny_llm(folder, layers=3, hidden=192),
    "experts": lambda folder: write_tiny_moe(folder, layers=2),
}


@pytest.mark.parametrize(("model", "dtype"), [("dense", "float32"), ("experts", "auto")])
def test_blocks_are_vllms_own(model, dtype, tmp_path):
    kv_bytes = 4 if dtype == "float32" else None
    folder = MODELS[model](tmp_path / model)
    engine = LLM(
        str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=512,
        block_size=32,
        dtype=dtype,
    )
    try:
        config = engine.llm_engine.vllm_config
        shape = ModelShape.load(folder)
        whole = DeviceMemory(total_bytes=CACHE_BYTES, utilization=1.0, kv_dtype_bytes=kv_bytes)
        ours = blocks_of_memory("vllm", shape, whole, block_size=32)
        assert config.cache_config.num_gpu_blocks == ours > 1
        (specs,) = engine.collective_rpc("get_kv_cache_spec")
        for total, other, utilization in ((10**9, 10**7, 0.9), (2**28 + 7, 54_321, 0.5), (3 * 10**8, 0, 0.123)):
            memory = replace(whole, total_bytes=total, other_bytes=other, utilization=utilization)
            asked = SimpleNamespace(total_memory=total, free_memory=total, device_="device")
            share = request_memory(asked, SimpleNamespace(gpu_memory_utilization=utilization))
            (made,) = get_kv_cache_configs(config, [specs], [share - other])
            assert blocks_of_memory("vllm", shape, memory, block_size=32) == made.num_blocks
    finally:
        del engine
        release_devices()
