"""What `cupel dispute show` says of an element of more terms than can be recomputed at once is what was played."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from contract_world import Receipt
from court_long_world import ONE_OF_EACH, Fraud, begin, challenge, held, prover, smaller_exponent, value_of
from court_world import Dispute

from cupel.chain.abi import decode_values, load_abi
from cupel.chain.court_events import CourtEvent, DisputeRecord
from cupel.disputes.deciding import tell_decision
from cupel.disputes.history import PARAMETERS, tell_moves
from cupel.protocol.disputes import HeldProver
from cupel.protocol.disputes.game import Defence
from cupel.protocol.proceedings import Move, Stage
from cupel.protocol.trees import Tree
from cupel.protocol.types import Height

TOLD: dict[str, tuple[Callable[[], Fraud], str]] = {
    "block of a part": (
        ONE_OF_EACH["sum"],
        r"adding up terms 3,072 to 4,095 of 1,051,576 does not give the posted -?\d+",
    ),
    "named": (ONE_OF_EACH["max"], r"term [\d,]+ decides, not term 17 that was named"),
    "exponent": (lambda: smaller_exponent("sum", 0, 5), r"term [\d,]+ is beyond the posted exponent"),
    "between": (ONE_OF_EACH["sort"], r"(term [\d,]+ belongs behind place 99|place [\d,]+ holds the same position)"),
}


class Told:
    """A dispute's events and moves, as its chain keeps them."""

    def __init__(self, dispute: Dispute) -> None:
        self.dispute, self._events, self._made = dispute, [], Move("", ())
        world, number = dispute.world, dispute.number
        accused = {
            "dispute": number,
            "run": world.docket,
            "accused": "A",
            "challenger": "B",
            "subject": b"",
            "segment": 0,
        }
        self._keep(Receipt(gas=0, contract=None, events=(("Accused", accused),)))
        send, follow = dispute.send, dispute.follow

        def keep_move(account: Any, move: Move) -> Receipt:
            self._made = move
            return send(account, move)

        def keep_events(receipt: Receipt) -> Dispute:
            self._keep(receipt)
            return follow(receipt)

        dispute.send, dispute.follow = keep_move, keep_events  # type: ignore[method-assign]

    def _keep(self, receipt: Receipt) -> None:
        made = len(self._events).to_bytes(32, "big")
        for name, arguments in receipt.events:
            self._events.append(
                CourtEvent(
                    name=name, arguments=arguments, block_number=Height(len(self._events)), block_hash=b"", position=0,
                    transaction_hash=made,
                )
            )  # fmt: skip

    @property
    def record(self) -> DisputeRecord:
        return DisputeRecord(events=self._events)

    def tell(self, operation: str) -> str:
        """From the last move's calldata."""
        function = self._made.function
        call = load_abi("Court").bind(self.dispute.world.docket, function, self.dispute.number, *self._made.arguments)
        values = decode_values(load_abi("Court").functions[function].inputs, call.data[4:], function)
        return tell_decision(self.record, function, dict(zip(PARAMETERS[function], values, strict=True)), operation)


@pytest.mark.parametrize("kind", TOLD)
def test_the_deciding_move_is_told_with_its_terms(kind: str) -> None:
    make, words = TOLD[kind]
    fraud = make()
    told = Told(begin(fraud.lie))
    told.dispute.play(fraud.defence, challenge())
    assert told.record.ending is not None
    assert told.record.ending.convicted
    operation = prover().operation(value_of(fraud.name)).opcode.name
    assert re.fullmatch(words, told.tell(operation))
    last = tell_moves(told.record)[-1].text
    assert last == (
        f"has element {fraud.element} recomputed: CONVICTED"
        if kind == "between"
        else "has a sum or a term recomputed: CONVICTED"
    )


def test_a_term_that_was_pointed_at_for_nothing_is_told_so() -> None:
    own = HeldProver(held().trace, held().read)
    defence, value = Defence(segment=None, hold=lambda _: held()), value_of("max")
    dispute = begin(None)
    told = Told(dispute)
    dispute.play_to(Stage.CONTEST, defence, challenge())
    for place in (value, 0):
        nodes = dispute.position.nodes
        dispute.send(dispute.challenger, Move("chooseNode", (place, nodes[place], Tree(nodes).path(place))))
        dispute.send(dispute.accused, defence.move(dispute.position))
    _, proof = own.prove_count(*own.about(value), 1)
    dispute.send(dispute.challenger, Move("askSums", (1, proof.to_bytes())))
    dispute.send(dispute.accused, defence.move(dispute.position))
    named = dispute.position.reduction.positions[0]
    _, proof = own.prove_witness(*own.about(value), 1, named, (3, 3))
    dispute.send(dispute.challenger, Move("judgeWitness", ([3, 3], proof.to_bytes())))
    assert told.tell("MAX") == f"term {named:,} that was named decides, not term 3"
    assert tell_moves(told.record)[-1].text == "has a sum or a term recomputed: DISMISSED"
