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
from dispute_players import Player

from adversary.disputes.sides import PARTS, offer
from cupel.protocol.errors import CupelError

_PR_SET_PDEATHSIG = 1


def play(request: dict[str, Any]) -> None:
    """One party, until it is killed."""
    where = {name: request[name] for name in ("url", "court", "docket", "block")}
    key, part = KEYS[request["key"]], PARTS[request["part"]]
    player = Player(request["name"], Path(request["folder"]), key=key, make_sides=part, **where).player
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
