"""Settings of the `miner` process."""

from __future__ import annotations

from dataclasses import dataclass

from cupel.node.settings import NodeSettings, WrongSetting

FAULTS = ("perturb",)
MAX_WORKERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerSettings(NodeSettings):
    """What a miner needs besides. Checked on construction; raises WrongSetting."""

    units: int = 1
    """Units of work asked for in each round."""
    nproc: int = 1
    """Worker processes that share each training step; 1 computes in the miner's own."""
    deposit_wei: int | None = None
    """Put down when joining; None takes what keeps all units bonded until the first bonds come back."""
    fault: str | None = None
    """A testing aid: be wrong on purpose. Refused on any chain but the embedded one."""

    def __post_init__(self) -> None:
        # slots=True makes a second class, which zero-argument super() does not know.
        super(MinerSettings, self).__post_init__()
        if not 1 <= self.units <= 255:
            raise WrongSetting("units", f"--units is {self.units}; take 1 to 255")
        if not 1 <= self.nproc <= MAX_WORKERS:
            raise WrongSetting("nproc", f"--nproc is {self.nproc}; take 1 to {MAX_WORKERS}")
        if self.nproc > 1 and self.recompute != "none":
            raise WrongSetting("recompute", "--recompute is for one process; take it or --nproc, not both")
        if self.deposit_wei is not None and self.deposit_wei < 0:
            raise WrongSetting("deposit_wei", f"--deposit is {self.deposit_wei} wei; it cannot be negative")
        if self.fault is not None and self.fault not in FAULTS:
            raise WrongSetting("fault", f"--fault is {self.fault!r}; take one of {', '.join(FAULTS)}")
