"""The soak in short: a whole network, some faults of every family, nothing lost. `make soak` is the long form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(900)
def test_a_network_under_faults_loses_nothing_and_ends_with_the_model_of_a_calm_run(tmp_path: Path) -> None:
    paths = [str(ROOT / "benchmarks"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    output = tmp_path / "soak.txt"
    done = subprocess.run(
        [
            sys.executable, "-m", "soak", "--rounds", "1", "--faults", "10", "--pause", "0.6", "--limit", "800",
            "--folder", str(tmp_path / "soak"), "--output", str(output),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "equal, root for root" in output.read_text()
