"""Activation recomputation: a graph rewritten to compute again, for its backward pass, what it need not keep.

Rewriting a graph for an engine never touches the Program, and operations are pure: what is computed twice has the same
bits both times. The rule (Chen et al. 2016, "Training deep nets with sublinear memory cost"), for a graph that does not
say where its layers are:

1. The turn is where the forward pass ends and the backward pass begins; operations after it are late.
2. A cut is a place before the turn where little is under way: what earlier operations leave to later ones of the
   forward pass. In a transformer that is the residual stream between layers. Values that cross a cut are kept.
3. A late operation that reads anything else from before the last cut reads a copy, made by the same operations from
   what is kept, right before its first late use. One copy serves a whole segment.

Turn and cuts are not guessed but tried: of a few of each, those count whose largest sum of live values is least; if
none saves a twentieth, the graph stays as it is. There is one turn: a step that takes its microbatches one after
the other turns at each, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation
from cupel.protocol.arithmetic.phases import Rewriter, phases_of
from cupel.protocol.arithmetic.row_blocks import cut_scores
from cupel.protocol.errors import UsageError

Recompute = Literal["none", "attention", "all"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "attention", "all")

_ATTENTION_LENGTH = 128
"""Shortest sequence whose scores are computed again when that is asked for."""
_WORTH = 0.95
"""What remains of the largest sum of live values where copies are worth their time."""
_STRETCHES = 24
_TURNS = 5
_LEAST_SHARES = (1.1, 1.6, 2.5)
"""Cuts lie where no more than this many times the least is under way."""
_STRIDES = (2, 3)
"""Of the best cuts, also every second and every third are tried."""
_VIEWS = (Opcode.RESHAPE, Opcode.PERMUTE, Opcode.EXPAND, Opcode.SLICE, Opcode.IOTA)
_QUANTISED = (Opcode.EXPONENT, Opcode.QUANTIZE, Opcode.EXPONENT_SCALED, Opcode.QUANTIZE_SCALED)


def check_recompute(recompute: str) -> None:
    """Raises UsageError for what is none of RECOMPUTE."""
    if recompute not in RECOMPUTE:
        raise UsageError(f"recompute is {recompute!r}; take one of {', '.join(RECOMPUTE)}")


def prepare(graph: Graph, recompute: Recompute = "none") -> Graph:
    """`graph` as an engine should run it: the same inputs, outputs and bits.

    recompute  "none": only scores too large to keep are computed in blocks (row_blocks.py). "attention": all scores of
               sequences from 128 tokens on are. "all": from 1,024 tokens on, and whatever else the backward pass can
               compute again is not kept
    Raises     UsageError for anything else
    """
    check_recompute(recompute)
    if recompute == "none":
        return cut_scores(graph)
    if recompute == "attention":
        return cut_scores(graph, least_length=_ATTENTION_LENGTH, least_bytes=0)
    # One layer's scores are all that is held of them, unless they are long.
    return recompute_late(cut_scores(graph, least_bytes=0))


def recompute_late(graph: Graph) -> Graph:
    """`graph` with copies of early operations for late users, or `graph` itself where that saves nothing."""
    lifetimes = _Lifetimes(graph)
    live = lifetimes.live_bytes()
    best, least = graph, max(live, default=0)

    def consider(turn: int, cuts: tuple[int, ...]) -> bool:
        nonlocal best, least
        rewritten = _rewrite(graph, lifetimes, turn, cuts)
        peak = max(_Lifetimes(rewritten).live_bytes())
        if peak < least:
            best, least = rewritten, peak
            return True
        return False

    chosen: tuple[int, list[int]] | None = None
    for turn in _turns(live):
        under_way = lifetimes.under_way(turn)
        seen: list[list[int]] = []
        for share in _LEAST_SHARES:
            cuts = _low_places(under_way, share)
            if cuts and cuts not in seen:
                seen.append(cuts)
                if consider(turn, tuple(cuts)):
                    chosen = turn, cuts
    if chosen is not None:
        turn, cuts = chosen
        for stride in _STRIDES:
            consider(turn, tuple(cuts[::-stride][::-1]))
    return best if least <= _WORTH * max(live, default=0) else graph


def _turns(live: Sequence[int]) -> list[int]:
    """The highest places, no two of them in one stretch of the graph."""
    count = len(live)
    stretches = [range(count * n // _STRETCHES, count * (n + 1) // _STRETCHES) for n in range(_STRETCHES)]
    highest = [max(stretch, key=live.__getitem__) for stretch in stretches if stretch]
    return sorted(highest, key=lambda at: -live[at])[:_TURNS]


class _Lifetimes:
    """How long each value of a graph is held, and how large it is."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.first = len(graph.inputs) + len(graph.constants)
        count = len(graph.operations)
        self.bytes: list[int] = [0] * self.first
        self.held: list[tuple[int, ...]] = [()] * self.first
        """Values in memory that a value is a view of, or is computed from on the way into a product."""
        self.uses: list[list[int]] = [[] for _ in range(self.first + count)]
        for at, op in enumerate(graph.operations):
            value = self.first + at
            sources = tuple(dict.fromkeys(h for v in op.operands for h in self.held[v]))
            for source in sources:
                self.uses[source].append(at)
            if _is_nowhere(op):
                self.bytes.append(0)
                self.held.append(sources)
            else:
                self.bytes.append(op.result.size_bytes)
                self.held.append((value,))
        for value in graph.outputs:
            for source in self.held[value]:
                self.uses[source].append(count)

    def live_bytes(self) -> list[int]:
        """At each operation, of all values made by then and read then or later."""
        count = len(self.graph.operations)
        change = [0] * (count + 2)
        for at in range(count):
            value = self.first + at
            if self.bytes[value]:
                change[at] += self.bytes[value]
                change[max(self.uses[value][-1] if self.uses[value] else at, at) + 1] -= self.bytes[value]
        return list(accumulate(change))[:count]

    def last_early_use(self, value: int, turn: int) -> int:
        """The last operation before `turn` that reads the value, or -1."""
        return next((at for at in reversed(self.uses[value]) if at < turn), -1)

    def under_way(self, turn: int) -> list[int]:
        """Before each operation of the forward pass, bytes made earlier that it or later ones of that pass read."""
        change = [0] * (turn + 2)
        for at in range(turn):
            value = self.first + at
            last = self.last_early_use(value, turn) if self.bytes[value] else -1
            if last > at:
                change[at + 1] += self.bytes[value]
                change[last + 1] -= self.bytes[value]
        return list(accumulate(change))[: turn + 1]


def _is_nowhere(op: Operation) -> bool:
    """Whether an engine gives the result no memory of its own."""
    return (
        op.opcode in _VIEWS or op.opcode in _QUANTISED or (op.opcode == Opcode.PAD and op.result.dtype == DType.INT16)
    )


def _low_places(under_way: Sequence[int], share: float) -> list[int]:
    """The lowest place of each stretch where little is under way; the flat start and end of the pass do not count."""
    inner = [n for n in range(1, len(under_way)) if under_way[n]]
    if not inner:
        return []
    typical = sorted(under_way[n] for n in inner)[len(inner) // 20]
    limit = share * typical
    places: list[int] = []
    best = -1
    for n in range(inner[0], inner[-1] + 1):
        if under_way[n] <= limit:
            best = n if best < 0 or under_way[n] < under_way[best] else best
        elif best >= 0:
            places.append(best)
            best = -1
    return places


def _rewrite(graph: Graph, lifetimes: _Lifetimes, turn: int, cuts: Sequence[int]) -> Graph:
    first, last_cut = lifetimes.first, cuts[-1]
    kept: set[int] = set(range(first))
    for at in range(last_cut):
        value = first + at
        last = lifetimes.last_early_use(value, turn)
        if lifetimes.bytes[value] and any(at < cut <= last for cut in cuts):
            kept.add(value)
    rewriter = Rewriter(graph)
    phases = phases_of(graph)
    new = {v: v for v in range(first)}
    copies: dict[int, int] = {}
    numbers: dict[tuple[int, int], int] = {}
    next_phase = max(phases, default=0) + 1

    def is_copied(value: int) -> bool:
        return value - first < last_cut and value not in kept

    def copy(value: int) -> int:
        """Made with everything it needs, without recursion: chains are as long as a layer."""
        open_ = [value]
        while open_:
            v = open_[-1]
            if v in copies:
                open_.pop()
                continue
            op = graph.operations[v - first]
            missing = [u for u in op.operands if is_copied(u) and u not in copies]
            if missing:
                open_ += reversed(missing)
                continue
            segment = sum(cut <= v - first for cut in cuts)
            phase = numbers.setdefault((segment, phases[v - first]), next_phase + len(numbers))
            copies[v] = rewriter.append(op, [copies[u] if is_copied(u) else new[u] for u in op.operands], phase)
            open_.pop()
        return copies[value]

    for at, op in enumerate(graph.operations):
        late = at >= turn
        operands = [copy(v) if late and is_copied(v) else new[v] for v in op.operands]
        new[first + at] = rewriter.append(op, operands, phases[at])
    return rewriter.finish([new[v] for v in graph.outputs])
