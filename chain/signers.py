"""A key that lives elsewhere: a remote signer over JSON-RPC, and hardware wallets through one.

Two dialects cover what there is: `eth`, spoken by Web3Signer (and by anything that keeps keys as a node does), and
`clef`, go-ethereum's signer, which also speaks to Ledger and Trezor devices. Nothing that comes back is used before it
was found to be what was asked for, signed by the key it was asked of.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import is_address, to_checksum_address
from hexbytes import HexBytes

from cupel.chain.errors import SignerRefused, SignerSilent
from cupel.chain.transport import RpcFault, Silent, Transport
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address

Dialect = Literal["eth", "clef"]

DEFAULT_TIMEOUT_S = 60.0
"""For one signature: a person may have to press a button."""
_LARGEST_JSON_INTEGER = 2**53 - 1
_HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
_METHODS: Mapping[Dialect, Mapping[str, str]] = {
    "eth": {"list": "eth_accounts", "transaction": "eth_signTransaction", "typed": "eth_signTypedData"},
    "clef": {"list": "account_list", "transaction": "account_signTransaction", "typed": "account_signTypedData"},
}
_SECRETS: Mapping[str, Any] = {
    "domain": {"name": "Cupel", "version": "1"},
    "types": {
        "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
        "Secrets": [{"name": "warning", "type": "string"}],
    },
    "primaryType": "Secrets",
    "message": {"warning": "Whoever has this signature knows the salts of this key's work. Sign it for Cupel only."},
}
"""What a signer without HMAC signs so that secrets can be derived from the signature. Fixed for ever."""


class RemoteSigner:
    """A `Signer` whose key is behind `url`. Checked at once: reachable, has the key, signs the same alike.

    address    whose key; None: the only one there
    dialect    `eth` (Web3Signer) or `clef`
    timeout_s  for one signature, a person's approval included

    Raises     UsageError: not a usable URL, no such key there, or secrets cannot be derived from its signatures
               SignerSilent, SignerRefused
    """

    def __init__(
        self,
        url: str,
        address: Address | None = None,
        *,
        dialect: Dialect = "eth",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if dialect not in _METHODS:
            raise UsageError(f"a signer speaks {' or '.join(_METHODS)}, not {dialect!r}")
        if timeout_s <= 0:
            raise UsageError(f"a signer's time to answer must be above 0 s, not {timeout_s}")
        self._transport, self._methods, self._timeout_s = Transport(url), _METHODS[dialect], timeout_s
        self.name = self._transport.name
        if urlsplit(url).scheme != "https" and not self._transport.is_local:
            raise UsageError(f"the signer at {self.name} is on another machine: use https, others could listen")
        self._lock = threading.Lock()
        self.address = self._choose_address(address)
        self._secret = self._derive_root_secret()

    def __repr__(self) -> str:
        return f"RemoteSigner({self.name}, {self.address})"

    def close(self) -> None:
        self._transport.close()

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """The raw signed transaction of these EIP-1559 fields. Raises SignerSilent, SignerRefused."""
        asked = {name: _write(value) for name, value in fields.items()} | {"from": self.address}
        for name in ("chainId", "nonce", "gas", "value", "maxFeePerGas", "maxPriorityFeePerGas", "type"):
            asked[name] = hex(fields[name])
        answer = self._ask("transaction", asked)
        raw = _read_bytes(answer.get("raw") if isinstance(answer, dict) else answer)
        if raw is None or not self._is_asked(raw, fields):
            raise SignerRefused(f"the signer at {self.name} returned another transaction than it was asked to sign")
        return raw

    def sign_typed_data(self, message: Mapping[str, Any]) -> bytes:
        """65 bytes over a full EIP-712 message. Raises SignerSilent, SignerRefused."""
        signature = _normalise(_read_bytes(self._ask("typed", self.address, _write(message))))
        signable = encode_typed_data(full_message=dict(message))
        try:
            signed_by = None if signature is None else Account.recover_message(signable, signature=signature)
        except Exception:  # eth-keys raises several kinds
            signed_by = None
        if signature is None or signed_by != self.address:
            raise SignerRefused(f"the signer at {self.name} returned a signature that is not {self.address}'s")
        return signature

    def derive_secret(self, label: bytes) -> bytes:
        """HMAC-SHA256 of `label` under a secret that only this signer's key brings back.

        Not what `LocalSigner` derives from the same key: who moves a key to a remote signer does so between rounds.
        """
        return hmac.new(self._secret, label, hashlib.sha256).digest()

    def _derive_root_secret(self) -> bytes:
        first, second = (self.sign_typed_data(_SECRETS) for _ in range(2))
        if first != second:
            raise UsageError(
                f"the signer at {self.name} signs the same message differently each time: salts could not be "
                "opened after a restart. Use one with deterministic signatures (RFC 6979)"
            )
        return hashlib.sha256(b"cupel signer secrets" + first).digest()

    def _choose_address(self, wanted: Address | None) -> Address:
        answer = self._ask("list")
        listed = answer if isinstance(answer, list) else []
        there = [to_checksum_address(one) for one in listed if isinstance(one, str) and is_address(one)]
        if wanted is None and len(there) == 1:
            return Address(there[0])
        if wanted is not None and to_checksum_address(wanted) in there:
            return Address(to_checksum_address(wanted))
        has = f"has {', '.join(there[:5])}{' ...' if len(there) > 5 else ''}" if there else "has no keys"
        asked = "name one of them with --address" if wanted is None else f"{wanted} is not among them"
        raise UsageError(f"the signer at {self.name} {has}: {asked}")

    def _ask(self, what: str, *params: Any) -> Any:
        method = self._methods[what]
        with self._lock:  # devices and people do one thing at a time
            try:
                return self._transport.ask(method, params, timeout_s=self._timeout_s)
            except Silent as silent:
                raise SignerSilent(self.name, str(silent)) from silent
            except RpcFault as fault:
                raise SignerRefused(
                    f"the signer at {self.name} refuses {method}: {fault.message[:200]!r} (code {fault.code})"
                ) from fault

    def _is_asked(self, raw: bytes, fields: Mapping[str, Any]) -> bool:
        """Whether `raw` is exactly the transaction asked for, signed by our key."""
        try:
            signed = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
            signed_by = Account.recover_transaction(raw)
        except Exception:  # rlp, eth-account and eth-keys raise several kinds
            return False
        to = signed.pop("to")
        is_to = (f"0x{bytes(to).hex()}" if to else "") == str(fields.get("to") or "").lower()
        expected = {name: value for name, value in fields.items() if name != "to"} | {"accessList": ()}
        found = {name: signed.get(name) for name in expected}
        found |= {"data": bytes(HexBytes(signed["data"])), "accessList": tuple(signed.get("accessList", ()))}
        return is_to and found == expected and signed_by == self.address


def _write(value: Any) -> Any:
    """JSON of a value: bytes in hex, integers that doubles cannot hold as decimal text."""
    if isinstance(value, bytes | bytearray):
        return f"0x{bytes(value).hex()}"
    if isinstance(value, Mapping):
        return {name: _write(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_write(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_JSON_INTEGER:
        return str(value)
    return value


def _read_bytes(answer: Any) -> bytes | None:
    try:
        return bytes.fromhex(answer.removeprefix("0x")) if isinstance(answer, str) else None
    except ValueError:
        return None


def _normalise(signature: bytes | None) -> bytes | None:
    """Signers number the recovery bit from 0 or from 27; and only the lower s is accepted on chain."""
    if signature is None or len(signature) != 65 or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    return signature[:64] + bytes((signature[64] + 27 if signature[64] < 27 else signature[64],))
