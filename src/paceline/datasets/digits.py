"""Three visual question sets over real handwriting that need no download.

The digits are the UCI "Optical Recognition of Handwritten Digits" set (E. Alpaydin, C. Kaynak, 1998) as shipped with
scikit-learn: 1,797 scans of 8 x 8 pixels. Scenes are composed here: one to four digits of 18 to 60 pixels, one in each
quadrant at most. Training, validation and test scenes use disjoint scans, so no scan is seen twice; their
writers are shared, for scikit-learn's copy does not say who wrote what.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from PIL import Image
from sklearn.datasets import load_digits

from paceline.datasets.picture_source import DrawnPicture
from paceline.datasets.question import VisualQuestion
from paceline.errors import UnknownChoiceError
from paceline.records import MetadataValue, require_seed

DIGIT_SETS = ("digits_read", "digits_count", "digits_exist")
DIGIT_SCORER = "exact_match/1"
SPLITS = {"train": slice(0, 1400), "validation": slice(1400, 1600), "test": slice(1600, 1797)}
CANVAS_SHAPES = ((160, 160), (192, 128), (128, 192))  # (width, height): square, landscape, portrait
SMALLEST_DIGIT, LARGEST_DIGIT = 18, 60
SCAN_ORDER_SEED = 3407

PROMPTS = {
    "digits_read": ("Read the digits.", "What digits are in the picture?", "Which digits do you see, in order?"),
    "digits_count": ("How many digits are there?", "Count the digits.", "How many digits do you see in the picture?"),
    "digits_exist": ("Is there a {digit}?", "Do you see a {digit} in the picture?", "Is one of the digits a {digit}?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDigit:
    """One handwritten digit and the square of canvas pixels it covers."""

    digit: int
    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitScene:
    """A composed picture with its digits in reading order (rows first, then columns)."""

    picture: Image.Image
    placed: tuple[PlacedDigit, ...]

    @property
    def digits(self) -> tuple[int, ...]:
        """The digits in reading order, which is the order that `digits_read` expects."""
        return tuple(each.digit for each in self.placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitScans:
    """The scans of one split: `pixels_SHW` (scan, row, column; uint8, 0 is background) and their labels."""

    pixels_SHW: np.ndarray
    labels_S: np.ndarray


@lru_cache(maxsize=3)
def digit_scans(split: str) -> DigitScans:
    """Return the scans of `train` (1,400), `validation` (200) or `test` (197); the three never share one."""
    if split not in SPLITS:
        raise UnknownChoiceError("split", split, tuple(SPLITS))
    pixels_SHW, labels_S = (np.asarray(part) for part in load_digits(return_X_y=True))
    order_S = np.random.default_rng(SCAN_ORDER_SEED).permutation(len(labels_S))[SPLITS[split]]
    grey_SHW = (pixels_SHW.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    return DigitScans(pixels_SHW=grey_SHW[order_S], labels_S=labels_S[order_S])


def compose_scene(scans: DigitScans, random: Generator, shape: tuple[int, int] | None = None) -> DigitScene:
    """Draw one to four digits, at most one a quadrant, all near one random size; `shape` is (width, height) in pixels."""
    width, height = shape or CANVAS_SHAPES[int(random.integers(len(CANVAS_SHAPES)))]
    canvas = Image.new("L", (width, height), 0)
    scene_side = np.exp(random.uniform(np.log(SMALLEST_DIGIT), np.log(LARGEST_DIGIT)))
    placed: list[PlacedDigit] = []
    for quadrant in sorted(random.permutation(4)[: int(random.integers(1, 5))].tolist()):
        index = int(random.integers(len(scans.labels_S)))
        side = int(np.clip(scene_side * random.uniform(0.85, 1.15), SMALLEST_DIGIT, LARGEST_DIGIT))
        left = (quadrant % 2) * (width // 2) + int(random.integers(0, width // 2 - side + 1))
        top = (quadrant // 2) * (height // 2) + int(random.integers(0, height // 2 - side + 1))
        scan = Image.fromarray(scans.pixels_SHW[index]).resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(scan, (left, top))
        placed.append(PlacedDigit(digit=int(scans.labels_S[index]), left=left, top=top, side=side))
    return DigitScene(picture=canvas.convert("RGB"), placed=tuple(placed))


def ask(dataset: str, scene: DigitScene, random: Generator) -> tuple[str, str]:
    """Return a prompt of `dataset` about `scene` and its answer; `digits_exist` is yes in half of the cases."""
    prompt = PROMPTS[dataset][int(random.integers(len(PROMPTS[dataset])))]
    if dataset == "digits_read":
        return prompt, " ".join(str(digit) for digit in scene.digits)
    if dataset == "digits_count":
        return prompt, str(len(scene.digits))
    present = sorted(set(scene.digits))
    absent = sorted(set(range(10)) - set(present))
    answer = bool(random.integers(2))
    digit = int(random.choice(present if answer else absent))
    return prompt.format(digit=digit), "yes" if answer else "no"


def digit_questions(dataset: str, *, split: str, count: int, seed: int = 0) -> list[VisualQuestion]:
    """Return the first `count` questions of a digit set; question i depends on (dataset, split, seed, i) alone."""
    if dataset not in DIGIT_SETS:
        raise UnknownChoiceError("dataset", dataset, DIGIT_SETS)
    require_seed(seed)
    scans = digit_scans(split)
    split_index = tuple(SPLITS).index(split)
    questions: list[VisualQuestion] = []
    for index in range(count):
        random = np.random.default_rng([seed, DIGIT_SETS.index(dataset), split_index, index])
        scene = compose_scene(scans, random)
        prompt, answer = ask(dataset, scene, random)
        metadata: dict[str, MetadataValue] = {
            "digits": len(scene.digits),
            "side_px": round(float(np.mean([d.side for d in scene.placed])), 1),
        }
        questions.append(
            VisualQuestion(
                sample_id=f"{dataset}-{split}-{seed}-{index:05d}",
                dataset=dataset,
                pictures=(DrawnPicture(image=scene.picture),),
                prompt=prompt,
                references=(answer,),
                scorer=DIGIT_SCORER,
                metadata=metadata,
            )
        )
    return questions
