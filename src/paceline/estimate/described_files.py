"""What the artifacts share: a JSON description that names the hash of its weights, and of itself.

A description that was edited by hand reads well and means something else: two configurations swapped would take one another's
bounds. So it carries a seal, the SHA-256 of all its other fields, and is refused when they do not agree. Files of schema
version 1 are older than the seal and are read without it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from paceline.errors import ControllerError, EstimatorError
from paceline.estimate.json_fields import UnfitFieldError, typed_fields
from paceline.json_document import SEAL, parsed_json, require_regular, sealed, stands_as_sealed

UNSEALED_VERSION, SCHEMA_VERSION = 1, 2  # an artifact may have later versions of its own
OTHER_VERSION = "read it with the version of paceline that wrote it, or train it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFiles:
    """How the files of one kind of artifact are named, checked and refused.

    `described` is what the description is of, in words; `made_by` and `again` are the remedies for one that is not there
    and for one that cannot be trusted. `own` names fields of one possible value, each with the remedy for another; `fields`
    the others with their kinds, `later` those that came with a later schema version, with their kinds, that version and
    what a file without them means. `versions` are the schema versions that are read, the last of them written.
    """

    described: str
    refusal: type[EstimatorError] | type[ControllerError]
    made_by: str
    again: str
    own: Mapping[str, tuple[object, str]]
    fields: Mapping[str, str]
    later: Mapping[str, tuple[str, int, object]] = field(default_factory=dict[str, tuple[str, int, object]])
    versions: tuple[int, ...] = (UNSEALED_VERSION, SCHEMA_VERSION)

    def read(self, path: Path) -> dict[str, Any]:
        """Return the fields of a description by name, each of its kind; raises the artifact's error.

        The seal is left to `require_seal`, so that a field that breaks its own rule is named by it.
        """
        document = self._object(path)
        version = document.get("schema_version")
        if isinstance(version, bool) or version not in self.versions:
            problem, expected = f"schema_version is {version!r:.60}", " or ".join(map(str, self.versions))
            raise self.refusal(path, problem, expected=expected, mend=OTHER_VERSION)
        for name, (expected, mend) in self.own.items():
            if document.get(name) != expected:
                problem = f"{name} is {document.get(name)!r:.60}"
                raise self.refusal(path, problem, expected=repr(expected), mend=mend)
        try:
            kinds = {name: kind for name, (kind, since, _) in self.later.items() if version >= since}
            found = typed_fields(document, {**self.fields, **kinds}, place="the document")
        except UnfitFieldError as error:
            raise self.unfit(path, error.problem, error.expected) from error
        return {**{name: without for name, (_, _, without) in self.later.items()}, **found}

    def require_seal(self, path: Path) -> None:
        """Refuse a description whose fields are not those that it was written with; raises the artifact's error."""
        document = self._object(path)
        if document.get("schema_version") != UNSEALED_VERSION and not stands_as_sealed(document):
            raise self.unfit(path, "was changed after it was written", f"the fields whose hash is its {SEAL}")

    def written(self, document: Mapping[str, object]) -> bytes:
        """Return the content of a description's file: the document in this version, sealed."""
        versioned = {**document, "schema_version": self.versions[-1]}
        return (json.dumps(sealed(versioned), indent=2, allow_nan=False) + "\n").encode()

    def content(self, path: Path, digest: str, *, of: str) -> bytes:
        """Return a file of the artifact when it has this SHA-256; raises the artifact's error. `of` is the artifact in words."""
        try:
            require_regular(path)
            content = path.read_bytes()
        except OSError as error:
            raise self.unfit(path, f"cannot be read ({error.strerror})", f"a file of {of}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            problem = (
                f"has the SHA-256 {found[:12]}…, not {digest[:12]}…: it was changed, cut short or taken from elsewhere"
            )
            raise self.unfit(path, problem, f"the file of {of} that its description names")
        return content

    def tensors(self, path: Path, content: bytes) -> dict[str, NDArray[Any]]:
        """Return the tensors of a safetensors file's content; raises the artifact's error."""
        try:
            return load(content)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise self.unfit(path, f"cannot be read ({error})", "a safetensors file") from error

    def require_tensors(
        self, tensors: Mapping[str, NDArray[Any]], shapes: Mapping[str, Sequence[int]], path: Path
    ) -> None:
        """Refuse weights of other names or shapes than these, not of float32, or not finite; raises the artifact's error."""
        if set(tensors) != set(shapes):
            odd = sorted(set(tensors) ^ set(shapes))[0]
            problem = f"tensor {odd} is {'missing' if odd in shapes else 'not of this network'}"
            raise self.unfit(path, problem, f"{len(shapes)} tensors by their names")
        for name, shape in shapes.items():
            tensor = tensors[name]
            if tensor.dtype != np.float32 or tensor.shape != tuple(shape):
                problem = f"tensor {name} is {tensor.dtype} of shape {tensor.shape}"
                raise self.unfit(path, problem, f"float32 of shape {tuple(shape)}")
            if not np.isfinite(tensor).all():
                raise self.unfit(path, f"tensor {name} holds a value that is no finite number", "finite weights")

    def unfit(self, path: Path, problem: str, expected: str) -> EstimatorError | ControllerError:
        """Return the artifact's error for a file that is to be made again or restored."""
        return self.refusal(path, problem, expected=expected, mend=self.again)

    def _object(self, path: Path) -> dict[str, Any]:
        try:
            require_regular(path)
            document = parsed_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            problem, expected = f"cannot be read ({error.strerror})", f"the description of {self.described}"
            raise self.refusal(path, problem, expected=expected, mend=self.made_by) from error
        except ValueError as error:
            problem = f"is not a JSON document ({error})"
            raise self.unfit(path, problem, f"the description of {self.described}") from error
        if not isinstance(document, dict):
            raise self.unfit(path, "is no JSON object", f"the description of {self.described}")
        return cast("dict[str, Any]", document)
