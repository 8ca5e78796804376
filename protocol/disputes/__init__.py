"""Disputes: where two traces differ, the proof of one element, and its judgement (docs/design/disputes.md)."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.disputes: a bare 'import {__name__}' would make a second, unequal set of classes"
    )

from cupel.protocol.disputes.claims import Block, Claim, Opening, Proof, Sums, Value
from cupel.protocol.disputes.finding import HeldProver, Prover, find_element, find_operation
from cupel.protocol.disputes.judging import (
    Judgement,
    count_terms,
    examine,
    judge,
    judge_block,
    judge_order,
    judge_sums,
    judge_witness,
)

__all__ = [
    "Block",
    "Claim",
    "HeldProver",
    "Judgement",
    "Opening",
    "Proof",
    "Prover",
    "Sums",
    "Value",
    "count_terms",
    "examine",
    "find_element",
    "find_operation",
    "judge",
    "judge_block",
    "judge_order",
    "judge_sums",
    "judge_witness",
]
