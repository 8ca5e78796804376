"""Every error Cupel raises on purpose, in one tree.

CupelError
├── ProtocolError               a peer, a file or a contract is at fault; the message carries what disagreed
│   ├── MalformedInput          bytes, tensors or names that no honest party produces
│   │   ├── MalformedProgram
│   │   ├── MalformedTensor
│   │   └── MalformedBlock      bytes that do not match the CID they were asked for by
│   ├── RootMismatch            a tensor, state or unit does not hash to the root it was promised under
│   ├── Unavailable             nobody who was asked could serve it
│   ├── StorageFailed           this machine's disk is full or failing; nothing was said that is not written down
│   ├── WorkersFailed           a worker process of this miner ended; what it was at is done again
│   └── ChainRefused            the contract reverted or the node rejected a transaction
├── UnsupportedOperation        a traced function uses something without exact semantics
├── BackendUnfit                this machine's fast engine does not reproduce the stored vectors
└── UsageError                  the operator's settings, flags or files; says what to change

A bug of ours is an `AssertionError` and ends the process.
"""

from __future__ import annotations


class CupelError(Exception):
    """Base of everything below."""


class ProtocolError(CupelError):
    """A peer, a file or a contract is at fault."""


class MalformedInput(ProtocolError):
    """Bytes, tensors or names that no honest party produces."""


class MalformedProgram(MalformedInput):
    """An encoding that is not exactly one valid Program."""


class MalformedTensor(MalformedInput):
    """A tensor of the wrong type or shape, or with a NaN other than 0x7fc00000."""


class MalformedBlock(MalformedInput):
    """Bytes that do not match the CID they were asked for by."""


class RootMismatch(ProtocolError):
    """Something does not hash to the root it was promised under."""

    def __init__(self, what: str, *, expected: bytes, got: bytes) -> None:
        super().__init__(f"{what}: expected root 0x{expected.hex()}, got 0x{got.hex()}")
        self.what, self.expected, self.got = what, expected, got


class Unavailable(ProtocolError):
    """Nobody who was asked could serve it."""


class StorageFailed(ProtocolError):
    """This machine's disk is full or failing. What depends on being written down was not done."""


class WorkersFailed(ProtocolError):
    """A worker process of this miner ended. Nothing is lost: what it was at is done again."""


class ChainRefused(ProtocolError):
    """The contract reverted or the node rejected a transaction."""


class UnsupportedOperation(CupelError):
    """A traced function uses something without exact semantics."""


class BackendUnfit(CupelError):
    """This machine's fast engine does not reproduce the stored vectors."""


class UsageError(CupelError):
    """The operator's settings, flags or files; the message says what to change."""
