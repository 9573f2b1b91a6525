"""What a glance at a picture and a prompt tells, before the vision encoder runs, in well under a millisecond.

A picture is looked at through a thumbnail of 64 x 64 grey levels, whatever its shape: tiers cap an area, so a mark's share of
the area is what decides how many pixels it keeps. Transparent pixels are seen on white where a model's request is looked at.

Legend of array suffixes: H height, W width, C cells a side; V vocabulary, E the model's embedding, P the 16 projected numbers.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from paceline.records import LARGEST_MARK_COUNT, PROMPT_EMBEDDING_SIZE, THUMBNAIL_PX, PictureFeatures

PROJECTION_SEED = 3407
LARGEST_SAMPLED_SIDE_PX = 192
PIXELS = THUMBNAIL_PX**2
WHITE = 255
LEVELS = np.arange(WHITE + 1)
CLASSES = 32
EDGE_LEVELS = 0.1 * WHITE
FAINTEST_INK_LEVELS = 0.05 * WHITE
INK_SHARE_OF_CONTRAST = 0.25
MARK_CELLS = THUMBNAIL_PX // 2  # marks are told apart on halved thumbnails: noise does not fall into hundreds of them
TOKENS_AT_ONCE = 8192

Levels = NDArray[np.int16]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def picture_features(picture: Image.Image) -> PictureFeatures:
    """Return a picture's size and statistics; of a large one every n-th row and column is looked at, 192 of each."""
    thumbnail = _thumbnail(picture)
    levels_HW = np.asarray(thumbnail, dtype=np.int16)
    counts = np.array(thumbnail.histogram(), dtype=np.float64)
    ink_HW = _ink(levels_HW, counts)
    brightness, contrast, entropy_bits = _distribution(counts)
    fine_detail, medium_detail = _lost_by_halving(levels_HW)
    mark_cells = _marks(ink_HW)
    return PictureFeatures(
        width_px=picture.width,
        height_px=picture.height,
        brightness=brightness,
        contrast=contrast,
        edge_density=_edge_density(levels_HW),
        entropy_bits=entropy_bits,
        fine_detail=fine_detail,
        medium_detail=medium_detail,
        ink_share=int(np.count_nonzero(ink_HW)) / PIXELS,
        stroke_width=_mean_run(ink_HW) / THUMBNAIL_PX,
        mark_size=math.sqrt(statistics.median(mark_cells)) / MARK_CELLS if mark_cells else 0.0,
        mark_count=len(mark_cells),
    )


def project_tokens(embeddings_VE: torch.Tensor) -> NDArray[np.float32]:
    """Return every token's input embedding times one fixed matrix (vocabulary, 16), float32, on the CPU.

    The matrix is drawn from the standard normal distribution by numpy's default generator with seed 3407, divided by 4: a
    random projection keeps angles, nearly (W. Johnson, J. Lindenstrauss, 1984).
    """
    drawn_EP = np.random.default_rng(PROJECTION_SEED).standard_normal((embeddings_VE.shape[1], PROMPT_EMBEDDING_SIZE))
    matrix_EP = torch.from_numpy((drawn_EP / math.sqrt(PROMPT_EMBEDDING_SIZE)).astype(np.float32))
    matrix_EP = matrix_EP.to(embeddings_VE.device)
    # in parts: a large vocabulary in float32 would take gigabytes
    parts = [part_VE.float() @ matrix_EP for part_VE in embeddings_VE.detach().split(TOKENS_AT_ONCE)]
    return torch.cat(parts).cpu().numpy()


def prompt_embedding(projection_VP: NDArray[np.float32], token_ids: Sequence[int]) -> tuple[float, ...]:
    """Return the mean of the tokens' projected embeddings, scaled to length 1; zeros where there is no token or no length.

    Projecting first and then taking the mean is the same as the other way round, and needs no model.
    """
    mean_P = projection_VP[list(token_ids)].mean(axis=0, dtype=np.float64) if token_ids else np.zeros(())
    length = float(np.linalg.norm(mean_P))
    if length == 0:
        return (0.0,) * PROMPT_EMBEDDING_SIZE
    return tuple((mean_P / length).clip(-1, 1).tolist())


def _thumbnail(picture: Image.Image) -> Image.Image:
    """Return grey levels, 0 to 255; rows and columns are left out first, for to average a large picture takes too long."""
    sampled = min(picture.width, LARGEST_SAMPLED_SIDE_PX), min(picture.height, LARGEST_SAMPLED_SIDE_PX)
    taken = picture.resize(sampled, Image.Resampling.NEAREST)
    taken.info.pop("transparency", None)  # of a palette picture Pillow would warn; it is ignored
    return taken.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)


def _ink(levels_HW: Levels, counts: Numbers) -> Mask:
    """Tell which pixels are further from the median level than a quarter of the furthest, and than a twentieth of all."""
    background = int(np.searchsorted(counts.cumsum(), PIXELS / 2))
    present = counts.nonzero()[0]
    furthest = max(background - int(present[0]), int(present[-1]) - background)
    return np.abs(levels_HW - background) > max(INK_SHARE_OF_CONTRAST * furthest, FAINTEST_INK_LEVELS)


def _distribution(counts: Numbers) -> tuple[float, float, float]:
    """Return mean and standard deviation as shares of white, and the entropy in bits of 32 classes."""
    mean = float(counts @ LEVELS) / PIXELS
    variance = float(counts @ (LEVELS - mean) ** 2) / PIXELS
    in_class = counts.reshape(CLASSES, -1).sum(axis=1)
    shares = in_class[in_class > 0] / PIXELS
    return mean / WHITE, min(math.sqrt(variance) / WHITE, 0.5), max(0.0, -float(shares @ np.log2(shares)))


def _edge_density(levels_HW: Levels) -> float:
    across = np.abs(levels_HW[:, 1:] - levels_HW[:, :-1]) > EDGE_LEVELS
    down = np.abs(levels_HW[1:] - levels_HW[:-1]) > EDGE_LEVELS
    return int(np.count_nonzero(across) + np.count_nonzero(down)) / (across.size + down.size)


def _lost_by_halving(levels_HW: Levels) -> tuple[float, float]:
    """Return the shares of the variance that lie within squares of 2 x 2 pixels, and of 4 x 4 beyond those."""
    ones_HW = levels_HW.astype(np.float64)
    fours_HW = _sums_of_four(ones_HW)
    sixteens_HW = _sums_of_four(fours_HW)
    whole, half, quarter = _variance(ones_HW, 1), _variance(fours_HW, 4), _variance(sixteens_HW, 16)
    if whole == 0:
        return 0.0, 0.0
    return max(0.0, (whole - half) / whole), max(0.0, (half - quarter) / whole)


def _sums_of_four(sums_HW: Numbers) -> Numbers:
    rows_HW = sums_HW[::2] + sums_HW[1::2]
    return rows_HW[:, ::2] + rows_HW[:, 1::2]


def _variance(sums_HW: Numbers, pixels_a_sum: int) -> float:
    """Return the variance of means that are given as sums; exact in whole numbers, so a flat picture has none at all."""
    values = sums_HW.ravel()
    return float(values.size * (values @ values) - values.sum() ** 2) / (values.size * pixels_a_sum) ** 2


def _mean_run(ink_HW: Mask) -> float:
    """Return the mean length in pixels of the runs of ink along rows and columns; 0 without ink."""
    pixels = int(np.count_nonzero(ink_HW))
    starts = [
        np.count_nonzero(ink_HW[:, 0]),
        np.count_nonzero(ink_HW[:, 1:] & ~ink_HW[:, :-1]),
        np.count_nonzero(ink_HW[0]),
        np.count_nonzero(ink_HW[1:] & ~ink_HW[:-1]),
    ]
    return 2 * pixels / int(sum(starts)) if pixels else 0.0


def _marks(ink_HW: Mask) -> list[int]:
    """Return the cells of each connected mark, the topmost 64 marks at most.

    The cells are the bits of one whole number, so that a mark spreads by a few shifts: ten times faster than in arrays.
    """
    rows_CW = ink_HW[::2] | ink_HW[1::2]
    cells_CC = np.zeros(
        (MARK_CELLS, MARK_CELLS + 1), dtype=np.bool_
    )  # an empty cell ends every row: no mark goes on around
    cells_CC[:, :-1] = rows_CW[:, ::2] | rows_CW[:, 1::2]
    row = MARK_CELLS + 1
    left = int.from_bytes(np.packbits(cells_CC, bitorder="little").tobytes(), "little")
    sizes: list[int] = []
    while left and len(sizes) < LARGEST_MARK_COUNT:
        mark, seen = left & -left, 0
        while mark != seen:
            seen = mark
            beside = mark | mark << 1 | mark >> 1
            mark = (beside | beside << row | beside >> row) & left
        left ^= mark
        sizes.append(mark.bit_count())
    return sizes
