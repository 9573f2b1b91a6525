"""Reading large core-exp directories on several cores: this process reads some datasets, its children the others.

Decoding JSON holds the interpreter's lock, so threads would not help. Children are started by hand and not by
multiprocessing, which runs the caller's script again in every child unless the script guards itself.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import msgspec
import polars as pl

from paceline.profiles.core_exp_dataset import DatasetContents, DatasetReader, FileReport, entries_of

PAYS_FROM_BYTES = 200 * 2**20  # below this a child's start costs more than it saves
MOST_PROCESSES = 4  # each costs about 100 MiB
START = "from paceline.profiles.core_exp_processes import run_errand; run_errand()"
Directories = Mapping[str, Sequence[Path]]
SENT = msgspec.msgpack.Decoder(list[tuple[bytes, tuple[FileReport, ...]]])


class Errand(msgspec.Struct):
    """What a child is to read: columns, and the directories of each dataset."""

    columns: list[str]
    directories: dict[str, list[str]]


def read_datasets(directories: Directories, columns: Sequence[str]) -> Iterator[DatasetContents]:
    """Yield the contents of each dataset in the order given, read on as many cores as pay."""
    sizes = {name: sum(map(_json_bytes, where)) for name, where in directories.items()}
    shares = _shares(sizes, _process_count(sum(sizes.values()), len(sizes)))
    reader = DatasetReader(columns)
    with ExitStack() as running:
        children = [running.enter_context(_child({name: directories[name] for name in s}, columns)) for s in shares[1:]]
        contents = {name: reader.read(name, directories[name]) for name in shares[0]}
        for child, share in zip(children, shares[1:], strict=True):
            contents.update(zip(share, _received(child), strict=True))
    for name in directories:
        yield contents.pop(name)


def _json_bytes(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in entries_of(directory) if entry.suffix == ".json")


def _process_count(total_bytes: int, datasets: int) -> int:
    if total_bytes < PAYS_FROM_BYTES:
        return 1
    return max(1, min(MOST_PROCESSES, datasets, os.cpu_count() or 1))


def _shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Deal the datasets out, the largest first and each to the share that is smallest so far."""
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        min(shares, key=lambda share: sum(sizes[each] for each in share)).append(name)
    return shares


def _child(directories: Directories, columns: Sequence[str]) -> subprocess.Popen[bytes]:
    errand = Errand(list(columns), {name: [str(each) for each in where] for name, where in directories.items()})
    child = subprocess.Popen([sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(msgspec.msgpack.encode(errand))
    child.stdin.close()
    return child


def _received(child: subprocess.Popen[bytes]) -> list[DatasetContents]:
    assert child.stdout is not None
    sent = child.stdout.read()
    if child.wait() != 0:
        raise RuntimeError(f"a process that was reading core-exp files ended with status {child.returncode}")
    return [DatasetContents(samples=pl.read_ipc(BytesIO(frame)), files=files) for frame, files in SENT.decode(sent)]


def run_errand() -> None:
    """Read what standard input asks for and write it to standard output."""
    errand = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Errand)
    reader = DatasetReader(errand.columns)
    sent: list[tuple[bytes, tuple[FileReport, ...]]] = []
    for name, where in errand.directories.items():
        contents = reader.read(name, [Path(each) for each in where])
        frame = BytesIO()
        contents.samples.write_ipc(frame)
        sent.append((frame.getvalue(), contents.files))
    sys.stdout.buffer.write(msgspec.msgpack.encode(sent))
