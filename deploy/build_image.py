"""Build the image `demo` of deploy/Containerfile without a registry of images, and try it: buildah and debootstrap, as root.

    python deploy/build_image.py [--debian bookworm] [--folder build/image]      # make image

Where a registry can be reached, `docker build -f deploy/Containerfile --target demo .` needs none of this. The base image is
made of Debian's packages instead of being fetched: a minimal Debian with its own Python and pip stands in for `python:3.12-slim`.
pip in the build has the certificate and the folders of packages that pip has outside. Then, in the built image and as its user:
`paceline doctor`, a profile of four questions, a table of it, and `paceline serve`, which answers one chat under a budget.
Everything lies in `--folder`, and nothing is left running. Ends with 0, with 1 where the image cannot be built or does not
work, and with 3 where this machine has no buildah or no debootstrap.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("buildah", "debootstrap")
NOT_HERE = 3
BASE, IMAGE, TRIED = "localhost/debian-python", "localhost/paceline-demo", "paceline-demo-tried"
PACKAGES = ("ca-certificates", "python3", "python3-pip")
PASSED_ON = ("cert", "find-links")  # of pip's settings: what names files of this machine, which the build has to see
PATIENCE_SECONDS = 300.0
PROFILED = (
    "paceline profile digits --tiers low high --top-k 2 8 --blocks 12 16 --samples 4 --max-new-tokens 6 --out profile"
)
TABLED = "paceline table build profile --latency ttft --output-file table.json"
COMMANDS = ("paceline doctor --seconds 0", PROFILED, TABLED)


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah, with its store in one folder."""

    folder: Path

    def run(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run one command of buildah; raises CalledProcessError."""
        return subprocess.run(self.command(*words), check=True, text=True, **more)

    def told(self, *words: str | Path) -> str:
        """Run one command of buildah and return what it says; raises CalledProcessError."""
        return self.run(*words, stdout=subprocess.PIPE).stdout.strip()

    def command(self, *words: str | Path) -> list[str]:
        """Return the words of one command of buildah."""
        places = ("--root", self.folder / "store", "--runroot", self.folder / "run")
        return [str(word) for word in ("buildah", *places, "--storage-driver", "vfs", *words)]

    def inside(self, *words: str) -> list[str]:
        """Return the words that run a program in the image that is tried."""
        return self.command("run", "--isolation", "chroot", TRIED, "--", *words)


def make_base(builder: Builder, release: str) -> None:
    """Make the image that stands in for Python's: a minimal Debian, `python` and `pip` on the path."""
    root = builder.folder / "debian"
    if not (root / "usr" / "bin" / "python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        included = f"--include={','.join(PACKAGES)}"
        subprocess.run(["debootstrap", "--variant=minbase", included, release, str(root)], check=True)
    for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # Python's image has pip install for everybody, too
        mark.unlink()
    python = root / "usr" / "local" / "bin" / "python"
    if not python.is_symlink():
        python.symlink_to("/usr/bin/python3")
    container = builder.told("from", "scratch")
    mounted = builder.told("mount", container)
    subprocess.run(["cp", "--archive", f"{root}/.", mounted], check=True)
    builder.told("umount", container)
    builder.told("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    builder.told("commit", "--quiet", "--rm", container, BASE)


def pip_settings() -> dict[str, str]:
    """Return of pip's settings here those that a build has to have, an environment's before a file's."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for line in sorted(told.splitlines(), reverse=True):  # :env: comes last, and stays
        name, _, value = line.partition("=")
        if name.rpartition(".")[2] in PASSED_ON:
            found[name.rpartition(".")[2]] = value.strip("'\"")
    return found


def mounts(settings: dict[str, str], folder: Path) -> list[str]:
    """Return the flags that give a build these settings of pip, and the files that they name."""
    written = folder / "pip.conf"
    written.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]) + "\n")
    named = [Path(each) for value in settings.values() for each in value.split() if Path(each).is_absolute()]
    places = [(written, Path("/etc/pip.conf")), *((each, each) for each in named if each.exists())]
    return [f"--volume={here}:{there}:ro" for here, there in places]


def build(builder: Builder) -> None:
    """Build the target `demo` over the base."""
    words = ("--isolation", "chroot", "--pull-never", "--target", "demo", "--build-arg", f"PYTHON_IMAGE={BASE}")
    given = mounts(pip_settings(), builder.folder)
    builder.run("build", *words, *given, "--tag", IMAGE, "--file", ROOT / "deploy" / "Containerfile", ROOT)


def try_image(builder: Builder) -> dict[str, Any]:
    """Run the image's own commands in it as its user; return the answer to one chat under a budget."""
    subprocess.run(builder.command("rm", TRIED), capture_output=True)
    builder.told("from", "--pull-never", "--name", TRIED, IMAGE)
    for line in COMMANDS:
        print(f"$ {line}", flush=True)
        subprocess.run(builder.inside("sh", "-c", line), check=True)
    return ask_server(builder)


def ask_server(builder: Builder) -> dict[str, Any]:
    """Serve in the container that is tried, and return the answer to one chat under a budget."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = builder.inside("paceline", "serve", "digits", "--controller", "table.json", "--port", str(port))
    server = subprocess.Popen(served, start_new_session=True)
    try:
        return asked(server, f"http://127.0.0.1:{port}", picture())
    finally:
        end(server)


def picture() -> bytes:
    """Return a picture to ask about."""
    return (ROOT / "src" / "paceline" / "page" / "assets" / "example.png").read_bytes()


def asked(server: "subprocess.Popen[bytes]", url: str, picture: bytes) -> dict[str, Any]:
    """Ask a server about a picture under a budget of a minute, once it listens."""
    image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Read the digits."}]
    messages = [{"role": "user", "content": content}]
    body = {"model": "digits", "latency_budget_ms": 60_000, "max_tokens": 8, "messages": messages}
    begun = time.monotonic()
    while True:
        try:
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            late = time.monotonic() - begun > PATIENCE_SECONDS
            if late or server.poll() is not None or isinstance(error, urllib.error.HTTPError):
                raise SystemExit(f"the server in the image does not answer: {error}") from error
            time.sleep(0.5)


def end(server: "subprocess.Popen[bytes]") -> None:
    """End a server and what runs it, which has a session of its own."""
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main(words: Sequence[str] | None = None) -> None:
    """Build and try the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debian", default="bookworm", help="release whose Python is at least 3.11")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "image")
    given = parser.parse_args(words)
    missing = [each for each in NEEDED if shutil.which(each) is None]
    if missing:
        print(f"not built: {' and '.join(missing)} not here: apt-get install {' '.join(missing)}", file=sys.stderr)
        sys.exit(NOT_HERE)
    folder: Path = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    builder = Builder(folder)
    try:
        make_base(builder, given.debian)
        build(builder)
        answer = try_image(builder)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"{' '.join(map(str, error.cmd[:1]))} ended with {error.returncode}: {' '.join(map(str, error.cmd[-6:]))}"
        )
    promise = answer["paceline"]
    print(json.dumps({"answer": answer["choices"][0]["message"]["content"], "paceline": promise}, indent=1))
    if not promise["config"]:
        sys.exit("the server in the image answered without a configuration")


if __name__ == "__main__":
    main()
