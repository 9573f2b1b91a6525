"""Which decoder blocks an engine may skip: as its settings say, or as the controller's profile was measured."""

from pathlib import Path

from paceline.control.loading import load_controller
from paceline.control.measured_ranking import measured_ranking
from paceline.errors import InvalidValueError, TableError
from paceline.records import block_ranking
from paceline.vllm_plugin.settings import controller_path, section

PLACE = 'additional_config["paceline"]["block_ranking"]'


def engine_ranking(additional_config: object, num_blocks: int) -> tuple[int, ...]:
    """Return an engine's blocks, least important first; none without a setting, so that all stay active.

    Raises InvalidValueError for a `block_ranking` that is none of this model's or not its `controller`'s, TableError for a
    controller that states none where the settings do not either, and what `load_controller` raises.
    """
    given = section(additional_config).get("block_ranking")
    try:
        own = None if given is None else block_ranking(given, num_blocks=num_blocks)
    except InvalidValueError as error:
        raise InvalidValueError(PLACE, given, error.expected) from error
    path = controller_path(additional_config)
    if path is None:
        return own or ()
    return _agreed(own, measured_ranking(load_controller(path).provenance, num_blocks=num_blocks), path)


def _agreed(own: tuple[int, ...] | None, measured: tuple[int, ...] | None, path: Path) -> tuple[int, ...]:
    if own is not None and measured is not None and own != measured:
        raise InvalidValueError(
            PLACE,
            list(own),
            f"{list(measured)}, the ranking that {path} was measured with; leave it out and the controller's is taken",
        )
    found = own if own is not None else measured
    if found is None:
        raise TableError(
            f"{path} does not say which decoder blocks matter least; expected the ranking that it was measured with: "
            'build it from a native profile (paceline profile), or set "block_ranking" beside "controller"'
        )
    return found
