"""A stand-in for Molmo's own code, written for these tests: the same surface, names and traps, and none of its lines.

Blocks take and give one cache entry each, the past length is read from the first; the image encoder runs inside the first
forward; a router's `top_k` stands beside a plain gate; the embedding has two parameters; `post_init` is never called.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .config_standin import MolmoConfig, VisionSettings


class TwoPartEmbedding(nn.Module):
    def __init__(self, count, added, width):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(count, width) * 0.02)
        self.new_embedding = nn.Parameter(torch.randn(added, width) * 0.02)

    def forward(self, ids):
        return functional.embedding(ids, torch.cat([self.embedding, self.new_embedding]))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up_proj, self.gate_proj = nn.Linear(width, 48, bias=False), nn.Linear(width, 48, bias=False)
        self.down_proj = nn.Linear(48, width, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_experts, self.top_k = config.moe_num_experts, config.moe_top_k
        self.gate = nn.Linear(config.d_model, self.num_experts, bias=False)
        self.experts = nn.ModuleList(Gated(config.d_model) for _ in range(self.num_experts))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = torch.topk(self.gate(flat).softmax(-1), self.top_k, dim=-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, places, None])
        return out.view_as(x)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.width = config.n_heads, config.d_model
        self.att_proj = nn.Linear(self.width, 3 * self.width, bias=False)
        self.attn_out = nn.Linear(self.width, self.width, bias=False)

    def forward(self, x, attention_bias, position_ids, layer_past, use_cache):
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.att_proj(x).chunk(3, -1))
        angles = position_ids[:, None, :, None] / 100 ** torch.linspace(0, 1, q.shape[-1] // 2)
        q, k = (self.turned(each, angles) for each in (q, k))
        if layer_past is not None:
            k, v = torch.cat([layer_past[0], k], -2), torch.cat([layer_past[1], v], -2)
        if attention_bias is not None:
            attention_bias = attention_bias[:, :, k.shape[-2] - q.shape[-2] : k.shape[-2], : k.shape[-2]]
        seen = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=attention_bias, is_causal=attention_bias is None
        )
        return self.attn_out(seen.transpose(1, 2).flatten(-2)), (k, v) if use_cache else None

    @staticmethod
    def turned(x, angles):
        one, other = x.chunk(2, -1)
        return torch.cat([one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], -1)


class Block(nn.Module):
    def __init__(self, layer_id, config):
        super().__init__()
        self.layer_id, self.attn = layer_id, Attention(config)
        self.mlp = Mixture(config) if config.moe_num_experts else Gated(config.d_model)

    def forward(self, x, attention_bias=None, position_ids=None, drop_mask=None, layer_past=None, use_cache=False):
        assert drop_mask is None
        attended, cache = self.attn(x, attention_bias, position_ids, layer_past, use_cache)
        x = x + attended
        return x + self.mlp(functional.rms_norm(x, x.shape[-1:])), cache


class VisionBackbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.settings = VisionSettings(**config.vision_backbone)
        self.patches = nn.Linear(self.settings.patch_numbers, self.settings.width)
        self.pad_embed = nn.Parameter(torch.randn(self.settings.width))
        self.pooled = nn.Linear(4 * self.settings.width, config.d_model)

    def forward(self, images, image_masks):
        features = self.patches(images).relu() + self.pad_embed * (image_masks == 0).unsqueeze(-1)
        rows, columns = self.settings.image_num_patch
        batch, crops = images.shape[:2]
        squares = features.view(batch, crops, rows // 2, 2, columns // 2, 2, -1).transpose(3, 4)
        return self.pooled(squares.reshape(batch, crops, rows * columns // 4, -1)), None


class MolmoModel(PreTrainedModel):
    config_class = MolmoConfig

    def __init__(self, config):
        super().__init__(config)
        self.transformer = nn.ModuleDict(
            {
                "wte": TwoPartEmbedding(config.vocab_size, config.additional_vocab_size, config.d_model),
                "ln_f": nn.RMSNorm(config.d_model),
                "blocks": nn.ModuleList(Block(index, config) for index in range(config.n_layers)),
            }
        )
        self.vision_backbone = VisionBackbone(config)

    def forward(
        self, input_ids, input_embeddings, attention_mask, position_ids, past_key_values, use_cache, images, masks, at
    ):
        if past_key_values:
            assert len(past_key_values) == self.config.n_layers
        assert images is None or past_key_values is None, "images stand before a cache"
        past = 0 if past_key_values is None else past_key_values[0][0].size(-2)
        x = self.transformer.wte(input_ids) if input_embeddings is None else input_embeddings
        if images is not None:
            features, _ = self.vision_backbone(images, masks)
            assert at.shape == features.shape[:-1]
            for row, places, found in zip(x, at.flatten(1), features.flatten(1, 2), strict=True):
                row.index_add_(0, places[places >= 0], found[places >= 0])
        bias, total = None, past + x.shape[1]
        if attention_mask is not None or past_key_values is not None:
            bias = torch.full((total, total), torch.finfo(x.dtype).min).triu(1)[None, None]
            # without a mask the bias would be one row short, as Molmo's own is
            bias = bias if attention_mask is not None else bias[..., :-1, :]
        if attention_mask is not None:
            hidden = (1.0 - attention_mask[:, None, None, :total].to(x.dtype)) * torch.finfo(x.dtype).min
            bias = (bias + hidden).clamp(min=torch.finfo(x.dtype).min)
        caches = [] if use_cache else None
        for index, block in enumerate(self.transformer.blocks):
            layer_past = None if past_key_values is None else past_key_values[index]
            x, cache = block(
                x,
                attention_bias=bias,
                position_ids=position_ids,
                drop_mask=None,
                layer_past=layer_past,
                use_cache=use_cache,
            )
            if caches is not None:
                assert cache is not None
                caches.append(cache)
        return self.transformer.ln_f(x), caches


class MolmoForCausalLM(PreTrainedModel):
    config_class = MolmoConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = MolmoModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self, input_ids=None, inputs_embeds=None, attention_mask=None, images=None, image_masks=None, image_input_idx=None,
        position_ids=None, past_key_values=None, use_cache=None, last_logits_only=None, return_dict=None, cache_position=None,
    ):  # fmt: skip
        if use_cache is None:
            use_cache = self.config.use_cache
        x, caches = self.model(
            input_ids, inputs_embeds, attention_mask, position_ids, past_key_values, use_cache, images, image_masks,
            image_input_idx,
        )  # fmt: skip
        return CausalLMOutputWithPast(logits=self.lm_head(x[:, -1:] if last_logits_only else x), past_key_values=caches)

    def can_generate(self):
        return True

    def generate(self, input_ids, images=None, attention_mask=None, generation_config=None, **kwargs):
        raise AssertionError("the generate() of transformers 4")

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, is_encoder_decoder=False, num_new_tokens=1):
        model_kwargs["cache_position"] = model_kwargs["cache_position"][-1:] + num_new_tokens
        return model_kwargs

    def get_input_embeddings(self):
        return self.model.transformer.wte

    def get_output_embeddings(self):
        return self.lm_head

    def tie_weights(self):
        pass
