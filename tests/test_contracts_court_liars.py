"""Who lies is convicted, wherever the lie is; who is honest never is, whatever the challenger does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from contract_world import Refused
from court_world import (
    MERGE,
    UNIT,
    CourtWorld,
    Dispute,
    Lie,
    Unit,
    challenge_of,
    hold_long,
    hold_merge,
    hold_step,
    long_program,
    long_state,
    make_court,
    merge_challenge,
    prover_of_long,
    prover_of_merge,
    prover_of_step,
    step_program,
    values_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.disputes.game import Challenge, Defence, children_of
from cupel.protocol.hashing import LEAF_BYTES
from cupel.protocol.proceedings import Move, Stage
from cupel.protocol.trees import Tree, height

WRONG = hashlib.sha256(b"wrong").digest()
OPERATIONS = step_program().operations
FIRST = len(step_program().graph.inputs) + len(step_program().graph.constants)
TOKENS = len(step_program().graph.inputs) - 1
ONE_OF_EACH = {op.opcode: FIRST + at for at, op in reversed(list(enumerate(OPERATIONS)))}


def flipped(value: int, element: int, bit: int = 0, step: int = 1) -> bytes:
    """A value's bytes with a bit of one element the other way."""
    data = bytearray(values_of(prover_of_step(step))[value])
    size = step_program().graph.type_of(value).dtype.size_bytes
    data[element % (len(data) // size) * size + bit // 8 % size] ^= 1 << bit % 8
    return bytes(data)


def wrong_weights(after: dict[str, bytes]) -> dict[str, bytes]:
    return {**after, "weights.out": WRONG}


def dispute_about(unit: Unit, segment: int = 0, court: CourtWorld | None = None) -> Dispute:
    world = make_court() if court is None else court
    world.post_unit(world.accounts[0], unit)
    return world.accuse(world.accounts[1], world.accounts[0], UNIT, segment)


def convicts(lie: Lie) -> list[str]:
    """Plays the dispute; the liar must lose. Returns the moves."""
    unit = Unit(lie)
    segment = lie.step // 2
    dispute = dispute_about(unit, segment)
    assert dispute.play(unit.defence(segment), challenge_of(segment)) == "Convicted", dispute.moves
    dispute.world.check_solvent(0)
    return dispute.moves


# ---------------------------------------------------------------- liars


@pytest.mark.parametrize("opcode", sorted(ONE_OF_EACH), ids=lambda code: Opcode(code).name)
def test_one_wrong_element_of_any_operation_convicts(opcode: Opcode) -> None:
    value = ONE_OF_EACH[opcode]
    moves = convicts(Lie(step=1, values={value: flipped(value, 3)}, after=wrong_weights))
    assert moves[-1] == "judge"


@given(st.integers(FIRST, FIRST + len(OPERATIONS) - 1), st.integers(0, 1 << 16), st.integers(0, 63), st.integers(0, 3))
@settings(max_examples=5, deadline=None)
def test_one_wrong_bit_anywhere_convicts(value: int, element: int, bit: int, step: int) -> None:
    lie = Lie(step=step, values={value: flipped(value, element, bit, step)}, after=wrong_weights)
    assert convicts(lie)[-1] == "judge"


def test_a_root_of_nothing_loses_by_silence() -> None:
    assert convicts(Lie(step=1, end_root=WRONG))[-1] == "contestState"
    assert convicts(Lie(step=0, end_root=WRONG))[-1] == "contestState"


def test_another_input_than_the_state_before_loses_by_silence() -> None:
    assert convicts(Lie(step=1, values={0: flipped(0, 7)}, after=wrong_weights))[-1] == "chooseNode"


@pytest.mark.parametrize("value", [0, len(step_program().graph.inputs), FIRST], ids=["input", "constant", "operation"])
def test_the_right_value_cannot_be_shown_where_the_trace_holds_another(value: int) -> None:
    unit = Unit(Lie(step=1, values={value: flipped(value, 0)}, after=wrong_weights))
    dispute = dispute_about(unit).play_to(Stage.VALUE, unit.defence(0), challenge_of(0))
    with pytest.raises(Refused) as caught:
        dispute.send(dispute.accused, Unit().defence(0).move(dispute.position))
    caught.value.must_be("HashMismatch")


def test_another_constant_loses_by_silence() -> None:
    value = len(step_program().graph.inputs)
    assert convicts(Lie(step=1, values={value: flipped(value, 0)}, after=wrong_weights))[-1] == "chooseNode"


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_batch_of_other_tokens_convicts(step: int) -> None:
    moves = convicts(Lie(step=step, values={TOKENS: flipped(TOKENS, 6, 1, step)}, after=wrong_weights))
    assert moves[-1] == "judgeBatch"


def test_a_right_trace_with_another_state_after_loses() -> None:
    moves = convicts(Lie(step=1, after=wrong_weights))
    assert moves[-3:] == ["contestState", "openNodes", "chooseNode"]


def test_a_state_that_lacks_an_output_loses_by_the_omission() -> None:
    """`rate` is left out, and `step` stands where it should: every leaf that can be shown is an output's."""

    def omit(after: dict[str, bytes]) -> dict[str, bytes]:
        kept = {name: root for name, root in after.items() if name != "rate"}
        return {**kept, "zzz": WRONG}

    assert convicts(Lie(step=1, after=omit))[-1] == "proveOmission"


def test_names_out_of_order_lose_by_silence() -> None:
    """The same leaves in another order are another state."""
    held = hold_step(1)
    names = list(reversed(held.names))
    lie = Lie(step=1, end_root=Tree(list(reversed(held.state_tree.levels[0]))).root)
    unit = Unit(lie)
    dispute = dispute_about(unit)
    challenge, defence = challenge_of(0), unit.defence(0)
    dispute.play_to(Stage.STATE_NODES, defence, challenge)
    posted = list(reversed(held.state_tree.levels[0]))
    dispute.send(dispute.accused, Move("openNodes", (posted,)))
    move = challenge.move(dispute.position)
    assert move is not None
    dispute.send(dispute.challenger, move)
    # The first leaf can be shown: but then a name that sorts before it was left out.
    index = dispute.position.index
    assert index == 0
    output = held.output(f"0.{names[0]}")
    dispute.send(dispute.accused, Move("openStateLeaf", (held.trace.tree.root, output, b"", bytes(32), [])))
    assert dispute.play(defence, challenge) == "Convicted"
    assert dispute.moves[-1] == "proveOmission"


def test_a_name_that_comes_twice_cannot_be_shown() -> None:
    held = hold_step(1)
    posted = [held.state_tree.levels[0][0], *held.state_tree.levels[0][:1], *held.state_tree.levels[0][2:]]
    unit = Unit(Lie(step=1, end_root=Tree(posted).root))
    challenge = challenge_of(0)
    dispute = dispute_about(unit).play_to(Stage.STATE_NODES, unit.defence(0), challenge)
    dispute.send(dispute.accused, Move("openNodes", (posted,)))
    dispute.play_to(Stage.STATE_LEAF, unit.defence(0), challenge)
    first = held.names[0]
    again = (held.output(f"0.{first}"), first.encode(), held.after[first], Tree(posted).path(0))
    with pytest.raises(Refused) as caught:
        dispute.send(dispute.accused, Move("openStateLeaf", (held.trace.tree.root, *again)))
    caught.value.must_be("NotAscending")


def test_a_loss_that_is_not_the_trace_s_loses_by_silence() -> None:
    assert convicts(Lie(step=3, loss=b"\0\0\x80?"))[-1] == "contestEvidence"


def test_a_wrong_merge_convicts() -> None:
    program = prover_of_merge().program
    first = len(program.graph.inputs) + len(program.graph.constants)
    data = bytearray(values_of(prover_of_merge())[first + 1])
    data[5] ^= 16
    lie = Lie(values={first + 1: bytes(data)}, after=lambda after: {**after, "rate": WRONG})
    world = make_court()
    world.post_merge(world.accounts[0], hold_merge(lie).state_tree.root)
    dispute = world.accuse(world.accounts[1], world.accounts[0], MERGE)
    defence = Defence(segment=None, hold=lambda _: hold_merge(lie))
    assert dispute.play(defence, merge_challenge()) == "Convicted"
    assert dispute.moves[-1] == "judge"


def test_a_merge_of_other_states_loses_by_silence() -> None:
    held = hold_merge(Lie(values={0: bytes(4 * 16 * 40)}, after=lambda after: {**after, "rate": WRONG}))
    world = make_court()
    world.post_merge(world.accounts[0], held.state_tree.root)
    dispute = world.accuse(world.accounts[1], world.accounts[0], MERGE)
    assert dispute.play(Defence(segment=None, hold=lambda _: held), merge_challenge()) == "Convicted"
    assert dispute.moves[-1] == "chooseNode"


@pytest.mark.parametrize("name", ["x", "z"])
def test_trees_that_one_move_cannot_open_are_opened_in_two(name: str) -> None:
    """The lie is in the last leaf of a tensor of 1,030, or in one of the last of 1,100 values."""
    program = long_program()
    value = program.graph.outputs[program.output_names.index(name)]
    data = bytearray(values_of(prover_of_long())[value])
    data[-2] ^= 1
    lie = Lie(values={value: bytes(data)}, after=lambda after: {**after, "x": WRONG})
    held = hold_long(lie)
    world = make_court()
    world.post_merge(world.accounts[0], held.state_tree.root, [long_state()])
    dispute = world.accuse(world.accounts[1], world.accounts[0], MERGE)
    challenge = Challenge(step_roots=[], hold=lambda _: hold_long(), prover=lambda _: prover_of_long())
    assert dispute.play(Defence(segment=None, hold=lambda _: held), challenge) == "Convicted"
    assert dispute.moves.count("openNodes") == (2 if name == "x" else 1)
    assert dispute.moves[-1] == "judge"
    assert max(world.gas_of["openNodes"] + world.gas_of["openValue"] + world.gas_of["postTrace"]) < 3_000_000


def test_a_leaf_of_other_bytes_than_its_hash_is_refused() -> None:
    lie = Lie(step=1, values={FIRST: flipped(FIRST, 2)}, after=wrong_weights)
    unit = Unit(lie)
    dispute = dispute_about(unit).play_to(Stage.LEAF, unit.defence(0), challenge_of(0))
    right = values_of(prover_of_step(1))[FIRST][:LEAF_BYTES]
    for data, name in ((right, "HashMismatch"), (right[:-1], "WrongLength")):
        with pytest.raises(Refused) as caught:
            dispute.send(dispute.accused, Move("openLeaf", (data,)))
        caught.value.must_be(name)


def test_a_proof_that_proves_nothing_decides_nothing() -> None:
    """The evaluator refuses it, the dispute stands as it stood, and a right one still convicts."""
    lie = Lie(step=1, values={FIRST: flipped(FIRST, 2)}, after=wrong_weights)
    unit = Unit(lie)
    challenge = challenge_of(0)
    dispute = dispute_about(unit).play_to(Stage.ELEMENT, unit.defence(0), challenge)
    move = challenge.move(dispute.position)
    assert move is not None
    element, proof = move.arguments
    for bad in (proof[:-32], proof[:64] + WRONG + proof[96:], b""):
        with pytest.raises(Refused):
            dispute.send(dispute.challenger, Move("judge", (element, bad)))
    assert dispute.position.stage == Stage.ELEMENT
    dispute.send(dispute.challenger, move)
    assert dispute.ended is not None
    assert dispute.ended[0] == "Convicted"


# ---------------------------------------------------------------- the honest


def any_move(data: Any, dispute: Dispute, challenge: Challenge) -> Move | None:
    """What a challenger might do who does not care for the truth; None: nothing any more."""
    p = dispute.position

    def choose(what: Sequence[Any]) -> Any:
        return data.draw(st.sampled_from(what))

    if p.stage == Stage.STEP:
        return Move("chooseStep", (choose(range(2)), list(p.inner_roots)))
    held = challenge.hold(p.step or 0)
    if p.stage == Stage.CONTEST and choose((0, 1, 2)) == 0:
        return Move("contestState", ())
    if p.stage == Stage.CONTEST and p.step == 1 and choose((0, 1, 2)) == 0:
        return Move("contestEvidence", ())
    if p.stage in (Stage.CONTEST, Stage.TRACE_CHOICE, Stage.TENSOR_CHOICE, Stage.STATE_CHOICE):
        place = choose(range(len(p.nodes)))
        return Move("chooseNode", (place, p.nodes[place], Tree(p.nodes).path(place)))
    if p.stage != Stage.ELEMENT or p.found is None:
        return None
    # The honest leaf, as if it differed: proofs of any element of it are right.
    value, graph = p.found.index, held.program.graph
    size = graph.type_of(value).dtype.size_bytes
    element = (p.index * LEAF_BYTES) // size + choose(range(len(p.data) // size))
    at = element * size - p.index * LEAF_BYTES
    pretended = p.data[:at] + bytes([p.data[at] ^ 1]) + p.data[at + 1 :]
    own = Challenge(
        step_roots=challenge.step_roots,
        hold=lambda _: _reading(held, value, p.index, pretended),
        prover=challenge.prover,
        data=challenge.data,
    )
    return own.move(p)


def _reading(held: Any, value: int, leaf: int, data: bytes) -> Any:
    """What is held, with other bytes of one leaf."""
    whole = held.read(value)
    changed = whole[: leaf * LEAF_BYTES] + data + whole[(leaf + 1) * LEAF_BYTES :]
    return replace(held, read=lambda v: changed if v == value else held.read(v))


@given(st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
def test_an_honest_accused_never_loses_under_any_order_of_moves(data: Any) -> None:
    """Several challengers at once, each choosing whatever the rules allow, or falling silent."""
    world = make_court()
    world.post_unit(world.accounts[0], Unit())
    disputes = [
        world.accuse(world.accounts[1 + i], world.accounts[0], UNIT, data.draw(st.integers(0, 1)))
        for i in range(data.draw(st.integers(1, 3)))
    ]
    segment = {d.number: 0 for d in disputes}
    bonds = {d.number: d.bond for d in disputes}
    for dispute in disputes:
        start = dispute.position
        assert start.stage == Stage.SEGMENT
        for guess in (0, 1):
            try:
                dispute.send(dispute.accused, Unit().defence(guess).move(start))
                segment[dispute.number] = guess
                break
            except Refused:
                continue
    while open_ := [d for d in disputes if d.ended is None]:
        dispute = data.draw(st.sampled_from(open_))
        at = segment[dispute.number]
        if dispute.is_accuseds_turn:
            world.world.mine(data.draw(st.integers(0, 5)))
            dispute.send(dispute.accused, Unit().defence(at).move(dispute.position))
            continue
        move = any_move(data, dispute, challenge_of(at))
        if move is None:
            # Everybody else still answers in time: the others' clocks do not suffer by this one's.
            for other in open_:
                if other is not dispute and other.is_accuseds_turn:
                    other.send(other.accused, Unit().defence(segment[other.number]).move(other.position))
            dispute.time_out()
        else:
            try:
                dispute.send(dispute.challenger, move)
            except Refused as late:
                late.must_be("TimeIsOut")
                dispute.time_out()
    assert {d.ended[0] for d in disputes if d.ended} == {"Dismissed"}
    assert not world.ask("isConvicted", world.docket, UNIT)
    assert world.ask_docket("openOf", UNIT) == 0
    assert world.ask("burnOwed") + world.ask("credit", world.accounts[0].address) == sum(bonds.values())
    world.check_solvent(0)


def test_an_honest_accused_answers_every_value_of_the_trace() -> None:
    """Bound values refute the choice; the others are opened to their bytes."""
    held = hold_step(0)
    world = make_court()
    dispute = dispute_about(Unit(), court=world)
    dispute.send(dispute.accused, Unit().defence(0).move(dispute.position))
    dispute.send(dispute.challenger, Move("chooseStep", (0, list(dispute.position.inner_roots))))
    dispute.send(dispute.accused, Unit().defence(0).move(dispute.position))
    nodes = children_of(held.trace.tree, height(held.trace.tree.count), 0)
    for value in [0, 5, TOKENS, TOKENS + 1, FIRST, len(nodes) - 1]:
        fork = Dispute(
            world.fork(), dispute.number, dispute.accused, dispute.challenger, dispute.bond, dispute.position
        )
        fork.send(fork.challenger, Move("chooseNode", (value, nodes[value], Tree(nodes).path(value))))
        fork.send(fork.accused, Unit().defence(0).move(fork.position))
        bound = value < TOKENS or TOKENS < value < FIRST
        assert (fork.ended is not None) == bound
        if not bound:
            assert fork.position.stage == Stage.TENSOR_CHOICE
