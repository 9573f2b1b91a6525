"""The knobs of one engine step: which of its rows take how many experts, and which blocks.

Rows of a step are the tokens of several requests, one request after the other. Legend of array suffixes: R requests, T rows
(tokens), K experts a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from paceline.models.knobs import skipped_blocks
from paceline.vllm_plugin.expert_pairs import ExpertPairs, expert_pairs
from paceline.vllm_plugin.request_knobs import KnobLimits, RequestKnobs
from paceline.vllm_plugin.request_subset import RequestSubset


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobModel:
    """What the knobs of a loaded model are: its limits and its blocks, least important first."""

    limits: KnobLimits
    ranking: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class StepKnobs:
    """One step: `tokens_R` rows of each request.

    `top_k` is the largest number of experts that a row takes, `top_k_T` that of every row where they differ. `skipped` are the
    blocks that no request runs, `partly` those that some run, with who does. `native` is a step of the model as it is.
    """

    tokens_R: torch.Tensor
    top_k: int | None
    top_k_T: torch.Tensor | None
    skipped: frozenset[int]
    partly: Mapping[int, tuple[bool, ...]]
    native: bool
    rows: torch.Tensor | None = None  # those that run the block being computed, where it is not all of them
    subsets: dict[tuple[bool, ...], RequestSubset] = field(default_factory=dict[tuple[bool, ...], RequestSubset])
    _experts: dict[tuple[int, int], tuple[torch.Tensor, tuple[ExpertPairs, ...]]] = field(
        default_factory=dict[tuple[int, int], tuple[torch.Tensor, tuple[ExpertPairs, ...]]]
    )

    @staticmethod
    def of(rows: Sequence[tuple[RequestKnobs, int]], model: KnobModel) -> "StepKnobs":
        """Return the step of requests with their knobs, already within the limits, and their numbers of rows."""
        tokens_R = torch.tensor([count for _, count in rows], dtype=torch.int64)
        native_k = model.limits.top_k
        top_ks = [knobs.top_k or native_k or 0 for knobs, _ in rows]
        skipped = [skipped_of(model, knobs.num_active_blocks) for knobs, _ in rows]
        everywhere, anywhere = frozenset.intersection(*skipped), frozenset.union(*skipped)
        largest = max(top_ks)
        mixed_k = min(top_ks) != largest
        return StepKnobs(
            tokens_R=tokens_R,
            top_k=None if native_k is None else largest,
            top_k_T=torch.repeat_interleave(torch.tensor(top_ks), tokens_R) if mixed_k else None,
            skipped=everywhere,
            partly={block: tuple(block not in each for each in skipped) for block in anywhere - everywhere},
            native=not anywhere and not mixed_k and largest == (native_k or 0),
        )

    def experts_of_rows(self, count: int, device: Any) -> tuple[torch.Tensor, tuple[ExpertPairs, ...]]:
        """Return the experts that each of `count` rows takes, on a device, and their pairs; none where all take as many."""
        key = (count, id(self.rows))  # which live as long as the step
        if key not in self._experts:
            top_k_T = self.top_k_of_rows(count).cpu()
            alike = bool((top_k_T == top_k_T[0]).all())
            self._experts[key] = top_k_T.to(device), () if alike else expert_pairs(top_k_T, device)
        return self._experts[key]

    def top_k_of_rows(self, count: int) -> torch.Tensor:
        """Return the experts that each of `count` rows takes, of those being computed.

        Rows beyond the step's own fill a captured graph's size up: they take as many as the first, and nobody reads them.
        """
        assert self.top_k_T is not None
        top_k_T = self.top_k_T if self.rows is None else self.top_k_T[self.rows.to(self.top_k_T.device)]
        missing = count - len(top_k_T)
        return torch.cat([top_k_T, top_k_T[:1].expand(missing)]) if missing > 0 else top_k_T


@lru_cache(maxsize=1024)
def skipped_of(model: KnobModel, num_active_blocks: int | None) -> frozenset[int]:
    """Return the blocks that a request does not run: the same as `models.knobs` passes through."""
    return skipped_blocks(model.limits.num_blocks, num_active_blocks, model.ranking)


def weights_of_fewer(
    weights_TK: torch.Tensor, ids_TK: torch.Tensor, top_k_T: torch.Tensor, *, renormalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and expert numbers, heaviest first, with a weight of 0 beyond each row's own number of experts.

    Under `renormalize` a row's weights add up to what they did. A router may give them in any order.
    """
    order_TK = weights_TK.argsort(dim=-1, descending=True, stable=True)
    weights_TK, ids_TK = weights_TK.gather(1, order_TK), ids_TK.gather(1, order_TK)
    places_K = torch.arange(weights_TK.shape[1], device=weights_TK.device)
    kept_TK = weights_TK.masked_fill(places_K >= top_k_T[:, None], 0.0)
    if renormalize:
        kept_TK = kept_TK * (weights_TK.sum(-1, keepdim=True) / kept_TK.sum(-1, keepdim=True))
    return kept_TK, ids_TK
