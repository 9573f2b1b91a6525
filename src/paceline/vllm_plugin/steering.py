"""The knobs inside a model that vLLM has loaded: hooks on its experts and decoder layers, which are found by structure.

- A step of one configuration: routers choose that many experts, skipped layers hand on what they got. Nothing else runs.
- A mixed step, experts: routers choose the largest number of the step, and the experts run on pairs of a row and one of its own,
  so that the time is that of the experts asked for.
- A mixed step, layers: a layer that some requests skip runs on the rows of the others alone, under attention metadata that the
  backend's own builder makes for those requests. A skipping row leaves no keys and values there, and never reads any, for a
  request skips the same layers all its life.

A compiled or captured graph holds none of this: the worker leaves graphs in every step that is not native.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from paceline.errors import EngineError
from paceline.vllm_plugin.expert_pairs import run_pairs
from paceline.vllm_plugin.model_structure import attention_names, expert_layers, one_top_k
from paceline.vllm_plugin.relied_on_model import forward_context
from paceline.vllm_plugin.request_knobs import KnobLimits, RequestKnobs, asked_knobs
from paceline.vllm_plugin.request_subset import RequestSubset, SubsetMetadata
from paceline.vllm_plugin.step_knobs import KnobModel, StepKnobs, weights_of_fewer


class Steering:
    """The knobs of one loaded model: told of requests and of the rows of each step, it steers what those rows run."""

    def __init__(self, layers: Sequence[Any], ranking: Sequence[int]) -> None:
        self.layers = layers
        self.moes = expert_layers(self.layers)
        limits = KnobLimits(
            top_k=one_top_k(self.moes),
            num_blocks=len(self.layers),
            fewest_blocks=max(1, len(self.layers) - len(ranking)),
        )
        self.knobs = KnobModel(limits=limits, ranking=tuple(ranking))
        self.steps = {"native": 0, "uniform": 0, "mixed": 0}
        self._requests: dict[str, RequestKnobs] = {}
        self._step: StepKnobs | None = None
        self._metadata: SubsetMetadata | None = None
        for moe in self.moes:
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
        self._step = None
        if self._metadata is not None:
            self._metadata.end()

    def follow(self, metadata: SubsetMetadata) -> None:
        """Tell attention of some of a step's requests by `metadata`, which sees what it is told of all of them."""
        self._metadata = metadata

    def _subset(self, step: StepKnobs, active: tuple[bool, ...]) -> RequestSubset:
        found = step.subsets.get(active)
        if found is None:
            if self._metadata is None:
                raise EngineError(
                    "a step began before its key-value cache was there, so that no part of its requests can be computed alone"
                )
            found = step.subsets[active] = self._metadata.subset(step.tokens_R, active)
        return found

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
            top_k_T, parts = step.experts_of_rows(len(x), x.device)
            weights, ids = weights_of_fewer(topk_weights, topk_ids, top_k_T, renormalize=router.renormalize)
            if parts:
                return run_pairs(run, x, weights, ids, parts, *args, **kwargs)
            widest = int(top_k_T[0])  # of these rows, fewer than of others
            return run(x, weights[:, :widest].contiguous(), ids[:, :widest].contiguous(), *args, **kwargs)

        experts.forward_modular = forward_modular

    def _steer_layer(self, index: int, layer: Any) -> None:
        forward = layer.forward
        signature = inspect.signature(forward)
        attention = attention_names(layer)

        def steered(*args: Any, **kwargs: Any) -> Any:
            step = self._step
            if step is None or (index not in step.skipped and index not in step.partly):
                return forward(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            if index in step.skipped:
                # else vLLM may take the experts of the layers that follow in the order in which layers run
                forward_context().all_moe_layers = None
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
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
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
                    "residual": None if residual_TH is None else residual_TH[part.rows],
                }
            )
        finally:
            step.rows = None
            for name, (metadata, slots) in told.items():
                context.attn_metadata[name], context.slot_mapping[name] = metadata, slots
        kept = None if residual_TH is None else residual_TH.index_copy(0, part.rows, new_residual)
        return hidden_TH.index_copy(0, part.rows, new_hidden), kept
