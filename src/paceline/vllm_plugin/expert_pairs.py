"""Experts of rows that want different numbers of them, in one run of a kernel: each pair of a row and an expert is a row of one.

A kernel of fused experts sorts pairs by expert whatever rows they come from, so the time is that of the experts asked for, and
each expert's weights are read once. Legend of array suffixes: T rows, P pairs, K experts a row, H numbers of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

MOST_PAIRS = 8192  # at once: their rows are copied, in memory that no profile run of the engine has seen


@dataclass(frozen=True, slots=True)
class ExpertPairs:
    """The pairs of rows `first` to `last`: rows by the place of the expert, the heaviest of all rows first.

    `rows_P` counts from `first`, `ends_K` are the ends of each place's pairs.
    """

    first: int
    last: int
    rows_P: torch.Tensor
    places_P: torch.Tensor
    ends_K: Sequence[int]

    def summed(self, part_PH: torch.Tensor) -> torch.Tensor:
        """Return the sum of each row's pairs, in the order of its experts: the same however many rows a step has."""
        total_TH = part_PH[: self.ends_K[0]]
        total_TH = total_TH.float() if total_TH.element_size() < 4 else total_TH
        for begin, end in zip(self.ends_K, self.ends_K[1:], strict=False):
            total_TH.index_add_(0, self.rows_P[begin:end], part_PH[begin:end].to(total_TH.dtype))
        return total_TH.to(part_PH.dtype)


def expert_pairs(top_k_T: torch.Tensor, device: Any, *, most_pairs: int | None = None) -> tuple[ExpertPairs, ...]:
    """Return the pairs of rows that take so many experts, at least one each, in parts of at most `most_pairs` or of one row."""
    most, counts, parts, first, held = most_pairs or MOST_PAIRS, top_k_T.tolist(), list[ExpertPairs](), 0, 0
    for row, count in enumerate(counts):
        if held and held + count > most:
            parts.append(_pairs_of(top_k_T, first, row, device))
            first, held = row, 0
        held += count
    return (*parts, _pairs_of(top_k_T, first, len(counts), device))


def run_pairs(
    run: Callable[..., Any],
    x_TH: torch.Tensor,
    weights_TK: torch.Tensor,
    ids_TK: torch.Tensor,
    parts: Sequence[ExpertPairs],
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Return what a kernel's experts make of rows with weights and experts of their own, heaviest first.

    A kernel may run experts that all rows share beside its own: it is told of them in the first run alone.
    """
    out_TH = None
    for part in parts:
        rows_P = part.rows_P + part.first
        weights_P1, ids_P1 = weights_TK[rows_P, part.places_P][:, None], ids_TK[rows_P, part.places_P][:, None]
        found_TH = part.summed(run(x_TH[rows_P], weights_P1, ids_P1, *args, **kwargs))
        if len(parts) == 1:
            return found_TH
        out_TH = found_TH.new_empty((len(x_TH), *found_TH.shape[1:])) if out_TH is None else out_TH
        out_TH[part.first : part.last] = found_TH  # a kernel may give its next answer in the same memory
        if "shared_experts" in kwargs:
            kwargs["shared_experts"] = None
    assert out_TH is not None
    return out_TH


def _pairs_of(top_k_T: torch.Tensor, first: int, last: int, device: Any) -> ExpertPairs:
    top_k_T = top_k_T[first:last]
    wanted_KT = torch.arange(int(top_k_T.max()))[:, None] < top_k_T
    places_P, rows_P = wanted_KT.nonzero(as_tuple=True)
    ends_K = wanted_KT.sum(1).cumsum(0).tolist()
    return ExpertPairs(first, last, rows_P.to(device), places_P.to(device), ends_K)
