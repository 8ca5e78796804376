"""How a node tells another who it is: a short-lived signature that it shows with every request.

A pass is an EIP-712 message, `Pass(string peer, uint64 issued)` in the domain of the run (chain id and contract), by
the key that holds the node's seat. It names the machine it is shown to, so that A cannot show it to B, and is good for
some minutes from `issued`. All it opens is reading what that node may read there anyway, so it names no path and needs
no nonce: one signature serves hundreds of blocks, is checked once, and nothing has to be asked for it beforehand.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from coincurve import PublicKey
from eth_utils.address import to_checksum_address

from cupel.chain.keys import Signer
from cupel.protocol.errors import CupelError
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address

LIFETIME_S = 300
RENEWED_S = 120
"""Age at which a node signs anew."""
SKEW_S = 60
"""How far two clocks may be apart."""
REMEMBERED = 1024
"""Passes kept, of one's own and of others, good ones and bad."""
_DOMAIN_NAME, _DOMAIN_VERSION = "Cupel", "1"
_TYPES = {
    "EIP712Domain": [
        {"name": "name", "type": "string"},
        {"name": "version", "type": "string"},
        {"name": "chainId", "type": "uint256"},
        {"name": "verifyingContract", "type": "address"},
    ],
    "Pass": [{"name": "peer", "type": "string"}, {"name": "issued", "type": "uint64"}],
}
_PASS_TYPE = keccak256(b"Pass(string peer,uint64 issued)")
_HEADER = re.compile(r"Cupel (0x[0-9a-fA-F]{40})\.([0-9]{1,12})\.([0-9a-f]{130})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever signed a request."""

    address: Address


class PassBook:
    """Signs passes for other machines and reads those shown to this one. Threads may share it.

    names   URLs this node is reached by; a pass for any other machine is refused here
    now     seconds since 1970
    """

    def __init__(
        self,
        signer: Signer,
        *,
        chain_id: int,
        run: Address,
        names: Callable[[], Collection[str]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._signer, self._chain_id, self._run = signer, chain_id, run
        self._domain = _hash_domain(chain_id, run)
        self._names, self._now = names, now
        self._own: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._seen: OrderedDict[str, Address | None] = OrderedDict()
        self._lock = threading.Lock()

    # Showing

    def introduce(self, peer: str) -> Mapping[str, str]:
        """The header that tells `peer`, a URL, who asks. Without one where the key cannot be used just now."""
        authority, now = authority_of(peer), int(self._now())
        with self._lock:
            issued, header = self._own.get(authority, (0, ""))
            if not issued <= now < issued + RENEWED_S:
                try:
                    issued, header = now, self._sign(authority, now)
                except CupelError as trouble:
                    log.warning("requests to %s are not signed: %s", authority, trouble)
                    return {}
                _remember(self._own, authority, (issued, header))
        return {"Authorization": header}

    def _sign(self, authority: str, issued: int) -> str:
        domain = {
            "name": _DOMAIN_NAME,
            "version": _DOMAIN_VERSION,
            "chainId": self._chain_id,
            "verifyingContract": self._run,
        }
        message: dict[str, Any] = {
            "types": _TYPES,
            "primaryType": "Pass",
            "domain": domain,
            "message": {"peer": authority, "issued": issued},
        }
        return f"Cupel {self._signer.address}.{issued}.{self._signer.sign_typed_data(message).hex()}"

    # Reading

    def recall(self, authorization: str) -> Address | None:
        """Who signed it, if it was read before and is still good."""
        fields = _HEADER.fullmatch(authorization)
        if fields is None or self._age_problem(int(fields[2])) is not None:
            return None
        with self._lock:
            return self._seen.get(authorization)

    @staticmethod
    def claimed(authorization: str) -> Address | None:
        """Who says to have signed it."""
        fields = _HEADER.fullmatch(authorization)
        return Address(to_checksum_address(fields[1])) if fields is not None else None

    def read(self, authorization: str | None) -> Visitor | str:
        """Who signed this Authorization header, or why that is not known, for the peer to read."""
        if not authorization:
            return "sign the request"
        fields = _HEADER.fullmatch(authorization)
        if fields is None:
            return "its signature is not written as Cupel's nodes write it"
        problem = self._age_problem(int(fields[2]))
        if problem is not None:
            return problem
        with self._lock:
            is_seen, address = authorization in self._seen, self._seen.get(authorization)
        if not is_seen:
            address = self._recover(str(fields[1]), int(fields[2]), bytes.fromhex(fields[3]))
            with self._lock:
                _remember(self._seen, authorization, address)
        if address is None:
            return f"it is signed by another key than {fields[1]}, for another run, or for another machine than this"
        return Visitor(address=address)

    def _age_problem(self, issued: int) -> str | None:
        age_s = self._now() - issued
        if -SKEW_S <= age_s <= LIFETIME_S + SKEW_S:
            return None
        when = f"{age_s:.0f} s ago" if age_s > 0 else f"{-age_s:.0f} s in the future"
        return f"it was signed {when} by this node's clock; set the clock that is wrong"

    def _recover(self, stated: str, issued: int, signature: bytes) -> Address | None:
        recovery = signature[64] - 27 if signature[64] >= 27 else signature[64]
        for name in {authority_of(url) for url in self._names()}:
            try:
                key = PublicKey.from_signature_and_message(
                    signature[:64] + bytes((recovery & 0xFF,)), self._digest(name, issued), hasher=None
                )
            except Exception:  # the library has several for what is no signature
                return None
            address = to_checksum_address(keccak256(key.format(compressed=False)[1:])[12:])
            if address.lower() == stated.lower():
                return Address(address)
        return None

    def _digest(self, authority: str, issued: int) -> bytes:
        """EIP-712's hash of a pass, written out: this is computed for strangers, and a general encoder is slow."""
        message = keccak256(_PASS_TYPE + keccak256(authority.encode()) + issued.to_bytes(32, "big"))
        return keccak256(b"\x19\x01" + self._domain + message)


def _hash_domain(chain_id: int, run: Address) -> bytes:
    fields = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    return keccak256(
        keccak256(fields)
        + keccak256(_DOMAIN_NAME.encode())
        + keccak256(_DOMAIN_VERSION.encode())
        + chain_id.to_bytes(32, "big")
        + bytes(12)
        + bytes.fromhex(run[2:])
    )


def authority_of(url: str) -> str:
    """host:port of a URL, in the one spelling that both sides sign."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{(parts.hostname or '').lower()}:{port}"
    except ValueError:
        return url


def _remember(kept: OrderedDict[str, Any], name: str, value: Any) -> None:
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > REMEMBERED:
        kept.popitem(last=False)
