"""The knobs inside a model that vLLM has loaded: hooks on its experts and decoder layers, which are found by structure.

- A step of one configuration: routers choose that many experts, skipped layers hand on what they got. Nothing else runs.
- A mixed step, experts: routers choose the largest number of the step. With many rows the experts run once for each number on the
  rows that want it, so that the time is that of the experts asked for; with few, weights beyond a row's own number are 0.
- A mixed step, layers: a layer that some requests skip runs on the rows of the others alone, under attention metadata that the
  backend's own builder makes for those requests. A skipping row leaves no keys and values there, and never reads any, for a
  request skips the same layers all its life.

A compiled or captured graph holds none of this: the worker leaves graphs in every step that is not native.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from paceline.errors import EngineError
from paceline.vllm_plugin.relied_on_model import forward_context
from paceline.vllm_plugin.request_knobs import KnobLimits, RequestKnobs, asked_knobs
from paceline.vllm_plugin.step_knobs import KnobModel, RequestSubset, StepKnobs, weights_of_fewer

# rows of a step up to which masked weights beat a run for each number of experts (benchmarks/knob_steps.py)
MASKED_ROWS = 96
LAYER_INPUTS = ("positions", "hidden_states", "residual")
PER_REQUEST = ("seq_lens", "block_table_tensor", "is_prefilling", "seq_lens_cpu_upper_bound")


class Steering:
    """The knobs of one loaded model: told of requests and of the rows of each step, it steers what those rows run."""

    def __init__(self, model: Any, ranking: Sequence[int]) -> None:
        self.layers = decoder_layers(model)
        self.moes = [moe for layer in self.layers for moe in _moes(layer)]
        limits = KnobLimits(
            top_k=_one_top_k(self.moes),
            num_blocks=len(self.layers),
            fewest_blocks=max(1, len(self.layers) - len(ranking)),
        )
        self.knobs = KnobModel(limits=limits, ranking=tuple(ranking))
        self.steps = {"native": 0, "uniform": 0, "mixed": 0}
        self._requests: dict[str, RequestKnobs] = {}
        self._step: StepKnobs | None = None
        self._build: Callable[..., Any] | None = None
        self._common: Any = None
        for moe in self.moes:
            _refuse_moe(moe)
            self._steer_router(moe.router)
            self._steer_experts(moe.routed_experts, moe.router)
        for index, layer in enumerate(self.layers):
            self._steer_layer(index, layer)

    @property
    def native_step(self) -> bool:
        """Whether the step that runs is one of the model as it is, or none of any request."""
        return self._step is None or self._step.native

    def note(self, scheduler_output: Any) -> None:
        """Take note of requests that end and begin with this step."""
        for request_id in scheduler_output.finished_req_ids:
            self._requests.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            self._requests[new.req_id] = self.knobs.limits.clamped(asked_knobs(new.sampling_params))

    def begin(self, request_ids: Sequence[str], tokens: Sequence[int]) -> None:
        """Take note of a step's rows, in the order of the flattened batch."""
        rows = [(self._requests[each], int(count)) for each, count in zip(request_ids, tokens, strict=True)]
        self._step = StepKnobs.of(rows, self.knobs)
        uniform = self._step.top_k_T is None and not self._step.partly
        self.steps["native" if self._step.native else "uniform" if uniform else "mixed"] += 1

    def end(self) -> None:
        """Let the model be as it is until the next step begins, however this one ended."""
        self._step = self._common = None

    def follow_builder(self, builder: Any) -> None:
        """Keep what the attention backend is told of a step, to tell it the same of some of its requests."""
        build = self._build = builder.build

        def kept(common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            self._common = common_attn_metadata
            return build(common_prefix_len, common_attn_metadata, *args, **kwargs)

        builder.build = kept

    def _subset(self, step: StepKnobs, active: tuple[bool, ...]) -> RequestSubset:
        found = step.subsets.get(active)
        if found is None:
            found = step.subsets[active] = self._new_subset(step, active)
        return found

    def _new_subset(self, step: StepKnobs, active: tuple[bool, ...]) -> RequestSubset:
        common, build = self._common, self._build
        if common is None or build is None:
            raise EngineError(
                "a step began without attention metadata, so that no part of its requests can be computed alone"
            )
        active_R = torch.tensor(active)
        device = common.slot_mapping.device
        chosen = active_R.nonzero()[:, 0]
        rows = torch.repeat_interleave(active_R, step.tokens_R).nonzero()[:, 0].to(device)
        tokens = step.tokens_R[chosen]
        starts = torch.zeros(len(chosen) + 1, dtype=common.query_start_loc.dtype)
        starts[1:] = tokens.cumsum(0)
        per_request = {
            name: value[chosen.to(value.device)] for name in PER_REQUEST if (value := getattr(common, name)) is not None
        }
        slots = common.slot_mapping[rows]
        part = replace(
            common,
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            num_reqs=len(chosen),
            num_actual_tokens=len(rows),
            max_query_len=int(tokens.max()),
            slot_mapping=slots,
            positions=None,
            **per_request,
        )
        return RequestSubset(rows=rows, slot_mapping=slots, metadata=build(0, part))

    def _steer_router(self, router: Any) -> None:
        select, native = router.select_experts, router.top_k

        def select_experts(*args: Any, **kwargs: Any) -> Any:
            if self._step is None or self._step.top_k is None:
                return select(*args, **kwargs)
            router.top_k = self._step.top_k
            try:
                return select(*args, **kwargs)
            finally:
                router.top_k = native

        router.select_experts = select_experts

    def _steer_experts(self, experts: Any, router: Any) -> None:
        run = experts.forward_modular

        def forward_modular(x: torch.Tensor, topk_weights: Any, topk_ids: Any, *args: Any, **kwargs: Any) -> Any:
            step = self._step
            if step is None or step.top_k_T is None:
                return run(x, topk_weights, topk_ids, *args, **kwargs)
            top_k_T = step.top_k_T.to(x.device)
            top_k_T = top_k_T if step.rows is None else top_k_T[step.rows]
            weights, ids = weights_of_fewer(topk_weights, topk_ids, top_k_T, renormalize=router.renormalize)
            top_ks = top_k_T.unique().tolist()
            if len(x) <= MASKED_ROWS or len(top_ks) == 1:
                widest = top_ks[-1]
                return run(x, weights[:, :widest].contiguous(), ids[:, :widest].contiguous(), *args, **kwargs)
            out = torch.empty_like(x)
            for top_k in top_ks:
                rows = (top_k_T == top_k).nonzero()[:, 0]
                out[rows] = run(
                    x[rows], weights[rows, :top_k].contiguous(), ids[rows, :top_k].contiguous(), *args, **kwargs
                )
            return out

        experts.forward_modular = forward_modular

    def _steer_layer(self, index: int, layer: Any) -> None:
        forward = layer.forward
        signature = inspect.signature(forward)
        attention = _attention_names(layer)

        def steered(*args: Any, **kwargs: Any) -> Any:
            step = self._step
            if step is None or (index not in step.skipped and index not in step.partly):
                return forward(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            if index in step.skipped:
                return given["hidden_states"], given["residual"]
            return self._run_for_some(step, index, forward, given, attention)

        layer.forward = steered

    def _run_for_some(
        self,
        step: StepKnobs,
        index: int,
        forward: Callable[..., Any],
        given: Mapping[str, Any],
        attention: Sequence[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        part, context = self._subset(step, step.partly[index]), forward_context()
        hidden_TH, residual_TH = given["hidden_states"], given["residual"]
        told = {name: (context.attn_metadata[name], context.slot_mapping[name]) for name in attention}
        for name in attention:
            context.attn_metadata[name], context.slot_mapping[name] = part.metadata, part.slot_mapping
        step.rows = part.rows
        try:
            new_hidden, new_residual = forward(
                **{
                    **given,
                    "positions": given["positions"][..., part.rows],
                    "hidden_states": hidden_TH[part.rows],
                    "residual": residual_TH[part.rows],
                }
            )
        finally:
            step.rows = None
            for name, (metadata, slots) in told.items():
                context.attn_metadata[name], context.slot_mapping[name] = metadata, slots
        return hidden_TH.index_copy(0, part.rows, new_hidden), residual_TH.index_copy(0, part.rows, new_residual)


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder's layers of a loaded model; raises EngineError for one whose layers hand on something else."""
    language_model = model.get_language_model() if hasattr(model, "get_language_model") else model
    decoder = getattr(language_model, "model", language_model)
    layers = list(getattr(decoder, "layers", ()))
    for layer in layers:
        inputs = inspect.signature(layer.forward).parameters
        missing = [name for name in LAYER_INPUTS if name not in inputs]
        if missing:
            raise EngineError(
                f"the decoder layers of this model ({type(layer).__name__}) take no {', '.join(missing)}; expected layers that "
                "hand on hidden states and a residual; serve it without --worker-cls"
            )
    if not layers:
        raise EngineError(
            f"no decoder layers were found in this model ({type(model).__name__}); expected `model.layers`; serve it without "
            "--worker-cls"
        )
    return layers


def _moes(layer: Any) -> list[Any]:
    return [each for each in layer.modules() if hasattr(each, "router") and hasattr(each, "routed_experts")]


def _attention_names(layer: Any) -> list[str]:
    return [each.layer_name for each in layer.modules() if hasattr(each, "layer_name") and hasattr(each, "kv_cache")]


def _one_top_k(moes: Sequence[Any]) -> int | None:
    found = {moe.router.top_k for moe in moes}
    if len(found) > 1:
        raise EngineError(
            f"the layers of this model take {sorted(found)} experts a token; expected the same number in each; serve it without "
            "--worker-cls"
        )
    return found.pop() if found else None


def _refuse_moe(moe: Any) -> None:
    router = moe.router
    problems = {
        "its kernel routes by itself (monolithic)": moe.routed_experts.quant_method.is_monolithic,
        "its router adds a score correction": getattr(router, "e_score_correction_bias", None) is not None,
        "its router chooses among groups of experts": bool(getattr(router, "use_grouped_topk", False))
        or bool(getattr(router, "num_expert_group", None)),
        "its router is a function of its own": getattr(router, "custom_routing_function", None) is not None,
        "its router does not say whether it normalises weights": not hasattr(router, "renormalize"),
        "its experts are moved while it serves (EPLB)": router.eplb_state is not None
        and getattr(router.eplb_state, "expert_load_view", None) is not None,
    }
    for problem, holds in problems.items():
        if holds:
            raise EngineError(
                f"top_k cannot be chosen by request in this model: {problem}; expected plain top-k routing, for example with "
                "--moe-backend triton; or serve it without --worker-cls"
            )
