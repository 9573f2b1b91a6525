"""The vector of each request that profiling stored in its samples' metadata: training on it needs no model and no picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from paceline.errors import ProfileDataError
from paceline.records import MetadataValue, RequestFeatures
from paceline.request_vector import REQUEST_VECTOR_NAMES, REQUEST_VECTOR_VERSION, request_vector

VECTOR_FIELD = "request_features"
VERSION_FIELD = "request_features_version"
NAME = ("dataset", "sample_id")
PROFILE_AGAIN = "profile again into a new directory, with `paceline profile`"


class _Stored(msgspec.Struct):
    request_features: list[float] | None = None
    request_features_version: int | None = None


STORED = msgspec.json.Decoder(_Stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVectors:
    """The (dataset, sample id) of each request in order, and its numbers as a row (request, number)."""

    names: tuple[tuple[str, str], ...]
    vectors_RF: NDArray[np.float64]


def vector_metadata(features: RequestFeatures) -> Mapping[str, MetadataValue]:
    """Return what goes into the metadata of every sample of a request."""
    return {VECTOR_FIELD: list(request_vector(features)), VERSION_FIELD: REQUEST_VECTOR_VERSION}


def request_vectors(samples: pl.DataFrame, source: Path) -> RequestVectors:
    """Return the stored vector of every request of a profile, requests in order of name, as `measured_requests` has them.

    `samples` needs the columns dataset, sample_id and metadata; `source` is where they were read, for errors. Raises
    ProfileDataError when a sample has no vector (older profiles, and those of other tools), one of another version, or
    another one than the same request under another configuration.
    """
    texts = samples.select(pl.col("dataset").cast(pl.String), "sample_id", "metadata").unique()
    vectors: dict[tuple[str, str], list[float]] = {}
    for dataset, sample, text in texts.sort(NAME).iter_rows():
        vector = _stored_vector(text, source, sample)
        if vectors.setdefault((dataset, sample), vector) != vector:
            raise _unfit(
                source, sample, VECTOR_FIELD, "differs between samples of one request", "the same in all of them"
            )
    rows = np.array(list(vectors.values()), dtype=np.float64).reshape(len(vectors), len(REQUEST_VECTOR_NAMES))
    return RequestVectors(names=tuple(vectors), vectors_RF=rows)


def _stored_vector(text: str, source: Path, sample: str) -> list[float]:
    size = len(REQUEST_VECTOR_NAMES)
    try:
        stored = STORED.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unfit(
            source, sample, "metadata", f"cannot be used ({error})", f"an object with {size} numbers"
        ) from error
    if stored.request_features is None:
        problem = "is missing: the sample was profiled before request features were stored, or by another tool"
        raise _unfit(source, sample, VECTOR_FIELD, problem, f"{size} numbers")
    if stored.request_features_version != REQUEST_VECTOR_VERSION:
        problem = f"is {stored.request_features_version}"
        raise _unfit(source, sample, VERSION_FIELD, problem, f"{REQUEST_VECTOR_VERSION}, the version in use")
    if len(stored.request_features) != size:
        raise _unfit(source, sample, VECTOR_FIELD, f"holds {len(stored.request_features)} numbers", f"{size}")
    return stored.request_features


def _unfit(source: Path, sample: str, field: str, problem: str, expected: str) -> ProfileDataError:
    named = field if field == "metadata" else f"metadata.{field}"
    return ProfileDataError(source, problem, expected=expected, mend=PROFILE_AGAIN, field=named, sample=sample)
