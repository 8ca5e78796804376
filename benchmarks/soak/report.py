"""The soak's table, and whether it passed."""

from __future__ import annotations

from dataclasses import dataclass

from soak.calm import Calm
from soak.gauges import Course
from soak.ledger import Ledger
from soak.losses import KINDS, Losses

MEGABYTE = 1 << 20


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything the soak found."""

    rounds: int
    faults_wanted: int
    seed: int
    wall_s: float
    machine: str
    parties: str
    isolated: bool
    ledger: Ledger
    losses: Losses
    calm: Calm
    memory: Course
    """Of the nodes that were never killed."""
    memory_all: Course
    disk: Course
    largest_memory: int
    transactions: int
    is_long: bool
    """Short runs say nothing about what is flat."""
    rounds_wanted: int = 0
    stuck: str | None = None

    def failures(self) -> list[str]:
        """Why it did not pass; empty if it did."""
        found = [f"{kind}: {entry}" for kind, entries in self.losses.found.items() for entry in entries]
        found += [f"the model differs: {difference}" for difference in self.calm.differences]
        found += [f"never active again after {f.kind} {f.detail}: {f.party}" for f in self.ledger.not_recovered()]
        if self.calm.merges == 0:
            found.append("no round was merged")
        if self.rounds < self.rounds_wanted:
            found.append(f"{self.rounds} rounds, {self.rounds_wanted} were wanted")
        if self.stuck is not None:
            found.append(f"stuck: {self.stuck}")
        if len(self.ledger) < self.faults_wanted:
            found.append(f"{len(self.ledger)} faults hit, {self.faults_wanted} were wanted")
        if self.is_long:
            for what, course in (("memory", self.memory), ("disk", self.disk)):
                if not course.is_flat:
                    found.append(f"{what} grew to {course.ratio:.2f} of what it was")
        return found

    def as_text(self) -> str:
        injected, recovered = self.ledger.injected(), self.ledger.recovered()
        failures = self.failures()
        lines = [
            f"Soak of {self.rounds} rounds, seed {self.seed}: {'passed' if not failures else 'FAILED'}",
            "",
            f"{'fault':<28}{'injected':>10}{'recovered':>11}",
        ]
        lines += [f"{kind:<28}{count:>10,}{recovered[kind]:>11,}" for kind, count in sorted(injected.items())]
        lines += [f"{'all':<28}{injected.total():>10,}{recovered.total():>11,}", "", f"{'loss':<44}{'found':>5}"]
        lines += [f"{kind:<44}{len(self.losses.found.get(kind, [])):>5}" for kind in KINDS]
        lines += [f"{'all':<44}{self.losses.total:>5}", ""]
        lines += [f"{name:<28}{value}" for name, value in self._facts()]
        lines += ["", *failures] if failures else []
        return "\n".join(lines) + "\n"

    def _facts(self) -> list[tuple[str, str]]:
        losses, calm = self.losses, self.calm
        equal = "equal, root for root" if not calm.differences else "DIFFERENT"
        return [
            ("rounds", f"{self.rounds}, merged {losses.rounds_merged}"),
            (
                "honest units",
                f"{losses.units_committed} committed, {losses.units_attested} attested; "
                f"{losses.units_missed} drawn and not committed in time",
            ),
            ("units of a liar", f"{losses.lies} committed, {losses.lies_left_out} left out"),
            (
                "model against a calm run",
                f"{equal}: {calm.merges} merges of {calm.units} units over {calm.rounds} rounds, "
                f"0x{calm.final_root.hex()[:16]}",
            ),
            ("memory, nodes never killed", _course(self.memory)),
            ("memory, all nodes", f"{_course(self.memory_all)}; largest {self.largest_memory / MEGABYTE:.0f} MB"),
            ("disk a node", _course(self.disk)),
            ("transactions of nodes", f"{self.transactions:,}"),
            ("parties", self.parties),
            ("partitions", "network namespaces" if self.isolated else "none: no network namespaces here"),
            ("wall time", f"{self.wall_s / 60:.1f} minutes"),
            ("machine", self.machine),
        ]


def _course(course: Course) -> str:
    return f"{course.early / MEGABYTE:.1f} -> {course.late / MEGABYTE:.1f} MB ({course.ratio:.2f})"
