"""Settings of the `verifier` process."""

from __future__ import annotations

from dataclasses import dataclass

from cupel.node.settings import NodeSettings, WrongSetting

WATCHES = ("drawn", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierSettings(NodeSettings):
    """What a verifier needs besides. Checked on construction; raises WrongSetting."""

    slots: int = 1
    """Stake slots to keep free: the more, the likelier to be drawn."""
    deposit_wei: int | None = None
    """Put down when staking; None takes what keeps `slots` free while some stakes are held with disputed units."""
    watch: str = "drawn"
    """`drawn`: replay what the chain asks for; `all`: every segment of every unit besides, and report."""

    def __post_init__(self) -> None:
        # slots=True makes a second class, which zero-argument super() does not know.
        super(VerifierSettings, self).__post_init__()
        if not 1 <= self.slots <= 65535:
            raise WrongSetting("slots", f"--slots is {self.slots}; take 1 to 65535")
        if self.deposit_wei is not None and self.deposit_wei < 0:
            raise WrongSetting("deposit_wei", f"--deposit is {self.deposit_wei} wei; it cannot be negative")
        if self.watch not in WATCHES:
            raise WrongSetting("watch", f"--watch is {self.watch!r}; take one of {', '.join(WATCHES)}")
