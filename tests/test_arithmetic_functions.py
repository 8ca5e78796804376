"""The public functions: shapes and broadcasting as in PyTorch, one result on every backend, clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import pytest
import torch

from cupel.protocol import arithmetic
from cupel.protocol.arithmetic import cases, engines, torch_backend
from cupel.protocol.arithmetic.operations import DType, Opcode, Rounding
from cupel.protocol.errors import BackendUnfit, MalformedProgram, MalformedTensor, UsageError

WORDS = cases.Words(3)
X = cases.tensor_of(WORDS.ordinary(24), DType.FLOAT32, (2, 3, 4))
Y = cases.tensor_of(WORDS.ordinary(4), DType.FLOAT32, (4,))
INDEX = torch.tensor([1, 0, 5, -1], dtype=torch.int32)
COUNTS = torch.tensor([[3, -4], [5, 0]])

CALLS = {
    "add": lambda b: arithmetic.add(X, Y, backend=b),
    "sub": lambda b: arithmetic.sub(1.0, X, backend=b),
    "mul": lambda b: arithmetic.mul(X, X[:, :1], backend=b),
    "div": lambda b: arithmetic.div(X, 3, backend=b),
    "rem": lambda b: arithmetic.rem(COUNTS, 3, backend=b),
    "neg": lambda b: arithmetic.neg(X, backend=b),
    "abs": lambda b: arithmetic.abs(X, backend=b),
    "sqrt": lambda b: arithmetic.sqrt(X, backend=b),
    "exp": lambda b: arithmetic.exp(X, backend=b),
    "log": lambda b: arithmetic.log(X, backend=b),
    "tanh": lambda b: arithmetic.tanh(X, backend=b),
    "sigmoid": lambda b: arithmetic.sigmoid(X, backend=b),
    "erf": lambda b: arithmetic.erf(X, backend=b),
    "sin": lambda b: arithmetic.sin(X, backend=b),
    "cos": lambda b: arithmetic.cos(X, backend=b),
    "rsqrt": lambda b: arithmetic.rsqrt(X, backend=b),
    "maximum": lambda b: arithmetic.maximum(X, 0.0, backend=b),
    "minimum": lambda b: arithmetic.minimum(X, Y, backend=b),
    "eq": lambda b: arithmetic.eq(X, Y, backend=b),
    "ne": lambda b: arithmetic.ne(X, Y, backend=b),
    "lt": lambda b: arithmetic.lt(X, Y, backend=b),
    "le": lambda b: arithmetic.le(X, Y, backend=b),
    "gt": lambda b: arithmetic.gt(X, Y, backend=b),
    "ge": lambda b: arithmetic.ge(COUNTS, 3, backend=b),
    "where": lambda b: arithmetic.where(X > 0, X, 0.0, backend=b),
    "floor": lambda b: arithmetic.floor(X, backend=b),
    "ceil": lambda b: arithmetic.ceil(X, backend=b),
    "trunc": lambda b: arithmetic.trunc(X, backend=b),
    "round": lambda b: arithmetic.round(X, backend=b),
    "matmul": lambda b: arithmetic.matmul(X, Y, backend=b),
    "matmul rows": lambda b: arithmetic.matmul(X, X.transpose(1, 2), 3, "rows", backend=b),
    "sum": lambda b: arithmetic.sum(X, (0, 2), keepdim=True, backend=b),
    "mean": lambda b: arithmetic.mean(X, backend=b),
    "max": lambda b: arithmetic.max(X, 1, backend=b),
    "min": lambda b: arithmetic.min(X, (0, 1), backend=b),
    "argmax": lambda b: arithmetic.argmax(X, 0, keepdim=True, backend=b),
    "argmin": lambda b: arithmetic.argmin(X, backend=b),
    "topk": lambda b: arithmetic.topk(X, 2, dim=1, backend=b).values,
    "sort": lambda b: arithmetic.sort(X, dim=0, descending=True, backend=b).indices,
    "cumsum": lambda b: arithmetic.cumsum(COUNTS, 0, backend=b),
    "index_add": lambda b: arithmetic.index_add(
        X, INDEX, cases.tensor_of([0x3F800000] * 48, DType.FLOAT32, (4, 3, 4)), backend=b
    ),
    "take": lambda b: arithmetic.take(X, INDEX.reshape(2, 2), backend=b),
    "gather": lambda b: arithmetic.gather(Y, -1, INDEX, backend=b),
    "scatter": lambda b: arithmetic.scatter(Y, 0, INDEX, Y, backend=b),
    "cast": lambda b: arithmetic.cast(X * 9, torch.int8, Rounding.DOWN, backend=b),
    "philox": lambda b: arithmetic.philox(-5 % 2**64, 3, (2, 5), 1, backend=b),
    "uniform": lambda b: arithmetic.uniform(7, 3, (40,), backend=b),
    "normal": lambda b: arithmetic.normal(torch.tensor(7), torch.tensor(3), (40,), backend=b),
    "randint": lambda b: arithmetic.randint(7, 3, (40,), 10**12, 2, backend=b),
}


def bits(tensor: torch.Tensor) -> list[int]:
    return (tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor).tolist()


def test_every_public_function_is_called_here() -> None:
    assert {name.split()[0] for name in CALLS} == set(arithmetic.__all__) - {
        "Ordered",
        "choose_backend",
        "run_graph",
        "self_test",
    }


@pytest.mark.parametrize("backend", ["torch", "cpu", "auto"])
@pytest.mark.parametrize("name", CALLS)
def test_backends_agree(name: str, backend: str) -> None:
    expected, got = CALLS[name]("reference"), CALLS[name](backend)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert bits(got) == bits(expected)


# What torch itself computes to within rounding, or exactly.
TORCH = {
    "add": X + Y,
    "sub": 1.0 - X,
    "mul": X * X[:, :1],
    "div": X / 3,
    "rem": COUNTS % 3,
    "sqrt": X.sqrt(),
    "exp": X.exp(),
    "log": X.log(),
    "tanh": X.tanh(),
    "sigmoid": X.sigmoid(),
    "erf": X.erf(),
    "sin": X.sin(),
    "cos": X.cos(),
    "rsqrt": X.rsqrt(),
    "maximum": X.clamp(min=0),
    "minimum": torch.minimum(X, Y),
    "eq": X == Y,
    "ge": COUNTS >= 3,
    "where": torch.where(X > 0, X, 0.0),
    "floor": X.floor(),
    "ceil": X.ceil(),
    "trunc": X.trunc(),
    "round": X.round(),
    "matmul": X @ Y,
    "matmul rows": X @ X.transpose(1, 2),
    "sum": X.sum((0, 2), keepdim=True),
    "mean": X.mean(),
    "max": X.amax(1),
    "min": X.amin((0, 1)),
    "argmax": X.argmax(0, keepdim=True),
    "argmin": X.argmin(),
    "topk": X.topk(2, 1).values,
    "sort": X.sort(0, descending=True).indices,
    "cumsum": COUNTS.cumsum(0),
}


@pytest.mark.parametrize("name", TORCH)
def test_functions_mean_what_torch_means(name: str) -> None:
    got = CALLS[name]("reference")
    tolerance = 2e-3 if name.startswith("matmul") else 1e-6
    torch.testing.assert_close(got, TORCH[name], rtol=tolerance, atol=tolerance, equal_nan=True)


def test_indices_out_of_range_read_zero_and_write_nothing() -> None:
    assert arithmetic.gather(Y, 0, INDEX).tolist() == [Y[1].item(), Y[0].item(), 0.0, 0.0]
    assert arithmetic.scatter(Y, 0, INDEX, -Y).tolist() == [-Y[1].item(), -Y[0].item(), Y[2].item(), Y[3].item()]
    assert arithmetic.take(X, INDEX)[2:].abs().sum() == 0


def test_random_numbers_follow_their_words() -> None:
    words = arithmetic.philox(7, 3, (200,), backend="torch")
    low, high = words & 0xFFFFFFFF, words >> 32 & 0xFFFFFFFF
    assert torch.equal(arithmetic.uniform(7, 3, (200,)), (low >> 8).float() * 2.0**-24)
    unsigned = [(int(h) << 32) + int(w) for h, w in zip(high, low, strict=True)]
    assert arithmetic.randint(7, 3, (200,), 1000).tolist() == [u * 1000 >> 64 for u in unsigned]
    u, v = ((low >> 8) + 1).double() * 2.0**-24, (high >> 8).double() * 2.0**-24
    expected = (-2 * u.log()).sqrt() * (2 * torch.pi * v).cos()
    torch.testing.assert_close(arithmetic.normal(7, 3, (200,)).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_results_share_no_memory_with_operands(backend: engines.Backend) -> None:
    calls = (
        lambda x: arithmetic.cast(x, torch.float32, backend=backend),
        lambda x: arithmetic.sum(x.reshape(1, 2, 3, 4), 3, backend=backend),
        lambda x: arithmetic.scatter(x, 0, torch.zeros(0, 3, 4, dtype=torch.int64), x[:0], backend=backend),
    )
    for call in calls:
        x = X.clone()
        call(x).zero_()
        assert torch.equal(x, X)


@pytest.mark.parametrize("pattern", [0x7FC00001, 0xFFC00000, 0x7F800001, 0xFFFFFFFF])
def test_a_nan_of_other_bits_is_malformed(pattern: int) -> None:
    x = torch.tensor([0, pattern - (1 << 32) if pattern >> 31 else pattern], dtype=torch.int32).view(torch.float32)
    with pytest.raises(MalformedTensor, match=f"{pattern:08x}"):
        arithmetic.neg(x)
    with pytest.raises(MalformedTensor, match="operand 1"):
        arithmetic.add(torch.zeros(2), x)


def test_infinities_of_both_signs_are_not_taken_for_nan() -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan")])
    assert bits(arithmetic.abs(x)) == [0x7F800000, 0x7F800000, 0x7FC00000]


REFUSED = {
    "types": (lambda: arithmetic.add(X, COUNTS[0, 0]), MalformedProgram, "one element type"),
    "shapes": (lambda: arithmetic.add(X, torch.zeros(5)), MalformedProgram, "do not broadcast"),
    "float64": (lambda: arithmetic.add(X.double(), 1.0), MalformedProgram, "float64"),
    "fraction": (lambda: arithmetic.add(COUNTS, 0.5), MalformedProgram, "cast"),
    "range": (lambda: arithmetic.add(COUNTS.to(torch.uint8), 256), MalformedProgram, "256"),
    "digits": (lambda: arithmetic.matmul(X, X.transpose(1, 2), 4), MalformedProgram, "digits"),
    "scale": (lambda: arithmetic.matmul(X, X.transpose(1, 2), 2, "row"), MalformedProgram, "columns"),
    "inner": (lambda: arithmetic.matmul(X, X), MalformedProgram, "matmul takes"),
    "scalar": (lambda: arithmetic.matmul(X, torch.tensor(1.0)), MalformedProgram, "scalars"),
    "dim": (lambda: arithmetic.sum(X, 3), MalformedProgram, "dimension 3"),
    "float cumsum": (lambda: arithmetic.cumsum(X), MalformedProgram, "order-free"),
    "empty max": (lambda: arithmetic.max(torch.zeros(3, 0), 1), MalformedProgram, "empty rows"),
    "backend": (lambda: arithmetic.add(X, 1.0, backend="gpu"), UsageError, "gpu"),
    "list": (lambda: arithmetic.sum([1.0]), MalformedTensor, "list"),
    "high": (lambda: arithmetic.randint(1, 1, (3,), 0), MalformedProgram, "high"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused(name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_every_engine_passes_its_self_test(backend: str) -> None:
    arithmetic.self_test(backend)


def test_an_engine_that_is_one_bit_off_is_unfit_and_the_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(op, xs):  # type: ignore[no-untyped-def]
        result = torch_backend.evaluate(op, xs)
        if op.opcode != Opcode.TANH:
            return result
        bits = result.clone().view(torch.int32)
        bits[5] ^= 1
        return bits.view(torch.float32)

    monkeypatch.setitem(engines.EVALUATORS, "torch", flipped)
    engines._verdict.cache_clear()
    try:
        with pytest.raises(BackendUnfit, match=r"torch: tanh float32:"):
            arithmetic.self_test("torch")
    finally:
        engines._verdict.cache_clear()


def test_flushing_subnormals_makes_torch_unfit() -> None:
    program = (
        "import torch; from cupel.protocol import arithmetic; from cupel.protocol.errors import BackendUnfit\n"
        "flushes = torch.set_flush_denormal(True)\n"
        "try: arithmetic.self_test('torch')\n"
        "except BackendUnfit: print('unfit')\n"
        "else: print('fit' if flushes else 'unfit')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "unfit"


def test_auto_takes_torch_where_the_fast_engine_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_verdict", lambda backend: "cpu: not the stored bits")
    assert engines.choose_backend("auto") == "torch"


def test_the_self_test_covers_every_operation() -> None:
    stored = json.loads(resources.files("cupel.protocol.arithmetic").joinpath(engines.SELF_TEST).read_text())
    together = cases.together(stored["seed"], stored["size"])
    assert list(stored["results"]) == list(together.names)
    assert {op.opcode for op in together.graph.operations} == set(Opcode)
