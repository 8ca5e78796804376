"""One worker's part of a graph or Program, ready to run."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence

import torch

from cupel.protocol.arithmetic.engines import choose_backend
from cupel.protocol.arithmetic.operations import Graph
from cupel.protocol.errors import MalformedTensor, UsageError
from cupel.protocol.parallel import exact
from cupel.protocol.parallel.communicator import Communicator
from cupel.protocol.parallel.meetings import Round, SumProducts, Traffic
from cupel.protocol.parallel.nodes import Meeting
from cupel.protocol.parallel.partition import Partitioner
from cupel.protocol.parallel.schedule import Schedule, plan
from cupel.protocol.parallel.sharding import Sharding, local_type
from cupel.protocol.program.engines import run_kept


class ParallelGraph:
    """What one worker does of a graph: `run` gives its pieces of the graph's own results, to the last bit.

    All workers make one from the same graph and shardings, and run it at the same time with the pieces they hold.
    """

    def __init__(
        self,
        graph: Graph,
        communicator: Communicator,
        *,
        inputs: Mapping[int, Sharding],
        outputs: Mapping[int, Sharding],
        backend: str = "auto",
        threads: int = 1,
    ) -> None:
        """`inputs` and `outputs` say which are cut, by position; all others are whole on every worker.

        Raises  UsageError: a sharding does not fit its tensor or the number of workers
        """
        rank, size = communicator.rank, communicator.size
        if not 0 <= rank < size:
            raise UsageError(f"worker {rank} of {size}")
        self.communicator, self.backend, self.threads = communicator, choose_backend(backend), threads
        self.traffic = Traffic()
        self._sum_products = _sum_products(self.backend, threads)
        partitioner = Partitioner(graph, inputs, rank=rank, size=size)
        results = partitioner.run(outputs)
        self._nodes = partitioner.nodes.nodes
        self.schedule: Schedule = plan(partitioner.nodes, [value.node for value in results])
        self.input_types = [local_type(t, inputs.get(i), rank) for i, t in enumerate(graph.inputs)]
        # A plan serves one caller at a time, so workers that are threads of one process have one each.
        self._keys = [b"worker %d " % rank + _key(stretch.graph) for stretch in self.schedule.stretches]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This worker's outputs, which may share memory with its inputs. Raises MalformedTensor for a wrong piece."""
        if len(inputs) != len(self.input_types):
            raise MalformedTensor(f"{len(inputs)} inputs, the graph has {len(self.input_types)}")
        for i, (tensor, type_) in enumerate(zip(inputs, self.input_types, strict=True)):
            if tensor.dtype != type_.dtype.torch or tuple(tensor.shape) != type_.shape:
                raise MalformedTensor(
                    f"input {i} is {tensor.dtype}{list(tensor.shape)}, worker {self.communicator.rank} holds {type_}"
                )
        values = {node: inputs[i] for i, node in self.schedule.inputs.items()}
        values |= self.schedule.constants
        for stretch, key in zip(self.schedule.stretches, self._keys, strict=True):
            if stretch.graph is not None:
                taken = [values[node] for node in stretch.reads]
                given = run_kept(stretch.graph, taken, self.backend, key, self.threads)
                values.update(zip(stretch.writes, given, strict=True))
            if stretch.meetings:
                self._meet(stretch.meetings, values)
            for node in stretch.forgets:
                values.pop(node, None)
        return [values[node].contiguous() for node in self.schedule.outputs]

    def _meet(self, numbers: Sequence[int], values: dict[int, torch.Tensor]) -> None:
        meetings = [node for number in numbers if isinstance(node := self._nodes[number], Meeting)]
        results = Round(self.communicator, self.traffic, self._sum_products).run(meetings, values)
        for number, tensors in zip(numbers, results, strict=True):
            for index, tensor in enumerate(tensors):
                values[number + 1 + index] = tensor


def _sum_products(backend: str, threads: int) -> SumProducts:
    """This backend's way of adding up the integers of a product."""
    if backend == "cuda":
        from cupel.protocol.arithmetic.cuda_backend import find_device

        return functools.partial(exact.sum_products, device=find_device())
    if backend != "cpu":
        return exact.sum_products
    from cupel.protocol.arithmetic.cpu import integers

    return functools.partial(integers.sum_products, threads=threads)


def _key(graph: Graph | None) -> bytes:
    """What compiled stretches are kept under."""
    if graph is None:
        return b""
    hashed = hashlib.sha256(repr((graph.inputs, graph.operations, graph.outputs)).encode())
    for constant in graph.constants:
        hashed.update(str((constant.dtype, tuple(constant.shape))).encode())
        hashed.update(constant.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.digest()
