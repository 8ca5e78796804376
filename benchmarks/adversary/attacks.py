"""The attacks: who cheats how, under which parameters, and how to tell whether it got through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from network_world import World
from node_world.reorgs import undo

from adversary.money import read_tokens
from adversary.outcomes import Lie
from cupel.chain.court_deployment import Clocks
from cupel.chain.run_values import Phase, Status, UnitView
from cupel.protocol.types import Address, Wei

USUAL: Mapping[str, int] = {
    "min_miners": 2,
    "min_verifiers": 2,
    "segments": 2,
    "segment_steps": 2,
    "segments_per_verifier": 2,
    "work_target": 3,
    "open_blocks": 60,
    "merge_blocks": 60,
    "acknowledge_blocks": 60,
    "window_blocks": 60,
}
"""Every drawn verifier replays the whole unit: who cheats is found in the same round, whatever the draw says."""


FindLies = Callable[[World, frozenset[Address], int], list[Lie]]
"""(world, cheaters, rounds that count) to what they said."""


def false_units(world: World, cheaters: frozenset[Address], rounds: int) -> list[Lie]:
    """Every unit of a cheater."""
    return [_lie_of(unit) for unit in _units(world, rounds) if unit.miner in cheaters]


def copies(world: World, cheaters: frozenset[Address], rounds: int) -> list[Lie]:
    """A cheater's units but the first."""
    return [_lie_of(unit) for unit in _units(world, rounds) if unit.miner in cheaters and unit.index > 0]


def doubted_units(world: World, cheaters: frozenset[Address], rounds: int) -> list[Lie]:
    """Right units a cheating verifier spoke about; it got through where that kept one from being attested."""
    return [
        _lie_of(unit, got_through=unit.status != Status.ATTESTED)
        for unit in _units(world, rounds)
        if cheaters & set(unit.verifiers) and unit.miner not in cheaters
    ]


def false_merges(world: World, cheaters: frozenset[Address], rounds: int) -> list[Lie]:
    """Every candidate of a cheater."""
    found = []
    for round_ in range(rounds):
        view = world.contract.get_round(round_)
        for number, candidate in enumerate(world.contract.candidates(round_)):
            if candidate.proposer in cheaters:
                accepted = view.merged and view.accepted == number and not candidate.is_convicted
                fate = "ACCEPTED" if accepted else f"{candidate.acknowledgements} acknowledgements"
                fate += ", convicted" if candidate.is_convicted else ""
                root = candidate.state_root
                subject = world.contract.subject_of(round_, number)
                lie = Lie(
                    round=round_, what="merge", subject=root, fate=fate, got_through=accepted, dispute_subject=subject
                )
                found.append(lie)
    return found


def extra_tokens(world: World, cheaters: frozenset[Address], rounds: int) -> list[Lie]:
    """What a cheater has beyond the best paid of those who did the same work."""
    honest = [node.signer.address for node in world.nodes if node.program == "miner"]
    most = max(read_tokens(world, account) for account in honest)
    found = []
    for account in cheaters:
        got = read_tokens(world, account)
        fate = f"{got / 10**18:g} tokens; who asked once has {most / 10**18:g}"
        found.append(Lie(round=0, what="claims", subject=bytes.fromhex(account[2:]), fate=fate, got_through=got > most))
    return found


def _units(world: World, rounds: int) -> list[UnitView]:
    return [unit for round_ in range(rounds) for unit in world.contract.get_units(round_)]


def _lie_of(unit: UnitView, *, got_through: bool | None = None) -> Lie:
    passed = unit.status == Status.ATTESTED if got_through is None else got_through
    return Lie(round=unit.round, what="unit", subject=unit.unit_id, fate=unit.status.name, got_through=passed)


CLOCKS = Clocks(clock_blocks=400, grace_blocks=60, minimum_bond_wei=Wei(10**17), defence_gas=1_000_000)
SHORT_CLOCKS = Clocks(clock_blocks=20, grace_blocks=1, minimum_bond_wei=Wei(10**17), defence_gas=1_000_000)
"""For attacks in which nobody is accused: what is held comes free, or does not, when no dispute can come any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One way to cheat."""

    name: str
    what: str
    """In a sentence: who says what that is not so."""
    cheaters: Mapping[str, str]
    """Module in `adversary.cheaters` by the name of the party."""
    arguments: tuple[str, ...] = ()
    """Of the cheaters' command line."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the run that differ from the usual."""
    lies: FindLies = false_units
    rounds: int = 1
    """That have to end before it is over."""
    is_convicted: bool = True
    """Whether every lie is to be convicted before it is over."""
    voids_rounds: bool = False
    """Whether whole rounds are void when it is over: then honest miners earn nothing in them."""
    clocks: Clocks = CLOCKS
    """Of the court."""
    is_over: Callable[[World, frozenset[Address]], bool] | None = None
    """What has to have happened besides."""
    strike: Callable[[World, str], None] | None = None
    """What is done to the chain meanwhile; it is told which chain it is."""
    is_spite: bool = False
    """Whether all it wants is that honest parties go without a reward: that may cost them tokens, but never ether, and
    it must cost the cheater."""
    honest_miners: int = 2
    honest_verifiers: int = 2

    @property
    def pays_tokens(self) -> bool:
        """Whether honest parties are due a reward in any case."""
        return not self.is_spite and not self.voids_rounds


def has_claimed(world: World, cheaters: frozenset[Address]) -> bool:
    """Whether a cheater was paid, and asked again."""
    node = next(n for n in world.nodes if n.signer.address in cheaters)
    return len(node.events("second claim refused")) + len(node.events("claimed once more")) >= 3


def is_settled(world: World, cheaters: frozenset[Address]) -> bool:
    """Whether the first round is final, and everybody has taken what it brought."""
    return world.contract.finality().settled >= 1 and not any(
        world.contract.claimable(node.signer.address, 0, 1) for node in world.nodes
    )


REORG_DEPTHS = range(1, 6)
PHASE_PATIENCE_S = 400.0
"""More than a whole phase in which somebody is missing."""
REORG_PHASES = (Phase.OPEN, Phase.SEAL, Phase.MERGE, Phase.TRAIN)


def undo_blocks(world: World, chain: str) -> None:
    """Re-orgs of depth 1 to 5, one a round, each begun at another phase; what was undone waits again, or is lost."""
    for number, depth in enumerate(REORG_DEPTHS):
        wanted = REORG_PHASES[number % len(REORG_PHASES)]
        world.wait_for(
            f"round {number}, phase {wanted.name}",
            lambda number=number, wanted=wanted: (
                world.contract.current().round >= number and world.contract.current().phase == wanted
            ),
            PHASE_PATIENCE_S,
        )
        undo(world, chain, depth, keep_transactions=number % 2 == 0)


ATTACKS = (
    Attack(
        name="skipped step",
        what="a miner trains one step less in every segment and hands in the state before it",
        cheaters={"cheater": "skipped_step"},
    ),
    Attack(
        name="copied unit",
        what="a miner is drawn two units, trains one and commits to its states twice",
        cheaters={"cheater": "copied_unit"},
        arguments=("--units", "2"),
        lies=copies,
    ),
    Attack(
        name="wrong data order",
        what="a miner trains on its batches in another order",
        cheaters={"cheater": "data_order"},
    ),
    Attack(
        name="wrong data",
        what="a miner trains on a text of its own",
        cheaters={"cheater": "wrong_data"},
    ),
    Attack(
        name="tampered optimizer state",
        what="a miner sets one of Adam's moments to zero at the end of every segment",
        cheaters={"cheater": "optimizer_state"},
    ),
    Attack(
        name="one ulp",
        what="a miner changes one weight by one unit in the last place at the end of every segment",
        cheaters={"cheater": "one_ulp"},
    ),
    Attack(
        name="NaN injection",
        what="a miner makes one weight a NaN",
        cheaters={"cheater": "nan_injection"},
    ),
    Attack(
        name="false loss",
        what="a miner trains rightly and commits to half the loss",
        cheaters={"cheater": "false_loss"},
    ),
    Attack(
        name="lying opening",
        is_convicted=False,
        what="a miner commits to what it trained and opens another loss",
        cheaters={"cheater": "lying_opening"},
        changes={"open_blocks": 100},
    ),
    Attack(
        name="undrawn segment",
        what="a miner bends one segment of four and gives nobody the states around it but those drawn for them",
        cheaters={"cheater": "undrawn_segment"},
        changes={"segments": 4, "segments_per_verifier": 1},
        # Where it was not drawn, it was merged.
        voids_rounds=True,
    ),
    Attack(
        name="withheld state",
        is_convicted=False,
        what="a miner commits rightly and gives nobody a state of its unit",
        cheaters={"cheater": "withheld_state"},
        changes={"seal_blocks": 100},
    ),
    Attack(
        name="late opening",
        is_convicted=False,
        what="a miner opens its unit after the phase",
        cheaters={"cheater": "late_opening"},
        changes={"open_blocks": 100},
    ),
    Attack(
        name="late reveal",
        is_convicted=False,
        what="a verifier seals its answers and reveals them after the phase",
        cheaters={"cheater": "late_reveal"},
        changes={"open_blocks": 100, "min_verifiers": 4, "verifiers_per_unit": 4, "quorum": 3},
        lies=doubted_units,
        honest_verifiers=3,
    ),
    Attack(
        name="false dissent",
        is_convicted=False,
        what="a verifier seals that right work is wrong",
        cheaters={"cheater": "false_dissent"},
        # All three are drawn for every unit, the cheater too.
        changes={"min_verifiers": 3, "verifiers_per_unit": 3, "window_blocks": 8},
        clocks=SHORT_CLOCKS,
        is_over=is_settled,
        lies=doubted_units,
        is_spite=True,
    ),
    Attack(
        name="wrong merge",
        what="a juror proposes a merge with one weight one ulp off, before anybody else",
        cheaters={"cheater": "wrong_merge"},
        arguments=("--challenge-budget", "0"),
        changes={"min_verifiers": 3},
        lies=false_merges,
    ),
    Attack(
        name="wrong merge, bought jury",
        voids_rounds=True,
        what="two jurors of three agree on a merge with one weight one ulp off",
        cheaters={"cheater": "wrong_merge", "accomplice": "wrong_merge"},
        arguments=("--challenge-budget", "0"),
        changes={"min_verifiers": 3},
        lies=false_merges,
        honest_verifiers=1,
    ),
    Attack(
        name="racing re-orgs",
        what="one ulp, while blocks are undone under everybody, 1 to 5 at a time",
        cheaters={"cheater": "one_ulp"},
        rounds=1,
        strike=undo_blocks,
    ),
    Attack(
        name="double claims",
        is_convicted=False,
        clocks=SHORT_CLOCKS,
        changes={"window_blocks": 8},
        what="a miner asks for each reward twice in a transaction, and again",
        cheaters={"cheater": "double_claim"},
        lies=extra_tokens,
        is_over=has_claimed,
    ),
)


def find_attack(name: str) -> Attack:
    """Raises KeyError, naming what there is."""
    for attack in ATTACKS:
        if attack.name == name:
            return attack
    raise KeyError(f"no attack is called {name!r}; there are {', '.join(a.name for a in ATTACKS)}")
