"""Tags: names that a tenant gives to snapshots. Each is a pin of the store, so what it names stays."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from executors.completion import completed
from psf.errors import InvalidField, QuotaReached, SnapshotUnknown
from psf.tokens import TENANT_OF_ALL
from psf.turns import Turns, to_thread
from store.ids import SnapshotId
from store.interfaces import Heads, Pin, Pins

TAGS_MAX = 10_000
"""Of each tenant."""
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)
_LIKE_AN_ID = re.compile(r"[0-9a-f]{6,}")
_RULE = "must be 1 to 100 letters, digits and . _ -, begin with a letter, and not look like an id"


class PinnedHeads(Heads, Pins, Protocol):
    """Heads that keep pins."""


class Tags:
    """Set, remove, list and look up. `clock` gives seconds since 1970."""

    def __init__(self, heads: PinnedHeads, turns: Turns, clock: Callable[[], float]) -> None:
        self._heads, self._turns, self._clock = heads, turns, clock

    async def set(self, tenant: str, name: str, snapshot: Callable[[], SnapshotId]) -> Pin:
        """Name a snapshot, or move the name to it. `snapshot` finds it, in a thread and under a lease. Raises InvalidField, QuotaReached."""
        check_name(name)
        async with self._turns.take(f"tag {tenant} {name}") as epoch:

            def act() -> Pin:
                self._refuse_more(tenant, name)
                pin = Pin(_pin_name(tenant, name), snapshot(), self._clock())
                self._heads.pin(pin, epoch=epoch)
                return pin

            return await completed(to_thread(act))

    def _refuse_more(self, tenant: str, name: str) -> None:
        """All tags are read whenever one is looked for, whosever it is."""
        named = self.all(tenant)
        if len(named) >= TAGS_MAX and name not in named:
            raise QuotaReached(f"there are {len(named)} tags, and no more may be", "let go of some")

    async def remove(self, tenant: str, name: str) -> None:
        """Let go of a name. Raises SnapshotUnknown when there is none."""
        if "/" in name or not await completed(to_thread(lambda: self._heads.unpin(_pin_name(tenant, name)))):
            raise SnapshotUnknown(name)

    def all(self, tenant: str) -> dict[str, Pin]:
        """The tenant's tags by name. In a thread."""
        prefix = _pin_name(tenant, "")
        named = {pin.name.removeprefix(prefix): pin for pin in self._heads.pins() if pin.name.startswith(prefix)}
        return {name: pin for name, pin in named.items() if "/" not in name}

    def find(self, tenant: str, name: str) -> SnapshotId | None:
        """The snapshot that a name stands for. In a thread."""
        if "/" in name:
            return None  # a pin of another tenant's, seen from the one whose names have nothing before them
        wanted = _pin_name(tenant, name)
        return next((pin.snapshot for pin in self._heads.pins() if pin.name == wanted), None)

    def resolved(self, tenant: str, reference: str | int) -> str | int:
        """A reference into a history (psf.history.find_snapshot), in which a tag is the id of its snapshot. In a thread."""
        if isinstance(reference, int) or not _NAME.fullmatch(reference):
            return reference
        found = self.find(tenant, reference)
        return found.hex() if found is not None else reference


def check_name(name: str) -> None:
    """Raises InvalidField for what can be no tag."""
    if not _NAME.fullmatch(name) or _LIKE_AN_ID.fullmatch(name):
        raise InvalidField(("path", "name"), _RULE, name)


def _pin_name(tenant: str, name: str) -> str:
    return name if tenant == TENANT_OF_ALL else f"{tenant}/{name}"
