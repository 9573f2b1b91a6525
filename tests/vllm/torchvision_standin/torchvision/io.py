from enum import Enum

from torchvision.missing import missing


class ImageReadMode(Enum):
    UNCHANGED = 0
    RGB = 3


__getattr__ = missing("io")
