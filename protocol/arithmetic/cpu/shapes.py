"""Shapes: mostly other views of the same memory; PAD and CONCAT write theirs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.building import Building
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import DType, Operation


def reshape(low: Building, op: Operation, args: Sequence[View]) -> View:
    return views.reshape(args[0], op.result.shape) or low.materialised(args[0], op.result.shape)


def permute(low: Building, op: Operation, args: Sequence[View]) -> View:
    return views.permute(args[0], op.attributes)


def expand(low: Building, op: Operation, args: Sequence[View]) -> View:
    return views.expand(args[0], op.result.shape)


def sliced(low: Building, op: Operation, args: Sequence[View]) -> View:
    dim, start, step = op.attributes
    view = args[0]
    result = views.slice_dim(view, dim, start, op.result.shape[dim], step)
    if result is None:
        result = views.slice_dim(low.materialised(view), dim, start, op.result.shape[dim], step)
        assert result is not None
    return result


def iota(low: Building, op: Operation) -> View:
    shape = op.result.shape
    dim = op.attributes[0]
    counted = low.constant(torch.arange(shape[dim], dtype=torch.int64))
    flat = views.reshape(counted, [n if d == dim else 1 for d, n in enumerate(shape)])
    assert flat is not None
    return views.expand(flat, shape)


def pad(low: Building, op: Operation, args: Sequence[View]) -> View:
    fill, *starts = op.attributes
    dtype = op.result.dtype
    number: int | float = fill
    if dtype == DType.FLOAT32:
        number = struct.unpack("<f", struct.pack("<I", fill))[0]
    filled = views.repeated(op.result.shape, number, dtype)
    if args[0].elements == 0:
        return filled
    out = low.fresh(op.result.shape, dtype)
    assert out.buffer is not None
    if args[0].elements < op.result.elements:
        low.copy_to(filled, out)
    inner: View | None = out
    for dim, start in enumerate(starts):
        assert inner is not None
        inner = views.slice_dim(inner, dim, start, args[0].shape[dim], 1)
    assert inner is not None
    copy_refined(low, args[0], inner, (out.buffer,))
    return out


def concat(low: Building, op: Operation, args: Sequence[View]) -> View:
    shape, dtype = op.result.shape, op.result.dtype
    out, pieces = _cut(low.fresh(shape, dtype, low.wanted_layout(low.at, shape)), op, args)
    last = views.single(out.dims[-1])
    if pieces is None or last is None or last[1] > 1:
        # The order its user wants cannot be cut into pieces, or has nothing side by side.
        out, pieces = _cut(low.fresh(shape, dtype), op, args)
    assert pieces is not None
    for a, piece in zip(args, pieces, strict=True):
        if a.elements:
            copy_refined(low, a, piece, ())
    return out


def _cut(out: View, op: Operation, args: Sequence[View]) -> tuple[View, list[View] | None]:
    """`out`, and the part of it that each operand fills."""
    dim, start = op.attributes[0], 0
    pieces = []
    for a in args:
        piece = views.slice_dim(out, dim, start, a.shape[dim], 1) if a.shape[dim] else out
        if piece is None:
            return out, None
        pieces.append(piece)
        start += a.shape[dim]
    return out, pieces


def copy_refined(low: Building, view: View, out: View, after: tuple[Buffer, ...]) -> None:
    if view.buffer is not None and views.refine([view.factors(), out.factors()]) is None:
        view = low.materialised(view)
        assert views.refine([view.factors(), out.factors()]) is not None
    low.copy_to(view, out, after)
