"""What each knob saves under load, from the document of `paceline verify --under-load`."""

from html import escape
from pathlib import Path
from typing import Any, cast

from paceline.errors import RequestFileError
from paceline.json_document import parsed_json
from paceline.report.parts import table

COLUMNS = (
    "knob, turned down alone",
    "requests in one batch",
    "prefill ms, full",
    "turned down",
    "saved",
    "95 % interval",
)
EXPECTED, MEND = (
    "the document of `paceline verify --under-load`",
    "write it with `paceline verify MODEL --under-load --out FILE`",
)


def load_section(path: Path | None) -> str:
    """Return the section of a load profile; nothing without one. Raises RequestFileError for a file that is none."""
    if path is None:
        return ""
    document = _read(path)
    rows = [_row(path, knob, each) for knob, effects in document["under_load"].items() for each in effects]
    note = (
        f"Measured on {document.get('model', 'a model that is not named')}: the prefill of several requests in one batch, with "
        "each knob at its largest value and turned down alone, in interleaved pairs. What is saved alone need not be saved under "
        "load."
    )
    return (
        '<section aria-labelledby="load-title"><h2 id="load-title">What each knob does under load</h2>'
        f"<p>{escape(note)}</p>{table(COLUMNS, rows)}</section>"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestFileError(path, f"cannot be read ({error})", expected=EXPECTED, mend=MEND) from error
    found = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    effects = found.get("under_load")
    if not isinstance(effects, dict) or not effects:
        raise RequestFileError(path, "says nothing of knobs under load", expected=EXPECTED, mend=MEND)
    return found


def _row(path: Path, knob: str, effect: dict[str, Any]) -> tuple[str, ...]:
    try:
        if effect["saved"] is None:
            return knob, str(effect["in_flight"]), "", "", str(effect["reason"]), ""
        interval = effect["saved_interval"]
        ends = "" if interval is None else f"{interval['low']:.1%} to {interval['high']:.1%}"
        return (
            knob,
            str(effect["in_flight"]),
            f"{effect['full_ms']:.1f}",
            f"{effect['low_ms']:.1f}",
            f"{effect['saved']:.1%}",
            ends,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestFileError(path, f"holds no figures of {knob} ({error!r})", expected=EXPECTED, mend=MEND) from error
