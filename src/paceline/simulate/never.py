"""What is said of a load that cannot end."""

from paceline.errors import InvalidValueError
from paceline.simulate.engine_settings import VIDUR, SimulatedEngine


def never_admitted(engine: SimulatedEngine, index: int, tokens: int) -> InvalidValueError:
    """Return the error about the head of a queue that an idle engine does not admit."""
    needed = -(-tokens // engine.block_size)
    kept = engine.watermark_blocks if engine.rules == VIDUR else 0
    watermark = f" and {kept} that stay free" if kept else ""
    expected = (
        f"at least {needed + kept + (engine.num_blocks - engine.usable_blocks)}: request {index} can never be admitted, "
        f"its {tokens} tokens need {needed} blocks of {engine.block_size}{watermark}; raise num_blocks or shorten the request"
    )
    return InvalidValueError("num_blocks", engine.num_blocks, expected)
