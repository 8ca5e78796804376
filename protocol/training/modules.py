"""Training steps of any `nn.Module`: weights, moments and batch in, weights, moments and loss out, ready for `trace`.

Nothing here knows a model. A parameter is one entry of the state however many modules share it; buffers are constants.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import CheckpointError

from cupel.protocol.errors import UnsupportedOperation, UsageError
from cupel.protocol.program import SeededDropout, philox_key
from cupel.protocol.program.structure import flatten, unflatten
from cupel.protocol.training.optimisers import Moments, Optimiser
from cupel.protocol.training.state import State
from cupel.protocol.training.step import Metrics, clip_scale, joint_norm

DOMAIN = "cupel dropout"

Loss = Callable[..., torch.Tensor]
"""loss(module, *batch) → float32 scalar."""


def next_token_loss(module: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of each next token: tokens[B, T + 1] of any integer type.

    module  gives logits[B, T, V] for int64 tokens[B, T], or an object that holds them as `.logits`
    """
    output = module(tokens[:, :-1].long())
    logits = getattr(output, "logits", output)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].long().flatten())


def own_loss(module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the module itself gives as `.loss` for these keyword arguments, as Hugging Face models do."""
    loss: torch.Tensor | None = module(**batch).loss
    if loss is None:
        raise UsageError(f"the module gave no loss for {', '.join(batch)}: Hugging Face models want labels as well")
    return loss


class _Loss(nn.Module):
    """A loss as a module, so that `functional_call` replaces the weights wherever the loss uses them."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self, *batch: Any) -> torch.Tensor:
        value = self.loss(self.module, *batch)
        if not isinstance(value, torch.Tensor) or value.dim() != 0 or value.dtype != torch.float32:
            got = f"{value.dtype}{list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UsageError(f"the loss is one float32 number (a tensor without dimensions), not {got}")
        return value


class ModuleStep:
    """One optimiser update of a module, as a function: step(state, *batch) → (next state, {"loss", "grad_norm"}).

    Plain PyTorch: call it to train in fp32, or `trace(step, (state, *batch))` it into a Program.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        optimiser: Optimiser,
        *,
        clip_norm: float | None,
        microbatches: int,
        dropout_seed: bytes | None,
    ) -> None:
        self.module, self.optimiser = module, optimiser
        self.clip_norm, self.microbatches, self.dropout_seed = clip_norm, microbatches, dropout_seed
        self._loss = _Loss(module, loss)
        self._aliases = _aliases(module)
        parameters = dict(module.named_parameters())
        self._trained = {name: optimiser.groups(name, p) for name, p in parameters.items() if p.requires_grad}
        if not self._trained:
            raise UsageError("no parameter of the module requires a gradient: there is nothing to train")
        if taken := {group for groups in self._trained.values() for group in groups} & {"weights", "step"}:
            raise UsageError(f"the optimiser calls a group of moments {taken.pop()!r}, which the state uses itself")

    @property
    def frozen(self) -> list[str]:
        """Weights that no step changes."""
        return [name for name in self._aliases if name not in self._trained]

    def initial_state(self) -> State:
        """The module's weights as they are, moments of 0, step 0; shares no memory with the module.

        {"weights": {name: float32}, <group of moments>: {name: float32}, ..., "step": int64}. Frozen weights have no
        moments.
        """
        state: State = {"weights": {name: p.detach().clone() for name, p in self.module.named_parameters()}}
        for name, groups in self._trained.items():
            for group in groups:
                state.setdefault(group, {})[name] = torch.zeros_like(state["weights"][name])
        return {**state, "step": torch.tensor(0, dtype=torch.int64)}

    def __call__(self, state: State, *batch: Any) -> tuple[State, Metrics]:
        losses, gradients = self._losses_and_gradients(state, batch)
        norm = joint_norm(list(gradients.values()))
        scale = None if self.clip_norm is None else clip_scale(norm, self.clip_norm)
        update = self.optimiser.begin(state["step"])
        following: State = {group: dict(value) for group, value in state.items() if group != "step"}
        following["step"] = state["step"] + 1
        for name, gradient in gradients.items():
            groups = self._trained[name]
            moments: Moments = tuple(state[group][name] for group in groups)
            scaled = gradient if scale is None else gradient * scale
            following["weights"][name], moments = update(name, state["weights"][name], scaled, moments)
            for group, moment in zip(groups, moments, strict=True):
                following[group][name] = moment
        return following, {"loss": self._mean(losses), "grad_norm": norm}

    def evaluate(self, weights: Mapping[str, torch.Tensor], *batch: Any) -> torch.Tensor:
        """The loss in eval mode, nothing dropped; `trace(step.evaluate, (state["weights"], *batch))`."""
        self._check_names(weights)
        with _evaluating(self.module):
            leaves = {name: [weight] * len(self._aliases[name]) for name, weight in weights.items()}
            return self._compute_loss(leaves, batch).detach()

    def predict(self, weights: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """What the module gives for tokens in eval mode, or its `.logits`. Raises UsageError: that is no tensor."""
        self._check_names(weights)
        placed = {alias: weights[name] for name, aliases in self._aliases.items() for alias in aliases}
        with _evaluating(self.module), torch.no_grad():
            output = functional_call(self.module, placed, (tokens,), tie_weights=False)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor):
            raise UsageError(f"the module gives {type(logits).__name__} for tokens, not logits")
        return logits

    # Parts of a step

    def _losses_and_gradients(
        self, state: State, batch: Sequence[Any]
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """One loss a microbatch, and the gradient of their mean: all uses of a weight in one order-free sum."""
        weights = state["weights"]
        self._check_names(weights)
        leaves = {name: [weight.detach() for _ in self._aliases[name]] for name, weight in weights.items()}
        for name in self._trained:
            leaves[name] = [leaf.requires_grad_() for leaf in leaves[name]]
        wanted = [leaf for name in self._trained for leaf in leaves[name]]
        losses: list[torch.Tensor] = []
        uses: dict[str, list[torch.Tensor]] = {name: [] for name in self._trained}
        dropping = self._dropping(state["step"])
        for part in _split(batch, self.microbatches):
            with dropping:
                loss = self._compute_loss(leaves, part)
            losses.append(loss.detach())
            try:
                found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
            except CheckpointError as error:
                raise UnsupportedOperation(
                    "a part under torch.utils.checkpoint did something else when repeated, as dropout does, whose "
                    "masks are drawn once: leave checkpointing out there, microbatches save memory as well"
                ) from error
            for name in self._trained:
                uses[name] += [use for use in (next(found) for _ in leaves[name]) if use is not None]
        if unused := [name for name, found_uses in uses.items() if not found_uses]:
            raise UsageError(
                f"the loss does not depend on {unused[0]} ({len(unused)} of {len(uses)} parameters): call "
                "requires_grad_(False) on what is not trained"
            )
        return losses, {name: self._mean(found_uses) for name, found_uses in uses.items()}

    def _check_names(self, weights: Mapping[str, torch.Tensor]) -> None:
        if weights.keys() != self._aliases.keys():
            other = sorted(weights.keys() ^ self._aliases.keys())
            raise UsageError(f"weights of another module: {other[0]} is only on one side ({len(other)} such names)")

    def _compute_loss(self, leaves: Mapping[str, Sequence[torch.Tensor]], batch: Sequence[Any]) -> torch.Tensor:
        """leaves: for every weight one tensor a module that uses it."""
        placed = {
            f"module.{alias}": leaf
            for name, aliases in self._aliases.items()
            for alias, leaf in zip(aliases, leaves[name], strict=True)
        }
        loss: torch.Tensor = functional_call(self._loss, placed, tuple(batch), tie_weights=False)
        return loss

    def _dropping(self, step: torch.Tensor) -> SeededDropout:
        if self.dropout_seed is None:
            return _NoDropout(step, step)
        return SeededDropout(philox_key(self.dropout_seed, DOMAIN), step)

    def _mean(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Their exact sum over the number of microbatches."""
        total = _total(parts)
        return total if self.microbatches == 1 else total / float(self.microbatches)


class _NoDropout(SeededDropout):
    """Refuses to drop: masks must come from a seed that everybody knows."""

    def _drop(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        if probability == 0:
            return x
        raise UsageError(
            f"the module drops out ({probability}) in training mode: give make_step a dropout_seed, or call "
            "the module's eval()"
        )


def _total(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum of all parts at once, rounded once: of two by ADD, of more by SUM, whatever their order."""
    if len(parts) == 1:
        return parts[0]
    return parts[0] + parts[1] if len(parts) == 2 else torch.stack(parts).sum(0)


def _split(batch: Sequence[Any], microbatches: int) -> list[tuple[Any, ...]]:
    """The batch cut along the first dimension of every tensor."""
    if microbatches == 1:
        return [tuple(batch)]
    structure, tensors = flatten(tuple(batch), "batch")
    for tensor in tensors:
        if tensor.dim() == 0 or tensor.shape[0] % microbatches:
            raise UsageError(
                f"a tensor of shape {list(tensor.shape)} in the batch does not cut into {microbatches} equal "
                "microbatches along its first dimension"
            )
    cut = [tensor.chunk(microbatches) for tensor in tensors]
    return [unflatten(structure, [pieces[i] for pieces in cut]) for i in range(microbatches)]


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """Parameter name → its name in each module that holds it: more than one where weights are tied."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    aliases: dict[str, list[str]] = {name: [] for name in names.values()}
    for path, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            aliases[names[id(parameter)]].append(f"{path}.{own}" if path else own)
    return aliases


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def make_step(
    module: nn.Module,
    loss: Loss,
    optimiser: Optimiser,
    *,
    clip_norm: float | None = None,
    microbatches: int = 1,
    dropout_seed: bytes | None = None,
) -> ModuleStep:
    """The training step of a module; trace it with (step.initial_state(), *batch).

    module        float32, on the CPU; trained as it is, in training mode unless its eval() was called
    loss          (module, *batch) → float32 number: `next_token_loss`, `own_loss` or your own
    clip_norm     scale the gradients down to this joint 2-norm where it is larger
    microbatches  cut every tensor of the batch into so many along its first dimension, and average their gradients
                  exactly: their order changes no bit, and only one's activations are needed at a time
    dropout_seed  what decides, with the state's step, which elements are dropped; the key becomes a constant
    Raises        UsageError
    """
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise UsageError(f"{name} is {parameter.dtype}; weights are float32: call the module's float()")
        if parameter.device.type != "cpu":
            raise UsageError(f"{name} is on {parameter.device}; weights are traced on the CPU: call the module's cpu()")
    if microbatches < 1:
        raise UsageError(f"microbatches is {microbatches}; it is at least 1")
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise UsageError(f"clip_norm is {clip_norm}; it is above 0, or None")
    return ModuleStep(
        module,
        loss,
        optimiser,
        clip_norm=clip_norm,
        microbatches=microbatches,
        dropout_seed=dropout_seed,
    )
