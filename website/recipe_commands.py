"""Recipes as static JSON: each with the commands for each hardware, and its front where one was measured.

    python website/recipe_commands.py > recipes.json

`BUDGET` stands in the commands where the builder page puts the milliseconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
BUDGET = "BUDGET"
ASKED = (  # of the server, with a picture beside it
    "curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d "
    '"{\\"model\\": \\"%s\\", \\"latency_budget_ms\\": BUDGET, \\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": ['
    '{\\"type\\": \\"image_url\\", \\"image_url\\": {\\"url\\": \\"data:image/png;base64,$(base64 -w0 picture.png)\\"}}, '
    '{\\"type\\": \\"text\\", \\"text\\": \\"What does it say?\\"}]}]}"'
)
COMMIT = "COMMIT"  # of the checkpoint's code, which the reader has looked at


def read_recipes(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return every recipe by its name, org/model."""
    paths = sorted(folder.glob("*/*.yaml"))
    return {str(path.relative_to(folder).with_suffix("")): yaml.safe_load(path.read_text()) for path in paths}


def exported() -> list[dict[str, Any]]:
    """Return every recipe with its commands and its front, ready for JSON."""
    return [
        {
            "name": name,
            **recipe,
            "hardware": [{**each, "commands": commands(recipe, each)} for each in recipe["hardware"]],
            "measured": measured(recipe["measured"]),
        }
        for name, recipe in read_recipes().items()
    ]


def commands(recipe: Mapping[str, Any], hardware: Mapping[str, Any]) -> list[str]:
    """Return the command lines that lead from nothing to answers within BUDGET milliseconds, on this hardware."""
    model, in_vllm = recipe["hub"], recipe["serving"]["engine"] == "vllm" and recipe["hub"] != "digits"
    extras = ["data", "vllm"] if in_vllm else ["data"]
    code = f" --trust-remote-code {COMMIT}" if recipe.get("trust_remote_code") else ""
    engine = " --engine vllm" if in_vllm else ""
    parallel = f" --tensor-parallel-size {hardware['devices']}" if hardware["devices"] > 1 else ""
    if parallel:
        engine += f" --engine-args '{json.dumps({'tensor_parallel_size': hardware['devices']})}'"
    grid = "" if recipe["grid"] == "default" else _grid_flags(recipe["grid"])
    own = recipe["hub"] == "digits"
    sets = " ".join(each if own else f"{each}=hub@main" for each in recipe["datasets"])
    lines = ["pip install paceline" if own else f"pip install 'paceline[{','.join(extras)}]'"]
    if not own:
        lines.append(f"paceline verify {model}{code}")
    lines += [
        f"paceline profile {model}{code}{engine}{grid} --datasets {sets} --samples 200 --out profile",
        "paceline budgets profile --latency ttft",
        "paceline estimator train profile --out estimator",
        "paceline estimator eval estimator profile",
    ]
    if in_vllm:
        return [*lines, f"paceline vllm serve {model} --controller estimator --port 8000{parallel}", ASKED % model]
    question = "Read the digits." if own else "What does it say?"
    ask = f'--image picture.png --prompt "{question}" --budget {BUDGET}'
    return [*lines, f"paceline run {model}{code} --controller estimator {ask}"]


def _grid_flags(grid: Mapping[str, Any]) -> str:
    flags = {"tiers": "--tiers", "top_k": "--top-k", "blocks": "--blocks"}
    return "".join(f" {flags[name]} {' '.join(map(str, values))}" for name, values in grid.items())


def inlined(text: str) -> str:
    """Return a page's text with the recipes where it asks for them."""
    found = json.dumps(exported(), separators=(",", ":")).replace("<", "\\u003c")
    return text.replace("<!-- recipes -->", f'<script type="application/json" id="builder-recipes">{found}</script>')


def measured(source: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Return the rows of a measured front with where they come from; None where nothing was measured."""
    if source is None:
        return None
    found = json.loads((ROOT / source["results"]).read_text())
    rows = [_front_row(found["full"], 0.0), *(_front_row(each, each["prefill_saved"]) for each in found["turned_down"])]
    return {**source, "rows": rows}


def _front_row(row: Mapping[str, Any], saved: float) -> dict[str, Any]:
    config = "/".join(str(row["config"][name]) for name in ("tier", "top_k", "num_active_blocks"))
    accuracies = {name: each["accuracy"] for name, each in row["sets"].items()}
    return {"config": config, "prefill_saved": saved, "accuracy": accuracies}


if __name__ == "__main__":
    print(json.dumps(exported(), indent=1))
