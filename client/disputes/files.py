"""Proof files and trace files: JSON that anybody may have written, read strictly and executed never.

A proof file is `{"format": "cupel-dispute-proof", "version": 1, "claim": {...}, "proof": "0x..."}`: the claim's five
fields by name (docs/design/disputes.md, "The proof"), and the ABI encoding that the contract takes. Nothing else is in
it: what operation and which values are meant follows from the proof, so that no text beside it can say otherwise.

A trace file is `{"format": "cupel-trace", "version": 1, "program": "0x...", "leaves": ["0x...", ...]}`: the Program's
root and one leaf a value, in order, as a trace's tree has them and as the accused posts them on chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cupel.protocol.disputes import Claim, Proof
from cupel.protocol.errors import MalformedInput, UsageError
from cupel.protocol.json_text import parse_json
from cupel.protocol.program.traces import trace_root
from cupel.protocol.trees import Tree
from cupel.protocol.types import Root

PROOF_FORMAT, TRACE_FORMAT = "cupel-dispute-proof", "cupel-trace"
VERSION = 1
MAX_FILE_BYTES = 64 << 20
"""A trace of a million operations has 70 MB of leaves in hexadecimal; a proof that fits a transaction has 0.3 MB."""
_PIECE_BYTES = 1 << 20
_CLAIM_BITS = {"values": 32, "value": 32, "element": 64}
_MAX_VALUES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofFile:
    """One claimed element and everything that recomputing it takes."""

    claim: Claim
    proof: Proof

    def to_text(self) -> str:
        claim = {name: _to_hex(part) if isinstance(part, bytes) else part for name, part in asdict(self.claim).items()}
        document = {
            "format": PROOF_FORMAT,
            "version": VERSION,
            "claim": claim,
            "proof": _to_hex(self.proof.to_bytes()),
        }
        return json.dumps(document, indent=2) + "\n"

    @staticmethod
    def from_bytes(data: bytes | bytearray, what: str = "proof file") -> ProofFile:
        """Raises MalformedInput, MalformedProof among it, for what `to_text` never writes."""
        fields = _read_document(data, what, PROOF_FORMAT, {"claim", "proof"})
        claim = fields["claim"]
        wanted = {"program", "trace", *_CLAIM_BITS}
        if not isinstance(claim, dict) or set(claim) != wanted:
            raise MalformedInput(f"{what}: its claim has other fields than {', '.join(sorted(wanted))}")
        numbers = {name: _read_number(claim[name], bits, f"{what}: {name}") for name, bits in _CLAIM_BITS.items()}
        return ProofFile(
            claim=Claim(
                program=_read_hex(claim["program"], f"{what}: program", 32),
                trace=_read_hex(claim["trace"], f"{what}: trace", 32),
                **numbers,
            ),
            proof=Proof.from_bytes(_read_hex(fields["proof"], f"{what}: proof")),
        )

    @staticmethod
    def read(path: Path) -> ProofFile:
        """Raises UsageError for no file, else as `from_bytes`."""
        return ProofFile.from_bytes(read_file(path), str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """What somebody says every value of one run of a Program hashes to."""

    program: bytes
    """The Program's root."""
    leaves: Sequence[bytes]
    """Of the trace's tree, one a value."""

    @property
    def root(self) -> Root:
        """As it is posted on chain."""
        return trace_root(self.program, len(self.leaves), Tree(self.leaves).root)

    def to_text(self) -> str:
        document = {
            "format": TRACE_FORMAT,
            "version": VERSION,
            "program": _to_hex(self.program),
            "leaves": [_to_hex(leaf) for leaf in self.leaves],
        }
        return json.dumps(document, indent=1) + "\n"

    @staticmethod
    def from_bytes(data: bytes | bytearray, what: str = "trace file") -> TraceFile:
        """Raises MalformedInput for what `to_text` never writes."""
        fields = _read_document(data, what, TRACE_FORMAT, {"program", "leaves"})
        leaves = fields["leaves"]
        if not isinstance(leaves, list) or not 0 < len(leaves) <= _MAX_VALUES:
            raise MalformedInput(f"{what}: leaves is not a list of 1 to {_MAX_VALUES:,}")
        return TraceFile(
            program=_read_hex(fields["program"], f"{what}: program", 32),
            leaves=[_read_hex(leaf, f"{what}: leaf {i}", 32) for i, leaf in enumerate(leaves)],
        )

    @staticmethod
    def read(path: Path) -> TraceFile:
        """Raises UsageError for no file, else as `from_bytes`."""
        return TraceFile.from_bytes(read_file(path), str(path))


def read_file(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> bytearray:
    """Raises UsageError: it cannot be read, or is larger than anything that belongs there."""
    try:
        data = bytearray()
        with path.open("rb") as file:
            # Piece by piece: `read` makes room for all that it is asked for.
            while len(data) <= max_bytes and (piece := file.read(_PIECE_BYTES)):
                data += piece
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise UsageError(f"{path} is larger than {max_bytes >> 20} MiB, the most that is read here")
    return data


def write_file(path: Path, text: str) -> None:
    """Raises UsageError: it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _read_document(data: bytes | bytearray, what: str, format_: str, keys: set[str]) -> Mapping[str, Any]:
    try:
        document = parse_json(data)
    except (ValueError, RecursionError) as error:
        hint = " (it was cut short?)" if data[:1] == b"{" else ""
        raise MalformedInput(f"{what} is not JSON{hint}: {str(error)[:80]}") from None
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != format_:
        other = f"; its format is {found[:40]!r}" if isinstance(found, str) else ""
        raise MalformedInput(f"{what} is no {format_} file{other}")
    if document.get("version") is True or document.get("version") != VERSION:
        raise MalformedInput(f"{what} has version {document.get('version')!r:.40}; this program reads {VERSION}")
    expected = keys | {"format", "version"}
    if set(document) != expected:
        odd = sorted(set(document) ^ expected)[0]
        raise MalformedInput(f"{what}: {odd[:40]!r} is missing or unknown")
    return document


def _to_hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _read_hex(text: object, what: str, size: int | None = None) -> bytes:
    wanted = f"0x and {2 * size} hexadecimal digits" if size is not None else "0x and hexadecimal digits"
    try:
        if not isinstance(text, str) or not text.startswith("0x"):
            raise ValueError
        data = bytes.fromhex(text[2:])
    except ValueError:
        raise MalformedInput(f"{what} is not {wanted}") from None
    # `fromhex` passes over spaces.
    if 2 * len(data) != len(text) - 2 or (size is not None and len(data) != size):
        raise MalformedInput(f"{what} is not {wanted}")
    return data


def _read_number(value: object, bits: int, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise MalformedInput(f"{what} is {value!r:.40}, not a whole number below 2^{bits}")
    return value
