"""Code that comes with a checkpoint: never run unless its user pinned it, and then exactly that."""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from huggingface_hub import snapshot_download

from paceline.errors import ModelError

COMMIT = re.compile(r"[0-9a-f]{40}")
FLAG = "--trust-remote-code"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCode:
    """The code files of a checkpoint in one folder, and what its user pinned them by: a commit of the hub, or their hash.

    `sources` are the files as they were when they were pinned, by their names in the folder: what runs is these bytes.
    """

    name: str
    folder: Path
    pinned: str
    sources: Mapping[str, bytes]

    def imported(self, reference: str) -> Any:
        """Return the class that `file.Class` of the configuration's `auto_map` names; ModelError where it cannot be had."""
        module, _, name = reference.rpartition(".")
        if not module.isidentifier() or f"{module}.py" not in self.sources:
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
        package = f"paceline_remote_code_{hash_of(self.sources)}"
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = []  # nothing is looked for in the folder itself
            sys.meta_path.insert(0, _PinnedModules(package, self.folder, self.sources))
            sys.modules[package] = module
        return package


class _PinnedModules(MetaPathFinder, InspectLoader):
    """Finds and loads the modules of pinned code from the bytes that were hashed, and from nowhere else.

    Python's own finder would take a compiled file, an extension module or a folder of the same name beside a hashed file first.
    """

    def __init__(self, package: str, folder: Path, sources: Mapping[str, bytes]) -> None:
        self._package, self._folder, self._sources = package, folder, sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of the package comes from; None for any other."""
        del path, target
        file = self._file(fullname)
        if file is None:
            return None
        spec = ModuleSpec(fullname, self, origin=str(self._folder / file), is_package=self.is_package(fullname))
        spec.has_location = True  # a traceback names the file
        return spec

    def is_package(self, fullname: str) -> bool:
        """Tell whether a module holds others."""
        return str(self._file(fullname)).endswith("__init__.py")

    def get_source(self, fullname: str) -> str | None:
        """Return the source of a module."""
        file = self._file(fullname)
        return None if file is None else decode_source(self._sources[file])

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the compiled source of a module: no file with compiled code is read or written."""
        file = self._file(fullname)
        return None if file is None else self.source_to_code(self._sources[file], str(self._folder / file))

    def _file(self, fullname: str) -> str | None:
        package, _, inner = fullname.partition(".")
        inner = inner.replace(".", "/")
        named = (f"{inner}.py", f"{inner}/__init__.py") if package == self._package else ()
        return next((file for file in named if file in self._sources), None)


def code_sources(folder: Path) -> dict[str, bytes]:
    """Return all Python files in a folder and below it, by their names in it."""
    files = sorted(path for path in folder.rglob("*.py") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def hash_of(sources: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of the names and contents of code files, in hexadecimal."""
    digest = hashlib.sha256()
    for name, content in sources.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def code_hash(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all Python files of a folder, in hexadecimal."""
    return hash_of(code_sources(folder))


def pinned_code(name: str, source: str, pinned: str | None, revision: str | None) -> RemoteCode:
    """Return the code of a checkpoint that the user trusts.

    A local folder's is pinned by the hash of its files, the hub's by the full commit. Raises ModelError, which says what to
    give, for code that is not pinned, is another than was pinned, or is pinned by a name that can move.
    """
    folder = Path(source)
    if folder.is_dir():
        sources = code_sources(folder)
        return RemoteCode(name=name, folder=folder, pinned=_required_hash(name, sources, pinned), sources=sources)
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
    folder = Path(snapshot_download(source, revision=pinned, allow_patterns="*.py"))
    return RemoteCode(name=name, folder=folder, pinned=pinned, sources=code_sources(folder))


def _required_hash(name: str, sources: Mapping[str, bytes], pinned: str | None) -> str:
    found = hash_of(sources)
    if pinned == found:
        return found
    files = ", ".join(sources)
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
