"""Compiled plans on disk, by the hash of what decides them: graph, processor, LLVM and this package's source.

An entry is one file, SHA-256 of the rest first: a length, JSON of the plan, the constants' bytes, the machine code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import torch

from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.plan import Plan, PythonStep, Slice
from cupel.protocol.arithmetic.operations import DType, Graph
from cupel.protocol.arithmetic.phases import phases_of

_HASH_BYTES = 32


def directory() -> Path:
    """CUPEL_CACHE, else the user's cache folder."""
    named = os.environ.get("CUPEL_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cupel"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cupel"


@functools.cache
def _source() -> bytes:
    """Hash of this package and of the one around it, which folds constants: both decide what a graph becomes."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in [*sorted(here.glob("*.py")), *sorted(here.parent.glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.digest()


def key(graph: Graph, isa: InstructionSet, threads: int, triple: str, *, clocked: bool) -> str:
    digest = hashlib.sha256(_source())
    versions = (llvmlite.__version__, llvm.llvm_version_info, triple, isa, threads, clocked)
    digest.update(repr((versions, graph.inputs, graph.outputs)).encode())
    for op in graph.operations:
        result = (int(op.result.dtype), op.result.shape)
        digest.update(repr((int(op.opcode), op.operands, result, op.attributes)).encode())
    digest.update(repr(phases_of(graph)).encode())
    for tensor in graph.constants:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def encode(plan: Plan, code: bytes) -> bytes:
    def part(slice_: Slice) -> list[object]:
        return [*slice_.place, slice_.offset_bytes, int(slice_.dtype), list(slice_.shape)]

    header = {
        "arena_bytes": plan.arena_bytes,
        "entries": plan.entries,
        "constants": [[int(DType.of(t.dtype)), t.numel()] for t in plan.constants],
        "python_steps": [[s.operation, s.after, [part(r) for r in s.reads], part(s.write)] for s in plan.python_steps],
        "labels": plan.labels,
    }
    text = json.dumps(header).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *(_bytes_of(t) for t in plan.constants), code])


def decode(data: bytes) -> tuple[Plan, bytes]:
    """What `encode` wrote."""

    def part(values: tuple[str, int, int, int, list[int]]) -> Slice:
        kind, number, offset, dtype, shape = values
        return Slice((kind, number), offset, DType(dtype), tuple(shape))

    at = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:at])
    constants = []
    for number, count in header["constants"]:
        dtype = DType(number)
        size = count * dtype.size_bytes
        # A copy of its own, so that it is aligned and may be written to by nobody else.
        constants.append(torch.frombuffer(bytearray(data[at : at + size]), dtype=dtype.torch))
        at += size
    steps = [
        PythonStep(operation, after, tuple(part(r) for r in reads), part(write))
        for operation, after, reads, write in header["python_steps"]
    ]
    plan = Plan("", header["arena_bytes"], constants, header["entries"], steps, header["labels"])
    return plan, data[at:]


def load(name: str) -> bytes | None:
    """What was stored, or None: never stored, unreadable, or changed since."""
    try:
        data = (directory() / name).read_bytes()
    except OSError:
        return None
    body = data[_HASH_BYTES:]
    return body if hashlib.sha256(body).digest() == data[:_HASH_BYTES] else None


def store(name: str, body: bytes) -> None:
    """Whole or not at all; a cache that cannot be written only costs time."""
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=folder)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(path, folder / name)
    except OSError:
        Path(path).unlink(missing_ok=True)
