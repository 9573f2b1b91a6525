from torchvision.missing import missing
from torchvision.transforms import InterpolationMode  # noqa: F401
from torchvision.transforms.v2 import functional  # noqa: F401

__getattr__ = missing("transforms.v2")
