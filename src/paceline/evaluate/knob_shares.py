"""Which values of the knobs a controller takes, by question set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.evaluate.figures import BudgetFigures
from paceline.records import TIERS, KnobConfig

WORDS = {"tier": "tier {}", "top_k": "{} experts", "num_active_blocks": "{} blocks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobValue:
    """One value of one knob."""

    knob: str
    value: str | int

    @property
    def words(self) -> str:
        """The value as a heading: `tier low`, `4 experts`, `8 blocks`."""
        return WORDS[self.knob].format(self.value)

    @property
    def place(self) -> tuple[int, int]:
        """Order by knob, then from the smallest value to the largest."""
        return list(WORDS).index(self.knob), self.value if isinstance(self.value, int) else TIERS.index(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobShares:
    """One controller on one question set over all budgets: decisions, mean accuracy, share of decisions by knob value."""

    dataset: str
    decisions: int
    accuracy: float
    shares: dict[KnobValue, float]


def knob_shares(figures: Sequence[BudgetFigures]) -> list[KnobShares]:
    """Return a row a question set from the rows of one controller; a value that was never taken has no share."""
    return [_of_dataset(dataset, figures) for dataset in figures[0].configs_by_dataset]


def knob_values(rows: Sequence[KnobShares]) -> list[KnobValue]:
    """Return all values that some row has a share of, knob by knob, the smallest first."""
    return sorted({value for row in rows for value in row.shares}, key=lambda value: value.place)


def _of_dataset(dataset: str, figures: Sequence[BudgetFigures]) -> KnobShares:
    taken: Counter[str] = Counter()
    for each in figures:
        taken.update(each.configs_by_dataset[dataset])
    counted: Counter[KnobValue] = Counter()
    for key, count in taken.items():
        counted.update(dict.fromkeys(_values_of(KnobConfig.from_key(key)), count))
    accuracies = [each.accuracy_by_dataset[dataset] for each in figures]
    return KnobShares(
        dataset=dataset,
        decisions=taken.total(),
        accuracy=sum(accuracies) / len(accuracies),
        shares={value: count / taken.total() for value, count in counted.items()},
    )


def _values_of(config: KnobConfig) -> list[KnobValue]:
    values = {knob: getattr(config, knob) for knob in WORDS}
    return [KnobValue(knob=knob, value=value) for knob, value in values.items() if value is not None]
