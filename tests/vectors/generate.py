"""Writes the golden vectors next to this file, and the package's self-test: `python tests/vectors/generate.py`.

Everything comes from the definition (`reference.py`, `hashing.py`, `philox.py`) and fixed inputs. A change to any of
these files is a change of the protocol: what is stored may be added to, but is changed only with `--replace`. Numbers
in `data` are little-endian hex, row-major; hashes are plain hex.

arithmetic.json  one case an operation and type: opcode, attributes, operands and result as [dtype, shape, data]
opcodes.json     the numbers of opcodes and element types
roots.json       trees with a proof of every leaf, tensor and state roots, leaves of a unit's tree, unit ids
philox.json      blocks, keys, 64-bit words, draws and batch positions
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cupel.protocol import hashing, merkle, philox, sampling
from cupel.protocol.arithmetic import cases, engines, reference, steps
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.program import trace
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.types import Address, Root, RoundIndex, Salt, Seed, UnitId

HERE = Path(__file__).parent
SELF_TEST = HERE.parents[1] / "protocol" / "arithmetic" / engines.SELF_TEST
STEP_PROGRAM = SELF_TEST.with_name(steps.PROGRAM)
SEED, SIZE, STEP_SEED = 1, 24, 3
STEP_MODEL = ModelConfig(vocabulary=67, width=24, layers=2, heads=2, hidden=40, context=13)
STEP_TRAINING = TrainingConfig(batch=3, learning_rate=1e-2, warmup_steps=4, total_steps=40)


def tensor_entry(tensor: torch.Tensor) -> list[Any]:
    type_ = TensorType.of(tensor)
    return [int(type_.dtype), list(type_.shape), merkle.tensor_bytes(tensor).hex()]


def arithmetic() -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "opcode": int(case.opcode),
            "attributes": list(case.attributes),
            "operands": [tensor_entry(t) for t in case.operands],
            "result": tensor_entry(reference.evaluate(case.operation, case.operands)),
        }
        for case in cases.all_cases(SEED, SIZE)
    ]


def opcodes() -> dict[str, dict[str, int]]:
    return {"opcodes": {o.name: int(o) for o in Opcode}, "dtypes": {d.name: int(d) for d in DType}}


def leaves(n: int) -> list[bytes]:
    return [hashing.sha256(bytes([i])) for i in range(n)]


def tree(n: int) -> dict[str, Any]:
    paths = [hashing.proof(leaves(n), i) for i in range(n)]
    return {"count": n, "root": hashing.tree_root(leaves(n)).hex(), "proofs": [[h.hex() for h in p] for p in paths]}


def root_tensors() -> list[torch.Tensor]:
    words = cases.Words(7)
    shapes: dict[DType, Sequence[tuple[int, ...]]] = {
        DType.FLOAT32: [(), (0,), (3, 0, 2), (5,), (1024,), (1025,), (3, 700)],
        DType.INT64: [(2, 600)],
        DType.BOOL: [(2, 3)],
    }
    tensors = []
    for dtype in DType:
        for shape in shapes.get(dtype, [(33,)]):
            count = TensorType(dtype, shape).elements
            tensors.append(cases.tensor_of(words.values(count, dtype), dtype, shape))
    return tensors


def roots() -> dict[str, Any]:
    state = {name: torch.tensor([float(i)]) for i, name in enumerate(("b", "a", "a.b", "a/b", "ä", "step"))}
    a, b = Root(leaves(2)[0]), Root(leaves(2)[1])
    salt = Salt(bytes(range(32)))
    unit_arguments = [
        (1, "0x" + "00" * 20, 0, "0x" + "ff" * 20, 0),
        (31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3", 7, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", 3),
        ((1 << 256) - 1, "0x" + "ab" * 20, (1 << 64) - 1, "0x" + "01" * 20, 255),
    ]
    return {
        "leaf": [{"data": d.hex(), "hash": hashing.leaf_hash(d).hex()} for d in (b"", b"cupel", bytes(4096))],
        "tree_leaves": [h.hex() for h in leaves(13)],
        "trees": [tree(n) for n in range(14)],
        "tensors": [{"tensor": tensor_entry(t), "root": merkle.tensor_root(t).hex()} for t in root_tensors()],
        "state": {name: tensor_entry(t) for name, t in state.items()},
        "state_root": merkle.state_root(state).hex(),
        "operation_leaf": {
            "encoding": "03102030",
            "output": a.hex(),
            "leaf": hashing.operation_leaf(bytes.fromhex("03102030"), a).hex(),
        },
        "evidence": {
            "loss": "0000803f",
            "gradient_norm": "db0f4940",
            "salt": salt.hex(),
            "hash": hashing.evidence(bytes.fromhex("0000803f"), bytes.fromhex("db0f4940"), salt).hex(),
        },
        "checkpoint_leaf": {"state": a.hex(), "evidence": b.hex(), "leaf": hashing.checkpoint_leaf(a, b).hex()},
        "contribution_leaf": {"root": a.hex(), "leaf": hashing.contribution_leaf(a).hex()},
        "unit_ids": [
            {
                "chain_id": str(chain),
                "contract": contract,
                "round": str(round_),
                "miner": miner,
                "index": index,
                "id": hashing.unit_id(chain, Address(contract), RoundIndex(round_), Address(miner), index).hex(),
            }
            for chain, contract, round_, miner, index in unit_arguments
        ],
    }


def random_numbers() -> dict[str, Any]:
    published = [
        ((0, 0), (0, 0, 0, 0)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF,) * 4),
        ((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)),
    ]
    seed, unit = Seed(hashing.sha256(b"seed")), UnitId(hashing.sha256(b"unit"))
    key = sampling.philox_key(seed, "batch", unit)
    words = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1 << 32, 3, 9), ((1 << 40) + 5, 0xFFFFFFFF, 0xFFFFFFFF)]
    arguments = (12, 8, 5, 4096, 65)
    return {
        "blocks": [{"key": k, "counter": c, "words": philox.block(k, c)} for k, c in published],
        "keys": [
            {"seed": seed.hex(), "domain": domain, "unit": u.hex(), "key": str(sampling.philox_key(seed, domain, u))}
            for domain, u in (("batch", unit), ("genesis", b""))
        ],
        "words": [
            {"key": str(key), "index": str(i), "stream": s, "step": t, "word": str(philox.word64(key, i, s, t))}
            for i, s, t in words
        ],
        "draws": [
            {"key": str(key), "index": 4, "stream": 2, "step": 6, "n": str(n), "draw": str(draw)}
            for n in (1, 2, 10, (1 << 32) + 1, 1 << 63)
            for draw in (sampling.draw_below(key, 4, 2, 6, n),)
        ],
        "batch": {
            "seed": seed.hex(),
            "unit": unit.hex(),
            "step, sequences, shards, shard_tokens, tokens_per_sequence": arguments,
            "positions": sampling.batch_positions(seed, unit, *arguments),
        },
    }


def self_test(training: dict[str, Any]) -> dict[str, Any]:
    results = engines.self_test_hashes("reference", SEED, SIZE)
    return {"seed": SEED, "size": SIZE, "results": results, "training": training}


def step_program() -> bytes:
    """The training step of the self-test as PyTorch traces it today; what is stored stays as it was traced."""
    tokens = torch.zeros((STEP_TRAINING.batch, STEP_MODEL.context + 1), dtype=torch.int32)
    return trace(make_training_step(STEP_MODEL, STEP_TRAINING), (example_state(STEP_MODEL), tokens)).to_bytes()


def training() -> dict[str, Any]:
    """Twenty steps on the definition, which takes a minute; torch has to agree."""
    hashes, torches = (
        list(itertools.islice(engines.step_hashes(backend, STEP_SEED), steps.COUNT))
        for backend in ("reference", "torch")
    )
    if hashes != torches:
        sys.exit("reference and torch walk different steps: one of them is wrong, and nothing is written")
    return {"program": steps.program().root.hex(), "seed": STEP_SEED, "steps": hashes}


def files(training: dict[str, Any]) -> dict[Path, str]:
    """Every file with its content; `training` is what the self-test stores of the steps."""

    def rows(entries: list[dict[str, Any]]) -> str:
        return "[\n" + ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries) + "\n]\n"

    return {
        HERE / "arithmetic.json": rows(arithmetic()),
        HERE / "opcodes.json": json.dumps(opcodes(), indent=1) + "\n",
        HERE / "roots.json": json.dumps(roots(), indent=1, ensure_ascii=True) + "\n",
        HERE / "philox.json": json.dumps(random_numbers(), indent=1) + "\n",
        SELF_TEST: json.dumps(self_test(training), indent=1) + "\n",
    }


def changes(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """What of `old` is missing or other in `new`; additions at the end are none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            if name in new:
                yield from changes(value, new[name], f"{where}/{name}")
            else:
                yield f"{where}/{name} is gone"
    elif isinstance(old, list) and isinstance(new, list):
        for i, value in enumerate(old[: len(new)]):
            yield from changes(value, new[i], f"{where}/{i}")
        if len(new) < len(old):
            yield f"{where} has {len(new)} entries instead of {len(old)}"
    elif old != new:
        yield f"{where} is other"


def write(contents: dict[Path, str], *, replace: bool) -> list[str]:
    """Write the files, unless something stored would change and `replace` does not allow it; what would."""
    changed = [
        f"{path.name}{change}"
        for path, text in contents.items()
        if path.exists()
        for change in changes(json.loads(path.read_text()), json.loads(text))
    ]
    if replace or not changed:
        for path, text in contents.items():
            path.write_text(text)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden vectors and the package's self-test.")
    parser.add_argument("--replace", action="store_true", help="change what is stored: a change of the protocol")
    options = parser.parse_args()
    if not STEP_PROGRAM.exists():
        STEP_PROGRAM.write_bytes(step_program())
    contents = files(training())
    changed = write(contents, replace=options.replace)
    for change in changed:
        print(change)
    if changed and not options.replace:
        sys.exit(
            f"nothing written: {len(changed)} stored values would change, and with them the protocol. "
            "Mend the code, or, if it is meant, add --replace"
        )
    for path, content in contents.items():
        print(f"{path.name}: {len(content)} bytes")


if __name__ == "__main__":
    main()
