"""What became of a node's disputes, for people and for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class DisputeCounts:
    """What became of this node's disputes, as the chain says now."""

    accused: int = 0
    """Open ones in which this node answers for a claim."""
    challenging: int = 0
    """Open ones that it began."""
    won: int = 0
    lost: int = 0
    """Convicted, or dismissed with the bond gone."""
    prizes_wei: int = 0
    """What convictions that it was the first to accuse brought."""
    bonds_wei: int = 0
    """At stake in the disputes that it began and that are open."""

    @property
    def open(self) -> int:
        return self.accused + self.challenging
