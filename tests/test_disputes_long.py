"""Elements of many terms, judged by partial sums and by terms that either side points at: Python and contract alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from contract_world import Refused
from referee_world import Liar, changed, deployed, found_in, prover_of_case, tell_lie

from cupel.protocol import merkle
from cupel.protocol.arithmetic.cases import Case
from cupel.protocol.arithmetic.operations import NOT_FINITE, DType, Opcode, TensorType
from cupel.protocol.disputes import (
    Block,
    Claim,
    Opening,
    Proof,
    Prover,
    Sums,
    count_terms,
    judge_block,
    judge_order,
    judge_sums,
    judge_witness,
    terms,
)
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.openings import Recorder

F32, I16, I32, I64 = DType.FLOAT32, DType.INT16, DType.INT32, DType.INT64
INFINITE, NAN = 129, 130
ROW = torch.sin(torch.arange(2100.0)).repeat(2, 1) * torch.tensor([[1.0], [-3.0]])
WHOLE = torch.arange(4200).reshape(2, 2100) * 7919 % 65_537 - 30_000


def special(**values: float) -> torch.Tensor:
    row = ROW.clone()
    for position, value in values.items():
        row[1, int(position[1:])] = value
    return row


def quantised(n: int) -> torch.Tensor:
    return (WHOLE[:, :n] % 8192 - 4096).to(torch.int16)


def exponents(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


INDEX = torch.arange(50) * 5 % 7
CASES: dict[str, Case] = {
    "sum": Case("", Opcode.SUM, (ROW,), TensorType(F32, (2,))),
    "sum of zeros": Case("", Opcode.SUM, (ROW * 0,), TensorType(F32, (2,))),
    "sum with an infinity": Case("", Opcode.SUM, (special(p1500=float("-inf")),), TensorType(F32, (2,))),
    "sum with both": Case("", Opcode.SUM, (special(p7=float("inf"), p1500=float("-inf")),), TensorType(F32, (2,))),
    "sum with a NaN": Case("", Opcode.SUM, (special(p7=float("inf"), p9=float("nan")),), TensorType(F32, (2,))),
    "sum of integers": Case("", Opcode.SUM, (WHOLE << 48,), TensorType(I64, (2,))),
    "cumsum": Case("", Opcode.CUMSUM, (WHOLE,), TensorType(I64, (2, 2100))),
    "dot": Case(
        "",
        Opcode.DOT,
        (
            torch.tensor([3, -2], dtype=torch.int32),
            torch.tensor([5, 1], dtype=torch.int32),
            quantised(2048),
            -quantised(2048),
        ),
        TensorType(F32, (2, 2)),
        (2,),
    ),
    "dot not finite": Case(
        "",
        Opcode.DOT,
        (
            torch.tensor([3, NOT_FINITE], dtype=torch.int32),
            torch.tensor([5, 1], dtype=torch.int32),
            quantised(64),
            quantised(64),
        ),
        TensorType(F32, (2, 2)),
        (2,),
    ),
    "dot by rows, three digits": Case(
        "",
        Opcode.DOT_ROWS,
        (exponents(3, -2), *(quantised(1100) >> 3,) * 2, *(quantised(1100) >> 4,) * 2),
        TensorType(F32, (2, 2)),
        (3,),
    ),
    "index-add": Case(
        "",
        Opcode.INDEX_ADD,
        (ROW[0, :28].reshape(7, 4).contiguous(), INDEX, ROW[1, :200].reshape(50, 4).contiguous()),
        TensorType(F32, (7, 4)),
    ),
    "exponent": Case("", Opcode.EXPONENT, (ROW,), TensorType(I32, (2,))),
    "exponent of zeros": Case("", Opcode.EXPONENT, (ROW * 0,), TensorType(I32, (2,))),
    "scaled exponent": Case(
        "",
        Opcode.EXPONENT_SCALED,
        (ROW, (torch.arange(2100) % 90 - 160).to(torch.int32)),
        TensorType(I32, (2,)),
    ),
    "max": Case("", Opcode.MAX, (ROW,), TensorType(F32, (2,))),
    "min of integers": Case("", Opcode.MIN, (WHOLE,), TensorType(I64, (2,))),
    "argmax": Case("", Opcode.ARGMAX, (ROW,), TensorType(I64, (2,))),
    "argmin": Case("", Opcode.ARGMIN, (WHOLE,), TensorType(I64, (2,))),
    "scatter": Case(
        "",
        Opcode.SCATTER,
        (ROW[:, :3].contiguous(), torch.arange(2 * 1200).reshape(2, 1200) * 7 % 5, ROW[:, :1200].contiguous()),
        TensorType(F32, (2, 3)),
        (1,),
    ),
    "scatter of nothing": Case(
        "",
        Opcode.SCATTER,
        (ROW[:, :3].contiguous(), torch.full((2, 1200), -1), ROW[:, :1200].contiguous()),
        TensorType(F32, (2, 3)),
        (1,),
    ),
    "top-k": Case("", Opcode.TOPK, (ROW,), TensorType(I64, (2, 600)), (600,)),
    "sort": Case("", Opcode.SORT, (ROW,), TensorType(I64, (2, 2100)), (0,)),
}
SUMMED = [
    name
    for name in CASES
    if CASES[name].opcode in (Opcode.SUM, Opcode.CUMSUM, Opcode.DOT, Opcode.DOT_ROWS, Opcode.INDEX_ADD)
]
FINITE = [name for name in SUMMED if not name.startswith("sum with")]
NAMED = [name for name in CASES if CASES[name].opcode in terms.NAMED]


@dataclass(frozen=True, eq=False)
class Scene:
    """One element that somebody posted, right or not, and what it is proved with."""

    prover: Prover
    accused: Liar
    element: int

    @property
    def about(self) -> tuple[Any, bytes, int]:
        return found_in(self.accused.trace, self.accused.value), self.accused.tree.root, self.element

    def leaf(self) -> Opening:
        return self.accused.opening(self.element)

    def sums(self, sums: Sums) -> bool:
        claim, proof = self.prover.prove_sums(*self.about, self.leaf(), sums)
        return agreed(judge_sums, "judgeSums", claim, sums, proof)

    def block(self, block: Block) -> bool:
        claim, proof = self.prover.prove_block(*self.about, block)
        return agreed(judge_block, "judgeBlock", claim, block, proof)

    def witness(self, exponent: int, *positions: int) -> bool:
        """Against a posted exponent."""
        both = (positions[0], positions[-1])
        claim, proof = self.prover.prove_witness(*self.about, 0, both)
        return agreed(judge_witness, "judgeWitness", claim, exponent, 0, both, proof)

    def before(self, position: int, named: int) -> bool:
        """Against a named term."""
        claim, proof = self.prover.prove_witness(*self.about, named, (position, 0))
        return agreed(judge_witness, "judgeWitness", claim, 0, named, (position, 0), proof)

    def order(self, *positions: int) -> bool:
        leaves = range(len(self.accused.tree.levels[0]))
        openings = {n: Opening(self.accused.leaf(n), tuple(self.accused.tree.path(n))) for n in leaves}
        both = (positions[0], positions[1])
        claim, proof = self.prover.prove_order(*self.about, self.leaf(), both, openings)
        return agreed(judge_order, "judgeOrder", claim, both, proof)


def agreed(judge: Callable[..., bool], function: str, claim: Claim, *rest: Any) -> bool:
    verdict = judge(claim, *rest)
    assert deployed().ask(function, claim, *rest) is verdict
    return verdict


@cache
def honest(name: str) -> Scene:
    prover = prover_of_case(CASES[name])
    value = len(prover.trace.trees) - 1
    result = prover.result(value)
    return Scene(prover, Liar(prover.trace, value, merkle.tensor_bytes(result)), result.numel() - 1)


def lying(name: str, mask: int = 1) -> Scene:
    scene = honest(name)
    value = scene.accused.value
    result = scene.prover.result(value)
    return dataclasses.replace(scene, accused=tell_lie(scene.prover.trace, value, changed(result, scene.element, mask)))


def posted(name: str) -> Sums:
    scene = honest(name)
    return scene.prover.sums(scene.accused.value, scene.element)


def blocks(name: str, sums: Sums) -> list[Block]:
    case = CASES[name]
    size = 16 if case.opcode == Opcode.INDEX_ADD else 1024
    count = {Opcode.INDEX_ADD: 51, Opcode.CUMSUM: 2100}.get(case.opcode, case.operands[-1].shape[-1])
    return [
        Block(first=size * i, end=min(size * (i + 1), count), exponent=sums.exponent, total=total)
        for i, total in enumerate(sums.sums)
    ]


@pytest.mark.parametrize("name", [*SUMMED, *NAMED])
def test_what_an_honest_party_posts_stands(name: str) -> None:
    scene, sums = honest(name), posted(name)
    assert scene.sums(sums)
    if name in FINITE:
        for block in (blocks(name, sums)[0], blocks(name, sums)[-1]):
            assert scene.block(block)
            assert not scene.block(dataclasses.replace(block, total=block.total + 1))


@pytest.mark.parametrize("name", [*SUMMED, *NAMED])
def test_a_wrong_element_is_not_what_right_sums_give(name: str) -> None:
    assert not lying(name).sums(posted(name))


@pytest.mark.parametrize("name", ["sum", "index-add"])
def test_an_exponent_that_is_not_the_named_terms_or_not_the_largest_falls(name: str) -> None:
    scene, sums = honest(name), posted(name)
    for exponent in (sums.exponent - 1, sums.exponent + 1, INFINITE, NAN):
        assert not scene.sums(dataclasses.replace(sums, exponent=exponent))
    place = sums.positions[0]
    assert scene.witness(sums.exponent, place)
    assert not scene.witness(sums.exponent - 1, place)
    assert not any(scene.block(b) for b in blocks(name, dataclasses.replace(sums, exponent=-140)))


@pytest.mark.parametrize("name", ["sum", "index-add"])
def test_a_coarser_exponent_with_sums_to_match_falls_too(name: str) -> None:
    """Everything agrees with everything, but no term has that exponent."""
    scene, sums = honest(name), posted(name)
    op = scene.prover.operation(scene.accused.value)
    coarse = sums.exponent + 12
    recorder = Recorder()
    readers = [recorder.reader(scene.prover.result(v)) for v in op.operands]
    blunt = [
        terms.sum_block(op, readers, scene.element, block.first, block.end, coarse) or 0 for block in blocks(name, sums)
    ]
    data = bytearray(scene.accused.data)
    data[-4:] = terms.finish(op, readers, scene.element, sum(blunt), coarse)
    assert data != scene.accused.data
    liar = tell_lie(scene.prover.trace, scene.accused.value, bytes(data))
    lie = dataclasses.replace(sums, exponent=coarse, sums=tuple(blunt))
    assert not dataclasses.replace(scene, accused=liar).sums(lie)
    assert all(scene.block(block) for block in blocks(name, lie))


def test_infinities_and_nans_are_above_every_exponent() -> None:
    assert not honest("sum with an infinity").witness(128, 1500)
    assert honest("sum with an infinity").witness(INFINITE, 1500)
    assert not honest("sum with both").witness(INFINITE, 7, 1500)
    assert honest("sum with both").witness(INFINITE, 7, 8)
    assert not honest("sum with a NaN").witness(INFINITE, 9)


@pytest.mark.parametrize("name", ["exponent", "scaled exponent", "max", "min of integers"])
def test_a_larger_term_convicts_and_no_other_does(name: str) -> None:
    scene, case = honest(name), CASES[name]
    row = scene.prover.program.constants[0][1]
    named = posted(name).positions[0]
    if case.opcode in terms.EXPONENTS:
        other = 2000 if case.opcode == Opcode.EXPONENT_SCALED else int(row.abs().argmin())
    else:
        other = next(i for i in range(2100) if row[i] != row[named] and i != named)
    assert scene.before(other, named)
    assert scene.before(named, named)
    assert not scene.before(named, other)


def test_of_equal_terms_the_first_is_the_largest() -> None:
    """Else another NaN's bits would stand."""
    row = torch.full((1, 1100), 2.0)
    prover = prover_of_case(Case("", Opcode.MAX, (row,), TensorType(F32, (1,))))
    scene = Scene(prover, Liar(prover.trace, 1, merkle.tensor_bytes(prover.result(1))), 0)
    assert prover.sums(1, 0).positions == (0, 0)
    assert not scene.before(0, 7)
    assert scene.before(7, 0)


def test_a_later_source_of_the_same_place_convicts() -> None:
    scene, named = honest("scatter"), posted("scatter").positions[0]
    assert scene.before(named - 5, named)
    assert not scene.before(named, named - 5)
    assert not scene.before(named, 1200)
    assert posted("scatter of nothing").positions == (1200, 0)


def test_a_source_of_another_place_is_no_term_and_cannot_be_named() -> None:
    scene, sums = honest("scatter"), posted("scatter")
    elsewhere = sums.positions[0] + 1
    claim, proof = scene.prover.prove_sums(*scene.about, scene.leaf(), sums)
    other = dataclasses.replace(sums, positions=(elsewhere, 0))
    for what in (other, dataclasses.replace(sums, positions=(1201, 0))):
        refused_by_both("NotATerm", judge_sums, "judgeSums", claim, what, proof)
    # That none lands where one does is what a witness contradicts; the old value is another element here.
    claim, proof = scene.prover.prove_sums(
        *scene.about, scene.leaf(), none := dataclasses.replace(sums, positions=(1200, 0))
    )
    assert not agreed(judge_sums, "judgeSums", claim, none, proof)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_a_position_of_no_largest_term_is_convicted_by_the_largest(name: str) -> None:
    scene = honest(name)
    row = scene.prover.program.constants[0][1]
    right = scene.prover.result(scene.accused.value)
    named = int(right[1])
    worse = next(i for i in range(2100) if row[i] != row[named])
    assert scene.order(worse, 0)
    assert scene.order(named, 0)
    for claimed in (worse, -1, 2100):
        result = right.clone()
        result[1] = claimed
        liar = tell_lie(scene.prover.trace, scene.accused.value, merkle.tensor_bytes(result))
        assert not dataclasses.replace(scene, accused=liar).order(named, 0)


@pytest.mark.parametrize("name", ["top-k", "sort"])
def test_a_wrong_order_shows_in_two_places_or_in_what_is_left_out(name: str) -> None:
    scene = honest(name)
    value = scene.accused.value
    right = scene.prover.result(value)
    places = right.shape[-1]

    def with_places(**indices: int) -> Scene:
        result = right.clone()
        for place, index in indices.items():
            result[1, int(place[1:])] = index
        return Scene(scene.prover, tell_lie(scene.prover.trace, value, merkle.tensor_bytes(result)), places + 300)

    order = right[1].tolist()
    assert dataclasses.replace(scene, element=places + 300).order(299, 0)
    assert not with_places(p300=-1).order(299, 0)
    assert not with_places(p300=2100).order(299, 0)
    assert not with_places(p300=order[5]).order(5, 0)
    assert not with_places(p300=order[301], p301=order[300]).order(301, 0)
    skipping = with_places(p300=order[301])
    assert not skipping.order(299, 1 + order[300])
    assert skipping.order(299, 1 + order[302])
    first = Scene(scene.prover, with_places(p0=order[1]).accused, places)
    assert not first.order(0, 1 + order[0])


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("sum", lambda one: dataclasses.replace(one, sums=one.sums[:-1]), "WrongSums"),
        ("max", lambda one: dataclasses.replace(one, sums=(1,)), "WrongSums"),
        ("sum", lambda one: dataclasses.replace(one, sums=(1 << 127, *one.sums[1:])), "SumOutOfRange"),
        ("dot", lambda one: dataclasses.replace(one, exponent=INFINITE), "NoExponent"),
        ("max", lambda one: dataclasses.replace(one, exponent=-3), "NoExponent"),
    ],
)
def test_sums_of_no_honest_party_are_refused(name: str, change: Callable[[Sums], Sums], error: str) -> None:
    scene, sums = honest(name), change(posted(name))
    claim, proof = scene.prover.prove_sums(*scene.about, scene.leaf(), sums)
    refused_by_both(error, judge_sums, "judgeSums", claim, sums, proof)


@pytest.mark.parametrize(("first", "end"), [(1, 1025), (0, 1000), (0, 2048), (2048, 3072), (3072, 4096)])
def test_what_is_no_block_is_refused(first: int, end: int) -> None:
    scene = honest("sum")
    block = Block(first=0, end=1024, exponent=2, total=0)
    claim, proof = scene.prover.prove_block(*scene.about, block)
    refused_by_both(
        "NotABlock", judge_block, "judgeBlock", claim, dataclasses.replace(block, first=first, end=end), proof
    )


@pytest.mark.parametrize("position", [0, 51])
def test_a_position_that_does_not_land_is_no_term(position: int) -> None:
    scene = honest("index-add")
    claim, proof = scene.prover.prove_witness(*scene.about, 0, (4, 4))
    with pytest.raises(MalformedProof, match=rf"NotATerm\({position}\)"):
        judge_witness(claim, 0, 0, (position, position), proof)
    with pytest.raises(Refused, match="NotATerm"):
        deployed().ask("judgeWitness", claim, 0, 0, (position, position), proof)


def test_an_operation_without_terms_is_refused() -> None:
    prover = prover_of_case(Case("", Opcode.NEG, (ROW,), TensorType(F32, (2, 2100))))
    accused = Liar(prover.trace, 1, merkle.tensor_bytes(prover.result(1)))
    claim, proof = prover.prove(found_in(prover.trace, 1), accused.tree.root, 0, accused.opening(0))
    sums = Sums(exponent=0, positions=(0, 0), sums=())
    refused_by_both("NoTerms", judge_sums, "judgeSums", claim, sums, proof)
    refused_by_both("NoTerms", judge_block, "judgeBlock", claim, Block(first=0, end=1, exponent=0, total=0), proof)


@pytest.mark.parametrize("name", list(CASES))
def test_both_learn_the_number_of_terms(name: str) -> None:
    scene, op = honest(name), CASES[name].opcode
    value = scene.accused.value
    if op in terms.ORDERED:
        with pytest.raises(MalformedProof, match="NoTerms"):
            scene.prover.count_terms(value, scene.element)
        return
    claim, proof = scene.prover.prove_count(*scene.about)
    count = scene.prover.count_terms(value, scene.element)
    block = 0 if op in terms.NAMED else 16 if op == Opcode.INDEX_ADD else 1024
    assert count_terms(claim, proof) == tuple(deployed().answers("countTerms", claim, proof)) == (count, block)


@pytest.mark.parametrize("shape", [(2, 0), (2, 3)])
def test_an_element_of_no_terms_has_no_sums(shape: tuple[int, int]) -> None:
    """Nobody could name one; it is recomputed at once."""
    if shape[1]:
        operands = (torch.ones(3, 3), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3))
        case = Case("", Opcode.SCATTER, operands, TensorType(F32, (3, 3)), (1,))
    else:
        case = Case("", Opcode.SUM, (torch.ones(2, 0),), TensorType(F32, (2,)))
    prover = prover_of_case(case)
    value = len(prover.trace.trees) - 1
    element = prover.result(value).numel() - 1
    claim, proof = prover.prove_count(found_in(prover.trace, value), prover.trace.trees[value], element)
    with pytest.raises(MalformedProof, match="NoTerms"):
        count_terms(claim, proof)
    with pytest.raises(Refused, match="NoTerms"):
        deployed().answers("countTerms", claim, proof)


@pytest.mark.parametrize("name", SUMMED)
def test_whole_rows_give_the_sums_of_their_blocks(name: str) -> None:
    """`totals` adds up with tensors what `terms` adds up one by one."""
    scene = honest(name)
    op = scene.prover.operation(scene.accused.value)
    sums = posted(name)
    if sums.exponent >= INFINITE:
        assert not any(sums.sums)
        return
    recorder = Recorder()
    xs = [recorder.reader(scene.prover.result(v)) for v in op.operands]
    assert list(sums.sums) == [
        terms.sum_block(op, xs, scene.element, block.first, block.end, block.exponent) for block in blocks(name, sums)
    ]


def refused_by_both(
    name: str, judge: Callable[..., bool], function: str, claim: Claim, what: Any, proof: Proof
) -> None:
    with pytest.raises(MalformedProof) as found:
        judge(claim, what, proof)
    with pytest.raises(Refused) as refused:
        deployed().ask(function, claim, what, proof)
    assert (found.value.name, refused.value.name) == (name, name)
    assert tuple(refused.value.numbers.values()) == found.value.numbers
