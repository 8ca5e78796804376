"""Cheaters: each a miner or verifier with one thing spoiled, started as a process like the honest ones.

A file is one cheater and has a `main()`. From the command line to the chain everything is the honest node's own, but
for one method or one thing a method is given.
"""

from __future__ import annotations

from cupel.miner import main as miner_command
from cupel.miner import miner as miner_module
from cupel.miner.miner import Miner
from cupel.verifier import main as verifier_command
from cupel.verifier import verifier as verifier_module
from cupel.verifier.verifier import Verifier


def play(cheater: type[Miner] | type[Verifier]) -> None:
    """Be the `miner` or `verifier` command, with this class where that has its own."""
    if issubclass(cheater, Miner):
        miner_module.Miner = cheater
        miner_command.main()
    else:
        verifier_module.Verifier = cheater
        verifier_command.main()
