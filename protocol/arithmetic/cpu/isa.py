"""What the engine knows about processors: vector widths and the few instructions it names itself."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass

import llvmlite.binding as llvm

from cupel.protocol.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSet:
    """One family of generated code. Every member computes the same bits."""

    name: str
    cpu: str
    features: str
    """LLVM's processor name and feature string; the code runs on any processor that has them."""
    width: int
    """float32 lanes of one step of a row kernel."""
    columns: int
    """Rows of an operand that one packed panel interleaves."""
    rows: int
    """Rows of the left operand that one product tile holds; divides `columns`."""
    lanes: int
    """int32 lanes of one accumulator register."""
    product: str
    """How pairs of int16 are multiplied and added: "vpdpwssd", "vpmaddwd" (AVX2's or SSE2's) or "split", which keeps
    the two products of a pair apart until the end, as NEON's smlal and plain vectors do best."""
    crossed: bool
    """Additions of int16 are so much cheaper than multiplications that Winograd's inner product pays (products.py)."""
    bytes: str
    """How quads of bytes are: "vpdpbusd" or "vpmaddubsw" (signed by unsigned), "sdot" (both signed), "" (never)."""
    masks: bool
    """Masked loads and stores are single instructions."""
    fma: bool
    """Fused multiply-add is an instruction; used only inside the double-precision functions."""


AVX512VNNI = "avx512vnni"
AVX2 = "avx2"
NEON = "neon"
PORTABLE = "portable"
NAMES = (AVX512VNNI, AVX2, NEON, PORTABLE)
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "fma")


@functools.cache
def _host_features() -> frozenset[str]:
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _is_arm64() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def supported() -> tuple[str, ...]:
    """Names this machine can run, best first."""
    features = _host_features() if _is_x86() else frozenset()
    names = [NEON] if _is_arm64() else []
    if features.issuperset(_AVX512):
        names.append(AVX512VNNI)
    if features.issuperset(("avx2", "fma")):
        names.append(AVX2)
    return (*names, PORTABLE)


def choose(name: str | None = None) -> InstructionSet:
    """The set called `name`, else the one CUPEL_ISA names, else this machine's best.

    Raises  UsageError: no such set, or this processor lacks it
    """
    name = name or os.environ.get("CUPEL_ISA") or supported()[0]
    if name not in NAMES:
        raise UsageError(f"no instruction set {name!r}; CUPEL_ISA is one of {', '.join(NAMES)}")
    if name not in supported():
        raise UsageError(f"this processor lacks {name}; set CUPEL_ISA to one of {', '.join(supported())}")
    if name == AVX512VNNI:
        return InstructionSet(
            name=name,
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            width=16,
            columns=32,
            rows=8,
            lanes=16,
            product="vpdpwssd",
            # Zen multiplies in two of its four vector units and adds in all. Others add where they multiply.
            crossed=llvm.get_host_cpu_name().startswith("znver"),
            bytes="vpdpbusd",
            masks=True,
            fma=True,
        )
    if name == AVX2:
        return InstructionSet(
            name=name,
            cpu="x86-64-v3",
            features="",
            width=8,
            columns=16,
            rows=4,
            lanes=8,
            product="vpmaddwd",
            crossed=False,
            bytes="vpmaddubsw",
            masks=False,
            fma=True,
        )
    if name == NEON:
        return neon(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    x86 = _is_x86()
    return InstructionSet(
        name=name,
        cpu="x86-64" if x86 else llvm.get_host_cpu_name(),
        features="" if x86 else llvm.get_host_cpu_features().flatten(),
        width=4,
        columns=8,
        rows=4,
        lanes=4,
        product="vpmaddwd" if x86 else "split",
        crossed=False,
        bytes="",
        masks=False,
        fma=_is_arm64(),
    )


def neon(cpu: str, features: str) -> InstructionSet:
    """64-bit ARM. Bytes where the processor has the dot product of ARMv8.2."""
    return InstructionSet(
        name=NEON,
        cpu=cpu,
        features=features,
        width=4,
        columns=8,
        rows=4,
        lanes=4,
        product="split",
        crossed=False,
        bytes="sdot" if "+dotprod" in features.split(",") else "",
        masks=False,
        fma=True,
    )
