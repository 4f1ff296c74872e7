"""Heads under concurrency: what every client saw can have happened one after the other."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

import pytest

from store.heads import SqliteHeads
from store.memory import MemoryHeads
from store.testing import session
from tests.faults.hammering import SESSIONS, chain, hammer, read_history
from tests.faults.linear import Read, Swap, violations

SEEDS = range(100)
CLIENTS = 4
TURNS = 30


# -- the check itself: on stores that are simulated step by step, so that each seed is one history -----------------------


Steps = Generator[None, None, str]
"""A call: goes on at each step when it is its turn, and ends with its answer."""


class Register:
    """A head that is read and swapped in one step each."""

    def __init__(self) -> None:
        self.head = "first"
        self.parents: dict[str, str] = {}

    def read(self) -> Steps:
        yield
        head = self.head
        yield
        return head

    def swap(self, expected: str, value: str) -> Steps:
        yield
        found = self.head
        self._set(found, expected, value)
        yield
        return found

    def _set(self, found: str, expected: str, value: str) -> None:
        if found == expected:
            self.head, self.parents[value] = value, expected

    def chain(self) -> list[str]:
        values = [self.head]
        while values[-1] in self.parents:
            values.append(self.parents[values[-1]])
        return values[::-1]


class LooseRegister(Register):
    """Compares, and sets a step later."""

    def swap(self, expected: str, value: str) -> Steps:
        yield
        found = self.head
        yield
        self._set(found, expected, value)
        yield
        return found


class StaleRegister(Register):
    """Reads what the head was some time ago."""

    def __init__(self) -> None:
        super().__init__()
        self._remembered, self._reads = self.head, 0

    def read(self) -> Steps:
        self._reads += 1
        if self._reads % 5 == 0:
            self._remembered = self.head
        yield
        return self._remembered


def simulated(register: Register, seed: int) -> list[Read | Swap]:
    """What clients saw whose steps took turns at random."""
    generator, clock = random.Random(seed), count()
    history: list[Read | Swap] = []

    def client(number: int) -> Iterator[None]:
        for turn in range(TURNS):
            called = next(clock)
            expected = yield from register.read()
            history.append(Read(expected, called, next(clock)))
            value, called = f"{number}.{turn}", next(clock)
            found = yield from register.swap(expected, value)
            accepted = found == expected
            history.append(Swap(expected, value, accepted, None if accepted else found, called, next(clock)))

    clients = [client(number) for number in range(CLIENTS)]
    while clients:
        chosen = generator.choice(clients)
        try:
            next(chosen)
        except StopIteration:
            clients.remove(chosen)
    return history


@pytest.mark.parametrize("seed", SEEDS)
def test_a_correct_store_is_never_accused(seed: int) -> None:
    register = Register()
    history = simulated(register, seed)
    assert violations(history, register.chain()) == []
    assert len(history) == 2 * CLIENTS * TURNS
    assert len(register.chain()) > TURNS


@pytest.mark.parametrize("kind", [LooseRegister, StaleRegister])
def test_a_careless_store_is_always_found_out(kind: Callable[[], Register]) -> None:
    for seed in SEEDS:
        register = kind()
        history = simulated(register, seed)
        assert violations(history, register.chain()), seed


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        (Swap("a", "c", True, None, 5, 6), "accepted and is lost"),
        (Swap("x", "b", True, None, 1, 2), "does not stand on x"),
        (Swap("x", "b", False, "a", 1, 2), "refused and set"),
        (Swap("a", "x", False, "a", 1, 2), "though the head was the expected one"),
        (Read("x", 1, 2), "never set"),
        (Read("a", 5, 6), "no moment is left"),
        (Read("b", 0, 0.5), "no moment is left"),
        (Swap("a", "x", False, "b", 0, 0.5), "no moment is left"),
    ],
)
def test_each_contradiction_is_named(operation: Read | Swap, problem: str) -> None:
    """The head was `a`, then `b` from between 1 and 2."""
    is_about_b = isinstance(operation, Swap) and operation.value == "b"
    history = [operation] if is_about_b else [Swap("a", "b", True, None, 1, 2), operation]
    (found,) = violations(history, ["a", "b"])
    assert problem in found


def test_an_unknown_outcome_may_be_either() -> None:
    unknown = Swap("a", "b", False, None, 1, 2)
    assert violations([unknown, Read("a", 3, 4), Read("b", 5, 6)], ["a", "b"]) == []
    assert violations([unknown, Read("a", 3, 4)], ["a"]) == []
    assert violations([unknown, Read("b", 0, 0.5)], ["a", "b"])


def test_a_value_that_comes_back_is_a_contradiction() -> None:
    assert violations([], ["a", "b", "a"]) == ["a value came back"]


# -- the heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_eight_threads_see_one_order_of_moves(tmp_path: Path, kind: str) -> None:
    heads = MemoryHeads() if kind == "memory" else SqliteHeads(tmp_path / "heads.sqlite")
    heads.create([session(name) for name in SESSIONS], "create")
    history = hammer(heads, "only", threads=8, rounds=40)
    for name in SESSIONS:
        assert violations(history[name], chain(heads, name)) == []
    swaps = [operation for seen in history.values() for operation in seen if isinstance(operation, Swap)]
    assert len(swaps) == 8 * 40
    assert any(swap.accepted for swap in swaps)
    if isinstance(heads, SqliteHeads):
        heads.close()


def test_two_processes_see_one_order_of_moves(tmp_path: Path) -> None:
    path = tmp_path / "heads.sqlite"
    heads = SqliteHeads(path)
    heads.create([session(name) for name in SESSIONS], "create")
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.hammering", str(path), worker, "4", "60"],
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker in ("one", "other")
    ]
    histories = [read_history(worker.communicate(timeout=100)[0]) for worker in workers]
    for name in SESSIONS:
        both = [operation for history in histories for operation in history[name]]
        assert violations(both, chain(heads, name)) == []
    refused = [
        operation
        for history in histories
        for seen in history.values()
        for operation in seen
        if isinstance(operation, Swap) and operation.refused
    ]
    assert refused, "they never met"
    heads.close()
