"""Models people bring: Hugging Face families whose whole training step traces, and the page that shows how.

All families, two layers, both engines: `python benchmarks/models.py`. Here each has one layer, and one runs on both.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program import run, trace
from cupel.protocol.training.modules import make_step, own_loss
from cupel.protocol.training.optimisers import AdamW

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from models import FAMILIES, build, compare  # noqa: E402

PAGE = ROOT / "docs" / "engineers" / "bring-your-model.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORTED = "from cupel.protocol.program import run, trace\n"
WITH_TORCH = (
    "from cupel.protocol.program import run as run_on, trace; run = lambda *args: run_on(*args, backend='torch')\n"
)
"""What is changed of the page: the engine that compiles nothing, because compiling ten Programs takes half a minute."""
BOTH_ENGINES = ("Llama",)
ONE_ENGINE = ("GPT2", "Mixtral")


@pytest.mark.parametrize("family", [*BOTH_ENGINES, *ONE_ENGINE])
def test_a_familys_step_traces_and_trains_as_plain_pytorch_does(family: str) -> None:
    engines = ("cpu", "torch") if family in BOTH_ENGINES else ("torch",)
    outcome = compare(build(family, layers=1), steps=2, engines=engines)
    assert outcome.same_bits
    assert outcome.furthest < 2e-3
    assert outcome.losses[1] < outcome.losses[0]


def test_a_models_own_loss_and_dropout_are_in_the_program() -> None:
    model = build("GPT2", layers=1, resid_pdrop=0.1, attn_pdrop=0.1, embd_pdrop=0.1).train()
    step = make_step(model, own_loss, AdamW(learning_rate=1e-3), dropout_seed=b"seed")
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": tokens, "labels": torch.where(tokens > 50, -100, tokens)}
    program = trace(step, (step.initial_state(), batch))
    dropped = [op for op in program.operations if op.opcode == Opcode.PHILOX]
    assert len(dropped) == 4  # embeddings, attention's weights, after attention, after the feed-forward layer
    evaluate = trace(step.evaluate, (step.initial_state()["weights"], batch))
    got = run(evaluate, (step.initial_state()["weights"], batch), backend="torch")
    torch.testing.assert_close(got, model.eval()(**batch).loss.detach(), rtol=1e-3, atol=1e-3)


def test_experts_found_by_a_loop_over_values_are_refused_with_the_line() -> None:
    model = build("Mixtral", layers=1, experts_implementation="eager")
    step = make_step(model, own_loss, AdamW(learning_rate=1e-3))
    tokens = torch.zeros((1, 4), dtype=torch.int64)
    with pytest.raises(UnsupportedOperation, match=r"would depend on a tensor's values(.|\n)*modeling_mixtral.py:\d+"):
        trace(step, (step.initial_state(), {"input_ids": tokens, "labels": tokens}))


# The page


def test_every_block_of_the_page_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    blocks = [(text[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(text)]
    assert len(blocks) == text.count("```python")
    names: dict[str, object] = {}
    assert blocks[0][1].count(IMPORTED) == 1
    for line, block in blocks:
        block = block.replace(IMPORTED, WITH_TORCH)
        # Blank lines before it, so that an error names the page's own line.
        exec(compile(ast.parse("\n" * line + block, str(PAGE)), str(PAGE), "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("<Program 0x")
    losses = [float(line.split()[0]) for line in printed[1:4]]
    assert losses[0] > losses[1] > losses[2]
    assert re.fullmatch("[0-9a-f]{64}", printed[4])
    refused = text[: text.index("torch.cumsum(x, 0)")].count("\n") + 1
    assert printed[5].startswith("aten.cumsum of floats: a floating running sum has no order-free meaning")
    assert f"{PAGE.name}:{refused}, in <lambda>" in printed[6]


def test_the_families_the_page_names_are_those_the_benchmark_runs() -> None:
    named = PAGE.read_text().split("## What traces")[1].split("engines:")[1].split("([results]")[0].split(",")
    assert sorted(re.sub("[^a-z0-9]", "", name.lower()) for name in named) == sorted(name.lower() for name in FAMILIES)
