import numpy as np
import torch
from PIL import Image

from torchvision.missing import missing
from torchvision.transforms import InterpolationMode

FILTERS = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.LANCZOS: Image.Resampling.LANCZOS,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BOX: Image.Resampling.BOX,
    InterpolationMode.HAMMING: Image.Resampling.HAMMING,
}


def pil_to_tensor(picture):
    pixels = torch.from_numpy(np.asarray(picture).copy())
    return (pixels[..., None] if pixels.ndim == 2 else pixels).movedim(-1, 0)


def resize(image, size, interpolation=InterpolationMode.BILINEAR, **_rest):
    if image.dtype != torch.uint8 or image.shape[-3] != 3:
        raise NotImplementedError("the tests' stand-in for torchvision resizes bytes of three channels")
    height, width = size
    flat = image.reshape(-1, *image.shape[-3:])
    pictures = [
        Image.fromarray(each.movedim(0, -1).numpy()).resize((width, height), FILTERS[interpolation]) for each in flat
    ]
    return torch.stack([pil_to_tensor(each) for each in pictures]).reshape(*image.shape[:-2], height, width)


def normalize(image, mean, std, inplace=False):
    shape = (-1, 1, 1)
    return (image - torch.tensor(mean, dtype=image.dtype).view(shape)) / torch.tensor(std, dtype=image.dtype).view(
        shape
    )


def pad(image, padding):
    left, top, right, bottom = padding
    return torch.nn.functional.pad(image, (left, right, top, bottom))


__getattr__ = missing("transforms.functional")
