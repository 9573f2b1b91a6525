"""How controllers look on a page: a word, a colour and a dash each, the same everywhere."""

from collections.abc import Iterable

from paceline.evaluate.names import (
    BOUND,
    DATASET_TABLES,
    LEARNED,
    ORACLE,
    ORACLE_WITHIN_BOUND,
    SCALED_TABLE,
    TABLE,
    is_learned,
    scaled_table_for,
)

SOLID, LONG, SHORT = [1, 0], [6, 3], [2, 2]

# name: colour and dash of its line
LINES: dict[str, tuple[str, list[int]]] = {
    BOUND: ("var(--high)", SOLID),
    "grpo": ("var(--medium)", SOLID),
    "supervised": ("var(--d5)", SOLID),
    "point": ("var(--low)", SOLID),
    TABLE: ("var(--global)", LONG),
    DATASET_TABLES: ("var(--own)", LONG),
    SCALED_TABLE: ("var(--d3)", SHORT),
    ORACLE_WITHIN_BOUND: ("var(--d6)", SHORT),
    ORACLE: ("var(--muted)", SHORT),
}
WORDS = {
    BOUND: "estimator with bound",
    "grpo": "learned preferences (GRPO)",
    "supervised": "learned accuracies",
    "point": "estimator, point",
    TABLE: "table",
    DATASET_TABLES: "table per dataset",
    SCALED_TABLE: "table at the bound's adherence, in hindsight",
    ORACLE_WITHIN_BOUND: "oracle within the bound, in hindsight",
    ORACLE: "oracle, in hindsight",
}
FURTHER_COLOURS = ("var(--d4)", "var(--d7)", "var(--d1)", "var(--d2)", "var(--d0)")  # for a second one of a learner


def lines_of(names: Iterable[str]) -> dict[str, tuple[str, list[int]]]:
    """Return colour and dash of every controller that has a line, by name: learned ones come after the bound."""
    present = list(names)
    lines: dict[str, tuple[str, list[int]]] = {}
    for name in LINES:
        if name in LEARNED.values():
            lines |= _learned_lines(name, [each for each in present if each.split("_")[0] == name])
        elif name in present:
            lines[name] = LINES[name]
    return lines


def words_of(name: str) -> str:
    """Return what a controller is called on a page; one without a word goes by its name."""
    if name in WORDS:
        return WORDS[name]
    if name.startswith(scaled_table_for("")):
        return f"table at the adherence of: {words_of(name.removeprefix(scaled_table_for('')))}"
    learner = name.split("_")[0]
    return f"{WORDS[learner]} {name.removeprefix(f'{learner}_')}" if is_learned(name) else name


def _learned_lines(learner: str, names: list[str]) -> dict[str, tuple[str, list[int]]]:
    colours = (LINES[learner][0], *FURTHER_COLOURS)
    return {name: (colour, SOLID) for name, colour in zip(names, colours, strict=False)}
