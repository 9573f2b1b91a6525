"""Where the parts of a model run: on one device, or spread over several by accelerate's hooks, weights on a disk included."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer

from paceline.errors import InvalidValueError, ModelError, UnknownChoiceError
from paceline.models.devices import torch_device

# a word that accelerate spreads by, or a device by the name of each part
DeviceMap = str | Mapping[str, str | int]
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
DISK = "disk"


def execution_device(module: nn.Module) -> torch.device | None:
    """Return the device that accelerate's hooks bring a module's inputs and weights to; None where it has none."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        device: Any = getattr(each, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None


def execution_devices(model: nn.Module) -> tuple[torch.device, ...]:
    """Return every device that a model computes on: those of the hooks, else those that its weights lie on."""
    hooked = dict.fromkeys(execution_device(module) for module in model.modules())
    found = [device for device in hooked if device is not None and device.type != "meta"]
    return tuple(found or dict.fromkeys(weight.device for weight in model.parameters()))


def require_device_map(device_map: DeviceMap, device: str) -> None:
    """Raise InvalidValueError or UnknownChoiceError for what places no model, for a device that this machine lacks, and for a
    `device` asked for beside it."""
    if device != "auto":
        raise InvalidValueError("device", device, "none beside a device map, which says where every part goes")
    if isinstance(device_map, str):
        if device_map not in SPREADS:
            _require_device(device_map, (*SPREADS, "cpu", "cuda", "cuda:0"))
        return
    if not device_map:
        raise InvalidValueError("device_map", {}, "a device by the name of each part, or one of " + ", ".join(SPREADS))
    for place in device_map.values():
        if place != DISK:
            _require_device(f"cuda:{place}" if isinstance(place, int) else place, ("cpu", "cuda", "cuda:0", DISK))


def require_whole(device_map: Mapping[str, str | int], weights: Sequence[str]) -> None:
    """Raise InvalidValueError where a weight is under no part of a device map."""

    def within(weight: str, part: str) -> bool:
        return part == "" or weight == part or weight.startswith(f"{part}.")

    for weight in weights:
        if not any(within(weight, part) for part in device_map):
            raise InvalidValueError(
                "device_map", dict(device_map), f"a device for every part of this model, {weight} too"
            )


def _require_device(name: str, choices: tuple[str, ...]) -> None:
    try:
        torch_device("" if name in SPREADS else name)
    except UnknownChoiceError as error:
        raise UnknownChoiceError("device of a device map", name, choices) from error


def require_accelerate(name: str) -> None:
    """Raise ModelError where a model is spread over devices, or quantised, and accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise ModelError(
            f"the model {name!r} is spread over devices, or quantised, and accelerate, which places its parts, is not installed; "
            "expected it: pip install 'paceline[hf]'"
        )


def require_quantiser(name: str, config: Any, dtype: torch.dtype, device_map: object) -> bool:
    """Return whether a checkpoint is quantised, once what reads its kind is known to be here; no weight is read.

    Raises ModelError with the kind and what transformers says is missing: a package, or a device.
    """
    asked: Any = getattr(config, "quantization_config", None)
    if asked is None:
        return False
    kind = asked.get("quant_method") if isinstance(asked, dict) else getattr(asked, "quant_method", None)  # pyright: ignore[reportUnknownMemberType]
    try:
        AutoHfQuantizer.from_config(asked, pre_quantized=True).validate_environment(device_map=device_map, dtype=dtype)
    except Exception as error:  # each kind raises its own: a package, a version or a device that is missing
        said, kind = " ".join(str(error).split()), getattr(kind, "value", kind)
        raise ModelError(
            f"the model {name!r} is a checkpoint quantised by {kind}, which cannot be loaded here ({said}); "
            "expected what reads it: install that, or load the checkpoint that it was made from"
        ) from error
    return True
