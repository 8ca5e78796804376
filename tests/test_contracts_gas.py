"""Gas is part of the interface: a change that costs shows in the snapshot, and none comes near the limit."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = json.loads((ROOT / "contracts" / "gas-snapshot.json").read_text())


def load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gas_benchmark", ROOT / "benchmarks" / "gas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_snapshot_is_of_these_contracts() -> None:
    assert SNAPSHOT["sourceHash"] == load_benchmark().source_hash(), "run benchmarks/gas.py --write"


def test_a_small_round_costs_what_the_snapshot_says() -> None:
    assert load_benchmark().measure_demo() == SNAPSHOT["demo"], "run benchmarks/gas.py --write and look at the change"


def test_the_largest_round_stays_below_half_of_what_a_transaction_may_use() -> None:
    assert max(SNAPSHOT["limits"].values()) < (1 << 24) // 2
