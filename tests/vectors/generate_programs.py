"""Writes programs.json next to this file: `python tests/vectors/generate_programs.py`.

Bytes, root, results and trace of a tiny Program, and the roots of every Program of a tiny run and of the states it goes
through, all computed on the definition. A change to this file is a change of the protocol, or of what PyTorch traces.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from program_examples import TINY_RUN, arguments, batch, named, tiny  # noqa: E402

from cupel.protocol import merkle  # noqa: E402
from cupel.protocol.program import run, trace  # noqa: E402
from cupel.protocol.training.programs import RunPrograms  # noqa: E402
from cupel.protocol.training.unit import float_bits  # noqa: E402
from cupel.protocol.types import Seed  # noqa: E402


def tiny_entry() -> dict[str, Any]:
    program = trace(tiny, arguments())
    result, traced = run(program, arguments(), backend="reference", trace=True)
    return {
        "bytes": program.to_bytes().hex(),
        "root": program.root.hex(),
        "result": {name: merkle.tensor_root(tensor).hex() for name, tensor in named(result).items()},
        "trace": [root.hex() for root in traced.operation_roots],
    }


def run_entry() -> dict[str, Any]:
    programs = RunPrograms.build(TINY_RUN)
    start = programs.run_genesis(Seed(bytes(range(32))), backend="reference")
    state, steps = start, []
    for seed in range(2):
        stepped = programs.run_step(state, batch(seed), backend="reference")
        state = dict(stepped.state)
        evidence = [float_bits(stepped.loss).hex(), float_bits(stepped.gradient_norm).hex()]
        steps.append([merkle.state_root(state).hex(), *evidence])
    merged = programs.run_merge([start, state], backend="reference")
    return {
        "programs": {name: program.root.hex() for name, program in programs.by_name.items()},
        "programs_root": programs.root.hex(),
        "genesis": merkle.state_root(start).hex(),
        "steps": steps,
        "merged": merkle.state_root(merged).hex(),
    }


if __name__ == "__main__":
    text = json.dumps({"tiny": tiny_entry(), "run": run_entry()}, indent=1)
    (HERE / "programs.json").write_text(text + "\n")
