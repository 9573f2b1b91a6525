"""Which share of a run this process has: what torchrun says in the environment, checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from paceline.errors import InvalidValueError

RANK, WORLD_SIZE = "RANK", "WORLD_SIZE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """This process is number `rank`, from 0, of `world_size`."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise InvalidValueError(
                WORLD_SIZE, self.world_size, "at least 1: the number of processes that share the run"
            )
        if not 0 <= self.rank < self.world_size:
            raise InvalidValueError(
                RANK, self.rank, f"0 to {self.world_size - 1}, for {WORLD_SIZE} is {self.world_size}"
            )


def share_of(environment: Mapping[str, str] = os.environ) -> Share:
    """Return the share that torchrun gave this process, all of it where nothing is set.

    Raises InvalidValueError for words that are no numbers and for a rank beyond the world.
    """
    return Share(rank=_number(environment, RANK, 0), world_size=_number(environment, WORLD_SIZE, 1))


def _number(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    text = environment.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit()):
        raise InvalidValueError(name, text, "a whole number, as torchrun sets it: unset it to run in one process")
    return int(text)
