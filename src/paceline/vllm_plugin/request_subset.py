"""Some requests of a step by themselves: their rows, and what attention is told of a step of theirs alone.

Legend of array suffixes: R requests of the step, T rows (tokens) of the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from paceline.errors import EngineError

# what vLLM's CommonAttentionMetadata holds of each request, and what of the step alone is not true of a part of it
PER_REQUEST = (
    "seq_lens",
    "block_table_tensor",
    "is_prefilling",
    "seq_lens_cpu_upper_bound",
    "causal",
    "encoder_seq_lens",
    "encoder_seq_lens_cpu",
    "dcp_local_seq_lens",
    "dcp_local_seq_lens_cpu_upper_bound",
    "req_idx",
    "rswa_prefix_lens",
    "replayssm_decode_base_cpu",
)
OF_THE_STEP = (
    "positions",
    "logits_indices_padded",
    "num_logits_indices",
    "max_logits_per_req",
    "mm_req_doc_ranges",
    "_num_computed_tokens_cache",
    "_token_to_req_indices_cache",
)
MADE_ANEW = (
    "query_start_loc",
    "query_start_loc_cpu",
    "num_reqs",
    "num_actual_tokens",
    "max_query_len",
    "max_seq_len",
    "slot_mapping",
)
KNOWN_FIELDS = frozenset((*PER_REQUEST, *OF_THE_STEP, *MADE_ANEW))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSubset:
    """Some requests of a step: their rows, and what attention is told of a step of theirs alone."""

    rows: torch.Tensor
    slot_mapping: torch.Tensor
    metadata: object


class SubsetMetadata:
    """Watches what an engine's attention is told of each step, and tells it the same of some of the requests.

    `told` is the builder of metadata that the engine asks, `own` another of the same kind for the parts: what a builder keeps
    from one call to the next must not be that of a part when the step goes on.
    """

    def __init__(self, told: Any, own: Any) -> None:
        self._own, self._common = own, None
        build = told.build

        def kept(common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            self._common = common_attn_metadata
            return build(common_prefix_len, common_attn_metadata, *args, **kwargs)

        told.build = kept

    def end(self) -> None:
        """Forget the step."""
        self._common = None

    def subset(self, tokens_R: torch.Tensor, active: Sequence[bool]) -> RequestSubset:
        """Return the requests of the step that are active, of `tokens_R` rows each; raises EngineError outside of a step."""
        if self._common is None:
            raise EngineError(
                "a step began without attention metadata, so that no part of its requests can be computed alone"
            )
        active_R = torch.tensor(active)
        device = self._common.slot_mapping.device
        rows = torch.repeat_interleave(active_R, tokens_R).nonzero()[:, 0].to(device)
        common = part_of(self._common, active_R.nonzero()[:, 0], tokens_R[active_R], rows)
        return RequestSubset(rows=rows, slot_mapping=common.slot_mapping, metadata=self._own.build(0, common))


def part_of(common: Any, chosen: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> Any:
    """Return CommonAttentionMetadata of the requests numbered `chosen`, which compute `tokens` rows each: `rows` of the step."""
    starts = torch.zeros(len(chosen) + 1, dtype=common.query_start_loc.dtype)
    starts[1:] = tokens.cumsum(0)
    return replace(
        common,
        query_start_loc=starts.to(rows.device),
        query_start_loc_cpu=starts,
        num_reqs=len(chosen),
        num_actual_tokens=len(rows),
        max_query_len=int(tokens.max()),
        slot_mapping=common.slot_mapping[rows],
        **dict.fromkeys(OF_THE_STEP),
        **{name: _of_some(getattr(common, name), chosen) for name in PER_REQUEST},
    )


def _of_some(value: Any, chosen: torch.Tensor) -> Any:
    if isinstance(value, torch.Tensor):
        return value[chosen.to(value.device)]
    return value[chosen.numpy()] if isinstance(value, np.ndarray) else value
