"""What milliseconds depend on beside the model: two sets of runs are compared by what their provenance says of it."""

from collections.abc import Mapping, Sequence
from typing import cast

from paceline.records import ENGINES, TEMPLATE_ARGUMENTS

IN_A_RUN = ("device", "dtype", "revision")
IN_ITS_SETTINGS = ("torch_threads",)
IN_ITS_VERSIONS = ("torch", "transformers", "vllm")
ENGINE, OLDER_ENGINE = "engine", ENGINES[0]  # what runs older than the field ran on

Circumstances = dict[str, set[str]]


def circumstances_of(runs: Sequence[Mapping[str, object]]) -> Circumstances:
    """Return every value that the provenance of some runs gives to each name; none for what it does not say."""
    found: Circumstances = {}
    for run in runs:
        found.setdefault(ENGINE, set()).add(str(run.get(ENGINE, OLDER_ENGINE)))
        for name in IN_A_RUN:
            _add(found, name, run, name)
        for name in IN_ITS_SETTINGS:
            _add(found, name, run.get("settings"), name)
        settings = run.get("settings")
        if isinstance(settings, Mapping):
            _add(found, "template arguments", {TEMPLATE_ARGUMENTS: "none", **settings}, TEMPLATE_ARGUMENTS)
        for name in IN_ITS_VERSIONS:
            _add(found, f"{name} version", run.get("versions"), name)
    return found


def engines_apart(there: Circumstances, here: Circumstances) -> str | None:
    """Return in words that two sets of runs were on different engines; None where they were not, or one is empty."""
    ours, theirs = here.get(ENGINE), there.get(ENGINE)
    if not ours or not theirs or ours == theirs:
        return None
    return f"measured with {' and '.join(sorted(theirs))}, and this is {' and '.join(sorted(ours))}"


def differences(there: Circumstances, here: Circumstances) -> list[str]:
    """Return in words where two circumstances differ, of what both sides say."""
    return [
        f"{name} {' or '.join(sorted(there[name]))} there, {' or '.join(sorted(values))} here"
        for name, values in here.items()
        if name in there and there[name] != values
    ]


def _add(found: Circumstances, name: str, owner: object, key: str) -> None:
    fields = cast("Mapping[str, object]", owner) if isinstance(owner, Mapping) else {}
    if key in fields:
        found.setdefault(name, set()).add(str(fields[key]))
