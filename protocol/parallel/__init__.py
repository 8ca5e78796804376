"""A graph or a training step on several workers, with the bits of one."""

from cupel.protocol.parallel.communicator import Communicator
from cupel.protocol.parallel.running import ParallelGraph
from cupel.protocol.parallel.sharding import Sharding, even_cuts, evenly, join, split
from cupel.protocol.parallel.steps import Layout, ParallelStep, make_layout
from cupel.protocol.parallel.threads import ThreadCommunicator, run_threads

__all__ = [
    "Communicator",
    "Layout",
    "ParallelGraph",
    "ParallelStep",
    "Sharding",
    "ThreadCommunicator",
    "even_cuts",
    "evenly",
    "join",
    "make_layout",
    "run_threads",
    "split",
]
