"""State machines: packs and SQLite behave as the dictionaries of store.memory do, across reopening and other processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from store.asked import AskedLimits
from store.errors import HeadMoved, ObjectMissing, SessionExists, SessionMissing
from store.files import Files
from store.heads import SqliteHeads
from store.ids import Kind
from store.interfaces import KEY_BYTES, Heads, SessionSettings
from store.large import LARGE_BYTES
from store.memory import MemoryHeads, MemoryObjects
from store.packs import PackObjects
from store.testing import SweptHeads, move, nobody, session, snapshot_name

SEAL_BYTES = 400
STORES = 3


class ObjectsMachine(RuleBasedStateMachine):
    """Three stores on one folder, opened, closed and torn in any order. The model keeps what was acknowledged."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores: list[PackObjects | None] = [None] * STORES
        self.model = MemoryObjects()
        # Put by each store and not yet synced: readable there, gone when it closes.
        self.pending: list[set[tuple[Kind, bytes]]] = [set() for _ in range(STORES)]
        # Once pending in a store that closed: somebody else may have stored it all the same.
        self.lost: set[tuple[Kind, bytes]] = set()

    @initialize()
    def begin(self) -> None:
        self.store(0)

    def store(self, which: int) -> PackObjects:
        opened = self.stores[which]
        if opened is None:
            opened = self.stores[which] = PackObjects(self.root, Files(), seal_bytes=SEAL_BYTES)
        return opened

    @rule(target=names, which=st.integers(0, STORES - 1), kind=st.sampled_from(Kind), number=st.integers(0, 30))
    def put(self, which: int, kind: Kind, number: int) -> tuple[Kind, bytes]:
        name = (kind, self.store(which).put(kind, b"%d " % number * number))
        self.model.put(kind, b"%d " % number * number)
        self.pending[which].add(name)
        return name

    @rule(target=names, which=st.integers(0, STORES - 1), number=st.integers(0, 3))
    def put_large(self, which: int, number: int) -> tuple[Kind, bytes]:
        """Large blobs are durable and seen by all at once."""
        data = bytes([number]) * LARGE_BYTES
        name = self.store(which).put(Kind.BLOB, data)
        assert name == self.model.put(Kind.BLOB, data)
        return Kind.BLOB, name

    @rule(which=st.integers(0, STORES - 1))
    def sync(self, which: int) -> None:
        store = self.store(which)
        store.sync()
        for other in range(STORES):
            if other != which:
                assert not self.store(other).find_missing(self.pending[which])
        self.lost -= self.pending[which]
        self.pending[which].clear()

    @rule(which=st.integers(0, STORES - 1), name=names)
    def get(self, which: int, name: tuple[Kind, bytes]) -> None:
        maybe_lost = any(name in pending for pending in self.pending) or name in self.lost
        try:
            assert self.store(which).get(*name) == self.model.get(*name)
        except ObjectMissing:
            assert maybe_lost

    @rule(which=st.integers(0, STORES - 1), torn=st.binary(max_size=60))
    def close(self, which: int, torn: bytes) -> None:
        """A crash: what was not synced is lost, and the pack may end in half a record."""
        store, self.stores[which] = self.stores[which], None
        if store is None:
            return
        if store._own is not None:
            os.write(store._own.file.descriptor, torn)
        store.close()
        self.lost |= self.pending[which]
        self.pending[which].clear()

    @invariant()
    def acknowledged_objects_are_in_every_store(self) -> None:
        uncertain = self.lost.union(*self.pending)
        certain = set(self.model) - uncertain
        for store in self.stores:
            if store is not None:
                assert not store.find_missing(certain)

    def teardown(self) -> None:
        for store in self.stores:
            if store is not None:
                store.close()
        shutil.rmtree(self.root)


TestObjects = ObjectsMachine.TestCase
TestObjects.settings = settings(stateful_step_count=30)

IDS = st.sampled_from(["a", "b", "c", "d"])
KEYS = st.sampled_from([b"k" * KEY_BYTES, b"l" * KEY_BYTES])
SETTINGS = SessionSettings("named", 5.0, AskedLimits(processes=3))
TIMES = st.integers(0, 300).map(float)


def outcome(heads: Heads, method: str, *arguments: object, **named: object) -> object:
    """The result, or which error with which facts."""
    try:
        result = getattr(heads, method)(*arguments, **named)
    except (HeadMoved, SessionExists, SessionMissing) as error:
        return type(error), vars(error)
    return result


class HeadsMachine(RuleBasedStateMachine):
    """Every call gives the same answer, or the same error, as the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.model: SweptHeads = MemoryHeads()
        self.heads = SqliteHeads(self.root / "heads.sqlite")

    def same(self, method: str, *arguments: object, **named: object) -> None:
        assert outcome(self.heads, method, *arguments, **named) == outcome(self.model, method, *arguments, **named)

    @rule(names=st.lists(IDS, max_size=3), tenant=st.sampled_from(["alice", "bob"]), used=TIMES)
    def create(self, names: list[str], tenant: str, used: float) -> None:
        self.same("create", [session(name, tenant=tenant, used_at_s=used) for name in names], "create")

    @rule(
        name=IDS, expected=st.integers(0, 3), number=st.integers(0, 3), at_s=TIMES, runtime=st.none() | st.just("bash")
    )
    def advance(self, name: str, expected: int, number: int, at_s: float, runtime: str | None) -> None:
        self.same("advance", name, snapshot_name(expected), move(number, at_s=at_s), runtime=runtime)

    @rule(name=IDS, number=st.integers(0, 3), key=KEYS, at_s=TIMES, changed=st.none() | st.just(SETTINGS))
    def advance_keyed(self, name: str, number: int, key: bytes, at_s: float, changed: SessionSettings | None) -> None:
        keyed = msgspec.structs.replace(move(number, at_s=at_s), key=key, asked=b"a" * KEY_BYTES)
        self.same("advance", name, snapshot_name(number), keyed, settings=changed)

    @rule(key=KEYS)
    def made_under(self, key: bytes) -> None:
        self.same("made_under", key)

    @rule(horizon=TIMES)
    def drop(self, horizon: float) -> None:
        self.same("drop_unused_since", horizon, is_running=nobody)

    @rule(name=IDS, before=st.none() | st.integers(0, 10), limit=st.integers(0, 5))
    def log(self, name: str, before: int | None, limit: int) -> None:
        self.same("log", name, before=before, limit=limit)

    @rule()
    def reopen(self) -> None:
        self.heads.close()
        self.heads = SqliteHeads(self.root / "heads.sqlite")

    @invariant()
    def everything_is_the_same(self) -> None:
        assert sorted(self.heads.roots()) == sorted(self.model.roots())
        for name in ("a", "b", "c", "d"):
            for tenant in ("alice", "bob"):
                self.same("get", name, tenant)

    def teardown(self) -> None:
        self.heads.close()
        shutil.rmtree(self.root)


TestHeads = HeadsMachine.TestCase
TestHeads.settings = settings(stateful_step_count=30)
