"""One model is used by one thread at a time: knobs, marks and the passes under them are one critical section.

A model under a configuration *is* another model for as long as it lasts, for everybody who holds it. So a thread that turns
knobs, records marks or compares plain passes holds the model, and others wait. The lock belongs to the transformers model
itself, without an attribute on it: whoever wraps the same model shares it, and a copy of the model has a lock of its own.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import nn

from paceline.errors import ModelError

Use = Literal["knobs", "marks", "plain passes"]


class _Section:
    __slots__ = ("lock", "uses")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.uses: list[Use] = []  # of the thread that holds the lock, outermost first


_SECTIONS: WeakKeyDictionary[nn.Module, _Section] = WeakKeyDictionary()
_MAKING = threading.Lock()
ABSENT = object()


@contextmanager
def held(model: nn.Module, use: Use) -> Generator[None]:
    """Hold `model` for this thread, waiting until no other does.

    A thread that turned knobs may record marks under them. Any other second use by the thread that holds the model is a
    ModelError: it would measure or answer under a configuration that is not its own, or wait for itself.
    """
    section = _section_of(model)
    with section.lock:
        if section.uses and not (section.uses == ["knobs"] and use == "marks"):
            raise ModelError(
                f"this thread holds {type(model).__name__} already, for {' and '.join(section.uses)}, and now wants it for "
                f"{use}; expected one configuration at a time: leave the `with applied(...)` block, or the call of generate(), "
                "that this one stands in"
            )
        section.uses.append(use)
        try:
            yield
        finally:
            section.uses.pop()


def _section_of(model: nn.Module) -> _Section:
    with _MAKING:
        return _SECTIONS.setdefault(model, _Section())


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Generator[None]:
    """Let `owner.name` be `value` inside the block; afterwards its own dictionary is as it was.

    What a user or another library put on the instance comes back, and where nothing was nothing is left. Raises ModelError
    where the class answers for the name itself, so that the value would never be seen.
    """
    before = owner.__dict__.get(name, ABSENT)
    owner.__dict__[name] = value
    try:
        if getattr(owner, name) is not value:
            raise ModelError(
                f"{type(owner).__name__}.{name} cannot be replaced on the instance: its class computes it; expected a plain "
                "attribute or method"
            )
        yield
    finally:
        if before is ABSENT:
            owner.__dict__.pop(name, None)
        else:
            owner.__dict__[name] = before
