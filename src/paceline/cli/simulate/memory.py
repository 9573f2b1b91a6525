"""Flags of `paceline simulate` that say how many key-value blocks there are, by number or by a device's memory."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.printing import note
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.simulate.memory_size import (
    DEFAULT_UTILIZATION,
    DTYPE_BYTES,
    DeviceMemory,
    ModelShape,
    blocks_of_memory,
    weights_bytes,
)
from paceline.tune.simulated import blocks_that_last
from paceline.tune.workload import Workload

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
NumBlocksOption = Annotated[
    int | None,
    typer.Option(
        help="Blocks of the key-value cache.", show_default="by --model-config; without it memory never runs out"
    ),
]
ModelConfigOption = Annotated[
    Path | None, typer.Option(help="A model's config.json or folder: blocks by the engine's own formula.")
]
DeviceMemoryOption = Annotated[str | None, typer.Option(help="Of each device, for --model-config: 80GiB, 24GB.")]
MemoryUtilizationOption = Annotated[float, typer.Option(help="Share of it that the engine may use.")]
OtherMemoryOption = Annotated[
    str | None,
    typer.Option(
        help="Of it, a device's weights and what a step needs beside them; an engine's log tells.",
        show_default="the weight files beside the config",
    ),
]
KvDtypeOption = Annotated[
    str | None,
    typer.Option(help=f"Of keys and values: {', '.join(DTYPE_BYTES)}.", show_default="the model's, at most 16 bits"),
]
TensorParallelOption = Annotated[int, typer.Option(help="Devices that share the model, for --model-config.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFlags:
    """What was asked for."""

    num_blocks: int | None = None
    model_config: Path | None = None
    device_memory: str | None = None
    memory_utilization: float = DEFAULT_UTILIZATION
    other_memory: str | None = None
    tensor_parallel: int = 1
    kv_dtype: str | None = None

    def blocks(self, rules: str, workload: Workload, *, max_num_seqs: int, block_size: int) -> int:
        """Return the number of blocks; raises InvalidValueError for flags that do not go together."""
        if self.model_config is None:
            if self.device_memory is not None or self.other_memory is not None:
                raise InvalidValueError("--model-config", None, "a model's config.json with --device-memory")
            return self.num_blocks or blocks_that_last(
                workload.requests, max_num_seqs=max(1, max_num_seqs), block_size=max(1, block_size)
            )
        if self.num_blocks is not None or self.device_memory is None:
            expected = "--device-memory, and no --num-blocks, with --model-config"
            raise InvalidValueError("--device-memory", self.device_memory, expected)
        memory = DeviceMemory(
            total_bytes=memory_bytes("--device-memory", self.device_memory),
            other_bytes=self._other_bytes(self.model_config),
            utilization=self.memory_utilization,
            tensor_parallel=self.tensor_parallel,
            kv_dtype_bytes=None if self.kv_dtype is None else _bytes_of(self.kv_dtype),
        )
        return blocks_of_memory(rules, ModelShape.load(self.model_config), memory, block_size=block_size)

    def _other_bytes(self, config: Path) -> int:
        if self.other_memory is not None:
            return memory_bytes("--other-memory", self.other_memory)
        found = weights_bytes(config)
        if found is None:
            note("no weight files beside the model config: all of the memory counts as key-value cache", mark="caution")
        return (found or 0) // max(1, self.tensor_parallel)


def _bytes_of(dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise UnknownChoiceError("kv dtype", dtype, tuple(DTYPE_BYTES))
    return DTYPE_BYTES[dtype]


def memory_bytes(flag: str, words: str) -> int:
    """Return the bytes of words such as 80GiB; raises InvalidValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", words)
    if match is None or match[2].upper() not in UNITS:
        raise InvalidValueError(flag, words, "a number with B, KB, MB, GB, KiB, MiB or GiB, for example 80GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])
