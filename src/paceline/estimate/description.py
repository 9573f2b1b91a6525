"""`estimator.json`: what an estimator says of itself, and how it is read so that nothing in it is taken on trust."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.errors import EstimatorError, InvalidValueError, PacelineError
from paceline.estimate.described_files import SCHEMA_VERSION, UNSEALED_VERSION, ArtifactFiles
from paceline.estimate.features import FEATURES
from paceline.estimate.json_fields import finite_number
from paceline.estimate.work_terms import TERM_NAMES
from paceline.records import TIERS, KnobConfig

FORMAT = "paceline-latency-estimator"
DESCRIPTION_FILE = "estimator.json"
WEIGHTS_FILE = "estimator.safetensors"
WORK_VERSION = 3  # since then a prediction may rest on work_terms
DECODE_DEFINITIONS = ("T_LLM_decode / (output_tokens - 1)", "T_LLM_decode / output_tokens")
RETRAIN = "train it again with `paceline estimator train`, or restore the file from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorDescription:
    """What an estimator was trained on and with; all that its weights do not say.

    `feature_ranges` are (min, max) over the training rows by feature, `typical_tokens` the median request there: text
    tokens, and image tokens by tier. `decode_definition` is how the profile defined T_decode_per_token; the estimator's
    own figure is always milliseconds a decode step, the first of DECODE_DEFINITIONS. `work_terms` names what the weights of its
    work belong to; empty for an estimator that is a network alone, as all were up to schema version 2. `split` holds seed and
    shares, and whether all questions of a picture went together.
    """

    hidden_dim: int
    num_layers: int
    feature_ranges: dict[str, tuple[float, float]]
    typical_text_tokens: int
    typical_vision_tokens: dict[str | None, int]
    configs: tuple[KnobConfig, ...]
    decode_definition: str
    split: dict[str, float]
    training: dict[str, object]
    datasets: tuple[str, ...]
    num_rows: int
    num_decode_rows: int
    work_terms: tuple[str, ...] = ()
    provenance: tuple[dict[str, object], ...] = ()

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "num_layers", "num_rows"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "a whole number of at least 1")
        if not 0 <= self.num_decode_rows <= self.num_rows:
            raise InvalidValueError(
                "num_decode_rows", self.num_decode_rows, f"a whole number from 0 to {self.num_rows}"
            )
        if not self.configs or len(set(self.configs)) != len(self.configs):
            raise InvalidValueError("configs", [each.key for each in self.configs], "at least one, and none twice")
        if self.decode_definition not in DECODE_DEFINITIONS:
            raise InvalidValueError("decode_definition", self.decode_definition, " or ".join(DECODE_DEFINITIONS))
        if self.work_terms not in ((), TERM_NAMES):
            raise InvalidValueError("work_terms", list(self.work_terms), f"none, or {', '.join(TERM_NAMES)}")
        _require_ranges(self.feature_ranges)
        if {each.tier for each in self.configs} != set(self.typical_vision_tokens):
            raise InvalidValueError(
                "typical_vision_tokens", self.typical_vision_tokens, "one number a tier of the configs"
            )

    @property
    def models(self) -> frozenset[str]:
        """The models that the profile was measured on; empty where its files do not tell."""
        return frozenset(str(run["model"]) for run in self.provenance if "model" in run)

    def written(self, *, weights_sha256: str) -> bytes:
        """Return the content of the description's file, of an artifact whose weights file has this hash."""
        document = {
            "format": FORMAT,
            "feature_order": list(FEATURES),
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "feature_ranges": {name: list(self.feature_ranges[name]) for name in FEATURES},
            "typical_text_tokens": self.typical_text_tokens,
            "typical_vision_tokens": {_tier_word(tier): count for tier, count in self.typical_vision_tokens.items()},
            "configs": [each.key for each in self.configs],
            "decode_definition": self.decode_definition,
            "split": self.split,
            "training": self.training,
            "datasets": list(self.datasets),
            "num_rows": self.num_rows,
            "num_decode_rows": self.num_decode_rows,
            "work_terms": list(self.work_terms),
            "provenance": list(self.provenance),
            "weights_sha256": weights_sha256,
        }
        return FILES.written(document)


def read_description(path: Path) -> tuple[EstimatorDescription, str]:
    """Return an `estimator.json` and the hash of the weights that it belongs to; raises EstimatorError."""
    fields = FILES.read(path)
    digest = str(fields.pop("weights_sha256"))
    try:
        found = EstimatorDescription(**{name: PARSERS.get(name, _as_is)(value) for name, value in fields.items()})
    except (PacelineError, ValueError, TypeError, LookupError) as error:
        raise FILES.unfit(path, str(error), "what `paceline estimator train` writes") from error
    FILES.require_seal(path)
    return found, digest


def _require_ranges(ranges: Mapping[str, tuple[float, float]]) -> None:
    if set(ranges) != set(FEATURES):
        raise InvalidValueError("feature_ranges", sorted(ranges), f"one of each of {', '.join(FEATURES)}")
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InvalidValueError(f"feature_ranges.{name}", [low, high], "two finite numbers, the smaller first")


def _parse_ranges(ranges: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: parse_span(pair) for name, pair in ranges.items()}


def parse_span(span: list[Any]) -> tuple[float, float]:
    """Return the two numbers of a range; raises InvalidValueError for anything else."""
    if not isinstance(span, list) or len(span) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValueError("range", span, "two numbers, the smaller first")
    return finite_number(span[0]), finite_number(span[1])


def _parse_vision_tokens(counts: Mapping[str, Any]) -> dict[str | None, int]:
    unknown = next((name for name in counts if name not in (*TIERS, "none")), None)
    if unknown is not None:
        raise InvalidValueError("typical_vision_tokens", unknown, "the names of tiers, or none")
    return {None if name == "none" else name: int(finite_number(count)) for name, count in counts.items()}


def _parse_configs(keys: list[Any]) -> tuple[KnobConfig, ...]:
    return tuple(KnobConfig.from_key(str(key)) for key in keys)


def _parse_provenance(runs: list[Any]) -> tuple[dict[str, object], ...]:
    if not all(isinstance(run, dict) for run in runs):
        raise InvalidValueError("provenance", "something that is no object", "one object a profiling run")
    return tuple(runs)


def parse_names(names: list[Any]) -> tuple[str, ...]:
    """Return names of data sets; raises InvalidValueError for anything but text."""
    if not all(isinstance(name, str) for name in names):
        raise InvalidValueError("datasets", names, "text in every place")
    return tuple(names)


def parse_split(split: Mapping[str, Any]) -> dict[str, float]:
    """Return how samples were parted: seed, shares, `by_picture`; false in a description older than that."""
    shares = {name: finite_number(split[name]) for name in ("seed", "calibration_share", "test_share")}
    by_picture = split.get("by_picture", False)
    if not isinstance(by_picture, bool):
        raise InvalidValueError("split.by_picture", by_picture, "true or false")
    return {**shares, "by_picture": by_picture}


def _as_is(value: Any) -> Any:
    return value


def _tier_word(tier: str | None) -> str:
    return "none" if tier is None else tier


FILES = ArtifactFiles(
    described="an estimator",
    refusal=EstimatorError,
    made_by="check the path, or make one with `paceline estimator train`",
    again=RETRAIN,
    own={
        "format": (FORMAT, "name the directory that `paceline estimator train` wrote"),
        "feature_order": (
            list(FEATURES),
            "train it again with `paceline estimator train`: its weights belong to other features",
        ),
    },
    fields={
        "hidden_dim": "a whole number",
        "num_layers": "a whole number",
        "feature_ranges": "an object",
        "typical_text_tokens": "a whole number",
        "typical_vision_tokens": "an object",
        "configs": "a list",
        "decode_definition": "text",
        "split": "an object",
        "training": "an object",
        "datasets": "a list",
        "num_rows": "a whole number",
        "num_decode_rows": "a whole number",
        "provenance": "a list",
        "weights_sha256": "text",
    },
    later={"work_terms": ("a list", WORK_VERSION, [])},
    versions=(UNSEALED_VERSION, SCHEMA_VERSION, WORK_VERSION),
)
PARSERS: dict[str, Callable[[Any], Any]] = {
    "feature_ranges": _parse_ranges,
    "typical_vision_tokens": _parse_vision_tokens,
    "configs": _parse_configs,
    "datasets": parse_names,
    "provenance": _parse_provenance,
    "split": parse_split,
    "work_terms": lambda names: tuple(str(name) for name in names),
}
