"""How the figures of benchmarks/results moved over the commits that changed them.

    python website/trend.py [--check]

Reads every version that git has of the results named in WATCHED and prints a page with a line a version: the figure,
and its ratio to the version before. `--check` fails, with a sentence a figure, where the newest version is worse than
the one before by more than the ratio that WATCHED allows. Only versions of one command are compared: measured in another
way, a figure begins anew. Figures that depend on a quiet machine are watched as ratios
within one run, not as milliseconds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]


# a key, a place in a list, or the entry of a list whose field has this value
Step = str | int | tuple[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One figure: where it stands in which results, in what words, which way is better, and how much worse is let pass."""

    results: str
    place: tuple[Step, ...]
    words: str
    better: Literal["higher", "lower"]
    worst_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A figure as a commit left it, and the command that its results name."""

    commit: str
    date: str
    value: float
    command: str = ""

    def ratio_to(self, before: "Version") -> float | None:
        """Return the figure over an earlier one; None where that was measured in another way, or is 0."""
        return self.value / before.value if self.command == before.command and before.value else None


WATCHED = (
    Watched(
        results="embedded_model",
        place=("full", "sets", "digits_read", "accuracy"),
        words="embedded model, digits read right under the whole model",
        better="higher",
        worst_ratio=0.98,
    ),
    Watched(
        results="guarantee",
        place=("models", "linear", "controllers", "bound", "adherence", "mean"),
        words="budgets kept by the bound, mean over seeds",
        better="higher",
        worst_ratio=0.99,
    ),
    Watched(
        results="busy_machine",
        place=("times_as_long",),
        words="demonstration beside a load of two cores, times as long as alone",
        better="lower",
        worst_ratio=1.25,
    ),
    Watched(
        results="vllm_budgets",
        place=("overhead", "ttft", "ratio"),
        words="first token of a request in vLLM with budgets, times that of vLLM as it is",
        better="lower",
        worst_ratio=1.05,
    ),
    Watched(
        results="under_load",
        place=("loads", ("share", 1.0), "gain_over_best_fixed", "mean"),
        words="accuracy in time at a load of 100 %, ours less the best fixed setting (simulated)",
        better="higher",
        worst_ratio=0.9,
    ),
)


def git(*words: str) -> str:
    """Return what git says."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout


def versions_of(watched: Watched) -> list[Version]:
    """Return the versions of a figure, the oldest first; those of another layout are left out."""
    path = f"benchmarks/results/{watched.results}.json"
    found: list[Version] = []
    for line in reversed(git("log", "--format=%h %cs", "--", path).splitlines()):
        commit, date = line.split()
        try:
            document = json.loads(git("show", f"{commit}:{path}"))
            value = at(document, watched.place)
        except (KeyError, IndexError, TypeError, subprocess.CalledProcessError):
            continue
        if not found or found[-1].value != value:
            found.append(Version(commit=commit, date=date, value=value, command=str(document.get("command", ""))))
    return found


def at(document: Any, place: Sequence[Step]) -> float:
    """Return the number at a place of a document; LookupError or TypeError where there is none."""
    for step in place:
        document = _entry(document, *step) if isinstance(step, tuple) else document[step]
    if isinstance(document, bool) or not isinstance(document, int | float):
        raise TypeError(f"{place} holds {document!r}")
    return float(document)


def _entry(entries: Any, field: str, value: float) -> Any:
    for each in entries:
        if each[field] == value:
            return each
    raise KeyError(f"no entry has {field} {value:g}")


def fault_of(watched: Watched, versions: Sequence[Version]) -> str | None:
    """Return in a sentence that the newest version is worse than is let pass; None where it is not, or there is only one."""
    if len(versions) < 2:
        return None
    before, now = versions[-2], versions[-1]
    ratio = now.ratio_to(before)
    higher = watched.better == "higher"
    if ratio is None or (ratio >= watched.worst_ratio if higher else ratio <= watched.worst_ratio):
        return None
    return (
        f"{watched.words}: {now.value:.4g} in {now.commit}, {before.value:.4g} in {before.commit}; {watched.better} is "
        f"better, and a ratio of {watched.worst_ratio:g} is let pass"
    )


def page(found: Sequence[tuple[Watched, Sequence[Version]]]) -> str:
    """Return the page as Markdown."""
    parts = [
        "# Trend",
        "How watched figures moved over the commits that changed them, by `python website/trend.py`. "
        "`make trend-check` fails where the newest is worse than is let pass.",
    ]
    for watched, versions in found:
        limit = f"{watched.better} is better, a ratio of {watched.worst_ratio:g} is let pass"
        parts += [
            f"## {watched.words[0].upper()}{watched.words[1:]}",
            f"`benchmarks/results/{watched.results}.json`; {limit}.",
        ]
        rows = ["| commit | date | figure | to the one before |", "|---|---|---|---|"]
        for place, each in enumerate(versions):
            ratio = each.ratio_to(versions[place - 1]) if place else None
            shown = f"{ratio:.3f}" if ratio is not None else "measured anew, in another way" if place else ""
            rows.append(f"| `{each.commit}` | {each.date} | {each.value:.4g} | {shown} |")
        parts.append("\n".join(rows) if versions else "Not measured yet.")
    return "\n\n".join(parts) + "\n"


def histories() -> list[tuple[Watched, list[Version]]]:
    """Return every watched figure with its versions."""
    return [(watched, versions_of(watched)) for watched in WATCHED]


def main() -> None:
    """Print the page, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    found = histories()
    if not given.check:
        print(page(found), end="")
        return
    faults = [fault for watched, versions in found if (fault := fault_of(watched, versions)) is not None]
    for each in faults:
        print(each, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
