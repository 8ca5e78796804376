"""Whether a run can live on a chain: its randomness, its headers, its heights, and how large its contracts may be.

Draws are as good as `prevrandao`. Where that is a constant, everybody knows every draw in advance, and work can be
faked where nobody will look.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from cupel.chain.answers import parse_data
from cupel.chain.bytecode import load_runtime_code
from cupel.chain.client import ChainClient
from cupel.chain.transport import RpcFault
from cupel.protocol.errors import MalformedInput, UsageError
from cupel.protocol.types import Height

BLOCKS_LOOKED_AT = 32
FEWEST_BLOCKS = 3
COPIES_AHEAD = 10
"""Where values come in copies from another chain, they are known there this many copies ahead: two minutes of Ethereum,
more than a rollup lags behind it by custom."""
# NUMBER, PREVRANDAO, returned as two words by the constructor that a call pretends to run.
_PROBE = "0x435f524460205260405ff3"
GAS_OF_ALL = 12_000_000
"""A block must take the deployment of a run, 6.3 million gas, with a margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeaconView:
    """What recent blocks have for randomness."""

    blocks: int
    distinct: int
    longest_copy: int
    """Most blocks in a row with one value."""
    has_zero: bool

    @property
    def is_constant(self) -> bool:
        return self.distinct <= 1

    @property
    def least_delay(self) -> int:
        """Blocks after which nobody can know the value yet."""
        return 1 if self.longest_copy == 1 else COPIES_AHEAD * self.longest_copy


def look_at_beacon(client: ChainClient) -> BeaconView:
    """The newest blocks' values. Raises UsageError: the chain is too short to tell."""
    newest = client.head().number
    if newest + 1 < FEWEST_BLOCKS:
        raise UsageError(
            f"the chain at {client.url} has {newest + 1} blocks: too few to see whether its prevrandao changes; "
            "try again in a minute"
        )
    values: list[bytes] = []
    # A chain's first block may have any value, and nobody will draw from it.
    for number in range(max(1, newest + 1 - BLOCKS_LOOKED_AT), newest + 1):
        block = client.get_block(Height(number))
        if block is not None:
            values.append(block.beacon)
    run = longest = 1
    for before, value in itertools.pairwise(values):
        run = run + 1 if value == before else 1
        longest = max(longest, run)
    has_zero = any(not any(value) for value in values)
    return BeaconView(blocks=len(values), distinct=len(set(values)), longest_copy=longest, has_zero=has_zero)


def find_beacon_problem(view: BeaconView, beacon_delay: int) -> str | None:
    """Why draws could not rest on this chain's own prevrandao; None if they can."""
    if view.is_constant or view.has_zero:
        what = "zero" if view.has_zero else "the same"
        return (
            f"prevrandao is {what} in the last {view.blocks} blocks: this chain has no randomness of its own, and "
            "every draw would be known in advance. Take another chain, or bring a beacon contract (run.beacon; "
            "docs/networks/l2.md)"
        )
    if beacon_delay < view.least_delay:
        return (
            f"prevrandao stays the same for {view.longest_copy} blocks: it is copied from another chain, where it is "
            f"known earlier. With clocks.beacon_delay of {beacon_delay} blocks seeds would be known before members are "
            f"frozen; {view.least_delay} blocks are the least"
        )
    return None


def find_chain_problem(client: ChainClient) -> str | None:
    """What else keeps a run from working there; None if nothing does."""
    head = client.head()
    if head.gas_limit < GAS_OF_ALL:
        return f"blocks take {head.gas_limit:,} gas: too few for a run, whose deployment alone needs 6.3 million"
    try:
        client.get_header(head.number)
    except MalformedInput as error:
        return f"its headers cannot be proved to a contract ({error}): PrevrandaoBeacon would never know a past value"
    try:
        words = parse_data(client.request("eth_call", {"data": _PROBE}, "latest"))
        height, value = int.from_bytes(words[:32], "big"), words[32:64]
        if len(words) != 64:
            return f"it does not run code as Ethereum does since Shanghai (a call gave {len(words)} bytes, not 64)"
    except (RpcFault, MalformedInput) as error:
        return f"it does not run code as Ethereum does since Shanghai ({error})"
    # A node may answer a call as of its newest block or of the one in the making.
    newest = client.head().number
    if not head.number <= height <= newest + 1:
        return (
            f"its contracts count other blocks ({height:,}) than its nodes ({newest:,}): clocks would not mean blocks"
        )
    if not any(value):
        return "its contracts see prevrandao as zero, whatever its headers say"
    return _find_size_problem(client)


def _find_size_problem(client: ChainClient) -> str | None:
    size = len(load_runtime_code("Run").code)
    try:
        # Create a contract of as many zero bytes: push the size, return that much of the empty memory.
        client.request("eth_call", {"data": f"0x61{size:04x}5ff3"}, "latest")
    except RpcFault as error:
        return f"it does not take contracts of {size:,} bytes, as Run has ({error})"
    return None
