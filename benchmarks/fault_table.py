"""The table "Nothing lost under fault" of benchmarks/README.md, from what stands in benchmarks/results.

    python benchmarks/fault_table.py [--write]

`--write` puts it between the marks in benchmarks/README.md, in place of what stands there.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

README, RESULTS = Path(__file__).parent / "README.md", Path(__file__).parent / "results"
BEGIN, END = "<!-- fault_table.py: begin -->\n", "<!-- fault_table.py: end -->\n"
Found = Mapping[str, Any]
Row = tuple[str, str, str]


def kills(found: Found) -> Row:
    """Return the row of `tests/faults/kills.py`."""
    counts = ", ".join(f"{name} {count}" for name, count in found["kills"].items())
    return (
        "`kill -9` at random moments over profile, merge, compaction, table and estimator writing",
        "≥ 1,000",
        f"{sum(found['kills'].values()):,} ({counts}), {len(found['complaints'])} that lost a sample or left what could not be "
        "gone on from",
    )


def nth_calls(found: Found) -> Row:
    """Return the row of `tests/faults/nth_calls.py`."""
    calls = {name: sum(each.values()) for name, each in found["calls"].items()}
    named = ", ".join(f"{name} ({count})" for name, count in calls.items())
    return (
        "every n-th write, fsync, rename, open, read, lock, truncate, mkdir and unlink fails with ENOSPC, EIO and EINTR, once, "
        "from there on, and after half a write",
        "until n exceeds the calls",
        f"{found['total']:,} failures over the {sum(calls.values())} calls of {named}: {len(found['complaints'])} without a "
        "sentence or with a sample lost",
    )


def nth_reads(found: Found) -> Row:
    """Return the row of `tests/faults/nth_reads.py`."""
    ended = found["ended"]
    return (
        "every n-th open and read of the readers fails",
        "a sentence",
        f"{sum(ended.values()):,}: {ended.get('a sentence', 0)} sentences, {ended.get('the value', 0)} times the value all the "
        f"same, {len(found['complaints'])} else",
    )


def nth_allocations(found: Found) -> Row:
    """Return the row of `tests/faults/nth_allocations.py`."""
    ended = Counter[str]()
    for each in found["formats"].values():
        ended.update(each["ended"])
    library = sum(count for name, count in ended.items() if name.startswith("a library's"))
    all_of = sum(each["allocations"] for each in found["formats"].values())
    return (
        "every n-th allocation of the readers fails, in child processes",
        "no other value, nothing left open",
        f"{found['failures']:,} of {all_of:,} in {len(found['formats'])} formats: {ended['no memory']:,} told as no memory, "
        f"{ended['the value']:,} the value, {ended['a sentence']:,} sentences, {library:,} under another name of a library in C "
        f"or Rust, {ended['the child ended']} that ended the process inside one; {len(found['complaints'])} complaints",
    )


def power_cuts(found: Found) -> Row:
    """Return the row of `tests/faults/power_cuts.py`."""
    return (
        "power cuts by replay",
        "–",
        f"{sum(found['cuts'].values()):,}, {len(found['complaints'])} that lost what was told",
    )


def flipped_bits(found: Found) -> Row:
    """Return the row of `tests/faults/flipped_bits.py`."""
    flips = found["flips"].values()
    same = sum(each.get("the value that was written", 0) for each in flips)
    return (
        "one bit of every byte of what holds a digest flipped",
        "an error with the file's name, or the same value",
        f"{sum(sum(each.values()) for each in flips):,} flips in {len(flips)} files: all errors but {same}, which changed no "
        f"value; {len(found['complaints'])} complaints",
    )


def damaged(found: Found) -> Row:
    """Return the row of `make damaged`."""
    counts = Counter[str]()
    for each in found["counts"].values():
        counts.update(each)
    return (
        "`make damaged`: damaged inputs of every format (table in `docs/security.md`)",
        "≥ 100,000",
        f"{found['cases']:,} in {len(found['counts'])} formats, {found['processor_seconds']:.0f} s of processor time: "
        f"{counts['a sentence']:,} sentences, {counts['a value']:,} times the value that the bytes say, "
        f"{len(found['complaints'])} tracebacks and other values",
    )


def fuzz(found: Found) -> Row:
    """Return the row of `make fuzz`."""
    formats = found["formats"]
    wrong = [name for name, each in formats.items() if each["complaint"] is not None]
    return (
        "`make fuzz`: inputs that coverage guides",
        "four parsers",
        f"{found['inputs']:,} in {len(formats)} parsers ({', '.join(formats)}), "
        f"{sum(each['processor_seconds'] for each in formats.values()):,.0f} s of processor time, from {found.get('seeds', 8):,} "
        f"seeds; {len(wrong)} complaints" + (f": {', '.join(wrong)}" if wrong else ""),
    )


def loads(found: Found) -> Row:
    """Return the row of `make loads`."""
    return (
        "`make loads`: generated loads through the planner, and through the fast simulator",
        "≥ 10,000",
        f"{sum(found['planner'].values()):,} and {found['simulator']:,}, {len(found['complaints'])} that broke an invariant; "
        f"{found['processor_seconds']:.0f} s of processor time",
    )


def endurance(found: Found) -> Row:
    """Return the row of `knob_loads.py --minutes`."""
    rounds, totals = found["rounds"], found["totals"]
    quarter = max(1, len(rounds) // 4)
    first, last = rounds[0], rounds[-1]
    parts = (first, rounds[quarter], last)
    memory = ", ".join(f"{each['memory_mib']:,.1f}" for each in parts)
    allocated = ", ".join(f"{each['allocated_mib']:,.1f}" for each in parts if "allocated_mib" in each)
    inside = f" (allocated of them: {allocated})" if allocated else ""
    return (
        "`knob_loads.py --minutes`: a real engine of vLLM under open-loop load with aborts, preemptions and schedulers put in "
        "anew",
        "an hour: answers equal, memory flat, no thread or descriptor left",
        f"{rounds[-1]['seconds'] / 60:.0f} minutes in {len(rounds)} rounds: {totals['requests']:,} requests, "
        f"{totals['given up']:,} given up, {totals['preemptions']:,} preemptions, {len(found['violations'])} answers that differ "
        f"or things left; {first['threads']} and {last['threads']} threads, {first['descriptors']} and "
        f"{last['descriptors']} descriptors first and last; memory first, after a quarter and last {memory} MiB{inside}",
    )


def simulated(found: Found) -> Row:
    """Return the row of a simulated day."""
    kept = found["promises_kept"]
    return (
        "`soak.py --only simulated`: a day in virtual time",
        "promises kept",
        f"{found['hours']} hours, {found['requests']:,} requests (synthetic): {ranged(kept)} promises kept; the last hour's "
        f"median time to first token is {found['median_of_the_last_hour_over_the_first']:g} of the first's",
    )


def served(found: Found) -> list[Row]:
    """Return the rows of a served load, one each half."""
    rows: list[Row] = []
    for load, half in found["loads"].items():
        if not half["requests"]:
            continue
        answers = ", ".join(f"{name}: {count:,}" for name, count in half["answers"].items())
        kept = "nothing promised" if half["promises_kept"] is None else f"{ranged(half['promises_kept'])} promises kept"
        drift = half.get("median_first_ms_of_the_last_third_over_the_first")
        growth = half.get("memory_mib_of_the_last_third_over_the_first")
        rows.append(
            (
                f"`soak.py`: `paceline serve digits` over HTTP at {load.removesuffix('%')} % of its capacity",
                f"{found['minutes'] / len(found['loads']):g} minutes: coverage, memory, latency drift",
                f"{half['requests']:,} requests ({answers}): {kept}; median time to first token "
                f"{half['first_ms']['p50']:.0f} ms, in the last third {drift} of the first's; memory {growth:+.1f} MiB from the "
                "first third to the last",
            )
        )
    rest, said = found["at_rest"], "; ".join(found["complaints"]) or "none"
    memory, descriptors, threads = (
        ", ".join(f"{each[name]:.0f}" for each in rest) for name in ("memory_mib", "descriptors", "threads")
    )
    rows.append(
        (
            "the same, at rest",
            "no descriptor or thread left behind",
            f"before, between and after the halves: {memory} MiB, {descriptors} descriptors, {threads} threads; "
            f"complaints: {said}" + ("" if found["whole"] else "; the run was stopped"),
        )
    )
    return rows


def ranged(share: Found) -> str:
    """Return a share in percent with its interval."""
    low, high = share["ci"]
    return f"{100 * share['share']:.2f} % ({100 * low:.2f} to {100 * high:.2f}) of {share['n']:,}"


OF_FAULTS: dict[str, Callable[[Found], Row]] = {
    "kills": kills,
    "nth calls": nth_calls,
    "nth reads": nth_reads,
    "nth allocations": nth_allocations,
    "power cuts": power_cuts,
    "flipped bits": flipped_bits,
}
OF_FILES: dict[str, Callable[[Found], Row]] = {
    "damaged": damaged,
    "fuzz": fuzz,
    "planner_loads": loads,
    "knob_endurance": endurance,
}


def rows(results: Path) -> list[Row]:
    """Return the rows of what was measured."""
    faults = _held(results / "faults.json")
    made = [row(faults[name]) for name, row in OF_FAULTS.items() if name in faults]
    for name, row in OF_FILES.items():
        if found := _held(results / f"{name}.json"):
            made.append(row(found))
    soak = _held(results / "soak.json")
    made += [simulated(soak["simulated"])] if "simulated" in soak else []
    return made + (served(soak["served"]) if "served" in soak else [])


def _held(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def table(results: Path = RESULTS) -> str:
    """Return the table."""
    lines = ["| what fails | asked | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows(results))]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into benchmarks/README.md")
    if not parser.parse_args().write:
        print(table(), end="")
        return
    text = README.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:begin] + table() + text[end:])


if __name__ == "__main__":
    main()
