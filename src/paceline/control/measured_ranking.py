"""The block ranking that a controller's configurations were measured with: without it, a number of blocks means nothing."""

from collections.abc import Mapping, Sequence

from paceline.errors import InvalidValueError, TableError
from paceline.records import block_ranking


def measured_ranking(provenance: Sequence[Mapping[str, object]], *, num_blocks: int) -> tuple[int, ...] | None:
    """Return the ranking that all runs behind a controller state, least important first; None where no run states one.

    Raises TableError for one that is none of a model of `num_blocks` decoder blocks, and for runs that differ.
    """
    stated = [run["block_ranking"] for run in provenance if "block_ranking" in run]
    try:
        rankings = {block_ranking(each, num_blocks=num_blocks) for each in stated}
    except InvalidValueError as error:
        raise TableError(f"the controller's provenance: {error}; build it again from its profile") from error
    if len(rankings) > 1:
        raise TableError(
            "the controller was built from runs with different block rankings, so its block counts mean different "
            "models; build it from runs with one ranking"
        )
    return rankings.pop() if rankings else None
