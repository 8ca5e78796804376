"""Roots of tensors and states (docs/design/roots.md), over the trees of hashing.py."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from cupel.protocol.arithmetic.canonical import check_canonical
from cupel.protocol.arithmetic.operations import DType
from cupel.protocol.errors import MalformedTensor
from cupel.protocol.hashing import (
    LEAF_BYTES,
    checkpoint_leaf,
    contribution_leaf,
    evidence,
    is_proof,
    leaf_hash,
    node_hash,
    operation_leaf,
    proof,
    proof_of_several,
    state_leaf,
    state_root_of,
    tensor_root_of_tree,
    tree_root,
    unit_id,
    verify,
)
from cupel.protocol.types import Root

__all__ = [
    "check_canonical",
    "checkpoint_leaf",
    "contribution_leaf",
    "evidence",
    "is_proof",
    "leaf_hash",
    "node_hash",
    "operation_leaf",
    "proof",
    "proof_of_several",
    "state_leaf",
    "state_root",
    "tensor_bytes",
    "tensor_leaves",
    "tensor_root",
    "tree_root",
    "unit_id",
    "verify",
]

_LEAF_BEGUN = hashlib.sha256(b"\0")
"""The domain byte of a leaf, hashed."""


def _bytes_of(tensor: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The tensor's row-major little-endian bytes; shares memory where it can."""
    array = tensor.detach().to("cpu").contiguous().reshape(-1).numpy()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The bytes that a root covers: row-major, little-endian."""
    return _bytes_of(tensor).tobytes()


def _check(tensor: object, what: str = "tensor") -> None:
    if not isinstance(tensor, torch.Tensor):
        raise MalformedTensor(f"{what}: a torch.Tensor has a root, {type(tensor).__name__} has none")
    check_canonical(tensor, what)


def tensor_leaves(tensor: torch.Tensor) -> list[bytes]:
    """Hashes of the tensor's leaves of 4,096 bytes, the last one short.

    Raises  MalformedTensor as `check_canonical` does, and for anything but a tensor
    """
    _check(tensor)
    return _leaves(tensor)


def _leaves(tensor: torch.Tensor) -> list[bytes]:
    data = _bytes_of(tensor).data
    # Copies of a hash that has taken the domain byte already: bytes are hashed where they lie.
    begin = _LEAF_BEGUN.copy
    leaves: list[bytes] = []
    for start in range(0, len(data), LEAF_BYTES):
        leaf = begin()
        leaf.update(data[start : start + LEAF_BYTES])
        leaves.append(leaf.digest())
    return leaves


def tensor_root(tensor: torch.Tensor) -> Root:
    """Root of a tensor of any layout and rank; its type and shape are part of it.

    Raises  MalformedTensor as `check_canonical` does, and for anything but a tensor
    """
    _check(tensor)
    return _root(tensor)


def _root(tensor: torch.Tensor) -> Root:
    leaves = _leaves(tensor)
    return tensor_root_of_tree(DType.of(tensor.dtype), tensor.shape, len(leaves), tree_root(leaves))


def state_root(state: Mapping[str, torch.Tensor]) -> Root:
    """Root of named tensors, in whatever order the mapping holds them.

    Raises  MalformedTensor naming the tensor that has no root
    """
    for name, tensor in state.items():
        _check(tensor, name)
    return state_root_of({name: _root(tensor) for name, tensor in state.items()})
