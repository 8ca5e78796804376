"""A process that has computed every party's trace once, and forks one party for each line of JSON it reads.

It first says in a line what there is to post and to be disputed about (`offer`), and then reads:

    {"do": "start", "name": "cheater", "part": "WrongTrace", "key": 0, "folder": path, "url": ..., "court": ...,
     "docket": ..., "block": 0, "accuses": [[subject in hex, segment], ...]}
    {"do": "look"}
    {"do": "stop"}

Each is answered with a line: the party's process id, the names of those that ended by themselves, and "ended" once all
parties are gone. They are, too, when its input closes. A key is a number in the tests' `KEYS`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from chain_process import KEYS

from adversary.disputes.sides import PARTS, offer
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import CourtContract
from cupel.node.disputes.player import DisputePlayer
from cupel.node.journal import Identity, Journal
from cupel.node.log import Log
from cupel.protocol.errors import CupelError
from cupel.protocol.types import Address

_PR_SET_PDEATHSIG = 1


def play(request: dict[str, Any]) -> None:
    """One party, until it is killed."""
    key, docket = KEYS[request["key"]], Address(request["docket"])
    folder = Path(request["folder"], request["name"])
    folder.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(folder / "outbox.sqlite3")
    journal = Journal(folder, Identity(chain_id=31337, contract=docket, address=key.address))
    chain = ChainClient(request["url"], key, poll_seconds=0.02, outbox=outbox, notify=lambda _: None)
    court = CourtContract(chain, Address(request["court"]))
    player = DisputePlayer(
        chain=chain,
        court=court,
        run=docket,
        sides=PARTS[request["part"]](chain, docket),
        journal=journal,
        log=Log(request["name"], as_json=True),
        first_block=request["block"],
    )
    for subject, segment in request["accuses"]:
        player.accuse(bytes.fromhex(subject), segment, until=10**9, reason="not what it should be")
    while True:
        try:
            busy = player.play()
        except CupelError as trouble:
            print(json.dumps({"event": "trouble", "reason": str(trouble)}), file=sys.stderr, flush=True)
            busy = False
        if not busy:
            time.sleep(0.05)


def become(request: dict[str, Any]) -> None:
    """A party ends with its server, and says what it says in a file of its own."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(Path(request["folder"], f"{request['name']}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    try:
        play(request)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    # A child has none of the threads that its parent computed with, and would wait for them.
    torch.set_num_threads(1)
    print(json.dumps(offer()), flush=True)
    children: dict[int, str] = {}
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "start":
            child = os.fork()
            if child == 0:
                become(request)
            children[child] = request["name"]
            print(child, flush=True)
        elif do == "look":
            gone = [name for child, name in children.items() if has_ended(child)]
            print(json.dumps(gone), flush=True)
        else:
            end(children)
            print("ended", flush=True)
    end(children)


def has_ended(child: int) -> bool:
    """Whether it ended by itself; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(children: dict[int, str]) -> None:
    """Kill them all, and wait until they are gone."""
    while children:
        child, _ = children.popitem()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
