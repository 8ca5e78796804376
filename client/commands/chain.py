"""`cupel chain`: the embedded chain as a process of its own."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cupel.chain.paths import get_data_directory
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.chain.node.chain import EmbeddedChain

WEI_PER_ETH = 10**18


def parse_ether(text: str) -> int:
    """Wei of an amount like 1.5. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,60})(?:\.([0-9]{1,18}))?", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an amount of ETH, like 1.5, of at most 18 decimals")
    return int(match[1]) * WEI_PER_ETH + int((match[2] or "").ljust(18, "0"))


def parse_fund(text: str) -> tuple[bytes, int]:
    """Address and wei of ADDRESS=ETH. Raises UsageError."""
    from eth_utils.address import is_address, is_checksum_address, to_canonical_address

    address, separator, amount = text.partition("=")
    if not separator or not is_address(address):
        raise UsageError(f"--fund {text}: expected ADDRESS=ETH, as in 0x71C7...=100")
    if address not in (address.lower(), address.upper()) and not is_checksum_address(address):
        raise UsageError(f"--fund {text}: the address's checksum is wrong; was it mistyped?")
    return to_canonical_address(address), parse_ether(amount)


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where blocks are kept. [default: chain/ in the user's data directory]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8545, show_default=True, help="Port to listen on; 0 lets the system choose.")
@click.option("--block-time", "block_time_s", default=1.0, show_default=True, help="Seconds between blocks.")
@click.option("--fund", multiple=True, metavar="ADDRESS=ETH", help="Give an address ETH at genesis; repeatable.")
@click.option("--chain-id", type=int, help="The new chain's identifier. [default: 31337]")
@click.option("--allow-reorg", is_flag=True, help="Let anybody undo blocks by RPC (cupel_reorg): for tests only.")
@click.option("--allow-skip", is_flag=True, help="Let anybody add empty blocks by RPC (cupel_skip): for the demo.")
@click.option("--verbose", is_flag=True, help="Log every block's time.")
def chain(
    data: Path | None,
    host: str,
    port: int,
    block_time_s: float,
    fund: tuple[str, ...],
    chain_id: int | None,
    allow_reorg: bool,
    allow_skip: bool,
    verbose: bool,
) -> None:
    """Run an EVM chain (Prague rules) on this machine and serve JSON-RPC.

    The first line on stdout is the URL, printed once the chain answers. Blocks and state survive restarts and kills;
    one process per directory. For development, tests and the demo: whoever runs it decides what it says.
    """
    from cupel.chain.node.server import NodeSettings, run_node

    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.DEBUG if verbose else logging.WARNING
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("eth").setLevel(logging.WARNING)
    settings = NodeSettings(
        directory=data if data is not None else get_data_directory() / "chain",
        host=host,
        port=port,
        block_time_s=block_time_s,
        chain_id=chain_id,
        balances_wei=dict(parse_fund(one) for one in fund),
        allow_reorg=allow_reorg,
        allow_skip=allow_skip,
    )

    def announce(url: str, running: EmbeddedChain) -> None:
        click.echo(url)
        click.echo(
            f"chain {running.chain_id} at height {running.head.number} in {settings.directory}, "
            f"a block each {block_time_s:g} s; stop with Ctrl-C",
            err=True,
        )

    run_node(settings, announce=announce)
