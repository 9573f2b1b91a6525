"""Names that the stand-in lacks: they may be imported, and are errors when they are called."""

from collections.abc import Callable


def missing(module: str) -> Callable[[str], object]:
    def named(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*_args: object, **_kwargs: object) -> object:
            raise NotImplementedError(f"the tests' stand-in for torchvision has no {module}.{name}")

        return called

    return named
