"""Who may have which block of a node, and how nodes tell each other who they are.

Everything is public but the checkpoints of a unit that is still being judged: before the draw nobody gets them, then
the drawn verifiers alone, each the starts of its own segments and the unit's end, and the jury what any of them gets;
from the merge phase on everybody.
What a pin's name says decides, so that a restart changes nothing: `run/ start/ shard/` and descriptions are public,
`unit/<round>/<id>/<leaf>` and `replay/<round>/<id>/<leaf>` are checkpoints. What no pin reaches is not served: a file
is stored block by block before it has its name. docs/design/nodes.md has the whole rule.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cupel.chain.run_values import Assignment, Current, Parameters, Phase, UnitView
from cupel.network.ipfs.admission import Refusal
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.cid import ParsedCid
from cupel.node.block_index import BlockIndex
from cupel.node.passes import PassBook
from cupel.protocol.errors import CupelError, Unavailable
from cupel.protocol.types import Address, Cid, RoundIndex, UnitId

CURRENT_S = 1.0
"""How long it is believed where the run stands."""
DRAW_S = 10.0
"""How long a draw is believed within one phase: only a re-org changes it."""
FAILED_S = 2.0
"""How long a chain that did not answer is not asked again."""
T = TypeVar("T")
PUBLIC_PINS = ("run", "start", "shard")
_CHECKPOINT = re.compile(r"(?:unit|replay)/([0-9]{1,18})/([0-9a-f]{64})/([0-9]{1,6})")


class Draws(Protocol):
    """What has to be asked of the chain; `RunContract` is one."""

    def parameters(self) -> Parameters: ...

    def current(self) -> Current: ...

    def get_units(self, round_: RoundIndex | int) -> tuple[UnitView, ...]: ...

    def jury(self) -> tuple[Address, ...]: ...

    def assignments_of(self, round_: RoundIndex | int, verifier: Address) -> tuple[Assignment, ...]: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state inside a unit, as a pin names it."""

    round: int
    unit: UnitId
    leaf: int
    """Leaf i starts segment i; the last one is the unit's end. Leaf 0 is the round's public start."""

    @staticmethod
    def of_pin(name: str) -> Checkpoint | None:
        found = _CHECKPOINT.fullmatch(name)
        return Checkpoint(int(found[1]), UnitId(bytes.fromhex(found[2])), int(found[3])) if found else None


@dataclass(frozen=True, slots=True)
class _Draw:
    """Who was drawn for what in one round."""

    key: object
    read: float
    leaves: Mapping[Address, frozenset[tuple[UnitId, int]]]


class NodeAccess:
    """The rule above for one node's blocks. Threads may share it.

    chain      asked at most once in CURRENT_S where the run stands, and once a phase (or DRAW_S) who was drawn, however
               many requests come
    passes     tells who signed a request
    seated     the run's members as last read: with who was drawn, whom a gateway keeps room for
    """

    def __init__(
        self,
        store: BlockStore,
        chain: Draws,
        passes: PassBook,
        *,
        seated: Callable[[], Collection[Address]] = tuple,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = BlockIndex(store)
        self._chain, self._passes, self._seated, self._now = chain, passes, seated, now
        self._lock = threading.Lock()
        self._current: Current | None = None
        self._read = self._failed = float("-inf")
        self._draw: _Draw | None = None
        self._end: int | None = None
        """The leaf that is a unit's end state; the same for the whole run."""

    def publish(self, cids: Iterable[str]) -> None:
        """Files that are public wherever blocks of them are here, with a pin or without: the run's shards."""
        self._index.publish(cids)

    @staticmethod
    def lasting(pins: Mapping[str, Cid]) -> dict[str, Cid]:
        """Those of these pins that are public and kept for good: all but checkpoints."""
        return {name: cid for name, cid in pins.items() if _is_lasting(name)}

    # What a gateway asks (network.ipfs.admission.Access)

    def known(self, authorization: str) -> str | None:
        address = self._passes.recall(authorization)
        return address if address is not None and self._is_member(address) else None

    def identify(self, authorization: str) -> str | None:
        claimed = self._passes.claimed(authorization)
        if claimed is None or not self._is_member(claimed):
            return None  # reading costs a thousand times as much as this
        visitor = self._passes.read(authorization)
        return None if isinstance(visitor, str) else visitor.address

    def _is_member(self, address: Address) -> bool:
        draw = self._draw
        return address in self._seated() or (draw is not None and address in draw.leaves)

    def is_public(self, cid: ParsedCid) -> bool:
        return any(self._is_public(name, self._current) for name in self._index.names(cid))

    def refuse(self, cid: ParsedCid, authorization: str | None) -> Refusal | None:
        names = self._index.names(cid)
        checkpoints = [c for name in names if (c := Checkpoint.of_pin(name)) is not None]
        if not checkpoints:
            return Refusal(404, f"{cid}: not here")
        try:
            current = self._look()
            if any(self._is_public(name, current) for name in names):
                return None
            who = self._passes.read(authorization)
            if isinstance(who, str):
                return Refusal(401, f"a checkpoint of a round that is not judged yet is for drawn verifiers: {who}")
            if current.phase not in (Phase.SEAL, Phase.OPEN):
                return Refusal(403, f"nobody gets a checkpoint of round {current.round} before its draw")
            drawn = self._read_draw(current).get(who.address, frozenset())
        except CupelError:
            return Refusal(503, "the chain does not answer, so who was drawn is not known", retry_after_s=2)
        if any(c.round == current.round and (c.unit, c.leaf) in drawn for c in checkpoints):
            return None
        which = checkpoints[0]
        return Refusal(403, f"{who.address} was not drawn for checkpoint {which.leaf} of unit 0x{which.unit.hex()}")

    # The rule

    def _is_public(self, name: str, current: Current | None) -> bool:
        checkpoint = Checkpoint.of_pin(name)
        if checkpoint is None:
            return _is_lasting(name)
        if checkpoint.leaf == 0:
            return True
        if current is None or checkpoint.round > current.round:
            return False
        return checkpoint.round < current.round or current.phase in (Phase.MERGE, Phase.ACKNOWLEDGE, Phase.ENDED)

    # What the chain says

    def _look(self) -> Current:
        """Where the run stands. Raises a CupelError, without asking if that failed a moment ago."""
        with self._lock:
            now = self._now()
            if self._current is None or now - self._read > CURRENT_S:
                self._check_patience(now)
                self._current = self._ask(self._chain.current)
                self._read = self._now()
            return self._current

    def _read_draw(self, current: Current) -> Mapping[Address, frozenset[tuple[UnitId, int]]]:
        """Leaves of each drawn verifier."""
        with self._lock:
            now, key = self._now(), (current.round, current.phase, current.until)
            if self._draw is None or self._draw.key != key or now - self._draw.read > DRAW_S:
                self._check_patience(now)
                self._draw = _Draw(key, now, self._ask(lambda: self._collect(current.round)))
            return self._draw.leaves

    def _collect(self, round_: int) -> Mapping[Address, frozenset[tuple[UnitId, int]]]:
        verifiers = {verifier for unit in self._chain.get_units(round_) for verifier in unit.verifiers}
        end = self._end or self._chain.parameters().segments
        self._end = end
        drawn = {
            verifier: frozenset(
                (one.unit_id, leaf)
                for one in self._chain.assignments_of(round_, verifier)
                for leaf in (*one.segments, end)
            )
            for verifier in verifiers
        }
        # A juror says whether what anybody needs can be had.
        needed = frozenset().union(*drawn.values())
        return drawn | dict.fromkeys(self._chain.jury(), needed)

    def _check_patience(self, now: float) -> None:
        if now - self._failed < FAILED_S:
            raise Unavailable("the chain did not answer a moment ago")

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except CupelError:
            self._failed = self._now()
            raise


def _is_lasting(pin: str) -> bool:
    return pin.partition("/")[0] in PUBLIC_PINS or pin.endswith("/description")
