"""Training steps of plain modules: tied weights, dropout, microbatches, digits, experts, and what is refused."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.errors import UnsupportedOperation, UsageError
from cupel.protocol.program import Program, SeededDropout, dropout, philox_key, run, trace
from cupel.protocol.training.experts import MixtureOfExperts
from cupel.protocol.training.modules import ModuleStep, make_step, next_token_loss, own_loss
from cupel.protocol.training.optimisers import SGD, AdamW, Lion
from cupel.protocol.training.state import State, flatten_state

VOCABULARY, WIDTH, TOKENS = 20, 8, torch.randint(0, 20, (4, 7), generator=torch.Generator().manual_seed(1))
PLAIN = SGD(learning_rate=1.0, momentum=0.0)


class Decoder(nn.Module):
    """What people write: PyTorch's own layers, an embedding that is also the head."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=probability, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        logits: torch.Tensor = self.head(self.block(self.embedding(tokens), src_mask=mask, is_causal=True))
        return logits


class Toy(nn.Module):
    """As little as can be trained: tied weights and two dropouts."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(probability)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.inner(self.dropout(self.embedding(tokens))))
        logits: torch.Tensor = self.head(self.dropout(hidden))
        return logits


def toy(probability: float = 0.0) -> Toy:
    torch.manual_seed(0)
    return Toy(probability)


def decoder(probability: float = 0.0) -> Decoder:
    torch.manual_seed(0)
    return Decoder(probability)


def bits(state: Any) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in flatten_state(state).items()}


def count(program: Program, opcode: Opcode) -> int:
    return Counter(op.opcode for op in program.operations)[opcode]


def stepped(step: ModuleStep, *batch: Any, state: State | None = None, backend: str = "torch") -> tuple[State, Any]:
    """State and metrics after one step of the traced Program."""
    args = (step.initial_state() if state is None else state, *batch)
    following, metrics = run(trace(step, args), args, backend=backend)
    return following, metrics


# A whole step


def test_a_step_is_what_pytorch_computes() -> None:
    """Tied weights, clipping and momentum on PyTorch's own transformer layer."""
    module = decoder()
    step = make_step(module, next_token_loss, SGD(learning_rate=0.1, momentum=0.9), clip_norm=0.5)
    plain = copy.deepcopy(module)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    state = step.initial_state()
    program = trace(step, (state, TOKENS))
    for _ in range(2):
        state, metrics = run(program, (state, TOKENS), backend="torch")
        optimiser.zero_grad()
        loss = next_token_loss(plain, TOKENS)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimiser.step()
        torch.testing.assert_close(metrics["loss"], loss.detach(), rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(metrics["grad_norm"], norm, rtol=5e-3, atol=1e-3)
    assert int(state["step"]) == 2
    for name, expected in plain.named_parameters():
        torch.testing.assert_close(state["weights"][name], expected.detach(), rtol=1e-3, atol=2e-4)


def test_engines_agree_on_tied_weights_microbatches_clipping_and_dropout() -> None:
    optimiser = AdamW(learning_rate=0.01)
    step = make_step(toy(0.2), next_token_loss, optimiser, clip_norm=0.5, microbatches=2, dropout_seed=b"seed")
    state = step.initial_state()
    program = trace(step, (state, TOKENS))
    for _ in range(2):
        following, metrics = run(program, (state, TOKENS), backend="cpu")
        other, twin = run(program, (state, TOKENS), backend="torch")
        assert bits({**following, "metrics": metrics}) == bits({**other, "metrics": twin})
        plain_loss = step(state, TOKENS)[1]["loss"]
        torch.testing.assert_close(metrics["loss"], plain_loss, rtol=1e-3, atol=1e-3)
        state = following


def test_an_untraced_step_is_plain_pytorch() -> None:
    step = make_step(toy(), next_token_loss, AdamW(learning_rate=0.01))
    state = step.initial_state()
    following, metrics = step(state, TOKENS)
    torch.testing.assert_close(metrics["loss"], next_token_loss(toy(), TOKENS).detach())
    assert following.keys() == state.keys() == {"weights", "adam_m", "adam_v", "step"}
    assert not torch.equal(following["weights"]["embedding.weight"], state["weights"]["embedding.weight"])


# Tied weights


def test_a_tied_weight_is_one_entry_of_the_state() -> None:
    state = make_step(decoder(), next_token_loss, AdamW(learning_rate=0.01)).initial_state()
    assert "embedding.weight" in state["weights"]
    assert "head.weight" not in state["weights"]
    assert state["weights"].keys() == state["adam_m"].keys() == state["adam_v"].keys()


class Shared(nn.Module):
    """One vector in three modules, each with its own factor."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 1, bias=False) for _ in range(3))
        for part in self.parts:
            part.weight = self.parts[0].weight

    def forward(self, factors: torch.Tensor) -> torch.Tensor:
        return torch.stack([(part.weight * factors[i]).sum() for i, part in enumerate(self.parts)]).sum()


def test_the_gradient_of_a_tied_weight_is_one_exact_sum() -> None:
    """Added in any order of floats, 1 vanishes beside 1e8."""
    factors = torch.tensor([1e8, 1.0, -1e8])
    step = make_step(Shared(), lambda module, factors: module(factors), PLAIN)
    state = step.initial_state()
    state["weights"]["parts.0.weight"] = torch.zeros(1, 4)
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2]):
        following, _ = stepped(step, factors[order], state=state)
        assert following["weights"]["parts.0.weight"].tolist() == [[-1.0] * 4]


# Microbatches


def test_the_order_of_microbatches_changes_no_bit_and_their_mean_is_the_batchs() -> None:
    step = make_step(toy(), next_token_loss, PLAIN, microbatches=4)
    whole, whole_metrics = stepped(make_step(toy(), next_token_loss, PLAIN), TOKENS)
    first, metrics = stepped(step, TOKENS)
    again, turned = stepped(step, TOKENS[torch.tensor([2, 0, 3, 1])])
    assert bits(first) == bits(again)
    assert torch.equal(metrics["loss"], turned["loss"])
    torch.testing.assert_close(metrics["loss"], whole_metrics["loss"], rtol=1e-4, atol=1e-4)
    for name, weight in whole["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=5e-3, atol=5e-3)


def test_a_batch_that_does_not_cut_is_refused() -> None:
    step = make_step(decoder(), next_token_loss, PLAIN, microbatches=3)
    with pytest.raises(UsageError, match=r"shape \[4, 7\] in the batch does not cut into 3"):
        step(step.initial_state(), TOKENS)


# Dropout


def dropped(seed: bytes, step: int) -> State:
    made = make_step(toy(0.3), next_token_loss, PLAIN, dropout_seed=seed)
    return stepped(made, TOKENS, state={**made.initial_state(), "step": torch.tensor(step)})[0]


def test_dropout_is_decided_by_seed_and_step_and_never_by_pytorchs_generator() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dropped(b"seed", 5)
    torch.manual_seed(2)
    assert bits(first) == bits(dropped(b"seed", 5))
    for other in (dropped(b"other", 5), dropped(b"seed", 6)):
        assert bits({**other, "step": first["step"]}) != bits(first)
    made = make_step(toy(0.3), next_token_loss, PLAIN, dropout_seed=b"seed")
    torch.manual_seed(1)
    trace(made, (made.initial_state(), TOKENS))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_use_and_every_microbatch_has_masks_of_its_own() -> None:
    # Of the layer: attention's weights, after attention, inside and after the feed-forward; backward has the same.
    for module, microbatches in ((decoder(0.3), 1), (toy(0.3), 2)):
        made = make_step(module, next_token_loss, PLAIN, dropout_seed=b"s", microbatches=microbatches)
        program = trace(made, (made.initial_state(), TOKENS))
        streams = [op.attributes[0] for op in program.operations if op.opcode == Opcode.PHILOX]
        assert streams == [0, 1, 2, 3]


KEY, STEP = philox_key(b"seed", "test"), torch.tensor(3)


def test_what_is_kept_is_scaled_and_the_gradient_passes_where_it_was_kept() -> None:
    x = torch.full((100, 100), 2.0)

    def both(x: torch.Tensor, key: torch.Tensor, step: torch.Tensor) -> Any:
        x = x.detach().requires_grad_()
        y = dropout(x, 0.25, key, step, stream=7)
        return y, torch.autograd.grad(y.sum(), x)[0]

    args = (x, KEY, STEP)
    y, gradient = run(trace(both, args), args, backend="torch")
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    assert set(y.flatten().tolist()) == {0.0, float(torch.tensor(2.0) * torch.tensor(1 / 0.75))}
    assert torch.equal(gradient != 0, kept)
    eager = both(*args)
    assert torch.equal(eager[0], y)
    assert torch.equal(eager[1], gradient)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_nothing_or_everything_can_be_dropped(probability: float) -> None:
    x = torch.randn(3, 4)
    assert torch.equal(dropout(x, probability, KEY, STEP), x * (1 - probability))


def test_every_way_pytorch_drops_is_mapped_or_refused() -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(3))

    def within(function: Any) -> Any:
        def call(x: torch.Tensor, key: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            with SeededDropout(key, step):
                result: torch.Tensor = function(x)
                return result

        return call

    expected = dropout(x, 0.5, KEY, STEP)
    for function in (
        lambda x: F.dropout(x),
        lambda x: nn.Dropout(0.5)(x),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: F.dropout(x.clone(), inplace=True),
        lambda x: F.dropout(F.dropout(F.dropout(x, 0.9, training=False), 0.0)),
    ):
        program = trace(within(function), (x, KEY, STEP))
        assert torch.equal(run(program, (x, KEY, STEP), backend="torch"), expected)
    attention = within(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, dropout_p=0.5))
    program = trace(attention, (x, KEY, STEP))
    assert (count(program, Opcode.PHILOX), count(program, Opcode.DOT_ROWS)) == (1, 1)
    for other in (F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d):
        with pytest.raises(UnsupportedOperation, match=f"F.{other.__name__} in training mode"):
            within(lambda x, other=other: other(x, 0.5, training=True))(x, KEY, STEP)
        within(lambda x, other=other: other(x, 0.5, training=False))(x, KEY, STEP)


def test_attention_that_drops_nothing_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn(2, heads, 5, 8, generator=generator) for heads in (4, 2, 2))
    allowed = torch.rand(5, 5, generator=generator) > 0.3
    allowed.fill_diagonal_(True)
    almost = 2.0**-60
    for settings in (
        {"is_causal": True, "enable_gqa": True},
        {"attn_mask": allowed, "enable_gqa": True, "scale": 0.3},
        {"attn_mask": torch.where(allowed, 0.5, -2.0), "enable_gqa": True},
    ):
        with SeededDropout(KEY, STEP):
            got = F.scaled_dot_product_attention(q, k, v, dropout_p=almost, **settings)  # type: ignore[arg-type]
        torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v, **settings))  # type: ignore[arg-type]


def test_dropout_without_a_seed_is_refused_and_eval_mode_needs_none() -> None:
    module = toy(0.3)
    step = make_step(module, next_token_loss, PLAIN)
    with pytest.raises(UsageError, match=r"drops out \(0.3\) in training mode: give make_step a dropout_seed"):
        trace(step, (step.initial_state(), TOKENS))
    module.eval()
    assert count(trace(step, (step.initial_state(), TOKENS)), Opcode.PHILOX) == 0
    module.train()
    with pytest.raises(UnsupportedOperation, match=r"dropout give make_step a dropout_seed"):
        trace(lambda tokens: module(tokens), (TOKENS,))


def test_checkpointing_repeats_a_part_unless_it_drops() -> None:
    class Part(nn.Module):
        def __init__(self, probability: float) -> None:
            super().__init__()
            self.inner, self.probability = nn.Linear(4, 4), probability

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def part(x: torch.Tensor) -> torch.Tensor:
                return F.dropout(self.inner(x), self.probability).tanh()

            result: torch.Tensor = checkpoint(part, x, use_reentrant=False)
            return result

    def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return module(x).square().mean()

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(9))
    kept = make_step(Part(0.0), loss, PLAIN)
    following, _ = stepped(kept, x)
    torch.testing.assert_close(following["weights"], kept(kept.initial_state(), x)[0]["weights"], rtol=1e-3, atol=1e-3)
    drops = make_step(Part(0.5), loss, PLAIN, dropout_seed=b"seed")
    with pytest.raises(UnsupportedOperation, match=r"under torch\.utils\.checkpoint did something else"):
        trace(drops, (drops.initial_state(), x))


def test_evaluating_drops_nothing_and_leaves_the_module_as_it_was() -> None:
    module = decoder(0.3)
    module.block.dropout1.eval()
    step = make_step(module, next_token_loss, PLAIN, dropout_seed=b"seed")
    weights = step.initial_state()["weights"]
    program = trace(step.evaluate, (weights, TOKENS))
    assert count(program, Opcode.PHILOX) == 0
    assert (module.training, module.block.dropout1.training, module.block.dropout.training) == (True, False, True)
    expected = next_token_loss(decoder(), TOKENS).detach()
    torch.testing.assert_close(run(program, (weights, TOKENS), backend="torch"), expected, rtol=1e-3, atol=1e-3)


# Digits


def test_digits_are_those_asked_for_and_more_of_them_come_closer() -> None:
    generator = torch.Generator().manual_seed(5)
    a, b = torch.randn(16, 64, generator=generator), torch.randn(64, 16, generator=generator)
    exact = (a.double() @ b.double()).float()
    errors = []
    for digits in (1, 2, 3):
        program = trace(lambda a, b: a @ b, (a, b), digits=digits)
        assert [op.attributes for op in program.operations if op.opcode == Opcode.DOT] == [(digits,)]
        errors.append(float((run(program, (a, b), backend="torch") - exact).abs().max()))
    assert errors[0] > 30 * errors[1] > 30 * 30 * errors[2]
    with pytest.raises(UsageError, match="digits are 1, 2 or 3, not 4"):
        trace(lambda a, b: a @ b, (a, b), digits=4)


# Experts


def experts(**settings: Any) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(8, 12, experts=4, chosen=2, **settings)


def test_a_mixture_with_room_for_all_is_the_sum_of_each_tokens_experts() -> None:
    module = experts(capacity_factor=2.0)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(6))
    expected = torch.zeros(15, 8)
    for token, row in enumerate(x.reshape(15, 8)):
        scores, which = torch.topk(module.router(row), 2)
        for share, expert in zip(torch.softmax(scores, -1), which, strict=True):
            gate, up = (row @ module.gate_up[expert]).chunk(2)
            expected[token] += share * (F.silu(gate) * up @ module.down[expert])
    torch.testing.assert_close(module(x), expected.reshape(3, 5, 8))


def test_ties_go_to_the_lowest_expert_and_the_earliest_token() -> None:
    module = experts(capacity_factor=0.5)
    with torch.no_grad():
        module.router.weight.zero_()
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(7))
    assert run(trace(module.route, (x,)), (x,), backend="torch").tolist() == [[0.5, 0.5, 0.0, 0.0]] * 8
    assert module.capacity(8) == 2
    got = run(trace(module, (x,)), (x,), backend="torch")
    assert [bool(row.any()) for row in got] == [True, True, *[False] * 6]


def test_a_mixture_trains_alike_on_every_engine() -> None:
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(8))

    def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (module(module(x)) - x).square().mean()

    step = make_step(experts(), loss, Lion(learning_rate=1e-2))
    state = step.initial_state()
    program = trace(step, (state, x))
    losses = []
    for _ in range(3):
        plain_loss = step(state, x)[1]["loss"]
        following, metrics = run(program, (state, x), backend="cpu")
        assert bits(following) == bits(run(program, (state, x), backend="torch")[0])
        torch.testing.assert_close(metrics["loss"], plain_loss, rtol=5e-3, atol=5e-3)
        losses.append(float(metrics["loss"]))
        state = following
    assert losses[0] > losses[1] > losses[2]


def test_a_mixture_of_nothing_is_refused() -> None:
    for settings in ({"chosen": 5}, {"chosen": 0}, {"capacity_factor": 0.0}, {"capacity_factor": math.inf}):
        with pytest.raises(UsageError, match="is no mixture"):
            MixtureOfExperts(8, 12, 4, **settings)  # type: ignore[arg-type]


# What is refused, and what is left alone


def test_frozen_weights_stay_and_have_no_moments() -> None:
    module = toy()
    module.embedding.weight.requires_grad_(False)
    step = make_step(module, next_token_loss, AdamW(learning_rate=0.1))
    following, _ = stepped(step, TOKENS)
    assert "embedding.weight" not in following["adam_m"]
    assert torch.equal(following["weights"]["embedding.weight"], module.embedding.weight)
    assert not torch.equal(following["weights"]["inner.weight"], module.inner.weight)


def test_what_cannot_be_trained_is_named() -> None:
    module = decoder()
    module.spare = nn.Linear(3, 3)
    step = make_step(module, next_token_loss, PLAIN)
    with pytest.raises(UsageError, match=r"does not depend on spare.weight \(2 of"):
        step(step.initial_state(), TOKENS)
    with pytest.raises(UsageError, match=r"embedding.weight is torch.bfloat16; weights are float32"):
        make_step(decoder().bfloat16(), next_token_loss, PLAIN)
    with pytest.raises(UsageError, match=r"embedding.weight is on meta"):
        make_step(decoder().to("meta"), next_token_loss, PLAIN)
    with pytest.raises(UsageError, match="nothing to train"):
        make_step(decoder().requires_grad_(False), next_token_loss, PLAIN)
    for settings in ({"microbatches": 0}, {"clip_norm": 0.0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            make_step(decoder(), next_token_loss, PLAIN, **settings)  # type: ignore[arg-type]


def test_a_loss_that_is_no_number_and_foreign_weights_are_refused() -> None:
    step = make_step(decoder(), lambda module, tokens: module(tokens), PLAIN)
    with pytest.raises(UsageError, match=r"not torch.float32\[4, 7, 20\]"):
        step(step.initial_state(), TOKENS)
    step = make_step(decoder(), next_token_loss, PLAIN)
    state = step.initial_state()
    state["weights"]["other"] = torch.zeros(2)
    with pytest.raises(UsageError, match="other is only on one side"):
        step(state, TOKENS)
    with pytest.raises(UsageError, match=r"block\.linear1\.bias is only on one side"):
        step.evaluate({"other": torch.zeros(2)}, TOKENS)


def test_moments_cannot_take_the_place_of_the_weights() -> None:
    class Careless:
        def groups(self, name: str, weight: torch.Tensor) -> tuple[str, ...]:
            return ("weights",)

        def begin(self, step: torch.Tensor) -> Any:
            raise AssertionError("not reached")

    with pytest.raises(UsageError, match="calls a group of moments 'weights'"):
        make_step(decoder(), next_token_loss, Careless())


def test_a_module_without_a_loss_of_its_own_is_named() -> None:
    class Output:
        loss = None

    class Module(nn.Module):
        def forward(self, **batch: torch.Tensor) -> Output:
            return Output()

    with pytest.raises(UsageError, match="want labels"):
        own_loss(Module(), {"input_ids": TOKENS})


def test_a_module_that_writes_into_its_buffers_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    step = make_step(module, lambda module, x: module(x).square().mean(), PLAIN)
    with pytest.raises(UnsupportedOperation, match="writes into a captured tensor in place"):
        trace(step, (step.initial_state(), torch.randn(3, 4)))


def test_a_running_sum_of_a_mask_of_ones_is_a_count() -> None:
    """As OPT numbers its positions; sums of other floats have no order-free meaning."""
    x = torch.zeros(2, 5)
    program = trace(lambda x: torch.cumsum(torch.full(x.shape, 3.0), 1) - 1, (x,))
    assert run(program, (x,), backend="torch").tolist() == [[2.0, 5.0, 8.0, 11.0, 14.0]] * 2
    for floats in (0.5, float("inf"), 2.0**23):
        with pytest.raises(UnsupportedOperation, match="running sum"):
            trace(lambda x, floats=floats: torch.cumsum(torch.full(x.shape, floats), 1), (x,))
