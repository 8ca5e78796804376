"""The table of what was checked."""

from __future__ import annotations

import platform

import gmpy2
import llvmlite
import numpy as np
import torch

from exhaustive.mpfr import value_of
from exhaustive.progress import Progress

_TITLES = (
    f"{'function':24}{'engine':18}{'inputs':>15}{'wrong':>8}{'by MPFR':>10}{'slow path':>12}{'seconds':>9}{'M/s':>7}"
)


def render(runs: list[Progress]) -> str:
    """One row a subject; below, the machines and commits, and the first arguments that came out wrong."""
    rows, machines, wrong = [], [], []
    for run in runs:
        total, subject = run.total(), run.subject
        if not total.inputs:
            continue
        engine = f"{subject.backend} {subject.isa}".strip()
        rate = total.inputs / total.engine_s / 1e6 if total.engine_s else 0.0
        part = "" if total.inputs == 1 << 32 else f"  ({total.inputs / (1 << 32):.2%} of all)"
        rows.append(
            f"{subject.function:24}{engine:18}{total.inputs:>15,}{total.mismatches:>8,}{total.decided:>10,}"
            f"{total.slow:>12,}{total.engine_s + total.oracle_s:>9,.0f}{rate:>7,.0f}{part}"
        )
        if run.machine not in machines:
            machines.append(run.machine)
        wrong += [f"{subject.function} of {show(x)} on {engine}: {show(got)}, not {show(right)}"
                  for x, got, right in total.wrong]  # fmt: skip
    lines = [
        "Every bit pattern of the argument, against MPFR and proven bounds (docs/design/arithmetic.md).",
        f"llvmlite {llvmlite.__version__}, torch {torch.__version__}, NumPy {np.__version__}, {gmpy2.mpfr_version()}, "
        f"{platform.system()}",
        *machines,
        "",
        _TITLES,
        *rows,
        "",
        "by MPFR: the bound left two answers. slow path: arguments that the engine sent to the definition.",
        "seconds: by the clock, one process, engine and oracle; M/s: million arguments a second, the engine alone.",
    ]
    return "\n".join([*lines, *wrong]) + "\n"


def show(pattern: int) -> str:
    return f"{pattern:#010x} ({value_of(pattern):.9g})"
