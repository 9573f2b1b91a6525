"""The price of a promise: accuracy given up against a lookup table that keeps budgets just as often.

The table's latencies are scaled at every budget until, on the judged samples themselves, its adherence reaches that of the
judged controller. No table could be scaled so well beforehand, which favours it; but it moves in steps, from one
configuration to the next for all requests at once, and may have to keep budgets more often than that controller does, which
does not. Both adherences are told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.control import LookupTable, TableEntry
from paceline.evaluate.bootstrap import PairedDifference, paired_difference
from paceline.evaluate.choices import Choices, Outcomes, outcomes_of, same_for_all
from paceline.profiles.requests import MeasuredRequests


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledTable:
    """The table at equal adherence, a value a budget: what it takes, by how much its latencies were scaled, the price.

    A price is the accuracy of the scaled table minus that of the judged controller; its interval resamples requests, while
    which configuration the scaled table takes stays as it was found. `reached` is False where no configuration of the table
    keeps the budget as often; it then takes the one that keeps it most often. `overall` averages over the budgets in
    `counted`: those that a fixed configuration can keep.
    """

    choices: Choices
    scales: tuple[float, ...]
    reached: tuple[bool, ...]
    prices: tuple[PairedDifference, ...]
    counted: tuple[bool, ...]
    overall: PairedDifference | None


def scaled_table(
    table: LookupTable,
    judged: Outcomes,
    requests: MeasuredRequests,
    budgets_ms: Sequence[float],
    within_possible: Sequence[bool],
) -> ScaledTable:
    """Scale a table to the adherence of the judged controller, and say what that controller's promise costs."""
    found = [
        _entry_at(table, requests, float(budget_ms), int(kept_R.sum()))
        for budget_ms, kept_R in zip(budgets_ms, judged.kept_BR, strict=True)
    ]
    column_of = {config: column for column, config in enumerate(requests.configs)}
    choices = same_for_all([column_of[entry.config] for entry, _ in found], requests)
    scored = outcomes_of(choices, requests, budgets_ms)
    difference_BR = scored.accuracy_BR - judged.accuracy_BR
    counted = np.asarray(within_possible, dtype=np.bool_)
    tolerated = 1 + table.metadata.tolerance
    return ScaledTable(
        choices=choices,
        scales=tuple(
            float(budget_ms) * tolerated / entry.latency_ms
            for budget_ms, (entry, _) in zip(budgets_ms, found, strict=True)
        ),
        reached=tuple(reached for _, reached in found),
        prices=tuple(paired_difference(difference_R, requests.pictures) for difference_R in difference_BR),
        counted=tuple(within_possible),
        overall=(paired_difference(difference_BR[counted].mean(axis=0), requests.pictures) if counted.any() else None),
    )


def _entry_at(
    table: LookupTable, requests: MeasuredRequests, budget_ms: float, kept_by_judged: int
) -> tuple[TableEntry, bool]:
    """Return the table's most accurate entry that keeps the budget at least as often, and whether there is one."""
    column_of = {config: column for column, config in enumerate(requests.configs)}
    kept = {
        entry: int((requests.latency_ms_RC[:, column_of[entry.config]] <= budget_ms).sum()) for entry in table.front
    }
    reaching = [entry for entry, count in kept.items() if count >= kept_by_judged]
    return (reaching[-1], True) if reaching else (max(kept, key=lambda entry: kept[entry]), False)
