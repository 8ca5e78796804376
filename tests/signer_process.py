"""A little remote signer: JSON-RPC over HTTP, a key in its memory, faults on request.

python signer_process.py KEY_HEX [DIALECT]     prints its URL and serves until it is killed
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any

from cupel.chain.keys import LocalSigner

_NUMBERS = ("chainId", "nonce", "gas", "value", "maxFeePerGas", "maxPriorityFeePerGas", "type")


class SignerServer:
    """Signs for one key. `spoil(method, result)` changes an answer; `delay_s` postpones it; `refusal` replaces it."""

    def __init__(self, signer: LocalSigner, dialect: str = "eth") -> None:
        self._signer, self._dialect = signer, dialect
        self.spoil: Any = lambda method, result: result
        self.change_fields: dict[str, Any] = {}
        """Put into every transaction instead of what was asked for."""
        self.delay_s = 0.0
        self.refusal: str | None = None
        self.accounts = [signer.address.lower()]
        self.requests: Counter[str] = Counter()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(server._answer(request)).encode()
                time.sleep(server.delay_s)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> SignerServer:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        self._server.serve_forever(0.05)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        method, answer = request["method"], {"jsonrpc": "2.0", "id": request["id"]}
        self.requests[method] += 1
        if self.refusal is not None:
            return answer | {"error": {"code": -32000, "message": self.refusal}}
        result = self._sign(method.removeprefix("eth_" if self._dialect == "eth" else "account_"), request["params"])
        if result is None:
            return answer | {"error": {"code": -32601, "message": f"no method {method}"}}
        return answer | {"result": self.spoil(method, result)}

    def _sign(self, method: str, params: list[Any]) -> Any:
        if method in ("accounts", "list"):
            return self.accounts
        if method == "signTransaction":
            fields = {name: value for name, value in params[0].items() if name != "from"}
            fields |= {name: int(fields[name], 16) for name in _NUMBERS} | self.change_fields
            raw = f"0x{self._signer.sign_transaction(fields).hex()}"
            return raw if self._dialect == "eth" else {"raw": raw, "tx": {}}
        if method == "signTypedData":
            return f"0x{self._signer.sign_typed_data(params[1]).hex()}"
        return None


def main() -> None:
    server = SignerServer(LocalSigner(bytes.fromhex(sys.argv[1])), *sys.argv[2:3])
    print(server.url, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
