"""The device that a name asks for; imports torch alone, for training needs no transformers."""

import os
import re
from collections.abc import Mapping

import torch

from paceline.errors import InvalidValueError, UnknownChoiceError

NAME = re.compile(r"(auto|cpu|cuda)(?::(\d+))?", re.ASCII)
LOCAL_RANK = "LOCAL_RANK"  # set by torchrun for each process of a machine


def torch_device(name: str, environment: Mapping[str, str] = os.environ) -> torch.device:
    """Return auto (CUDA if there is one), cpu or cuda[:n]; under torchrun `auto` and `cuda` mean the rank's own GPU.

    Raises UnknownChoiceError for another word, InvalidValueError without CUDA and for a GPU that is not there.
    """
    parts = NAME.fullmatch(name)
    if parts is None:
        raise UnknownChoiceError("device", name, ("auto", "cpu", "cuda", "cuda:0"))
    kind, number = parts.groups()
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidValueError("device", name, "cpu, for this machine has no CUDA device that torch can use")
    return _gpu(name, number, environment)


def _gpu(name: str, number: str | None, environment: Mapping[str, str]) -> torch.device:
    rank = environment.get(LOCAL_RANK) if number is None else number
    if rank is None:
        return torch.device("cuda")
    count = torch.cuda.device_count()
    if not rank.isdigit() or int(rank) >= count:
        whose = f"device {name!r}" if number is not None else f"{LOCAL_RANK} of the environment"
        raise InvalidValueError(whose, rank, f"the number of one of the {count} GPUs of this machine, from 0")
    return torch.device("cuda", int(rank))
