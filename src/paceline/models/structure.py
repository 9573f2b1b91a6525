"""Where the parts of a Hugging Face vision-language model are, found by structure."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from paceline.errors import ModelError
from paceline.models.families import FAMILIES, Family


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The parts that measuring and steering touch: where images are encoded, the decoder, its blocks and routers."""

    model: PreTrainedModel
    family: Family
    image_encoder_owner: nn.Module
    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    routers: tuple[nn.Module, ...]
    num_experts: int | None
    accepted_inputs: frozenset[str]

    @property
    def text_config(self) -> PreTrainedConfig:
        """The decoder's own configuration, which shapes its key-value cache."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def native_top_k(self) -> int | None:
        """The experts a token takes as the model was trained; None for a dense model."""
        return int(self.routers[0].top_k) if self.routers else None  # pyright: ignore[reportArgumentType]

    def token_type_ids(self, image_BL: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every `*_token_type_ids` that forward takes: 1 where an image token stands (batch, sequence; bool).

        Left out, a model may use the wrong experts or positions without an error.
        """
        names = sorted(name for name in self.accepted_inputs if name.endswith("token_type_ids"))
        return {name: image_BL.long() for name in names}


def find_parts(model: PreTrainedModel) -> ModelParts:
    """Find a model's image encoder, decoder, decoder blocks and MoE routers.

    Raises ModelError naming the missing part: no vision tower, an unknown family, or a decoder without a block list.
    """
    name = type(model).__name__
    if getattr(model.config, "vision_config", None) is None:
        raise ModelError(
            f"{name} has no vision tower (its config has no vision_config); expected a vision-language model "
            f"of one of the families {', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise ModelError(
            f"{name} is of the family {model.config.model_type!r}, which is not supported yet; expected one of "
            f"{', '.join(sorted(FAMILIES))} (a family is one entry in paceline/models/families.py)"
        )
    owner: Any = model.base_model  # generate() calls the base model's method, not the top level's
    if not callable(getattr(owner, "get_image_features", None)):
        raise ModelError(f"{name} has no get_image_features on its base model; expected the transformers 5 interface")
    decoder = owner.get_decoder()
    blocks = getattr(decoder, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) < 2:
        raise ModelError(f"the decoder of {name} has no list of blocks named 'layers'; expected an nn.ModuleList")
    routers = tuple(module for block in blocks for module in block.modules() if _is_router(module))
    return ModelParts(
        model=model,
        family=family,
        image_encoder_owner=owner,
        decoder=decoder,
        blocks=tuple(blocks),
        routers=routers,
        num_experts=_experts(routers[0]) if routers else None,
        accepted_inputs=frozenset(inspect.signature(model.forward).parameters),
    )


def _is_router(module: nn.Module) -> bool:
    """A router carries its own `top_k`, read at forward time, and chooses among a known number of experts."""
    top_k = getattr(module, "top_k", None)
    return isinstance(top_k, int) and isinstance(getattr(module, "num_experts", None), int)


def _experts(router: nn.Module) -> int:
    return int(router.num_experts)  # pyright: ignore[reportArgumentType]
