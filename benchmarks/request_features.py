"""Time what is looked at of a request before its vision encoder runs, part by part, for four sizes of picture.

    python benchmarks/request_features.py [--rounds 300]

Writes benchmarks/results/request_features.json. Every round takes all parts of all sizes in a new order; the pictures are
synthetic noise, eight of each size in turn, so that a large one is not found in the processor's cache. Asked: all of it in
less than 1 ms.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image
from provenance import provenance

from paceline.models.features import picture_features, prompt_embedding
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.request_vector import request_vector

SIZES = ((160, 160), (640, 480), (1920, 1080), (4000, 3000))
PICTURES_A_SIZE = 8
PROMPT = "Which digits do you see, in order?"
RESULTS = Path(__file__).parent / "results" / "request_features.json"
Part = Callable[[], object]


def synthetic_pictures(width: int, height: int) -> list[Image.Image]:
    """Return pictures of coarse noise, so that there are marks of all sizes to be found."""
    random = np.random.default_rng(3407)
    coarse = [random.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(PICTURES_A_SIZE)]
    return [Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC) for each in coarse]


def parts_of(model: VisionLanguageModel, width: int, height: int) -> dict[str, Part]:
    """Return what is timed for one size of picture: each part alone, and the whole."""
    pictures = cycle(synthetic_pictures(width, height))
    ids: list[int] = model.tokenizer(PROMPT, add_special_tokens=False).input_ids
    known = model.features(next(pictures), PROMPT)
    return {
        "token counts": lambda: model.token_features(next(pictures), PROMPT),
        "picture": lambda: picture_features(next(pictures)),
        "prompt embedding": lambda: prompt_embedding(model.token_projection_VP, ids),
        "vector": lambda: request_vector(known),
        "features and vector": lambda: request_vector(model.features(next(pictures), PROMPT)),
    }


def microseconds(part: Part) -> float:
    """Return the time of one call."""
    start = time.perf_counter_ns()
    part()
    return (time.perf_counter_ns() - start) / 1e3


def main() -> None:
    """Time the parts, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    model = load_model("digits", device="cpu")
    parts = {(size, name): part for size in SIZES for name, part in parts_of(model, *size).items()}
    times: dict[tuple[tuple[int, int], str], list[float]] = {key: [] for key in parts}
    random, keys = np.random.default_rng(3407), list(parts)
    for part in parts.values():
        part()
    for _ in range(arguments.rounds):
        for index in random.permutation(len(keys)):
            key = keys[int(index)]
            times[key].append(microseconds(parts[key]))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for ((width, height), name), taken in times.items():
        median, p95 = np.percentile(taken, [50, 95]).tolist()
        figures.setdefault(f"{width}x{height}", {})[name] = {"median_us": median, "p95_us": p95}
        print(f"{width}x{height:<5} {name:<20} median {median:6.0f} us   p95 {p95:6.0f} us")
    document = {
        **provenance("request_features.py"),
        "rounds": arguments.rounds,
        "pictures": "synthetic",
        "parts": figures,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
