"""The device that a name asks for; imports torch alone, for training needs no transformers."""

import torch

from paceline.errors import InvalidValueError, UnknownChoiceError


def torch_device(name: str) -> torch.device:
    """Return auto (CUDA if there is one), cpu or cuda[:n]; raises UnknownChoiceError, or InvalidValueError without CUDA."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UnknownChoiceError("device", name, ("auto", "cpu", "cuda"))
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError("device", name, "cpu, for this machine has no CUDA device that torch can use")
    return torch.device(name)
