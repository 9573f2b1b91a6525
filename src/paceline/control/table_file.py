"""Reading lookup-table files: every field is checked, and what is wrong is named with its place in the file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from paceline.control.certificate import parse_certificate
from paceline.control.table_entry import TableEntry, TableMetadata
from paceline.errors import PacelineError, TableError
from paceline.json_document import parsed_json
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

REBUILD = "rebuild it with `paceline table build`"
KINDS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "a whole number": int,
    "a number": (int, float),
    "true or false": bool,
    "a list": list,
    "an object": dict,
}
ENTRY_FIELDS = {
    "accuracy": "a number",
    "latency": "a number",
    "num_samples": "a whole number",
    "accuracy_std": "a number",
    "latency_std": "a number",
}
METADATA_FIELDS = {
    "aggregation_method": "text",
    "tolerance": "a number",
    "use_prefill_only": "true or false",
    "datasets": "a list",
    "num_profiling_results": "a whole number",
    "provenance": "a list",
}


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises TableError when it is missing or holds something else."""
    try:
        document = parsed_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(
            f"{path} cannot be read ({error.strerror}); build a table with `paceline table build`"
        ) from error
    except ValueError as error:
        raise TableError(f"{path} is not a JSON document ({error}); {REBUILD}") from error
    return _typed(document, "an object", path, "the document")


def parse_entries(document: Mapping[str, Any], path: Path) -> list[TableEntry]:
    """Return the entries of `config_table`; raises TableError with the configuration and field that is wrong."""
    config_table = _field(document, "config_table", "an object", path, "")
    if not config_table:
        raise TableError(f"{path}: config_table is empty; expected at least one configuration; {REBUILD}")
    return [_entry(key, cells, path) for key, cells in config_table.items()]


def parse_metadata(document: Mapping[str, Any], path: Path) -> TableMetadata:
    """Return the metadata of a table document; raises TableError with the field that is wrong."""
    metadata = _field(document, "metadata", "an object", path, "")
    values = {name: _field(metadata, name, kind, path, "metadata.") for name, kind in METADATA_FIELDS.items()}
    for index, run in enumerate(values["provenance"]):
        _typed(run, "an object", path, f"metadata.provenance[{index}]")
    for index, dataset in enumerate(values["datasets"]):
        _typed(dataset, "text", path, f"metadata.datasets[{index}]")
    try:
        return TableMetadata(
            aggregation_method=values["aggregation_method"],
            tolerance=values["tolerance"],
            latency_kind=_latency_kind(metadata, values["use_prefill_only"], path),
            datasets=tuple(values["datasets"]),
            num_profiling_results=values["num_profiling_results"],
            provenance=tuple(values["provenance"]),
            certificate=parse_certificate(metadata["certificate"]) if "certificate" in metadata else None,
            chosen_on=_field(metadata, "chosen_on", "a whole number", path, "metadata.")
            if "chosen_on" in metadata
            else None,
        )
    except PacelineError as error:
        raise TableError(f"{path}: metadata: {error}; {REBUILD}") from error


def _latency_kind(metadata: Mapping[str, Any], use_prefill_only: bool, path: Path) -> LatencyKind:
    """Return the kind by its own name, or by the flag alone in a file that has no name for it."""
    by_flag: LatencyKind = "prefill" if use_prefill_only else "total"
    kind = metadata.get("latency_kind", by_flag)
    if kind not in LATENCY_KINDS or use_prefill_only is not (kind == "prefill"):
        raise TableError(
            f"{path}: metadata.latency_kind is {kind!r:.60} and use_prefill_only {use_prefill_only}; expected one of "
            f"{', '.join(LATENCY_KINDS)}, and the flag only for prefill; {REBUILD}"
        )
    return kind


def require_agreement(document: Mapping[str, Any], key_at: Callable[[float], str], path: Path) -> None:
    """Raise TableError where the file's `lookup_table` is not what `key_at` derives from its `config_table`."""
    stored = _field(document, "lookup_table", "an object", path, "")
    for budget, key in stored.items():
        try:
            computed = key_at(float(budget))
        except ValueError as error:
            raise TableError(f"{path}: lookup_table.{budget} is no budget ({error}); {REBUILD}") from error
        if key != computed:
            raise TableError(
                f"{path}: lookup_table holds {key!r:.60} at a budget of {budget} ms, not {computed!r} as "
                f"config_table gives: one of them was changed by hand; {REBUILD}"
            )


def _entry(key: str, cells: object, path: Path) -> TableEntry:
    place = f"config_table.{key}"
    fields = _typed(cells, "an object", path, place)
    values = {name: _field(fields, name, kind, path, place + ".") for name, kind in ENTRY_FIELDS.items()}
    try:
        return TableEntry(
            config=KnobConfig.from_key(key),
            accuracy=values["accuracy"],
            latency_ms=values["latency"],
            num_samples=values["num_samples"],
            accuracy_std=values["accuracy_std"],
            latency_std_ms=values["latency_std"],
        )
    except PacelineError as error:
        raise TableError(f"{path}: {place}: {error}; {REBUILD}") from error


def _field(owner: Mapping[str, Any], name: str, kind: str, path: Path, place: str) -> Any:
    if name not in owner:
        raise TableError(f"{path}: field {place}{name} is missing; expected {kind}; {REBUILD}")
    return _typed(owner[name], kind, path, place + name)


def _typed(value: object, kind: str, path: Path, place: str) -> Any:
    # bool is an int to Python, but `true` is no count and no latency
    if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "true or false"):
        raise TableError(f"{path}: {place} is {value!r:.60}; expected {kind}; {REBUILD}")
    return cast(Any, value)
