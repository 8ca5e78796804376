"""Optimisers as functions: of one weight, its gradient and its moments, to the weight and moments that follow.

Plain PyTorch, so a step traces with any of them and runs as ordinary code too. State lives outside: moments are zeros
at first, one group of the state for each name an optimiser asks for.
Sources: AdamW, Loshchilov & Hutter 2019; Nesterov, Sutskever et al. 2013; Lion, Chen et al. 2023; Muon, Jordan 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.program import matmul
from cupel.protocol.training.schedules import LearningRate, rate_at

Moments = tuple[torch.Tensor, ...]
"""Of one weight, each of its shape, in the order of the optimiser's `groups`."""
Update = Callable[[str, torch.Tensor, torch.Tensor, Moments], tuple[torch.Tensor, Moments]]
"""(name, weight, gradient, moments) → (next weight, next moments)"""
Chosen = Callable[[str, torch.Tensor], bool]
"""Whether something applies to the weight of this name."""


class Optimiser(Protocol):
    """What `make_step` needs; write your own with these two methods."""

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        """Names of the groups of moments this weight has. Raises UsageError for a weight it cannot update."""

    def begin(self, step: torch.Tensor) -> Update:
        """The update that follows `step` (int64 scalar) finished ones; what all weights share is computed here."""


def matrices(name: str, weight: torch.Tensor) -> bool:
    """Weights of two dimensions and more: what usually decays. Gains and biases have one."""
    return weight.dim() >= 2


def hidden_matrices(name: str, weight: torch.Tensor) -> bool:
    """Matrices that are neither an embedding nor the head, judged by their names: what Muon is meant for."""
    outer = ("embed", "wte", "wpe", "head")
    return weight.dim() == 2 and not any(part in name for part in outer)


def _check(name: str, holds: bool, learning_rate: LearningRate, weight_decay: float, what: str) -> None:
    if not callable(learning_rate) and not 0 < learning_rate < math.inf:
        raise UsageError(f"{name}: learning_rate is {learning_rate}; it is above 0, or a function of the step")
    if not 0 <= weight_decay < math.inf:
        raise UsageError(f"{name}: weight_decay is {weight_decay}; it is not below 0")
    if not holds:
        raise UsageError(f"{name}: {what}")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled decay, scaled by the scheduled rate. Groups adam_m, adam_v."""

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    decays: Chosen = matrices
    """Which weights decay."""

    def __post_init__(self) -> None:
        within = 0 < self.beta1 < 1 and 0 < self.beta2 < 1 and 0 < self.epsilon < math.inf
        _check(
            "AdamW", within, self.learning_rate, self.weight_decay, "beta1 and beta2 lie between 0 and 1, epsilon above"
        )

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        return ("adam_m", "adam_v")

    def begin(self, step: torch.Tensor) -> Update:
        rate = rate_at(self.learning_rate, step)
        updates = (step + 1).to(torch.float32)
        correction1 = 1.0 - torch.exp(updates * math.log(self.beta1))
        correction2 = 1.0 - torch.exp(updates * math.log(self.beta2))

        def update(
            name: str, weight: torch.Tensor, gradient: torch.Tensor, moments: Moments
        ) -> tuple[torch.Tensor, Moments]:
            m = self.beta1 * moments[0] + (1.0 - self.beta1) * gradient
            v = self.beta2 * moments[1] + (1.0 - self.beta2) * (gradient * gradient)
            change = (m / correction1) / (torch.sqrt(v / correction2) + self.epsilon)
            if self.decays(name, weight):
                change = change + self.weight_decay * weight
            return weight - rate * change, (m, v)

        return update


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent with momentum, plain or Nesterov's, as torch.optim.SGD. Group momentum, if there is any."""

    learning_rate: LearningRate
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    """Added to the gradient, so that momentum sees it."""
    decays: Chosen = matrices

    def __post_init__(self) -> None:
        within = 0 <= self.momentum < 1 and (self.momentum > 0 or not self.nesterov)
        needs = "momentum is from 0 to below 1, and above 0 for nesterov"
        _check("SGD", within, self.learning_rate, self.weight_decay, needs)

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def begin(self, step: torch.Tensor) -> Update:
        rate = rate_at(self.learning_rate, step)

        def update(
            name: str, weight: torch.Tensor, gradient: torch.Tensor, moments: Moments
        ) -> tuple[torch.Tensor, Moments]:
            if self.weight_decay and self.decays(name, weight):
                gradient = gradient + self.weight_decay * weight
            if not moments:
                return weight - rate * gradient, ()
            velocity = self.momentum * moments[0] + gradient
            change = gradient + self.momentum * velocity if self.nesterov else velocity
            return weight - rate * change, (velocity,)

        return update


@dataclass(frozen=True, kw_only=True)
class Lion:
    """The sign of an average of gradients; wants a tenth of AdamW's rate and ten times its decay. Group lion_m."""

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    decays: Chosen = matrices

    def __post_init__(self) -> None:
        within = 0 < self.beta1 < 1 and 0 < self.beta2 < 1
        _check("Lion", within, self.learning_rate, self.weight_decay, "beta1 and beta2 lie between 0 and 1")

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        return ("lion_m",)

    def begin(self, step: torch.Tensor) -> Update:
        rate = rate_at(self.learning_rate, step)

        def update(
            name: str, weight: torch.Tensor, gradient: torch.Tensor, moments: Moments
        ) -> tuple[torch.Tensor, Moments]:
            (m,) = moments
            change = torch.sign(self.beta1 * m + (1.0 - self.beta1) * gradient)
            if self.weight_decay and self.decays(name, weight):
                change = change + self.weight_decay * weight
            return weight - rate * change, (self.beta2 * m + (1.0 - self.beta2) * gradient,)

        return update


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum made orthogonal by Newton-Schulz, for hidden matrices; combine it with `Grouped`. Group muon_m."""

    learning_rate: LearningRate
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    iterations: int = 5
    digits: int = 2
    """Of the products inside the iteration; 1 to 3."""
    adjust: Literal["original", "match_rms_adamw"] = "original"
    """Rate times sqrt(max(1, rows / columns)), or times 0.2 sqrt(max(rows, columns)) so that AdamW's rates fit."""
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    epsilon: float = 1e-7
    """Smallest norm a momentum is divided by."""

    def __post_init__(self) -> None:
        within = 0 < self.momentum < 1 and self.iterations >= 1 and self.digits in (1, 2, 3) and self.epsilon > 0
        needs = "momentum lies between 0 and 1, iterations and epsilon above 0, digits are 1, 2 or 3"
        _check("Muon", within, self.learning_rate, self.weight_decay, needs)
        if self.adjust not in ("original", "match_rms_adamw"):
            raise UsageError(f'Muon: adjust is "original" or "match_rms_adamw", not {self.adjust!r}')

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        if weight.dim() != 2:
            raise UsageError(
                f"Muon updates matrices, and {name} has {weight.dim()} dimensions: give it another optimiser, as in "
                "Grouped(((hidden_matrices, Muon(...)),), otherwise=AdamW(...))"
            )
        return ("muon_m",)

    def begin(self, step: torch.Tensor) -> Update:
        rate = rate_at(self.learning_rate, step)

        def update(
            name: str, weight: torch.Tensor, gradient: torch.Tensor, moments: Moments
        ) -> tuple[torch.Tensor, Moments]:
            m = self.momentum * moments[0] + (1.0 - self.momentum) * gradient
            ahead = (1.0 - self.momentum) * gradient + self.momentum * m if self.nesterov else m
            change = self.scale_of(weight) * self.orthogonal(ahead)
            if self.weight_decay:
                change = change + self.weight_decay * weight
            return weight - rate * change, (m,)

        return update

    def scale_of(self, weight: torch.Tensor) -> float:
        rows, columns = weight.shape
        return math.sqrt(max(1.0, rows / columns)) if self.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))

    def orthogonal(self, matrix: torch.Tensor) -> torch.Tensor:
        """Singular values brought near 1: X (a + b X^T X + c (X^T X)^2), `iterations` times, from X of norm 1."""
        a, b, c = self.coefficients
        x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
        x = x / torch.sqrt((x * x).sum()).clamp(min=self.epsilon)
        for _ in range(self.iterations):
            gram = matmul(x, x.mT, self.digits)
            x = a * x + matmul(b * gram + c * matmul(gram, gram, self.digits), x, self.digits)
        return x.mT if matrix.shape[0] > matrix.shape[1] else x


@dataclass(frozen=True)
class Grouped:
    """Several optimisers: each weight goes to the first one that is chosen for it, the rest to `otherwise`.

    One without decay, another rate for embeddings, or Muon for hidden matrices and AdamW for the rest.
    """

    chosen: Sequence[tuple[Chosen, Optimiser]]
    otherwise: Optimiser

    def _index(self, name: str, weight: torch.Tensor) -> int:
        found = (i for i, (applies, _) in enumerate(self.chosen) if applies(name, weight))
        return next(found, len(self.chosen))

    @property
    def _all(self) -> list[Optimiser]:
        return [*(optimiser for _, optimiser in self.chosen), self.otherwise]

    def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
        return self._all[self._index(name, weight)].groups(name, weight)

    def begin(self, step: torch.Tensor) -> Update:
        begun = [optimiser.begin(step) for optimiser in self._all]

        def update(
            name: str, weight: torch.Tensor, gradient: torch.Tensor, moments: Moments
        ) -> tuple[torch.Tensor, Moments]:
            return begun[self._index(name, weight)](name, weight, gradient, moments)

        return update
