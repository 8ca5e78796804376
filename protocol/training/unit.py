"""One unit of work: training it, replaying any part of it, and the commitment that ties both together.

A unit is `segments` segments of `segment_steps` steps each, from the round's start state. What a step reads follows
from the round's seed, the unit's id and the step's number, so nobody can choose, share or copy work. Layouts:
docs/design/roots.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cupel.protocol import merkle
from cupel.protocol.types import Root, Salt, UnitId

State = Mapping[str, torch.Tensor]
"""Named tensors: weights, Adam moments and step scalars, as a state root covers them."""
NO_EVIDENCE = Root(bytes(32))
"""Stands for the evidence of leaf 0, which no segment leads to."""


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """What one optimiser update gives."""

    state: State
    loss: torch.Tensor
    """Mean cross-entropy over the batch before the update, nats a token; float32 scalar."""
    gradient_norm: torch.Tensor
    """Euclidean norm of the whole gradient before clipping; float32 scalar."""


Step = Callable[[State, torch.Tensor], Stepped]
"""(state, tokens) to the state after one update."""
LoadBatch = Callable[[int], torch.Tensor]
"""The tokens of the unit's step of this number, counted from 0."""
DeriveSecret = Callable[[bytes], bytes]
"""HMAC-SHA256 of a label under the miner's key, which whoever holds the key computes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SegmentResult:
    """A segment, computed."""

    state: State
    """After its last step."""
    loss: bytes
    """Bits of its last step's loss and gradient norm: 4 bytes each, little-endian."""
    gradient_norm: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a segment comes to: all a verdict compares."""

    end_root: Root
    loss: bytes
    gradient_norm: bytes


def float_bits(scalar: torch.Tensor) -> bytes:
    """The 4 little-endian bytes of a float32 scalar."""
    if scalar.dtype != torch.float32 or scalar.numel() != 1:
        raise AssertionError(f"{scalar.dtype}{list(scalar.shape)} is not a float32 scalar")
    return int(scalar.reshape(()).view(torch.int32)).to_bytes(4, "little", signed=True)


def train_segment(step: Step, start: State, load_batch: LoadBatch, segment: int, segment_steps: int) -> SegmentResult:
    """Run segment `segment` (from 0) from its start state. Miner and verifier call this, with the same bits.

    start       state before the segment; left as it is
    load_batch  tokens by step of the unit; may raise Unavailable
    """
    if segment < 0 or segment_steps < 1:
        raise AssertionError(f"segment {segment} of {segment_steps} steps")
    stepped = Stepped(start, torch.zeros(()), torch.zeros(()))
    for index in range(segment * segment_steps, (segment + 1) * segment_steps):
        stepped = step(stepped.state, load_batch(index))
    return SegmentResult(
        state=stepped.state, loss=float_bits(stepped.loss), gradient_norm=float_bits(stepped.gradient_norm)
    )


def answer_of(result: SegmentResult) -> Answer:
    return Answer(end_root=merkle.state_root(result.state), loss=result.loss, gradient_norm=result.gradient_norm)


def compute_salt(derive_secret: DeriveSecret, unit: UnitId, leaf: int) -> Salt:
    """Salt of checkpoint leaf `leaf` (1...n). From the miner's key, so a restarted miner can still open."""
    return Salt(derive_secret(b"cupel salt" + unit + leaf.to_bytes(4, "little")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """What a miner commits to for one unit. The contribution is the end state (docs/design/roots.md)."""

    unit: UnitId
    start_root: Root
    answers: tuple[Answer, ...]
    """Of each segment, first to last."""
    salts: tuple[Salt, ...]
    """Of leaves 1...n."""

    @staticmethod
    def of(derive_secret: DeriveSecret, unit: UnitId, start_root: Root, answers: Sequence[Answer]) -> Commitment:
        salts = tuple(compute_salt(derive_secret, unit, j) for j in range(1, len(answers) + 1))
        return Commitment(unit=unit, start_root=start_root, answers=tuple(answers), salts=salts)

    @property
    def contribution(self) -> Root:
        return self.answers[-1].end_root

    @property
    def contribution_leaf_index(self) -> int:
        return len(self.answers) + 1

    def state_roots(self) -> tuple[Root, ...]:
        """Of checkpoint leaves 0...n."""
        return (self.start_root, *(answer.end_root for answer in self.answers))

    def evidence(self) -> tuple[Root, ...]:
        """Evidence hashes of checkpoint leaves 0...n: what may be shown before anything is opened."""
        pairs = zip(self.answers, self.salts, strict=True)
        return (NO_EVIDENCE, *(merkle.evidence(answer.loss, answer.gradient_norm, salt) for answer, salt in pairs))

    def leaves(self) -> list[bytes]:
        """All n + 2 leaves."""
        return compute_leaves(self.state_roots(), self.evidence())

    @property
    def root(self) -> Root:
        return merkle.tree_root(self.leaves())

    def proof(self, leaf: int) -> list[bytes]:
        """Path of a leaf to the root, siblings from the bottom."""
        return merkle.proof(self.leaves(), leaf)

    def proof_of_segments(self, segments: Sequence[int]) -> list[bytes]:
        """What the leaves of these segments, ascending, leaf 0 and the contribution leaf need to reach the root."""
        indices = [0, *(segment + 1 for segment in segments), self.contribution_leaf_index]
        return merkle.proof_of_several(self.leaves(), indices)


def compute_leaves(state_roots: Sequence[Root], evidence: Sequence[Root]) -> list[bytes]:
    """The n + 2 leaves of a unit's tree from what its description shows of its n + 1 checkpoints."""
    return [
        *(merkle.checkpoint_leaf(root, shown) for root, shown in zip(state_roots, evidence, strict=True)),
        merkle.contribution_leaf(state_roots[-1]),
    ]
