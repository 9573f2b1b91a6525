"""Ask a server one request after another until its bounds are calibrated; standard library alone.

    python warm_up.py --url http://127.0.0.1:8000 --picture picture.png --budget-ms 1000

A server promises nothing to a request that is alone before 45 were alone in it, from acceptance to first token; to one beside
others it does sooner. Ends with 0 once `paceline:calibration_requests` on its /metrics is that many, and with 1 after `--most`
requests that did not get it there: other traffic keeps it from being alone. `--tell FILE` is made when it is calibrated;
`--then-wait` stays on afterwards, as a second container does.
"""

import argparse
import base64
import json
import mimetypes
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from threading import Event

ENOUGH = 45  # requests: what a bound at 95 % with confidence 0.9 takes
CALIBRATED = re.compile(r"^paceline:calibration_requests (\S+)$", re.MULTILINE)


def calibration_requests(url: str) -> int:
    """Return how many requests the server's bounds are calibrated on."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        found = CALIBRATED.search(answer.read().decode())
    if found is None:
        raise SystemExit(f"{url}/metrics has no paceline:calibration_requests; expected a server under budgets")
    return int(float(found[1]))


def served_model(url: str) -> str:
    """Return the name of the model that is served."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]


def body_of(model: str, picture: Path, prompt: str, budget_ms: float) -> bytes:
    """Return a chat request with one picture and a budget."""
    kind = mimetypes.guess_type(picture)[0] or "image/png"
    url = f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    document = {"model": model, "latency_budget_ms": budget_ms, "max_tokens": 8, "messages": messages}
    return json.dumps(document).encode()


def ask(url: str, body: bytes) -> None:
    """Send one request and read its answer to the end."""
    asked = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=300) as answer:
        answer.read()


def wait_until_up(url: str, patience_seconds: float) -> None:
    """Return once the server is healthy; ends with a sentence when it is not in time."""
    begun = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() - begun > patience_seconds:
                raise SystemExit(f"{url} is not up after {patience_seconds:g} s: {error}") from error
            time.sleep(2)


def warm_up(url: str, body: bytes, *, enough: int, most: int) -> int:
    """Ask until `enough` requests calibrate the bounds; return how many were asked, -1 when `most` were too few."""
    for asked in range(most + 1):
        if calibration_requests(url) >= enough:
            return asked
        ask(url, body)
    return -1


def main() -> None:
    """Warm one server up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--prompt", default="What is shown?")
    parser.add_argument("--budget-ms", type=float, required=True)
    parser.add_argument("--enough", type=int, default=ENOUGH)
    parser.add_argument("--most", type=int, default=500)
    parser.add_argument("--patience", type=float, default=1800.0)
    parser.add_argument("--tell", type=Path)
    parser.add_argument("--then-wait", action="store_true")
    given = parser.parse_args()
    url = given.url.rstrip("/")
    wait_until_up(url, given.patience)
    body = body_of(served_model(url), given.picture, given.prompt, given.budget_ms)
    asked = warm_up(url, body, enough=given.enough, most=given.most)
    if asked < 0:
        sys.exit(f"not calibrated after {given.most} requests: other traffic keeps them from being alone")
    print(f"calibrated after {asked} requests", flush=True)
    if given.tell:
        given.tell.touch()
    if given.then_wait:
        Event().wait()


if __name__ == "__main__":
    main()
