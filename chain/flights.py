"""What this process remembers of transactions on their way; what must survive it is in the outbox."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field

from cupel.chain.abi import Call
from cupel.chain.outbox import Outbox

SAY_AGAIN_S = 30.0
"""Between two messages about the same wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transaction on its way."""

    call: Call
    hash: bytes
    """Of the version sent last; another version of the nonce may be the one that gets into a block."""
    raw: bytes
    nonce: int
    gas: int
    value_wei: int
    key: bytes
    """`Content.key`."""
    duty: str | None = None


@dataclass(slots=True)
class Flight:
    """What this process remembers of an entry that is under way."""

    height: int
    since: float
    """The newest block, and the time, when its last version was signed."""
    broadcast_at: float
    looked_at: float = 0.0
    """When the chain was last asked whether it is stuck or its nonce taken."""
    taken_heights: set[int] = field(default_factory=set)
    """Heights at which the account's count was past its nonce though no version of it was found."""
    is_taken: bool = False
    """Whether the last look found another's transaction in its place."""
    said_at: float = -SAY_AGAIN_S
    is_waiting_for_fee: bool = False
    """Blocks cost more than the cap."""
    trouble: str | None = None
    """Why nodes would not take it when it was offered again."""


@dataclass(slots=True)
class KeyState:
    """One key on one chain, shared by every client of this process."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    next_nonce: int = 0
    claimed: set[int] = field(default_factory=set)
    """Nonces that somebody in this process sent and waits for."""
    flights: dict[int, Flight] = field(default_factory=dict)
    keepers: weakref.WeakKeyDictionary[Outbox, threading.Thread] = field(default_factory=weakref.WeakKeyDictionary)
    """Who looks after what is not final, by outbox."""


_key_states: dict[str, KeyState] = {}
_key_states_lock = threading.Lock()


def get_key_state(account: str) -> KeyState:
    """The one state of an account in this process."""
    with _key_states_lock:
        return _key_states.setdefault(account, KeyState())
