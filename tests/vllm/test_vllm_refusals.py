"""What requests with knobs of their own cannot be served on: each is a sentence at start, before a request is there."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from paceline.errors import EngineError
from paceline.vllm_plugin import relied_on_model
from paceline.vllm_plugin.model_structure import decoder_layers, expert_layers, one_top_k, require_plain_layers
from paceline.vllm_plugin.relied_on import EngineArgs, LLMEngine, release_devices
from paceline.vllm_plugin.relied_on_model import (
    AttentionSpec,
    CommonAttentionMetadata,
    attention_builders,
    refuse_engine,
    require_runner,
)
from paceline.vllm_plugin.request_subset import KNOWN_FIELDS

PARALLEL = {
    **{
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "use_ubatching": False,
    },
    **{"decode_context_parallel_size": 1, "enable_expert_parallel": False},
}
MODEL = {"is_mm_prefix_lm": False, "is_encoder_decoder": False, "runner_type": "generate"}


def config(**changed):
    parts = {
        "parallel_config": PARALLEL,
        "model_config": MODEL,
        "scheduler_config": {"scheduler_cls": "paceline.vllm_plugin.stock"},
        "cache_config": {"kv_sharing_fast_prefill": False},
    }
    found = {name: SimpleNamespace(**cells | changed.pop(name, {})) for name, cells in parts.items()}
    return SimpleNamespace(
        **found | {"speculative_config": None, "lora_config": None, "kv_transfer_config": None} | changed
    )


def of_drafts(method):
    return {"speculative_config": SimpleNamespace(method=method)}


def test_a_plain_engine_and_one_with_drafts_of_ngrams_are_served():
    refuse_engine(config())
    refuse_engine(config(**of_drafts("ngram")))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"parallel_config": {"pipeline_parallel_size": 2}}, "expected --pipeline-parallel-size 1"),
        ({"parallel_config": {"data_parallel_size": 4}}, "4 engines compute their experts together"),
        ({"parallel_config": {"prefill_context_parallel_size": 2}}, "context parallel"),
        ({"parallel_config": {"decode_context_parallel_size": 2}}, "context parallel"),
        ({"parallel_config": {"enable_expert_parallel": True}}, "leave --enable-expert-parallel out"),
        ({"parallel_config": {"use_ubatching": True}}, "--enable-dbo"),
        *((of_drafts(method), f"drafts come from '{method}'") for method in ("eagle3", "mtp", "draft_model", "medusa")),
        (of_drafts("ngram_gpu"), "expected ngram or none"),
        ({"lora_config": object()}, "--enable-lora"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"model_config": {"is_mm_prefix_lm": True}}, "in both directions"),
        ({"model_config": {"is_encoder_decoder": True}}, "an encoder's keys and values"),
        ({"model_config": {"runner_type": "pooling"}}, "'pooling'; expected one that generates text"),
        ({"cache_config": {"kv_sharing_fast_prefill": True}}, "--kv-sharing-fast-prefill"),
        ({"scheduler_config": {"scheduler_cls": None}}, "--scheduler-cls is not Paceline's"),
    ],
)
def test_an_engine_whose_requests_cannot_be_steered_is_refused(changed, problem):
    with pytest.raises(EngineError, match=f"cannot be steered in this engine: .*{problem}.*leave --worker-cls out"):
        refuse_engine(config(**changed))


FIRST = SimpleNamespace(_prepare_inputs=None, _model_forward=None, input_batch=None, attn_groups=None)
SECOND = SimpleNamespace(prepare_inputs=None)


def test_the_second_model_runner_is_followed_without_graphs_only():
    assert require_runner(FIRST, eager=False) and require_runner(FIRST, eager=True)
    assert not require_runner(SECOND, eager=True)
    with pytest.raises(EngineError, match="--enforce-eager alone; add that flag, set VLLM_USE_V2_MODEL_RUNNER=0"):
        require_runner(SECOND, eager=False)
    with pytest.raises(EngineError, match="SimpleNamespace"):
        require_runner(SimpleNamespace(), eager=True)


class Builder:
    def __init__(self, kv_cache_spec, layer_names, vllm_config, device):
        self.kv_cache_spec, self.layer_names, self.vllm_config, self.device = (
            kv_cache_spec, layer_names, vllm_config, device,
        )  # fmt: skip


class Spec(AttentionSpec):
    def __init__(self):
        pass


def group(name="CPU_ATTN", spec=None):
    of_graphs = SimpleNamespace(compilation_config=SimpleNamespace(cudagraph_mode="FULL"))
    builder = Builder("spec", ["a"], of_graphs, "cpu")
    backend = SimpleNamespace(get_name=lambda: name)
    return SimpleNamespace(
        backend=backend, kv_cache_spec=spec or Spec(), get_metadata_builder=lambda: builder, builder=builder
    )


def test_parts_of_a_step_are_told_by_a_builder_of_their_own_without_buffers_of_graphs():
    one = group()
    told, own = attention_builders(SimpleNamespace(attn_groups=[[one]]), KNOWN_FIELDS)
    assert told is one.builder and own is not told and (own.kv_cache_spec, own.layer_names) == ("spec", ["a"])
    assert own.vllm_config.compilation_config.cudagraph_mode == relied_on_model.NO_GRAPH
    assert told.vllm_config.compilation_config.cudagraph_mode == "FULL"


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([[group()], [group("FLASH_ATTN")]], r"2 kinds of attention or state \(CPU_ATTN, FLASH_ATTN\)"),
        ([], "0 kinds of attention"),
        ([[group("MAMBA2_ATTN", spec=object())]], r"1 kinds of attention or state \(MAMBA2_ATTN\)"),
        ([[group("FLASHINFER")]], "FLASHINFER, which may keep the plan of one step.*--attention-backend"),
    ],
)
def test_attention_that_cannot_be_told_of_some_requests_is_refused(groups, problem):
    with pytest.raises(EngineError, match=problem):
        attention_builders(SimpleNamespace(attn_groups=groups), KNOWN_FIELDS)


def test_a_vllm_that_describes_a_step_otherwise_is_refused():
    assert {field.name for field in fields(CommonAttentionMetadata)} == KNOWN_FIELDS
    with pytest.raises(EngineError, match=r"otherwise \(causal\) than Paceline's worker knows"):
        attention_builders(SimpleNamespace(attn_groups=[[group()]]), KNOWN_FIELDS - {"causal"})


class Layer(nn.Module):
    def forward(self, positions, hidden_states, residual):
        return hidden_states, residual


class WithoutResidual(nn.Module):
    def forward(self, positions, hidden_states):
        return hidden_states


class HandsOnOne(Layer):
    def forward(self, positions, hidden_states, residual):
        return hidden_states


class HandsOnThree(Layer):
    def forward(self, positions, hidden_states, residual):
        return hidden_states, residual, residual


class WantsMore(Layer):
    def forward(self, positions, hidden_states, residual, per_layer_inputs):
        return hidden_states, residual


class WithoutSum(Layer):
    def forward(self, positions, hidden_states, residual):
        return hidden_states, None


def of_layers(*layers):
    return SimpleNamespace(model=SimpleNamespace(layers=layers))


def run(layer):
    return layer.forward(positions=torch.zeros(1), hidden_states=torch.zeros(1, 4), residual=torch.zeros(1, 4))


def test_a_model_whose_layers_cannot_be_skipped_is_refused_with_the_structure_that_is_missing():
    found = decoder_layers(SimpleNamespace(get_language_model=lambda: of_layers(Layer(), WithoutSum())))
    require_plain_layers(found, run)
    with pytest.raises(EngineError, match="no decoder layers were found in this model .*expected `model.layers`"):
        decoder_layers(SimpleNamespace())
    with pytest.raises(EngineError, match="WithoutResidual.* take no residual"):
        decoder_layers(of_layers(Layer(), WithoutResidual()))
    shares = Layer()
    shares.attention = nn.Identity()
    shares.attention.kv_sharing_target_layer_name = "model.layers.0.attention"
    with pytest.raises(EngineError, match="read the key-value cache of another layer"):
        decoder_layers(of_layers(Layer(), shares))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (HandsOnOne(), r"HandsOnOne\) hand on"),
        (HandsOnThree(), r"HandsOnThree\) hand on \[\(1, 4\), \(1, 4\), \(1, 4\)\]"),
        (WantsMore(), "cannot run on these alone.*per_layer_inputs"),
    ],
)
def test_layers_that_hand_on_something_else_are_found_before_a_request_does(layer, problem):
    with pytest.raises(EngineError, match=problem):
        require_plain_layers([Layer(), layer], run)


class Moe(nn.Module):
    def __init__(self, *, monolithic=False, top_k=4, **of_router):
        super().__init__()
        plain = {"top_k": top_k, "renormalize": True, "eplb_state": None}
        self.router = SimpleNamespace(**plain | of_router)
        self.routed_experts = SimpleNamespace(quant_method=SimpleNamespace(is_monolithic=monolithic))


def of_moe(moe):
    layer = Layer()
    layer.mlp = moe
    return layer


def test_plain_experts_are_served():
    moes = expert_layers([of_moe(Moe()), Layer(), of_moe(Moe(e_score_correction_bias=None, use_grouped_topk=False))])
    assert len(moes) == 2 and one_top_k(moes) == 4 and one_top_k([]) is None


@pytest.mark.parametrize(
    ("moe", "problem"),
    [
        (Moe(monolithic=True), "monolithic"),
        (Moe(e_score_correction_bias=torch.zeros(8)), "score correction"),
        (Moe(bias_vl=torch.zeros(8)), "score correction"),
        (Moe(hash_indices_table=torch.zeros(8)), "looks experts up by token"),
        (Moe(use_grouped_topk=True, num_expert_group=2), "groups of experts"),
        (Moe(custom_routing_function=min), "a function of its own"),
        (Moe(zero_expert_type="identity"), "experts that compute nothing"),
        (Moe(num_fused_shared_experts=1), "counts shared experts"),
        (Moe(eplb_state=SimpleNamespace(expert_load_view=torch.zeros(1))), "EPLB"),
    ],
)
def test_experts_that_cannot_be_chosen_by_request_are_refused(moe, problem):
    with pytest.raises(EngineError, match=f"top_k cannot be chosen by request in this model: .*{problem}"):
        expert_layers([of_moe(Moe()), of_moe(moe)])


def test_layers_of_different_numbers_of_experts_and_routers_of_no_normalisation_are_refused():
    with pytest.raises(EngineError, match=r"take \[2, 4\] experts a token"):
        one_top_k([Moe(), Moe(top_k=2)])
    silent = Moe()
    del silent.router.renormalize
    with pytest.raises(EngineError, match="does not say whether it normalises"):
        expert_layers([of_moe(silent)])


SMALL = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512},
}
MIXTURE = {
    **{"n_routed_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "n_shared_experts": 1},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 64}


@pytest.mark.parametrize(
    ("made", "architecture", "problem"),
    [
        (lambda: transformers.Gemma3TextConfig(**SMALL | SLIDING), "Gemma3ForCausalLM", "2 kinds of attention"),
        (lambda: transformers.Glm4MoeConfig(**SMALL | MIXTURE), "Glm4MoeForCausalLM", "score correction"),
    ],
)  # fmt: skip
def test_families_of_another_structure_are_refused_at_start(tmp_path, made, architecture, problem):
    config = made()
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)
    try:
        with pytest.raises(EngineError, match=problem):
            LLMEngine.from_engine_args(EngineArgs(model=str(tmp_path), load_format="dummy", **ENGINE))
    finally:
        release_devices()


ENGINE = {
    **{"dtype": "float32", "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": 128, "block_size": 32},
    **{"num_gpu_blocks_override": 20, "max_num_batched_tokens": 64, "max_num_seqs": 4},
    "worker_cls": "paceline.vllm_plugin.worker",
    "scheduler_cls": "paceline.vllm_plugin.scheduler",
}
