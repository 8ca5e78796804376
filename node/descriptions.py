"""A unit's description: the small file whose CID a miner commits, from which anybody fetches what to replay.

It lists every checkpoint leaf, evidence hashed (docs/design/roots.md), so the commitment's whole tree follows from it:
a description that hashes to the committed root proves each state root in it, and what no description says - losses,
norms and salts - stays sealed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cupel.node.canonical import read_json, write_canonical
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.merkle import tree_root
from cupel.protocol.training.unit import compute_leaves
from cupel.protocol.types import Cid, Root, UnitId

MAX_DESCRIPTION_BYTES = 1 << 20
_CID = re.compile(r"b[a-z2-7]{58}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedState:
    """One checkpoint leaf, its evidence hashed."""

    state_root: Root
    evidence: Root
    """Evidence hash; 32 zero bytes for leaf 0."""
    cid: Cid
    """The state as safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDescription:
    """All checkpoints of one unit, leaf 0 first."""

    unit: UnitId
    states: tuple[CommittedState, ...]

    @property
    def contribution(self) -> Root:
        return self.states[-1].state_root

    def to_bytes(self) -> bytes:
        states = [{"cid": s.cid, "evidence": s.evidence.hex(), "state": s.state_root.hex()} for s in self.states]
        return write_canonical({"states": states, "unit": self.unit.hex(), "version": 1})

    @staticmethod
    def from_bytes(data: bytes) -> UnitDescription:
        """Accepts exactly what `to_bytes` writes. Raises MalformedInput."""
        table = read_json(data, "unit description", max_bytes=MAX_DESCRIPTION_BYTES)
        try:
            description = UnitDescription(
                unit=UnitId(_hash(table["unit"])),
                states=tuple(
                    CommittedState(
                        state_root=Root(_hash(s["state"])), evidence=Root(_hash(s["evidence"])), cid=_cid(s["cid"])
                    )
                    for s in table["states"]
                ),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise MalformedInput(f"not a unit description ({wrong!r})") from wrong
        if len(description.states) < 2 or description.to_bytes() != data:
            raise MalformedInput("not a unit description in its canonical form")
        return description

    def leaves(self) -> list[bytes]:
        """The n + 2 leaves of the commitment's tree."""
        return compute_leaves([s.state_root for s in self.states], [s.evidence for s in self.states])

    def check(self, unit: UnitId, root: Root, contribution: Root, start: Root, segments: int) -> None:
        """Raise RootMismatch or MalformedInput unless this describes what was committed on chain.

        root, contribution  as committed; start: the round's start state; segments: n of the run
        """
        if self.unit != unit:
            raise MalformedInput(f"description of unit 0x{self.unit.hex()}, not 0x{unit.hex()}")
        if len(self.states) != segments + 1:
            raise MalformedInput(f"description of {len(self.states)} checkpoints; the run has {segments + 1} a unit")
        got = Root(tree_root(self.leaves()))
        if got != root:
            raise RootMismatch("unit description", expected=root, got=got)
        if self.states[0].state_root != start:
            raise RootMismatch("first checkpoint of the unit", expected=start, got=self.states[0].state_root)
        if self.contribution != contribution:
            raise RootMismatch("contribution of the unit", expected=contribution, got=self.contribution)


def _hash(text: object) -> bytes:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{str(text)[:80]!r} is not 32 bytes of hex")
    return bytes.fromhex(text)


def _cid(text: object) -> Cid:
    if not isinstance(text, str) or not _CID.fullmatch(text):
        raise ValueError(f"{str(text)[:80]!r} is not a CIDv1 of SHA-256 in base32")
    return Cid(text)
