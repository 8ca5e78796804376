"""The README's two plots, drawn from what benchmarks/results holds: products by shape, and the time of a step.

    python benchmarks/plots.py [--folder docs/images]

The newest measurement of each kind counts: products on one thread with the best instruction set, and one step of each
size. Bars are ratios within one process, never times of two runs.
"""

from __future__ import annotations

import argparse
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import RESULTS

FOLDER = Path(__file__).parent.parent / "docs" / "images"
GREY, GOLD, DARK = "#b8b8b8", "#c9962b", "#4a4a4a"
_RULE = re.compile(r"^-+(  +-+)+$")


@dataclass(frozen=True)
class Measurement:
    """One table of a result file: the lines above it, and its cells by row name and column name."""

    title: str
    rows: dict[str, dict[str, str]]


def read(name: str) -> list[Measurement]:
    """Every table of benchmarks/results/<name>, oldest first."""
    lines = (RESULTS / name).read_text().splitlines()
    found = []
    for at, line in enumerate(lines):
        if not _RULE.match(line):
            continue
        spans = [match.span() for match in re.finditer("-+", line)]
        cut = [lines[at - 1][a:b].strip() for a, b in spans]
        rows = {}
        for row in lines[at + 1 :]:
            gaps = [row[left:right] for (_, left), (right, _) in itertools.pairwise(spans)]
            if not row.strip() or any(gap.strip() for gap in gaps):
                break  # a remark below the table
            cells = [row[a:b].strip() for a, b in spans]
            rows[cells[0]] = dict(zip(cut[1:], cells[1:], strict=True))
        above = []
        for earlier in reversed(lines[: at - 1]):
            if not earlier.strip():
                break
            above.insert(0, earlier)
        found.append(Measurement("\n".join(above), rows))
    return found


def draw_products(path: Path) -> None:
    """Exact products with one, two and three digits: how many times as fast as torch.mm in fp32."""
    measured = [one for one in read("products.txt") if " 1 thread(s)" in one.title and "avx512vnni" in one.title]
    newest = measured[-1]
    names = list(newest.rows)
    figure, axes = _new_figure(len(names) * 0.42 + 1.2)
    for shift, (column, colour) in enumerate((("d=1 x", "#e6cf9a"), ("d=2 x", GOLD), ("d=3 x", "#7a5a16"))):
        values = [float(newest.rows[name][column]) for name in names]
        places = [y + (shift - 1) * 0.26 for y in range(len(names))]
        axes.barh(places, values, height=0.24, color=colour, label=f"exact, {column[2]} digit{'s' * (shift > 0)}")
    axes.axvline(1.0, color=DARK, linewidth=1, linestyle="--", label="torch fp32")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("times as fast as torch.mm / torch.bmm in fp32, one thread, one process", fontsize=9)
    _finish(figure, axes, newest, path)


def draw_steps(path: Path) -> None:
    """A whole training step of each size that was measured, relative to eager fp32."""
    newest: dict[str, Measurement] = {}
    for one in read("step.txt"):
        size = re.search(r"^(\w+): d=", one.title, re.MULTILINE)
        if size and "1 thread(s)" in one.title and "avx512vnni" in one.title:
            newest[size.group(1)] = one
    bars = [
        (f"{size}: {name}", float(row["x eager fp32"]), GOLD if name.startswith("exact") else GREY)
        for size, one in newest.items()
        for name, row in one.rows.items()
    ]
    figure, axes = _new_figure(len(bars) * 0.32 + 1.2)
    axes.barh(range(len(bars)), [value for _, value, _ in bars], color=[colour for _, _, colour in bars])
    for place, (_, value, _) in enumerate(bars):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=8, color=DARK)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_xlabel("time of one training step, eager fp32 = 1 (shorter is better), one thread", fontsize=9)
    _finish(figure, axes, list(newest.values())[-1], path, legend=False)


def _new_figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(8, height), layout="constrained")


def _finish(figure: Figure, axes: Axes, measured: Measurement, path: Path, *, legend: bool = True) -> None:
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.01)
    axes.tick_params(labelsize=8)
    figure.supxlabel(measured.title.splitlines()[0], fontsize=7, color=DARK)
    if legend:
        axes.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    matplotlib.use("Agg")
    # The same table gives the same file, and letters stay letters.
    matplotlib.rcParams |= {"svg.hashsalt": "cupel", "svg.fonttype": "none"}
    draw_products(options.folder / "products.svg")
    draw_steps(options.folder / "step.svg")


if __name__ == "__main__":
    main()
