"""The controllers of a server: one for each kind of budget that an artifact can promise."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from paceline.control.controller import Controller
from paceline.control.estimated import BoundController
from paceline.control.learned.controller import LearnedController
from paceline.control.loading import load_controller
from paceline.errors import PacelineError


def served_controllers(
    path: Path, *, alpha: float, tell: Callable[[str], object], certified_only: bool = False
) -> dict[str, Controller]:
    """Return the controllers by kind of budget: for times to first token, and for totals where the artifact bounds them.

    An artifact of totals alone serves budgets of totals alone; one of prefills those of first tokens, for a server's own answers
    say how much longer they take. A learned controller looks at pixels, which nobody decodes before a decision: the bounds that
    it carries choose in its place, which `tell` is told. With `certified_only` a table gives what its certificate holds and the
    full configuration, and nothing else is a controller. Raises what `load_controller` raises.
    """
    found = load_controller(path, alpha=alpha, certified_only=certified_only)
    if isinstance(found, LearnedController):
        tell(f"{path} looks at pixels and prompts, which are not read before a decision; its bounds choose instead")
        found = found.bound
    elif isinstance(found, BoundController):
        controllers: dict[str, Controller] = {"ttft": found}
        with suppress(PacelineError):  # its profile bounds no totals
            controllers["total"] = load_controller(path, alpha=alpha, latency_kind="total")
        return controllers
    return {"total" if found.latency_kind == "total" else "ttft": found}
