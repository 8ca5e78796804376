"""The numbered points of a round at which a process may be killed and must lose nothing.

After each write, signature, broadcast and receipt a node passes a point of a name. Tests kill it there, by SIGKILL, at
each in turn (`CUPEL_KILL_AT=commit/signed`, or `commit/signed:2` for the second time). A name that is not listed here
is a bug of ours, so that the list stays complete; a point that no test reaches fails the test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from cupel.protocol.errors import UsageError

VARIABLE = "CUPEL_KILL_AT"
STEPS = ("journalled", "signed", "sent", "receipt")
"""What `ChainClient` tells of each transaction: written down, signed and written, broadcast, in a block."""
MINER_POINTS = (
    *(f"joinMiner/{step}" for step in STEPS),
    "start/stored",
    "checkpoint/stored",
    "work/saved",
    "description/stored",
    "commit/stated",
    *(f"commit/{step}" for step in STEPS),
    "unit/recorded",
    *(f"open/{step}" for step in STEPS),
    *(f"advance/{step}" for step in STEPS),
    "unit/settled",
    "round/recorded",
    "pruned",
    *(f"claim/{step}" for step in STEPS),
)
"""What a miner passes in a round, about in this order."""
VERIFIER_POINTS = (
    *(f"stake/{step}" for step in STEPS),
    "start/stored",
    "description/held",
    "contribution/held",
    "replay/fetched",
    "replay/saved",
    "verdict/recorded",
    "seal/stated",
    *(f"seal/{step}" for step in STEPS),
    *(f"reveal/{step}" for step in STEPS),
    "merge/stored",
    "propose/stated",
    *(f"proposeMerge/{step}" for step in STEPS),
    "acknowledge/stated",
    *(f"acknowledge/{step}" for step in STEPS),
    *(f"advance/{step}" for step in STEPS),
    "round/recorded",
    "pruned",
    *(f"claim/{step}" for step in STEPS),
)
"""What a verifier passes in a round, about in this order. A miner merges and proposes where no juror does."""
RARE_POINTS = tuple(f"{call}/{step}" for call in ("recordHeader", "retire") for step in STEPS)
"""Not part of every round."""
DEFENCE_CALLS = (
    "openSegment", "postTrace", "openNodes", "openValue", "openLeaf", "openStateLeaf", "openEvidence", "postSums",
    "postParts", "timeout",
)  # fmt: skip
ATTACK_CALLS = (
    "announce", "accuse", "chooseStep", "chooseNode", "contestState", "contestEvidence", "judge", "judgeBatch",
    "judgeOrder", "askSums", "chooseSum", "judgeBlock", "judgeWitness", "proveOmission", "close", "collect",
)  # fmt: skip
DISPUTE_POINTS = (
    "accusation/stated",
    *(f"{call}/{step}" for call in (*ATTACK_CALLS, *DEFENCE_CALLS) for step in STEPS),
)
"""What a node passes that accuses, or is accused."""
_KNOWN = frozenset((*MINER_POINTS, *VERIFIER_POINTS, *RARE_POINTS, *DISPUTE_POINTS))


class Points:
    """Where a process is asked to die; usually nowhere."""

    def __init__(self, kill_at: str | None = None) -> None:
        """kill_at: NAME or NAME:COUNT. Raises UsageError."""
        self._name, self._left = None, 0
        if kill_at:
            name, _, count = kill_at.partition(":")
            if name not in _KNOWN or not (count or "1").isdigit():
                raise UsageError(
                    f"{VARIABLE} is {kill_at!r}; it should be one of {', '.join(sorted(_KNOWN))}, or NAME:COUNT"
                )
            self._name, self._left = name, int(count or "1")

    @staticmethod
    def from_environment(environment: Mapping[str, str], chain_id: int) -> Points:
        """Raises UsageError on any chain but the embedded one's id: who dies on purpose must cost nobody anything."""
        kill_at = environment.get(VARIABLE)
        if kill_at:
            from cupel.chain.node.chain import DEFAULT_CHAIN_ID  # brings the whole EVM

            if chain_id != DEFAULT_CHAIN_ID:
                raise UsageError(f"{VARIABLE} is for tests on chain {DEFAULT_CHAIN_ID}; this is chain {chain_id}")
        return Points(kill_at)

    def reach(self, name: str) -> None:
        """Pass a point; the process ends here if it was asked to."""
        assert name in _KNOWN, f"point {name} is not listed"
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def observe(self, step: str, what: str) -> None:
        """`ChainClient`'s observer: `what` is the contract's function, as in `Run.commit`."""
        name = f"{what.rpartition('.')[2].partition('(')[0]}/{step}"
        if name in _KNOWN:  # transfers of ETH and deployments are nobody's duty in a round
            self.reach(name)
