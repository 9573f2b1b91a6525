"""Tokens in blocks. Block sizes are powers of two nearly always, and a shift is many times faster than a division."""

from paceline.simulate.fast.compiling import compiled
from paceline.simulate.fast.state import Rules


def block_shift(block_size: int) -> int:
    """Return by how many bits to shift; −1 for a size that is no power of two."""
    return block_size.bit_length() - 1 if block_size & (block_size - 1) == 0 else -1


@compiled
def blocks_of(rules: Rules, tokens: int) -> int:
    """Return how many blocks hold so many tokens."""
    rounded = tokens + rules.block_size - 1
    return rounded >> rules.block_shift if rules.block_shift >= 0 else rounded // rules.block_size


@compiled
def place_in_block(rules: Rules, tokens: int) -> int:
    """Return tokens modulo block size, of negative numbers too."""
    return tokens & (rules.block_size - 1) if rules.block_shift >= 0 else tokens % rules.block_size
