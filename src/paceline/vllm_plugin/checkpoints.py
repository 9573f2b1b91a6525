"""Checkpoints as vLLM reads them: fused experts of Qwen3-VL-MoE as they were published, stored transposed by transformers 5."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paceline.errors import ModelError, OutputPathError
from paceline.json_document import parsed_json

FUSED_EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")
TRANSPOSED = ("qwen3_vl_moe",)


def write_for_vllm(source: Path | str, folder: Path | str) -> Path:
    """Write a Qwen3-VL-MoE checkpoint that transformers 5 saved as vLLM 0.32 loads it, and return the new folder.

    Fused experts are [expert, out, in] in the source and [expert, in, out] in the copy, weights float32; everything else stays.
    Raises ModelError for another kind of model, one without weights or one that vLLM loads as it is, OutputPathError where
    `folder` holds anything.
    """
    source, folder = Path(source), Path(folder)
    config = _config(source)
    if folder.exists() and any(folder.iterdir()):
        raise OutputPathError(folder, "it exists already and is never overwritten; delete it first")
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{source} holds no .safetensors file; expected the folder of a whole model")
    _require_transposed(source, weights, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # killed on the way, a copy that an engine would load and answer wrongly from must not stand at its name
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as unfinished:
        written = Path(unfinished) / folder.name
        written.mkdir()
        _write(source, weights, config, written)
        written.replace(folder)
    return folder


def _write(source: Path, weights: Sequence[Path], config: dict[str, Any], folder: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path not in weights:
            shutil.copy(path, folder)
    for path in weights:
        tensors = {
            name: (tensor.transpose(1, 2) if name.endswith(FUSED_EXPERTS) else tensor).float().contiguous()
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
    config["dtype"] = "float32"
    # vLLM takes a missing field for False, transformers' models of this family for True
    config["text_config"].setdefault("norm_topk_prob", True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _require_transposed(source: Path, weights: Sequence[Path], config: Mapping[str, Any]) -> None:
    """Raise ModelError unless all fused experts are [expert, out, in]: turned around, others would load and answer wrongly."""
    hidden, inner = config["text_config"]["hidden_size"], config["text_config"]["moe_intermediate_size"]
    expected = {".experts.gate_up_proj": [2 * inner, hidden], ".experts.down_proj": [hidden, inner]}
    pairs = [(shape, expected[end], name) for name, end, shape in _fused_shapes(weights)]
    odd = [(shape, name) for shape, wanted, name in pairs if shape != wanted]
    if not pairs or (odd and all(shape[::-1] == wanted for shape, wanted, _ in pairs)):
        raise ModelError(
            f"{source} stores its experts as vLLM loads them; expected fused ones as transformers 5 saves them: serve it as it is"
        )
    if odd:
        shape, name = odd[0]
        raise ModelError(
            f"{name} in {source} has the shape {shape} after its experts; expected that of its config.json, as transformers 5 "
            "saves it: take weights and configuration of the same model"
        )


def _fused_shapes(weights: Sequence[Path]) -> Iterator[tuple[str, str, list[int]]]:
    """Return name, kind and shape, without the experts, of every fused tensor; no weight is read."""
    for path in weights:
        with safe_open(path, "pt") as file:
            names: list[str] = list(file.keys())
            for name in names:
                for end in FUSED_EXPERTS:
                    if name.endswith(end):
                        yield name, end, list(file.get_slice(name).get_shape()[1:])


def _config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    try:
        config = parsed_json(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); expected the folder of a whole model") from error
    fields = cast("dict[str, Any]", config) if isinstance(config, dict) else {}
    kind = fields.get("model_type")
    if kind not in TRANSPOSED:
        raise ModelError(
            f"{source} holds a model of kind {kind!r}; expected {', '.join(TRANSPOSED)}: vLLM loads others as they are"
        )
    return fields
