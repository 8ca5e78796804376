"""`cupel dispute accuse` and `continue`: a person's side of a dispute, without a node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cupel.node.options import build_settings, node_options
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.chain.court_events import DisputeRecord
    from cupel.node.settings import NodeSettings


@click.command(short_help="Accuse a wrong unit or merge, and play the dispute to its end.")
@node_options
@click.option("--round", "number", type=click.IntRange(0), required=True, help="The round.")
@click.option("--unit", help="Its place among the round's units, or the start of its id.")
@click.option("--segment", type=click.IntRange(0), help="Compute this segment of the unit only.")
@click.option("--merge", is_flag=True, help="The round's proposed merges instead of a unit.")
@click.option("--candidate", type=click.IntRange(0), help="Look at this proposed merge only, counted from 0.")
@click.option("--yes", is_flag=True, help="Do not ask before the bond is put down.")
def accuse(
    number: int,
    unit: str | None,
    segment: int | None,
    merge: bool,
    candidate: int | None,
    yes: bool,
    **options: Any,
) -> None:
    """Compute a unit or a merge again, and accuse who posted it if it is not what it should be.

    Nobody is accused whose work is right: a bond would be lost. States and data are fetched from the run's members.
    Then this side's moves are made until the dispute has ended, and what is won is collected; started again with the
    same --data, `continue` goes on. Exit 0 if the accused was convicted, else 1.
    """
    from cupel.disputes.playing import Hand
    from cupel.node.session import open_session
    from cupel.node.stopping import StopRequest

    if merge == (unit is not None):
        raise UsageError("--unit says which unit of the round to look at, --merge looks at its merges: give one")
    if (segment if merge else candidate) is not None:
        raise UsageError("--segment is part of a unit, --candidate one of the merges")
    settings = _read_settings(options)
    if not yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on before a bond is put down: give --yes")
    with open_session(settings, "dispute", StopRequest()) as session:
        hand = Hand(session)
        if unit is None:
            what, wrong = f"the merge of round {number}", hand.find_wrong_candidate(number, candidate)
        else:
            chosen = hand.find_unit(number, unit)
            what, wrong = f"unit 0x{chosen.unit_id.hex()}", hand.find_wrong_segment(chosen, segment)
        if wrong is None:
            click.echo(f"Nothing is wrong with {what}, to the last bit: nobody is accused")
            sys.exit(1)
        click.echo(f"WRONG: {what} of {wrong.accused}: {wrong.reason}")
        if not yes:
            bond = hand.bond_for(wrong.accused)
            click.confirm(f"Accuse it, for a bond of up to {bond / 10**18:.6g} ETH?", abort=True, err=True)
        _end(hand.accuse(wrong))


@click.command("continue", short_help="Go on with a dispute of this key's.")
@node_options
@click.argument("dispute", type=click.IntRange(1), metavar="DISPUTE")
def continue_dispute(dispute: int, **options: Any) -> None:
    """Make this key's moves in a dispute until it has ended, and collect what is won.

    What the moves show is computed from states and data that are fetched from the run's members. A unit's own miner
    defends it by `miner`, with its folder. Exit 0 if this side won, else 1.
    """
    from cupel.disputes.playing import Hand
    from cupel.node.session import open_session
    from cupel.node.stopping import StopRequest

    with open_session(_read_settings(options), "dispute", StopRequest()) as session:
        _end(Hand(session).play_to_end(dispute), session.address)


def _read_settings(options: dict[str, Any]) -> NodeSettings:
    from cupel.node.settings import NodeSettings

    return build_settings(NodeSettings, options)


def _end(record: DisputeRecord, party: str | None = None) -> None:
    """Say how it ended and exit with the verdict on this side."""
    from cupel.disputes.history import tell_ending

    ending = record.ending
    assert ending is not None
    click.echo(f"Dispute {record.number}: {tell_ending(record)}")
    click.echo(f"Every move of it: cupel dispute show {record.number} --run RUN --rpc URL")
    won = ending.convicted == (party in (None, record.challenger))
    sys.exit(0 if won and not ending.closed else 1)
