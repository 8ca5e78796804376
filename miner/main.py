"""The `miner` command."""

from __future__ import annotations

from typing import Any

import click

from cupel.miner.settings import FAULTS, MinerSettings
from cupel.node.command import log_as_json, run_command, stop_on_signals
from cupel.node.options import ENVIRONMENT_PREFIX, build_settings, node_options


@click.command("miner", context_settings={"help_option_names": ["-h", "--help"]})
@node_options
@click.option("--units", type=int, default=1, show_default=True, help="Units of work to ask for in each round.")
@click.option(
    "--nproc",
    type=int,
    default=1,
    show_default=True,
    help="Worker processes that share each training step, --threads each; the results are the same bits.",
)
@click.option("--deposit", "deposit_wei", type=int, help="Wei to put down; by default what keeps all units bonded.")
@click.option(
    "--fault",
    type=click.Choice(FAULTS),
    help="Testing aid: fake one step of every segment. Works on the embedded chain alone.",
)
def miner(**options: Any) -> None:
    """Train units of a run, commit to them on chain, and be paid for those that verifiers reproduce.

    Every option may also come from the environment (CUPEL_RPC for --rpc) or from cupel.toml.
    """
    settings = build_settings(MinerSettings, options)
    if settings.json_log:
        log_as_json()
    stop = stop_on_signals()
    # Past this point torch is loaded, which takes seconds; --help and wrong settings do not wait for it.
    from cupel.miner.miner import run_miner

    run_miner(settings, stop)


def main() -> None:
    run_command(miner, "miner", ENVIRONMENT_PREFIX)


if __name__ == "__main__":
    main()
