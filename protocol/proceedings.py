"""What stands in a dispute once its events have happened (docs/design/court.md): what a side's next move is made from.

Apart from `disputes`, because who follows disputes on a chain computes nothing and needs none of the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cupel.protocol.hashing import keccak256, tree_root
from cupel.protocol.trees import Tree
from cupel.protocol.types import Root


@dataclass(frozen=True, slots=True)
class Difference:
    """The first leaf in which a tree differs from one's own."""

    index: int
    leaf: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What stands about one element: the terms in question and what was posted about them."""

    element: int
    first: int
    end: int
    """Of the terms that `sums` cover, or that the chosen one of them covers."""
    block: int
    """Terms that a judgement adds up; 0 where one term decides."""
    exponent: int = 0
    positions: tuple[int, int] = (0, 0)
    sums: tuple[int, ...] = ()


class Stage(enum.IntEnum):
    """What has to happen next, as the contract numbers it."""

    NONE = 0
    SEGMENT = 1
    STEP = 2
    TRACE = 3
    CONTEST = 4
    TRACE_NODES = 5
    TRACE_CHOICE = 6
    VALUE = 7
    TENSOR_NODES = 8
    TENSOR_CHOICE = 9
    LEAF = 10
    ELEMENT = 11
    STATE_NODES = 12
    STATE_CHOICE = 13
    STATE_LEAF = 14
    OMISSION = 15
    EVIDENCE = 16
    CLOSED = 17
    SUMS = 18
    SUM_CHOICE = 19
    PARTS = 20


@dataclass(frozen=True, slots=True)
class Move:
    """A function of the court and its arguments behind the dispute's number."""

    function: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What stands in a dispute, from its events alone."""

    stage: Stage = Stage.NONE
    start_root: bytes = b""
    end_root: bytes = b""
    """States around the segment, then around the chosen step. Of a merge: nothing, and what was proposed."""
    loss: bytes = b""
    gradient_norm: bytes = b""
    inner_roots: tuple[bytes, ...] = ()
    step: int | None = None
    """Of the segment."""
    trace_tree: bytes = b""
    nodes: tuple[bytes, ...] = ()
    """Opened last."""
    level: int = 0
    index: int = 0
    """Of the node chosen last; of the root before any was."""
    path: tuple[bytes, ...] = ()
    """From that node to the root of its tree."""
    found: Difference | None = None
    """The chosen leaf of the trace."""
    tree: bytes = b""
    """Root of the tree over the chosen value's bytes."""
    data: bytes = b""
    """The leaf opened last."""
    reduction: Reduction | None = None
    """Of an element of many terms: what was asked and posted about it."""
    before: bytes = b""
    name: bytes = b""

    def after(self, event: str, arguments: Mapping[str, Any]) -> Position:
        """What stands once this event of the court has happened; events that change nothing leave it as it is."""
        a = arguments
        if event == "Turn":
            return replace(self, stage=Stage(a["stage"]))
        if event in ("Convicted", "Dismissed", "Closed"):
            return replace(self, stage=Stage.CLOSED)
        if event == "SegmentOpened":
            return replace(
                self,
                start_root=a["startRoot"],
                end_root=a["endRoot"],
                loss=a["loss"],
                gradient_norm=a["gradientNorm"],
                inner_roots=tuple(a["innerRoots"]),
            )
        if event == "StepChosen":
            return replace(self, step=a["step"], start_root=a["startRoot"], end_root=a["endRoot"])
        if event == "TracePosted":
            nodes = tuple(a["nodes"])
            return replace(self, nodes=nodes, trace_tree=tree_root(nodes))
        if event == "NodesOpened":
            return replace(self, nodes=tuple(a["nodes"]))
        if event == "NodeChosen":
            return self._chosen(a["level"], a["index"], a["node"])
        if event == "StateContested":
            return replace(self, level=0, index=0, path=())
        if event == "ValueOpened":
            nodes = tuple(a["nodes"])
            return replace(self, nodes=nodes, tree=tree_root(nodes), level=0, index=0, path=())
        if event == "LeafOpened":
            return replace(self, data=a["data"])
        if event == "StateLeafOpened":
            return replace(self, before=a["before"], name=a["name"])
        if event == "SumsAsked":
            asked = Reduction(element=a["element"], first=0, end=a["terms"], block=a["block_"])
            return replace(self, reduction=asked)
        if self.reduction is None:
            return self
        if event == "SumsPosted":
            one, other = a["positions"]
            posted = replace(self.reduction, exponent=a["exponent"], positions=(one, other), sums=tuple(a["sums"]))
            return replace(self, reduction=posted)
        if event == "SumChosen":
            return replace(self, reduction=replace(self.reduction, first=a["first"], end=a["end"], sums=()))
        if event == "PartsPosted":
            return replace(self, reduction=replace(self.reduction, sums=tuple(a["parts"])))
        return self

    def _chosen(self, level: int, index: int, node: bytes) -> Position:
        first = self.index << (self.level - level) if self.path else 0
        place = index - first
        path = (*Tree(self.nodes).path(place), *self.path)
        chosen = replace(self, level=level, index=index, path=path)
        in_trace = self.stage in (Stage.CONTEST, Stage.TRACE_CHOICE)
        return replace(chosen, found=Difference(index, node, path)) if in_trace and level == 0 else chosen


def announcement(
    chain_id: int, court: bytes, run: bytes, subject: bytes, segment: int, challenger: bytes, salt: bytes
) -> Root:
    """keccak256(abi.encode(chain id, court, run, subject, segment uint8, challenger, salt)); addresses in 20 bytes."""
    words = [chain_id.to_bytes(32, "big"), court.rjust(32, b"\0"), run.rjust(32, b"\0"), subject]
    return Root(keccak256(b"".join([*words, segment.to_bytes(32, "big"), challenger.rjust(32, b"\0"), salt])))
