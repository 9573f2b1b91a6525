"""Step times from tables as Vidur (microsoft/vidur at 7d475133, MIT) predicts them: milliseconds a layer, by tokens."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from paceline.errors import StepTimeError
from paceline.json_document import parsed_json
from paceline.simulate.load import Floats
from paceline.simulate.step_work import StepWork

BY_TOKENS = (
    "attn_pre_proj",
    "attn_post_proj",
    "attn_rope",
    "attn_kv_cache_save",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "input_layernorm",
    "post_attention_layernorm",
    "add",
)
CONTEXT_STEP = 64  # tokens from one column of attn_decode, or row of attn_prefill, to the next
TOKEN_STEP = 8  # batches are padded to multiples of it
MOST_BYTES = 1 << 30
# what numpy and zipfile raise for damaged files: a header that asks for more than there is, a broken or encrypted member
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    EOFError,
    zlib.error,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
)
META = ("layers_per_stage", "tp", "decode_overhead", "prefill_overhead", "nccl_launch_ms", "nccl_skew_ms")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VidurTables:
    """A step's seconds, put together from tables with one addition order, so that equal loads take equal bits.

    `before_attention`, `after_attention`, `mlp` and `add` are by the tokens of a step, `decode` is by (decodes, mean
    context in steps of 64 tokens, rounded up), `prefill` by (sum over chunks of the context in such steps, root of the
    summed squares of chunks). Times are milliseconds a layer; the overheads of several decodes and chunks are factors.
    """

    path: str
    before_attention: Floats
    communication: Floats
    layernorm: Floats
    mlp: Floats
    add: Floats
    decode: Floats
    prefill: Floats
    decode_factor: float
    prefill_factor: float
    layers: int

    @staticmethod
    def load(path: Path | str) -> "VidurTables":
        """Read an npz file; raises StepTimeError with the table that is missing or of another shape."""
        meta, arrays = _read(path)
        tokens = len(arrays["add"])
        padded = np.minimum(-(-np.arange(tokens) // TOKEN_STEP) * TOKEN_STEP, tokens - 1)
        by_tokens = {name: arrays[name][padded] for name in BY_TOKENS}
        comm = _communication(meta, arrays, padded, path)
        before = by_tokens["attn_pre_proj"] + by_tokens["attn_post_proj"] + by_tokens["attn_rope"]
        mlp = by_tokens["mlp_up_proj"] + by_tokens["mlp_down_proj"] + by_tokens["mlp_act"]
        return VidurTables(
            path=str(path),
            before_attention=before + arrays["attn_kv_cache_save"],  # of the tokens themselves, not padded
            communication=comm,
            layernorm=by_tokens["input_layernorm"],
            mlp=mlp + comm + by_tokens["post_attention_layernorm"],
            add=by_tokens["add"],
            decode=arrays["attn_decode"],
            prefill=arrays["attn_prefill"],
            decode_factor=1 + meta["decode_overhead"],
            prefill_factor=1 + meta["prefill_overhead"],
            layers=int(meta["layers_per_stage"]),
        )

    @property
    def request_seconds(self) -> float:
        """Nothing: tables tell of steps alone."""
        return 0.0

    def seconds(self, step: int, work: StepWork) -> float:  # noqa: ARG002
        """Return the time of a step; raises StepTimeError, with the index, where a table is too small for it."""
        decodes = work.decodes + len(work.last_tokens)
        tokens = decodes + sum(chunk.tokens for chunk in work.chunks)
        decode = prefill = 0.0
        if decodes:
            context = work.decode_context_tokens + sum(chunk.context_tokens for chunk in work.last_tokens)
            mean = (context + decodes) // decodes  # the token that is computed included
            decode = self._entry("attn_decode", self.decode, decodes, -(-mean // CONTEXT_STEP))
            decode *= self.decode_factor if decodes > 1 else 1.0
        if work.chunks:
            context = sum(-(-chunk.context_tokens // CONTEXT_STEP) for chunk in work.chunks)
            size = round(sum(chunk.tokens**2 for chunk in work.chunks) ** 0.5)
            prefill = self._entry("attn_prefill", self.prefill, context, size)
            prefill *= self.prefill_factor if len(work.chunks) > 1 else 1.0
        if tokens >= len(self.add):
            raise StepTimeError(table_too_small(self.path, "attn_pre_proj", (tokens,), self.add.shape))
        comm, layernorm = float(self.communication[tokens]), float(self.layernorm[tokens])
        attention = float(self.before_attention[tokens]) + decode + prefill + comm + layernorm
        return ((attention + float(self.mlp[tokens]) + float(self.add[tokens])) * self.layers) * 1e-3

    def start_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds

    def queue_closes_seconds(self, step: int, now_seconds: float) -> float:  # noqa: ARG002
        """Return now."""
        return now_seconds

    def _entry(self, name: str, table: Floats, row: int, column: int) -> float:
        if row >= table.shape[0] or column >= table.shape[1]:
            raise StepTimeError(table_too_small(self.path, name, (row, column), table.shape))
        return float(table[row, column])


def table_too_small(path: str, name: str, index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Return the sentence about a load that a table has no entry for."""
    return (
        f"{path}: table {name} has no entry {list(index)}, its shape is {list(shape)}; expected one for every step of the "
        "load: take larger tables, a smaller chunk_size or max_num_seqs, or shorter requests"
    )


def _read(path: Path | str) -> tuple[dict[str, float], dict[str, Floats]]:
    try:
        _require_size(path)
        with np.load(path, allow_pickle=False) as file:
            found: Mapping[str, Any] = {name: file[name] for name in file.files}
        arrays = {name: np.asarray(found[name], dtype=np.float64) for name in found if name != "meta"}
        meta = cast("dict[str, float]", parsed_json(str(found["meta"])))
    except UNREADABLE as error:
        raise StepTimeError(
            f"{path} cannot be read as tables ({error!s:.200}); expected an npz file with meta"
        ) from error
    _require_meta(meta, path)
    missing = [name for name in (*BY_TOKENS, "attn_decode", "attn_prefill") if name not in found]
    if missing:
        raise StepTimeError(f"{path}: table {missing[0]} is missing; expected {', '.join(BY_TOKENS)}, attn_decode, …")
    tokens = arrays["add"].shape
    for name, array in arrays.items():
        wide = name in ("attn_decode", "attn_prefill")
        if array.ndim != (2 if wide else 1) or array.size == 0 or (array.shape != tokens and not wide):
            expected = "two dimensions, none of them 0" if wide else f"{tokens}, as add has"
            raise StepTimeError(f"{path}: table {name} has shape {array.shape}; expected {expected}")
        asked = (
            array[:, 1:] if name == "attn_prefill" else array[1:]
        )  # the time of no token is not asked for, and is NaN
        if not (np.isfinite(asked) & (asked >= 0)).all():
            raise StepTimeError(f"{path}: table {name} holds what is no time; expected milliseconds of at least 0")
    return meta, arrays


def _require_size(path: Path | str) -> None:
    with zipfile.ZipFile(path) as archive:
        whole = sum(each.file_size for each in archive.infolist())
    if whole > MOST_BYTES:
        raise ValueError(f"it unpacks to {whole:,} bytes, of which {MOST_BYTES:,} are read at most")


def _require_meta(meta: object, path: Path | str) -> None:
    told = cast("dict[str, object]", meta) if isinstance(meta, dict) else {}
    for name in META:
        value = told.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        least = 1 if name in ("layers_per_stage", "tp") else 0
        if not number or cast(float, value) < least:
            raise StepTimeError(f"{path}: meta.{name} is {value!r:.60}; expected a number of at least {least}")


def _communication(meta: Mapping[str, float], arrays: Mapping[str, Floats], padded: Any, path: Path | str) -> Floats:
    if meta["tp"] == 1:
        return np.zeros_like(arrays["add"])
    if "all_reduce" not in arrays:
        raise StepTimeError(f"{path}: table all_reduce is missing; expected it with meta.tp {meta['tp']}")
    return arrays["all_reduce"][padded] + meta["nccl_launch_ms"] + meta["nccl_skew_ms"] * meta["tp"] ** 1.25
