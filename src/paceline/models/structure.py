"""Where the parts of a Hugging Face vision-language model are, found by structure."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from paceline.errors import ModelError
from paceline.models.families.choosing import family_of, image_token_id
from paceline.models.families.family import Family
from paceline.models.molmo.shims import MolmoShims, passed_through
from paceline.models.placement import execution_device

# tokens that stand for pictures, sounds or their borders: a decoder that writes one by itself has nothing behind it
MEDIA_TOKEN_NAME = re.compile(r".*(image|img|video|vision|audio|boi|eoi|media).*(_id|_index)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The parts that measuring and steering touch: where images are encoded, the decoder, its blocks and routers.

    `routers` own the number of experts a token takes, under the name `top_k_name`: modules, or the configuration that
    modules read it from. `protected_blocks` fill a key-value cache that later blocks share, and always run.
    `image_encoder_name` is the method that encodes pictures; `hand_on` stands in for a block that is passed through.
    """

    model: PreTrainedModel
    family: Family
    image_encoder_owner: nn.Module
    image_encoder_name: str
    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    protected_blocks: frozenset[int]
    routers: tuple[Any, ...]
    top_k_name: str
    num_experts: int | None
    accepted_inputs: frozenset[str]
    hand_on: Callable[..., Any]

    @property
    def text_config(self) -> PreTrainedConfig:
        """The decoder's own configuration, which shapes its key-value cache."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def native_top_k(self) -> int | None:
        """The experts a token takes as the model was trained; None for a dense model."""
        return int(getattr(self.routers[0], self.top_k_name)) if self.routers else None

    @property
    def embeddings(self) -> torch.Tensor:
        """The input embedding of every token (vocabulary, hidden); Molmo keeps that of its added tokens apart."""
        embed: Any = self.model.get_input_embeddings()
        parts = list(embed.parameters())
        if any(part.is_meta for part in parts):  # the weights lie elsewhere until the module is called
            with torch.no_grad():
                return embed(torch.arange(self.vocabulary, device=self.device))
        return torch.cat([part.detach() for part in parts])

    @property
    def device(self) -> torch.device:
        """Where a request's inputs go: the device of the weights, or the one that the input embeddings are brought to."""
        return execution_device(self.model.get_input_embeddings()) or self.model.device

    @property
    def vocabulary(self) -> int:
        """How many tokens the model can be given."""
        return sum(part.shape[0] for part in self.model.get_input_embeddings().parameters())

    @property
    def image_token_id(self) -> int:
        """The token that an image feature takes the place of."""
        return image_token_id(self.model.config)

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """Every token of the configuration that stands for a picture, a video, a sound or a border of one."""
        named = {**vars(self.model.config), "": self.image_token_id}
        return tuple(
            sorted({value for name, value in named.items() if type(value) is int and _names_media_token(name, value)})
        )

    def token_type_ids(self, ids_BL: torch.Tensor, *, prompt_tokens: int) -> dict[str, torch.Tensor]:
        """Return every `*_token_type_ids` that forward takes for these ids (batch, sequence), of which the first
        `prompt_tokens` are the prompt.

        Left out, a model may use the wrong experts or positions without an error.
        """
        names = sorted(name for name in self.accepted_inputs if name.endswith("token_type_ids"))
        if not names:
            return {}
        image_BL = ids_BL == self.image_token_id
        marked_BL = torch.isin(ids_BL, torch.tensor(self.media_token_ids, device=ids_BL.device))
        generated_BL = (torch.arange(ids_BL.shape[1], device=ids_BL.device) >= prompt_tokens).expand_as(ids_BL)
        kinds = {"image": image_BL, "image and markers": marked_BL, "generated": generated_BL}
        # a mixture's experts are chosen by the markers too, where positions count the image tokens alone
        return {name: kinds[self.family.types if name != "mm_token_type_ids" else "image"].long() for name in names}


def _names_media_token(name: str, value: int) -> bool:
    return value >= 0 and (not name or MEDIA_TOKEN_NAME.fullmatch(name) is not None)


def find_parts(model: PreTrainedModel) -> ModelParts:
    """Find a model's image encoder, decoder, decoder blocks and MoE routers.

    Raises ModelError naming the missing part: no vision tower, an unknown family, or a decoder without a block list.
    """
    name = type(model).__name__
    family = family_of(model.config, name)
    owner, encoder_name = _encoder(model)
    config = model.config.get_text_config(decoder=True)
    decoder, blocks = _decoder_and_blocks(owner, model, int(config.num_hidden_layers))
    shimmed = isinstance(model, MolmoShims)
    routers = tuple(module for block in blocks for module in block.modules() if _is_router(module))
    by_config = not routers and type(getattr(config, "top_k_experts", None)) is int
    experts: Any = config.num_experts if by_config else routers[0].num_experts if routers else None
    return ModelParts(
        model=model,
        family=family,
        image_encoder_owner=owner,
        image_encoder_name=encoder_name,
        decoder=model if shimmed else decoder,  # only the model itself speaks the interface of transformers 5
        blocks=tuple(blocks),
        protected_blocks=_filling_a_shared_cache(blocks),
        routers=(config,) if by_config else routers,
        top_k_name="top_k_experts" if by_config else "top_k",
        num_experts=experts,
        accepted_inputs=frozenset(inspect.signature(model.forward).parameters),
        hand_on=passed_through if shimmed else _hand_on,
    )


def _hand_on(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
    return hidden_states


def _encoder(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """Return whose method encodes pictures, and its name: generate() and forward call the base model's where it has one."""
    if isinstance(model, MolmoShims):
        return model.get_decoder().get_submodule("vision_backbone"), "forward"
    for owner in (model.base_model, model):
        if callable(getattr(owner, "get_image_features", None)):
            return owner, "get_image_features"
    raise ModelError(
        f"{type(model).__name__} has no get_image_features on its base model; expected the transformers 5 interface"
    )


def _decoder_and_blocks(owner: Any, model: PreTrainedModel, count: int) -> tuple[nn.Module, nn.ModuleList]:
    """Return the module that runs the decoder's blocks, and its list of them: as long as the text configuration says."""
    start: Any = (owner if hasattr(owner, "get_decoder") else model).get_decoder()
    for module in start.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count >= 2:
                return module, child
    raise ModelError(
        f"the decoder of {type(model).__name__} has no list of its {count} blocks; expected an nn.ModuleList of two or more"
    )


def _is_router(module: nn.Module) -> bool:
    """A router carries its own `top_k`, read at forward time, and chooses among a known number of experts."""
    top_k = getattr(module, "top_k", None)
    return type(top_k) is int and type(getattr(module, "num_experts", None)) is int


def _filling_a_shared_cache(blocks: nn.ModuleList) -> frozenset[int]:
    """Return the blocks whose keys and values later blocks read; none where no block shares another's."""
    if not any(_has(block, "is_kv_shared_layer") for block in blocks):
        return frozenset()
    return frozenset(index for index, block in enumerate(blocks) if _has(block, "store_full_length_kv"))


def _has(block: nn.Module, name: str) -> bool:
    return any(getattr(module, name, False) is True for module in block.modules())
