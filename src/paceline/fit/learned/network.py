"""The network that scores configurations for a request and a budget, several members of it trained side by side.

Legend of tensor suffixes: M members, B batch, I inputs (the request vector's numbers and ln of the budget in ms), H hidden,
C configurations.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paceline.control.learned.description import LARGEST_INPUT

Weights = dict[str, NDArray[np.float32]]


class ChooserModule(nn.Module):
    """Scores (M, B, C) from inputs (B, I) or (M, B, I): a linear part, and a ReLU network of `num_layers` beside it.

    It starts as the linear part of zero weights: the same scores for every request. `standardise` must be called once.
    """

    input_mean_I: Tensor
    input_scale_I: Tensor

    def __init__(
        self, *, members: int, inputs: int, hidden_dim: int, num_layers: int, configs: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("input_mean_I", torch.zeros(inputs))
        self.register_buffer("input_scale_I", torch.ones(inputs))
        self.dropout = dropout
        self.skip = MemberLinear(members, inputs, configs, zero=True)
        widths = [inputs, *[hidden_dim] * num_layers]
        layers = [MemberLinear(members, width, hidden_dim, zero=False) for width in widths[:-1]]
        self.hidden = nn.ModuleList(layers)
        self.head = nn.Parameter(torch.zeros(members, hidden_dim, configs)) if num_layers else None

    def standardise(self, input_mean_I: NDArray[np.float64], input_scale_I: NDArray[np.float64]) -> None:
        """Set what inputs are shifted by and multiplied with."""
        self.input_mean_I.copy_(torch.from_numpy(input_mean_I))
        self.input_scale_I.copy_(torch.from_numpy(input_scale_I))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of every member; all members see the same inputs (B, I), or each its own (M, B, I)."""
        x_MBI = ((inputs - self.input_mean_I) * self.input_scale_I).clamp(-LARGEST_INPUT, LARGEST_INPUT)
        if x_MBI.ndim == 2:
            x_MBI = x_MBI.expand(len(self.skip.weight), *x_MBI.shape)
        scores_MBC = self.skip(x_MBI)
        if self.head is None:
            return scores_MBC
        for layer in self.hidden:
            x_MBI = nn.functional.dropout(torch.relu(layer(x_MBI)), self.dropout, self.training)
        return scores_MBC + torch.bmm(x_MBI, self.head)

    def decayed(self) -> list[nn.Parameter]:
        """Return the weights, which decay; biases and buffers do not."""
        return [each for name, each in self.named_parameters() if not name.endswith("bias")]

    def undecayed(self) -> list[nn.Parameter]:
        """Return the biases."""
        return [each for name, each in self.named_parameters() if name.endswith("bias")]

    def weights(self) -> Weights:
        """Return every tensor by the name that the artifact gives it."""
        names = {"head": "head.weight"}
        state: Mapping[str, Tensor] = self.state_dict()
        return {names.get(name, name): tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


class MemberLinear(nn.Module):
    """A linear layer of every member: (M, B, inputs) → (M, B, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, *, zero: bool) -> None:
        super().__init__()
        weight_MIO = torch.zeros(members, inputs, outputs)
        if not zero:
            nn.init.normal_(weight_MIO, std=math.sqrt(2 / inputs))  # He et al., 2015, for ReLU
        self.weight = nn.Parameter(weight_MIO)
        self.bias = nn.Parameter(torch.zeros(members, outputs))

    def forward(self, x_MBI: Tensor) -> Tensor:
        """Return x · weight + bias, member by member."""
        return torch.baddbmm(self.bias[:, None], x_MBI, self.weight)
