"""How many key-value blocks an engine makes of a device's memory: a model's configuration, and each engine's own formula."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paceline.errors import InvalidValueError
from paceline.json_document import parsed_json
from paceline.simulate.engine_settings import VIDUR

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "fp8": 1}
DEFAULT_UTILIZATION = (
    0.9  # of vLLM's gpu_memory_utilization up to 0.8; Vidur's memory_margin_fraction is what is left of 1
)
VIDUR_MAX_TOKENS = 4096
# what these say of a model's caches is not one block of equal size a layer
OTHER_CACHES = {
    "kv_lora_rank": "its attention is latent",
    "mamba_d_state": "it has state-space layers",
    "ssm_state_size": "it has state-space layers",
    "linear_num_key_heads": "it has linear attention",
    "attention_chunk_size": "its attention is chunked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model's memory follows from; `dtype_bytes` are those of a weight."""

    layers: int
    query_heads: int
    kv_heads: int
    head_size: int
    hidden_size: int
    mlp_size: int
    is_gated: bool
    dtype_bytes: int

    @staticmethod
    def load(path: Path | str) -> "ModelShape":
        """Read a `config.json`, or that of a model's folder; of several models in one, the text model.

        Raises InvalidValueError with the field that is missing, or with what makes the model's caches another kind.
        """
        file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
        try:
            whole: object = parsed_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidValueError("model config", str(file), f"a readable config.json ({error})") from error
        if not isinstance(whole, dict):
            raise InvalidValueError("model config", str(file), "a config.json that holds an object")
        cells = cast("dict[str, Any]", whole)
        text = cells.get("text_config")
        config = {**cells, **cast("dict[str, Any]", text)} if isinstance(text, dict) else cells
        _require_one_cache(config, file)
        heads, hidden = _whole(config, "num_attention_heads", file), _whole(config, "hidden_size", file)
        return ModelShape(
            layers=_whole(config, "num_hidden_layers", file),
            query_heads=heads,
            kv_heads=_whole(config, "num_key_value_heads", file, heads),
            head_size=_whole(config, "head_dim", file, hidden // heads),
            hidden_size=hidden,
            mlp_size=_whole(config, "intermediate_size", file, 4 * hidden),
            is_gated=str(config.get("hidden_act", "silu")) in ("silu", "swiglu", "gelu_pytorch_tanh"),
            dtype_bytes=_dtype_bytes(config.get("dtype") or config.get("torch_dtype") or "float32", file),
        )

    def bytes_per_block(self, block_size: int, *, tensor_parallel: int = 1, kv_dtype_bytes: int | None = None) -> int:
        """Return the bytes of a block on each device: keys and values of `block_size` tokens in every layer.

        Without `kv_dtype_bytes` they are as the weights; a model of 32-bit floats is served with 16, vLLM's dtype `auto`.
        """
        heads = max(1, self.kv_heads // tensor_parallel)  # where there are fewer than devices, each holds one
        return self.layers * 2 * heads * self.head_size * (kv_dtype_bytes or min(2, self.dtype_bytes)) * block_size


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """A device's memory and who shares it: `other_bytes` are a device's weights and what a step needs beside them."""

    total_bytes: int
    other_bytes: int = 0
    utilization: float = DEFAULT_UTILIZATION
    tensor_parallel: int = 1
    kv_dtype_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("total_bytes", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "a whole number of at least 1")
        if self.other_bytes < 0:
            raise InvalidValueError("other_bytes", self.other_bytes, "at least 0")
        if not 0 < self.utilization <= 1:
            raise InvalidValueError("utilization", self.utilization, "a share above 0 and at most 1")


def blocks_of_memory(rules: str, shape: ModelShape, memory: DeviceMemory, *, block_size: int) -> int:
    """Return the number of blocks by the formula of the rules' engine; raises InvalidValueError where none is left."""
    blocks = _vidur_blocks(shape, memory, block_size) if rules == VIDUR else _vllm_blocks(shape, memory, block_size)
    if blocks < 1:
        expected = (
            f"more memory: {memory.utilization:g} of {memory.total_bytes:,} bytes holds no block of key-value cache "
            f"beside {memory.other_bytes:,} bytes of weights and activations"
        )
        raise InvalidValueError("device memory", memory.total_bytes, expected)
    return blocks


def _vllm_blocks(shape: ModelShape, memory: DeviceMemory, block_size: int) -> int:
    """vLLM 0.32: what its share of the memory leaves beside weights and the largest step, in whole blocks."""
    available = math.ceil(memory.total_bytes * memory.utilization) - memory.other_bytes
    size = shape.bytes_per_block(
        block_size, tensor_parallel=memory.tensor_parallel, kv_dtype_bytes=memory.kv_dtype_bytes
    )
    return available // size


def _vidur_blocks(shape: ModelShape, memory: DeviceMemory, block_size: int) -> int:
    """Vidur: whole requests of the longest kind beside its own count of the layers' weights; 16-bit throughout."""
    attention = shape.hidden_size * shape.head_size * (2 * shape.query_heads + 2 * shape.kv_heads)
    mlp = (3 if shape.is_gated else 2) * shape.hidden_size * shape.mlp_size
    weights = 2 * shape.layers * (attention + mlp) // memory.tensor_parallel
    left = memory.total_bytes * memory.utilization - weights
    token_bytes = shape.bytes_per_block(1, tensor_parallel=memory.tensor_parallel, kv_dtype_bytes=2)
    requests = int(left // (token_bytes * VIDUR_MAX_TOKENS))
    return max(0, requests) * (VIDUR_MAX_TOKENS // block_size)


def weights_bytes(folder: Path | str) -> int | None:
    """Return the bytes of the weight files in a model's folder; None where there are none."""
    folder = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return sum(sizes) or None


def _require_one_cache(config: Mapping[str, Any], file: Path) -> None:
    reasons = [reason for key, reason in OTHER_CACHES.items() if config.get(key)]
    kinds = {str(kind) for kind in config.get("layer_types") or ()} - {"full_attention"}
    if kinds:
        reasons.append(f"it has layers of {', '.join(sorted(kinds))}")
    elif config.get("sliding_window") and config.get("use_sliding_window", True):
        reasons.append("its attention slides")
    if reasons:
        expected = f"full attention in every layer, which these rules know: {reasons[0]}; give num_blocks instead"
        raise InvalidValueError("model config", str(file), expected)


def _whole(config: Mapping[str, Any], name: str, file: Path, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValueError(f"{name} of {file}", value, "a whole number of at least 1")
    return value


def _dtype_bytes(name: object, file: Path) -> int:
    if str(name) not in DTYPE_BYTES:
        raise InvalidValueError(f"dtype of {file}", name, f"one of {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[str(name)]
