"""The `verifier` command."""

from __future__ import annotations

from typing import Any

import click

from cupel.node.command import log_as_json, run_command, stop_on_signals
from cupel.node.options import ENVIRONMENT_PREFIX, build_settings, node_options
from cupel.verifier.settings import WATCHES, VerifierSettings


@click.command("verifier", context_settings={"help_option_names": ["-h", "--help"]})
@node_options
@click.option(
    "--slots", type=int, default=1, show_default=True, help="Stake slots: the more, the likelier to be drawn."
)
@click.option(
    "--watch",
    type=click.Choice(WATCHES),
    default="drawn",
    show_default=True,
    help="`all` replays every unit, segment by segment, and reports and accuses what differs.",
)
def verifier(**options: Any) -> None:
    """Replay randomly drawn segments of a run, attest to what is right, and be paid for it.

    Every option may also come from the environment (CUPEL_RPC for --rpc) or from cupel.toml.
    """
    settings = build_settings(VerifierSettings, options)
    if settings.json_log:
        log_as_json()
    stop = stop_on_signals()
    # Past this point torch is loaded, which takes seconds; --help and wrong settings do not wait for it.
    from cupel.verifier.verifier import run_verifier

    run_verifier(settings, stop)


def main() -> None:
    run_command(verifier, "verifier", ENVIRONMENT_PREFIX)


if __name__ == "__main__":
    main()
