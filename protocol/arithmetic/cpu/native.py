"""LLVM: optimising, emitting and loading a module; the way from native code back to the definition."""

from __future__ import annotations

import ctypes
import functools

import llvmlite.binding as llvm

from cupel.protocol.arithmetic.cpu.functions import EXACT_SYMBOL
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.arithmetic.reference import exact

_OPTIMISATION = 2
Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
_Exact = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)

failures: list[BaseException] = []
"""What the callback ever raised. Native code cannot pass it on, so every run under way then does."""


@functools.lru_cache(maxsize=1 << 16)
def _exact(opcode: int, bits: int) -> int:
    return exact(Opcode(opcode), bits)


def _exact_or_note(opcode: int, bits: int) -> int:
    try:
        return _exact(opcode, bits)
    except BaseException as error:
        failures.append(error)
        return 0


_exact_callback = _Exact(_exact_or_note)


@functools.cache
def triple() -> str:
    _start()
    return str(llvm.get_process_triple())


@functools.cache
def _start() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    address = ctypes.cast(_exact_callback, ctypes.c_void_p).value
    llvm.add_symbol(EXACT_SYMBOL, address)


def target_machine(isa: InstructionSet) -> llvm.TargetMachine:
    _start()
    target = llvm.Target.from_triple(triple())
    return target.create_target_machine(cpu=isa.cpu, features=isa.features, opt=_OPTIMISATION, jit=True)


def optimised(ir: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """Parsed, checked and optimised. Loops are already vectors: LLVM's own vectorisers would only cost time."""
    module = llvm.parse_assembly(ir)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=_OPTIMISATION)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def machine_code(ir: str, isa: InstructionSet) -> bytes:
    """A relocatable object."""
    machine = target_machine(isa)
    return bytes(machine.emit_object(optimised(ir, machine)))


class Native:
    """Loaded machine code."""

    def __init__(self, code: bytes, entries: int, isa: InstructionSet) -> None:
        machine = target_machine(isa)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{triple()}"'), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self.entries = [Entry(self._engine.get_function_address(f"cupel_run_{i}")) for i in range(entries)]
