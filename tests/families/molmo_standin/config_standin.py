"""The configuration of the stand-in: flat, without vision_config and image_token_id, as Molmo's is."""

from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass
class VisionSettings:
    image_num_patch: tuple = (6, 6)
    patch_numbers: int = 48
    width: int = 32


class MolmoConfig(PretrainedConfig):
    model_type = "molmo"

    def __init__(self, use_cache=False, **kwargs):
        own = {
            "d_model": 64, "n_layers": 6, "n_heads": 4, "vocab_size": 128, "additional_vocab_size": 8, "moe_num_experts": 0,
            "moe_top_k": 0, "vision_backbone": {}, "use_position_ids": True,
        }  # fmt: skip
        super().__init__(**{**own, **kwargs, "use_cache": use_cache})

    @property
    def num_hidden_layers(self):
        return self.n_layers

    @property
    def num_attention_heads(self):
        return self.n_heads

    @property
    def hidden_size(self):
        return self.d_model
