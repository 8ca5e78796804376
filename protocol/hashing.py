"""Trees, leaves and names over bytes: all of docs/design/roots.md that needs no tensor, and so no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from Crypto.Hash import keccak

from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Address, Root, RoundIndex, Salt, UnitId

LEAF_BYTES = 4096
"""Bytes of a tensor in one leaf."""
HASH_BYTES = 32

_LEAF, _NODE, _TENSOR, _STATE, _OPERATION, _CHECKPOINT, _EVIDENCE, _CONTRIBUTION = (bytes([i]) for i in range(8))


def sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()


def keccak256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


# Trees


def leaf_hash(data: bytes) -> bytes:
    """Leaf of a tree of bytes."""
    return sha256(_LEAF + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right)


def tree_root(leaves: Sequence[bytes]) -> Root:
    """Root over leaf hashes; an odd node is carried up unchanged, no leaves give H(0x00)."""
    if not leaves:
        return Root(sha256(_LEAF))
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return Root(level[0])


def _parents(level: list[bytes]) -> list[bytes]:
    digest = hashlib.sha256
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [digest(b"\x01" + left + right).digest() for left, right in pairs]
    return [*parents, level[-1]] if len(level) & 1 else parents


def proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Siblings of leaf `index` from the bottom up; a level where the node is carried up has none."""
    if not 0 <= index < len(leaves):
        raise MalformedInput(f"leaf {index} of a tree of {len(leaves)}")
    path, level = [], list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, index = _parents(level), index >> 1
    return path


def proof_of_several(leaves: Sequence[bytes], indices: Sequence[int]) -> list[bytes]:
    """What it takes besides the leaves at these indices to reach the root.

    Level by level from the leaves up, ascending, the sibling of every node that is known where its sibling is not. As
    `LeavesLib.rootOf` reads it.

    indices   ascending, without repeats, at least one
    """
    level, known, missing = list(leaves), list(indices), []
    while len(level) > 1:
        here = set(known)
        missing += [level[i ^ 1] for i in known if i ^ 1 not in here and i ^ 1 < len(level)]
        known = sorted({i >> 1 for i in known})
        level = _parents(level)
    return missing


def is_proof(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether `leaf` is leaf `index` of the tree of `count` leaves with this root."""
    if not 0 <= index < count or any(len(h) != HASH_BYTES for h in (leaf, *path)):
        return False
    node, siblings = leaf, iter(path)
    while count > 1:
        if index ^ 1 < count:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index, count = index >> 1, (count + 1) >> 1
    return next(siblings, None) is None and node == root


verify = is_proof


# Leaves with a meaning of their own


def tensor_root_of_tree(dtype: int, shape: Sequence[int], leaf_count: int, tree: bytes) -> Root:
    """A tensor's root from its type, shape and the tree over its bytes."""
    dims = b"".join(n.to_bytes(8, "little") for n in shape)
    return Root(sha256(_TENSOR + bytes([dtype, len(shape)]) + dims + leaf_count.to_bytes(8, "little") + tree))


def tensor_leaf_count(size_bytes: int) -> int:
    return -(-size_bytes // LEAF_BYTES)


def state_leaf(name: str, tensor_root: bytes) -> bytes:
    encoded = name.encode()
    if len(encoded) >= 1 << 16:
        raise MalformedInput(f"a state name of {len(encoded)} bytes; at most 65,535")
    return sha256(_STATE + len(encoded).to_bytes(2, "little") + encoded + tensor_root)


def state_root_of(tensor_roots: Mapping[str, bytes]) -> Root:
    """The root of a state from its tensors' roots."""
    names = sorted(tensor_roots, key=str.encode)
    return tree_root([state_leaf(name, tensor_roots[name]) for name in names])


def operation_leaf(encoding: bytes, output_root: bytes) -> bytes:
    return sha256(_OPERATION + encoding + output_root)


def checkpoint_leaf(state_root: bytes, evidence: bytes) -> bytes:
    return sha256(_CHECKPOINT + state_root + evidence)


def evidence(loss: bytes, gradient_norm: bytes, salt: Salt) -> Root:
    """loss, gradient_norm: binary32 bits of the segment's last step, 4 bytes little-endian; salt: 32 bytes."""
    if (len(loss), len(gradient_norm), len(salt)) != (4, 4, 32):
        lengths = f"{len(loss)}, {len(gradient_norm)} and {len(salt)}"
        raise MalformedInput(f"evidence is 4 bytes of loss, 4 of gradient norm and 32 of salt, not {lengths}")
    return Root(sha256(_EVIDENCE + loss + gradient_norm + salt))


def contribution_leaf(contribution_root: bytes) -> bytes:
    return sha256(_CONTRIBUTION + contribution_root)


def unit_id(chain_id: int, contract: Address, round_: RoundIndex, miner: Address, index: int) -> UnitId:
    """keccak256(abi.encode(chain id, contract, round uint64, miner, index uint8)), as the contract computes it."""
    for name, value, bits in (("chain id", chain_id, 256), ("round", round_, 64), ("index", index, 8)):
        if not 0 <= value < 1 << bits:
            raise MalformedInput(f"{name} {value} does not fit {bits} bits")
    words = (chain_id, _address_number(contract), round_, _address_number(miner), index)
    return UnitId(keccak256(b"".join(w.to_bytes(32, "big") for w in words)))


def _address_number(address: Address) -> int:
    digits = address.removeprefix("0x")
    if len(digits) != 40 or not digits.isalnum():
        raise MalformedInput(f"{address!r} is not an address: 0x and 40 hexadecimal digits")
    try:
        return int(digits, 16)
    except ValueError:
        raise MalformedInput(f"{address!r} is not an address: 0x and 40 hexadecimal digits") from None
