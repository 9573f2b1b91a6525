"""The grid of a model: which values of each knob to profile when the user does not say."""

from collections.abc import Sequence

from paceline.models.knobs import check_config
from paceline.models.loading import VisionLanguageModel
from paceline.records import KnobGrid

SHARES = (0.5, 0.75, 1.0)  # of the model's own experts a token; the same for blocks would leave too few of them
BLOCK_SHARES = (0.75, 0.875, 1.0)


def default_grid(model: VisionLanguageModel) -> KnobGrid:
    """Return three values of each knob the model has: what it ships with, or shares of its experts and blocks."""
    native, blocks = model.parts.native_top_k, len(model.parts.blocks)
    top_ks = model.default_top_ks or (None if native is None else _shares(native, SHARES))
    return KnobGrid(
        tiers=model.tiers,
        top_ks=(None,) if top_ks is None else tuple(top_ks),
        block_counts=tuple(model.default_block_counts or _shares(blocks, BLOCK_SHARES)),
    )


def grid_of(
    model: VisionLanguageModel,
    *,
    tiers: Sequence[str] | None,
    top_ks: Sequence[int] | None,
    block_counts: Sequence[int] | None,
) -> KnobGrid:
    """Return the grid asked for, defaults where nothing is; raises when the model cannot run a value."""
    own = default_grid(model)
    grid = KnobGrid(
        tiers=tuple(tiers) if tiers else own.tiers,
        top_ks=tuple(top_ks) if top_ks else own.top_ks,
        block_counts=tuple(block_counts) if block_counts else own.block_counts,
    )
    for config in grid.configurations():
        check_config(model.parts, config)
    return grid


def _shares(whole: int, shares: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(whole * share)) for share in shares}))
