"""The committed artifacts are what the sources give, and the Forge tests pass. In CI Node.js must be there for it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ARTIFACTS = ROOT / "chain" / "artifacts"


@pytest.fixture
def node() -> None:
    """Skips where Node.js or contracts/node_modules is missing, except in CI, where that is a failure."""
    if shutil.which("node") is not None and (CONTRACTS / "node_modules" / "solc").is_dir():
        return
    if os.environ.get("CI"):
        pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
    pytest.skip("needs Node.js and `npm install` in contracts/")


@pytest.mark.node
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("node")
def test_the_artifacts_are_what_the_sources_give() -> None:
    done = subprocess.run(
        [sys.executable, str(CONTRACTS / "compile.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.node
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("node")
def test_the_forge_tests_pass() -> None:
    done = subprocess.run([str(CONTRACTS / "forge-test")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("path", sorted(ARTIFACTS.glob("*.json")), ids=lambda path: path.stem)
def test_an_artifact_fits_the_chain_and_says_how_it_was_made(path: Path) -> None:
    artifact = json.loads(path.read_text())
    assert artifact["contractName"] == path.stem
    assert 0 < len(artifact["deployedBytecode"]) // 2 - 1 <= 24_576
    assert len(artifact["bytecode"]) // 2 - 1 <= 49_152
    assert artifact["compiler"]["version"].startswith("0.8.")
    assert artifact["compiler"]["settings"]["evmVersion"] == "cancun"
    # Sources changed after the last compilation are found without a compiler too.
    assert artifact["sourceHash"] == load_compile().source_hash(path.stem)


def load_compile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_contracts", CONTRACTS / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
