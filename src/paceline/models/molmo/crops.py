"""Molmo's image processor, with numpy and Pillow alone: the whole picture and its overlapping crops as patches.

Its own needs torchvision and tensorflow. Array suffixes: N crops, the whole picture first, P patches of a crop, D numbers of a
patch, T pooled patches of a crop; H height, W width, C colours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from paceline.errors import InvalidValueError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POOLED = 2  # patches a side that are pooled into one
LEFT_OUT = -1  # the image token of a pooled patch that another crop shows too
Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropProcessor:
    """A processor by the settings of a checkpoint: sizes in pixels, margins in patches on the left and top, right and bottom."""

    side_px: int = 336
    patch_px: int = 14
    margins: tuple[int, int] = (4, 4)
    max_crops: int = 12
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    backend: str = "pil"

    def __post_init__(self) -> None:
        grid = (self.side_px % (POOLED * self.patch_px), self.margins[0] % POOLED, self.margins[1] % POOLED)
        if any(grid) or self.window_patches < POOLED or self.max_crops < 1:
            raise InvalidValueError(
                "the crops of preprocessor_config.json",
                {
                    "base_image_input_size": self.side_px,
                    "image_patch_size": self.patch_px,
                    "overlap_margins": self.margins,
                },
                "a size of an even number of patches, even margins that leave at least two of them, and max_crops from 1",
            )

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> "CropProcessor":
        """Return the processor of a preprocessor_config.json; raises InvalidValueError for sizes that do not fit together."""
        own = CropProcessor()
        size = settings.get("base_image_input_size", own.side_px)
        return CropProcessor(
            side_px=int(size if isinstance(size, int) else size[0]),
            patch_px=int(settings.get("image_patch_size", own.patch_px)),
            margins=tuple(settings.get("overlap_margins", own.margins)),
            max_crops=int(settings.get("max_crops", own.max_crops)),
            mean=tuple(settings.get("image_mean") or own.mean),
            std=tuple(settings.get("image_std") or own.std),
        )

    @property
    def window_patches(self) -> int:
        """Patches a side of a crop that no other crop shows."""
        return self.side_px // self.patch_px - sum(self.margins)

    @property
    def pooled_side(self) -> int:
        """Pooled patches a side of a crop, and of the whole picture."""
        return self.side_px // self.patch_px // POOLED

    def pooled_along(self, crops: int) -> int:
        """Return the pooled patches along so many crops, each counted once."""
        return (crops * self.window_patches + sum(self.margins)) // POOLED

    def __call__(
        self, picture: Image.Image, *, rows: int, columns: int, return_tensors: str = "pt"
    ) -> dict[str, torch.Tensor]:
        """Return one RGB picture as tensors of batch 1: `images` (1, N, P, D), `image_masks` (1, N, P): how much of a patch is no
        padding, and `image_input_idx` (1, N, T): the picture's image token that a pooled patch is for, from 0, -1 for none.

        The mask of the whole picture is -1 and stands last: the released models were trained so.
        """
        assert return_tensors == "pt"
        window_px, margin_px = self.window_patches * self.patch_px, sum(self.margins) * self.patch_px
        size = rows * window_px + margin_px, columns * window_px + margin_px
        whole_HWC, _ = self._fitted(picture, self.side_px, self.side_px)
        large_HWC, seen_HW = self._fitted(picture, *size)
        corners = [(row * window_px, column * window_px) for row in range(rows) for column in range(columns)]
        crops = [large_HWC[y : y + self.side_px, x : x + self.side_px] for y, x in corners]
        masks = [seen_HW[y : y + self.side_px, x : x + self.side_px, None] for y, x in corners]
        images_NPD = np.stack([self._patches(each) for each in (whole_HWC, *crops)])
        masks_NP = np.stack([self._patches(each).mean(axis=-1) for each in masks])
        masks_NP = np.pad(masks_NP, [[0, 1], [0, 0]], constant_values=-1)
        return {
            "images": torch.from_numpy(images_NPD)[None],
            "image_masks": torch.from_numpy(masks_NP)[None],
            "image_input_idx": torch.from_numpy(self.image_tokens(rows, columns))[None],
        }

    def image_tokens(self, rows: int, columns: int) -> NDArray[np.int64]:
        """Return which of a picture's image tokens, from 0, each pooled patch is for (N, T); -1 for those left out.

        The tokens go row by row over the whole picture, then over all crops put together.
        """
        side, step, skipped = self.pooled_side, self.window_patches // POOLED, self.margins[0] // POOLED
        across = self.pooled_along(columns)
        pieces = [np.arange(side**2)]
        for row in range(rows):
            down = self._kept(row, rows, skipped)
            for column in range(columns):
                along = self._kept(column, columns, skipped)
                tokens_TT = (row * step + np.arange(side))[:, None] * across + column * step + np.arange(side)
                pieces.append(np.where(down[:, None] & along, side**2 + tokens_TT, LEFT_OUT).ravel())
        return np.stack(pieces).astype(np.int64)

    def _kept(self, crop: int, crops: int, skipped: int) -> NDArray[np.bool_]:
        """Tell which pooled rows, or columns, of a crop are taken of it: each is taken once."""
        first = 0 if crop == 0 else skipped
        patches = (
            self.window_patches + (self.margins[0] if crop == 0 else 0) + (self.margins[1] if crop == crops - 1 else 0)
        )
        places = np.arange(self.pooled_side)
        return (places >= first) & (places < first + patches // POOLED)

    def _fitted(self, picture: Image.Image, height: int, width: int) -> tuple[Pixels, Pixels]:
        """Return a picture scaled to fit into a size, centred on black and normalised, and where it is."""
        # in float32 as in training, where it decides what is rounded down
        scale = min(np.float32(height) / np.float32(picture.height), np.float32(width) / np.float32(picture.width))
        inner = max(1, int(np.float32(picture.height) * scale)), max(1, int(np.float32(picture.width) * scale))
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        pixels_HWC, seen_HW = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
        inside = np.s_[top : top + inner[0], left : left + inner[1]]
        pixels_HWC[inside], seen_HW[inside] = _resized(picture, inner), 1
        return (pixels_HWC - np.array(self.mean, np.float32)) / np.array(self.std, np.float32), seen_HW

    def _patches(self, crop_HWC: Pixels) -> Pixels:
        """Return the patches of a crop (P, D): row by row, and so are a patch's own pixels."""
        count, colours = self.side_px // self.patch_px, crop_HWC.shape[-1]
        split = crop_HWC.reshape(count, self.patch_px, count, self.patch_px, colours).transpose(0, 2, 1, 3, 4)
        return split.reshape(count * count, -1)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    """Return a picture (H, W, C) from 0 to 1, scaled bilinearly over all that a pixel covers, without rounding to eight bits."""
    height, width = size
    colours = [Image.fromarray(np.asarray(each, np.float32) / 255) for each in picture.split()]
    scaled = [np.asarray(each.resize((width, height), Image.Resampling.BILINEAR)) for each in colours]
    return np.clip(np.stack(scaled, axis=-1), 0, 1)
