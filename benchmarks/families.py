"""What each knob saves alone on a tiny random model of every family, whether its stages close, and what the hooks cost.

    python benchmarks/families.py [--pairs 15] [--families qwen2_vl molmo] [--table]

Writes benchmarks/results/families.json; `--table` prints the table made from it and measures nothing. The models are those of
tests/families: six decoder blocks of random weights, so that shares say which stage a knob reaches and not what a released model
saves. Each knob is turned down alone in interleaved pairs; times are processor time of the thread that computes, so that other
work on the machine is not counted. Closure is on the wall clock, the worst of five passes.
"""

import argparse
import copy
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from provenance import provenance

from paceline.measure.clock import HostClock
from paceline.measure.greedy import greedy, own_settings_aside
from paceline.measure.one_pass import answer_measured, measure_generate
from paceline.models.critical_section import held
from paceline.models.loading import SETTINGS_FILE, VisionLanguageModel, load_model
from paceline.records import KnobConfig
from paceline.slo import percentile, percentile_interval

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "families.json"
SIZES = (160, 120), (640, 480), (1536, 512)  # in pixels; a tier is tried on the one that it moves most
PROMPT, RANKING, ACTIVE_BLOCKS = "Read the digits.", (5, 4, 1, 3, 2), 3
TOKENS, PASSES = 4, 5
KNOBS = ("tier", "top_k", "num_active_blocks")


class ThreadClock(HostClock):
    """Marks in processor time of this thread."""

    name = "thread_time_ns"

    def mark(self) -> int:
        """Return this thread's processor time in nanoseconds."""
        return time.thread_time_ns()


def measured(model: VisionLanguageModel, pairs: int) -> dict[str, Any]:
    """Return one family's row: shares of 1 with their distribution-free 95 % intervals; None for a knob that it lacks."""
    picture, row = _picture(model), dict[str, Any]()
    full = KnobConfig(tier=model.tiers[-1], top_k=model.parts.native_top_k, num_active_blocks=6)
    for knob in KNOBS:
        low = _turned_down(model, full, knob)
        row[knob] = None if low == full else _saved(model, picture, low, full, pairs)
    passes = [_answer(model, picture, full, HostClock()) for _ in range(PASSES)]
    row["closure"] = max(each.closure for each in passes)
    row["hooks"] = _hooks(model, picture, pairs)
    return row


def _turned_down(model: VisionLanguageModel, full: KnobConfig, knob: str) -> KnobConfig:
    lowest: dict[str, Any] = {"tier": model.tiers[0], "top_k": 1, "num_active_blocks": ACTIVE_BLOCKS}
    values: dict[str, Any] = {name: getattr(full, name) for name in KNOBS}
    return KnobConfig(**{**values, knob: lowest[knob] if values[knob] is not None else None})


def _picture(model: VisionLanguageModel) -> Image.Image:
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in SIZES]

    def moved(picture: Image.Image) -> int:
        tokens = list(model.token_features(picture, PROMPT).vision_tokens.values())
        return tokens[-1] - tokens[0]

    return max(pictures, key=moved)


def _answer(model: VisionLanguageModel, picture: Image.Image, config: KnobConfig, clock: HostClock) -> Any:
    ranking = [index for index in RANKING if index not in model.parts.protected_blocks]
    return answer_measured(model, picture, PROMPT, config, ranking=ranking, max_new_tokens=TOKENS, clock=clock).times


def _saved(
    model: VisionLanguageModel, picture: Image.Image, low: KnobConfig, full: KnobConfig, pairs: int
) -> dict[str, Any]:
    """Return the share of the prefill (vision and the language model's) that is saved at `low`."""
    ratios = _ratios(
        lambda: float(_answer(model, picture, low, ThreadClock()).prefill_ms),
        lambda: float(_answer(model, picture, full, ThreadClock()).prefill_ms),
        pairs,
    )
    return _share([1 - ratio for ratio in ratios])


def _hooks(model: VisionLanguageModel, picture: Image.Image, pairs: int) -> dict[str, Any]:
    """Return what marks add to plain `generate()`."""
    inputs = model.prepare(picture, PROMPT, model.tiers[-1]).inputs
    bare: Any = model.parts.model
    generation = greedy(bare, TOKENS)

    def plain() -> float:
        with held(bare, "plain passes"), own_settings_aside(bare):
            started = time.thread_time()
            bare.generate(**inputs, generation_config=generation)
            return time.thread_time() - started

    def hooked() -> float:
        started = time.thread_time()
        measure_generate(model.parts, inputs, generation=generation, clock=ThreadClock())
        return time.thread_time() - started

    return _share([ratio - 1 for ratio in _ratios(hooked, plain, pairs)])


def _ratios(one: Callable[[], float], other: Callable[[], float], pairs: int) -> list[float]:
    for warm_up in (one, other):
        warm_up()
    found: list[float] = []
    for index in range(pairs):
        first, second = (one, other) if index % 2 else (other, one)
        values = {first: first(), second: second()}
        found.append(values[one] / values[other])
    return found


def _share(values: Sequence[float]) -> dict[str, Any]:
    interval = percentile_interval(values, 50)
    return {
        "median": percentile(values, 50),
        "ci": None if interval is None else [interval.low, interval.high],
        "n": len(values),
    }


def tiny_families(wanted: Sequence[str], folder: Path) -> list[tuple[str, VisionLanguageModel]]:
    """Build and load the tiny models of the tests that this transformers has, or those that are named."""
    sys.path.insert(0, str(HERE.parent / "tests" / "families"))
    tiny, models = importlib.import_module("tiny_models"), list[tuple[str, VisionLanguageModel]]()
    tokenizer = copy.deepcopy(load_model("digits", device="cpu").tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tiny.MARKERS)})
    for name in wanted or sorted(tiny.TINY):
        place = folder / name.replace(" ", "_")
        place.mkdir()
        tiny.save_tiny_model(name, place, tokenizer=copy.deepcopy(tokenizer))
        settings = {"tier_token_caps": tiny.TINY[name].caps, "block_ranking": [5, 4, 1]}
        (place / SETTINGS_FILE).write_text(json.dumps(settings))
        models.append((name, load_model(str(place), device="cpu", trust_remote_code=tiny.trusted(place))))
    return models


def table(document: dict[str, Any]) -> str:
    """Return the results as a Markdown table; `*` marks a share whose interval has 0 in it."""
    lines = [
        "| family | tier | top_k | blocks | closure | hooks |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in document["families"].items():
        cells = [_cell(row[knob]) for knob in KNOBS]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['closure']:.2%} | {_cell(row['hooks'])} |")
    return "\n".join(lines)


def _cell(share: dict[str, Any] | None) -> str:
    if share is None:
        return "–"
    unsure = share["ci"] is None or share["ci"][0] <= 0 <= share["ci"][1]
    return (
        f"{share['median']:.0%}" + "*" * unsure
        if abs(share["median"]) >= 0.1
        else f"{share['median']:.1%}" + "*" * unsure
    )


def main() -> None:
    """Measure every family and write the results, or print the table of those that are written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs behind each share")
    parser.add_argument("--families", nargs="*", default=[], help="only these")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, Any] = {}
        for name, model in tiny_families(asked.families, Path(folder)):
            rows[name] = measured(model, asked.pairs)
            print(name, rows[name], file=sys.stderr, flush=True)
    document = {
        **provenance("families.py"),
        "clock": ThreadClock.name,
        "pairs": asked.pairs,
        "models": "synthetic: tiny, random weights (tests/families/tiny_models.py)",
        "families": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
