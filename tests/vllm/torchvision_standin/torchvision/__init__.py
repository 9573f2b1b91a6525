"""A stand-in for torchvision in tests: it has no build for a CPU beside ours, and vLLM imports it for Qwen-VL's still pictures.

It resizes with Pillow, as transformers' own Pillow processors do, so that both see the same pixels. Everything else that is
asked of it is an error when it is called, never a wrong pixel. The tests put its folder on PYTHONPATH of processes of their own.
"""

from torchvision import io, transforms

__version__ = "0.0.0+standin"
__all__ = ["io", "transforms"]
