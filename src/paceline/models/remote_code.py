"""Code that comes with a checkpoint: never run unless its user pinned it, and then exactly that."""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub import snapshot_download

from paceline.errors import ModelError

COMMIT = re.compile(r"[0-9a-f]{40}")
FLAG = "--trust-remote-code"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCode:
    """The code files of a checkpoint in one folder, and what its user pinned them by: a commit of the hub, or their hash."""

    name: str
    folder: Path
    pinned: str

    def imported(self, reference: str) -> Any:
        """Return the class that `file.Class` of the configuration's `auto_map` names; ModelError where it cannot be had."""
        module, _, name = reference.rpartition(".")
        if not module.isidentifier() or not (self.folder / f"{module}.py").is_file():
            raise ModelError(
                f"the configuration of {self.name!r} names its code {reference!r}; expected a class of a file beside it"
            )
        try:
            return getattr(importlib.import_module(f"{self._package()}.{module}"), name)
        except ImportError as error:
            raise ModelError(
                f"the code of {self.name!r} imports {error.name or error}, which this environment does not have; install it"
            ) from error
        except Exception as error:  # it is anybody's code
            raise ModelError(
                f"the code of {self.name!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error

    def _package(self) -> str:
        package = f"paceline_remote_code_{code_hash(self.folder)}"
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [str(self.folder)]
            sys.modules[package] = module
        return package


def code_hash(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all Python files of a folder, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def pinned_code(name: str, source: str, pinned: str | None, revision: str | None) -> RemoteCode:
    """Return the code of a checkpoint that the user trusts.

    A local folder's is pinned by the hash of its files, the hub's by the full commit. Raises ModelError, which says what to
    give, for code that is not pinned, is another than was pinned, or is pinned by a name that can move.
    """
    folder = Path(source)
    if folder.is_dir():
        return RemoteCode(name=name, folder=folder, pinned=_required_hash(name, folder, pinned))
    if pinned is None or COMMIT.fullmatch(pinned) is None:
        said = "" if pinned is None else f", and {pinned!r} is no commit"
        raise ModelError(
            f"the model {name!r} comes with code of its own, which would run with all your rights{said}; expected "
            f"{FLAG} with the commit whose code you have read, all 40 hexadecimal digits: a branch or a tag can move"
        )
    if revision not in (None, pinned):
        raise ModelError(
            f"{FLAG} is the commit {pinned}, but the revision asked for is {revision!r}; leave the revision out"
        )
    return RemoteCode(
        name=name, folder=Path(snapshot_download(source, revision=pinned, allow_patterns="*.py")), pinned=pinned
    )


def _required_hash(name: str, folder: Path, pinned: str | None) -> str:
    found = code_hash(folder)
    if pinned == found:
        return found
    files = ", ".join(path.name for path in sorted(folder.glob("*.py")))
    if pinned is None:
        raise ModelError(
            f"the model {name!r} comes with code of its own ({files}), which would run with all your rights; read it, and if you "
            f"trust it give {FLAG} {found}, the hash of these files"
        )
    raise ModelError(
        f"{FLAG} is {pinned!r}, but the code files of {name!r} ({files}) have the hash {found}: another code than was pinned; "
        "read it again before you pin it"
    )


def require_none(name: str, pinned: str | None) -> None:
    """Raise ModelError where code is trusted that a model does not need."""
    if pinned is not None:
        raise ModelError(f"{FLAG} is given, but the code of {name!r} is part of transformers; leave it out")


def class_reference(name: str, config: Mapping[str, Any], kind: str) -> str:
    """Return what `auto_map` of a raw configuration names for `AutoConfig` or an auto model class."""
    named: Any = config.get("auto_map") or {}
    found = named.get(kind) if isinstance(named, Mapping) else None  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(found, str):
        raise ModelError(
            f"config.json of {name!r} names no code for {kind} in its auto_map; expected `file.Class`: take the files of the "
            "checkpoint that it was made from"
        )
    return found
