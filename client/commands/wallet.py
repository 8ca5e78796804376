"""`cupel wallet`: encrypted keys on disk, what they own, and sending ETH."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cupel.node.options import Gwei, Urls
from cupel.protocol.errors import StorageFailed, Unavailable, UsageError

if TYPE_CHECKING:
    from cupel.chain.client import ChainClient, FeePolicy
    from cupel.chain.outbox import Entry
    from cupel.protocol.types import Address

WEI_PER_ETH = 10**18
TRANSFER_GAS = 21_000
CANCEL_PATIENCE_S = 180.0
Command = TypeVar("Command", bound=Callable[..., Any])

# Imports of eth-account and web3 wait until a command needs them: they take a second.


def _keystore_option(function: Command) -> Command:
    return click.option(
        "--keystore",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of encrypted keys. [default: keystore/ in the user's data directory]",
    )(function)


def _password_options(function: Command) -> Command:
    function = click.option("--password-fd", type=int, help="Read the password from this open file descriptor.")(
        function
    )
    return click.option(
        "--password-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Read the password from a file's first line.",
    )(function)


def _rpc_option(function: Command) -> Command:
    return click.option(
        "--rpc", type=Urls(), default="http://127.0.0.1:8545", show_default=True, envvar="CUPEL_RPC",
        help="JSON-RPC URL; several, and one may fail.",
    )(function)  # fmt: skip


def _json_option(function: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def _get_directory(keystore: Path | None) -> Path:
    from cupel.chain.keys import get_keystore_directory

    return get_keystore_directory() if keystore is None else keystore


def format_ether(wei: int) -> str:
    """An amount in ETH, exact, without trailing zeros."""
    whole, rest = divmod(wei, WEI_PER_ETH)
    return f"{whole}.{rest:018d}".rstrip("0").rstrip(".")


@click.group()
def wallet() -> None:
    """Make, import and use encrypted keys.

    Keys are V3 keystores, readable by any wallet. A password never goes on the command line.
    """


@wallet.command()
@_keystore_option
@_password_options
def new(keystore: Path | None, password_file: Path | None, password_fd: int | None) -> None:
    """Make a key and print its address. Who loses the file or the password loses the key."""
    from cupel.chain.keys import make_key, save_keystore
    from cupel.node.signers import get_password

    password = get_password(password_file, password_fd, confirm=True)
    signer = make_key()
    path = save_keystore(signer, password, _get_directory(keystore), now=_now())
    click.echo(signer.address)
    click.echo(f"kept in {path}", err=True)


@wallet.command("import")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that holds the key in hex. [default: ask for it]",
)
@_keystore_option
@_password_options
def import_key(
    key_file: Path | None, keystore: Path | None, password_file: Path | None, password_fd: int | None
) -> None:
    """Encrypt a private key made elsewhere and print its address."""
    from cupel.chain.keys import LocalSigner, save_keystore
    from cupel.node.signers import get_password

    signer = LocalSigner(_read_key(key_file))
    password = get_password(password_file, password_fd, confirm=True)
    path = save_keystore(signer, password, _get_directory(keystore), now=_now())
    click.echo(signer.address)
    click.echo(f"kept in {path}", err=True)


def _read_key(key_file: Path | None) -> bytes:
    from cupel.chain.keys import read_secret_file

    if key_file is not None:
        text = read_secret_file(key_file)
    elif sys.stdin.isatty():
        text = click.prompt("Private key in hex", hide_input=True, err=True)
    else:
        raise UsageError("no key: give --key-file, or run this in a terminal")
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise UsageError("that is not a private key: it must be 64 hexadecimal digits") from None


@wallet.command("list")
@_keystore_option
@_json_option
def list_keys(keystore: Path | None, as_json: bool) -> None:
    """Print address and file of every key."""
    from cupel.chain.keys import list_keystores

    directory = _get_directory(keystore)
    entries = list_keystores(directory)
    if as_json:
        keys = [{"address": entry.address, "path": str(entry.path)} for entry in entries]
        click.echo(json.dumps({"directory": str(directory), "keys": keys}))
        return
    for entry in entries:
        click.echo(f"{entry.address}  {entry.path}")
    if not entries:
        click.echo(f"no keys in {directory}: make one with `cupel wallet new`", err=True)


@wallet.command()
@click.argument("address", required=False)
@_keystore_option
@_rpc_option
@_json_option
def balance(address: str | None, keystore: Path | None, rpc: tuple[str, ...], as_json: bool) -> None:
    """Print the ETH of ADDRESS, or of every key."""
    from cupel.chain.client import ChainClient
    from cupel.chain.keys import list_keystores

    directory = _get_directory(keystore)
    wanted = [parse_address(address)] if address else [entry.address for entry in list_keystores(directory)]
    if not wanted:
        raise UsageError(f"no keys in {directory}: name an address, or make a key with `cupel wallet new`")
    with closing(ChainClient(rpc)) as client:
        found = [(one, client.get_balance(one)) for one in wanted]
        if as_json:
            # Wei as text: JSON readers that take numbers for floats would round them.
            rows = [{"address": one, "wei": str(wei), "eth": format_ether(wei)} for one, wei in found]
            click.echo(json.dumps({"chain_id": client.chain_id, "balances": rows}))
            return
    for one, wei in found:
        click.echo(f"{one}  {format_ether(wei)} ETH")


@wallet.command()
@click.argument("to")
@click.argument("amount", metavar="ETH")
@click.option("--from", "sender", metavar="KEY", help="Address, beginning of one, or file. [default: the only key]")
@click.option("--chain-id", type=int, help="Send only if the chain has this identifier.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--max-fee", "max_fee_wei", type=Gwei(), default="500", show_default=True, help="Most to pay per gas, in gwei."
)
@click.option("--tip", "tip_wei", type=Gwei(), help="Per gas for the block's producer. [default: as the chain says]")
@click.option("--confirmations", type=click.IntRange(1), default=1, show_default=True, help="Blocks to wait for.")
@_keystore_option
@_password_options
@_rpc_option
@_json_option
def send(
    to: str,
    amount: str,
    sender: str | None,
    chain_id: int | None,
    yes: bool,
    max_fee_wei: int,
    tip_wei: int | None,
    confirmations: int,
    keystore: Path | None,
    password_file: Path | None,
    password_fd: int | None,
    rpc: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send ETH to the address TO and print the transaction's hash once it is in a block.

    Killed before that, and called again for the same, it sees that transaction through and sends no second one.

    Says what the fee may come to and asks, unless --yes is given.
    """
    from cupel.chain.client import ChainClient, FeePolicy
    from cupel.chain.keys import find_keystore, load_account
    from cupel.chain.outbox import Outbox
    from cupel.chain.paths import get_outbox_path
    from cupel.commands.chain import parse_ether
    from cupel.node.signers import get_password

    target, wei = parse_address(to), parse_ether(amount)
    if wei == 0:
        raise UsageError("an amount of 0 ETH sends nothing and costs a fee: name an amount above 0")
    path = find_keystore(_get_directory(keystore), sender)
    signer = load_account(path, get_password(password_file, password_fd))
    fees = FeePolicy(max_fee_wei=max_fee_wei, tip_wei=tip_wei)
    with (
        closing(Outbox(get_outbox_path())) as outbox,
        closing(
            ChainClient(rpc, signer, chain_id=chain_id, fees=fees, receipt_depth=confirmations, outbox=outbox)
        ) as client,
        client.hold_key("cupel wallet send"),
    ):
        for entry in client.recover():
            what = entry.newest.content.what
            click.echo(f"an earlier transaction is not final yet: {what}, nonce {entry.nonce}", err=True)
        most = _compute_most(client, fees, signer.address, target, wei)
        if not yes:
            question = f"Send {format_ether(wei)} ETH from {signer.address} to {target} on chain {client.chain_id}"
            if not click.confirm(f"{question}, for a fee of at most {format_ether(most)} ETH?", err=True):
                raise click.ClickException("nothing was sent")
        receipt = client.transfer(target, wei)
        transaction = f"0x{receipt.transaction_hash.hex()}"
        if as_json:
            about = {"chain_id": client.chain_id, "from": signer.address, "to": target, "wei": str(wei)}
            done = {"transaction": transaction, "block": receipt.block_number, "fee_wei": str(receipt.cost_wei)}
            click.echo(json.dumps(about | done))
            return
    click.echo(transaction)
    click.echo(f"in block {receipt.block_number}, fee {format_ether(receipt.cost_wei)} ETH", err=True)


def _compute_most(client: ChainClient, fees: FeePolicy, sender: Address, target: Address, wei: int) -> int:
    """What the fee may come to, in wei. Raises UsageError: that and the amount are more than there is."""
    from cupel.chain.fees import compute_fees
    from cupel.chain.transport import RpcFault

    owned = client.get_balance(sender)
    head = client.head()
    tip = fees.tip_wei if fees.tip_wei is not None else client.suggest_tip(head.base_fee_wei)
    per_gas = compute_fees(fees, base_fee_wei=head.base_fee_wei, suggested_tip_wei=tip).max_fee_wei
    try:
        gas = client.estimate_gas({"from": sender, "to": target, "value": hex(min(wei, owned))})
    except RpcFault:
        gas = TRANSFER_GAS  # a node that does not estimate what an empty account sends; the balance is looked at below
    most = gas * per_gas
    if owned < wei + most:
        raise UsageError(
            f"{sender} has {format_ether(owned)} ETH on chain {client.chain_id}; sending {format_ether(wei)} takes up "
            f"to {format_ether(wei + most)} with the fee"
        )
    return most


def _data_option(function: Command) -> Command:
    return click.option(
        "--data",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of the miner or verifier that used the key. [default: what commands sent]",
    )(function)


def _get_outbox(data: Path | None) -> Path:
    from cupel.chain.paths import get_outbox_path

    return get_outbox_path() if data is None else data / "outbox.sqlite3"


@wallet.command()
@click.argument("key", required=False)
@_data_option
@_keystore_option
@_rpc_option
@_json_option
def pending(key: str | None, data: Path | None, keystore: Path | None, rpc: tuple[str, ...], as_json: bool) -> None:
    """Print what is under way for KEY (an address, a beginning of one, or a file): no password is needed.

    Transactions that are in a block stay listed until no re-org can undo them.
    """
    from cupel.chain.client import ChainClient
    from cupel.chain.keys import find_keystore, read_keystore_address
    from cupel.chain.outbox import Outbox, make_account

    address = read_keystore_address(find_keystore(_get_directory(keystore), key))
    path, trouble = _get_outbox(data), None
    entries: tuple[Entry, ...] = ()
    with closing(ChainClient(rpc)) as client:
        latest, waiting = (client.count_transactions(address, at) for at in ("latest", "pending"))
        account = make_account(client.chain_id, client.get_genesis(), address)
        if path.is_file():
            try:
                with closing(Outbox(path)) as outbox:
                    entries = outbox.list(account)
            except (UsageError, StorageFailed) as error:
                trouble = error  # what the chain says is worth knowing all the more
    ours = {entry.nonce for entry in entries}
    # One that waits for longer than a lying node could make us count is still one line.
    foreign = max(0, waiting - latest - sum(latest <= nonce < waiting for nonce in ours))
    rows = [
        {
            "nonce": entry.nonce,
            "state": str(entry.state),
            "what": entry.newest.content.what,
            "transaction": None if entry.to_send is None else f"0x{entry.to_send.hash.hex()}",
            "block": entry.block_number,
        }
        for entry in entries
    ]
    if as_json:
        about = {"address": address, "latest": latest, "pending": waiting, "foreign": foreign}
        click.echo(json.dumps(about | {"outbox": str(path), "transactions": rows}))
    else:
        for row in rows:
            where = f"in block {row['block']}, not final yet" if row["block"] is not None else row["state"]
            click.echo(f"nonce {row['nonce']}  {row['what']}  {where}  {row['transaction'] or 'not signed yet'}")
        if foreign:
            click.echo(f"{foreign} transaction(s) of other programs wait from nonce {latest} on")
        if not rows and not foreign:
            click.echo(f"nothing of {address} is under way (its next nonce is {latest})", err=True)
    if trouble is not None:
        raise trouble


@wallet.command()
@click.argument("key", required=False)
@click.option("--nonce", type=click.IntRange(0), help="Which transaction. [default: the first that waits]")
@click.option("--chain-id", type=int, help="Only if the chain has this identifier.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--max-fee", "max_fee_wei", type=Gwei(), default="500", show_default=True, help="Most to pay per gas, in gwei."
)
@click.option("--tip", "tip_wei", type=Gwei(), help="Per gas for the block's producer. [default: as the chain says]")
@_data_option
@_keystore_option
@_password_options
@_rpc_option
@_json_option
def cancel(
    key: str | None,
    nonce: int | None,
    chain_id: int | None,
    yes: bool,
    max_fee_wei: int,
    tip_wei: int | None,
    data: Path | None,
    keystore: Path | None,
    password_file: Path | None,
    password_fd: int | None,
    rpc: tuple[str, ...],
    as_json: bool,
) -> None:
    """Put a transaction that does nothing in the place of one of KEY that waits, at a higher fee.

    It may be too late: whichever of the two gets into a block counts, and this says which. A node that runs with the
    key has to be stopped first.
    """
    from cupel.chain.client import ChainClient, FeePolicy
    from cupel.chain.keys import find_keystore, load_account
    from cupel.chain.outbox import Outbox, make_account
    from cupel.node.signers import get_password

    path = find_keystore(_get_directory(keystore), key)
    signer = load_account(path, get_password(password_file, password_fd))
    fees = FeePolicy(max_fee_wei=max_fee_wei, tip_wei=tip_wei)
    with (
        closing(Outbox(_get_outbox(data))) as outbox,
        closing(ChainClient(rpc, signer, chain_id=chain_id, fees=fees, outbox=outbox)) as client,
        client.hold_key("cupel wallet cancel"),
    ):
        latest = client.count_transactions(signer.address, "latest")
        chosen = latest if nonce is None else nonce
        known = {entry.nonce: entry.newest.content.what for entry in client.list_pending()}
        what = known.get(chosen, "another program's transaction")
        if chosen < latest:
            raise UsageError(f"nonce {chosen} of {signer.address} is used: its transaction is in a block")
        if chosen not in known and chosen >= client.count_transactions(signer.address, "pending"):
            raise UsageError(f"nothing of {signer.address} waits under nonce {chosen}; see `cupel wallet pending`")
        question = f"Replace nonce {chosen} of {signer.address} ({what}) on chain {client.chain_id} by nothing"
        if not yes and not click.confirm(f"{question}, for a fee of at most {21_000 * max_fee_wei} wei?", err=True):
            raise click.ClickException("nothing was replaced")
        mined = _see_cancelled(client, chosen) if client.cancel_nonce(chosen) else None
        is_cancelled = mined is not None
        outbox.mark_told(make_account(client.chain_id, client.get_genesis(), signer.address), chosen)
        if as_json:
            about = {"chain_id": client.chain_id, "address": signer.address, "nonce": chosen}
            click.echo(json.dumps(about | {"cancelled": is_cancelled, "transaction": mined}))
        elif mined is not None:
            click.echo(mined or f"nonce {chosen} is free again: it was never sent")
    if not is_cancelled:
        raise click.ClickException(f"too late: {what} (nonce {chosen}) is in a block")


def _see_cancelled(client: ChainClient, nonce: int) -> str | None:
    """The hash of what does nothing, once that is in a block; "" if nobody ever saw the nonce; None: it was too late.

    Raises   Unavailable: neither is in a block in time
    """
    deadline = time.monotonic() + CANCEL_PATIENCE_S
    while time.monotonic() < deadline:
        entry = next((one for one in client.list_pending() if one.nonce == nonce), None)
        if entry is None:
            return None if client.count_transactions(client.address, "latest") > nonce else ""
        if entry.mined_hash is not None and entry.block_number is not None:
            is_nothing = entry.mined.content.data == b"" and entry.mined.content.value_wei == 0
            return f"0x{entry.mined_hash.hex()}" if is_nothing else None
        time.sleep(0.25)
    raise Unavailable(
        f"nonce {nonce} is in no block after {CANCEL_PATIENCE_S:g} s: `cupel wallet pending` shows what became of it"
    )


@wallet.command()
@click.argument("key", required=False)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="New file for the key.")
@_keystore_option
@_password_options
def export(
    key: str | None, out: Path, keystore: Path | None, password_file: Path | None, password_fd: int | None
) -> None:
    """Write the private KEY unencrypted, in hex, to a new file only you can read.

    Whoever sees that file owns everything the key owns. It is never printed.
    """
    from cupel.chain.keys import find_keystore, load_account, write_private_file
    from cupel.node.signers import get_password

    path = find_keystore(_get_directory(keystore), key)
    signer = load_account(path, get_password(password_file, password_fd))
    write_private_file(out, f"0x{signer.export_key().hex()}\n".encode())
    click.echo(
        f"the key of {signer.address} is in {out}, UNENCRYPTED: whoever reads that file owns what the key owns. "
        "Delete it once it is where it belongs.",
        err=True,
    )


def parse_address(text: str) -> Any:
    """The address with its checksum. Raises UsageError."""
    from eth_utils.address import is_address, is_checksum_address, to_checksum_address

    if not is_address(text):
        raise UsageError(f"{text!r} is not an address: 0x and 40 hexadecimal digits")
    digits = text.removeprefix("0x")
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address(text):
        raise UsageError(f"{text}: the checksum is wrong; was it mistyped?")
    return to_checksum_address(text)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
