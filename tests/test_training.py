"""What a run computes: steps, merges, genesis, sampling, and the files they are kept in."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from program_examples import TINY_RUN, batch

from cupel.protocol import merkle
from cupel.protocol.errors import MalformedInput, MalformedProgram, MalformedTensor, RootMismatch, UsageError
from cupel.protocol.program import philox_key, run, trace
from cupel.protocol.training.evaluate import evaluate
from cupel.protocol.training.generation import DOMAIN, generate, make_sample_step
from cupel.protocol.training.genesis import make_genesis
from cupel.protocol.training.merge import merge, merge_programs_root
from cupel.protocol.training.model import GPT, ModelConfig, build, compute_logits, compute_logits_at, weight_shapes
from cupel.protocol.training.programs import SPEC_NAME, RunPrograms
from cupel.protocol.training.state import NamedState, flatten_state, unflatten_state, weights_of
from cupel.protocol.training.step import TrainingConfig, compute_learning_rate, make_training_step
from cupel.protocol.training.unit import float_bits
from cupel.protocol.types import Root, Seed

VECTORS = json.loads((Path(__file__).parent / "vectors" / "programs.json").read_text())["run"]
SEED = Seed(bytes(range(32)))
MODEL, TRAINING = TINY_RUN.model, TINY_RUN.training


@pytest.fixture(scope="module")
def programs() -> RunPrograms:
    return RunPrograms.build(TINY_RUN)


@pytest.fixture(scope="module")
def start(programs: RunPrograms) -> NamedState:
    return programs.run_genesis(SEED)


@pytest.fixture(scope="module")
def trained(programs: RunPrograms, start: NamedState) -> NamedState:
    """A state with weights and moments of every sign and size."""
    state = start
    for seed in range(6):
        state = dict(programs.run_step(state, batch(seed)).state)
    return state


def flip_lowest_bit(state: NamedState, name: str) -> NamedState:
    spoilt = state[name].clone()
    spoilt.view(-1).view(torch.uint8)[0] ^= 1
    return {**state, name: spoilt}


# Golden roots


def test_every_program_of_a_tiny_run_has_its_stored_root(programs: RunPrograms) -> None:
    assert {name: program.root.hex() for name, program in programs.by_name.items()} == VECTORS["programs"]
    assert programs.root.hex() == VECTORS["programs_root"]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_genesis_steps_and_merge_reach_the_stored_roots(programs: RunPrograms, backend: str) -> None:
    start = programs.run_genesis(SEED, backend=backend)
    assert merkle.state_root(start).hex() == VECTORS["genesis"]
    state = start
    for seed, (root, loss, norm) in enumerate(VECTORS["steps"]):
        stepped = programs.run_step(state, batch(seed), backend=backend)
        state = dict(stepped.state)
        assert merkle.state_root(state).hex() == root
        assert (float_bits(stepped.loss).hex(), float_bits(stepped.gradient_norm).hex()) == (loss, norm)
    assert merkle.state_root(programs.run_merge([start, state], backend=backend)).hex() == VECTORS["merged"]


# The step


def test_a_step_is_what_pytorch_computes(programs: RunPrograms, trained: NamedState) -> None:
    """Against torch.optim.AdamW and clip_grad_norm_ on an ordinary module."""
    gpt = GPT(MODEL)
    gpt.load_state_dict(weights_of(trained))
    matrices = [p for p in gpt.parameters() if p.dim() >= 2]
    gains = [p for p in gpt.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": TRAINING.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=float(compute_learning_rate(TRAINING, trained["step"])),
        betas=(TRAINING.beta1, TRAINING.beta2),
        eps=TRAINING.epsilon,
    )
    for name, parameter in gpt.named_parameters():
        optimiser.state[parameter] = {
            "step": trained["step"].float(),
            "exp_avg": trained[f"adam_m.{name}"].clone(),
            "exp_avg_sq": trained[f"adam_v.{name}"].clone(),
        }
    tokens = batch(99).long()
    loss = F.cross_entropy(gpt(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), TRAINING.clip_norm)
    optimiser.step()

    stepped = programs.run_step(trained, batch(99))
    torch.testing.assert_close(stepped.loss, loss.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stepped.gradient_norm, norm, rtol=2e-3, atol=1e-4)
    for name, parameter in gpt.named_parameters():
        torch.testing.assert_close(stepped.state[f"weights.{name}"], parameter.detach(), rtol=2e-3, atol=2e-3)
        moment = optimiser.state[parameter]["exp_avg"]
        torch.testing.assert_close(stepped.state[f"adam_m.{name}"], moment, rtol=1e-2, atol=1e-3)
    assert int(stepped.state["step"]) == int(trained["step"]) + 1


def test_shuffling_the_batch_changes_no_bit_of_the_state(programs: RunPrograms, trained: NamedState) -> None:
    tokens = batch(7)
    assert len({tuple(row.tolist()) for row in tokens}) == TRAINING.batch
    expected = programs.run_step(trained, tokens)
    shuffled = programs.run_step(trained, tokens[torch.tensor([2, 0, 1])])
    assert merkle.state_root(shuffled.state) == merkle.state_root(expected.state)
    assert float_bits(shuffled.loss) == float_bits(expected.loss)
    assert float_bits(shuffled.gradient_norm) == float_bits(expected.gradient_norm)


@pytest.mark.parametrize(
    "name", ["weights.embedding.weight", "adam_m.blocks.1.feed_forward.up.weight", "adam_v.norm.weight", "step"]
)
def test_one_flipped_bit_changes_the_roots_before_and_after_a_step(
    programs: RunPrograms, trained: NamedState, name: str
) -> None:
    # The highest of a moment's mantissa bits: the lowest may be rounded away by the update, which is as it should be.
    spoilt = trained[name].clone()
    spoilt.view(-1).view(torch.uint8)[2 if spoilt.is_floating_point() else 0] ^= (
        0x40 if spoilt.is_floating_point() else 1
    )
    off = {**trained, name: spoilt}
    assert merkle.state_root(flip_lowest_bit(trained, name)) != merkle.state_root(trained)
    before, after = programs.run_step(trained, batch(3)).state, programs.run_step(off, batch(3)).state
    assert merkle.state_root(before) != merkle.state_root(after)


def test_gradients_larger_than_the_clip_move_weights_as_if_they_had_its_norm() -> None:
    tight = replace(TRAINING, clip_norm=1e-3)
    step = make_training_step(MODEL, tight)
    state = make_genesis(MODEL)(torch.tensor(5))
    after, metrics = step(state, batch(1))
    assert float(metrics["grad_norm"]) > 0.1
    gradients = [m / (1 - tight.beta1) for m in after["adam_m"].values()]
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    assert norm == pytest.approx(tight.clip_norm, rel=1e-3)


def test_only_matrices_decay() -> None:
    state = make_genesis(MODEL)(torch.tensor(5))
    moved: dict[float, Any] = {}
    for decay in (0.0, 0.5):
        moved[decay] = make_training_step(MODEL, replace(TRAINING, weight_decay=decay))(state, batch(1))[0]["weights"]
    for name, weight in moved[0.0].items():
        assert torch.equal(weight, moved[0.5][name]) == (weight.dim() < 2), name


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    config = TrainingConfig(batch=1, learning_rate=0.5, warmup_steps=10, total_steps=30, final_fraction=0.2)
    rates = [float(compute_learning_rate(config, torch.tensor(step))) for step in range(40)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[4] == pytest.approx(0.25)
    assert rates[9] == pytest.approx(0.5)
    assert rates[19] == pytest.approx(0.5 * (0.2 + 0.8 * 0.5))
    assert rates[29:] == pytest.approx([0.1] * 11)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_step_traces_to_one_root_whatever_the_values(programs: RunPrograms) -> None:
    state = make_genesis(MODEL)(torch.tensor(1))
    assert trace(make_training_step(MODEL, TRAINING), (state, batch(0))).root == programs.step.root


def test_a_few_steps_on_one_batch_lower_the_loss(programs: RunPrograms, start: NamedState) -> None:
    state, losses = start, []
    for _ in range(25):
        stepped = programs.run_step(state, batch(0))
        state = dict(stepped.state)
        losses.append(float(stepped.loss))
    assert losses[0] == pytest.approx(math.log(MODEL.vocabulary), abs=0.1)
    assert losses[-1] < 0.6 * losses[0]


# The model


@pytest.fixture(scope="module")
def loud() -> dict[str, torch.Tensor]:
    """Weights under which every token matters, and token 1 has values ten thousand times those of others."""
    generator = torch.Generator().manual_seed(8)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in weight_shapes(MODEL).items()}
    weights["embedding.weight"][:, 0] = 0.0
    weights["embedding.weight"][1, 0] = 1.0
    for layer in range(MODEL.layers):
        weights[f"blocks.{layer}.attention_norm.weight"][0] = 1e4
    return weights


def test_later_tokens_and_padding_change_no_bit_of_earlier_logits(loud: dict[str, torch.Tensor]) -> None:
    gpt = build(MODEL)
    tokens = batch(6)[:1, : MODEL.context].clone()
    tokens[tokens == 1] = 2
    at = trace(lambda w, t, p: compute_logits_at(gpt, w, t, p), (loud, tokens, torch.tensor(0)))
    whole = trace(lambda w, t: compute_logits(gpt, w, t), (loud, tokens))
    for position in range(MODEL.context):
        expected = run(at, (loud, tokens, torch.tensor(position)))
        assert torch.equal(run(whole, (loud, tokens))[:, position], expected)
        for other in (1, 0, MODEL.vocabulary - 1):
            later = tokens.clone()
            later[:, position + 1 :] = other
            assert torch.equal(run(at, (loud, later, torch.tensor(position))), expected)
            later[:, position] = (later[:, position] + 3) % MODEL.vocabulary
            assert not torch.equal(run(at, (loud, later, torch.tensor(position))), expected)


def test_a_shorter_context_gives_the_same_logits(loud: dict[str, torch.Tensor]) -> None:
    gpt = build(MODEL)
    tokens = batch(6)[:1, : MODEL.context]
    long = run(trace(lambda w, t: compute_logits(gpt, w, t), (loud, tokens)), (loud, tokens))
    short = tokens[:, :4].contiguous()
    assert torch.equal(run(trace(lambda w, t: compute_logits(gpt, w, t), (loud, short)), (loud, short)), long[:, :4])


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_has_no_head_of_its_own(tied: bool) -> None:
    config = replace(MODEL, tied=tied)
    assert ("head.weight" in weight_shapes(config)) == (not tied)
    tokens = batch(1)[:, :-1]
    state = make_genesis(config)(torch.tensor(3))
    gpt = GPT(config)
    gpt.load_state_dict(state["weights"])
    torch.testing.assert_close(compute_logits(build(config), state["weights"], tokens), gpt(tokens.long()).detach())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 10}, "width 10"), ({"layers": 0}, "layers is 0"), ({"rope_base": 1.0}, "rope_base")],
)
def test_an_impossible_model_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(MODEL, **change)


def test_impossible_training_is_refused() -> None:
    for change in ({"total_steps": 2}, {"beta1": 1.0}, {"learning_rate": 0.0}, {"batch": 0}, {"weight_decay": -1.0}):
        with pytest.raises(UsageError, match="training"):
            replace(TRAINING, **change)


# Genesis


def test_genesis_depends_on_the_seed_alone_and_is_scaled_as_said(programs: RunPrograms, start: NamedState) -> None:
    assert merkle.state_root(programs.run_genesis(SEED)) == merkle.state_root(start)
    assert merkle.state_root(programs.run_genesis(Seed(bytes(32)))) != merkle.state_root(start)
    wide = ModelConfig(vocabulary=64, width=64, layers=2, heads=2, hidden=64, context=4)
    state = make_genesis(wide)(torch.tensor(11))
    assert float(state["weights"]["embedding.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["weights"]["blocks.0.attention.out.weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert float(state["weights"]["embedding.weight"].mean()) == pytest.approx(0.0, abs=0.001)
    assert torch.equal(state["weights"]["norm.weight"], torch.ones(64))
    assert not any(bool(m.any()) for m in (*state["adam_m"].values(), *state["adam_v"].values()))
    assert int(state["step"]) == 0
    streams = [w.flatten()[:8] for w in state["weights"].values() if w.dim() == 2]
    assert len({tuple(s.sign().tolist()) for s in streams}) > 1


# Merging


def test_a_merge_averages_floats_copies_integers_and_forgets_the_order(
    programs: RunPrograms, start: NamedState, trained: NamedState
) -> None:
    states = [start, trained, dict(programs.run_step(trained, batch(50)).state)]
    merged = programs.run_merge(states)
    assert int(merged["step"]) == int(start["step"])
    for name in merged:
        if name != "step":
            exact = torch.stack([s[name].double() for s in states]).mean(0)
            torch.testing.assert_close(merged[name].double(), exact, rtol=3e-7, atol=1e-9)
    turned = programs.run_merge([states[0], states[2], states[1]])
    assert merkle.state_root(turned) == merkle.state_root(merged)
    assert all(bool((merged[name] >= 0).all()) for name in merged if name.startswith("adam_v"))


def test_a_merge_of_one_is_that_state(programs: RunPrograms, trained: NamedState) -> None:
    assert merkle.state_root(programs.run_merge([trained])) == merkle.state_root(trained)


def test_a_merge_of_equal_states_is_that_state(programs: RunPrograms, trained: NamedState) -> None:
    """Sums of two and of three equal values, divided again, are exact but for -0, of which a trained state has none."""
    assert merkle.state_root(programs.run_merge([trained, trained])) == merkle.state_root(trained)


def test_there_is_a_merge_for_each_number_of_states(programs: RunPrograms, start: NamedState) -> None:
    assert len({program.root for program in programs.merges}) == TINY_RUN.max_merge
    assert merge_programs_root(programs.merges) == merkle.tree_root(
        [merkle.leaf_hash(program.root) for program in programs.merges]
    )
    for count in (0, TINY_RUN.max_merge + 1):
        with pytest.raises(UsageError, match=f"{count} states"):
            programs.run_merge([start] * count)
    with pytest.raises(MalformedTensor):
        programs.run_merge([start, {**start, "step": torch.tensor(0.0)}])


def test_the_merge_function_is_plain_averaging() -> None:
    states = [{"weights": {"w": torch.tensor([1.0, 2.0])}, "step": torch.tensor(n)} for n in (3, 4)]
    states[1]["weights"] = {"w": torch.tensor([3.0, 5.0])}
    result = merge(states)
    assert torch.equal(result["weights"]["w"], torch.tensor([2.0, 3.5]))
    assert int(result["step"]) == 3


# Sampling


def draw(
    programs: RunPrograms, weights: dict[str, torch.Tensor], temperature: float, step: int, padding: int = 0
) -> int:
    """The token after the first four of a fixed sequence."""
    tokens = batch(5)[:1, : MODEL.context].clone()
    tokens[:, 4:] = padding
    args = (torch.tensor(4), philox_key(b"s", DOMAIN), torch.tensor(step), torch.tensor(temperature))
    return int(run(programs.sample, (weights, tokens, *args)))


def logits_after_four(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return compute_logits(build(MODEL), weights, batch(5)[:1, :4])[0, 3]


def test_temperature_zero_takes_the_likeliest_token(programs: RunPrograms, loud: dict[str, torch.Tensor]) -> None:
    best = int(logits_after_four(loud).argmax())
    assert {draw(programs, loud, 0.0, step, padding) for step in range(3) for padding in (0, 1, 9)} == {best}


def test_draws_follow_the_softmax_of_the_top_k(programs: RunPrograms, loud: dict[str, torch.Tensor]) -> None:
    draws = 300
    values, ids = logits_after_four(loud).topk(TINY_RUN.top_k)
    temperature = float(values[0] - values[-1]) / 2.5
    expected = dict(zip(ids.tolist(), (values / temperature).softmax(0).tolist(), strict=True))
    counts = Counter(draw(programs, loud, temperature, step) for step in range(draws))
    assert set(counts) <= set(expected)
    for token, share in expected.items():
        assert counts[token] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


def test_the_top_k_must_fit_the_vocabulary() -> None:
    for top_k in (0, MODEL.vocabulary + 1):
        with pytest.raises(UsageError, match=f"top_k is {top_k}"):
            make_sample_step(MODEL, top_k)


def test_generation_repeats_for_its_seed_and_slides_its_window(programs: RunPrograms, trained: NamedState) -> None:
    weights = weights_of(trained)
    count = 2 * MODEL.context
    written = list(generate(programs.sample, weights, [1, 2], count, seed=b"a" * 32, temperature=2.0))
    assert written == list(generate(programs.sample, weights, [1, 2], count, seed=b"a" * 32, temperature=2.0))
    assert written != list(generate(programs.sample, weights, [1, 2], count, seed=b"b" * 32, temperature=2.0))
    assert len(written) == count
    assert all(0 <= token < MODEL.vocabulary for token in written)
    far = [9] * MODEL.context + [1, 2, 3, 4, 5, 6]
    near = far[-MODEL.context :]
    continued = [list(generate(programs.sample, weights, p, 3, seed=b"c", temperature=0)) for p in (far, near)]
    assert continued[0] == continued[1]


@pytest.mark.parametrize(("prompt", "temperature"), [([], 1.0), ([24], 1.0), ([-1], 1.0), ([1], -0.5), ([1], math.nan)])
def test_a_prompt_or_temperature_that_makes_no_sense_is_refused(
    programs: RunPrograms, trained: NamedState, prompt: list[int], temperature: float
) -> None:
    with pytest.raises(UsageError):
        next(generate(programs.sample, weights_of(trained), prompt, 1, seed=b"", temperature=temperature))


# Evaluation


def test_evaluation_is_the_mean_cross_entropy(programs: RunPrograms, trained: NamedState) -> None:
    gpt = GPT(MODEL)
    gpt.load_state_dict(weights_of(trained))
    batches = [batch(70), batch(71)]
    losses = [F.cross_entropy(gpt(b[:, :-1].long()).flatten(0, 1), b[:, 1:].long().flatten()) for b in batches]
    measured = evaluate(programs.evaluate, weights_of(trained), batches)
    assert measured == pytest.approx(float(torch.stack(losses).mean().detach()), abs=2e-3)
    with pytest.raises(UsageError):
        evaluate(programs.evaluate, weights_of(trained), [])


# States and files


def test_a_state_flattens_to_dotted_names_and_back(start: NamedState) -> None:
    nested = unflatten_state(start)
    assert "weights.blocks.0.attention.qkv.weight" in start
    assert nested["weights"]["blocks.0.attention.qkv.weight"] is start["weights.blocks.0.attention.qkv.weight"]
    assert flatten_state(nested) == start
    other = unflatten_state({**start, "momentum.embedding.weight": torch.zeros(1)})
    assert list(other["momentum"]) == ["embedding.weight"]
    for wrong in ("", ".weights", "weights", "weights.", "steps", "step.weight"):
        with pytest.raises(MalformedTensor, match="no tensor of a state"):
            unflatten_state({**start, wrong: torch.zeros(1)})


def test_a_run_is_written_to_files_and_read_back(programs: RunPrograms) -> None:
    files = programs.to_files()
    again = RunPrograms.from_files(files, programs.root)
    assert again.root == programs.root
    assert again.config == TINY_RUN
    assert again.to_files() == files
    spec = json.loads(files[SPEC_NAME])
    assert spec["model"] == asdict(MODEL)
    assert json.dumps(spec, sort_keys=True, separators=(",", ":")).encode() == files[SPEC_NAME]


def respecified(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    spec = {**json.loads(files[SPEC_NAME]), **changes}
    return {**files, SPEC_NAME: json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()}


def test_files_of_another_run_are_refused(programs: RunPrograms) -> None:
    files = programs.to_files()
    spec = json.loads(files[SPEC_NAME])
    spoilt: list[tuple[dict[str, bytes], type[Exception]]] = [
        ({n: d for n, d in files.items() if n != "step.program"}, MalformedInput),
        ({n: d for n, d in files.items() if n != SPEC_NAME}, MalformedInput),
        ({**files, "step.program": files["step.program"][:-1]}, MalformedProgram),
        ({**files, "step.program": files["evaluate.program"]}, RootMismatch),
        ({**files, SPEC_NAME: files[SPEC_NAME] + b"\n"}, MalformedInput),
        ({**files, SPEC_NAME: b"[" * 100_000}, MalformedInput),
        (respecified(files, version=2), MalformedInput),
        (respecified(files, top_k="5"), MalformedInput),
        (respecified(files, top_k=25), MalformedInput),
        (respecified(files, model={**spec["model"], "layers": 10**12}), MalformedInput),
        (respecified(files, model={**spec["model"], "rope_base": math.inf}), MalformedInput),
        (respecified(files, max_merge=2), MalformedInput),
        (respecified(files, model={**spec["model"], "width": 9}), MalformedInput),
        (respecified(files, model={**spec["model"], "hidden": 16}), MalformedProgram),
        (respecified(files, programs_root="00" * 32), RootMismatch),
        (respecified(files, programs_root="zz"), MalformedInput),
        (respecified(files, programs={**spec["programs"], "step": "00" * 32}), RootMismatch),
    ]
    for changed, error in spoilt:
        with pytest.raises(error):
            RunPrograms.from_files(changed)
    with pytest.raises(RootMismatch):
        RunPrograms.from_files(files, Root(bytes(32)))
