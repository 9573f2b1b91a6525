"""The most that any controller could recover that does not know which handwriting is in the picture.

    python benchmarks/feature_ceiling.py CONTROLLER [--scenes 20] [--variants 64]

A request's vector tells of the question and of how many digits of what size stand where; it does not tell which scans they
are, on which the answer turns too. Scenes of each question set are drawn, and of every scene variants of other scans: the same
prompt, canvas, places and sizes. All are answered under every configuration. An oracle restricted to the scene takes, among
the configurations whose bound fits, the one that is right most often over the variants. Chosen and scored on the same
variants it is above what any such controller can reach; chosen on one half and scored on the other, below what the best of
them reaches. The learned controller of CONTROLLER and the oracle that knows each answer stand beside it. Accuracies only:
nothing is timed, so it may run beside other work. Writes benchmarks/results/feature_ceiling.json.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from provenance import provenance

from paceline.control.learned.controller import LearnedController
from paceline.datasets import DrawnPicture, VisualQuestion, score
from paceline.datasets.digits import (
    DIGIT_SCORER,
    DIGIT_SETS,
    DigitScans,
    DigitScene,
    PlacedDigit,
    ask,
    compose_scene,
    digit_scans,
)
from paceline.errors import PacelineWarning
from paceline.measure.one_pass import greedy
from paceline.models.knobs import applied
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.records import KnobConfig, RequestFeatures

RESULTS = Path(__file__).parent / "results" / "feature_ceiling.json"
SPLIT = "test"  # scans that neither the model nor any profile of the validation split has seen
SEED = 20261121
MAX_NEW_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """One scene, drawn several times: its question set, the questions, and what each configuration made of them (V, C)."""

    dataset: str
    questions: list[VisualQuestion]
    features: list[RequestFeatures]
    accuracy_VC: NDArray[np.float64]


def main() -> None:
    """Draw, answer, compare and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("controller", type=Path)
    arguments.add_argument("--scenes", type=int, default=20)
    arguments.add_argument("--variants", type=int, default=64)
    asked = arguments.parse_args()
    learned, model = LearnedController.load(asked.controller), load_model("digits", device="cpu")
    configs = learned.bound.ranked.configs
    drawn: list[Variants] = []
    for dataset in DIGIT_SETS:
        for scene in range(asked.scenes):
            drawn.append(_variants(model, dataset, scene, asked.variants, configs, learned))
            print(f"{dataset} {scene + 1} of {asked.scenes}", flush=True)
    low, high = learned.chooser.description.budget_range_ms
    found = [_at_budget(drawn, learned, budget_ms) for budget_ms in np.linspace(low, high, 10).tolist()]
    means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    _print(found, means)
    document = {
        **provenance("feature_ceiling.py"),
        "scenes_a_set": asked.scenes,
        "variants": asked.variants,
        "budgets": found,
        "mean": means,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS}")


def _variants(
    model: VisionLanguageModel,
    dataset: str,
    scene: int,
    count: int,
    configs: Sequence[KnobConfig],
    learned: LearnedController,
) -> Variants:
    questions = draw_variants(dataset, scene, count)
    ranking = tuple(learned.provenance[0]["block_ranking"])  # pyright: ignore[reportArgumentType]
    accuracy_CV = [_answered(model, questions, config, ranking) for config in configs]
    return Variants(
        dataset=dataset,
        questions=questions,
        features=[model.features(each.picture, each.prompt) for each in questions],
        accuracy_VC=np.array(accuracy_CV).T,
    )


def draw_variants(dataset: str, scene: int, count: int) -> list[VisualQuestion]:
    """Return one scene's question, asked about `count` pictures that differ in their scans alone.

    `digits_exist` asks for the same digit in all of them, and it is there in half.
    """
    scans = digit_scans(SPLIT)
    random = np.random.default_rng([SEED, DIGIT_SETS.index(dataset), scene])
    first = compose_scene(scans, random)
    prompt, _ = ask(dataset, first, random)
    asked_for = next((int(word) for word in prompt.replace("?", "").split() if word.isdigit()), None)
    questions: list[VisualQuestion] = []
    for variant in range(count):
        drawn = _redrawn(first, scans, random, asked_for, present=variant % 2 == 0)
        answers = {
            "digits_read": " ".join(str(digit) for digit in drawn.digits),
            "digits_count": str(len(drawn.digits)),
            "digits_exist": "yes" if asked_for in drawn.digits else "no",
        }
        questions.append(
            VisualQuestion(
                sample_id=f"{dataset}-{scene}-{variant}",
                dataset=dataset,
                pictures=(DrawnPicture(image=drawn.picture),),
                prompt=prompt,
                references=(answers[dataset],),
                scorer=DIGIT_SCORER,
            )
        )
    return questions


def _redrawn(
    scene: DigitScene, scans: DigitScans, random: np.random.Generator, asked_for: int | None, *, present: bool
) -> DigitScene:
    """Return a scene with other scans in the same places; with `asked_for`, it is among them or not, as told."""
    others = np.flatnonzero(scans.labels_S != asked_for)
    rows = random.choice(others, size=len(scene.placed))
    if asked_for is not None and present:
        rows[random.integers(len(rows))] = random.choice(np.flatnonzero(scans.labels_S == asked_for))
    canvas = Image.new("L", scene.picture.size, 0)
    placed: list[PlacedDigit] = []
    for row, where in zip(rows.tolist(), scene.placed, strict=True):
        scan = Image.fromarray(scans.pixels_SHW[row]).resize((where.side, where.side), Image.Resampling.BICUBIC)
        canvas.paste(scan, (where.left, where.top))
        placed.append(PlacedDigit(digit=int(scans.labels_S[row]), left=where.left, top=where.top, side=where.side))
    return DigitScene(picture=canvas.convert("RGB"), placed=tuple(placed))


def _answered(
    model: VisionLanguageModel, questions: Sequence[VisualQuestion], config: KnobConfig, ranking: tuple[int, ...]
) -> list[float]:
    """Return the score of every question under a configuration, all answered in one batch: they are equally long."""
    requests = [model.prepare(each.picture, each.prompt, config.tier) for each in questions]
    inputs = {name: torch.cat([each.inputs[name] for each in requests]) for name in requests[0].inputs}
    generator: Any = model.parts.model
    with applied(model.parts, config, ranking), torch.inference_mode():
        ids_VL = generator.generate(**inputs, generation_config=greedy(generator, MAX_NEW_TOKENS))
    answers_VL = ids_VL[:, inputs["input_ids"].shape[1] :]
    scores = [score(each, model.decode(ids_L)) for each, ids_L in zip(questions, answers_VL, strict=True)]
    return [each for each in scores if each is not None]


def _at_budget(drawn: Sequence[Variants], learned: LearnedController, budget_ms: float) -> dict[str, float]:
    rows = [_scene_at(each, learned, budget_ms) for each in drawn]
    return {"budget_ms": budget_ms, **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]}}


def _scene_at(scene: Variants, learned: LearnedController, budget_ms: float) -> dict[str, float]:
    place = {config: column for column, config in enumerate(learned.bound.ranked.configs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PacelineWarning)
        bound = learned.bound.predict(budget_ms, features=scene.features[0])
        taken_V = [place[learned.predict(budget_ms, features=each).config] for each in scene.features]
    fits_C = [place[config] for config in learned.bound.fitting(budget_ms, scene.features[0])] or [place[bound.config]]
    accuracy_VC = scene.accuracy_VC[:, fits_C]
    halves = accuracy_VC[::4], accuracy_VC[2::4], accuracy_VC[1::4], accuracy_VC[3::4]
    one, other = np.vstack([halves[0], halves[2]]), np.vstack([halves[1], halves[3]])
    return {
        "bound": float(scene.accuracy_VC[:, place[bound.config]].mean()),
        "learned": float(scene.accuracy_VC[np.arange(len(taken_V)), taken_V].mean()),
        "scene_oracle_low": (_chosen(one, other) + _chosen(other, one)) / 2,
        "scene_oracle_high": float(accuracy_VC.mean(axis=0).max()),
        "answer_oracle": float(accuracy_VC.max(axis=1).mean()),
    }


def _chosen(by_VC: NDArray[np.float64], scored_VC: NDArray[np.float64]) -> float:
    """Return the mean score of the column that is best elsewhere; the first of equals, which the profile prefers."""
    return float(scored_VC[:, by_VC.mean(axis=0).argmax()].mean())


def _print(found: Sequence[dict[str, float]], means: dict[str, float]) -> None:
    for row in [*found, means]:
        print("  ".join(f"{name} {value:.4f}" for name, value in row.items()))
    distance = means["answer_oracle"] - means["bound"]
    for name in ("learned", "scene_oracle_low", "scene_oracle_high"):
        print(
            f"{name}: {(means[name] - means['bound']) / distance:+.3f} of bound to oracle ({100 * distance:.2f} points)"
        )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s")
