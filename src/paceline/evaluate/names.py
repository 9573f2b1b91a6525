"""What controllers are called in an evaluation, and which of them are judged against which.

A learned controller is one whose name begins with `grpo` or `supervised`: `grpo`, `grpo_second`.
"""

TABLE, BOUND, ORACLE = "table", "bound", "oracle"
DATASET_TABLES = "dataset_tables"
ORACLE_WITHIN_BOUND, SCALED_TABLE = "oracle_within_bound", "table_equal_adherence"
LEARNED = {"grpo": "grpo", "supervised": "supervised"}  # learner: name of its controllers


def is_learned(name: str) -> bool:
    """Return whether a controller of this name was learned, by the first word of it."""
    return name.split("_")[0] in LEARNED.values()


def scaled_table_for(name: str) -> str:
    """Return the name of the table that was scaled to this controller's adherence."""
    return SCALED_TABLE if name == BOUND else f"{SCALED_TABLE}_{name}"
