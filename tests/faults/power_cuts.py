"""Power cuts by replay: what a disk may hold after one, wherever it falls, is enough for every sample that was said to be kept.

    python tests/faults/power_cuts.py [--cuts 3000] [--seed 0]

Before each call that writes, syncs, renames or removes, the tree is noted: names with inodes, and contents. After a cut a file
may hold any part of what was written since it was last synced, down to what it held then (nothing, where it never was), or zeros
in place of that part; a directory any state of its names since it was last synced. Journalling file systems lose less.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from faulty_calls import REAL_OPEN, Calls
from results import keep
from store_work import WORK, Told, complaint, note_in, parts

Names = dict[str, int]


@dataclass
class Moment:
    """What was visible and what was surely on the disk before one call, and what the writer had been told."""

    names: dict[int, list[Names]]  # of each directory, every state since it was synced, the last one as it is seen
    contents: dict[int, tuple[bytes, bytes]]  # of each file, as synced and as seen
    told: Told


@dataclass
class Disk:
    """Follows a tree: `moments` holds what a power cut could leave, one for each call."""

    root: Path
    told: Told
    moments: list[Moment] = field(default_factory=list)
    names: dict[int, list[Names]] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    seen: dict[int, bytes] = field(default_factory=dict)

    def look(self) -> None:
        for folder, folders, files in os.walk(self.root):
            number = os.stat(folder).st_ino
            entries = {name: os.stat(os.path.join(folder, name)).st_ino for name in (*folders, *files)}
            states = self.names.setdefault(number, [{}])
            if states[-1] != entries:
                states.append(entries)
            for name in files:
                with REAL_OPEN(os.path.join(folder, name), "rb") as file:
                    self.seen[entries[name]] = file.read()

    def note(self) -> None:
        self.look()
        told = Told(
            samples=set(self.told.samples),
            answers=set(),  # answers of batched passes are not synced: lost with the power, they are asked again
            table=self.told.table,
            artifact=self.told.artifact,
            estimator=self.told.estimator,
            merged=self.told.merged,
        )
        names = {number: list(states) for number, states in self.names.items()}
        contents = {number: (self.synced.get(number, b""), content) for number, content in self.seen.items()}
        self.moments.append(Moment(names=names, contents=contents, told=told))

    def sync(self, descriptor: int) -> None:
        self.look()
        number = os.fstat(descriptor).st_ino
        if number in self.names:
            self.names[number] = self.names[number][-1:]
        else:
            self.synced[number] = self.seen.get(number, b"")

    def begin(self) -> None:
        """Take all that is there as synced."""
        self.look()
        self.names = {number: states[-1:] for number, states in self.names.items()}
        self.synced = dict(self.seen)


def noted(kind: str, root: Path, **named) -> tuple[Disk, int]:
    """Do one kind of work on a noted disk; return the disk and the root's inode."""
    told = Told()
    disk = Disk(root=root, told=told)
    disk.begin()

    def before(made: str, _number: int) -> None:
        if made != "read":
            disk.note()

    calls = Calls(root, before)
    with calls.watched():
        wrapped = os.fsync

        def fsync(descriptor: int) -> None:
            wrapped(descriptor)
            disk.sync(descriptor)

        os.fsync = fsync
        try:
            WORK[kind][0](root, note_in(told), **named)
        finally:
            os.fsync = wrapped
    disk.note()
    return disk, os.stat(root).st_ino


def left_by(moment: Moment, root_number: int, target: Path, chance: random.Random) -> None:
    """Write to `target` what the disk may hold after a cut at this moment."""

    def part(number: int) -> bytes:
        synced, seen = moment.contents.get(number, (b"", b""))
        if synced == seen:
            return seen
        if not seen.startswith(synced):  # cut or written over since
            return chance.choice([synced, seen])
        end = chance.choice([len(synced), len(seen), chance.randint(len(synced), len(seen))])
        rest = len(seen) - end if chance.random() < 0.2 else 0
        return seen[:end] + bytes(rest)

    def write(number: int, path: Path) -> None:
        for name, inner in chance.choice(moment.names[number]).items():
            if inner in moment.names:
                (path / name).mkdir()
                write(inner, path / name)
            else:
                (path / name).write_bytes(part(inner))

    target.mkdir()
    write(root_number, target)


def cuts(count: int, seed: int = 0, kinds=tuple(WORK)) -> dict[str, object]:
    """Cut the power that many times; return counts and complaints."""
    chance, complaints, counted = random.Random(seed), [], dict.fromkeys(kinds, 0)
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "root"
            root.mkdir()
            if kind == "merge":
                parts(root)
            disk, number = noted(kind, root)
            for index in range(count // len(kinds)):
                moment, target = chance.choice(disk.moments), Path(folder) / f"cut{index}"
                left_by(moment, number, target, chance)
                problem = complaint(kind, target, moment.told)
                counted[kind] += 1
                if problem is not None:
                    complaints.append(f"cut {index} of {kind}: {problem}")
    return {"seed": seed, "cuts": counted, "complaints": complaints}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    found = cuts(arguments.cuts, arguments.seed)
    print(json.dumps(found, indent=1))
    keep("power cuts", found, arguments.results)
    sys.exit(bool(found["complaints"]))


if __name__ == "__main__":
    main()
