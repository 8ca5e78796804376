"""What `cupel dispute list` and `show` say of disputes played on a real chain is what was played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH
from court_chain import ACCUSED, CHALLENGER, CLOCKS, CourtChain, open_court
from court_world import UNIT, Lie, Unit, challenge_of, hold_step, prover_of_step
from dispute_files import invoke, refused
from referee_world import changed

from cupel.chain.run_file import RunFile
from cupel.protocol.disputes.game import Challenge, Defence
from cupel.protocol.hashing import sha256
from cupel.protocol.types import Height

FALSE, OPEN = sha256(b"false unit"), sha256(b"open unit")


@dataclass(frozen=True, kw_only=True)
class Played:
    """A chain with disputes on it, by name."""

    world: CourtChain
    run: Path
    disputes: dict[str, int]

    def ask(self, command: str, *options: str) -> Any:
        return invoke(command, "--run", str(self.run), "--rpc", self.world.chain.url, *options)

    def show(self, name: str) -> dict[str, Any]:
        done = self.ask("show", str(self.disputes[name]), "--json")
        assert done.exit_code == 0, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def lying_value() -> tuple[int, int]:
    """An operation of the step that gives floats, and the element that is wrong."""
    prover = prover_of_step(1)
    values = range(len(prover.trace.trees) - 1, 0, -1)
    return next(v for v in values if prover.result(v).numel() > 20 and prover.result(v).is_floating_point()), 17


def accuse(world: CourtChain, subject: bytes) -> int:
    client = world.connect(CHALLENGER)
    court = world.bind_court(client)
    salt = sha256(subject)
    court.announce(court.compute_announcement(world.docket, subject, 0, client.address, salt))
    bond = court.bond_for(world.docket, ACCUSED.address)
    receipt = court.accuse(world.docket, subject, 0, salt, bond_wei=bond)
    client.close()
    return next(int(event.arguments["dispute"]) for event in court.read_events(receipt.logs) if event.name == "Accused")


def play(world: CourtChain, number: int, defence: Defence, challenge: Challenge) -> None:
    clients = {key.address: world.connect(key) for key in (ACCUSED, CHALLENGER)}
    court = world.bind_court(clients[CHALLENGER.address])
    while (turn := court.turn_of(number)).stage.name != "CLOSED":
        record = court.get_dispute(number, first_block=world.block)
        move = defence.move(record.position) if turn.mover == ACCUSED.address else challenge.move(record.position)
        assert move is not None
        world.bind_court(clients[turn.mover]).move(number, move)
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("court")
    value, element = lying_value()
    wrong = changed(prover_of_step(1).result(value), element, 1)
    false, batch = Lie(step=1, values={value: wrong}), Lie(step=0, values={batch_value(): wrong_batch()})
    with open_court(folder, block_time_s=0.02) as world:
        posted = {"false": (FALSE, false), "batch": (UNIT, batch), "open": (OPEN, Lie(step=1, end_root=b"\1" * 32))}
        numbers = {}
        for name, (subject, lie) in posted.items():
            # What a step draws depends on the unit's id: a batch can only be judged of the one that computed it.
            # Every lie shows in the end, or its step would never be looked at.
            lie = Lie(step=lie.step, values=lie.values, end_root=lie.end_root or sha256(name.encode()))
            unit = Unit(lie)
            world.post_unit(unit, subject)
            numbers[name] = accuse(world, subject)
            if name != "open":
                play(world, numbers[name], unit.defence(0), challenge_of(0))
        client = world.connect(CHALLENGER)
        run = RunFile(
            chain_id=client.chain_id, contract=world.docket, token=world.docket, beacon=world.docket,
            deploy_block=Height(world.block),
        )  # fmt: skip
        client.close()
        run.write(folder / "run.json")
        yield Played(world=world, run=folder / "run.json", disputes=numbers)


def batch_value() -> int:
    return hold_step(0).program.input_names.index("1")


def wrong_batch() -> bytes:
    return changed(prover_of_step(0).inputs[batch_value()], 3, 1)


def test_the_list_says_who_stands_where(played: Played) -> None:
    listed = json.loads(played.ask("list", "--json").stdout)["disputes"]
    assert [one["dispute"] for one in listed] == list(played.disputes.values())
    by_number = {one["dispute"]: one for one in listed}
    false, batch, open_ = (by_number[played.disputes[name]] for name in ("false", "batch", "open"))
    assert "an element was recomputed and is wrong" in false["ending"]
    assert batch["ending"] == false["ending"]
    assert (open_["stage"], open_["mover"], open_["ending"], open_["kind"]) == ("SEGMENT", "accused", "", "unit")
    assert 0 < open_["blocks_left"] <= CLOCKS.clock_blocks
    assert {one["accused"] for one in listed} == {ACCUSED.address}
    text = played.ask("list", "--open").output
    assert "accused's turn (segment)" in text
    assert "convicted" not in text
    assert "No dispute that is asked for, of 3" in played.ask("list", "--address", played.world.court).output


def test_the_verdict_names_operation_and_element_and_both_values(played: Played, tmp_path: Path) -> None:
    value, element = lying_value()
    shown = played.show("false")
    verdict = shown["verdict"]
    program = hold_step(1).program
    number = value - len(program.graph.inputs) - len(program.constants)
    assert (verdict["convicted"], verdict["value"], verdict["element"]) == (True, value, element)
    assert (verdict["operation"], verdict["opcode"]) == (number, program.operations[number].opcode.name)
    right = prover_of_step(1).result(value).reshape(-1)[element]
    assert verdict["right"].startswith(f"{right.numpy()!s} (0x")
    assert verdict["claimed"] != verdict["right"]
    assert verdict["finder"] == CHALLENGER.address
    assert int(verdict["prize_wei"]) == 2 * ETH
    # The proof that the chain saw convicts here as well.
    saved = tmp_path / "proof.json"
    done = played.ask("show", str(played.disputes["false"]), "--save", str(saved))
    assert f"claimed     {verdict['claimed']}" in done.output
    judged = invoke("judge", str(saved), "--run", str(played.run), "--rpc", played.world.chain.url)
    assert judged.exit_code == 0, judged.output
    assert judged.output.count("the claimed element is WRONG") == 3


def test_every_move_has_its_block_and_its_side(played: Played) -> None:
    shown = played.show("false")
    moves = shown["moves"]
    assert [move["by"] for move in moves[:4]] == ["challenger", "accused", "challenger", "accused"]
    assert moves[0]["text"] == "accuses, with its bond"
    assert moves[2]["text"] == "chooses step 1 of the segment"
    assert moves[4]["text"] == f"chooses value {lying_value()[0]}: the first that is wrong"
    assert moves[-1]["text"] == f"has element {lying_value()[1]} recomputed: CONVICTED"
    assert [move["height"] for move in moves] == sorted(move["height"] for move in moves)
    assert all(len(move["transaction"]) == 66 for move in moves)


def test_a_batch_of_other_data_is_shown_as_a_token(played: Played) -> None:
    verdict = played.show("batch")["verdict"]
    wrong = wrong_batch()
    assert verdict["name"] == "input '1', the batch"
    assert (verdict["element"], verdict["claimed"]) == (3, str(int.from_bytes(wrong[12:16], "little")))
    done = played.ask("show", str(played.disputes["batch"]))
    assert "what the run's data has there" in done.output
    assert "no proof to save" in refused(played.ask("show", str(played.disputes["batch"]), "--save", "x"))


def test_an_open_dispute_says_whose_turn_it_is(played: Played) -> None:
    shown = played.show("open")
    assert shown["verdict"] is None
    assert (shown["mover"], shown["until"] - shown["block"]) == ("accused", shown["blocks_left"])


def test_mistakes_are_answered_in_one_line(played: Played, tmp_path: Path) -> None:
    assert "the run has no dispute 99; newest disputes: 1, 2, 3" in refused(played.ask("show", "99"))
    assert "give its --rpc URL" in refused(invoke("list", "--run", str(played.run)))
    assert "holds no run" in refused(invoke("list", "--dir", str(tmp_path), "--rpc", played.world.chain.url))
    other = json.loads(played.run.read_text()) | {"contract": played.world.court}
    (tmp_path / "run.json").write_text(json.dumps(other))
    done = invoke("list", "--dir", str(tmp_path), "--rpc", played.world.chain.url)
    assert "names no court" in refused(done)
    nowhere = other | {"contract": ACCUSED.address}
    (tmp_path / "run.json").write_text(json.dumps(nowhere))
    assert "is this the run's chain?" in refused(
        invoke("list", "--dir", str(tmp_path), "--rpc", played.world.chain.url)
    )
