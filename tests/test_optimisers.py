"""Optimisers as functions: each gives what plain PyTorch gives, and the same bits on both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.program import run, trace
from cupel.protocol.training.optimisers import (
    SGD,
    AdamW,
    Grouped,
    Lion,
    Muon,
    Optimiser,
    Update,
    hidden_matrices,
    matrices,
)
from cupel.protocol.training.schedules import warmup_cosine
from cupel.protocol.training.state import State

Weights = dict[str, torch.Tensor]
SHAPES = {"layers.up": (6, 4), "layers.down": (4, 6), "norm": (4,)}
STEPS = 3


def drawn(seed: int, *names: str) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPES[name], generator=generator) for name in names}


def run_steps(optimiser: Optimiser, weights: Weights) -> Iterator[Weights]:
    """The weights after each step on fixed gradients, after checking both engines against each other."""
    state: State = {"weights": weights, "step": torch.tensor(0)}
    for name, weight in weights.items():
        for group in optimiser.groups(name, weight):
            state.setdefault(group, {})[name] = torch.zeros_like(weight)

    def step(state: State, gradients: Weights) -> State:
        update = optimiser.begin(state["step"])
        following: State = {**{group: {} for group in state if group != "step"}, "step": state["step"] + 1}
        for name, gradient in gradients.items():
            groups = optimiser.groups(name, gradient)
            moments = tuple(state[group][name] for group in groups)
            following["weights"][name], moments = update(name, state["weights"][name], gradient, moments)
            for group, moment in zip(groups, moments, strict=True):
                following[group][name] = moment
        return following

    program = trace(step, (state, weights))
    for i in range(STEPS):
        gradients = drawn(10 + i, *weights)
        following = run(program, (state, gradients), backend="cpu")
        other = run(program, (state, gradients), backend="torch")
        for group, named in following.items():
            for name, tensor in named.items() if isinstance(named, dict) else [(group, named)]:
                twin = other[group][name] if isinstance(named, dict) else other[group]
                assert tensor.numpy().tobytes() == twin.numpy().tobytes(), (group, name)
        state = following
        yield state["weights"]


def run_plain(make: Callable[[list[torch.Tensor]], torch.optim.Optimizer], weights: Weights) -> Iterator[Weights]:
    parameters = {name: torch.nn.Parameter(weight.clone()) for name, weight in weights.items()}
    optimiser = make(list(parameters.values()))
    for i in range(STEPS):
        for name, gradient in drawn(10 + i, *weights).items():
            parameters[name].grad = gradient
        optimiser.step()
        yield {name: parameter.detach().clone() for name, parameter in parameters.items()}


class PlainLion(torch.optim.Optimizer):
    """As the paper's program 1 has it, in place."""

    def __init__(self, parameters: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            (first, second), rate = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                direction = (m * first + p.grad * (1 - first)).sign_()
                p.mul_(1 - rate * group["weight_decay"]).sub_(rate * direction)
                m.mul_(second).add_(p.grad, alpha=1 - second)


def everywhere(name: str, weight: torch.Tensor) -> bool:
    return True


CASES: dict[str, tuple[Optimiser, Callable[[Any], torch.optim.Optimizer]]] = {
    "AdamW": (
        AdamW(learning_rate=0.03, decays=everywhere),
        lambda p: torch.optim.AdamW(p, lr=0.03, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    ),
    "SGD": (SGD(learning_rate=0.1, momentum=0.0), lambda p: torch.optim.SGD(p, lr=0.1)),
    "SGD with momentum and decay": (
        SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.2, decays=everywhere),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2),
    ),
    "SGD with Nesterov's momentum": (
        SGD(learning_rate=0.1, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    ),
    "Lion": (
        Lion(learning_rate=0.02, weight_decay=0.3, decays=everywhere),
        lambda p: PlainLion(p, lr=0.02, betas=(0.9, 0.99), weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_pytorch_gives_and_engines_agree(name: str) -> None:
    ours, plain = CASES[name]
    weights = drawn(1, *SHAPES)
    for got, expected in zip(run_steps(ours, weights), run_plain(plain, weights), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """As published, in double precision."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().t()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.t()


def test_muon_is_pytorchs_and_closer_to_the_exact_iteration() -> None:
    """PyTorch iterates in bfloat16, with 8 bits; two digits keep 13, three 20."""
    names = ("layers.up", "layers.down")
    weights = drawn(2, *names)
    ours = Muon(learning_rate=0.1, weight_decay=0.2, digits=3)
    plain = run_plain(lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.2, momentum=0.95), weights)
    for got, expected in zip(run_steps(ours, weights), plain, strict=True):
        for name in names:
            torch.testing.assert_close(got[name], expected[name], rtol=0.02, atol=0.02)
    gradient = drawn(3, "layers.up")["layers.up"]
    exact = newton_schulz(gradient)
    errors = [float((Muon(learning_rate=1.0, digits=d).orthogonal(gradient) - exact).abs().max()) for d in (1, 2, 3)]
    assert errors[2] < 1e-4 < errors[1] < 5e-3 < errors[0] < 0.5


def test_each_weight_goes_to_the_first_optimiser_chosen_for_it() -> None:
    def no_decay(name: str, weight: torch.Tensor) -> bool:
        return name == "norm"

    embedding = {
        "embed.weight": torch.zeros(3, 2),
        "lm_head.weight": torch.zeros(3, 2),
        "mlp.weight": torch.zeros(3, 2),
    }
    assert [hidden_matrices(name, weight) for name, weight in embedding.items()] == [False, False, True]
    plain = SGD(learning_rate=1.0, momentum=0.0)
    grouped = Grouped(((no_decay, plain), (matrices, Muon(learning_rate=0.1))), otherwise=Lion(learning_rate=0.1))
    weights = drawn(4, *SHAPES)
    assert [grouped.groups(name, weight) for name, weight in weights.items()] == [("muon_m",), ("muon_m",), ()]
    first = next(run_steps(grouped, weights))
    gradient = drawn(10, *SHAPES)["norm"]
    assert torch.equal(first["norm"], weights["norm"] - gradient)


def test_only_chosen_weights_decay_and_a_schedule_sees_the_step() -> None:
    schedule = warmup_cosine(0.5, warmup_steps=2, total_steps=10)
    optimiser = AdamW(learning_rate=schedule, weight_decay=0.5, decays=lambda name, _: name == "layers.up")
    weights = drawn(5, *SHAPES)
    update: Update = optimiser.begin(torch.tensor(0))
    still = {name: update(name, w, torch.zeros_like(w), (torch.zeros_like(w),) * 2)[0] for name, w in weights.items()}
    rate = float(schedule(torch.tensor(0)))
    assert rate == pytest.approx(0.25)
    torch.testing.assert_close(still["layers.up"], weights["layers.up"] * (1 - rate * 0.5))
    assert torch.equal(still["layers.down"], weights["layers.down"])
    assert torch.equal(still["norm"], weights["norm"])


def test_muon_can_take_adamws_rates_as_pytorchs_does() -> None:
    gradient = drawn(6, "layers.up")
    zero = torch.zeros(SHAPES["layers.up"])
    got, _ = Muon(learning_rate=0.1, adjust="match_rms_adamw").begin(torch.tensor(0))(
        "layers.up", zero, gradient["layers.up"], (zero,)
    )
    parameter = torch.nn.Parameter(zero.clone())
    parameter.grad = gradient["layers.up"]
    torch.optim.Muon([parameter], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    torch.testing.assert_close(got, parameter.detach(), rtol=0.02, atol=0.002)


def test_a_weight_muon_cannot_update_is_named() -> None:
    with pytest.raises(UsageError, match=r"norm has 1 dimensions: give it another optimiser, as in Grouped"):
        Muon(learning_rate=0.1).groups("norm", torch.zeros(4))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AdamW(learning_rate=0.0),
        lambda: AdamW(learning_rate=0.1, beta1=1.0),
        lambda: AdamW(learning_rate=0.1, weight_decay=-1.0),
        lambda: SGD(learning_rate=0.1, momentum=0.0, nesterov=True),
        lambda: Lion(learning_rate=float("inf")),
        lambda: Lion(learning_rate=0.1, beta2=1.0),
        lambda: Muon(learning_rate=0.1, digits=4),
        lambda: Muon(learning_rate=0.1, adjust="rms"),  # type: ignore[arg-type]
    ],
)
def test_settings_without_meaning_are_refused(wrong: Callable[[], Optimiser]) -> None:
    with pytest.raises(UsageError):
        wrong()
