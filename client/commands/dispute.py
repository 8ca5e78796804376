"""`cupel dispute`: catch a lie from files, judge a proof, and follow a court."""

from __future__ import annotations

import click

from cupel.commands.dispute_chain import list_disputes, show_dispute
from cupel.commands.dispute_files import judge, prove, trace
from cupel.commands.dispute_play import accuse, continue_dispute


@click.group()
def dispute() -> None:
    """Catch a lie by hand: find what is wrong in a posted result, prove it, judge a proof, follow the court.

    docs/operating/disputes.md walks through it.
    """


for command in (accuse, continue_dispute, judge, list_disputes, prove, show_dispute, trace):
    dispute.add_command(command)
