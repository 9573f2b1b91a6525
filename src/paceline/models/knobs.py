"""Apply a configuration to a model for the length of a `with` block, and restore the model exactly.

Blocks are passed through, never sliced out of the list: slicing shifts positions, attention types and deepstack
features. Top-k is set on the routers: on most families an edit of the config does nothing once the model is built.
The tier acts where the picture is encoded (`families/`), before the model runs.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from paceline.errors import InvalidValueError, ModelError
from paceline.models.critical_section import held, replaced
from paceline.models.skip_cache import CACHE_NAME, CACHE_NAMES, SkipAwareCache
from paceline.models.structure import ModelParts
from paceline.records import KnobConfig, block_ranking


def check_config(parts: ModelParts, config: KnobConfig) -> None:
    """Raise InvalidValueError or ModelError when this model cannot run under `config`."""
    if config.top_k is not None:
        if parts.num_experts is None:
            raise ModelError(f"top_k is {config.top_k}, but this model is dense and has no experts; leave top_k out")
        if config.top_k > parts.num_experts:
            raise InvalidValueError("top_k", config.top_k, f"1 to {parts.num_experts}, the experts of this model")
    if config.num_active_blocks is not None and config.num_active_blocks > len(parts.blocks):
        raise InvalidValueError(
            "num_active_blocks", config.num_active_blocks, f"1 to {len(parts.blocks)}, the blocks of this model"
        )


def lacking_knobs(parts: ModelParts) -> dict[str, str]:
    """Return the knobs that this model does not have, each with the reason."""
    reasons = {
        "tier": None if parts.family.has_tiers else "every picture has the same number of image tokens in this family",
        "top_k": None if parts.routers else "this model is dense: it has no experts",
    }
    return {knob: reason for knob, reason in reasons.items() if reason is not None}


def skipped_blocks(num_blocks: int, num_active: int | None, ranking: Sequence[int]) -> frozenset[int]:
    """Return the blocks to pass through: the first of `ranking` (least important first; block 0 is never in it)."""
    skip = 0 if num_active is None else num_blocks - num_active
    least_important_first = block_ranking(ranking, num_blocks=num_blocks)
    if skip > len(least_important_first):
        raise InvalidValueError(
            "block_ranking", least_important_first, f"at least {skip} blocks that may be passed through"
        )
    return frozenset(least_important_first[:skip])


@contextmanager
def applied(parts: ModelParts, config: KnobConfig, ranking: Sequence[int]) -> Generator[None]:
    """Run the model under `config` inside the `with` block; afterwards it is the model it was, bit for bit.

    `ranking` lists decoder blocks, least important first. The model belongs to this thread for the length of the block:
    other threads wait, and a second configuration inside it is a ModelError.
    """
    check_config(parts, config)
    skipped = skipped_blocks(len(parts.blocks), config.num_active_blocks, ranking)
    with ExitStack() as stack:
        stack.enter_context(held(parts.model, "knobs"))
        if config.top_k is not None:
            for router in parts.routers:
                stack.enter_context(replaced(router, parts.top_k_name, config.top_k))
        if skipped:
            stack.enter_context(_passed_through(parts, skipped))
        yield


@contextmanager
def blocks_passed_through(parts: ModelParts, skipped: frozenset[int]) -> Generator[None]:
    """Pass the hidden states through `skipped` blocks, holding the model as `applied` does."""
    with held(parts.model, "knobs"), _passed_through(parts, skipped):
        yield


@contextmanager
def _passed_through(parts: ModelParts, skipped: frozenset[int]) -> Generator[None]:
    """Pass the hidden states through `skipped` blocks and keep every key-value cache aware of it."""
    if not skipped < set(range(len(parts.blocks))):
        raise InvalidValueError("skipped blocks", sorted(skipped), f"some, not all, of 0 to {len(parts.blocks) - 1}")
    needed = sorted(skipped & parts.protected_blocks)
    if needed:
        raise ModelError(
            f"blocks {needed} fill a key-value cache that later blocks of this model share; expected others to be skipped: "
            "leave them out of the block ranking"
        )
    with ExitStack() as stack:
        for index in sorted(skipped):
            stack.enter_context(replaced(parts.blocks[index], "forward", parts.hand_on))
        keep_aware = _cache_hook(parts, skipped)
        for module in dict.fromkeys((parts.model, parts.decoder)):
            handle = module.register_forward_pre_hook(keep_aware, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _cache_hook(parts: ModelParts, skipped: frozenset[int]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    config = parts.text_config

    def keep_aware(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = [name for name in CACHE_NAMES if kwargs.get(name) is not None]
        for name in given:
            kwargs[name] = SkipAwareCache.over(kwargs[name], config=config, skipped=skipped)
        if not given and module is parts.decoder and _wants_cache(kwargs, config.use_cache):
            kwargs[CACHE_NAME] = SkipAwareCache(config=config, skipped=skipped)
        return args, kwargs

    return keep_aware


def _wants_cache(kwargs: dict[str, Any], by_default: bool) -> bool:
    asked = kwargs.get("use_cache")
    return by_default if asked is None else bool(asked)
