"""`cupel data`: build, show, verify and serve training data."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cupel.network.data import BuildOptions, DataDirectory, DataManifest, build_data, load_manifest, verify_data
from cupel.network.ipfs import BlockStore, Fetcher, GatewayServer
from cupel.network.ipfs.cid import parse_cid
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Cid

_DEFAULTS = BuildOptions()
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def data() -> None:
    """Build, show, verify and serve training data."""


@data.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--out", required=True, type=_DIRECTORY, metavar="DIR", help="Where the data goes.")
@click.option("--vocabulary", default=_DEFAULTS.vocabulary, show_default=True, help="Tokens to train a tokenizer of.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path, dir_okay=False), help="Take this tokenizer.json instead of training."
)
@click.option("--end-of-document", metavar="TOKEN", help="The taken tokenizer's token that closes a document.")
@click.option("--shard-tokens", default=_DEFAULTS.shard_tokens, show_default=True, help="Tokens in every shard.")
@click.option(
    "--held-out",
    default=_DEFAULTS.held_out,
    show_default=True,
    metavar="FRACTION",
    help="Share of the text kept from training, as whole files.",
)
@click.option("--licence", default=_DEFAULTS.licence, show_default=True, help="A note on the rights to the text.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Take only files whose name or path matches; may be repeated."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave out files whose name or path matches; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(
    paths: Sequence[Path],
    out: Path,
    vocabulary: int,
    tokenizer: Path | None,
    end_of_document: str | None,
    shard_tokens: int,
    held_out: float,
    licence: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn text files into shards of tokens with a root.

    Directories are read whole, in the same order everywhere; files that are not UTF-8 text are left out and counted.
    The same text and options give the same manifest, to the byte.
    """
    options = BuildOptions(
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        end_of_document=end_of_document,
        shard_tokens=shard_tokens,
        held_out=held_out,
        licence=licence,
        include=include,
        exclude=exclude,
    )
    with _progress() as progress:
        built = build_data(paths, out, options, progress=progress)
    manifest = built.manifest
    if as_json:
        click.echo(_as_json(manifest, built.manifest_cid))
        return
    click.echo(
        f"manifest {built.manifest_cid}  data root 0x{manifest.root.hex()}  "
        f"{manifest.training_tokens:,} tokens in {len(manifest.training)} shards, "
        f"{manifest.held_out_tokens:,} held out in {len(manifest.held_out)}"
    )


@data.command()
@click.argument("source", metavar="DIR|CID")
@click.option("--peer", "peers", multiple=True, metavar="URL", help="Where to fetch a CID from; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as one JSON object.")
def show(source: str, peers: tuple[str, ...], as_json: bool) -> None:
    """Show what data consists of, from disk or, by the manifest's CID, from peers."""
    manifest, cid = _find_manifest(source, peers)
    if as_json:
        click.echo(_as_json(manifest, cid))
        return
    for name, value in _facts(manifest, cid):
        click.echo(f"{name:<15}{value}")


@data.command()
@click.argument("directory", type=_DIRECTORY, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(directory: Path, as_json: bool) -> None:
    """Read all data again and repeat every hash and root. Exit 0 if it is whole, 1 if anything is wrong."""
    with _progress() as progress:
        wrong = verify_data(directory, progress=lambda done, total: progress("verifying", done, total))
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "whole": not wrong, "wrong": wrong}))
    elif wrong:
        click.echo("\n".join(wrong))
    else:
        found = DataDirectory(directory)
        click.echo(f"whole: manifest {found.manifest_cid}  data root 0x{found.manifest.root.hex()}")
    sys.exit(1 if wrong else 0)


@data.command()
@click.argument("directory", type=_DIRECTORY, metavar="DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port to listen on; 0 takes a free one.")
def serve(directory: Path, host: str, port: int) -> None:
    """Serve data to miners over the trustless gateway protocol, until interrupted."""
    found = DataDirectory(directory)
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    with GatewayServer(found.store, host, port) as server:
        click.echo(f"serving {found.manifest_cid} at {server.url}")
        stop.wait()


def _find_manifest(source: str, peers: Sequence[str]) -> tuple[DataManifest, Cid]:
    if Path(source).exists():
        found = DataDirectory(source)
        return found.manifest, found.manifest_cid
    try:
        cid = parse_cid(source).text
    except MalformedInput as error:
        raise click.UsageError(f"{source}: no directory of this name, and no CID either ({error})") from None
    if not peers:
        raise click.UsageError("to fetch a CID, say from where: --peer http://host:port")
    with (
        tempfile.TemporaryDirectory() as directory,
        BlockStore(directory) as store,
        Fetcher(store, peers) as fetcher,
    ):
        return load_manifest(fetcher, cid), cid


def _facts(manifest: DataManifest, cid: Cid) -> Iterator[tuple[str, str]]:
    totals = manifest.totals
    yield "manifest", cid
    yield "data root", f"0x{manifest.root.hex()}"
    yield "held-out root", f"0x{manifest.held_out_root.hex()}"
    yield "tokenizer", f"{manifest.tokenizer}, {manifest.vocabulary:,} tokens"
    yield "training", f"{len(manifest.training):,} shards of {manifest.shard_tokens:,} tokens"
    yield "held out", f"{len(manifest.held_out):,} shards"
    yield "text", f"{totals.files:,} files, {totals.text_bytes:,} bytes"
    left_out = (
        f"{totals.undecodable_files:,} not UTF-8, {totals.duplicate_files:,} duplicate, {totals.empty_files:,} empty"
    )
    yield "files left out", left_out
    yield "tokens dropped", f"{totals.dropped_tokens:,}, too few for a shard"
    yield "licence", manifest.licence


def _as_json(manifest: DataManifest, cid: Cid) -> str:
    table: dict[str, Any] = {"manifest": cid, **manifest.to_table()}
    return json.dumps(table, sort_keys=True, ensure_ascii=False)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each thing that is done in turn; nothing where stderr is not a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show_progress
        for task in bars.tasks:
            bars.update(task.id, completed=task.total)
