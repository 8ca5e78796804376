"""A mixture of experts with exact routing and shapes that no value decides.

Axes: N = tokens of the whole batch, D = width, E = experts, H = inner size of an expert, C = places an expert has.
Source: top-k routing, Shazeer et al. 2017; capacity, Lepikhin et al. 2021; SwiGLU experts as in Mixtral.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from cupel.protocol.errors import UsageError


class MixtureOfExperts(nn.Module):
    """x[..., D] → [..., D]: each token goes to its `chosen` likeliest experts, ties to the lowest expert.

    An expert takes the `capacity` tokens that weigh it most, ties to the earliest; others lose that expert's share.
    Both choices are top-k, exact, and every shape is fixed. What experts give a token is added in one order-free sum.
    """

    def __init__(self, width: int, hidden: int, experts: int, chosen: int = 2, capacity_factor: float = 1.25) -> None:
        """capacity_factor: places an expert has over its fair share of tokens; at experts / chosen nothing is lost."""
        super().__init__()
        if not 1 <= chosen <= experts or not 0 < capacity_factor < math.inf:
            raise UsageError(f"{chosen} of {experts} experts with capacity_factor {capacity_factor} is no mixture")
        self.experts, self.chosen, self.capacity_factor = experts, chosen, capacity_factor
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        for weight in (self.gate_up, self.down):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def capacity(self, tokens: int) -> int:
        """Places of an expert when there are so many tokens."""
        return min(tokens, math.ceil(self.capacity_factor * tokens * self.chosen / self.experts))

    def route(self, x: torch.Tensor) -> torch.Tensor:
        """x[N, D] → shares[N, E]: the chosen experts' softmax over themselves, 0 for the others."""
        best, which = torch.topk(self.router(x), self.chosen, dim=-1)
        return torch.zeros(x.shape[0], self.experts).scatter(1, which, torch.softmax(best, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        shares, who = torch.topk(self.route(flat).t(), self.capacity(flat.shape[0]), dim=-1)  # [E, C]
        gate, up = torch.bmm(flat[who], self.gate_up).chunk(2, dim=-1)
        given = torch.bmm(F.silu(gate) * up, self.down) * shares[..., None]
        mixed = torch.zeros_like(flat).index_add(0, who.flatten(), given.flatten(0, 1))
        return mixed.reshape(x.shape)
