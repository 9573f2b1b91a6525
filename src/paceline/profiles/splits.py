"""Parts of a profile that share no sample: what is fitted, what calibrates a bound, what judges.

A sample's part follows from a hash of its own name, so it is the same in every profile that holds the sample, however
many datasets or configurations are read with it: what was held out once stays held out.

Questions about one picture are alike in what they cost and in how well they are answered. Where some share a picture, all
questions of a picture go together, and one of them calibrates or judges: bounds and intervals take independent requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import polars as pl

from paceline.errors import InvalidValueError
from paceline.profiles.fields import dataset_name
from paceline.profiles.questions import Key
from paceline.records import require_seed

DEFAULT_SEED = 3407
HASH_BYTES = 8
PARTS = ("fit", "calibration", "test")
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How samples are parted: shares of all samples, the rest is fitted. All configurations of a sample go together.

    With `by_picture` shares are of pictures, and of the questions of a calibrating or judging picture one is kept.
    """

    seed: int = DEFAULT_SEED
    calibration_share: float = 0.2
    test_share: float = 0.2
    by_picture: bool = False

    def __post_init__(self) -> None:
        require_seed(self.seed)
        for name in ("calibration_share", "test_share"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InvalidValueError(name, value, "a share between 0 and 1, for example 0.2")
        if self.calibration_share + self.test_share >= 1:
            taken = self.calibration_share + self.test_share
            raise InvalidValueError(
                "calibration_share + test_share", taken, "less than 1, so that some samples are fitted"
            )

    def part_of(self, dataset: str, sample_id: str) -> str:
        """Return `fit`, `calibration` or `test`."""
        return self._part_at(self.place_of(f"{dataset_name(dataset)}/{sample_id}"))

    def part_of_picture(self, picture_sha256: str) -> str:
        """Return `fit`, `calibration` or `test` for all questions about a picture, of whatever dataset."""
        return self._part_at(self.place_of(f"picture/{picture_sha256}"))

    def place_of(self, name: str) -> float:
        """Return a number in [0, 1) that follows from the seed and a name alone."""
        digest = blake2b(f"{self.seed}/{name}".encode(), digest_size=HASH_BYTES).digest()
        return int.from_bytes(digest) / 2 ** (8 * HASH_BYTES)

    def _part_at(self, place: float) -> str:
        if place < self.test_share:
            return "test"
        return "calibration" if place < self.test_share + self.calibration_share else "fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParts:
    """The rows of a samples frame, parted by sample.

    `left_out` counts the questions that neither calibrate nor judge, for another question of their picture does.
    """

    fit: pl.DataFrame
    calibration: pl.DataFrame
    test: pl.DataFrame
    left_out: int = 0


def picture_shared(pictures: Mapping[Key, str]) -> bool:
    """Return whether some questions share a picture."""
    return len(set(pictures.values())) < len(pictures)


def split_samples(samples: pl.DataFrame, split: Split, pictures: Mapping[Key, str] | None = None) -> SampleParts:
    """Part a samples frame (one row a sample and configuration) by sample, or by picture where the split says so.

    `pictures` gives each question's picture, as `pictures_of_profile` returns it. Raises InvalidValueError for an empty part,
    and where a split by picture meets questions whose pictures are not told.
    """
    names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique(maintain_order=True)
    parts = _parts_of(list(names.iter_rows()), split, pictures or {})
    keys = names.with_columns(part=pl.Series(parts, dtype=pl.Enum((*PARTS, LEFT_OUT))))
    placed = samples.with_columns(name=pl.col("dataset").cast(pl.String)).join(
        keys, left_on=["name", "sample_id"], right_on=["dataset", "sample_id"], how="left", maintain_order="left"
    )
    found = {part: placed.filter(pl.col("part") == part).drop("name", "part") for part in PARTS}
    empty = [part for part in PARTS if found[part].is_empty()]
    if empty:
        raise InvalidValueError(
            "profile",
            f"{names.height} samples, none of them in the part for {empty[0]}",
            "at least some 20 samples, so that each part gets some: profile more, or give larger shares",
        )
    return SampleParts(**found, left_out=parts.count(LEFT_OUT))


def _parts_of(names: Sequence[Key], split: Split, pictures: Mapping[Key, str]) -> list[str]:
    if not split.by_picture:
        return [split.part_of(*name) for name in names]
    untold = next((name for name in names if name not in pictures), None)
    if untold is not None:
        raise InvalidValueError(
            "profile",
            f"does not tell the picture of question {untold[1]!r} of {untold[0]}",
            "the pictures of all questions, for the estimator was trained with all questions of a picture in one part: name "
            "the store that `paceline profile` wrote, or one merged from such stores",
        )
    first: dict[str, tuple[float, Key]] = {}
    for name in names:
        place = split.place_of(f"{dataset_name(name[0])}/{name[1]}")
        first[pictures[name]] = min(first.get(pictures[name], (place, name)), (place, name))
    found: list[str] = []
    for name in names:
        part = split.part_of_picture(pictures[name])
        found.append(part if part == "fit" or first[pictures[name]][1] == name else LEFT_OUT)
    return found
