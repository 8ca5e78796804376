"""Results of the definition, kept where kernels look them up.

A correctly rounded function is decided in binary64 for all but about one argument in ten million. Those few hundred
arguments of each function are in a sorted table in the device's memory. What a kernel does not find there it notes;
the run that met it is thrown away, the definition answers, and the run begins again (`FusedPlan.run_on_device`).

On a GPU the table is filled before the first run: a kernel tries every one of the 2^32 arguments of a function and
notes the undecided ones. It is the same code on the same units, so that later runs find them all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from cupel.protocol.arithmetic.cpu import functions
from cupel.protocol.arithmetic.cuda.source import ONE_LANE, Function, Module
from cupel.protocol.arithmetic.exact_functions import exact
from cupel.protocol.arithmetic.operations import UNARY_FLOAT, Opcode

ROOM = 1 << 16
"""Arguments one run can note; more are counted, and met again by the next."""
EVERY_ARGUMENT = (0, 1 << 32)
_BLOCKS, _THREADS = 1 << 13, 256
_WORD = (1 << 64) - 1


class Kernel(Protocol):
    """A kernel ready to be launched."""

    def __call__(self, blocks: int, threads: int, pointers: Sequence[int]) -> None: ...


class Launcher(Protocol):
    """Compiles kernels for a device and launches them there, in the order of the calls."""

    @property
    def device(self) -> torch.device: ...

    def load(self, module: Module) -> Mapping[str, Kernel]:
        """All kernels of the module, by name."""
        ...

    def enter(self) -> None:
        """Before this thread launches."""
        ...


class Answers:
    """The table on one device, shared by all its plans. One caller at a time."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.lock = threading.Lock()
        """Held by whoever launches kernels that may ask."""
        self._known: dict[int, int] = {}
        self._tried: set[Opcode] = set()
        device = launcher.device
        self._asked = torch.zeros(ROOM, dtype=torch.int64, device=device)
        self._missing = torch.zeros(1, dtype=torch.int32, device=device)
        self._table = torch.zeros(2, dtype=torch.int64, device=device)
        self._header = torch.zeros(4, dtype=torch.int64, device=device)
        self._write()

    @property
    def pointer(self) -> int:
        """Of the struct every kernel is handed (prelude.TYPES)."""
        return self._header.data_ptr()

    def __len__(self) -> int:
        return len(self._known)

    def settle(self) -> int:
        """Answer what kernels have asked since the last call; how many questions there were. Waits for the device."""
        missing = int(self._missing.item())
        if missing:
            for question in self._asked[: min(missing, ROOM)].tolist():
                self._known[question] = exact(Opcode(question >> 32), question & 0xFFFFFFFF)
            self._missing.zero_()
            self._write()
        return missing

    def try_all(self, opcodes: Iterable[Opcode], arguments: tuple[int, int] = EVERY_ARGUMENT) -> None:
        """Fill the table with what these functions leave undecided among the arguments (bits, from and below)."""
        wanted = sorted(set(opcodes) & (UNARY_FLOAT - {Opcode.SQRT}) - self._tried)
        if not wanted:
            return
        low, high = arguments
        module = Module()
        names = [_write_try(module, opcode, high - low) for opcode in wanted]
        kernels = self._launcher.load(module)
        self._launcher.enter()
        start = torch.tensor([low], dtype=torch.int64, device=self._launcher.device)
        for name in names:
            # A kernel that notes more than there is room for is run again.
            while True:
                kernels[name](_BLOCKS, _THREADS, [self.pointer, start.data_ptr()])
                if not self.settle():
                    break
        if arguments == EVERY_ARGUMENT:
            self._tried.update(wanted)

    def _write(self) -> None:
        device = self._launcher.device
        pairs = [word for question in sorted(self._known) for word in (question, self._known[question])]
        self._table = torch.tensor(pairs or [0, 0], dtype=torch.int64, device=device)
        sizes = len(self._known) | ROOM << 32
        header = [self._table.data_ptr(), sizes, self._asked.data_ptr(), self._missing.data_ptr()]
        # In place: kernels that wait to be launched have the struct's address.
        self._header.copy_(torch.tensor(header, dtype=torch.int64))


def _write_try(module: Module, opcode: Opcode, count: int) -> str:
    """A kernel that rounds `count` arguments from a number in memory on, and keeps nothing but what it asks."""
    rounded = functions.function_for(module, ONE_LANE, opcode)
    name = f"try_{opcode.name.lower()}"
    f = Function(module, name, [("ptr", "start")], threads=_THREADS)
    first = f.load("i64", f.arguments[0], align=8)
    with f.block(f"FOR_EACH(i, {count}LL)"):
        bits = f.emit("i64", f"{first.name} + i").cast("trunc", "i32")
        y = f.call("float", rounded, [bits.cast("bitcast", "float")])
        # Without a use of the result a compiler might drop the call and its questions.
        with f.when(y.as_bits().compare("eq", 0x7FC00001)):
            f.store(f.const("i64", 0), f.arguments[0], align=8)
    f.finish()
    return name
