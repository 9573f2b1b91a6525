"""Parts of a profile that share no sample: what is fitted, what calibrates a bound, what judges.

A sample's part follows from a hash of its own name, so it is the same in every profile that holds the sample, however
many datasets or configurations are read with it: what was held out once stays held out.
"""

from dataclasses import dataclass
from hashlib import blake2b

import polars as pl

from paceline.errors import InvalidValueError
from paceline.profiles.fields import dataset_name
from paceline.records import require_seed

DEFAULT_SEED = 3407
HASH_BYTES = 8
PARTS = ("fit", "calibration", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How samples are parted: shares of all samples, the rest is fitted. All configurations of a sample go together."""

    seed: int = DEFAULT_SEED
    calibration_share: float = 0.2
    test_share: float = 0.2

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
        text = f"{self.seed}/{dataset_name(dataset)}/{sample_id}"
        place = int.from_bytes(blake2b(text.encode(), digest_size=HASH_BYTES).digest()) / 2 ** (8 * HASH_BYTES)
        if place < self.test_share:
            return "test"
        return "calibration" if place < self.test_share + self.calibration_share else "fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParts:
    """The rows of a samples frame, parted by sample."""

    fit: pl.DataFrame
    calibration: pl.DataFrame
    test: pl.DataFrame


def split_samples(samples: pl.DataFrame, split: Split) -> SampleParts:
    """Part a samples frame (one row a sample and configuration) by sample; raises InvalidValueError for an empty part."""
    names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique()
    parts = [split.part_of(dataset, sample_id) for dataset, sample_id in names.iter_rows()]
    keys = names.with_columns(part=pl.Series(parts, dtype=pl.Enum(PARTS)))
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
    return SampleParts(**found)
