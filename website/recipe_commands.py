"""Recipes as static JSON: each with the commands for each hardware, and what budgets buy where that was measured.

    python website/recipe_commands.py > recipes.json

`BUDGET` stands in the commands where the builder page puts the milliseconds.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
BUDGET = "BUDGET"
QUESTION, DIGITS_QUESTION = "What does it say?", "Read the digits."
PICTURE = (
    "python -c \"from PIL import Image, ImageDraw; p = Image.new('RGB', (448, 448), 'white'); "
    "ImageDraw.Draw(p).text((60, 200), 'Gate 42', fill='black', font_size=64); p.save('picture.png')\""
)
DIGITS_PICTURE = (
    'python -c "from paceline.datasets import digit_questions; '
    "digit_questions('digits_read', split='test', count=1)[0].picture.save('picture.png')\""
)
ASKED = (  # of the server
    "curl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d "
    '"{\\"model\\": \\"%s\\", \\"latency_budget_ms\\": BUDGET, \\"messages\\": [{\\"role\\": \\"user\\", \\"content\\": ['
    '{\\"type\\": \\"image_url\\", \\"image_url\\": {\\"url\\": \\"data:image/png;base64,$(base64 -w0 picture.png)\\"}}, '
    '{\\"type\\": \\"text\\", \\"text\\": \\"' + QUESTION + '\\"}]}]}"'
)
WARMED = "paceline warm-up http://localhost:8000"  # waits until the server answers; nothing is promised before
SERVES = "# The next command serves until it is stopped: give those after it in another terminal."
COMMIT = "COMMIT"  # of the checkpoint's code, which the reader has looked at
TRUSTED = (
    "# In place of COMMIT: the full hash, 40 digits, of a commit whose code you have read and trust; it runs on your machine. "
    "They are listed at https://huggingface.co/%s/commits/main"
)
BUILDER = re.compile(r'<div id="builder".*?<script src="assets/builder\.js" defer></script>\n', re.DOTALL)


def read_recipes(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return every recipe by its name, org/model."""
    paths = sorted(folder.glob("*/*.yaml"))
    return {str(path.relative_to(folder).with_suffix("")): yaml.safe_load(path.read_text()) for path in paths}


def exported() -> list[dict[str, Any]]:
    """Return every recipe with its commands and what was measured, ready for JSON."""
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
    """Return the lines of a shell, commands and comments, from nothing to an answer within BUDGET ms on this hardware."""
    model, in_vllm = recipe["hub"], recipe["serving"]["engine"] == "vllm"
    own, trusts = model == "digits", bool(recipe.get("trust_remote_code"))
    code = f" --trust-remote-code {COMMIT}" if trusts else ""
    several = hardware["devices"] > 1
    engine = " --engine vllm" if in_vllm else ""
    if several:
        engine += f" --engine-args '{json.dumps({'tensor_parallel_size': hardware['devices']})}'"
    grid = "" if recipe["grid"] == "default" else _grid_flags(recipe["grid"])
    sets = " ".join(each if own else f"{each}=hub@main" for each in recipe["datasets"])
    lines = [
        "pip install paceline" if own else f"pip install 'paceline[{'data,vllm' if in_vllm else 'data'}]'",
        *([TRUSTED % model] if trusts else []),
        *([] if own else [f"paceline verify {model}{code}"]),
        f"paceline profile {model}{code}{engine}{grid} --datasets {sets} --samples 200 --out profile",
        "paceline budgets profile --latency ttft",
        "paceline estimator train profile --out estimator",
        "paceline estimator eval estimator profile",
        DIGITS_PICTURE if own else PICTURE,
    ]
    if in_vllm:
        parallel = f" --tensor-parallel-size {hardware['devices']}" if several else ""
        serve = f"paceline vllm serve {model} --controller estimator --port 8000{parallel}"
        return [*lines, SERVES, serve, WARMED, ASKED % model]
    ask = f'--image picture.png --prompt "{DIGITS_QUESTION if own else QUESTION}" --budget {BUDGET}'
    return [*lines, f"paceline run {model}{code} --controller estimator {ask}"]


def _grid_flags(grid: Mapping[str, Any]) -> str:
    flags = {"tiers": "--tiers", "top_k": "--top-k", "blocks": "--blocks"}
    return "".join(f" {flags[name]} {' '.join(map(str, values))}" for name, values in grid.items())


def inlined(text: str) -> str:
    """Return a page's text with the recipes where it asks for them."""
    found = json.dumps(exported(), separators=(",", ":")).replace("<", "\\u003c")
    return text.replace("<!-- recipes -->", f'<script type="application/json" id="builder-recipes">{found}</script>')


def written(text: str) -> str:
    """Return a page's text with the commands of every recipe in place of the builder, for readers of Markdown."""
    return BUILDER.sub(lambda _: _in_markdown(exported()), text)


def _in_markdown(recipes: list[dict[str, Any]]) -> str:
    parts = ["## Commands\n", f"Put your budget in milliseconds in place of `{BUDGET}`.\n"]
    for recipe in recipes:
        parts.append(f"### {recipe['hub']}\n")
        by_commands: dict[tuple[str, ...], list[str]] = {}
        for each in recipe["hardware"]:
            by_commands.setdefault(tuple(each["commands"]), []).append(each["name"])
        for lines, names in by_commands.items():
            shown = "\n".join(lines)
            parts.append(f"On {' or '.join(names)}:\n\n```\n{shown}\n```\n")
        found = recipe["measured"]
        parts.append("Not measured.\n" if found is None else _measured_in_markdown(found))
    return "\n".join(parts)


def _measured_in_markdown(found: Mapping[str, Any]) -> str:
    columns = ("budget (ms)", "Paceline", "table of means", "best configuration in hindsight", "promises kept")
    rows = [
        (
            f"{row['budget_ms']:g}",
            f"{row['paceline']:.3f}",
            f"{row['table']:.3f}",
            f"{row['best_fixed']:.3f} ({row['best_fixed_config']})",
            f"{row['promises_kept']:,} of {row['promised']:,}",
        )
        for row in found["rows"]
    ]
    lines = [columns, ("---",) * len(columns), *rows]
    return found["told"] + "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def measured(source: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Return what was measured at each budget (ms), with where it comes from; None where nothing was measured."""
    if source is None:
        return None
    found = json.loads((ROOT / source["results"]).read_text())
    (run,) = found["provenance"]
    told = (
        f"Share of answers that are right and whose first token came within the budget, of {found['requests']} questions "
        f"that neither estimator nor table was made from. Measured on {run['created'][:10]}, {run['device']}; by "
        f"{source['script']}, in {source['results']}."
    )
    return {**source, "told": told, "rows": [_row_at(found, place) for place in range(len(found["budgets_ms"]))]}


def _row_at(found: Mapping[str, Any], place: int) -> dict[str, Any]:
    rows = {name: each[place] for name, each in found["rows"].items()}
    return {
        "budget_ms": found["budgets_ms"][place],
        "paceline": rows["paceline"]["mean"],
        "table": rows["table"]["mean"],
        "best_fixed": rows["best fixed"]["mean"],
        "best_fixed_config": rows["best fixed"]["config"],
        "promised": found["promised"][place],
        "promises_kept": found["promises_kept"][place],
    }


if __name__ == "__main__":
    print(json.dumps(exported(), indent=1))
