"""Recorded results of official programs. PACELINE_GOLDEN=FOLDER reads another folder of the same files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHIPPED = Path(__file__).parent / "data"


def _found(part: str, name: str) -> Path:
    folder = Path(os.environ.get("PACELINE_GOLDEN", SHIPPED))
    for path in (folder / part / name, folder / name):
        if path.is_file():
            return path
    pytest.skip(f"{folder} has no {part}/{name}")


@pytest.fixture(scope="session")
def golden_metric() -> Callable[[str], dict[str, Any]]:
    """A metric's file: its `cases`, its `corpus` figures and its `tolerance`."""
    return lambda name: json.loads(_found("metrics", f"{name}.json").read_text(encoding="utf-8"))


class _GoldenArrays:
    """The arrays of a file of recorded simulations, by name."""

    def path(self, name: str) -> Path:
        return _found("vidur", f"{name}.npz")

    def __call__(self, name: str) -> dict[str, Any]:
        with np.load(self.path(name)) as file:
            return {key: file[key] for key in file.files}


@pytest.fixture(scope="session")
def golden_arrays() -> _GoldenArrays:
    """Reads the arrays of a recorded simulation; `path` is where they stand."""
    return _GoldenArrays()
