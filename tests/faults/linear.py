"""Could the reads and swaps of a head that clients saw have happened one after the other, each between its call and its answer?

In general that is hard to say. A head is a register that is only compared and set, whose values never return, and the log of moves
says in which order they came. So each value was set at one moment, these moments follow the order of the log, and all that a client
saw bounds one of them: a swap that was accepted lies between its call and its answer; a value that was read (or named in
a refusal) was set before the answer, and the next one after the call. The history is possible if and only if the bounds leave a moment for each.
That takes one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Read(NamedTuple):
    value: str
    called: float
    answered: float


class Swap(NamedTuple):
    """`seen` is the value that a refusal named. Neither accepted nor refused: the client does not know."""

    expected: str
    value: str
    accepted: bool
    seen: str | None
    called: float
    answered: float

    @property
    def refused(self) -> bool:
        return self.seen is not None


class _Bounds:
    """When each value of the chain was set: not before `earliest`, not after `latest`. The first was there from the beginning."""

    def __init__(self, chain: Sequence[str]) -> None:
        self.chain = chain
        self.position = {value: number for number, value in enumerate(chain)}
        self.earliest = [-math.inf] * (len(chain) + 1)
        self.latest = [-math.inf, *[math.inf] * len(chain)]

    def set_between(self, value: str, called: float, answered: float) -> None:
        number = self.position[value]
        self.earliest[number] = max(self.earliest[number], called)
        self.latest[number] = min(self.latest[number], answered)

    def seen(self, value: str, called: float, answered: float) -> None:
        number = self.position[value]
        self.latest[number] = min(self.latest[number], answered)
        self.earliest[number + 1] = max(self.earliest[number + 1], called)

    def contradictions(self) -> list[str]:
        for number in range(1, len(self.chain)):
            self.earliest[number] = max(self.earliest[number], self.earliest[number - 1])
        for number in reversed(range(1, len(self.chain))):
            self.latest[number] = min(self.latest[number], self.latest[number + 1])
        return [
            f"no moment is left at which {value} can have been set"
            for number, value in enumerate(self.chain)
            if self.earliest[number] > self.latest[number]
        ]


def violations(history: Iterable[Read | Swap], chain: Sequence[str]) -> list[str]:
    """What contradicts that the head went along `chain`, its first value to its last. Times are of one clock."""
    bounds = _Bounds(chain)
    if len(bounds.position) < len(chain):
        return ["a value came back"]
    found: list[str] = []
    for operation in history:
        if isinstance(operation, Read):
            found += _read(operation.value, operation, bounds)
        else:
            found += _swapped(operation, bounds)
    return found + bounds.contradictions()


def _read(value: str, operation: Read | Swap, bounds: _Bounds) -> list[str]:
    if value not in bounds.position:
        return [f"{value} was seen and never set"]
    bounds.seen(value, operation.called, operation.answered)
    return []


def _swapped(swap: Swap, bounds: _Bounds) -> list[str]:
    number = bounds.position.get(swap.value)
    if swap.refused:
        assert swap.seen is not None
        if number is not None:
            return [f"{swap.value} was refused and set"]
        if swap.seen == swap.expected:
            return [f"{swap.value} was refused though the head was the expected one"]
        return _read(swap.seen, swap, bounds)
    if number is None:
        return [f"{swap.value} was accepted and is lost"] if swap.accepted else []
    if number == 0 or bounds.chain[number - 1] != swap.expected:
        return [f"{swap.value} does not stand on {swap.expected}"]
    bounds.set_between(swap.value, swap.called, swap.answered if swap.accepted else math.inf)
    return []
