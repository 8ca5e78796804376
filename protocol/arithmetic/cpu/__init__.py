"""The fast engine: fused native kernels generated for this machine's processor (docs/design/engine.md)."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.arithmetic.cpu: a bare 'import {__name__}' would make a second, unequal set of classes"
    )

from cupel.protocol.arithmetic.cpu import isa
from cupel.protocol.arithmetic.cpu.runtime import CompiledGraph, compile_graph

__all__ = ["CompiledGraph", "compile_graph", "isa"]
