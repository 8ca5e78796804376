"""Before the first round: text into shards, programs, a chain, keys, and the run's contracts."""

from __future__ import annotations

import dataclasses
import datetime
import secrets
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from cupel.archive import RunArchive
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import Clocks, CourtDeployment, deploy_court
from cupel.chain.keys import LocalSigner, find_keystore, load_account, make_key, read_password_file, save_keystore
from cupel.chain.run_contract import deploy_run
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters
from cupel.demo.settings import DemoSettings
from cupel.launch.preparation import Prepared, Say, prepare
from cupel.network.data import BuildOptions, DataDirectory, build_data
from cupel.protocol.arithmetic.engines import choose_backend
from cupel.protocol.training.programs import RunConfig
from cupel.protocol.types import Seed, Wei

ETHER = 10**18
TOKEN = 10**18
KEY_SCRYPT_N = 1 << 12
"""Keys of the demo guard nothing; the usual work factor would cost each process a second and 256 MiB."""
GENESIS_SEED = Seed(bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One process that plays."""

    name: str
    program: str
    """`miner` or `verifier`."""
    signer: LocalSigner
    keystore: Path
    lies: bool = False


def build_text(settings: DemoSettings, say: Say) -> DataDirectory:
    """Shards of the text, made once per folder."""
    folder = settings.folder / "data"
    if not (folder / "manifest.json").exists():
        source = settings.text or (Path(sysconfig.get_paths()["stdlib"]),)
        say(f"Reading {', '.join(map(str, source))} ...")
        options = BuildOptions(
            vocabulary=RunConfig.demo().model.vocabulary,
            shard_tokens=settings.shard_tokens,
            held_out=settings.held_out,
            licence="PSF-2.0" if not settings.text else "not stated",
            include=() if settings.text else ("*.py",),
            exclude=() if settings.text else ("site-packages/*", "test/*", "*/test/*", "*/tests/*", "idlelib/*"),
        )
        build_data(source, folder, options)
    data = DataDirectory(folder)
    tokens = data.manifest.training_tokens
    say(
        f"Text: {data.manifest.totals.files} files, {data.manifest.totals.text_bytes / 1e6:.1f} MB, "
        f"{tokens / 1e6:.1f} M tokens in {len(data.manifest.training)} shards, held out {len(data.manifest.held_out)}"
    )
    return data


def make_parties(settings: DemoSettings) -> tuple[LocalSigner, list[Party], Path]:
    """The deployer's key, the parties' and the password file; made once per folder."""
    keys = settings.folder / "keys"
    password_file = keys / "password"
    if not password_file.exists():
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24) + "\n")
    password = read_password_file(password_file)

    def key_of(name: str) -> tuple[LocalSigner, Path]:
        folder = keys / name
        if not folder.exists():
            save_keystore(make_key(), password, folder, scrypt_n=KEY_SCRYPT_N, now=datetime.datetime.now(datetime.UTC))
        path = find_keystore(folder, None)
        return load_account(path, password), path

    parties = []
    for program, count in (("miner", settings.miners), ("verifier", settings.verifiers)):
        for i in range(1, count + 1):
            signer, path = key_of(f"{program}-{i}")
            lies = program == "miner" and i > settings.miners - settings.liars
            parties.append(Party(name=f"{program}-{i}", program=program, signer=signer, keystore=path, lies=lies))
    return key_of("deployer")[0], parties, password_file


def prepare_programs(settings: DemoSettings, say: Say) -> Prepared:
    """Programs and first state, stored beside the data; the step's kernels compiled once, so that the parties find them
    on disk instead of compiling them all at once."""
    prepared, programs = prepare(settings.folder, RunConfig.demo(), GENESIS_SEED, say, backend=settings.backend)
    say("Compiling the step ...")
    config = programs.config
    tokens = torch.zeros((config.batch, config.context + 1), dtype=torch.int32)
    state = programs.run_genesis(GENESIS_SEED, backend=settings.backend)
    programs.run_step(state, tokens, backend=choose_backend(settings.backend))
    return prepared


def make_clocks(settings: DemoSettings) -> Clocks:
    """Of the demo's court: four minutes for each side, ten seconds for any move.

    With two, a liar that a busy machine kept waiting was convicted of silence, before it had shown what convicts it.
    """
    minute = _minute(settings)
    return Clocks(
        clock_blocks=4 * minute,
        grace_blocks=max(8, minute // 6),
        minimum_bond_wei=Wei(ETHER // 10),
        defence_gas=2_000_000,
    )


def _minute(settings: DemoSettings) -> int:
    """In blocks."""
    return max(8, round(60 / settings.block_time_s))


def make_parameters(settings: DemoSettings, prepared: Prepared, court: CourtDeployment) -> Parameters:
    """Everything the contract fixes. Clocks are caps: a phase ends as soon as all have acted."""
    minute = _minute(settings)
    return prepared.make_parameters(
        segments=settings.segments,
        segment_steps=settings.segment_steps,
        max_units_per_miner=4,
        max_units=16,
        max_merge=prepared.config.max_merge,
        min_miners=settings.miners,
        max_miners=16,
        min_verifiers=settings.verifiers,
        max_verifiers=16,
        verifiers_per_unit=min(settings.verifiers_per_unit, settings.verifiers),
        segments_per_verifier=min(settings.segments_per_verifier, settings.segments),
        replay_bps=1000,
        quorum=min(settings.verifiers_per_unit, settings.verifiers),
        jury_target=settings.verifiers,
        unit_bond=Wei(ETHER),
        slot_stake=Wei(ETHER),
        unavailable_fee=Wei(ETHER // 2),
        seal_fee=Wei(ETHER // 20),
        merge_bond=Wei(ETHER),
        beacon_delay=1,
        train_blocks=3 * minute,
        seal_blocks=3 * minute,
        open_blocks=2 * minute,
        merge_blocks=minute,
        acknowledge_blocks=minute,
        # A dispute may take its whole time; the demo skips it at its end.
        maturity_blocks=minute + court.longest_dispute,
        window_blocks=minute,
        exit_blocks=minute + court.longest_dispute,
        initial_reward=60 * TOKEN,
        halving_rounds=4,
        work_target=settings.miners,
        verifier_share_bps=2500,
        merge_share_bps=500,
        court=court.court,
    )


def deploy(
    settings: DemoSettings, archive: RunArchive, prepared: Prepared, client: ChainClient, source: str, say: Say
) -> RunFile:
    """A new run on the chain, and the folder's files about it."""
    court = deploy_court(client, make_clocks(settings))
    parameters = make_parameters(settings, prepared, court)
    deployment = deploy_run(client, parameters)
    deployment = dataclasses.replace(deployment, creation={**deployment.creation, "court": court.transaction})
    run = RunFile.of(client.chain_id, deployment, (source,))
    archive.write_parameters(parameters)
    run.write(archive.run_file)
    say(f"Contracts: run {run.contract}, token {run.token}, deployed in block {run.deploy_block}")
    return run
