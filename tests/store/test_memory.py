"""The reference implementations keep the contracts."""

from __future__ import annotations

import pytest

from store.interfaces import Leases, Objects
from store.memory import MemoryHeads, MemoryLeases, MemoryObjects
from store.testing import HeadsContract, LeasesContract, ObjectsContract, SweptHeads
from store.testing.keyed import KeyedContract, RepeatableHeads
from store.testing.pins import PinnedHeads, PinsContract
from store.testing.restoring import RestoredHeads, RestorerContract


class TestMemoryObjects(ObjectsContract):
    @pytest.fixture
    def objects(self) -> Objects:
        return MemoryObjects()


class TestMemoryHeads(HeadsContract):
    @pytest.fixture
    def heads(self) -> SweptHeads:
        return MemoryHeads()


class TestMemoryPins(PinsContract):
    @pytest.fixture
    def heads(self) -> PinnedHeads:
        return MemoryHeads()


class TestMemoryKeyed(KeyedContract):
    @pytest.fixture
    def heads(self) -> RepeatableHeads:
        return MemoryHeads()


class TestMemoryRestorer(RestorerContract):
    @pytest.fixture
    def heads(self) -> RestoredHeads:
        return MemoryHeads()


class TestMemoryLeases(LeasesContract):
    @pytest.fixture
    def leases(self) -> Leases:
        return MemoryLeases()
