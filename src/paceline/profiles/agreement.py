"""Do answers that an engine gave together equal those that it gave alone? Counted from the samples that say so."""

from dataclasses import asdict, dataclass

import msgspec
import polars as pl

from paceline.slo import Interval, wilson_interval

TOGETHER, ALONE = "answered_together", "answer_alone"  # in a sample's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAgreement:
    """Of `count` answers given together with others, how many are other ones than the engine gave with nothing beside."""

    count: int
    differing: int

    @property
    def interval(self) -> Interval:
        """A 95 % interval of the share that differs."""
        return wilson_interval(self.differing / self.count, self.count)

    def document(self) -> dict[str, object]:
        """Return the counts and the interval as a JSON object."""
        return {**asdict(self), "ci": [self.interval.low, self.interval.high]}

    def __str__(self) -> str:
        interval = self.interval
        return (
            f"{self.differing:,} of {self.count:,} answers differ between full batches and one request alone "
            f"(95 % CI {interval.low:.4f} to {interval.high:.4f})"
        )


class _Told(msgspec.Struct):
    answered_together: int | None = None
    answer_alone: str | None = None


TOLD = msgspec.json.Decoder(_Told)


def batch_agreement(samples: pl.DataFrame) -> BatchAgreement | None:
    """Return how often answers differ; None for a profile whose answers were given one at a time. Needs `metadata`."""
    count = differing = 0
    for text in samples["metadata"]:
        try:
            told = TOLD.decode(text)
        except msgspec.MsgspecError:  # of another tool, where the names may mean anything
            continue
        if told.answered_together is not None:
            count += 1
            differing += told.answer_alone is not None
    return BatchAgreement(count=count, differing=differing) if count else None
