"""Where the knobs of a model are that vLLM has loaded: its decoder layers, experts and attention, found by structure.

What a model lacks for requests to have knobs of their own is said in one sentence at start; nothing is known by a family's name.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from paceline.errors import EngineError

LAYER_INPUTS = ("positions", "hidden_states", "residual")
WITHOUT = "serve it without --worker-cls"


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder's layers of a loaded model; raises EngineError where there are none that can be skipped.

    A layer must take positions, hidden states and a residual by these names, and have a key-value cache of its own.
    """
    language_model = model.get_language_model() if hasattr(model, "get_language_model") else model
    decoder = getattr(language_model, "model", language_model)
    layers = list(getattr(decoder, "layers", ()))
    if not layers:
        raise EngineError(
            f"no decoder layers were found in this model ({type(model).__name__}); expected `model.layers`; {WITHOUT}"
        )
    layer: Any
    for layer in layers:
        inputs = inspect.signature(layer.forward).parameters
        missing = [name for name in LAYER_INPUTS if name not in inputs]
        if missing:
            raise EngineError(
                f"the decoder layers of this model ({type(layer).__name__}) take no {', '.join(missing)}; expected layers that "
                f"hand on hidden states and a residual; {WITHOUT}"
            )
        if any(getattr(each, "kv_sharing_target_layer_name", None) is not None for each in layer.modules()):
            raise EngineError(
                f"decoder layers of this model ({type(layer).__name__}) read the key-value cache of another layer, which a "
                f"request may skip; expected a cache of its own in each; {WITHOUT}"
            )
    return layers


def require_plain_layers(layers: Sequence[Any], run: Callable[[Any], Any]) -> None:
    """Run one layer of each kind on one token; raises EngineError for a kind that hands on more or less than it was given.

    `run` calls a layer with positions, hidden states (1, hidden) and a residual alone, outside of any request.
    """
    for layer in {type(each): each for each in layers}.values():
        try:
            shapes = [None if each is None else tuple(each.shape) for each in run(layer)]
        except Exception as error:  # whatever a layer that wants more than these three does without it
            raise _not_plain(layer, f"cannot run on these alone ({type(error).__name__}: {error!s:.80})") from error
        if len(shapes) != 2 or shapes[0] is None or len(shapes[0]) != 2 or shapes[1] not in (None, shapes[0]):
            raise _not_plain(layer, f"hand on {shapes}")


def expert_layers(layers: Sequence[Any]) -> list[Any]:
    """Return the mixtures of experts of these layers; raises EngineError for one whose top_k cannot be chosen by request."""
    moes = [each for layer in layers for each in layer.modules() if _is_moe(each)]
    for moe in moes:
        _refuse_moe(moe)
    return moes


def one_top_k(moes: Sequence[Any]) -> int | None:
    """Return the experts a token of a model, None for a dense one; raises EngineError where its layers differ."""
    found = {moe.router.top_k for moe in moes}
    if len(found) > 1:
        raise EngineError(
            f"the layers of this model take {sorted(found)} experts a token; expected the same number in each; {WITHOUT}"
        )
    return found.pop() if found else None


def attention_names(layer: Any) -> list[str]:
    """Return the names by which a forward context tells a layer's attention of a step."""
    return [each.layer_name for each in layer.modules() if hasattr(each, "layer_name") and hasattr(each, "kv_cache")]


def _not_plain(layer: Any, problem: str) -> EngineError:
    return EngineError(
        f"the decoder layers of this model ({type(layer).__name__}) {problem}; expected layers that take positions, hidden "
        f"states and a residual, and hand on the latter two; {WITHOUT}"
    )


def _is_moe(module: Any) -> bool:
    return hasattr(module, "router") and hasattr(module, "routed_experts")


def _refuse_moe(moe: Any) -> None:
    router = moe.router
    problems = {
        "its kernel routes by itself (monolithic)": moe.routed_experts.quant_method.is_monolithic,
        "its router adds a score correction": _has(router, "e_score_correction_bias") or _has(router, "bias_vl"),
        "its router looks experts up by token": _has(router, "hash_indices_table"),
        "its router chooses among groups of experts": bool(getattr(router, "use_grouped_topk", False))
        or bool(getattr(router, "num_expert_group", None)),
        "its router is a function of its own": _has(router, "custom_routing_function"),
        "its router has experts that compute nothing": _has(router, "zero_expert_type"),
        "its router counts shared experts among those a token takes": bool(
            getattr(router, "num_fused_shared_experts", 0)
        ),
        "its router does not say whether it normalises weights": not hasattr(router, "renormalize"),
        "its experts are moved while it serves (EPLB)": _has(router.eplb_state, "expert_load_view"),
    }
    for problem, holds in problems.items():
        if holds:
            raise EngineError(
                f"top_k cannot be chosen by request in this model: {problem}; expected plain top-k routing, for example with "
                "--moe-backend triton; or serve it without --worker-cls"
            )


def _has(owner: Any, name: str) -> bool:
    return getattr(owner, name, None) is not None
