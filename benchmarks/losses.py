"""Final losses of one model trained in fp32, in bf16 and exactly with 1, 2 and 3 digits, on Python's own source.

    python benchmarks/losses.py [--steps 500] [--seeds 3] [--threads 1] [--log FILE] [--output FILE]

A GPT (width 96, 3 layers, 64 bytes of context) reads the standard library's .py files as bytes. Within a seed all five
start from the same weights and read the same batches in the same order, with AdamW, clipping and one schedule. fp32 and
bf16 (autocast) are plain PyTorch with torch.optim.AdamW; the others are the traced Program on the cpu engine. The
held-out loss of all five is computed by plain PyTorch in fp32, on files that no training batch comes from. With --log,
what is finished is kept there, line by line, and not trained again.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
import torch.nn.functional as F

from cupel.protocol.program import run, trace
from cupel.protocol.training.genesis import run_genesis, trace_genesis
from cupel.protocol.training.model import GPT, ModelConfig, Weights
from cupel.protocol.training.state import State
from cupel.protocol.training.step import TrainingConfig, compute_learning_rate, make_training_step
from cupel.protocol.types import Seed

MODEL = ModelConfig(vocabulary=256, width=96, layers=3, heads=4, hidden=256, context=64)
BATCH = 16
HELD_OUT_BATCHES = 64
KINDS = ("fp32", "bf16", "d=1", "d=2", "d=3")

Batches = Callable[[int], torch.Tensor]
"""Step → tokens int32[B, T + 1]."""


def read_source() -> tuple[torch.Tensor, torch.Tensor]:
    """(training bytes, held-out bytes): every tenth module of the standard library's top level is held out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_bytes() for path in files]
    train = bytearray(b"".join(text for i, text in enumerate(texts) if i % 10))
    held_out = bytearray(b"".join(text for i, text in enumerate(texts) if not i % 10))
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(held_out, dtype=torch.uint8)


def batches_of(text: torch.Tensor, seed: int) -> Batches:
    def batch(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        starts = torch.randint(0, len(text) - MODEL.context, (BATCH,), generator=generator)
        return torch.stack([text[s : s + MODEL.context + 1] for s in starts.tolist()]).to(torch.int32)

    return batch


def compute_loss(gpt: GPT, tokens: torch.Tensor) -> torch.Tensor:
    logits = gpt(tokens[:, :-1].long())
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].long().flatten())


def train_plainly(
    start: State, training: TrainingConfig, steps: int, batch: Batches, bf16: bool
) -> tuple[Weights, list[float]]:
    gpt = GPT(MODEL)
    gpt.load_state_dict(start["weights"])
    matrices = [p for p in gpt.parameters() if p.dim() >= 2]
    gains = [p for p in gpt.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": training.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
    )
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = float(compute_learning_rate(training, torch.tensor(step)))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = compute_loss(gpt, batch(step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), training.clip_norm)
        optimiser.step()
        losses.append(float(loss.detach()))
    return {name: p.detach() for name, p in gpt.named_parameters()}, losses


def train_exactly(
    start: State, training: TrainingConfig, steps: int, batch: Batches, digits: int, threads: int
) -> tuple[Weights, list[float]]:
    program = trace(make_training_step(MODEL, training), (start, batch(0)), digits=digits)
    state, losses = start, []
    for step in range(steps):
        state, metrics = run(program, (state, batch(step)), backend="cpu", threads=threads)
        losses.append(float(metrics["loss"]))
    return state["weights"], losses


def held_out_loss(weights: Weights, batch: Batches) -> float:
    gpt = GPT(MODEL)
    gpt.load_state_dict(weights)
    with torch.no_grad():
        return statistics.mean(float(compute_loss(gpt, batch(i))) for i in range(HELD_OUT_BATCHES))


def read_log(path: Path) -> dict[tuple[int, str], tuple[float, float]]:
    """(seed, kind) → (training loss, held-out loss) of what an earlier call with the same options finished."""
    lines = path.read_text().splitlines() if path.exists() else []
    parts = [line.replace(":", "").split() for line in lines]
    return {(int(seed), kind): (float(trained), float(held)) for _, seed, kind, trained, held, *_ in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = machine.describe()
    train, held_out = read_source()
    training = TrainingConfig(batch=BATCH, learning_rate=3e-3, warmup_steps=50, total_steps=options.steps)
    last = min(50, options.steps)
    done = read_log(options.log) if options.log else {}
    for seed in range(options.seeds):
        missing = [kind for kind in KINDS if (seed, kind) not in done]
        if not missing:
            continue
        start = run_genesis(trace_genesis(MODEL), Seed(bytes([seed]) * 32))
        batch = batches_of(train, seed)
        for kind in missing:
            began = time.perf_counter()
            if kind.startswith("d="):
                weights, losses = train_exactly(start, training, options.steps, batch, int(kind[2:]), options.threads)
            else:
                weights, losses = train_plainly(start, training, options.steps, batch, kind == "bf16")
            result = (statistics.mean(losses[-last:]), held_out_loss(weights, batches_of(held_out, -1)))
            done[seed, kind] = result
            line = f"seed {seed} {kind}: {result[0]:.4f} {result[1]:.4f} ({time.perf_counter() - began:.0f} s)"
            print(line, flush=True)
            if options.log:
                with options.log.open("a") as log:
                    log.write(line + "\n")
    found = {kind: [done[seed, kind] for seed in range(options.seeds)] for kind in KINDS}

    lines = [
        f"Final losses in nats a byte after {options.steps} steps, Python's standard library as bytes "
        f"({len(train):,} to train on, {len(held_out):,} held out)",
        f"GPT: {MODEL}",
        f"AdamW, batch {BATCH}, {training.learning_rate} peak, cosine to a tenth, clip 1; {options.seeds} seeds; in a "
        "seed the same weights to start from, the same batches in the same order",
        f"training: mean of the last {last} steps; held out: {HELD_OUT_BATCHES} batches, evaluated in fp32",
        f"machine: {where}, torch {torch.__version__}",
        f"command: python benchmarks/losses.py --steps {options.steps} --seeds {options.seeds}",
        "",
        "           training  held out   held out - fp32 (mean; each seed)",
    ]
    for kind in KINDS:
        trained, held = (statistics.mean(pair[i] for pair in found[kind]) for i in (0, 1))
        apart = [pair[1] - base[1] for pair, base in zip(found[kind], found["fp32"], strict=True)]
        each = " ".join(f"{difference:+.4f}" for difference in apart)
        lines.append(f"{kind:9}  {trained:8.4f}  {held:8.4f}   {statistics.mean(apart):+.4f}; {each}")
    if options.seeds > 1:
        spread = statistics.stdev(held for _, held in found["fp32"])
        lines += [
            "",
            f"for scale: the held-out loss in fp32 differs between seeds by {spread:.4f} (standard deviation)",
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
