"""Which maps and reductions share one pass over memory.

A group walks rows of `columns` elements. Items join the latest group that may still take them and that they share
data with: their operands come from earlier groups, or from the group itself in exactly the order it walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.items import Call, Item, Map, Python, Reduce
from cupel.protocol.arithmetic.cpu.views import Buffer, Factor, View

_ITEMS_A_GROUP = 48


@dataclass(eq=False, slots=True)
class Group:
    """Fused items, or a single Call or Python item."""

    items: list[Item]
    rows: int = 0
    columns: int = 0
    made: dict[Buffer, Map | Reduce] = field(default_factory=dict)
    """Producer of each buffer written here."""
    touched: set[Buffer] = field(default_factory=set)
    lists: list[Sequence[Factor]] = field(default_factory=list)
    """Factor lists over rows of every access so far."""
    phase: int = 0

    @property
    def fused(self) -> bool:
        return bool(self.made)


def split(view: View, rows: int, columns: int) -> tuple[tuple[Factor, ...], Factor] | None:
    """The view as rows and one stride within a row."""
    dims = views.regrouped([f for dim in view.dims for f in dim], (rows, columns))
    if dims is None:
        return None
    inner = views.single(dims[1])
    return None if inner is None else (views.merged(dims[0]), inner)


def buffers_of(item: Item) -> tuple[list[Buffer], list[Buffer]]:
    """Read and written."""
    if isinstance(item, Map | Reduce):
        return [a.buffer for a in item.args if a.buffer is not None], [b for b in (item.out.buffer,) if b]
    return (
        [v.buffer for v in item.reads if v.buffer is not None],
        [v.buffer for v in item.writes if v.buffer is not None],
    )


def _extent(item: Map | Reduce) -> tuple[int, int]:
    """Rows and columns an item would walk on its own."""
    if isinstance(item, Reduce):
        shape = item.args[0].shape
        return prod(shape[:-1]), shape[-1]
    shape = item.out.shape
    columns = shape[-1] if shape else 1
    rows = prod(shape[:-1])
    if columns == 1:
        rows, columns = 1, rows
    accesses = [v for v in (item.out, *item.args) if v.buffer is not None]
    if all(split(v, rows, columns) for v in accesses):
        return rows, columns
    loops = views.refine([v.factors() for v in accesses])
    assert loops is not None
    columns = loops[-1][0] if loops else 1
    return prod(shape) // columns, columns


def _reads_row(group: Group, view: View) -> bool:
    """The view repeats a row result of the group along each row."""
    assert view.buffer is not None
    parts = split(view, group.rows, group.columns)
    out = group.made[view.buffer].out
    return (
        parts is not None
        and (parts[1][1] == 0 or parts[1][0] == 1)
        and parts[0] == out.factors()
        and view.offset == out.offset
    )


def _try(group: Group, item: Map | Reduce, *, related: bool = False) -> bool:
    """Whether the item may join; if so, it does. It must share data with the group, unless known to be `related`."""
    reads = [a for a in item.args if a.buffer is not None]
    if group.phase != item.phase:
        return False
    # One number that both read everywhere is no common walk through memory.
    related = related or any(
        a.buffer in group.made or (a.buffer in group.touched and any(stride for _, stride in a.factors()))
        for a in reads
    )
    if not related or len(group.items) >= _ITEMS_A_GROUP:
        return False
    as_row = (
        isinstance(item, Map)
        and item.out.elements == group.rows
        and any(a.buffer in group.made and group.made[a.buffer].is_row for a in reads if a.buffer)
    )
    lists: list[Sequence[Factor]] = []
    if as_row:
        for a in reads:
            assert a.buffer is not None
            if a.buffer in group.made:
                producer = group.made[a.buffer]
                if not producer.is_row or a.factors() != producer.out.factors() or a.offset != producer.out.offset:
                    return False
            else:
                lists.append(a.factors())
        lists.append(item.out.factors())
    else:
        if _extent(item) != (group.rows, group.columns):
            shape = item.args[0].shape if isinstance(item, Reduce) else item.out.shape
            if isinstance(item, Reduce) or prod(shape) != group.rows * group.columns:
                return False
        for a in reads:
            assert a.buffer is not None
            if a.buffer in group.made:
                producer = group.made[a.buffer]
                if producer.is_row:
                    if not _reads_row(group, a):
                        return False
                elif a.factors() != producer.out.factors() or a.offset != producer.out.offset:
                    return False
            else:
                parts = split(a, group.rows, group.columns)
                if parts is None:
                    return False
                lists.append(parts[0])
        if isinstance(item, Reduce):
            lists.append(item.out.factors())
        else:
            parts = split(item.out, group.rows, group.columns)
            if parts is None:
                return False
            lists.append(parts[0])
    if views.refine([*group.lists, *lists]) is None:
        return False
    _add(group, item, lists, as_row or isinstance(item, Reduce))
    return True


def _add(group: Group, item: Map | Reduce, lists: list[Sequence[Factor]], is_row: bool) -> None:
    item.is_row = is_row
    group.items.append(item)
    group.lists += lists
    reads, writes = buffers_of(item)
    group.touched.update(reads)
    for buffer in writes:
        group.made[buffer] = item


def _alone(item: Map | Reduce) -> Group:
    rows, columns = _extent(item)
    group = Group([], rows, columns, phase=item.phase)
    lists: list[Sequence[Factor]] = []
    for a in item.args:
        if a.buffer is not None:
            parts = split(a, rows, columns)
            assert parts is not None
            lists.append(parts[0])
    if isinstance(item, Reduce):
        lists.append(item.out.factors())
    else:
        parts = split(item.out, rows, columns)
        assert parts is not None
        lists.append(parts[0])
    assert views.refine(lists) is not None
    _add(group, item, lists, isinstance(item, Reduce))
    return group


def group_items(items: Sequence[Item]) -> list[Group]:
    """Groups in an order that respects every dependency."""
    groups: list[Group] = []
    written: dict[Buffer, int] = {}
    shared: set[Buffer] = set()
    """Buffers with several writers: nobody in a writer's own group may read them."""
    seen: set[Buffer] = set()
    for item in items:
        for buffer in buffers_of(item)[1]:
            (shared if buffer in seen else seen).add(buffer)
    for item in items:
        reads, writes = buffers_of(item)
        earliest = 0
        for buffer in reads:
            if buffer in written:
                inside = isinstance(item, Map | Reduce) and buffer not in shared and groups[written[buffer]].fused
                earliest = max(earliest, written[buffer] + (not inside))
        if isinstance(item, Call | Python):
            for buffer in writes:
                earliest = max(earliest, written.get(buffer, -1) + 1)
            groups.append(Group([item]))
            at = len(groups) - 1
        else:
            for buffer in item.after:
                earliest = max(earliest, written.get(buffer, -1) + 1)
            for at in range(len(groups) - 1, earliest - 1, -1):
                if groups[at].fused and _try(groups[at], item):
                    break
            else:
                groups.append(_alone(item))
                at = len(groups) - 1
        for buffer in writes:
            written[buffer] = max(at, written.get(buffer, -1))
    return _merged(groups, shared)


def _merged(groups: list[Group], shared: set[Buffer]) -> list[Group]:
    """Groups of maps alone, put off until the group that reads them where nobody else reads them before.

    Greedy grouping starts a group for what has nothing in common with the ones before: each moment of AdamW, say,
    whose update then reads them all.
    """
    kept: list[Group | None] = list(groups)
    writer: dict[Buffer, int] = {}
    readers: dict[Buffer, set[int]] = {}

    def note(at: int, group: Group) -> None:
        for item in group.items:
            reads, writes = buffers_of(item)
            for buffer in reads:
                readers.setdefault(buffer, set()).add(at)
            for buffer in writes:
                writer[buffer] = at

    def is_simple(group: Group) -> bool:
        return all(
            isinstance(item, Map) and not item.is_row and not item.after and item.out.buffer not in shared
            for item in group.items
        )

    for at, group in enumerate(groups):
        note(at, group)
    for at, later in enumerate(groups):
        if not is_simple(later):
            continue
        tried: set[int] = set()
        while True:
            sources = {writer[b] for item in later.items for b in buffers_of(item)[0] if b in writer}
            candidates = [i for i in sources - tried if i < at]
            if not candidates:
                break
            source = max(candidates)
            tried.add(source)
            earlier = kept[source]
            assert earlier is not None
            read_between = any(source < i < at for b in earlier.made for i in readers.get(b, ()))
            if read_between or not is_simple(earlier):
                continue
            both = _joined(earlier, later)
            if both is not None:
                for ids in readers.values():
                    if source in ids:
                        ids.remove(source)
                note(at, both)
                kept[source], kept[at], later = None, both, both
    return [group for group in kept if group is not None]


def _joined(earlier: Group, later: Group) -> Group | None:
    both = Group(
        list(earlier.items),
        earlier.rows,
        earlier.columns,
        dict(earlier.made),
        set(earlier.touched),
        list(earlier.lists),
        earlier.phase,
    )
    for item in later.items:
        if not isinstance(item, Map) or not _try(both, item, related=True):
            return None
    return both
