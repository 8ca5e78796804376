"""Hostile bytes for `Program.from_bytes`: real Programs bent by rules that know the encoding, and noise.

Every input must be refused with MalformedProgram or be a Program that encodes to the same bytes again, within a bounded
time and memory. `make fuzz` runs a million; tests/test_program_fuzz.py a short form. One seed gives one sequence.

    python tests/fuzz_program.py --inputs 1000000 --processes 2 --out benchmarks/results/fuzz_program.txt
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import MAX_ELEMENTS, DType, Opcode, Operation, TensorType
from cupel.protocol.errors import MalformedProgram
from cupel.protocol.program import Program, encoding, trace
from cupel.protocol.types import Root

SECONDS_AT_MOST = 10.0
"""For one input. The inputs are far smaller than what a node reads, so this is generous on a busy machine."""
MEGABYTES_AT_MOST = 512
"""By which a process may grow over the whole run."""

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40)
EXTREMES += ((1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


# Programs to start from


def _small_programs() -> Iterator[Program]:
    """Each group of operations once, in a Program of a few hundred bytes: most of an input's time is parsing."""
    float_23 = torch.arange(6, dtype=torch.float32).reshape(2, 3) - 2.5
    integers = torch.tensor([3, 1, 2])
    yield trace(lambda x: {"product": x @ x.T * 0.5, "sum": (x.sum(), [x.amax(-1)])}, (float_23,))
    yield trace(lambda x, i: (x[:, i], x.sort(-1).indices, x.topk(2).indices), (float_23, integers))
    yield trace(lambda x: torch.cat([x.exp(), torch.tanh(x).T.reshape(2, 3)]).clamp(-1, 1), (float_23,))
    yield trace(lambda i: [(i + 1) // 2 & 3, i.cumsum(0), (i > 1).to(torch.int32)], (integers,))
    yield trace(lambda x, i: x.index_add(0, i, torch.ones(3, 3)), (torch.zeros(4, 3), integers))
    yield trace(lambda x: x + torch.tensor([float("nan"), -0.0, 1.0]), (float_23,))
    yield trace(lambda x: {"a": x, "b": {"c": [x, None], "d": x * 2}}, (float_23,))


@cache
def corpus() -> tuple[Program, ...]:
    """Small Programs first, then a run's own: step, evaluate, genesis and merges."""
    from program_examples import TINY_RUN

    from cupel.protocol.training.programs import RunPrograms

    return (*_small_programs(), *RunPrograms.build(TINY_RUN).by_name.values())


# Inputs


@dataclass(slots=True)
class Parts:
    """A Program's bytes, cut where the encoding cuts them, free to be inconsistent."""

    counts: list[int]
    """Inputs, constants, operations and outputs, as the header announces them."""
    structure: bytes
    structure_length: int
    items: list[list[bytes]]
    """Encoded inputs, constants with their elements, operations, outputs."""
    program: Program
    version: int = encoding.VERSION

    @staticmethod
    def of(program: Program) -> Parts:
        graph = program.graph
        items = iter(program.items[1:])
        groups = [[next(items) for _ in group] for group in (graph.inputs, graph.constants)]
        groups[1] = [item + merkle.tensor_bytes(c) for item, c in zip(groups[1], graph.constants, strict=True)]
        groups += [[next(items) for _ in group] for group in (graph.operations, graph.outputs)]
        structure = program.structure.to_bytes()
        return Parts([len(group) for group in groups], structure, len(structure), groups, program)

    def restructure(self, structure: bytes) -> None:
        self.structure, self.structure_length = structure, len(structure)

    def recount(self) -> None:
        self.counts = [len(group) for group in self.items]

    def to_bytes(self) -> bytes:
        counts = [count & 0xFFFFFFFF for count in (*self.counts, self.structure_length)]
        header = struct.pack("<BHIIIII", encoding.HEADER, self.version & 0xFFFF, *counts)
        return encoding.MAGIC + header + self.structure + b"".join(item for group in self.items for item in group)


Mutation = Callable[[random.Random, Parts], None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__.lstrip("_").replace("_", " ")] = function
    return function


def _extreme(rng: random.Random, bits: int, signed: bool = False) -> int:
    value = rng.choice(EXTREMES) if rng.random() < 0.7 else rng.getrandbits(bits)
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _pick(rng: random.Random, parts: Parts, group: int) -> int | None:
    return rng.randrange(len(parts.items[group])) if parts.items[group] else None


def _type_bytes(rng: random.Random) -> bytes:
    """A tensor type with dimensions nobody has: huge, zero among huge, too many."""
    rank = rng.choice((0, 1, 2, 3, 8, 9, 255))
    sizes = (0, 1, 3, 1 << 20, 1 << 32, MAX_ELEMENTS - 1, MAX_ELEMENTS, MAX_ELEMENTS + 1, 1 << 63, (1 << 64) - 1)
    return struct.pack(
        f"<BB{rank}Q", rng.choice((0, 1, 2, 5, 7, 8, 255)), rank, *(rng.choice(sizes) for _ in range(rank))
    )


@mutation
def lying_counts(rng: random.Random, parts: Parts) -> None:
    which = rng.randrange(6)
    if which == 4:
        parts.structure_length = _extreme(rng, 32)
    elif which == 5:
        parts.version = _extreme(rng, 16)
    else:
        parts.counts[which] = rng.choice((parts.counts[which] + rng.choice((-1, 1)), _extreme(rng, 32)))


@mutation
def items_moved(rng: random.Random, parts: Parts) -> None:
    """Dropped, repeated, exchanged or put into another group; the header is right half of the time."""
    group = rng.randrange(4)
    at = _pick(rng, parts, group)
    if at is None:
        return
    items, what = parts.items[group], rng.randrange(4)
    if what == 0:
        del items[at]
    elif what == 1:
        items[at:at] = [items[at]] * rng.choice((1, 2, 50))
    elif what == 2:
        other = rng.randrange(len(items))
        items[at], items[other] = items[other], items[at]
    else:
        parts.items[rng.randrange(4)].append(items[at])
    if rng.random() < 0.5:
        parts.recount()


@mutation
def items_of_another_program(rng: random.Random, parts: Parts) -> None:
    other = rng.choice(corpus())
    group = rng.randrange(4)
    foreign = Parts.of(other).items[group] if len(other.operations) < 200 else []
    if foreign:
        start = rng.randrange(len(foreign))
        at = rng.randrange(len(parts.items[group]) + 1)
        parts.items[group][at:at] = foreign[start : start + rng.choice((1, 2, 8))]
        parts.recount()


def _operation(rng: random.Random, parts: Parts) -> tuple[int, Operation] | None:
    at = _pick(rng, parts, 2)
    operations = parts.program.operations
    return None if at is None or at >= len(operations) else (at, operations[at])


@mutation
def operands_changed(rng: random.Random, parts: Parts) -> None:
    """An operand of the future, of itself, of nowhere, or another that exists; too many, or none."""
    found = _operation(rng, parts)
    if found is None:
        return
    at, op = found
    own = len(parts.program.graph.inputs) + len(parts.program.constants) + at
    operands = list(op.operands)
    kind = rng.randrange(5)
    if kind == 0 and operands:
        operands[rng.randrange(len(operands))] = rng.choice((own, own + 1, own + 5, _extreme(rng, 32)))
    elif kind == 1 and operands and own:
        operands[rng.randrange(len(operands))] = rng.randrange(own)
    elif kind == 2:
        operands = (operands or [0]) * rng.choice((2, 3, 1000))
    elif kind == 3:
        operands = operands[:-1]
    else:
        operands.append(rng.randrange(own + 1))
    changed = Operation(op.opcode, tuple(operands[:65535]), op.result, op.attributes)
    parts.items[2][at] = encoding.encode_operation(changed)


@mutation
def opcode_changed(rng: random.Random, parts: Parts) -> None:
    found = _operation(rng, parts)
    if found is not None:
        at, _ = found
        number = int(rng.choice(list(Opcode))) if rng.random() < 0.8 else _extreme(rng, 16)
        item = parts.items[2][at]
        parts.items[2][at] = item[:1] + struct.pack("<H", number) + item[3:]


@mutation
def attributes_changed(rng: random.Random, parts: Parts) -> None:
    found = _operation(rng, parts)
    if found is None:
        return
    at, op = found
    attributes = list(op.attributes)
    if attributes and rng.random() < 0.7:
        attributes[rng.randrange(len(attributes))] = _extreme(rng, 64, signed=True)
    else:
        attributes = [_extreme(rng, 64, signed=True) for _ in range(rng.choice((0, 1, 2, 9, 255)))]
    changed = Operation(op.opcode, op.operands, op.result, tuple(attributes))
    parts.items[2][at] = encoding.encode_operation(changed)


@mutation
def result_type_changed(rng: random.Random, parts: Parts) -> None:
    found = _operation(rng, parts)
    if found is None:
        return
    at, op = found
    shape = list(op.result.shape)
    if shape and rng.random() < 0.6:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 7, 1 << 20, MAX_ELEMENTS, 1 << 62))
    else:
        shape.append(rng.choice((0, 1, 1 << 30)))
    changed = Operation(op.opcode, op.operands, TensorType(rng.choice(list(DType)), tuple(shape)), op.attributes)
    parts.items[2][at] = encoding.encode_operation(changed)


@mutation
def growing_chain(rng: random.Random, parts: Parts) -> None:
    """Well-typed operations that double a tensor again and again, past every bound: none may be allocated."""
    types = [*parts.program.graph.inputs, *map(TensorType.of, parts.program.constants)]
    types += [op.result for op in parts.program.operations]
    wide = [i for i, t in enumerate(types) if t.shape]
    if not wide or len(types) > 500:
        return
    value = rng.choice(wide)
    type_ = types[value]
    for _ in range(rng.choice((10, 45, 70))):
        doubled = TensorType(type_.dtype, (type_.shape[0] * 2, *type_.shape[1:]))
        op = Operation(Opcode.CONCAT, (value, value), doubled, (0,))
        if doubled.shape[0] >= 1 << 63:
            break
        parts.items[2].append(encoding.encode_operation(op))
        value, type_ = len(types), doubled
        types.append(doubled)
    parts.recount()


@mutation
def input_type_changed(rng: random.Random, parts: Parts) -> None:
    at = _pick(rng, parts, 0)
    if at is not None and at < len(parts.program.input_names):
        name = parts.program.input_names[at].encode()
        parts.items[0][at] = bytes([encoding.INPUT]) + _type_bytes(rng) + struct.pack("<H", len(name)) + name


def _root_of_bytes(type_: TensorType, elements: bytes) -> Root:
    """The root of a small tensor's bytes, of tensors nobody may have too."""
    leaves = [merkle.leaf_hash(elements)] if elements else []
    return merkle.tensor_root_of_tree(type_.dtype, type_.shape, len(leaves), merkle.tree_root(leaves))


@mutation
def constant_rewritten(rng: random.Random, parts: Parts) -> None:
    """Elements, NaNs, shapes and roots that fit each other or do not."""
    kind = rng.randrange(4)
    if kind == 0:
        item = bytes([encoding.CONSTANT]) + _type_bytes(rng) + rng.randbytes(32 + rng.choice((0, 4, 64)))
    elif kind == 1:
        empty = (0, *(rng.choice((1, 1 << 20, MAX_ELEMENTS)) for _ in range(rng.randrange(8))))
        type_ = TensorType(rng.choice(list(DType)), empty)
        item = encoding.encode_constant(type_, _root_of_bytes(type_, b""))
    else:
        bits = [rng.choice((0x7FC00000, 0x7F800001, 0xFFC00000, 0x3F800000, _extreme(rng, 32))) for _ in range(3)]
        elements = struct.pack("<3I", *bits)
        type_ = (
            TensorType(DType.FLOAT32, (3,)) if kind == 2 else TensorType(rng.choice((DType.BOOL, DType.INT8)), (12,))
        )
        root = _root_of_bytes(type_, elements) if rng.random() < 0.8 else Root(rng.randbytes(32))
        item = encoding.encode_constant(type_, root) + elements
    at = rng.randrange(len(parts.items[1]) + 1)
    parts.items[1][at : at + rng.randrange(2)] = [item]
    if rng.random() < 0.9:
        parts.recount()


@mutation
def output_changed(rng: random.Random, parts: Parts) -> None:
    at = _pick(rng, parts, 3)
    if at is not None and at < len(parts.program.output_names):
        values = sum(len(group) for group in parts.items[:3])
        value = rng.choice((rng.randrange(values + 2), _extreme(rng, 32)))
        name = parts.program.output_names[at] if rng.random() < 0.7 else rng.choice(("", "..", "\0", "x" * 65535, "é"))
        parts.items[3][at] = encoding.encode_output(value, name)


@mutation
def structure_changed(rng: random.Random, parts: Parts) -> None:
    """JSON that is deep, wide, not canonical, or names what is not there."""
    deep, kind = rng.choice((3, 65, 130, 2000, 40_000)), rng.randrange(9)
    structure, n = parts.structure, rng.randrange(len(parts.structure) + 1)
    pieces = (b"1e999", b"NaN", b"-0", b"1.0", b"true", b'"\\ud800"', b'"\xff"', b"9" * 5000, b"[]", b'["d"]', b"null")
    if kind == 0:
        parts.restructure(b"[" * deep + structure + b"]" * deep)
    elif kind == 1:
        parts.restructure(b'[["t"' + b',["l"' * deep + b",0" + b"]" * deep + b"],null]")
    elif kind == 2:
        parts.restructure(structure[:n] + rng.choice(pieces) + structure[n:])
    elif kind == 3:
        end = min(len(structure), n + rng.choice((1, 4)))
        parts.restructure(structure[:n] + rng.choice(pieces) + structure[end:])
    elif kind == 4:
        parts.restructure(structure.replace(b"0", rng.choice((b"1", b"-1", b"00", b"0 ")), 1))
    elif kind == 5:
        key = json.dumps("k" * rng.choice((1, 255, 65_535, 65_536))).encode()
        parts.restructure(b'[["t",["d",[' + key + b',["l",0,1,2]]]],null]')
    elif kind == 6:
        parts.restructure(structure[:n])
    elif kind == 7:
        many = b",".join(b"%d" % i for i in range(rng.choice((10, 3000))))
        parts.restructure(b'[["t",' + many + b"],null]")
    else:
        parts.restructure(json.dumps(json.loads(structure), indent=rng.choice((None, 1))).encode())


def _bend_bytes(rng: random.Random, data: bytes) -> bytes:
    """Changes that know nothing of the encoding."""
    changed, kind = bytearray(data), rng.randrange(6)
    at = rng.randrange(len(changed))
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        width = rng.choice((1, 2, 4, 8))
        changed[at : at + width] = _extreme(rng, 8 * width).to_bytes(width, "little")
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        changed[at:at] = rng.randbytes(rng.choice((1, 3, 40)))
    elif kind == 4:
        del changed[at : at + rng.choice((1, 2, 40))]
    else:
        source = rng.randrange(len(changed))
        changed[at : at + 16] = changed[source : source + 16]
    return bytes(changed)


KINDS = (*MUTATIONS, "several at once", "bytes bent", "noise", "unchanged")


def make_input(rng: random.Random) -> tuple[str, bytes]:
    """One input, and what kind it is."""
    programs = corpus()
    # Long Programs take a hundred times as long: one input in fifty, still thousands of a million.
    small = [p for p in programs if len(p.operations) < 50]
    program = rng.choice(programs if rng.random() < 0.02 else small)
    kind = rng.choice(KINDS)
    if kind == "noise":
        return kind, rng.choice((b"", encoding.MAGIC, encoding.MAGIC + b"\0\1\0")) + rng.randbytes(rng.randrange(300))
    if kind == "unchanged":
        return kind, program.to_bytes()
    if kind == "bytes bent":
        return kind, _bend_bytes(rng, program.to_bytes())
    parts = Parts.of(program)
    if kind == "several at once":
        for name in rng.sample(list(MUTATIONS), rng.choice((2, 3))):
            MUTATIONS[name](rng, parts)
        data = parts.to_bytes()
        return kind, _bend_bytes(rng, data) if rng.random() < 0.2 else data
    MUTATIONS[kind](rng, parts)
    return kind, parts.to_bytes()


# Judging


class TooSlow(Exception):
    """One input took longer than any may."""


def _is_accepted(data: bytes) -> bool:
    """Whether `data` is a Program, which then says so of itself. Anything but MalformedProgram escapes."""
    try:
        program = Program.from_bytes(data)
    except MalformedProgram:
        return False
    assert program.to_bytes() == data, "another encoding of the same Program"
    again = Program.from_bytes(program.to_bytes())
    assert again.root == program.root, "one encoding with two roots"
    assert list(program.inputs) == list(program.input_names), "inputs whose names collide"
    assert len(program.outputs) == len(program.graph.outputs), "outputs whose names collide"
    return True


@dataclass(slots=True)
class Tally:
    """What became of many inputs."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Hex of the input and the trouble it made."""
    slowest_s: float = 0.0
    growth_mb: float = 0.0

    def add(self, other: Tally) -> None:
        self.refused += other.refused
        self.accepted += other.accepted
        self.failures += other.failures
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.growth_mb = max(self.growth_mb, other.growth_mb)

    @property
    def inputs(self) -> int:
        return self.refused.total() + self.accepted.total() + len(self.failures)


def fuzz(seed: int, inputs: int) -> Tally:
    """Judge `inputs` inputs of one seed, in this process and its main thread."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    corpus()
    rng, tally = random.Random(seed), Tally()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(inputs):
            kind, data = make_input(rng)
            began = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, SECONDS_AT_MOST)
            try:
                accepted = _is_accepted(data)
            except Exception as trouble:
                signal.setitimer(signal.ITIMER_REAL, 0)
                last = traceback.format_exc().strip().splitlines()
                tally.failures.append(f"{kind}: {type(trouble).__name__}: {last[-1][:200]} {data[:4096].hex()}")
                continue
            signal.setitimer(signal.ITIMER_REAL, 0)
            tally.slowest_s = max(tally.slowest_s, time.perf_counter() - began)
            (tally.accepted if accepted else tally.refused)[kind] += 1
    finally:
        signal.signal(signal.SIGALRM, old)
    # Linux counts kilobytes, macOS bytes.
    unit = 1024 if sys.platform != "darwin" else 1 << 20
    tally.growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
    if tally.growth_mb > MEGABYTES_AT_MOST:
        tally.failures.append(f"memory: grew by {tally.growth_mb:.0f} MB")
    return tally


def report(tally: Tally, *, seed: int, seconds: float) -> str:
    """A table of what was tried and what became of it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        f"{tally.inputs:,} inputs to Program.from_bytes, seed {seed}, commit {commit.stdout.strip() or 'unknown'}",
        f"{_processor()}, Python {platform.python_version()}, torch {torch.__version__}, {seconds:,.0f} s",
        "",
        f"{'kind of input':<28}{'refused':>10}{'a Program':>11}",
    ]
    for kind in sorted(KINDS):
        lines.append(f"{kind:<28}{tally.refused[kind]:>10,}{tally.accepted[kind]:>11,}")
    lines += [
        f"{'all':<28}{tally.refused.total():>10,}{tally.accepted.total():>11,}",
        "",
        f"failures {len(tally.failures)}, slowest input {tally.slowest_s:.2f} s, "
        f"memory of a process grew by {tally.growth_mb:.0f} MB at most",
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    began, tally = time.monotonic(), Tally()
    piece = 10_000
    sizes = [piece] * (options.inputs // piece) + [options.inputs % piece] * bool(options.inputs % piece)
    # Seeds of pieces lie apart for every --seed, so that two runs share none.
    jobs = [(options.seed * 1_000_003 + i, size) for i, size in enumerate(sizes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for one in pool.starmap(fuzz, jobs, chunksize=1):
            tally.add(one)
    text = report(tally, seed=options.seed, seconds=time.monotonic() - began)
    print(text, end="")
    for failure in tally.failures[:20]:
        print(failure, file=sys.stderr)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
