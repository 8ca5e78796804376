"""A miner that loses its own blocks after it committed to them has them again before anybody needs to do without."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from network_world import open_world

from cupel.chain.run_values import Phase, Status
from cupel.network.ipfs.blockstore import BlockStore
from cupel.node.descriptions import UnitDescription

ALONE = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "seal_blocks": 240,
    "segments": 3,
}


@pytest.mark.parametrize("lost", ["description", "end state"])
def test_a_block_that_disappears_while_verifiers_want_it_costs_the_unit_nothing(tmp_path: Path, lost: str) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **ALONE) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start()
        world.wait_for("a segment", lambda: miner.events("segment"), timeout_s=120)
        # Held still while the block disappears, so that it cannot have fetched it before.
        assert verifier.process is not None
        verifier.process.send_signal(signal.SIGSTOP)
        (unit,) = world.wait_for("commitment", lambda: world.contract.get_units(0), timeout_s=120)
        world.wait_for("seal phase", lambda: world.contract.current().phase == Phase.SEAL, timeout_s=120)
        # The miner looks at its blocks as a phase begins; what matters is what is lost later.
        world.wait_for("the miner in it", lambda: "round 0 seal" in miner.text(), timeout_s=120)
        assert unit.cid is not None
        with BlockStore(miner.data / "store", read_only=True) as store:
            end = UnitDescription.from_bytes(store.read(unit.cid)).states[-1].cid
        (block,) = (miner.data / "store" / "blocks").glob(f"*/{unit.cid if lost == 'description' else end}")
        block.unlink()
        verifier.process.send_signal(signal.SIGCONT)
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)

        (unit,) = world.contract.get_units(0)
        assert unit.status == Status.ATTESTED
        assert block.exists()
        assert world.contract.get_state(1)[0] == unit.contribution
