"""Opening parts of a tree: a run of leaves with its path, and the nodes some levels below another.

Shapes follow from the number of leaves alone (docs/design/roots.md): an odd node is carried up, so a level of n nodes
is followed by one of ceil(n / 2), and node i of level l covers leaves i 2^l to (i + 1) 2^l.
"""

from __future__ import annotations

from collections.abc import Sequence

from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import node_hash, tree_root
from cupel.protocol.types import Root

CHILDREN_BITS = 10
"""A node is opened to those ten levels below it: at most 1,024 children a move."""


class Tree:
    """Every level of a tree, leaves first."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.levels: list[list[bytes]] = [list(leaves)]
        while len(self.levels[-1]) > 1:
            level = self.levels[-1]
            parents = [node_hash(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
            self.levels.append([*parents, level[-1]] if len(level) & 1 else parents)

    @property
    def count(self) -> int:
        return len(self.levels[0])

    @property
    def root(self) -> Root:
        return Root(self.levels[-1][0]) if self.count else tree_root([])

    def path(self, first: int, last: int | None = None) -> list[bytes]:
        """What leaves `first` to `last`, both included, need to reach the root: bottom up, left before right."""
        last = first if last is None else last
        if not 0 <= first <= last < self.count:
            raise MalformedInput(f"leaves {first} to {last} of a tree of {self.count}")
        path = []
        for level in self.levels[:-1]:
            if first & 1:
                path.append(level[first - 1])
            if last & 1 == 0 and last + 1 < len(level):
                path.append(level[last + 1])
            first, last = first >> 1, last >> 1
        return path

    def children(self, level: int, index: int) -> list[bytes]:
        """The nodes ten levels (or as many as there are) below a node."""
        below = max(level - CHILDREN_BITS, 0)
        start, end = child_range(self.count, level, index)
        return self.levels[below][start:end]


def level_size(count: int, level: int) -> int:
    """Nodes of a level in a tree of `count` leaves."""
    return (count + (1 << level) - 1) >> level


def height(count: int) -> int:
    """The level of the root."""
    return max(count - 1, 0).bit_length()


def child_range(count: int, level: int, index: int) -> tuple[int, int]:
    """First and one past the last of a node's children, numbered within their level.

    Raises  MalformedInput for a node that the tree does not have, and for leaves
    """
    if not (0 < level <= height(count) and 0 <= index < level_size(count, level)):
        raise MalformedInput(f"node {index} of level {level} has no children in a tree of {count} leaves")
    below = max(level - CHILDREN_BITS, 0)
    width = level - below
    return index << width, min((index + 1) << width, level_size(count, below))


def are_children(node: bytes, count: int, level: int, index: int, children: Sequence[bytes]) -> bool:
    """Whether these are the hashes below that node of a tree of `count` leaves."""
    start, end = child_range(count, level, index)
    return len(children) == end - start and all(len(c) == 32 for c in children) and tree_root(children) == node


def path_length(count: int, first: int, last: int | None = None) -> int:
    """Hashes in the path of leaves `first` to `last`."""
    last = first if last is None else last
    length = 0
    while count > 1:
        length += (first & 1) + (last & 1 == 0 and last + 1 < count)
        first, last, count = first >> 1, last >> 1, (count + 1) >> 1
    return length


def root_of_range(hashes: Sequence[bytes], first: int, count: int, path: Sequence[bytes]) -> bytes:
    """The root that leaves `first`... of a tree of `count` lead to; `path` has `path_length` hashes."""
    level, siblings = list(hashes), iter(path)
    while count > 1:
        last = first + len(level) - 1
        if first & 1:
            level.insert(0, next(siblings))
        if last & 1 == 0 and last + 1 < count:
            level.append(next(siblings))
        parents = [node_hash(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = [*parents, level[-1]] if len(level) & 1 else parents
        first, count = first >> 1, (count + 1) >> 1
    return level[0]
