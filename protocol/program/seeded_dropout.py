"""Dropout that anybody can repeat: an element is kept by its own Philox block, never by PyTorch's generator.

Element i of use number `stream` is kept at `step` where its uniform (w0 >> 8) 2^-24 is not below the probability; what
is kept is multiplied by RN(1 / (1 - probability)), what is dropped is +0.
"""

from __future__ import annotations

import inspect
import math
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import library
from torch.overrides import TorchFunctionMode

from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.engines import run_graph
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.errors import UnsupportedOperation, UsageError

_UNIFORM_BITS = 24
_FIRST_WORD_BITS = 32


def build_dropout(builder: GraphBuilder, x: Value, key: Value, step: Value, probability: float, stream: int) -> Value:
    """The operations of `dropout`; 0 < probability < 1."""
    bits = builder.apply(Opcode.PHILOX, [key, step], TensorType(DType.INT64, x.shape), (stream,))
    shift = builder.scalar(_FIRST_WORD_BITS - _UNIFORM_BITS, DType.INT64)
    mask = builder.scalar((1 << _UNIFORM_BITS) - 1, DType.INT64)
    word = builder.binary(Opcode.AND, builder.binary(Opcode.SHR, bits, shift), mask)
    # u 2^24 is whole, so u >= probability is a comparison of whole numbers.
    threshold = builder.scalar(math.ceil(probability * (1 << _UNIFORM_BITS)), DType.INT64)
    kept = builder.binary(Opcode.GE, word, threshold)
    larger = builder.binary(Opcode.MUL, x, builder.scalar(1.0 / (1.0 - probability), DType.FLOAT32))
    return builder.select(kept, larger, builder.scalar(0.0, DType.FLOAT32))


@library.custom_op("cupel::dropout", mutates_args=())
def _dropout(x: torch.Tensor, key: torch.Tensor, step: torch.Tensor, probability: float, stream: int) -> torch.Tensor:
    builder = GraphBuilder()
    values = [builder.input(TensorType.of(tensor)) for tensor in (x, key, step)]
    graph = builder.build([build_dropout(builder, values[0], values[1], values[2], probability, stream)])
    return run_graph(graph, [x.contiguous(), key, step], "torch")[0]


@_dropout.register_fake
def _(x: torch.Tensor, key: torch.Tensor, step: torch.Tensor, probability: float, stream: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, key, step, ctx.probability, ctx.stream = inputs
    ctx.save_for_backward(key, step)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
    key, step = ctx.saved_tensors
    return _dropout(grad, key, step, ctx.probability, ctx.stream), None, None, None, None


_dropout.register_autograd(_backward, setup_context=_setup)


def dropout(
    x: torch.Tensor, probability: float, key: torch.Tensor, step: torch.Tensor, stream: int = 0
) -> torch.Tensor:
    """float32 x with each element 0 at this probability, the others divided by 1 - probability.

    key, step, stream  as for `uniform`: the same three drop the same elements, on every engine
    Raises             UsageError
    """
    if not 0 <= probability <= 1:
        raise UsageError(f"a dropout probability is from 0 to 1, not {probability}")
    if x.dtype != torch.float32:
        raise UsageError(f"dropout takes float32, not {x.dtype}")
    if probability in (0, 1):
        return x if probability == 0 else torch.zeros_like(x)
    for name, tensor in (("key", key), ("step", step)):
        if tensor.dtype != torch.int64 or tensor.dim() != 0:
            raise UsageError(f"{name} is an int64 scalar tensor, not {tensor.dtype}{list(tensor.shape)}")
    if not 0 <= stream < 1 << 32:
        raise UsageError(f"stream {stream} is outside [0, 2^32)")
    dropped: torch.Tensor = _dropout(x, key, step, float(probability), stream)
    return dropped


class SeededDropout(TorchFunctionMode):
    """Within it, every dropout PyTorch is asked for in training is `dropout`, the uses counted from stream 0.

    Covers nn.Dropout, F.dropout, torch.dropout, scaled_dot_product_attention and nn.MultiheadAttention. The other
    kinds (alpha, feature and channel dropout) raise UnsupportedOperation when they would drop something.

    key, step  int64 scalar tensors, as for `dropout`
    """

    def __init__(self, key: torch.Tensor, step: torch.Tensor) -> None:
        super().__init__()
        self._key, self._step = key, step
        self.uses = 0
        """Streams taken so far."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._functional(*args, **kwargs)
        if func in (torch.dropout, torch.dropout_):
            return self._native(func is torch.dropout_, *args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:
                return _multi_head_attention(*args, **kwargs)
        if func is F.scaled_dot_product_attention and _attention_arguments(*args, **kwargs)["dropout_p"] > 0:
            return self._attention(**_attention_arguments(*args, **kwargs))
        if func in _OTHER_KINDS:
            asked = inspect.signature(func).bind(*args, **kwargs)
            asked.apply_defaults()
            if asked.arguments["training"] and asked.arguments["p"] > 0:
                raise UnsupportedOperation(
                    f"F.{func.__name__} in training mode has no replayable form: use nn.Dropout, or set its "
                    "probability to 0"
                )
        return func(*args, **kwargs)

    def _functional(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        return self._native(inplace, input, p, training)

    def _native(self, inplace: bool, input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        if not train:
            return input
        dropped = self._drop(input, p)
        return input.copy_(dropped) if inplace else dropped

    def _drop(self, x: torch.Tensor, probability: float) -> torch.Tensor:
        if probability == 0:
            return x
        dropped = dropout(x, probability, self._key, self._step, self.uses)
        self.uses += 1
        return dropped

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> torch.Tensor:
        """What scaled_dot_product_attention documents, with its weights dropped by Philox."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            rows, columns = torch.arange(query.shape[-2])[:, None], torch.arange(key.shape[-2])
            scores = scores.masked_fill(columns > rows, -math.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._drop(torch.softmax(scores, -1), dropout_p) @ value


# PyTorch would step out of this mode for all of this function's body, and its dropout is in there.
_multi_head_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
_OTHER_KINDS = (F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def _attention_arguments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> dict[str, Any]:
    return {
        "query": query,
        "key": key,
        "value": value,
        "attn_mask": attn_mask,
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
    }
