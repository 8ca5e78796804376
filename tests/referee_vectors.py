"""The vector files of the referee's libraries: one a library, columns of numbers that Forge can read.

python tests/referee_vectors.py            compare tests/vectors/referee with the definition; exit 1 where they differ
python tests/referee_vectors.py --write    write them anew: a stored result that changes is a change of the protocol
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from referee_kernels import Group, Row, Scalars, all_groups

STORED = Path(__file__).resolve().parent / "vectors" / "referee"
SEED, SIZE = 1, 4
LIBRARIES = ("binary32", "functions", "integers", "products", "sums", "orders", "philox")


def render(groups: Sequence[Group]) -> dict[str, str]:
    """File contents by library."""
    return {library: _render([group for group in groups if group.library == library]) for library in LIBRARIES}


def _render(groups: Sequence[Group]) -> str:
    scalars = [group for group in groups if isinstance(group, Scalars)]
    rows = [group for group in groups if isinstance(group, Row)]
    columns = {
        "scalars": {
            "names": [group.name for group in scalars],
            "codes": [int(group.code) for group in scalars],
            "arities": [len(group.arguments[0]) for group in scalars],
            "cases": [len(group.arguments) for group in scalars],
            "arguments": _words(chain.from_iterable(case for group in scalars for case in group.arguments)),
            "expected": _words(chain.from_iterable(group.expected for group in scalars)),
        },
        "rows": {
            "names": [group.name for group in rows],
            "codes": [int(group.code) for group in rows],
            "counts": [group.count for group in rows],
            "heights": [len(group.rows) for group in rows],
            "rows": [f"0x{row.hex()}" for group in rows for row in group.rows],
            "lengths": [len(group.numbers) for group in rows],
            "numbers": _words(chain.from_iterable(group.numbers for group in rows)),
            "expected": _words(chain.from_iterable(group.expected for group in rows)),
        },
    }
    lines = [
        f'"{kind}": {{\n' + ",\n".join(f'"{name}": {json.dumps(values)}' for name, values in held.items()) + "\n}"
        for kind, held in columns.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _words(numbers: chain[int]) -> list[str]:
    """Two's complement of 256 bits."""
    return [hex(number % (1 << 256)) for number in numbers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the files")
    write = parser.parse_args().write
    stale = []
    for library, text in render(list(all_groups(SEED, SIZE))).items():
        path = STORED / f"{library}.json"
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"differ from the definition: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
