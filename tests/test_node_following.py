"""What a node knows of its chain is never older than the chain's own blocks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from cupel.chain.heads import Look
from cupel.chain.run_values import Current, Phase
from cupel.chain.values import Block
from cupel.node.following import Follower
from cupel.node.log import Log
from cupel.node.stats import Stats
from cupel.protocol.errors import Unavailable
from cupel.protocol.types import Height, RoundIndex, Wei


def block(number: int) -> Block:
    return Block(
        number=Height(number),
        hash=bytes([number]) * 32,
        parent_hash=bytes([number - 1]) * 32,
        timestamp=number,
        base_fee_wei=Wei(1),
        gas_limit=1,
        gas_used=0,
        beacon=bytes(32),
    )


@dataclass
class Chain:
    """Blocks and a run, as a script says."""

    looks: list[Look]
    answers: list[Current | Exception]
    asked: int = 0

    def look(self) -> Look:
        return self.looks.pop(0)

    def current(self) -> Current:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Node(Follower):
    """A follower that counts re-orgs."""

    def __init__(self, chain: Chain) -> None:
        session: Any = SimpleNamespace(
            log=Log("node", as_json=True, stream=io.StringIO()),
            contract=chain,
            heads=chain,
            stats=Stats(),
            run=SimpleNamespace(parameters=None),
        )
        super().__init__(session)
        self.reorgs: list[str] = []

    def _on_reorg(self) -> None:
        self.reorgs.append("seen")


def at(round_: int, phase: Phase) -> Current:
    return Current(round=RoundIndex(round_), phase=phase, until=Height(90), due=False)


def test_a_height_seen_before_is_not_asked_about_again() -> None:
    same = Look(head=block(5), reorg_depth=0, is_deeper=False)
    chain = Chain([same, same], [at(1, Phase.TRAIN)])
    node = Node(chain)
    assert node.look()
    assert not node.look()
    assert chain.asked == 1


def test_a_re_org_at_the_same_height_is_asked_about_though_the_first_question_failed() -> None:
    undone = Look(head=block(5), reorg_depth=2, is_deeper=False)
    same = Look(head=block(5), reorg_depth=0, is_deeper=False)
    chain = Chain([same, undone, same], [at(1, Phase.SEAL), Unavailable("no answer"), at(1, Phase.TRAIN)])
    node = Node(chain)
    node.look()
    node.keep_for_round("seed", lambda: b"old")
    with pytest.raises(Unavailable):
        node.look()
    assert node.look()
    assert node.current.phase == Phase.TRAIN
    assert node.keep_for_round("seed", lambda: b"new") == b"new"
    assert (node.reorgs, node.stats.reorgs) == (["seen"], 1)


def test_what_a_phase_may_change_is_asked_anew_in_the_next_and_what_a_round_may_in_the_next_round() -> None:
    looks = [Look(head=block(n), reorg_depth=0, is_deeper=False) for n in (5, 6, 7)]
    chain = Chain(looks, [at(1, Phase.TRAIN), at(1, Phase.SEAL), at(2, Phase.SEED)])
    node = Node(chain)
    told: list[tuple[str, str]] = []
    for value in ("a", "b", "c"):
        node.look()
        of_phase = node.keep("units", lambda value=value: value)  # type: ignore[misc]
        told.append((of_phase, node.keep_for_round("seed", lambda value=value: value)))  # type: ignore[misc]
    assert told == [("a", "a"), ("b", "a"), ("c", "c")]
