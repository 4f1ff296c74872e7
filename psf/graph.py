"""A history as a drawing of lines: one column for each line that is still under way, newest first. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Drawn(NamedTuple):
    """A row of the drawing. `node` is None for those that only lead from one to the next."""

    lines: str
    node: str | None


def in_order(parents: Mapping[str, Sequence[str]], recency: Mapping[str, float]) -> list[str]:
    """All nodes, each before its parents; among those that may come next the one that happened last."""
    children = Counter(parent for node in parents for parent in set(parents[node]) if parent in parents)
    ready = [(-recency.get(node, 0), node) for node in parents if not children[node]]
    heapq.heapify(ready)
    found: list[str] = []
    while ready:
        _, node = heapq.heappop(ready)
        found.append(node)
        for parent in set(parents[node]):
            if parent in parents:
                children[parent] -= 1
                if not children[parent]:
                    heapq.heappush(ready, (-recency.get(parent, 0), parent))
    return found


def draw(nodes: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Iterator[Drawn]:
    """Rows for nodes that are in order. A parent that is not among them is a line that goes on below."""
    lanes: list[str] = []
    for node in nodes:
        if node not in lanes:
            lanes.append(node)
        column = lanes.index(node)
        for other in reversed([place for place, waits in enumerate(lanes) if waits == node and place != column]):
            yield Drawn(_joined(len(lanes), column, other), None)
            del lanes[other]
        yield Drawn(" ".join("*" if place == column else "|" for place in range(len(lanes))), node)
        before = list(parents.get(node, ()))
        if not before:
            del lanes[column]
            if column < len(lanes):
                yield Drawn(
                    " ".join(["|"] * column + [""]) + " ".join([" /"] + ["/"] * (len(lanes) - column - 1)), None
                )
            continue
        lanes[column] = before[0]
        for parent in before[1:]:
            yield Drawn(" ".join(["|"] * (column + 1)) + "\\" + " \\" * (len(lanes) - column - 1), None)
            lanes.insert(column + 1, parent)


def _joined(count: int, column: int, other: int) -> str:
    """The line of lane `other` leads to that of lane `column`; those right of it move up."""
    row = list(" " * (2 * count - 1))
    for lane in range(other):
        row[2 * lane] = "|"
    for lane in range(column, other - 1):
        row[2 * lane + 1] = "_"
    row[2 * other - 1] = "/"
    for lane in range(other + 1, count):
        row[2 * lane - 1] = "/"
    return "".join(row).rstrip()
