"""`controller.json`: what a learned controller says of itself, and how it is read so that nothing in it is taken on trust."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.control.learned.reward import Reward
from paceline.errors import ControllerError, InvalidValueError, PacelineError, UnknownChoiceError
from paceline.estimate.bounds import require_alpha
from paceline.estimate.described_files import ArtifactFiles
from paceline.estimate.description import parse_names, parse_span, parse_split
from paceline.estimate.json_fields import finite_number
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind
from paceline.request_vector import REQUEST_VECTOR_NAMES, REQUEST_VECTOR_VERSION

FORMAT = "paceline-learned-controller"
DESCRIPTION_FILE = "controller.json"
WEIGHTS_FILE = "controller.safetensors"
ESTIMATOR_DIRECTORY = "estimator"
LEARNERS = ("supervised", "grpo")
LARGEST_INPUT = 4.0  # standard deviations from the mean; what is further away counts as this far
RETRAIN = "train it again with `paceline controller train`, or restore the directory from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooserDescription:
    """What a learned controller was trained on and with; all that its weights do not say.

    `learner` says what its scores are: accuracies (`supervised`) or preferences (`grpo`), in the order of `configs`.
    `alpha` is the share of requests that were allowed to exceed their bound in training. `input_ranges` are (min, max) over
    the training requests, by the names of the request vector and in their order; `budget_range_ms` spans the budgets.
    `split` holds seed and shares, those of the estimator, `learning` one row of figures a checkpoint, its `step` among them.
    A network of 0 layers is linear and has a `hidden_dim` of 0.
    """

    learner: str
    latency_kind: LatencyKind
    alpha: float
    configs: tuple[KnobConfig, ...]
    input_ranges: dict[str, tuple[float, float]]
    budget_range_ms: tuple[float, float]
    members: int
    hidden_dim: int
    num_layers: int
    reward: Reward
    split: dict[str, float]
    training: dict[str, object]
    learning: tuple[dict[str, float], ...]
    datasets: tuple[str, ...]
    num_requests: int
    estimator_sha256: str
    provenance: tuple[dict[str, object], ...]

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise UnknownChoiceError("learner", self.learner, LEARNERS)
        if self.latency_kind not in LATENCY_KINDS:
            raise UnknownChoiceError("latency kind", self.latency_kind, LATENCY_KINDS)
        require_alpha(self.alpha)
        _require_size(self)
        _require_ranges(self)
        if not self.configs or len(set(self.configs)) != len(self.configs):
            raise InvalidValueError("configs", [each.key for each in self.configs], "at least one, and none twice")
        for row in self.learning:
            if "step" not in row:
                raise InvalidValueError("learning", row, "the step in every row")

    def written(self, *, weights_sha256: str) -> bytes:
        """Return the content of the description's file, of a directory whose weights file has this hash."""
        document = {
            "format": FORMAT,
            "request_vector_version": REQUEST_VECTOR_VERSION,
            "request_vector_names": list(REQUEST_VECTOR_NAMES),
            "learner": self.learner,
            "latency_kind": self.latency_kind,
            "alpha": self.alpha,
            "configs": [each.key for each in self.configs],
            "input_ranges": {name: list(span) for name, span in self.input_ranges.items()},
            "budget_range_ms": list(self.budget_range_ms),
            "members": self.members,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "reward": asdict(self.reward),
            "split": self.split,
            "training": self.training,
            "learning": list(self.learning),
            "datasets": list(self.datasets),
            "num_requests": self.num_requests,
            "estimator_sha256": self.estimator_sha256,
            "provenance": list(self.provenance),
            "weights_sha256": weights_sha256,
        }
        return FILES.written(document)


def read_chooser_description(path: Path) -> tuple[ChooserDescription, str]:
    """Return a `controller.json` and the hash of the weights that it belongs to; raises ControllerError."""
    fields = FILES.read(path)
    digest = str(fields.pop("weights_sha256"))
    try:
        found = ChooserDescription(**{name: PARSERS.get(name, _as_is)(value) for name, value in fields.items()})
    except (PacelineError, ValueError, TypeError, LookupError) as error:
        raise FILES.unfit(path, str(error), "what `paceline controller train` writes") from error
    FILES.require_seal(path)
    return found, digest


def _require_size(description: ChooserDescription) -> None:
    for name, least in (("members", 1), ("num_layers", 0), ("num_requests", 1)):
        if getattr(description, name) < least:
            raise InvalidValueError(name, getattr(description, name), f"a whole number of at least {least}")
    if (description.hidden_dim >= 1) != (description.num_layers >= 1) or description.hidden_dim < 0:
        expected = "0 without layers, a whole number of at least 1 with layers"
        raise InvalidValueError("hidden_dim", description.hidden_dim, expected)


def _require_ranges(description: ChooserDescription) -> None:
    ranges, budget_range_ms = description.input_ranges, description.budget_range_ms
    if tuple(ranges) != REQUEST_VECTOR_NAMES:
        raise InvalidValueError("input_ranges", list(ranges), ", ".join(REQUEST_VECTOR_NAMES))
    for name, (low, high) in {**ranges, "budget_range_ms": budget_range_ms}.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InvalidValueError(name, [low, high], "two finite numbers, the smaller first")
    if budget_range_ms[0] <= 0:
        raise InvalidValueError("budget_range_ms", list(budget_range_ms), "numbers of milliseconds above 0")


def _parse_ranges(ranges: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: parse_span(span) for name, span in ranges.items()}


def _parse_configs(keys: list[Any]) -> tuple[KnobConfig, ...]:
    return tuple(KnobConfig.from_key(str(key)) for key in keys)


def _parse_reward(weights: Mapping[str, Any]) -> Reward:
    return Reward(**_parse_numbers(weights))


def _parse_numbers(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {name: finite_number(value) for name, value in numbers.items()}


def _parse_learning(rows: list[Any]) -> tuple[dict[str, float], ...]:
    return tuple(_parse_numbers(row) for row in _objects(rows, "learning"))


def _objects(rows: list[Any], name: str) -> tuple[dict[str, Any], ...]:
    for row in rows:
        if not isinstance(row, dict):
            raise InvalidValueError(name, row, "an object in every place")
    return tuple(rows)


def _as_is(value: Any) -> Any:
    return value


FILES = ArtifactFiles(
    described="a learned controller",
    refusal=ControllerError,
    made_by="check the path, or make one with `paceline controller train`",
    again=RETRAIN,
    own={
        "format": (FORMAT, "name the directory that `paceline controller train` wrote"),
        "request_vector_version": (
            REQUEST_VECTOR_VERSION,
            "read it with the version of paceline that wrote it, or profile and train again: its inputs mean other things",
        ),
        "request_vector_names": (
            list(REQUEST_VECTOR_NAMES),
            "train it again with `paceline controller train`: its weights belong to other inputs",
        ),
    },
    fields={
        "learner": "text",
        "latency_kind": "text",
        "alpha": "a number",
        "configs": "a list",
        "input_ranges": "an object",
        "budget_range_ms": "a list",
        "members": "a whole number",
        "hidden_dim": "a whole number",
        "num_layers": "a whole number",
        "reward": "an object",
        "split": "an object",
        "training": "an object",
        "learning": "a list",
        "datasets": "a list",
        "num_requests": "a whole number",
        "estimator_sha256": "text",
        "provenance": "a list",
        "weights_sha256": "text",
    },
)
PARSERS: dict[str, Callable[[Any], Any]] = {
    "configs": _parse_configs,
    "input_ranges": _parse_ranges,
    "budget_range_ms": parse_span,
    "reward": _parse_reward,
    "split": parse_split,
    "learning": _parse_learning,
    "datasets": parse_names,
    "provenance": lambda runs: _objects(runs, "provenance"),
}
