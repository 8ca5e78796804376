"""Exchanges between processes, through `torch.distributed`: gloo between processors, NCCL between GPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from cupel.protocol.errors import UsageError
from cupel.protocol.parallel.communicator import added

_PATIENCE = timedelta(minutes=10)
"""How long a worker waits for the others: the first step is compiled meanwhile. A dead one is noticed at once."""


class DistributedCommunicator:
    """A `Communicator` over the process group that is open."""

    def __init__(self, device: torch.device | None = None) -> None:
        """`device` is where exchanges take place, if not where the tensors are: NCCL's GPU."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        result = tensor.to(self._device or tensor.device, copy=True)
        dist.all_reduce(result, op=dist.ReduceOp.MAX)
        return result.to(tensor.device)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        result = tensor.to(self._device or tensor.device, copy=True)
        dist.all_reduce(result, op=dist.ReduceOp.SUM)
        return result.to(tensor.device)

    def scatter_sum(self, tensor: torch.Tensor, sizes: Sequence[int]) -> Callable[[], torch.Tensor]:
        # Not reduce_scatter: gloo's takes pieces of one size only. Integers add up the same wherever they are added.
        given, size = tensor.to(self._device or tensor.device), sizes[self.rank]
        taken = given.new_empty(self.size * size)
        exchange = dist.all_to_all_single(taken, given, [size] * self.size, list(sizes), async_op=True)

        def wait(_: torch.Tensor = given) -> torch.Tensor:
            # What is given is held on to until it has been sent.
            exchange.wait()
            return added(list(taken.view(self.size, size))).to(tensor.device)

        return wait

    def gather(self, tensor: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        longest = max(sizes)
        given = tensor.to(self._device or tensor.device)
        if given.numel() < longest:
            given = torch.cat((given, given.new_empty(longest - given.numel())))
        taken = [given.new_empty(longest) for _ in sizes]
        dist.all_gather(taken, given)
        return [piece[:size].to(tensor.device) for piece, size in zip(taken, sizes, strict=True)]


def keep_to_this_machine(environment: MutableMapping[str, str]) -> None:
    """Let gloo, in a process with this environment, listen on the loopback interface alone."""
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    for loopback in ("lo", "lo0"):
        if loopback in names:
            environment["GLOO_SOCKET_IFNAME"] = loopback


@contextmanager
def meet_through_file(path: Path, *, rank: int, size: int) -> Iterator[DistributedCommunicator]:
    """The processes of one machine that name the same file, as workers. Gloo picks free ports by itself."""
    store = torch._C._distributed_c10d.FileStore(str(path), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield DistributedCommunicator()
    finally:
        dist.destroy_process_group()


@contextmanager
def meet_through_torchrun() -> Iterator[DistributedCommunicator]:
    """The processes that torchrun started: with NCCL, one GPU each, where every one has a GPU; else with gloo.

    Raises  UsageError: it was not torchrun that started this one
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"this process was not started by torchrun ({missing[0]} is not set); "
            "start it with: torchrun --nproc-per-node=2 -m cupel.miner.devices"
        )
    local, workers_here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= workers_here and dist.is_nccl_available()
    device = torch.device("cuda", local) if has_gpus else None
    if device is not None:
        torch.cuda.set_device(device)
    if workers_here == int(os.environ.get("WORLD_SIZE", "1")):
        keep_to_this_machine(os.environ)
    dist.init_process_group("nccl" if has_gpus else "gloo", timeout=_PATIENCE)
    try:
        yield DistributedCommunicator(device)
    finally:
        dist.destroy_process_group()
