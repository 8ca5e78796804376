"""One miner on several devices: a training step shared by worker processes, with the bits of one."""

from cupel.miner.devices.group import WorkerGroup

__all__ = ["WorkerGroup"]
