"""Coverage-guided damage of the parsers that matter most: atheris grows inputs that reach new lines, held as by `damaged.py`.

What strangers send comes first: bodies, chats, headers and pictures of requests; then what is copied between machines.

    python tests/faults/fuzz.py [--seconds 300] [--workers 2] [--formats journal "HTTP body" …] [--results PATH]

Needs atheris (`make fuzz` makes an environment with it). Each format runs for so many seconds in a child of its own, from its
undamaged original, some damaged ones and what earlier runs kept in `build/fuzz/FORMAT`; half of the inputs are changed by their
bytes and half by their structure, as `damaged.py` does. An input that leads to a traceback, to another value than the file says,
to a slow answer or to a large memory is written there and told as a complaint.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from random import Random

from mutations import damaged
from results import origin

PARSERS = (
    "HTTP body",
    "HTTP chat",
    "HTTP headers",
    "png header",
    "jpeg header",
    "profile.json",
    "journal",
    "core-exp",
    "trace lines",
    "trace table",
)
SEEDS = 40  # inputs that each format begins with, the undamaged one among them
KEPT = Path(__file__).parents[2] / "build" / "fuzz"
MOST_BYTES, MOST_MEGABYTES, MOST_SECONDS = 1 << 16, 2048, 10


def child(name: str, folder: Path, options: list[str]) -> None:
    """Fuzz one format in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["paceline"]):
        from damaged import Damage
        from formats import FORMATS

    damage, form = Damage(folder), FORMATS[name]

    def one(content: bytes) -> None:
        _, problem = damage.content(form, content)
        if problem is not None:
            raise AssertionError(f"{name}: {problem}")

    def changed(content: bytes, most_bytes: int, number: int) -> bytes:
        if number % 2:
            return atheris.Mutate(content, most_bytes)
        return damaged(form.shape, content, Random(number), form.seal)[:most_bytes]

    original = damage.contents[damage.home / form.target]
    damage.content(form, original)
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=changed)
    atheris.Fuzz()


def fuzzed(name: str, seconds: int) -> dict[str, object]:
    """Fuzz one format in a child; return what libFuzzer counted, and the complaint with where its input stands."""
    kept = KEPT / name.replace(" ", "-").replace(".", "-")
    kept.mkdir(parents=True, exist_ok=True)
    options = [
        str(kept),
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-timeout={MOST_SECONDS}",
        f"-artifact_prefix={kept}-",
        "-print_final_stats=1",
    ]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, tempfile.TemporaryFile("w+", errors="replace") as said:
        seeds = _seed(name, Path(folder), kept)
        command = [sys.executable, __file__, "--child", name, folder, *options]
        run = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        told = said.read()
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", told)
    runs = re.search(r"number_of_executed_units: (\d+)", told)
    found: dict[str, object] = {
        "inputs": int(runs[1]) if runs else 0,
        "seeds": seeds,
        "seconds": seconds,
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "coverage": int(covered[-1][0]) if covered else None,
        "features": int(covered[-1][1]) if covered else None,
        "kept": int(covered[-1][2]) if covered else None,
        "complaint": None,
    }
    if run.returncode:
        wrong = re.search(r"AssertionError: .*", told) or re.search(r"ERROR: libFuzzer: .*", told)
        where = re.search(r"Test unit written to (\S+)", told)
        found["complaint"] = f"{wrong[0] if wrong else told[-400:]:.600}" + (f" ({where[1]})" if where else "")
    return found


def _seed(name: str, folder: Path, kept: Path) -> int:
    """Write what a format begins with; return how many inputs that is, those of earlier runs among them."""
    from formats import FORMATS, originals  # not before a child has told atheris to follow what they import

    originals(folder / "seed")
    form = FORMATS[name]
    original = (folder / "seed" / form.target).read_bytes()
    (kept / "original").write_bytes(original)
    for number in range(1, SEEDS):
        (kept / f"damaged{number}").write_bytes(damaged(form.shape, original, Random(f"{name} {number}"), form.seal))
    return len(list(kept.iterdir()))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="of each format")
    parser.add_argument("--formats", nargs="*", default=list(PARSERS))
    parser.add_argument("--workers", type=int, default=2, help="formats at once")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    started, formats = time.monotonic(), {}
    with ThreadPoolExecutor(arguments.workers) as pool:
        running = {pool.submit(fuzzed, name, arguments.seconds): name for name in arguments.formats}
        for ended in as_completed(running):
            formats[running[ended]] = ended.result()
            keep(arguments, {name: formats[name] for name in arguments.formats if name in formats}, started)
    sys.exit(any(each["complaint"] for each in formats.values()))


def keep(arguments: argparse.Namespace, formats: dict[str, dict], started: float) -> None:
    """Print and write what there is."""
    found = {
        **origin(f"make fuzz SECONDS={arguments.seconds}"),
        "inputs": sum(int(each["inputs"]) for each in formats.values()),
        "seeds": sum(int(each["seeds"]) for each in formats.values()),
        "seconds": round(time.monotonic() - started),
        "formats": formats,
    }
    print(json.dumps(found, indent=1), flush=True)
    if arguments.results is not None:
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
