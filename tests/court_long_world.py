"""A run whose merge has long elements of every operation that may, and liars whose sums agree with their lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from court_world import MERGE, CourtWorld, Dispute, Lie, hold, make_court, values_of

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation, TensorType
from cupel.protocol.disputes import HeldProver, Prover, Sums, terms
from cupel.protocol.disputes.game import Challenge, Defence, StepHeld
from cupel.protocol.disputes.openings import Reader, Whole
from cupel.protocol.proceedings import Move, Position, Stage
from cupel.protocol.program import Program
from cupel.protocol.program.structure import Structure

F32, I16, I32, I64 = DType.FLOAT32, DType.INT16, DType.INT32, DType.INT64
LONG = 20_000
"""Terms of most elements: more than a judge takes at once."""
HUGE = (1 << 20) + 3_000
"""More than 1,024 blocks of 1,024."""
MANY = 17_000
"""Positions of INDEX_ADD: more than 1,024 blocks of 16."""
PLACES = 1_500
WRONG = hashlib.sha256(b"wrong").digest()


@cache
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=dtype)

    return {
        "huge": floats(1, HUGE),
        "i": whole(-(1 << 62), 1 << 62, 2, LONG),
        "index": whole(0, 3, MANY),
        "into": whole(0, 4, 2, LONG),
        "left": whole(-8192, 8193, 1, HUGE, dtype=torch.int16),
        "one": torch.tensor([3], dtype=torch.int32),
        "old": floats(3, 2),
        "plane": whole(-1024, 1024, 2, LONG, dtype=torch.int16),
        "right": whole(-8192, 8193, 1, HUGE, dtype=torch.int16),
        "scales": whole(-170, 120, LONG, dtype=torch.int32),
        "small": floats(2, 3),
        "source": floats(MANY, 2),
        "two": torch.tensor([4, -1], dtype=torch.int32),
        "x": floats(2, LONG),
    }


_OPERATIONS: dict[str, tuple[Opcode, tuple[str, ...], TensorType, tuple[int, ...]]] = {
    "argmax": (Opcode.ARGMAX, ("x",), TensorType(I64, (2,)), ()),
    "argmin": (Opcode.ARGMIN, ("x",), TensorType(I64, (2,)), ()),
    "cumsum": (Opcode.CUMSUM, ("i",), TensorType(I64, (2, LONG)), ()),
    "dot": (Opcode.DOT, ("one", "one", "left", "right"), TensorType(F32, (1, 1)), (2,)),
    "dot_rows": (Opcode.DOT_ROWS, ("two", *("plane",) * 4), TensorType(F32, (2, 2)), (3,)),
    "exponent": (Opcode.EXPONENT, ("x",), TensorType(I32, (2,)), ()),
    "index_add": (Opcode.INDEX_ADD, ("old", "index", "source"), TensorType(F32, (3, 2)), ()),
    "max": (Opcode.MAX, ("x",), TensorType(F32, (2,)), ()),
    "min": (Opcode.MIN, ("i",), TensorType(I64, (2,)), ()),
    "scaled": (Opcode.EXPONENT_SCALED, ("x", "scales"), TensorType(I32, (2,)), ()),
    "scatter": (Opcode.SCATTER, ("small", "into", "x"), TensorType(F32, (2, 3)), (1,)),
    "sort": (Opcode.SORT, ("x",), TensorType(I64, (2, LONG)), (0,)),
    "sum": (Opcode.SUM, ("huge",), TensorType(F32, (1,)), ()),
    "sum_of_integers": (Opcode.SUM, ("i",), TensorType(I64, (2,)), ()),
    "topk": (Opcode.TOPK, ("x",), TensorType(I64, (2, PLACES)), (PLACES,)),
}
NAMES = tuple(sorted(_OPERATIONS))
SUMMED = tuple(name for name in NAMES if _OPERATIONS[name][0] in terms.SUMMED)
NAMED = tuple(name for name in NAMES if _OPERATIONS[name][0] in terms.NAMED)
ORDERED = tuple(name for name in NAMES if _OPERATIONS[name][0] in terms.ORDERED)


@cache
def program() -> Program:
    inputs = list(state())
    operations = tuple(
        Operation(opcode, tuple(inputs.index(one) for one in operands), type_, attributes)
        for opcode, operands, type_, attributes in (_OPERATIONS[name] for name in NAMES)
    )
    first = len(inputs)
    outputs = tuple(first + i for i in range(len(NAMES)))
    graph = Graph(tuple(TensorType.of(one) for one in state().values()), (), operations, outputs)
    arguments = ["t", ["l", ["d", *([name, i] for i, name in enumerate(inputs))]]]
    made = Program(graph=graph, structure=Structure(arguments, ["d", *([name, i] for i, name in enumerate(NAMES))]))
    return Program.from_bytes(made.to_bytes())


@cache
def roots() -> tuple[bytes, ...]:
    others = (hashlib.sha256(name.encode()).digest() for name in ("step", "evaluate", "sample", "genesis"))
    return (*others, program().root)


@cache
def prover() -> Prover:
    made = Prover(program(), ([state()],), "torch")
    made.hold(range(len(made.trace.trees)))
    return made


def value_of(name: str) -> int:
    return len(state()) + NAMES.index(name)


def held(lie: Lie | None = None) -> StepHeld:
    step = hold(prover(), 4, [state()], lie)
    return replace(step, program_roots=roots())


def challenge() -> Challenge:
    return Challenge(step_roots=[], hold=lambda _: held(), prover=lambda _: prover())


def begin(lie: Lie | None) -> Dispute:
    world = make_court(roots())
    world.post_merge(world.accounts[0], held(lie).state_tree.root, [state()])
    return world.accuse(world.accounts[1], world.accounts[0], MERGE)


# ---------------------------------------------------------------- liars


@dataclass(frozen=True, eq=False)
class Fraud:
    """A value that is wrong in one element, and sums or a term that it follows from."""

    name: str
    element: int
    data: bytes
    sums: Sums | None = None
    """None: nothing is posted but the truth."""
    shift: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda parts: parts
    """What becomes of the parts of a sum."""

    @property
    def lie(self) -> Lie:
        return Lie(values={value_of(self.name): self.data}, after=lambda after: {**after, self.name: WRONG})

    @property
    def defence(self) -> Defence:
        return Fraudulent(segment=None, hold=lambda _: held(self.lie), fraud=self)

    def play(self) -> Dispute:
        dispute = begin(self.lie)
        dispute.play(self.defence, challenge())
        return dispute


@dataclass(frozen=True, kw_only=True, eq=False)
class Fraudulent(Defence):
    fraud: Fraud

    def move(self, position: Position) -> Move:
        fraud, r = self.fraud, position.reduction
        if r is None or fraud.sums is None:
            return super().move(position)
        own, value = HeldProver(self.hold(0).trace, self.hold(0).read), value_of(fraud.name)
        if position.stage == Stage.SUMS:
            sums = fraud.sums
            _, proof = own.prove_sums(*own.about(value), r.element, own.opening(value, r.element), sums)
            return Move("postSums", ((sums.exponent, list(sums.positions), list(sums.sums)), proof.to_bytes()))
        parts = own.parts(value, r.element, r.exponent, r.first, r.end)
        return Move("postParts", (list(fraud.shift(parts)),))


def readers(name: str) -> tuple[Operation, list[Reader]]:
    operation = prover().operation(value_of(name))
    tensors = [prover().result(v) for v in operation.operands]
    return operation, [Whole(TensorType.of(t), merkle.tensor_bytes(t)) for t in tensors]


def with_element(name: str, element: int, right: bytes) -> bytes:
    data, size = bytearray(values_of(prover())[value_of(name)]), len(right)
    data[element * size : (element + 1) * size] = right
    return bytes(data)


def elements(name: str) -> int:
    return prover().result(value_of(name)).numel()


def wrong_sum(name: str, element: int, place: int, amount: int, part: int = 0) -> Fraud:
    """One partial sum is too large by so much, and the element is what the sums then give."""
    right = prover().sums(value_of(name), element)
    at = place % len(right.sums)
    sums = replace(right, sums=tuple(one + amount * (i == at) for i, one in enumerate(right.sums)))
    operation, xs = readers(name)
    wrong = terms.finish(operation, xs, element, sum(sums.sums), sums.exponent)

    def shift(parts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(one + amount * (i == part % len(parts)) for i, one in enumerate(parts))

    return Fraud(name, element, with_element(name, element, wrong), sums, shift)


def wrong_term(name: str, element: int, position: int) -> Fraud:
    """A term that is one is named in place of the one that decides."""
    operation, xs = readers(name)
    sums = Sums(exponent=0, positions=(position, 0), sums=())
    return Fraud(name, element, with_element(name, element, terms.named_value(operation, xs, element, position)), sums)


def smaller_exponent(name: str, element: int, position: int) -> Fraud:
    """A term that is not the largest is named as such, with sums that agree."""
    operation, xs = readers(name)
    exponent = terms.key(terms.term_bits(operation, xs, element, position))
    honest = prover().sums(value_of(name), element)
    sums = replace(honest, exponent=exponent, positions=(position, position))
    wrong = terms.finish(operation, xs, element, sum(sums.sums), exponent)
    return Fraud(name, element, with_element(name, element, wrong), sums)


def wrong_bits(name: str, element: int, mask: int) -> Fraud:
    """No sums and no term give it: nothing can be posted."""
    size = prover().result(value_of(name)).element_size()
    data = values_of(prover())[value_of(name)][element * size : (element + 1) * size]
    wrong = (int.from_bytes(data, "little") ^ mask % (1 << 8 * size)).to_bytes(size, "little")
    return Fraud(name, element, with_element(name, element, wrong))


def gas_of(world: CourtWorld) -> Mapping[str, int]:
    return {move: max(gas) for move, gas in world.gas_of.items()}


ONE_OF_EACH: dict[str, Callable[[], Fraud]] = {
    "cumsum": lambda: wrong_sum("cumsum", 30_000, 3, 77),
    "dot": lambda: wrong_sum("dot", 0, 1, 1 << 40, 2),
    "dot_rows": lambda: wrong_sum("dot_rows", 2, 5, 1 << 40),
    "index_add": lambda: wrong_sum("index_add", 3, 1, 1 << 25, 7),
    "sum": lambda: wrong_sum("sum", 0, 0, 1 << 27, 3),
    "sum_of_integers": lambda: wrong_sum("sum_of_integers", 1, 7, -5),
    "exponent": lambda: wrong_term("exponent", 1, 3),
    "max": lambda: wrong_term("max", 1, 17),
    "min": lambda: wrong_term("min", 0, 5),
    "scaled": lambda: wrong_term("scaled", 1, 4),
    "scatter": lambda: wrong_term("scatter", 4, LONG),
    "argmax": lambda: wrong_bits("argmax", 1, 4),
    "argmin": lambda: wrong_bits("argmin", 1, 1 << 40),
    "sort": lambda: wrong_bits("sort", 100, 3),
    "topk": lambda: wrong_bits("topk", 1700, 3),
}
"""A lie for every operation, and all that can be done to make it look right."""
