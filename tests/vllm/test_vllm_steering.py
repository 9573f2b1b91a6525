"""What single hooks do in steps that a processor's tests never make: padded to a graph's size, with experts that are shared."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paceline.vllm_plugin import expert_pairs
from paceline.vllm_plugin import steering as module
from paceline.vllm_plugin.relied_on_model import CommonAttentionMetadata
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K
from paceline.vllm_plugin.request_subset import KNOWN_FIELDS, RequestSubset, part_of
from paceline.vllm_plugin.steering import Steering

EXPERTS, HIDDEN, NATIVE_K = 6, 3, 4


class Experts:
    """Each expert multiplies by its number; the experts of a row are weighted."""

    def __init__(self):
        self.quant_method = SimpleNamespace(is_monolithic=False)
        self.calls = []

    def forward_modular(self, x, topk_weights, topk_ids, shared_experts=None):
        self.calls.append((len(x), topk_ids.shape[1], shared_experts))
        return x * (topk_weights * topk_ids).sum(-1, keepdim=True)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.moe = nn.Identity()
        self.moe.router = SimpleNamespace(top_k=NATIVE_K, renormalize=True, eplb_state=None, select_experts=None)
        self.moe.routed_experts = Experts()

    def forward(self, positions, hidden_states, residual):
        return hidden_states + positions[:, None], residual


@pytest.fixture
def layers():
    return [Layer(), Layer()]


def begun(layers, *asked, tokens):
    steering = Steering(layers, [1])
    names = [str(number) for number in range(len(asked))]
    new = [
        SimpleNamespace(req_id=name, sampling_params=SimpleNamespace(extra_args=extra))
        for name, extra in zip(names, asked, strict=True)
    ]
    steering.note(SimpleNamespace(finished_req_ids=[], scheduled_new_reqs=new))
    steering.begin(names, tokens)
    return steering


def routed(rows):
    random = torch.Generator().manual_seed(1)
    weights, ids = torch.rand(rows, EXPERTS, generator=random).topk(NATIVE_K)
    return torch.ones(rows, HIDDEN), weights / weights.sum(-1, keepdim=True), ids


@pytest.mark.parametrize("most_pairs", [1, 5, 100])
@pytest.mark.parametrize("padding", [0, 5])
def test_rows_that_fill_a_graph_up_change_no_row_of_a_request(layers, monkeypatch, most_pairs, padding):
    monkeypatch.setattr(expert_pairs, "MOST_PAIRS", most_pairs)
    begun(layers, {TOP_K: 1}, {TOP_K: 2}, {}, tokens=[2, 1, 3])
    x, weights, ids = routed(6 + padding)
    found = layers[0].moe.routed_experts.forward_modular(x, weights, ids)
    assert found.shape == x.shape
    for row, top_k in enumerate([1, 1, 2, 4, 4, 4]):
        own = weights[row, :top_k] / weights[row, :top_k].sum()
        assert found[row].allclose((own * ids[row, :top_k]).sum().expand(HIDDEN), atol=1e-6)


def test_shared_experts_run_once_in_a_step_whose_experts_run_in_parts(layers, monkeypatch):
    monkeypatch.setattr(expert_pairs, "MOST_PAIRS", 8)
    experts = layers[0].moe.routed_experts
    begun(layers, {TOP_K: 1}, {TOP_K: 2}, {}, tokens=[2, 1, 3])
    experts.forward_modular(*routed(6), shared_experts="shared")
    assert experts.calls == [(8, 1, "shared"), (8, 1, None)]


def test_a_layers_experts_of_a_step_run_at_once_and_only_those_that_rows_want(layers):
    experts = layers[0].moe.routed_experts
    begun(layers, {TOP_K: 1}, {TOP_K: 2}, {}, tokens=[20, 10, 30])
    experts.forward_modular(*routed(60), shared_experts="shared")
    assert experts.calls == [(20 * 1 + 10 * 2 + 30 * NATIVE_K, 1, "shared")]


@given(st.data())
def test_pairs_come_to_what_rows_come_to_one_by_one(data):
    wanted = data.draw(st.lists(st.integers(1, NATIVE_K), min_size=1, max_size=30))
    most = data.draw(st.integers(1, 150))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    random = torch.Generator().manual_seed(len(wanted))
    x, numbers = torch.randn(len(wanted), HIDDEN, generator=random).to(dtype), torch.arange(len(wanted))
    weights, ids = torch.rand(len(wanted), EXPERTS, generator=random).topk(NATIVE_K)
    weights = weights.to(dtype)

    memory = torch.empty(len(wanted) * NATIVE_K, HIDDEN, dtype=dtype)  # a kernel may answer in the same each time

    def run(rows, own_weights, own_ids):
        out = memory[: len(rows)]
        return out.copy_(rows * (own_weights * (own_ids + 1).to(dtype)).sum(-1, keepdim=True))

    parts = expert_pairs.expert_pairs(torch.tensor(wanted), "cpu", most_pairs=most)
    found = expert_pairs.run_pairs(run, x, weights, ids, parts).clone()
    assert found.dtype == dtype
    for row, top_k in zip(numbers, wanted, strict=True):
        each = [run(x[row : row + 1], weights[row, k].view(1, 1), ids[row, k].view(1, 1)).clone() for k in range(top_k)]
        assert (
            found[row]
            .double()
            .allclose(torch.cat(each).double().sum(0), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)
        )
    assert [part.first for part in parts[1:]] == [part.last for part in parts[:-1]] and parts[-1].last == len(wanted)
    assert all(len(part.rows_P) <= most or part.last - part.first == 1 for part in parts)


@pytest.mark.parametrize("with_residual", [True, False])
def test_a_layer_that_keeps_no_residual_is_skipped_by_some(layers, monkeypatch, with_residual):
    monkeypatch.setattr(module, "forward_context", lambda: SimpleNamespace(attn_metadata={}, slot_mapping={}))
    steering = begun(layers, {ACTIVE_BLOCKS: 1}, {}, tokens=[2, 2])
    rows = torch.tensor([2, 3])
    steering._metadata = SimpleNamespace(
        subset=lambda tokens_R, active: RequestSubset(rows=rows, slot_mapping=rows, metadata=None)
    )
    hidden = torch.zeros(4, HIDDEN)
    residual = torch.arange(4.0)[:, None].expand(4, HIDDEN) if with_residual else None
    out, kept = layers[1].forward(torch.arange(4) + 1, hidden, residual)
    assert out[:, 0].tolist() == [0, 0, 3, 4]
    assert kept is None if residual is None else kept.equal(residual)


def metadata(tokens, lengths, **more):
    tokens_R, starts = torch.tensor(tokens), torch.zeros(len(tokens) + 1, dtype=torch.int32)
    starts[1:] = tokens_R.cumsum(0)
    rows = int(tokens_R.sum())
    return CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.tensor(lengths),
        num_reqs=len(tokens),
        num_actual_tokens=rows,
        max_query_len=max(tokens),
        max_seq_len=max(lengths),
        block_table_tensor=torch.tensor(lengths)[:, None] + torch.arange(3),
        slot_mapping=torch.arange(rows) + 7,
        **more,
    )


@given(st.data())
def test_a_part_of_a_step_is_described_as_a_step_of_those_requests_alone(data):
    requests = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=8))
    chosen = data.draw(st.lists(st.sampled_from(range(len(requests))), min_size=1, unique=True).map(sorted))
    tokens, lengths = [t for t, _ in requests], [t + before for t, before in requests]
    whole = metadata(
        tokens,
        lengths,
        is_prefilling=torch.tensor([t > 1 for t in tokens]),
        causal=torch.tensor([t % 2 == 0 for t in tokens]),
        req_idx=np.arange(len(tokens)) * 3,
        positions=torch.arange(sum(tokens)),
    )
    whole.compute_num_computed_tokens()  # what is computed once for a whole step is not that of a part
    rows = torch.cat([torch.arange(whole.query_start_loc[each], whole.query_start_loc[each + 1]) for each in chosen])
    part = part_of(whole, torch.tensor(chosen), torch.tensor([tokens[each] for each in chosen]), rows)
    alone = metadata([tokens[each] for each in chosen], [lengths[each] for each in chosen])
    assert part.compute_num_computed_tokens().tolist() == [requests[each][1] for each in chosen]
    for name in ("query_start_loc", "query_start_loc_cpu", "seq_lens", "block_table_tensor"):
        assert getattr(part, name).equal(getattr(alone, name))
    assert (part.num_reqs, part.num_actual_tokens, part.max_query_len) == (
        alone.num_reqs, alone.num_actual_tokens, alone.max_query_len,
    )  # fmt: skip
    assert part.slot_mapping.tolist() == [7 + row for row in rows.tolist()]
    assert part.causal.tolist() == [tokens[each] % 2 == 0 for each in chosen]
    assert part.req_idx.tolist() == [3 * each for each in chosen] and part.positions is None
    assert {"causal", "req_idx", "positions"} < KNOWN_FIELDS
