"""How learned controllers are trained: every number in one record a learner."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import LARGEST_SEED

DEFAULT_SEED = 3407
ADVANTAGE_SCALES = ("batch", "group")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The network of a learned controller: `members` of it are trained side by side and their scores averaged."""

    members: int = 4
    hidden_dim: int = 64
    num_layers: int = 1
    dropout: float = 0.5

    def __post_init__(self) -> None:
        _require(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedSettings:
    """Training on every configuration's accuracy at once; the weights of the best validation loss are kept.

    Validation is looked at every `round_steps`; training ends after `patience` such rounds without a better loss.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    num_steps: int = 3000
    round_steps: int = 50
    patience: int = 20
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1.0
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        _require(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoSettings:
    """Group-relative policy optimisation (Shao et al., "DeepSeekMath", 2024) after behaviour cloning.

    A step draws `batch_size` requests with a budget each, `group_size` configurations for every one of them from the
    chooser as it was, and takes `inner_steps` on them with the ratio of new to old probability clipped to 1 ± `clip`.
    `kl_weight` holds the chooser near the cloned one; below `entropy_floor` (nats) `entropy_weight` draws its entropy up.
    Rewards are compared with their group's mean, and divided by the standard deviation of the `group`, or of the whole
    `batch` (`advantage_scale`): divided by their own, groups in which nothing but a little latency differs weigh as much as
    those in which an answer turns wrong (Liu et al., "Understanding R1-Zero-Like Training", 2025; measured in
    docs/decisions/006-learned-controllers.md). The weights of the best validation reward are kept.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    advantage_scale: str = "batch"
    cloning_steps: int = 100
    num_steps: int = 1500
    round_steps: int = 50
    patience: int = 15
    batch_size: int = 256
    group_size: int = 16
    inner_steps: int = 2
    clip: float = 0.2
    kl_weight: float = 0.01
    entropy_floor: float = 1.5
    entropy_weight: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        if self.advantage_scale not in ADVANTAGE_SCALES:
            raise UnknownChoiceError("advantage_scale", self.advantage_scale, ADVANTAGE_SCALES)
        _require(self)


_AT_LEAST_ONE: tuple[Callable[[Any], bool], str] = (lambda count: count >= 1, "a whole number of at least 1")
_NOT_NEGATIVE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < math.inf, "a number of at least 0")
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("members", "hidden_dim", "num_steps", "round_steps", "patience", "batch_size", "inner_steps"), _AT_LEAST_ONE
    ),
    **dict.fromkeys(("num_layers", "cloning_steps"), (lambda count: count >= 0, "a whole number of at least 0")),
    **dict.fromkeys(("kl_weight", "entropy_floor", "entropy_weight", "weight_decay"), _NOT_NEGATIVE),
    "group_size": (lambda count: count >= 2, "a whole number of at least 2: a group is compared with its own mean"),
    "seed": (lambda seed: 0 <= seed <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}"),
    "dropout": (lambda share: 0 <= share < 1, "a share of at least 0 and below 1"),
    "clip": (lambda width: 0 < width < 1, "a number between 0 and 1, such as 0.2"),
    "learning_rate": (lambda rate: 0 < rate < 1, "a number above 0 and below 1, such as 0.002"),
}


def _require(settings: object) -> None:
    for name, (fits, expected) in RANGES.items():
        value = getattr(settings, name, None)
        if value is not None and not fits(value):
            raise InvalidValueError(name, value, expected)
