"""Exchanges, all of one moment at once: what each needs is packed together, sent, and taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cupel.protocol.parallel import exact
from cupel.protocol.parallel.communicator import Communicator
from cupel.protocol.parallel.nodes import Exchange, Meeting
from cupel.protocol.parallel.sharding import Sharding, join

Tensor = torch.Tensor
SumProducts = Callable[..., Tensor]
"""`exact.sum_products`, or an engine's faster one."""
Finish = Callable[[Tensor], list[Tensor]]


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


@dataclass(slots=True)
class _Packed:
    """Parts of one flat buffer and what becomes of each."""

    parts: list[Tensor] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)

    def add(self, part: Tensor, finish: Finish) -> None:
        self.parts.append(part.reshape(-1))
        self.finishes.append(finish)

    def flat(self) -> Tensor:
        return torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0].contiguous()

    def apart(self, flat: Tensor) -> list[Tensor]:
        return list(torch.split(flat, [part.numel() for part in self.parts]))


class Round:
    """The exchanges of one moment on one worker."""

    def __init__(
        self, communicator: Communicator, traffic: Traffic, sum_products: SumProducts = exact.sum_products
    ) -> None:
        self.communicator, self.traffic, self._sum_products = communicator, traffic, sum_products
        self._maxima = {torch.int32: _Packed(), torch.int64: _Packed()}
        self._sums = _Packed()
        self._scattered: list[tuple[list[Tensor], Finish]] = []
        self._gathered: list[tuple[Tensor, Sharding, Meeting]] = []
        self._order: list[tuple[str, object, int]] = []

    def run(self, meetings: Sequence[Meeting], values: Mapping[int, Tensor]) -> list[list[Tensor]]:
        """The results of each, in order; `values` are what this worker holds, by node."""
        for meeting in meetings:
            _PACK[meeting.kind](self, meeting, [values[node] for node in meeting.operands])
        self.traffic.meetings += 1
        done: dict[tuple[str, object], list[list[Tensor]]] = {}
        for kind, packed in self._maxima.items():
            done["max", kind] = self._reduced(packed, self.communicator.max)
        done["sum", None] = self._reduced(self._sums, self.communicator.sum)
        done["scatter", None] = self._scatter_sums()
        done["gather", None] = self._gather()
        return [done[kind, detail][at] for kind, detail, at in self._order]

    def _noted(self, kind: str, at: int, detail: object = None) -> None:
        self._order.append((kind, detail, at))

    # Packing

    def _take_maximum(self, keys: Tensor, finish: Finish) -> None:
        packed = self._maxima[keys.dtype]
        self._noted("max", len(packed.parts), keys.dtype)
        packed.add(keys, finish)

    def largest(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        (x,) = xs
        self._take_maximum(exact.largest_first(x), lambda keys: [exact.from_largest(keys, x.dtype).reshape(x.shape)])

    def smallest(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        (x,) = xs
        self._take_maximum(exact.smallest_first(x), lambda keys: [exact.from_smallest(keys, x.dtype).reshape(x.shape)])

    def sum_scales(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        highest, lowest = xs
        keys = torch.stack((exact.largest_first(highest), exact.smallest_first(lowest)))

        def finish(reduced: Tensor) -> list[Tensor]:
            first, second = reduced.reshape(2, *highest.shape)
            ends = exact.from_largest(first, highest.dtype), exact.from_smallest(second, lowest.dtype)
            return list(exact.sum_scales(*ends))

        self._take_maximum(keys, finish)

    def _take_sum(self, x: Tensor, finish: Finish) -> None:
        self._noted("sum", len(self._sums.parts))
        self._sums.add(x, finish)

    def integer_sum(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        (x,) = xs
        self._take_sum(x, lambda total: [total.reshape(x.shape)])

    def finish_sum(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        x, e, special = xs
        self._take_sum(x, lambda total: [exact.finish_sum(total.reshape(x.shape), e, special)])

    def product(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        ea = xs[0]
        eb = None if meeting.by_rows else xs[1]
        quantised = xs[1 if meeting.by_rows else 2 :]
        self._finish_product(meeting, exact.partial_products(quantised[0::2], quantised[1::2]), ea, eb)

    def matmul(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        ea, eb, a, b = xs
        a_turned, b_turned = meeting.turned
        partial = self._sum_products(a, ea, b, eb, meeting.digits, a_turned=a_turned, b_turned=b_turned)
        self._finish_product(meeting, partial, ea, eb)

    def _finish_product(self, meeting: Meeting, partial: Tensor, ea: Tensor, eb: Tensor | None) -> None:
        sharding = meeting.sharding
        if sharding is None:

            def whole(total: Tensor) -> list[Tensor]:
                return [exact.finish_product(total.reshape(partial.shape), ea, eb, meeting.digits)]

            self._take_sum(partial, whole)
            return
        start, size = sharding.piece(self.communicator.rank)
        ea_here = ea.narrow(0, start, size)
        # In a single product the first dimension is that of the left rows alone.
        eb_here = eb if eb is None or partial.dim() == 2 else eb.narrow(0, start, size)

        def piece(total: Tensor) -> list[Tensor]:
            shape = (size, *partial.shape[1:])
            return [exact.finish_product(total.reshape(shape), ea_here, eb_here, meeting.digits)]

        parts = [partial[a:b].reshape(-1) for a, b in zip(sharding.cuts[:-1], sharding.cuts[1:], strict=True)]
        self._noted("scatter", len(self._scattered))
        self._scattered.append((parts, piece))

    def gather(self, meeting: Meeting, xs: Sequence[Tensor]) -> None:
        assert meeting.sharding is not None
        self._noted("gather", len(self._gathered))
        self._gathered.append((xs[0], meeting.sharding, meeting))

    # Sending

    def _reduced(self, packed: _Packed, reduce: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
        if not packed.parts:
            return []
        flat = packed.flat()
        if packed is self._sums:
            self.traffic.sums += flat.nbytes
        else:
            self.traffic.maxima += flat.nbytes
        parts = packed.apart(reduce(flat))
        return [finish(part) for finish, part in zip(packed.finishes, parts, strict=True)]

    def _scatter_sums(self) -> list[list[Tensor]]:
        if not self._scattered:
            return []
        size, rank = self.communicator.size, self.communicator.rank
        parts = [torch.cat([parts[worker] for parts, _ in self._scattered]) for worker in range(size)]
        self.traffic.scattered += sum(part.nbytes for worker, part in enumerate(parts) if worker != rank)
        flat = self.communicator.scatter_sum(parts)
        mine = torch.split(flat, [parts[rank].numel() for parts, _ in self._scattered])
        return [finish(part) for (_, finish), part in zip(self._scattered, mine, strict=True)]

    def _gather(self) -> list[list[Tensor]]:
        if not self._gathered:
            return []
        # Bytes, so that every element type goes in one message.
        flat = torch.cat([_bytes(x) for x, _, _ in self._gathered])
        self.traffic.gathered += flat.nbytes
        sizes = [self._sizes(worker) for worker in range(self.communicator.size)]
        everything = self.communicator.gather(flat, [sum(of_worker) for of_worker in sizes])
        by_worker = [list(torch.split(whole, of_worker)) for whole, of_worker in zip(everything, sizes, strict=True)]
        results = []
        for at, (x, sharding, meeting) in enumerate(self._gathered):
            # A copy: views of bytes at odd places are not aligned.
            pieces = [pieces[at].clone().view(x.dtype) for pieces in by_worker]
            results.append([join(pieces, sharding, meeting.whole.shape)])
        return results

    def _sizes(self, worker: int) -> list[int]:
        """Bytes of each piece that a worker gives."""
        sizes = []
        for x, sharding, meeting in self._gathered:
            elements = 1
            for size in sharding.local_shape(meeting.whole.shape, worker):
                elements *= size
            sizes.append(elements * x.element_size())
        return sizes


def _bytes(x: Tensor) -> Tensor:
    flat = x.contiguous().reshape(-1)
    # A single element may keep any stride, which a view in bytes refuses.
    return (flat.clone(memory_format=torch.contiguous_format) if flat.numel() == 1 else flat).view(torch.uint8)


_PACK: dict[Exchange, Callable[[Round, Meeting, Sequence[Tensor]], None]] = {
    Exchange.LARGEST: Round.largest,
    Exchange.SMALLEST: Round.smallest,
    Exchange.SUM_SCALES: Round.sum_scales,
    Exchange.FINISH_SUM: Round.finish_sum,
    Exchange.INTEGER_SUM: Round.integer_sum,
    Exchange.PRODUCT: Round.product,
    Exchange.MATMUL: Round.matmul,
    Exchange.GATHER: Round.gather,
}
