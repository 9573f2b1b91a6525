"""Sampling with a generator of its own: the same seed gives the same answer, whatever else draws random numbers meanwhile.

`generate()` itself draws from torch's global generator, which every thread shares. Here the token is drawn where logits are
processed, all others are ruled out, and greedy decoding takes the one that is left: the passes are those of greedy decoding.

Shapes: B batch, V vocabulary.
"""

import secrets
from dataclasses import replace

import torch
from transformers import LogitsProcessor

from paceline.records import LARGEST_SEED, Sampling


def seeded(sampling: Sampling) -> Sampling:
    """Return the sampling with the seed that it is drawn with: a new one where it names none."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbelow(LARGEST_SEED + 1))


class TokenSampler(LogitsProcessor):
    """Draws each next token by temperature and nucleus (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020).

    One is made for one answer: it holds the state of its generator.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = seeded(sampling)
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        """Return scores (batch, vocabulary) of 0 for the token drawn and minus infinity for the others."""
        if self._generator is None:  # where the logits are: a sharded model's own device may be another
            self._generator = torch.Generator(scores.device).manual_seed(self.sampling.seed or 0)
        nucleus_BV = _nucleus(torch.softmax(scores.float() / self.sampling.temperature, dim=-1), self.sampling.top_p)
        drawn_B1 = torch.multinomial(nucleus_BV, 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn_B1, 0.0)  # pyright: ignore[reportReturnType]


def _nucleus(probabilities_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the weights of the fewest most probable tokens that hold `top_p` together, 0 for the others."""
    if top_p == 1:
        return probabilities_BV
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True)
    # a token is kept where those before it do not hold the share yet: the first always is
    kept_BV = sorted_BV * (sorted_BV.cumsum(dim=-1) - sorted_BV < top_p)
    return torch.zeros_like(probabilities_BV).scatter_(1, order_BV, kept_BV)
