"""The demo's end: blocks are skipped until nothing can be disputed any more, and every party claims what it earned.

On a network these blocks take their time, because a dispute may. Here nobody is left who could begin one: the run's
processes have ended, all disputes have, and the round that was opened meanwhile has asked nobody for anything yet:
while the court sits, the honest miners are paused, and without their units a round goes no further.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cupel.chain.client import ChainClient
from cupel.chain.run_contract import RunContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Phase, Status
from cupel.demo.preparation import Party
from cupel.demo.processes import Fleet, ManagedProcess
from cupel.disputes.history import CourtReader

CALM = frozenset({Phase.WAITING, Phase.TRAIN})
"""Phases in which nobody owes anything that the skipped blocks could make late: units not yet committed cost nothing,
and those that are go on when the run does."""
CALM_TIMEOUT_S = 180.0
LOOK_S = 0.5
BLOCKS_AT_ONCE = 256
SKIPS_AT_MOST = 100_000
IN_FLIGHT_BLOCKS = 3
ROUNDS_IN_WINDOW = 4
"""Of the newest, whose units may not have been judged by the court yet."""


def hold_round(contract: RunContract, miners: Sequence[ManagedProcess], block_time_s: float) -> None:
    """Pause these miners in a round that waits for a unit of theirs; not at all, if that does not come in time."""
    deadline = time.monotonic() + CALM_TIMEOUT_S
    while time.monotonic() < deadline:
        if contract.current().phase in CALM:
            for miner in miners:
                miner.pause()
            # What was sent before is in a block by then.
            time.sleep(IN_FLIGHT_BLOCKS * block_time_s)
            view = contract.get_round(contract.current().round)
            if view.phase == Phase.WAITING or (view.phase == Phase.TRAIN and view.committed < view.units):
                return
            for miner in miners:
                miner.go_on()
        time.sleep(LOOK_S)


def let_mature(
    fleet: Fleet, client: ChainClient, run: RunFile, parties: Sequence[Party], say: Callable[[str], None]
) -> int:
    """Stop the nodes, skip blocks and claim. The number of blocks; 0 where something was still to be decided, and what
    was earned stays pending."""
    contract = RunContract(client, run.contract)
    deadline = time.monotonic() + CALM_TIMEOUT_S
    while not _is_calm(contract, client, run):
        if time.monotonic() > deadline:
            return 0
        time.sleep(LOOK_S)
    fleet.stop_nodes()
    if not _is_calm(contract, client, run):
        return 0
    current = contract.current()
    accounts = [party.signer.address for party in parties]
    heights = [entry.mature_at for one in accounts for entry in contract.claimable(one, 0, current.round)]
    blocks = max(heights, default=0) - client.head().number
    if not 0 < blocks <= SKIPS_AT_MOST:
        return 0
    say(f"Skipping {blocks:,} blocks, in which everything could still be disputed on a network ...")
    for done in range(0, blocks, BLOCKS_AT_ONCE):
        client.request("cupel_skip", hex(min(BLOCKS_AT_ONCE, blocks - done)))

    def claim(party: Party) -> None:
        own = ChainClient(client.url, party.signer)
        try:
            mine = RunContract(own, contract.address)
            entries = mine.claimable(party.signer.address, 0, current.round)
            rounds = [entry.round for entry in entries if entry.claimable_now]
            if rounds:
                mine.claim(rounds)
        finally:
            own.close()

    with ThreadPoolExecutor(len(parties)) as pool:
        list(pool.map(claim, parties))
    return blocks


def _is_calm(contract: RunContract, client: ChainClient, run: RunFile) -> bool:
    """Whether nobody loses by being away: who rejected a unit has to have it convicted, who is accused to answer."""
    current = contract.current()
    past = range(max(0, current.round - ROUNDS_IN_WINDOW), current.round)
    rejected = any(unit.status == Status.DISPUTED for one in past for unit in contract.get_units(one))
    # A reader tells of one block: another look is another reader.
    disputes = CourtReader(client, run).list_disputes()
    return current.phase in CALM and not rejected and all(one.ending is not None for one in disputes)
