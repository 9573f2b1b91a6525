"""One core-exp file of any age, read value by value: what stands where in older files, and what is wrong in bad ones."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

from paceline.profiles.fields import CONFIGURATION, EXTRA, FIELDS, Fault, find_fault

Row = dict[str, Any]
FILE_MENDING = "copy or make the file again, or leave it out with --skip-bad"
WHOLE_FILE = "one JSON object with the list `per_sample_results`"

# what an older file may lack, and the fields it is taken from: an older name, or a sum and a quotient of stages
OLDER = {
    "actual_text_tokens": ("input_text_tokens",),
    "T_decode_per_token": ("T_LLM_decode", "output_tokens"),
    "T_total": ("T_vision_total", "T_LLM_prefill", "T_LLM_decode"),
}


def read_any_variant(content: bytes, fields: Collection[str]) -> tuple[list[Row], list[Fault]]:
    """Return the good samples of a file, with the fields asked for, and what is wrong with the file and the others."""
    document = _parse(content)
    fault = document if isinstance(document, Fault) else _file_fault(document)
    if isinstance(document, Fault) or fault is not None:
        return [], [fault] if fault is not None else []
    results: list[object] = document["per_sample_results"]
    lacking = {name for name in OLDER if not any(isinstance(each, dict) and name in each for each in results)}
    rows: list[Row] = []
    faults = _count_faults(document, len(results))
    for position, result in enumerate(results):
        row = _read_sample(result, document, lacking, fields)
        if isinstance(row, Fault):
            faults.append(row if row.sample else replace(row, problem=f"result {position}: {row.problem}"))
        else:
            rows.append(row)
    return rows, faults


def _parse(content: bytes) -> Row | Fault:
    try:
        document: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Fault(problem=f"is not whole JSON ({error})", expected=WHOLE_FILE, mend=FILE_MENDING)
    if not isinstance(document, dict):
        return Fault(problem="is JSON, but no object", expected=WHOLE_FILE, mend=FILE_MENDING)
    return cast(Row, document)


def _file_fault(document: Row) -> Fault | None:
    name = "per_sample_results"
    if name not in document:
        return Fault(field=name, problem="is missing", expected="a list of samples", mend=FILE_MENDING)
    if not isinstance(document[name], list) or not document[name]:
        return Fault(field=name, problem="holds no samples", expected="a list of samples", mend=FILE_MENDING)
    return None


def _count_faults(document: Row, found: int) -> list[Fault]:
    promised = document.get("num_samples", found)
    if type(promised) is int and promised == found:
        return []
    problem = f"is {promised!r}, but the file holds {found} samples"
    return [Fault(field="num_samples", problem=problem, expected="the number of samples", mend=FILE_MENDING)]


def _read_sample(result: object, document: Row, lacking: Collection[str], fields: Collection[str]) -> Row | Fault:
    if not isinstance(result, dict):
        return Fault(problem="is no object", expected="an object of one sample's fields")
    sample = cast(Row, result)
    if type(sample.get("sample_id")) is int:  # some datasets number their samples
        sample["sample_id"] = str(sample["sample_id"])
    fault = _configure(sample, document)
    if fault is not None:
        return fault
    checked = {*fields, *(source for name in lacking if name in fields for source in OLDER[name])}
    _complete(sample, lacking)
    fault = find_fault(sample, [name for name in FIELDS if name in checked])
    return fault if fault is not None else {name: sample[name] for name in fields}


def _configure(sample: Row, document: Row) -> Fault | None:
    """Put the configuration into the sample from where the file states it; a Fault where it states two."""
    summary: object = document.get("summary")
    first: object = cast("list[object]", summary)[0] if isinstance(summary, list) and summary else None
    for name in CONFIGURATION:
        places = [cast(Row, place) for place in (sample, document, first) if isinstance(place, dict)]
        stated = [place[name] for place in places if name in place]
        if any(value != stated[0] for value in stated):
            return Fault(
                field=name,
                sample=str(sample.get("sample_id")),
                problem=f"is {stated[0]!r} in one place and {next(v for v in stated if v != stated[0])!r} in another",
                expected="one value in the sample, the file's head and `summary`",
            )
        if stated:
            sample[name] = stated[0]
    return None


def _complete(sample: Row, lacking: Collection[str]) -> None:
    """Fill in what an older file lacks in every sample, from sources that keep their rules; else it stays missing."""
    for name in EXTRA:
        sample.setdefault(name, None)
    for name in lacking:
        sources = OLDER[name]
        if name == "actual_text_tokens":
            if sources[0] in sample:
                sample[name] = sample[sources[0]]
        elif find_fault(sample, sources) is None:
            if name == "T_total":
                sample[name] = sum(sample[source] for source in sources)
            elif sample["output_tokens"] > 0:  # the older definition divides by all tokens, the first among them
                sample[name] = sample["T_LLM_decode"] / sample["output_tokens"]
