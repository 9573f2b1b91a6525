"""Compilation by numba: the one place that imports it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from paceline.errors import MissingExtraError

try:
    from numba import config, njit
except ImportError as error:
    raise MissingExtraError("numba", "simulate") from error

Function = TypeVar("Function", bound=Callable[..., Any])
# nothing here allocates, so that nothing needs counting references; a division by zero would be a mistake of ours
OPTIONS = {"error_model": "numpy", "_nrt": False}
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}  # nobody but compiled code calls it
_compile = cast("Callable[..., Any]", njit)


def compiled(function: Function) -> Function:
    """Return a function that is compiled as part of the one that calls it."""
    return cast("Function", _compile(function, **OPTIONS, **INNER))


def compiled_once(function: Function) -> Function:
    """Return a compiled function whose machine code is kept between processes, where a folder for it can be written.

    numba looks only at the file of the function itself to tell whether kept code is still right; the folder's name is a
    digest of all files here, so that a change in any of them is a change.
    """
    folder = _cache_folder()
    if folder is None:
        return cast("Function", _compile(function, **OPTIONS))
    settings = cast("Any", config)
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
    try:
        return cast("Function", _compile(function, cache=True, **OPTIONS))
    finally:
        settings.CACHE_DIR = before


def _cache_folder() -> Path | None:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~").expanduser() / ".cache")
    folder = Path(home) / "paceline" / f"simulate-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
