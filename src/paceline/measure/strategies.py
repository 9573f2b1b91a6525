"""Which configurations of a grid to measure: all of them, or a designed part."""

from collections.abc import Callable

import numpy as np
from scipy.stats import qmc

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.records import KnobConfig, KnobGrid


def full(grid: KnobGrid, _seed: int, _count: int | None) -> list[KnobConfig]:
    """Return every configuration."""
    return grid.configurations()


def balanced(grid: KnobGrid, _seed: int, _count: int | None) -> list[KnobConfig]:
    """Return a Latin-square third (or so): every pair of tier and top-k once, block counts in turn."""
    blocks = grid.block_counts
    return [
        KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks[(row + column) % len(blocks)])
        for row, tier in enumerate(grid.tiers)
        for column, top_k in enumerate(grid.top_ks)
    ]


def stratified(grid: KnobGrid, seed: int, _count: int | None) -> list[KnobConfig]:
    """Return one random configuration for every pair of tier and block count."""
    random = np.random.default_rng(seed)
    return [
        KnobConfig(tier=tier, top_k=grid.top_ks[int(random.integers(len(grid.top_ks)))], num_active_blocks=blocks)
        for tier in grid.tiers
        for blocks in grid.block_counts
    ]


def boundary(grid: KnobGrid, _seed: int, _count: int | None) -> list[KnobConfig]:
    """Return the corners of the grid and its middle: where a fit has to hold its ends."""
    middle = tuple(values[len(values) // 2] for values in (grid.tiers, grid.top_ks, grid.block_counts))
    return [
        config
        for config in grid.configurations()
        if config == KnobConfig(tier=middle[0], top_k=middle[1], num_active_blocks=middle[2])  # pyright: ignore[reportArgumentType]
        or (
            config.tier in (grid.tiers[0], grid.tiers[-1])
            and config.top_k in (grid.top_ks[0], grid.top_ks[-1])
            and config.num_active_blocks in (grid.block_counts[0], grid.block_counts[-1])
        )
    ]


def lhs(grid: KnobGrid, seed: int, count: int | None) -> list[KnobConfig]:
    """Return a Latin hypercube sample of `count` configurations (a third of the grid by default), none twice."""
    every = grid.configurations()
    wanted = max(1, len(every) // 3) if count is None else count
    if wanted > len(every):
        raise InvalidValueError("configurations asked of the lhs strategy", wanted, f"1 to {len(every)}")
    sides = (grid.tiers, grid.top_ks, grid.block_counts)
    chosen: dict[KnobConfig, None] = {}
    sampler = qmc.LatinHypercube(d=3, rng=np.random.default_rng(seed))
    while len(chosen) < wanted:
        for point in sampler.random(wanted):
            tier, top_k, blocks = (values[int(at * len(values))] for values, at in zip(sides, point, strict=True))
            chosen.setdefault(KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks))  # pyright: ignore[reportArgumentType]
    return list(chosen)[:wanted]


STRATEGIES: dict[str, Callable[[KnobGrid, int, int | None], list[KnobConfig]]] = {
    "full": full,
    "balanced": balanced,
    "stratified": stratified,
    "boundary": boundary,
    "lhs": lhs,
}


def require_strategy(strategy: str, count: int | None) -> None:
    """Raise UnknownChoiceError for a strategy that is none, InvalidValueError for a count that it cannot take."""
    if strategy not in STRATEGIES:
        raise UnknownChoiceError("strategy", strategy, tuple(STRATEGIES))
    if count is not None and strategy != "lhs":
        expected = f"nothing with the strategy {strategy}: only lhs is told how many to take"
        raise InvalidValueError("number of configurations", count, expected)
    if count is not None and count < 1:
        raise InvalidValueError("number of configurations", count, "at least 1")


def choose(strategy: str, grid: KnobGrid, *, seed: int, count: int | None = None) -> list[KnobConfig]:
    """Return the configurations that `strategy` takes from `grid`, in grid order or as drawn; none twice.

    `count` is for lhs alone. Raises UnknownChoiceError and InvalidValueError for what `require_strategy` refuses.
    """
    require_strategy(strategy, count)
    return list(dict.fromkeys(STRATEGIES[strategy](grid, seed, count)))
