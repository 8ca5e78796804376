#!/usr/bin/env python3
"""What it costs to have elements of a real training step judged: whole transactions on py-evm, and their bytes.

    python benchmarks/gas_disputes.py               the demo's step: the longest rows of every opcode, and 40 others
    python benchmarks/gas_disputes.py --more 200    so many others

Every proof is judged right as the honest trace has it, and wrong with one bit of its element flipped; any other verdict
ends the run with an error. An element of more terms than are judged at once goes by partial sums. Last, a lie in an
element of 10,000 to a million terms of every operation is played in a court; the run ends with an error unless all
convict.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from court_long_world import NAMES, ONE_OF_EACH, gas_of, value_of
from court_long_world import prover as long_prover
from machine import describe
from referee_world import Liar, Referee, changed, deployed, found_in, prover_of_case, tell_lie

from cupel.protocol import merkle
from cupel.protocol.arithmetic.cases import Case
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.disputes import Block, Prover, terms
from cupel.protocol.disputes.reducing import DIRECT_SOURCES, DIRECT_TERMS, direct_terms
from cupel.protocol.program import trace
from cupel.protocol.training.model import ModelConfig, weight_shapes
from cupel.protocol.training.step import TrainingConfig, make_training_step

Row = tuple[str, str, int, int]
"""Opcode, what was sent, gas, bytes."""


def demo_prover(seed: int) -> Prover:
    model, training = ModelConfig.demo(), TrainingConfig.demo()
    made = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=made) / 50 for name, shape in weight_shapes(model).items()}
    moments = {name: torch.randn(w.shape, generator=made) / 1000 for name, w in weights.items()}
    state = {
        "weights": weights,
        "adam_m": moments,
        "adam_v": {name: m * m for name, m in moments.items()},
        "step": torch.tensor(70),
    }
    tokens = torch.randint(model.vocabulary, (training.batch, model.context + 1), generator=made)
    program = trace(make_training_step(model, training), (state, tokens))
    return Prover(program, (state, tokens))


def chosen(prover: Prover, more: int, lot: random.Random) -> list[int]:
    """Values: of every opcode the operation with the largest operands, and others."""
    graph = prover.program.graph
    first = len(graph.inputs) + len(graph.constants)
    by_code: dict[Opcode, list[tuple[int, int]]] = defaultdict(list)
    for index, operation in enumerate(graph.operations):
        size = sum(graph.type_of(v).shape[-1] if graph.type_of(v).shape else 1 for v in operation.operands)
        by_code[operation.opcode].append((size, first + index))
    largest = {max(places)[1] for places in by_code.values()}
    others = [first + i for i in range(len(graph.operations)) if first + i not in largest]
    return sorted({*largest, *lot.sample(others, min(more, len(others)))})


def measure(referee: Referee, prover: Prover, value: int, element: int) -> Iterator[Row]:
    """Every transaction that an honest and a wrong claim of this element may need."""
    op, right = prover.operation(value), prover.result(value)
    honest = Liar(prover.trace, value, merkle.tensor_bytes(right))
    wrong = tell_lie(prover.trace, value, changed(right, element, 1))
    shape = " ".join(str(prover.program.graph.type_of(v)) for v in op.operands)[:60]
    counted = op.opcode in terms.SUMMED
    limit = direct_terms(op) - (op.opcode == Opcode.INDEX_ADD)  # and the old value
    count = terms_of(prover, value) if counted else 0
    if count <= limit:
        for party, verdict in ((honest, True), (wrong, False)):
            claim, proof = prover.prove(found_in(party.trace, value), party.tree.root, element, party.opening(element))
            check(referee.judge(claim, proof) is verdict, op.opcode, value, element)
        yield op.opcode.name, f"{shape}: element", *referee.send("judge", claim, proof)
        return
    sums = prover.sums(value, element)
    for party, verdict in ((honest, True), (wrong, False)):
        about = (found_in(party.trace, value), party.tree.root, element)
        claim, proof = prover.prove_sums(*about, party.opening(element), sums)
        check(referee.ask("judgeSums", claim, sums, proof) is verdict, op.opcode, value, element)
    yield op.opcode.name, f"{shape}: {len(sums.sums)} sums", *referee.send("judgeSums", claim, sums, proof)
    worst: Row | None = None
    size = terms.block_terms(op)
    total = count + (op.opcode == Opcode.INDEX_ADD)  # and the old value
    for at in sorted({0, len(sums.sums) // 2, len(sums.sums) - 1}):
        block = Block(first=at * size, end=min(at * size + size, total), exponent=sums.exponent, total=sums.sums[at])
        claim, proof = prover.prove_block(*about, block)
        check(referee.ask("judgeBlock", claim, block, proof), op.opcode, value, element)
        row = (op.opcode.name, f"{shape}: block", *referee.send("judgeBlock", claim, block, proof))
        worst = row if worst is None or row[2] > worst[2] else worst
    if worst is not None:
        yield worst


def terms_of(prover: Prover, value: int) -> int:
    """Terms of a summed operation's elements, at most."""
    op = prover.operation(value)
    if op.opcode == Opcode.CUMSUM:
        return op.result.shape[-1]
    last = prover.program.graph.type_of(op.operands[1 if op.opcode == Opcode.INDEX_ADD else -1])
    return last.shape[-1]


def long_rows() -> Iterator[Prover]:
    """The longest rows that are judged at once, and blocks of INDEX_ADD whose positions are leaves of their own."""
    made = torch.Generator().manual_seed(3)
    q = [torch.randint(-1024, 1025, (1, DIRECT_TERMS), generator=made).to(torch.int16) for _ in range(4)]
    e, row = torch.zeros(1, dtype=torch.int32), torch.randn(1, DIRECT_TERMS, generator=made)
    whole = torch.randint(-1000, 1000, (1, DIRECT_TERMS), generator=made)
    for opcode, operands, type_, attributes in (
        (Opcode.DOT, (e, e, *q), TensorType(DType.FLOAT32, (1, 1)), (3,)),
        (Opcode.SUM, (row,), TensorType(DType.FLOAT32, (1,)), ()),
        (Opcode.CUMSUM, (whole,), TensorType(DType.INT64, (1, DIRECT_TERMS)), ()),
        (Opcode.MAX, (row,), TensorType(DType.FLOAT32, (1,)), ()),
        (Opcode.ARGMIN, (row,), TensorType(DType.INT64, (1,)), ()),
        (Opcode.SORT, (row,), TensorType(DType.INT64, (1, DIRECT_TERMS)), (0,)),
        (Opcode.EXPONENT, (row,), TensorType(DType.INT32, (1,)), ()),
        (Opcode.EXPONENT_SCALED, (row, e.expand(DIRECT_TERMS).contiguous()), TensorType(DType.INT32, (1,)), ()),
        (
            Opcode.SCATTER,
            (row[:, :3].contiguous(), torch.full((1, DIRECT_SOURCES), -1), row[:, :DIRECT_SOURCES].contiguous()),
            TensorType(DType.FLOAT32, (1, 3)),
            (1,),
        ),
        (
            Opcode.INDEX_ADD,
            (torch.zeros(1, 1), torch.zeros(DIRECT_SOURCES - 1, dtype=torch.int64), row[0, 1:DIRECT_SOURCES, None]),
            TensorType(DType.FLOAT32, (1, 1)),
            (),
        ),
        (
            Opcode.INDEX_ADD,
            (torch.zeros(1, 1024), torch.zeros(1100, dtype=torch.int64), torch.randn(1100, 1024, generator=made)),
            TensorType(DType.FLOAT32, (1, 1024)),
            (),
        ),
    ):
        yield prover_of_case(Case("", opcode, operands, type_, attributes))


def play_long() -> None:
    """A dispute about a long element of every operation."""
    title = "In court, a lie in a long element of every operation"
    print(
        f"\n{title}\n\n{'operation':16} {'terms':>10} {'dearest':>9}  {'all moves':>10}  moves behind the opened leaf"
    )
    for name in NAMES:
        fraud = ONE_OF_EACH[name]()
        dispute = fraud.play()
        if dispute.ended is None or dispute.ended[0] != "Convicted":
            raise SystemExit(f"{name}: a liar stands")
        gas = {move: one for move, one in gas_of(dispute.world).items() if move not in ("postMerge", "announce")}
        moves = dispute.moves[dispute.moves.index("openLeaf") + 1 :]
        behind = ", ".join(f"{move} {gas[move]:,}" for move in moves)
        r = dispute.position.reduction
        terms_ = "" if r is None else f"{fraud_terms(name, fraud.element):,}"
        print(f"{name:16} {terms_:>10} {max(gas.values()):9,}  {sum(gas.values()):10,}  {behind}", flush=True)


def fraud_terms(name: str, element: int) -> int:
    return long_prover().count_terms(value_of(name), element)


def check(holds: bool, opcode: Opcode, value: int, element: int) -> None:
    if not holds:
        raise SystemExit(f"wrong verdict: {opcode.name}, value {value}, element {element}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--more", type=int, default=40, help="operations by lot")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    lot, begun = random.Random(arguments.seed), time.process_time()
    referee, rows = deployed(), list[Row]()
    print(describe(), flush=True)
    prover = demo_prover(arguments.seed)
    values = chosen(prover, arguments.more, lot)
    operands = {operand for value in values for operand in prover.operation(value).operands}
    prover.hold({*values, *operands})
    for value in values:
        elements = prover.result(value).numel()
        for element in {lot.randrange(elements), elements - 1} if elements else ():
            rows += measure(referee, prover, value, element)
    table(rows, f"The demo's step: {len(values)} of {len(prover.program.operations)} operations")
    rows = []
    for other in long_rows():
        value = len(other.trace.trees) - 1
        rows += measure(referee, other, value, other.result(value).numel() - 1)
    table(
        rows,
        f"Rows of {DIRECT_TERMS:,} terms ({DIRECT_SOURCES:,} of SCATTER and INDEX_ADD), the longest judged at once",
    )
    play_long()
    print(f"{time.process_time() - begun:.0f} s of processor time")


def table(rows: list[Row], title: str) -> None:
    """The dearest transaction of each opcode and kind."""
    dearest: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row[0], row[1].rsplit(" ", 1)[1])
        if key not in dearest or row[2] > dearest[key][2]:
            dearest[key] = row
    print(f"\n{title}\n\n{'operation':16} {'gas':>9} {'bytes':>7}  dearest of {len(rows)} transactions")
    for name, what, gas, size in sorted(dearest.values(), key=lambda row: -row[2]):
        print(f"{name:16} {gas:9,} {size:7,}  {what}")


if __name__ == "__main__":
    main()
