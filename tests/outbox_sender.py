"""A process that sends one transaction and may be told to kill itself on the way.

    python outbox_sender.py URL[,URL...] OUTBOX KEY_HEX TO VALUE_WEI [STEP]

It takes up what its predecessor left, sends, and prints the hash of the transaction that is in a block. At STEP
(journalled, signed, sent or receipt) it is gone as by `kill -9`, unless STEP is `-`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cupel.chain.abi import bind_transfer
from cupel.chain.client import ChainClient, FeePolicy, Outbox
from cupel.chain.keys import LocalSigner
from cupel.protocol.types import Address


def main() -> None:
    urls, outbox, key, to, value_wei, step = sys.argv[1:7]

    def observe(reached: str, what: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    client = ChainClient(
        urls.split(","),
        LocalSigner(bytes.fromhex(key)),
        poll_seconds=0.02,
        outbox=Outbox(Path(outbox)),
        observe=observe,
        fees=FeePolicy(replace_after_blocks=2, replace_after_s=0),
    )
    client.recover()
    print(f"recovered {len(client.list_pending())}", flush=True)
    receipt = client.send(bind_transfer(Address(to)), value_wei=int(value_wei))
    print(f"0x{receipt.transaction_hash.hex()}", flush=True)


if __name__ == "__main__":
    main()
