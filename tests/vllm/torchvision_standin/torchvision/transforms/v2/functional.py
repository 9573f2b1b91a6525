from torchvision.missing import missing
from torchvision.transforms import InterpolationMode  # noqa: F401
from torchvision.transforms.functional import normalize, pad, pil_to_tensor, resize  # noqa: F401

__getattr__ = missing("transforms.v2.functional")
