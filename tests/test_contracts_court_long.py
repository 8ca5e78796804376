"""Elements of more terms than can be recomputed at once: whoever lies in one is convicted, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from contract_world import Refused
from court_long_world import (
    LONG,
    NAMED,
    NAMES,
    ONE_OF_EACH,
    ORDERED,
    PLACES,
    SUMMED,
    Fraud,
    begin,
    challenge,
    elements,
    gas_of,
    held,
    prover,
    readers,
    smaller_exponent,
    value_of,
    wrong_bits,
    wrong_sum,
    wrong_term,
)
from court_world import Dispute
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.disputes import Block, HeldProver, terms
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.game import Defence
from cupel.protocol.disputes.reducing import sum_leaves
from cupel.protocol.proceedings import Move, Stage
from cupel.protocol.trees import Tree

TWO_LEVELS = ("dot", "index_add", "sum")
BY_BLOCK = ["askSums", "postSums", "judgeBlock"]
BY_PARTS = ["askSums", "postSums", "chooseSum", "postParts", "judgeBlock"]
BY_TERM = ["askSums", "postSums", "judgeWitness"]
MOST_GAS = 4_000_000


def convicts(fraud: Fraud) -> list[str]:
    dispute = fraud.play()
    assert dispute.ended is not None
    assert dispute.ended[0] == "Convicted", dispute.moves
    dispute.world.check_solvent(0)
    assert max(gas_of(dispute.world).values()) < MOST_GAS
    return dispute.moves[dispute.moves.index("openLeaf") + 1 :]


# ---------------------------------------------------------------- liars


@pytest.mark.parametrize("name", NAMES)
def test_a_lie_in_a_long_element_of_any_operation_convicts(name: str) -> None:
    """Whatever is posted agrees with the lie, and is wrong in one sum, or names the wrong term."""
    moves = convicts(ONE_OF_EACH[name]())
    if name in ORDERED:
        assert moves == ["judgeOrder"]
    elif name in NAMED:
        assert moves == BY_TERM
    else:
        assert moves == (BY_PARTS if name in TWO_LEVELS else BY_BLOCK)


@st.composite
def frauds(draw: Any) -> Fraud:
    name = draw(st.sampled_from(NAMES))
    element = draw(st.integers(0, elements(name) - 1))
    how = draw(st.sampled_from((wrong_bits, wrong_sum if name in SUMMED else wrong_term)))
    if name in ORDERED or how is wrong_bits:
        return wrong_bits(name, element, draw(st.integers(1, (1 << 64) - 1)))
    if name in NAMED:
        return wrong_term(name, element, draw(st.integers(0, LONG - 1)))
    places = (draw(st.integers(0, 1 << 20)), draw(st.integers(0, 1 << 20)))
    return wrong_sum(name, element, places[0], draw(st.integers(-(1 << 44), 1 << 44)), places[1])


def is_wrong(make: Callable[[], Fraud]) -> Fraud:
    """The drawn lie, unless it is none: the named term lands elsewhere, or gives the same bits."""
    try:
        fraud = make()
    except MalformedProof:
        fraud = None
    assume(fraud is not None and fraud.data != held().read(value_of(fraud.name)))
    assert fraud is not None
    return fraud


@given(st.data())
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_lie_in_a_long_element_stands(data: Any) -> None:
    convicts(is_wrong(lambda: data.draw(frauds())))


def test_an_exponent_below_the_largest_term_s_loses_to_that_term() -> None:
    assert convicts(smaller_exponent("sum", 0, 5)) == BY_TERM


def test_an_element_that_no_sums_give_loses_by_silence() -> None:
    fraud = wrong_bits("sum_of_integers", 1, 8)
    dispute = begin(fraud.lie).play_to(Stage.SUMS, fraud.defence, challenge())
    with pytest.raises(Refused) as caught:
        dispute.send(dispute.accused, fraud.defence.move(dispute.position))
    caught.value.must_be("SumsMiss")
    assert convicts(fraud) == ["askSums"]


def test_parts_that_do_not_add_up_to_the_chosen_sum_are_refused() -> None:
    """The right ones do not, where the sum is wrong."""
    fraud = ONE_OF_EACH["index_add"]()
    dispute = begin(fraud.lie).play_to(Stage.PARTS, fraud.defence, challenge())
    right = Defence(segment=None, hold=lambda _: held(fraud.lie)).move(dispute.position)
    [parts] = right.arguments
    for wrong, name in ((parts, "WrongTotal"), (parts[:-1], "WrongLength"), ([1 << 127, *parts[1:]], "SumOutOfRange")):
        with pytest.raises(Refused) as caught:
            dispute.send(dispute.accused, Move("postParts", (wrong,)))
        caught.value.must_be(name)


# ---------------------------------------------------------------- the honest


@cache
def _contested() -> Dispute:
    """An honest merge, at the choice of a value."""
    return begin(None).play_to(Stage.CONTEST, honest(), challenge())


def honest() -> Defence:
    return Defence(segment=None, hold=lambda _: held())


def at_element(name: str, leaf: int = 0) -> Dispute:
    """A challenger without cause has an honest value opened down to a leaf."""
    first = _contested()
    dispute = replace(first, world=first.world.fork(), moves=[], ended=None)
    nodes = dispute.position.nodes
    choice = value_of(name)
    dispute.send(dispute.challenger, Move("chooseNode", (choice, nodes[choice], Tree(nodes).path(choice))))
    dispute.send(dispute.accused, honest().move(dispute.position))
    nodes = dispute.position.nodes
    place = leaf % len(nodes)
    dispute.send(dispute.challenger, Move("chooseNode", (place, nodes[place], Tree(nodes).path(place))))
    dispute.send(dispute.accused, honest().move(dispute.position))
    assert dispute.position.stage == Stage.ELEMENT
    return dispute


def own() -> HeldProver:
    return HeldProver(held().trace, held().read)


def ask(dispute: Dispute, name: str, element: int) -> Dispute:
    """Sums of an honest element are asked for, and posted."""
    _, proof = own().prove_count(*own().about(value_of(name)), element)
    dispute.send(dispute.challenger, Move("askSums", (element, proof.to_bytes())))
    dispute.send(dispute.accused, honest().move(dispute.position))
    assert dispute.position.stage == Stage.SUM_CHOICE
    return dispute


def choose(dispute: Dispute, name: str, place: int) -> Move:
    """The sum at this place, to be posted in parts or judged."""
    r = dispute.position.reduction
    assert r is not None
    size = terms.child_terms(r.block, r.end - r.first)
    first = r.first + place * size
    end = min(first + size, r.end)
    path, total = Tree(sum_leaves(r.sums)).path(place), r.sums[place]
    if end - first > r.block:
        return Move("chooseSum", (place, total, path))
    block = Block(first=first, end=end, exponent=r.exponent, total=total)
    _, proof = own().prove_block(*own().about(value_of(name)), r.element, block)
    return Move("judgeBlock", (place, total, path, proof.to_bytes()))


def point_at(dispute: Dispute, name: str, position: int) -> Move:
    r = dispute.position.reduction
    assert r is not None
    _, proof = own().prove_witness(*own().about(value_of(name)), r.element, r.positions[0], (position, position))
    return Move("judgeWitness", ([position, position], proof.to_bytes()))


@given(st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_who_posted_a_right_element_never_loses_by_it(data: Any) -> None:
    """Any sum is chosen down to any block, any term is pointed at, any place compared with any other."""

    def below(limit: int) -> int:
        return int(data.draw(st.integers(0, limit - 1)))

    name = data.draw(st.sampled_from(NAMES))
    element = below(elements(name))
    value = value_of(name)
    if name in ORDERED:
        operation = prover().operation(value)
        width = operation.result.shape[-1] if operation.result.shape[-1] > 2 else 1
        place = element % width
        between = width > 1 and bool(below(2))
        other = max(place - 1, 0) if between else below(LONG if width == 1 else width)
        assume(between or width == 1 or other != place)
        positions = (other, 1 + below(LONG) if between else 0)
        claimed = own().opening(value, element)
        tree = prover().trace.trees[value]
        further = element - place + other
        leaves = {further // 512: own().opening(value, further)} if width > 1 else {}
        _, proof = own().prove_order(own().about(value)[0], tree, element, claimed, positions, leaves)
        dispute = at_element(name)
        dispute.send(dispute.challenger, Move("judgeOrder", (element, list(positions), proof.to_bytes())))
    else:
        dispute = ask(at_element(name, below(1000)), name, element)
        operation, xs = readers(name)
        while dispute.ended is None:
            if dispute.is_accuseds_turn:
                dispute.send(dispute.accused, honest().move(dispute.position))
            elif name in NAMED or (name == "sum" and below(3) == 0):
                position = below(LONG)
                if operation.opcode == Opcode.SCATTER:
                    lands = [i for i in range(200) if _lands(xs, operation, element, i)]
                    position = lands[position % len(lands)]
                dispute.send(dispute.challenger, point_at(dispute, name, position))
            else:
                assert dispute.position.reduction is not None
                place = below(len(dispute.position.reduction.sums))
                dispute.send(dispute.challenger, choose(dispute, name, place))
    assert dispute.ended is not None
    assert dispute.ended[0] == "Dismissed"


def _lands(xs: Any, operation: Any, element: int, position: int) -> bool:
    try:
        terms.place_of_source(operation, xs, element, position)
    except MalformedProof:
        return False
    return True


def test_a_challenger_cannot_name_another_depth() -> None:
    """A sum of many blocks is not judged as one, one block is not cut, and no sum is another's or changed."""
    dispute = ask(at_element("index_add"), "index_add", 3)
    first = choose(dispute, "index_add", 0)
    assert first.function == "chooseSum"
    place, total, path = first.arguments
    _, proof = own().prove_block(
        *own().about(value_of("index_add")), 3, Block(first=0, end=16, exponent=3, total=total)
    )

    def refused(move: Move, name: str) -> None:
        with pytest.raises(Refused) as caught:
            dispute.send(dispute.challenger, move)
        caught.value.must_be(name)

    refused(Move("judgeBlock", (place, total, path, proof.to_bytes())), "NotOneBlock")
    refused(Move("chooseSum", (place, total + 1, path)), "NotInTree")
    refused(Move("chooseSum", (place + 1, total, path)), "NotInTree")
    refused(Move("chooseSum", (place + 2, total, path)), "NotInTree")
    dispute.send(dispute.challenger, first)
    dispute.send(dispute.accused, honest().move(dispute.position))
    block = choose(dispute, "index_add", 5)
    refused(Move("chooseSum", block.arguments[:3]), "OneBlock")
    dispute.send(dispute.challenger, block)
    assert dispute.ended is not None
    assert dispute.ended[0] == "Dismissed"


@pytest.mark.parametrize("name", ["argmax", "topk"])
def test_no_sums_are_asked_for_where_the_element_names_its_term(name: str) -> None:
    dispute = at_element(name)
    value = value_of(name)
    _, proof = own()._prove(*own().about(value), 0, None)
    with pytest.raises(Refused) as caught:
        dispute.send(dispute.challenger, Move("askSums", (0, proof.to_bytes())))
    caught.value.must_be("NoTerms")


def test_nothing_is_chosen_where_one_term_decides() -> None:
    dispute = ask(at_element("max"), "max", 1)
    with pytest.raises(Refused) as caught:
        dispute.send(dispute.challenger, Move("chooseSum", (0, 0, [])))
    caught.value.must_be("NothingSummed")
    assert dispute.position.reduction is not None
    dispute.send(dispute.challenger, point_at(dispute, "max", PLACES))
    assert dispute.ended is not None
    assert dispute.ended[0] == "Dismissed"
