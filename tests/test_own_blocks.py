"""A miner that loses its own blocks after it committed to them has them again before anybody needs to do without."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from network_world import open_world

from cupel.chain.run_values import Phase, Status
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.cid import parse_cid
from cupel.node.block_index import BlockIndex
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


@pytest.mark.parametrize("damaged", [("pins.json",), ("pins.json", "pins.json.copy")])
def test_a_committed_unit_outlives_damage_to_the_names_of_its_files(tmp_path: Path, damaged: tuple[str, ...]) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **ALONE) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start()
        world.wait_for("a segment", lambda: miner.events("segment"), timeout_s=120)
        assert verifier.process is not None
        verifier.process.send_signal(signal.SIGSTOP)  # what it fetched before would not be missed
        (unit,) = world.wait_for("commitment", lambda: world.contract.get_units(0), timeout_s=120)
        miner.kill()
        for name in damaged:
            path = miner.data / "store" / name
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x04
            path.write_bytes(content)
        miner.start()
        world.wait_for("the miner again", lambda: len(miner.events("ready")) == 2, timeout_s=120)
        verifier.process.send_signal(signal.SIGCONT)
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)
        world.wait_for("its end noted", lambda: miner.events("round ended"), timeout_s=120)
        world.wait_for("names restored", lambda: knows_its_pins(miner.data / "store"), timeout_s=120)

        (unit,) = world.contract.get_units(0)
        assert unit.opened
        assert unit.status == Status.ATTESTED
        assert world.contract.get_state(1)[0] == unit.contribution
        miner.kill()
        with BlockStore(miner.data / "store") as store:
            assert unit.cid is not None
            index, description = BlockIndex(store), UnitDescription.from_bytes(store.read(unit.cid))
            # As long as the round's files are kept, everybody may have them.
            for leaf, state in enumerate(description.states[1:], start=1):
                assert f"unit/0/{unit.unit_id.hex()}/{leaf}" in index.names(parse_cid(state.cid))
            store.collect_garbage()
            assert all(store.has(state.cid) for state in description.states)


def knows_its_pins(folder: Path) -> bool:
    with BlockStore(folder, read_only=True) as store:
        return not store.pins_lost
