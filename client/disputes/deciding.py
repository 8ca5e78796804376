"""How elements that cannot be recomputed at once were decided: by a block of their terms, by one term, or by a place.

docs/design/court.md, "Long elements".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cupel.chain.court_events import DisputeRecord
from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.disputes import terms

DECIDING = ("judgeBlock", "judgeWitness", "judgeOrder")
"""Moves that end a dispute about such an element."""
_PLACED = frozenset({Opcode.TOPK.name, Opcode.SORT.name})


def tell_decision(record: DisputeRecord, function: str, arguments: Mapping[str, Any], operation: str) -> str:
    """What the deciding move showed, in words.

    function   one of DECIDING, with its arguments by their names
    operation  opcode of what was judged; empty if it is not known
    """
    if function == "judgeBlock":
        return _tell_block(record, arguments["place"], arguments["sum"])
    if function == "judgeWitness":
        return _tell_witness(record, arguments["positions"])
    return _tell_order(record, arguments["positions"], operation)


def _fails(record: DisputeRecord) -> bool:
    return record.ending is not None and record.ending.convicted


def _tell_block(record: DisputeRecord, place: int, total: int) -> str:
    r = record.position.reduction
    asked = next(event.arguments["terms"] for event in record.events if event.name == "SumsAsked")
    assert r is not None
    size = terms.child_terms(r.block, r.end - r.first)
    first = r.first + place * size
    end = min(first + size, r.end)
    added = "does not give" if _fails(record) else "gives"
    return f"adding up terms {first:,} to {end - 1:,} of {asked:,} {added} the posted {total}"


def _tell_witness(record: DisputeRecord, positions: tuple[int, int]) -> str:
    r = record.position.reduction
    assert r is not None
    one, other = positions
    if not r.block:
        named = r.positions[0]
        return (
            f"term {one:,} decides, not term {named:,} that was named"
            if _fails(record)
            else f"term {named:,} that was named decides, not term {one:,}"
        )
    shown = f"term {one:,} is" if one == other else f"terms {one:,} and {other:,} are"
    return f"{shown} {'beyond' if _fails(record) else 'within'} the posted exponent"


def _tell_order(record: DisputeRecord, positions: tuple[int, int], operation: str) -> str:
    """`positions` as the contract has them (ITermsEvaluator.judgeOrder)."""
    one, other = positions
    if operation not in _PLACED:
        shown = f"term {one:,} comes before the one that was claimed"
    elif other:
        shown = f"term {other - 1:,} belongs behind place {one:,}"
    else:
        shown = f"place {one:,} holds the same position"
    return shown if _fails(record) else f"it is not so that {shown}"
