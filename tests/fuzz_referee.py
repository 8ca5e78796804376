"""New cases for the referee's libraries by the ten thousand: `python tests/fuzz_referee.py --rounds 20`.

Each round makes cases from a seed with the definition, writes them as vectors to build/referee and has Forge compare.
It ends with 1 at the first disagreement, which Forge names. Needs `npm install` in contracts/. A round of the default
size is about 60,000 cases; tests/test_referee_kernels.py compares a few of one seed on py-evm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from referee_kernels import Scalars, all_groups
from referee_vectors import render

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "referee"


def compare(seed: int, size: int) -> tuple[int, str]:
    """How many cases were compared, and what Forge said if one differs."""
    groups = list(all_groups(seed, size))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for library, text in render(groups).items():
        (FOLDER / f"{library}.json").write_text(text)
    done = subprocess.run(
        [str(ROOT / "contracts" / "forge-test"), "--match-contract", "VectorsTest"],
        env={
            **os.environ,
            "REFEREE_VECTORS": "../build/referee",
            # Files of this size cost a test much memory, which is gas.
            "FOUNDRY_GAS_LIMIT": str((1 << 63) - 1),
            "FOUNDRY_MEMORY_LIMIT": str(1 << 30),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    cases = sum(len(group.arguments) if isinstance(group, Scalars) else 1 for group in groups)
    return cases, "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000, help="of the first round; later ones count on")
    parser.add_argument("--size", type=int, default=150, help="random cases of a function, or a few times as many")
    chosen = parser.parse_args()
    total = 0
    for seed in range(chosen.seed, chosen.seed + chosen.rounds):
        cases, said = compare(seed, chosen.size)
        if said:
            print(f"seed {seed}, size {chosen.size}:\n{said}", file=sys.stderr)
            return 1
        total += cases
        print(f"seed {seed}: {total:,} cases, none wrong", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
