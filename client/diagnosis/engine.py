"""Which engine computes here, why that one, whether it is right, and how fast it is beside plain PyTorch."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from cupel.diagnosis.findings import Finding, Verdict, ok, warning, wrong
from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.engines import Backend, choose_backend, run_graph, self_test
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.errors import BackendUnfit, UsageError
from cupel.protocol.program import run, trace
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import State, example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step

PRODUCT_SIZE = 768
MEASURED_S = 0.7
"""For each comparison, once everything is compiled."""
LEAST_PAIRS, MOST_PAIRS = 3, 25
SLOW = 4.0
"""Times PyTorch's own time beyond which a finding warns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The engine and PyTorch's float32 kernels at the same work, in turn, one thread each; medians."""

    what: str
    exact_ms: float
    torch_ms: float
    times_as_fast: float
    """torch_ms / exact_ms: above 1, exact is faster than PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What `--backend auto` computes with on this machine."""

    backend: Backend | None
    """None where no engine can be chosen until something is put right."""
    instruction_set: str | None
    """Of the compiled kernels; None for engines that have none of their own."""
    available: tuple[str, ...]
    """Instruction sets this processor offers the compiled kernels, best first."""
    why: str
    better: str | None
    """What would be faster, and how to get it."""
    measured: tuple[Comparison, ...] = field(default=())


class EngineCheck:
    """Looks at the engine; `engine` is what it found, complete after `look`."""

    def __init__(self) -> None:
        self.engine = choose_engine()

    def look(self, *, measure: bool) -> Iterator[Finding]:
        """Every engine's self-test, which one is taken, and, if asked, how fast it is."""
        yield from check_engines(self.engine)
        yield self.say()
        if not measure or self.engine.backend is None:
            return
        for compare in (compare_product, compare_step):
            comparison = compare(self.engine.backend)
            self.engine = replace(self.engine, measured=(*self.engine.measured, comparison))
            yield judge(comparison)

    def say(self) -> Finding:
        """Which engine is taken, and whether another would be better."""
        engine = self.engine
        name: str = engine.backend or "none"
        if engine.instruction_set is not None:
            name += f", {engine.instruction_set} kernels"
        found = f"{name}: {engine.why}"
        if engine.backend is None:
            return wrong("engine", found, engine.better or "")
        if engine.better is not None:
            return warning("engine", found, engine.better)
        return ok("engine", found)


def choose_engine() -> Engine:
    """What `auto` takes here, with the reason."""
    try:
        from cupel.protocol.arithmetic.cpu import isa
    except ImportError as missing:
        return Engine(
            backend="torch",
            instruction_set=None,
            available=(),
            why=f"plain PyTorch operations, since the compiled engine cannot be loaded ({missing})",
            better="pip install llvmlite: compiled kernels compute the same bits many times as fast",
        )
    available = isa.supported()
    try:
        chosen, backend = isa.choose().name, choose_backend("auto")
    except UsageError as error:
        return Engine(backend=None, instruction_set=None, available=available, why=str(error), better="unset CUPEL_ISA")
    if backend == "torch":
        return Engine(
            backend=backend,
            instruction_set=None,
            available=available,
            why=f"plain PyTorch operations, since the compiled kernels for {chosen} do not give the stored bits here",
            better="report this processor; CUPEL_ISA=portable may give the right bits meanwhile",
        )
    better = _find_better(chosen, available)
    asked = os.environ.get("CUPEL_ISA")
    why = f"CUPEL_ISA={asked} asks for it" if asked else f"the best of {', '.join(available)}"
    return Engine(backend=backend, instruction_set=chosen, available=available, why=why, better=better)


def _find_better(chosen: str, available: tuple[str, ...]) -> str | None:
    if chosen != available[0]:
        return f"unset CUPEL_ISA: this processor has {available[0]}, which is faster and gives the same bits"
    if torch.cuda.is_available():
        return f"--backend cuda computes on {torch.cuda.get_device_name()}; benchmarks/gpu.py says how fast"
    if available == ("portable",):
        return "a processor with AVX2, or better AVX-512-VNNI, computes the same bits several times as fast"
    return None


def check_engines(engine: Engine) -> Iterator[Finding]:
    """The stored vectors on every engine that this machine has."""
    here = {"torch": True, "cpu": bool(engine.available), "cuda": torch.cuda.is_available()}
    for backend in (name for name, is_here in here.items() if is_here):
        check = f"arithmetic.{backend}"
        try:
            self_test(backend)
        except BackendUnfit as unfit:
            fix = "reinstall torch in the version Cupel asks for" if backend == "torch" else "use --backend torch"
            yield wrong(check, str(unfit), f"{fix}, and report this")
        except UsageError as error:
            yield wrong(check, str(error), "unset CUPEL_ISA")
        else:
            yield ok(check, "every stored vector and training step reproduced, to the last bit")


# Speed


def compare_product(backend: Backend, size: int = PRODUCT_SIZE) -> Comparison:
    """A square product of float32 matrices, two digits."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(size, size, generator=generator), torch.randn(size, size, generator=generator)
    builder = GraphBuilder()
    graph = builder.build([builder.matmul(builder.input(TensorType.of(a)), builder.input(TensorType.of(b)))])
    return compare(f"product {size}^3", lambda: run_graph(graph, [a, b], backend), lambda: torch.mm(a, b))


def compare_step(backend: Backend) -> Comparison:
    """One training step of the demo's GPT: forward, backward, clipping, AdamW."""
    model, training = ModelConfig.demo(), TrainingConfig.demo()
    state, tokens = example(model, training)
    step = make_training_step(model, training)
    program = trace(step, (state, tokens))
    what = f"training step of a small GPT (d={model.width}, {model.layers} layers)"
    return compare(what, lambda: run(program, (state, tokens), backend), lambda: step(state, tokens))


def example(model: ModelConfig, training: TrainingConfig) -> tuple[State, torch.Tensor]:
    """Weights of a size a model starts with, and random tokens."""
    generator = torch.Generator().manual_seed(0)
    state = example_state(model)
    for name, weight in state["weights"].items():
        noise = torch.randn(weight.shape, generator=generator)
        state["weights"][name] = noise * 0.05 if weight.dim() > 1 else torch.ones(weight.shape)
    shape = (training.batch, model.context + 1)
    return state, torch.randint(0, model.vocabulary, shape, generator=generator, dtype=torch.int32)


def compare(what: str, exact: Callable[[], object], usual: Callable[[], object]) -> Comparison:
    """Both in turn for a while, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact(), usual()  # compiles, and warms up
        ours: list[float] = []
        theirs: list[float] = []
        began = time.perf_counter()
        while len(ours) < LEAST_PAIRS or (len(ours) < MOST_PAIRS and time.perf_counter() - began < MEASURED_S):
            ours.append(_seconds(exact))
            theirs.append(_seconds(usual))
    finally:
        torch.set_num_threads(threads)
    exact_ms, torch_ms = 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs)
    return Comparison(
        what=what,
        exact_ms=round(exact_ms, 3),
        torch_ms=round(torch_ms, 3),
        times_as_fast=round(torch_ms / exact_ms, 3),
    )


def judge(comparison: Comparison) -> Finding:
    """What a comparison says of this machine."""
    c = comparison
    ratio = c.times_as_fast
    words = f"{ratio:.2f} times as fast as" if ratio >= 1 else f"{1 / ratio:.2f} times the time of"
    found = f"{c.what}, one thread: {c.exact_ms:.1f} ms, {words} plain PyTorch fp32 ({c.torch_ms:.1f} ms)"
    check = "speed.product" if c.what.startswith("product") else "speed.step"
    if ratio * SLOW < 1:
        fix = "expect units to take long; a processor with AVX2 or better is faster"
        return Finding(check=check, verdict=Verdict.WARNING, found=found, fix=fix)
    return ok(check, found)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
