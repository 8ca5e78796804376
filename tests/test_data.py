"""Data: the same text gives the same roots everywhere, splits never mix, and no wrong token gets in unnoticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cupel.commands.data import data as data_command
from cupel.network.data import (
    BuildOptions,
    BuiltData,
    DataDirectory,
    DataManifest,
    ShardSet,
    build_data,
    load_manifest,
    load_tokenizer,
    verify_data,
)
from cupel.network.data.build import BLOCKSTORE, MANIFEST
from cupel.network.data.corpus import Document, read_corpus, split_held_out
from cupel.network.data.tokenizer import END_OF_DOCUMENT, Encoder, pieces, tokenizer_bytes, train_tokenizer
from cupel.network.ipfs import BlockStore, Fetcher, GatewayServer, NobodyServed, cid_of
from cupel.protocol.errors import MalformedInput, RootMismatch, UsageError
from cupel.protocol.merkle import tensor_root, tree_root
from cupel.protocol.types import Root

KEYWORDS = "def return self class import for in while if else None True lambda yield with as not and or"
SMALL = BuildOptions(vocabulary=300, shard_tokens=256, held_out=0.2, licence="public domain, made up")


def write_text(directory: Path, files: int = 40, seed: int = 1) -> Path:
    numbers = random.Random(seed)
    for index in range(files):
        lines = [" ".join(numbers.choices(KEYWORDS.split(), k=8)) for _ in range(numbers.randint(10, 60))]
        path = directory / f"package{index % 4}" / f"module{index}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# file {index}\n" + "\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def original(text: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltData:
    return build_data([text], tmp_path_factory.mktemp("original"), SMALL)


@pytest.fixture
def built(original: BuiltData, tmp_path: Path) -> BuiltData:
    """A copy that a test may spoil."""
    shutil.copytree(original.directory, tmp_path / "data")
    return replace(original, directory=tmp_path / "data")


@pytest.fixture
def store(built: BuiltData) -> Iterator[BlockStore]:
    with BlockStore(built.directory / BLOCKSTORE) as store:
        yield store


# Building


def test_the_same_text_gives_the_same_manifest_anywhere(text: Path, built: BuiltData, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(text, moved)
    program = (
        "import sys; from cupel.network.data import BuildOptions, build_data;"
        "build_data([sys.argv[1]], sys.argv[2], BuildOptions(vocabulary=300, shard_tokens=256, held_out=0.2,"
        " licence='public domain, made up'))"
    )
    alone = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, "-c", program, str(moved), str(tmp_path / "again")], env=alone, check=True, timeout=120
    )
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (built.directory / MANIFEST).read_bytes()


def test_the_manifest_states_roots_anyone_can_repeat(built: BuiltData, store: BlockStore) -> None:
    manifest = built.manifest
    assert cid_of((built.directory / MANIFEST).read_bytes()) == built.manifest_cid
    for split, root in (("training", manifest.root), ("held_out", manifest.held_out_root)):
        roots = []
        for shard in manifest.shards(split):
            tokens = torch.frombuffer(bytearray(store.read(shard.cid)), dtype=torch.int32)
            assert tokens.shape == (256,)
            assert tensor_root(tokens) == shard.root
            roots.append(shard.root)
        assert roots
        assert tree_root(roots) == root
    table = json.loads(manifest.to_bytes())
    assert {shard["tokens"] for shard in table["shards"]} == {256}
    assert table["data_root"] == "0x" + manifest.root.hex()


def tokens_of(store: BlockStore, manifest: DataManifest, split: str) -> list[int]:
    raw = b"".join(store.read(shard.cid) for shard in manifest.shards(split))
    return torch.frombuffer(bytearray(raw), dtype=torch.int32).tolist()


def test_the_tokens_are_the_files_text_and_no_file_is_in_both_splits(
    text: Path, built: BuiltData, store: BlockStore
) -> None:
    manifest = built.manifest
    tokenizer = load_tokenizer(store.read(manifest.tokenizer))
    sources = {path.read_text() for path in text.rglob("*.py")}
    seen: list[str] = []
    for split in ("training", "held_out"):
        documents = tokenizer.decode(tokens_of(store, manifest, split), skip_special_tokens=False).split(
            END_OF_DOCUMENT
        )
        assert set(documents[:-1]) <= sources
        assert any(source.startswith(documents[-1]) for source in sources)
        seen += [document for document in documents if document.startswith("# file")]
    headers = [document.split("\n")[0] for document in seen]
    assert len(headers) == len(set(headers))
    share = manifest.held_out_tokens / (manifest.held_out_tokens + manifest.training_tokens)
    assert 0.1 < share < 0.4


def test_every_token_is_kept_or_counted_as_dropped(text: Path, built: BuiltData, store: BlockStore) -> None:
    encoder = Encoder(load_tokenizer(store.read(built.manifest.tokenizer)))
    every = sum(1 + sum(map(len, encoder.encode(path.read_text()))) for path in text.rglob("*.py"))
    manifest = built.manifest
    assert every == manifest.training_tokens + manifest.held_out_tokens + manifest.totals.dropped_tokens
    assert manifest.totals.dropped_tokens < 2 * 256


def test_files_that_are_no_text_are_left_out_and_counted(text: Path, built: BuiltData, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(text, mixed)
    (mixed / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    (mixed / "nul.txt").write_bytes(b"text\0more")
    (mixed / "empty.txt").write_bytes(b"")
    (mixed / "zcopy.py").write_bytes((text / "package0" / "module0.py").read_bytes())
    (mixed / ".hidden").mkdir()
    (mixed / ".hidden" / "secret.py").write_text("password")
    (mixed / ".env").write_text("password")
    again = build_data([mixed], tmp_path / "out", SMALL).manifest
    assert (again.totals.undecodable_files, again.totals.empty_files, again.totals.duplicate_files) == (2, 1, 1)
    assert again.totals.files == 40
    assert again.root == built.manifest.root


def test_patterns_choose_files(text: Path) -> None:
    corpus = read_corpus([text], include=["package1/*", "module0.py"], exclude=["*module5.py"])
    names = [document.path.name for document in corpus.documents]
    assert "module0.py" in names
    assert "module5.py" not in names
    assert {document.path.parent.name for document in corpus.documents} == {"package0", "package1"}


def test_a_file_that_changes_meanwhile_is_noticed(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")
    document = read_corpus([path]).documents[0]
    path.write_text("after")
    with pytest.raises(UsageError, match="changed while"):
        document.read()


def test_building_again_lets_the_earlier_data_go(text: Path, built: BuiltData, tmp_path: Path) -> None:
    other = write_text(tmp_path / "other", files=20, seed=2)
    again = build_data([other], built.directory, SMALL)
    assert again.manifest.root != built.manifest.root
    assert verify_data(built.directory) == []
    with BlockStore(built.directory / BLOCKSTORE) as store:
        assert store.get(built.manifest_cid) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocabulary": 256}, "vocabulary 256: from 257"),
        ({"shard_tokens": 0}, "tokens a shard"),
        ({"shard_tokens": 1 << 20}, "fewer than 1,048,576 tokens"),
        ({"held_out": 1.0}, "held-out fraction"),
        ({"held_out": -0.1}, "held-out fraction"),
        ({"include": ("*.rs",)}, "no text in"),
        ({"tokenizer": Path("/nonexistent.json")}, "nonexistent.json"),
        ({"end_of_document": "<stop>"}, "no token '<stop>'"),
    ],
)
def test_what_cannot_be_built_is_explained(text: Path, tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_data([text], tmp_path / "out", replace(SMALL, **changes))  # type: ignore[arg-type]


def test_one_file_cannot_be_split_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("word " * 2000)
    with pytest.raises(UsageError, match="--held-out 0"):
        build_data([tmp_path / "one.txt"], tmp_path / "out", SMALL)
    whole = build_data([tmp_path / "one.txt"], tmp_path / "out", replace(SMALL, held_out=0.0))
    assert whole.manifest.held_out == ()
    assert verify_data(tmp_path / "out") == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(1, 1000)), unique_by=lambda d: d[0]),
    st.floats(0.01, 0.9),
)
def test_a_split_loses_nothing_and_holds_out_at_most_twice_what_was_asked(
    described: list[tuple[bytes, int]], fraction: float
) -> None:
    documents = [Document(path=Path("x"), digest=digest, size_bytes=size) for digest, size in described]
    total = sum(document.size_bytes for document in documents)
    try:
        training, held = split_held_out(documents, fraction)
    except UsageError:
        return
    assert sorted(d.digest for d in training + held) == sorted(d.digest for d in documents)
    assert not {d.digest for d in training} & {d.digest for d in held}
    assert 0 < sum(d.size_bytes for d in held) <= 2 * fraction * total


# Tokenizers


@pytest.fixture(scope="module")
def tokenizer(text: Path) -> Tokenizer:
    return train_tokenizer([path.read_text() for path in sorted(text.rglob("*.py"))], 300)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text_: str) -> None:
    for document in (text_, f"{END_OF_DOCUMENT}{text_}"):
        tokens = [token for some in Encoder(tokenizer).encode(document) for token in some]
        assert 0 not in tokens, "text that looks like the end of a document stays text"
        assert tokenizer.decode(tokens, skip_special_tokens=False) == document


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "def", "'s", " ", "\n", "\n\n", "\t", "9", "\x1c", "\x85", "é", "."]), max_size=60)
)
def test_cutting_a_long_text_changes_no_word(tokenizer: Tokenizer, parts: list[str]) -> None:
    document = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cupel.network.data.tokenizer._PIECE_CHARACTERS", 3)
        cut = list(pieces(document))
    assert "".join(cut) == document
    # Words, not tokens: a merge that is not in this small vocabulary might hide the difference.
    apart = [word for piece in cut for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(piece)]
    assert apart == [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(document)]


def test_long_lines_of_code_are_cut(text: Path) -> None:
    document = "x = 1\ny = 2\n" * 50_000
    cut = list(pieces(document))
    assert len(cut) > 5
    assert max(map(len, cut)) < 70_000


def test_a_tokenizer_can_be_taken(text: Path, built: BuiltData, tmp_path: Path) -> None:
    taken = build_data([text], tmp_path / "taken", replace(SMALL, tokenizer=built.directory / "tokenizer.json"))
    assert taken.manifest == built.manifest


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    for noise in (b"", b"{}", b"\xff", b"[" * 10_000):
        with pytest.raises(MalformedInput, match=r"not a tokenizer.json"):
            load_tokenizer(noise)


def test_a_tokenizer_survives_its_file(tokenizer: Tokenizer) -> None:
    assert tokenizer_bytes(load_tokenizer(tokenizer_bytes(tokenizer))) == tokenizer_bytes(tokenizer)


# The manifest


def test_a_manifest_comes_back(original: BuiltData) -> None:
    assert DataManifest.from_bytes(original.manifest.to_bytes()) == original.manifest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.update(data_root="0x" + "00" * 32),
        lambda table: table.update(held_out_root=table["data_root"]),
        lambda table: table["shards"][0].update(root="0x" + "11" * 32),
        lambda table: table["shards"][0].update(root="0x11"),
        lambda table: table["shards"][0].update(cid="bafkqaaa"),
        lambda table: table["shards"][0].update(tokens=255),
        lambda table: table["shards"][0].update(split="held_out"),
        lambda table: table["shards"][0].update(split="other"),
        lambda table: table["shards"][0].update(more=1),
        lambda table: table["shards"].reverse(),
        lambda table: table["shards"].pop(0),
        lambda table: table.update(version=2),
        lambda table: table.update(format="other"),
        lambda table: table.update(licence=7),
        lambda table: table.update(shard_tokens=0),
        lambda table: table.update(shard_tokens=256.0),
        lambda table: table["totals"].update(training_tokens=1),
        lambda table: table["totals"].update(files=-1),
        lambda table: table["tokenizer"].update(vocabulary=0),
        lambda table: table["tokenizer"].update(end_of_document=300),
        lambda table: table["tokenizer"].pop("cid"),
        lambda table: table.update(shards={}),
        lambda table: table.update(extra=1),
    ],
)
def test_a_manifest_with_one_thing_wrong_is_refused(
    original: BuiltData, spoil: Callable[[dict[str, Any]], None]
) -> None:
    table = json.loads(original.manifest.to_bytes())
    spoil(table)
    spoilt = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MalformedInput, match="data manifest"):
        DataManifest.from_bytes(spoilt)


def test_a_manifest_has_one_spelling(built: BuiltData) -> None:
    with pytest.raises(MalformedInput, match="spelling"):
        DataManifest.from_bytes(json.dumps(json.loads(built.manifest.to_bytes()), sort_keys=True).encode())


@pytest.mark.parametrize("noise", [b"", b"null", b"[]", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_refused(noise: bytes) -> None:
    with pytest.raises(MalformedInput, match="data manifest"):
        DataManifest.from_bytes(noise)


def test_a_manifest_of_other_data_than_the_chain_fixed_is_refused(built: BuiltData, store: BlockStore) -> None:
    with Fetcher(store, []) as fetcher:
        assert load_manifest(fetcher, built.manifest_cid, expected_root=built.manifest.root) == built.manifest
        with pytest.raises(RootMismatch) as caught:
            load_manifest(fetcher, built.manifest_cid, expected_root=Root(bytes(32)))
    assert caught.value.got == built.manifest.root


# Reading shards


def test_a_batch_is_the_tokens_at_its_positions(built: BuiltData, store: BlockStore) -> None:
    tokens = torch.tensor(tokens_of(store, built.manifest, "training"), dtype=torch.int32)
    with Fetcher(store, []) as fetcher:
        shards = ShardSet(built.manifest, fetcher, cache_bytes=3 * 256 * 4)
        positions = [(0, 0), (3, 17), (len(shards) - 1, 256 - 9), (0, 5)]
        batch = shards.batch(positions, 9)
        assert batch.dtype == torch.int32
        for row, (shard, offset) in zip(batch, positions, strict=True):
            assert torch.equal(row, tokens[shard * 256 + offset :][:9])
        for bad in ((0, 248), (0, -1), (len(shards), 0), (-1, 0)):
            with pytest.raises(MalformedInput):
                shards.batch([bad], 9)


def test_shards_come_from_peers_one_by_one_as_they_are_needed(built: BuiltData, tmp_path: Path) -> None:
    served = DataDirectory(built.directory).store
    with (
        GatewayServer(served) as server,
        BlockStore(tmp_path / "mine") as mine,
        Fetcher(mine, [server.url]) as fetcher,
    ):
        manifest = load_manifest(fetcher, built.manifest_cid)
        shards = ShardSet(manifest, fetcher)
        before = mine.usage().blocks
        shards.batch([(0, 0), (2, 0), (0, 9)], 17)
        assert mine.usage().blocks == before + 2
        server.stop()
        shards.batch([(2, 1)], 17)
        with pytest.raises(NobodyServed):
            shards.batch([(1, 1)], 17)


def flip_lowest_bit(path: Path) -> None:
    spoilt = bytearray(path.read_bytes())
    spoilt[0] ^= 1
    path.write_bytes(spoilt)


def test_one_flipped_bit_in_a_stored_shard_is_detected_and_mended_from_a_peer(built: BuiltData, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.directory / BLOCKSTORE, copy)
    cid = built.manifest.training[1].cid
    flip_lowest_bit(next(copy.glob(f"blocks/*/{cid}")))
    right = DataDirectory(built.directory).store
    with BlockStore(copy) as store:
        with Fetcher(store, []) as alone, pytest.raises(NobodyServed, match=cid):
            ShardSet(built.manifest, alone).shard(1)
        with GatewayServer(right) as server, Fetcher(store, [server.url]) as fetcher:
            assert tensor_root(ShardSet(built.manifest, fetcher).shard(1)) == built.manifest.training[1].root
        assert store.has(cid)


def test_a_shard_that_is_not_the_root_it_is_listed_under_is_refused(built: BuiltData, store: BlockStore) -> None:
    spoilt = bytearray(store.read(built.manifest.training[0].cid))
    spoilt[400] ^= 1
    lying = replace(built.manifest.training[0], cid=store.add_bytes(spoilt))
    manifest = replace(built.manifest, training=(lying, *built.manifest.training[1:]))
    assert manifest.root == built.manifest.root
    with Fetcher(store, []) as fetcher:
        with pytest.raises(RootMismatch, match="training shard 0") as caught:
            ShardSet(manifest, fetcher).shard(0)
        assert caught.value.expected == lying.root
        short = replace(lying, cid=store.add_bytes(bytes(spoilt[:-4])))
        with pytest.raises(MalformedInput, match="1,020 bytes where 256 tokens have 1,024"):
            ShardSet(replace(manifest, training=(short,)), fetcher).shard(0)


# Verifying


def test_whole_data_verifies(built: BuiltData) -> None:
    assert verify_data(built.directory) == []


def test_every_damaged_file_is_named(built: BuiltData) -> None:
    manifest = built.manifest
    blocks = built.directory / BLOCKSTORE / "blocks"
    for cid in (manifest.training[2].cid, manifest.held_out[0].cid, manifest.tokenizer, built.manifest_cid):
        flip_lowest_bit(next(blocks.glob(f"*/{cid}")))
    wrong = "\n".join(verify_data(built.directory))
    assert [line.split(":")[0] for line in wrong.splitlines()] == [
        "manifest",
        "tokenizer",
        "training shard 2",
        "held_out shard 0",
    ]


def test_a_manifest_file_swapped_for_another_is_noticed(built: BuiltData) -> None:
    other = replace(built.manifest, licence="mine")
    (built.directory / MANIFEST).write_bytes(other.to_bytes())
    assert verify_data(built.directory)[0] == "manifest.json is not the one in the blockstore"
    (built.directory / MANIFEST).write_bytes(b"{}")
    assert "data manifest" in verify_data(built.directory)[0]


def test_tokens_outside_the_vocabulary_are_noticed(built: BuiltData, store: BlockStore) -> None:
    smaller = replace(built.manifest, vocabulary=100)
    (built.directory / MANIFEST).write_bytes(smaller.to_bytes())
    wrong = verify_data(built.directory)
    assert any("where the vocabulary has 100" in line for line in wrong)
    assert any("tokenizer: 300 tokens where the manifest states 100" in line for line in wrong)


# The command


def cupel_data(*arguments: str | Path) -> Result:
    return CliRunner().invoke(data_command, [str(argument) for argument in arguments])


def test_the_command_builds_shows_and_verifies(text: Path, built: BuiltData, tmp_path: Path) -> None:
    out = tmp_path / "cli"
    options = ("--vocabulary", "300", "--shard-tokens", "256", "--held-out", "0.2", "--licence", SMALL.licence)
    line = cupel_data("build", text, "--out", out, *options)
    assert line.exit_code == 0, line.output
    assert built.manifest_cid in line.stdout
    assert f"data root 0x{built.manifest.root.hex()}" in line.stdout
    again = json.loads(cupel_data("build", text, "--out", out, *options, "--json").stdout)
    assert again["manifest"] == built.manifest_cid
    shown = cupel_data("show", out)
    assert "0x" + built.manifest.held_out_root.hex() in shown.stdout
    assert SMALL.licence in shown.stdout
    assert cupel_data("verify", out).exit_code == 0
    flip_lowest_bit(next((out / BLOCKSTORE).glob(f"blocks/*/{built.manifest.training[0].cid}")))
    report = cupel_data("verify", out, "--json")
    assert report.exit_code == 1
    assert json.loads(report.stdout)["wrong"][0].startswith("training shard 0")


def test_the_command_serves_until_it_is_told_to_stop(built: BuiltData) -> None:
    program = "from cupel.cli import main; main()"
    command = [sys.executable, "-c", program, "data", "serve", str(built.directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            shown = cupel_data("show", built.manifest_cid, "--peer", url, "--json")
            assert json.loads(shown.stdout)["data_root"] == "0x" + built.manifest.root.hex()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nowhere"), "nowhere: no directory of this name, and no CID either"),
        (("show", cid_of(b"x")), "--peer"),
        (("build", "--out", "x"), "Missing argument"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], says: str) -> None:
    answer = cupel_data(*arguments)
    assert answer.exit_code == 2
    assert says in answer.stderr
