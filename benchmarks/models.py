"""Hugging Face models, built from small configurations: does a whole training step trace, and what does it give?

    python benchmarks/models.py [FAMILY...] [--steps 3] [--layers 2] [--output benchmarks/results/models.txt]

For each family the forward and backward pass, clipping and AdamW become one Program, run on the cpu and on the torch
engine, whose bits are compared, and beside it plain PyTorch trains a copy with torch.optim.AdamW in fp32. Nothing is
downloaded: weights are drawn. Needs `pip install transformers`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import torch
from torch import nn

from cupel.protocol.errors import CupelError
from cupel.protocol.program import run, trace
from cupel.protocol.training.modules import make_step, next_token_loss
from cupel.protocol.training.optimisers import AdamW, matrices
from cupel.protocol.training.state import State, flatten_state

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
OLD_SIZES: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_head": 4, "n_positions": 32}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
"""One product for each token and chosen expert: the one of Transformers' ways whose shapes depend on no value."""
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": {**SIZES, "sliding_window": 6},
    "Qwen2": SIZES,
    "Qwen3": {**SIZES, "head_dim": 8},
    "Gemma": {**SIZES, "head_dim": 8},
    "Gemma2": {**SIZES, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "Gemma3": {**SIZES, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "GPT2": OLD_SIZES,
    "GPTJ": {**OLD_SIZES, "rotary_dim": 4},
    "GPTNeoX": {name: size for name, size in SIZES.items() if name != "num_key_value_heads"},
    "Phi": SIZES,
    "Phi3": SIZES,
    "OPT": {
        "vocab_size": 64,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    },
    "Bloom": {"vocab_size": 64, "hidden_size": 32, "n_head": 4},
    "Falcon": {**SIZES, "num_kv_heads": 2},
    "StableLm": SIZES,
    "Olmo": SIZES,
    "Olmo2": SIZES,
    "Granite": SIZES,
    "Cohere": SIZES,
    "SmolLM3": SIZES,
    "Starcoder2": SIZES,
    "Mixtral": {**SIZES, **EXPERTS, "num_local_experts": 4},
    "Qwen3Moe": {**SIZES, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8},
    "Olmoe": {**SIZES, **EXPERTS, "num_experts": 4},
}
CLASSES = {"GPT2": ("GPT2Config", "GPT2LMHeadModel"), "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM")}
LAYERS = {"GPT2": "n_layer", "GPTJ": "n_layer", "Bloom": "n_layer"}


def build(family: str, layers: int = 2, **more: Any) -> nn.Module:
    """A small causal model of that family with drawn weights, in eval mode: nothing is dropped."""
    import transformers

    config_class, model_class = CLASSES.get(family, (f"{family}Config", f"{family}ForCausalLM"))
    settings = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "attn_implementation": "eager"}
    settings |= {LAYERS.get(family, "num_hidden_layers"): layers, **FAMILIES[family], **more}
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings))
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a family's steps gave."""

    operations: int
    """Of the Program."""
    trace_s: float
    same_bits: bool
    """Whether every tensor of every state was the same, to the last bit, on all engines."""
    losses: list[float]
    plain_losses: list[float]
    """Of plain PyTorch's own training in fp32, from the same weights on the same tokens."""

    @property
    def furthest(self) -> float:
        """The largest difference from plain PyTorch's loss."""
        return max(abs(ours - plain) for ours, plain in zip(self.losses, self.plain_losses, strict=True))


def compare(model: nn.Module, steps: int = 3, engines: tuple[str, ...] = ("cpu", "torch")) -> Outcome:
    """Train a few steps on each engine, and a copy in plain PyTorch."""
    rate, decay, clip = 3e-3, 0.1, 1.0
    step = make_step(model, next_token_loss, AdamW(learning_rate=rate, weight_decay=decay), clip_norm=clip)
    states: dict[str, State] = dict.fromkeys(engines, step.initial_state())
    tokens = torch.randint(0, 64, (2, 13), generator=torch.Generator().manual_seed(1))
    started = time.perf_counter()
    program = trace(step, (step.initial_state(), tokens))
    trace_s = time.perf_counter() - started

    plain = copy.deepcopy(model)
    named = dict(plain.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if matrices(n, p) == decayed], "weight_decay": decay * decayed}
        for decayed in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8)

    same, losses, plain_losses = True, [], []
    for _ in range(steps):
        results = {engine: run(program, (states[engine], tokens), backend=engine) for engine in engines}
        states = {engine: state for engine, (state, _) in results.items()}
        named_states = [flatten_state({**state, "metrics": metrics}) for state, metrics in results.values()]
        first = named_states[0]
        same &= all(
            t.numpy().tobytes() == other[n].numpy().tobytes() for other in named_states for n, t in first.items()
        )
        losses.append(float(results[engines[0]][1]["loss"]))

        optimiser.zero_grad()
        loss = next_token_loss(plain, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        optimiser.step()
        plain_losses.append(float(loss.detach()))
    return Outcome(
        operations=len(program.operations), trace_s=trace_s, same_bits=same, losses=losses, plain_losses=plain_losses
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    import transformers

    lines = [
        f"Causal models of Transformers {transformers.__version__}, {options.layers} layers, {options.steps} steps; "
        "traced whole: forward, backward, clipping, AdamW",
        f"machine: {machine.describe()}, torch {torch.__version__}",
        "",
        f"{'family':12} {'operations':>10} {'trace s':>8}  {'cpu = torch':11}  loss: first, last; off fp32",
    ]
    print("\n".join(lines), flush=True)
    failed = 0
    for family in options.families:
        try:
            outcome = compare(build(family, options.layers), options.steps)
        except CupelError as error:
            failed += 1
            lines.append(f"{family:12} {str(error).splitlines()[0][:110]}")
        else:
            failed += not outcome.same_bits
            bits = "same bits" if outcome.same_bits else "DIFFERENT"
            lines.append(
                f"{family:12} {outcome.operations:10} {outcome.trace_s:8.2f}  {bits:11}  "
                f"{outcome.losses[0]:.4f}, {outcome.losses[-1]:.4f}; {outcome.furthest:.5f}"
            )
        print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
