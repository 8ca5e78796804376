"""Exchanges, all of one moment at once: what each needs is packed together, sent, and taken apart again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from cupel.protocol.parallel import exact
from cupel.protocol.parallel.communicator import Communicator
from cupel.protocol.parallel.nodes import Exchange, Meeting
from cupel.protocol.parallel.sharding import join

Tensor = torch.Tensor
SumProducts = Callable[..., Tensor]
"""`exact.sum_products`, or an engine's faster one."""
_SENT_ALONE = 1 << 16
"""Sums of a product, from which an exchange of its own costs less than packing them together with others."""
_ON_THEIR_WAY = 4
"""Exchanges of products that a worker does not wait for yet: each holds its sums in memory."""


@dataclass(slots=True)
class Traffic:
    """What one worker gave to exchanges, bytes; a reduction counts its operand once."""

    meetings: int = 0
    """Moments at which the workers waited for each other."""
    maxima: int = 0
    sums: int = 0
    scattered: int = 0
    gathered: int = 0

    @property
    def total(self) -> int:
        return self.maxima + self.sums + self.scattered + self.gathered


class _Flat:
    """Tensors side by side in one of a single dimension: many small ones cost little more than their bytes."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in tensors]
        self.tensor = torch.cat([tensor.reshape(-1) for tensor in tensors])

    def apart(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self._shapes])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]


class Round:
    """The exchanges of one moment on one worker."""

    def __init__(
        self, communicator: Communicator, traffic: Traffic, sum_products: SumProducts = exact.sum_products
    ) -> None:
        self.communicator, self.traffic, self._sum_products = communicator, traffic, sum_products
        self._results: dict[int, list[Tensor]] = {}

    def run(self, meetings: Sequence[Meeting], values: Mapping[int, Tensor]) -> list[list[Tensor]]:
        """The results of each, in order; `values` are what this worker holds, by node."""
        self.traffic.meetings += 1
        by_kind: dict[Exchange, list[int]] = {}
        for at, meeting in enumerate(meetings):
            by_kind.setdefault(meeting.kind, []).append(at)
        self._meetings = meetings
        self._operands = [[values[node] for node in meeting.operands] for meeting in meetings]

        def of(*kinds: Exchange) -> list[int]:
            return [at for kind in kinds for at in by_kind.get(kind, ())]

        self._extremes(of(Exchange.LARGEST), exact.largest_first, exact.from_largest)
        self._extremes(of(Exchange.SMALLEST), exact.smallest_first, exact.from_smallest)
        self._sum_scales(of(Exchange.SUM_SCALES))
        products = of(Exchange.PRODUCT, Exchange.MATMUL)
        whole = {at: self._partial(at) for at in products if meetings[at].sharding is None}
        self._sums(of(Exchange.INTEGER_SUM), of(Exchange.FINISH_SUM), whole)
        self._scatter([at for at in products if at not in whole])
        self._gather(of(Exchange.GATHER))
        return [self._results[at] for at in range(len(meetings))]

    # Maxima

    def _max(self, keys: Tensor) -> Tensor:
        self.traffic.maxima += keys.nbytes
        return self.communicator.max(keys)

    def _extremes(
        self, those: Sequence[int], keys: Callable[[Tensor], Tensor], back: Callable[[Tensor, torch.dtype], Tensor]
    ) -> None:
        for dtype in dict.fromkeys(self._operands[at][0].dtype for at in those):
            alike = [at for at in those if self._operands[at][0].dtype == dtype]
            flat = _Flat([self._operands[at][0] for at in alike])
            reduced = back(self._max(keys(flat.tensor)), dtype)
            for at, part in zip(alike, flat.apart(reduced), strict=True):
                self._results[at] = [part]

    def _sum_scales(self, those: Sequence[int]) -> None:
        if not those:
            return
        highest, lowest = (_Flat([self._operands[at][end] for at in those]) for end in (0, 1))
        keys = torch.cat((exact.largest_first(highest.tensor), exact.smallest_first(lowest.tensor)))
        first, second = self._max(keys).chunk(2)
        float32 = highest.tensor.dtype
        scales = exact.sum_scales(exact.from_largest(first, float32), exact.from_smallest(second, float32))
        for at, parts in zip(those, zip(*map(highest.apart, scales), strict=True), strict=True):
            self._results[at] = list(parts)

    # Sums

    def _partial(self, at: int) -> Tensor:
        """This worker's integers of a product."""
        meeting, xs = self._meetings[at], self._operands[at]
        if meeting.kind == Exchange.MATMUL:
            ea, eb, a, b = xs
            a_turned, b_turned = meeting.turned
            return self._sum_products(a, ea, b, eb, meeting.digits, a_turned=a_turned, b_turned=b_turned)
        planes = xs[1 if meeting.by_rows else 2 :]
        return exact.partial_products(planes[0::2], planes[1::2])

    def _finish_product(self, at: int, total: Tensor, start: int, size: int) -> None:
        """From the sums of `size` positions of the first dimension, from `start`."""
        meeting, (ea, eb, *_) = self._meetings[at], self._operands[at]
        ea = ea.narrow(0, start, size)
        if not meeting.by_rows and total.dim() > 2:
            # In a single product the first dimension is that of the left rows alone.
            eb = eb.narrow(0, start, size)
        self._results[at] = [exact.finish_product(total, ea, None if meeting.by_rows else eb, meeting.digits)]

    def _sums(self, integers: Sequence[int], floats: Sequence[int], products: Mapping[int, Tensor]) -> None:
        parts = [*(self._operands[at][0] for at in (*integers, *floats)), *products.values()]
        if not parts:
            return
        flat = _Flat(parts)
        self.traffic.sums += flat.tensor.nbytes
        totals = flat.apart(self.communicator.sum(flat.tensor))
        for at, total in zip(integers, totals, strict=False):
            self._results[at] = [total]
        sums = totals[len(integers) : len(integers) + len(floats)]
        if floats:
            together = _Flat(sums)
            e, special = (_Flat([self._operands[at][operand] for at in floats]).tensor for operand in (1, 2))
            finished = together.apart(exact.finish_sum(together.tensor, e, special))
            self._results.update((at, [part]) for at, part in zip(floats, finished, strict=True))
        for at, total in zip(products, totals[len(integers) + len(floats) :], strict=True):
            self._finish_product(at, total, 0, total.shape[0])

    def _scatter(self, those: Sequence[int]) -> None:
        """Products whose result stays cut: sums of one are on their way while the next one's are computed."""
        small: dict[int, Tensor] = {}
        on_their_way: deque[Callable[[], None]] = deque()
        for at in those:
            sums = self._partial(at)
            if sums.numel() < _SENT_ALONE:
                small[at] = sums
                continue
            on_their_way.append(self._send({at: sums}))
            if len(on_their_way) > _ON_THEIR_WAY:
                on_their_way.popleft()()
        if small:
            on_their_way.append(self._send(small))
        for finish in on_their_way:
            finish()

    def _send(self, products: Mapping[int, Tensor]) -> Callable[[], None]:
        """Sums of products on their way to the workers that hold their pieces; what is returned rounds this one's."""
        size, rank = self.communicator.size, self.communicator.rank
        places = {at: [self._piece(at, worker) for worker in range(size)] for at in products}
        parts = [
            sums.narrow(0, *places[at][worker]).reshape(-1) for worker in range(size) for at, sums in products.items()
        ]
        counts = [part.numel() for part in parts]
        sizes = [sum(counts[worker * len(products) :][: len(products)]) for worker in range(size)]
        # Pieces of a single product follow each other as they are.
        given = torch.cat(parts) if len(products) > 1 else next(iter(products.values())).reshape(-1)
        self.traffic.scattered += given.nbytes - given.element_size() * sizes[rank]
        wait = self.communicator.scatter_sum(given, sizes)
        shapes = [(places[at][rank][1], *sums.shape[1:]) for at, sums in products.items()]

        def finish() -> None:
            totals = torch.split(wait(), [prod(shape) for shape in shapes])
            for (at, of_workers), total, shape in zip(places.items(), totals, shapes, strict=True):
                self._finish_product(at, total.reshape(shape), *of_workers[rank])

        return finish

    def _piece(self, at: int, worker: int) -> tuple[int, int]:
        sharding = self._meetings[at].sharding
        assert sharding is not None
        return sharding.piece(worker)

    # Copies

    def _gather(self, those: Sequence[int]) -> None:
        if not those:
            return
        # Bytes, so that every element type goes in one message.
        given = torch.cat([_bytes(self._operands[at][0]) for at in those])
        self.traffic.gathered += given.nbytes
        sizes = [[self._size(at, worker) for at in those] for worker in range(self.communicator.size)]
        everything = self.communicator.gather(given, [sum(of_worker) for of_worker in sizes])
        pieces = [torch.split(whole, of_worker) for whole, of_worker in zip(everything, sizes, strict=True)]
        for position, at in enumerate(those):
            meeting, dtype = self._meetings[at], self._operands[at][0].dtype
            assert meeting.sharding is not None
            alike = [_elements(of_worker[position], dtype) for of_worker in pieces]
            self._results[at] = [join(alike, meeting.sharding, meeting.whole.shape)]

    def _size(self, at: int, worker: int) -> int:
        """Bytes of the piece that a worker gives."""
        meeting = self._meetings[at]
        assert meeting.sharding is not None
        return prod(meeting.sharding.local_shape(meeting.whole.shape, worker)) * meeting.whole.dtype.size_bytes


def _elements(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as elements; moved where they lie at an odd place."""
    return (data if data.storage_offset() % dtype.itemsize == 0 else data.clone()).view(dtype)


def _bytes(x: Tensor) -> Tensor:
    flat = x.contiguous().reshape(-1)
    # A single element may keep any stride, which a view in bytes refuses.
    return (flat.clone(memory_format=torch.contiguous_format) if flat.numel() == 1 else flat).view(torch.uint8)
