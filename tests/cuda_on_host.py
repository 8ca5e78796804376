"""The GPU's generated kernels as C++ on this machine's processor: same text, blocks and threads as loops.

Not covered by it: the lines of prelude.DEVICE (atomics, the tree of a warp), NVRTC and launching. Floating point is the
host's, without contraction, as the GPU's is compiled without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cupel.protocol.arithmetic.cuda import prelude
from cupel.protocol.arithmetic.cuda.driver import kernels_of
from cupel.protocol.arithmetic.cuda.source import Module

COMPILER = shutil.which("g++") or shutil.which("clang++")
_FLAGS = ("-std=c++17", "-O0", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv", "-w", "-shared", "-fPIC")

HOST = """
#include <cmath>
#include <cstdint>
#include <cstring>
using std::fabs; using std::sqrt; using std::copysign; using std::fma;
#define DEVICE static inline
#define KERNEL(threads) static
#define TABLE static const
#define __restrict__
#define SHARED(type, name, count) static type name[count]
#define STAGE for (THREAD = 0; THREAD < THREADS; ++THREAD) {
#define END_STAGE }
static int64_t BLOCK, BLOCKS;
static int32_t THREAD, THREADS;
#define FOR_EACH(i, count) \\
  for (THREAD = 0; THREAD < THREADS; ++THREAD) \\
  for (int64_t i = BLOCK * THREADS + THREAD; i < (count); i += BLOCKS * THREADS)
static inline int32_t __float_as_int(float x) { int32_t r; memcpy(&r, &x, 4); return r; }
static inline float __int_as_float(int32_t x) { float r; memcpy(&r, &x, 4); return r; }
static inline int64_t __double_as_longlong(double x) { int64_t r; memcpy(&r, &x, 8); return r; }
static inline double __longlong_as_double(int64_t x) { double r; memcpy(&r, &x, 8); return r; }
static inline int32_t __clz(int32_t x) { return x ? __builtin_clz((uint32_t)x) : 32; }
static inline int32_t atomicAdd(int32_t* cell, int32_t value) { return (*cell += value) - value; }
static inline void add_to(int64_t* cell, int64_t value) { *cell = (int64_t)((uint64_t)*cell + (uint64_t)value); }
template <class T> static inline void raise_to(T* cell, T value) { if (value > *cell) *cell = value; }
template <class T> static inline void lower_to(T* cell, T value) { if (value < *cell) *cell = value; }
#define warp_add_to add_to
#define warp_raise_to raise_to
#define warp_lower_to lower_to
"""

_KERNELS_A_SOURCE = 200

Kernel = Callable[[int, int, Sequence[int]], None]


def _entries(text: str) -> str:
    """For each kernel a C function (pointers, blocks, threads) that runs its blocks one after the other."""
    entries = []
    for name, parameters in re.findall(r"^KERNEL\(\d+\) void (\w+)\(([^)]*)\)", text, re.MULTILINE):
        count = parameters.count(",") + 1
        arguments = ", ".join(["(Answers*)p[0]", *(f"(char*)p[{i}]" for i in range(1, count))])
        entries.append(
            f'extern "C" void run_{name}(void** p, int64_t blocks, int32_t threads) {{'
            f" BLOCKS = blocks; THREADS = threads;"
            f" for (BLOCK = 0; BLOCK < blocks; ++BLOCK) {{ THREAD = 0; {name}({arguments}); }} }}"
        )
    return "\n".join(entries)


@functools.cache
def _compiled(text: str) -> ctypes.CDLL:
    folder = Path(tempfile.gettempdir()) / "cupel-host-kernels"
    folder.mkdir(exist_ok=True)
    whole = prelude.whole(text, HOST) + _entries(text)
    name = folder / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.so"
    if not name.exists():
        assert COMPILER is not None
        with tempfile.TemporaryDirectory(dir=folder) as place:
            source, made = Path(place) / "kernels.cpp", Path(place) / "kernels.so"
            source.write_text(whole)
            subprocess.run([COMPILER, *_FLAGS, "-o", str(made), str(source)], check=True)
            made.replace(name)
    return ctypes.CDLL(str(name))


class HostLauncher:
    """Compiles and runs kernels as `cuda.driver.Launcher` does, on the CPU."""

    device = torch.device("cpu")

    def enter(self) -> None:
        pass

    def load(self, module: Module) -> Mapping[str, Kernel]:
        sources = module.sources(_KERNELS_A_SOURCE)

        def kernel(library: ctypes.CDLL, name: str) -> Kernel:
            run = getattr(library, f"run_{name}")
            run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32]

            def launch(blocks: int, threads: int, pointers: Sequence[int]) -> None:
                run((ctypes.c_void_p * len(pointers))(*pointers), blocks, threads)

            return launch

        # Two at a time: there are no more processors where these tests run.
        with ThreadPoolExecutor(2) as pool:
            libraries = list(pool.map(_compiled, sources))
        pairs = zip(sources, libraries, strict=True)
        return {name: kernel(library, name) for source, library in pairs for name in kernels_of(source)}
