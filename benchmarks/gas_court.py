#!/usr/bin/env python3
"""Gas of deploying a court and of every move of a dispute, whole transactions (calldata included), on py-evm.

    python benchmarks/gas_court.py             print the table
    python benchmarks/gas_court.py --write     and write contracts/gas-snapshot-court.json

The step of tests/court_world.py: 116 operations, states of six tensors, two segments of two steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from contract_world import empty_world
from court_world import (
    UNIT,
    CourtWorld,
    Lie,
    Unit,
    challenge_of,
    deploy_court,
    make_court,
    prover_of_step,
    step_program,
    values_of,
)

from cupel.protocol.arithmetic.operations import Opcode

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "contracts" / "gas-snapshot-court.json"
TRANSACTION_LIMIT = 1 << 24
WRONG = b"\1" * 32


def measure() -> dict[str, int]:
    """Gas by move, the most of what was seen; and by whole game and side."""
    program = step_program()
    first = len(program.graph.inputs) + len(program.graph.constants)
    dot = first + [op.opcode for op in program.operations].index(Opcode.DOT)
    tokens = len(program.graph.inputs) - 1

    def spoil(after: dict[str, bytes]) -> dict[str, bytes]:
        return {**after, "weights.out": WRONG}

    def omit(after: dict[str, bytes]) -> dict[str, bytes]:
        return {**{name: root for name, root in after.items() if name != "rate"}, "zzz": WRONG}

    games = {
        "an operation": Lie(step=1, values={dot: _flip(dot)}, after=spoil),
        "the batch": Lie(step=1, values={tokens: _flip(tokens)}, after=spoil),
        "the state": Lie(step=1, after=omit),
        "nothing": None,
    }
    moves: dict[str, int] = {}
    sums: dict[str, int] = {}
    for name, lie in games.items():
        world = play(lie)
        for move, gas in world.gas_of.items():
            moves[move] = max(moves.get(move, 0), *gas)
        sums[f"a whole dispute about {name}"] = sum(
            sum(gas) for move, gas in world.gas_of.items() if move not in ("postUnit", "collect")
        )
    world = empty_world(8).fork()
    deploy_court(world)
    deployed = {name: max(gas) for name, gas in world.gas_of.items()}
    order = sorted(move for move in moves if move != "postUnit")
    return {**deployed, **{move: moves[move] for move in order}, **sums}


def play(lie: Lie | None) -> CourtWorld:
    world = make_court()
    unit = Unit(lie)
    accused, challenger = world.accounts[:2]
    world.post_unit(accused, unit)
    dispute = world.accuse(challenger, accused, UNIT)
    dispute.play(unit.defence(0), challenge_of(0))
    world.send(challenger if lie else accused, "collect")
    return world


def _flip(value: int) -> bytes:
    data = bytearray(values_of(prover_of_step(1))[value])
    data[0] ^= 1
    return bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace contracts/gas-snapshot-court.json")
    write = parser.parse_args().write
    table = measure()
    for move, gas in table.items():
        print(f"  {move:40} {gas:12,}")
    if write:
        SNAPSHOT.write_text(json.dumps(table, indent=1) + "\n")
    return 0 if max(table.values()) < TRANSACTION_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
