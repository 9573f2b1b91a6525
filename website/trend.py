"""How the figures of benchmarks/results moved over the commits that changed them.

    python website/trend.py [--check] [--out FOLDER]

Reads every version that git has of the results that website/watched.py names, and the one that is not committed yet.
The newest is compared with the best of those that were measured in the same way (`same` in website/watched.py),
so that a slow drift is seen as a fall is. `--check` says how many figures were compared, which could not be and
why, and fails with a sentence a figure where the newest is worse than is let pass. A change that is meant is accepted in
benchmarks/accepted.json: figure, value before and after, the commit that changed the rule, and the reason; what came before
it is compared no more. Without `--check` it prints a page, and writes it with its charts to FOLDER.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from watched import WATCHED, Watched, value_of, way_of

ROOT = Path(__file__).parents[1]
ACCEPTED = ROOT / "benchmarks" / "accepted.json"
FIELDS = ("figure", "from", "to", "commit", "reason")
SAME_VALUE = 5e-4  # relative: an accepted value is written with four digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A figure as a commit left it, and how it was measured."""

    commit: str
    date: str
    value: float
    way: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A change of a figure that is meant: from which value to which, by which commit, and why."""

    figure: str
    before: float
    after: float
    commit: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the newest measurement is beside the best comparable one: `ratio` None where there is none, and `said` why."""

    compared: tuple[Version, ...]  # measured as the newest, since a change was accepted; the oldest first
    best: Version | None
    ratio: float | None
    passes: bool
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that is known of a figure: its versions, the oldest first, what was accepted of it, and the verdict."""

    watched: Watched
    versions: tuple[Version, ...]
    accepted: tuple[Accepted, ...]
    verdict: Verdict


def git(root: Path, *words: str) -> str:
    """Return what git says; CalledProcessError or OSError where there is no repository, or no git."""
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


def why_short(root: Path = ROOT) -> str | None:
    """Return why the history here is not the whole one; None where it is."""
    try:
        if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
            count = git(root, "rev-list", "--count", "HEAD").strip()
            return f"a shallow clone of {count} commits, which has not all measurements: git fetch --unshallow"
    except (OSError, subprocess.CalledProcessError):
        return "no git repository here, so there are no earlier measurements"
    return None


def versions_of(watched: Watched, root: Path = ROOT) -> tuple[Version, ...]:
    """Return the versions of a figure, the oldest first; those without it are left out."""
    path = f"benchmarks/results/{watched.results}.json"
    found: list[Version] = []

    def add(commit: str, date: str, text: str) -> None:
        try:
            document = json.loads(text)
            each = Version(commit=commit, date=date, value=value_of(watched, document), way=way_of(watched, document))
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            return
        if not found or (found[-1].value, found[-1].way) != (each.value, each.way):
            found.append(each)

    try:
        for line in reversed(git(root, "log", "--format=%h %cs", "--", path).splitlines()):
            commit, date = line.split()
            try:
                add(commit, date, git(root, "show", f"{commit}:{path}"))
            except subprocess.CalledProcessError:  # this commit took it away
                continue
    except (OSError, subprocess.CalledProcessError):
        pass
    if (root / path).exists():
        add("not committed", "", (root / path).read_text())
    return tuple(found)


def read_accepted(path: Path = ACCEPTED) -> tuple[Accepted, ...]:
    """Return the changes that are accepted; ValueError, with what is expected, where the file holds something else."""
    entries = json.loads(path.read_text()) if path.exists() else []
    found: list[Accepted] = []
    names = {each.name for each in WATCHED}
    for each in entries:
        if sorted(each) != sorted(FIELDS) or not all(str(value).strip() for value in each.values()):
            raise ValueError(f"{path.name}: an entry has {', '.join(FIELDS)}, each of them filled in; found {each}")
        if each["figure"] not in names:
            raise ValueError(f"{path.name}: no figure of website/watched.py is named {each['figure']}")
        found.append(
            Accepted(
                figure=each["figure"],
                before=float(each["from"]),
                after=float(each["to"]),
                commit=each["commit"],
                reason=each["reason"],
            )
        )
    return tuple(found)


def judge(watched: Watched, versions: Sequence[Version], accepted: Sequence[Accepted] = ()) -> Verdict:
    """Compare the newest version with the best of those measured as it was, since a change was accepted."""
    if not versions:
        return Verdict(compared=(), best=None, ratio=None, passes=True, said="not measured yet")
    now = versions[-1]
    alike = [each for each in versions if each.way == now.way]
    first = max((_begins(alike, each) for each in accepted), default=0)
    compared = tuple(alike[first:])
    if len(compared) < 2:
        why = "since a change was accepted" if first else "in this way" if len(versions) > 1 else "so far"
        return Verdict(compared=compared, best=None, ratio=None, passes=True, said=f"one measurement {why}")
    best_of: Callable[..., Version] = max if watched.better == "higher" else min
    best = best_of(compared[:-1], key=lambda each: each.value)
    if best.value <= 0:
        said = f"the best before is {best.value:.4g}, of which there is no ratio"
        return Verdict(compared=compared, best=best, ratio=None, passes=True, said=said)
    ratio = now.value / best.value
    passes = ratio >= watched.worst_ratio if watched.better == "higher" else ratio <= watched.worst_ratio
    said = (
        f"{now.value:.4g} in {now.commit}, {best.value:.4g} in {best.commit}, the best of {len(compared) - 1} measured in "
        f"the same way before; {watched.better} is better, and a ratio of {watched.worst_ratio:g} is let pass: {ratio:.3f}"
    )
    return Verdict(compared=compared, best=best, ratio=ratio, passes=passes, said=said)


def _begins(versions: Sequence[Version], accepted: Accepted) -> int:
    """Return the place from which versions are compared: where the accepted value came; 0 where it never did."""
    for place, each in enumerate(versions):
        earlier = (other.value for other in versions[:place])
        if _same(each.value, accepted.after) and any(_same(value, accepted.before) for value in earlier):
            return place
    return 0


def _same(value: float, written: float) -> bool:
    return math.isclose(value, written, rel_tol=SAME_VALUE)


def histories(root: Path = ROOT) -> list[History]:
    """Return every watched figure with its versions and its verdict."""
    accepted = read_accepted(root / "benchmarks" / "accepted.json")
    found: list[History] = []
    for watched in WATCHED:
        versions = versions_of(watched, root)
        meant = tuple(each for each in accepted if each.figure == watched.name)
        found.append(
            History(watched=watched, versions=versions, accepted=meant, verdict=judge(watched, versions, meant))
        )
    return found


def unused(found: Sequence[History]) -> list[str]:
    """Return in sentences which accepted changes name values that no two comparable versions have."""
    return [
        f"{each.watched.words}: accepted.json names a change from {meant.before:.4g} to {meant.after:.4g}, which no "
        "versions measured in one way have"
        for each in found
        for meant in each.accepted
        if not any(_begins([v for v in each.versions if v.way == way], meant) for way in {v.way for v in each.versions})
    ]


def check(found: Sequence[History], short: str | None) -> tuple[list[str], list[str]]:
    """Return what to say of the histories, and the faults among it."""
    compared = [each for each in found if each.verdict.ratio is not None]
    said = [f"trend: {len(compared)} of {len(found)} watched figures compared with the best of their history"]
    if short is not None:
        said.insert(0, f"trend: {short}")
    said += [f"  not compared: {each.watched.name}: {each.verdict.said}" for each in found if each not in compared]
    faults = [f"{each.watched.words}: {each.verdict.said}" for each in compared if not each.verdict.passes]
    return said, faults + ([] if short is not None else unused(found))


def main(words: Sequence[str] | None = None, root: Path = ROOT) -> None:
    """Print the page, or check."""
    import trend_page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    found, short = histories(root), why_short(root)
    if not given.check:
        made = trend_page.pages(found, short)
        for path, text in made.items() if given.out else ():
            (given.out / path).parent.mkdir(parents=True, exist_ok=True)
            (given.out / path).write_text(text)
        print(made["trend.md"], end="")
        return
    said, faults = check(found, short)
    print("\n".join(said))
    if faults:
        print("\n".join(faults), file=sys.stderr)
        print("A change that is meant is accepted in benchmarks/accepted.json, with its reason.", file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
