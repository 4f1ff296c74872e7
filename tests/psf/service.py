"""A session service over a real store and a scripted executor, with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from executors.fake import FakeExecutor, Script
from executors.interfaces import Executor, Request
from psf import runtimes
from psf.limits import LimitRules
from psf.memo import Memo
from psf.record import Order
from psf.runtimes import Runtimes
from psf.services import AMPLE, Services, TenantLimits, compose
from psf.systems import SystemRules
from store.local import LocalStore

TENANT = "local"


RULES = LimitRules(maximum=msgspec.structs.replace(LimitRules().maximum, memory_bytes=1 << 34, wall_time_s=3600.0))


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def play(request: Request) -> Script:
    """A program is `name=content` for a file to write, or a word to print."""
    text = request.program.decode()
    name, equals, content = text.partition("=")
    return Script(writes={name: content.encode()}) if equals else Script(stdout=request.program)


class Bench:
    """Store, clock and service; `reopen` is what a restart is."""

    def __init__(
        self, root: Path, wrap: Callable[[Executor], Executor] = lambda executor: executor, rules: LimitRules = RULES
    ) -> None:
        self._root, self._wrap, self.rules, self.clock = root, wrap, rules, Clock()
        self.audit_rate = 0.0
        self.reopen()

    def reopen(self) -> None:
        self.store = LocalStore(self._root)
        self.fake = FakeExecutor(self.store.objects, play)
        self.services = self.another()
        self.service, self.steps, self.changes = self.services.sessions, self.services.steps, self.services.changes

    def another(self, sandbox: str = "fake", images: tuple[str, ...] = (), tenants: TenantLimits = AMPLE) -> Services:
        """Further services on the same store, as another process has them."""
        table = Runtimes(runtimes.load(), "/usr/bin/python3", None)
        self.memo = Memo(self._root, self.store.objects, self.store.heads, self.audit_rate)
        return compose(
            self.store.objects, self.store.heads, self.store.leases, self._wrap(self.fake), table,
            folder=self._root, systems=SystemRules(sandbox, images=images), run_facts={"sandbox": sandbox}, clock=self.clock, rules=self.rules, memo=self.memo, tenants=tenants,
        )  # fmt: skip

    def close(self) -> None:
        self.memo.close()
        self.store.close()

    async def session(self, runtime: str = "python", ttl_s: float = 100.0) -> str:
        return (await self.service.create(runtime, ttl_s, TENANT)).session_id

    async def step(self, session_id: str, code: str, runtime: str | None = None) -> str:
        """Execute under keep "all"; the new head in digits."""
        order = Order(code=code.encode(), runtime=runtime, keep="all")
        snapshot = (await self.steps.execute(session_id, TENANT, order)).snapshot
        assert snapshot is not None
        return snapshot.hex()

    async def head(self, session_id: str) -> str:
        return (await self.service.get(session_id, TENANT, retained=True)).head.hex()

    async def moves(self, session_id: str) -> list[str]:
        """Kinds of the moves, oldest first."""
        log = await self.service.log(session_id, TENANT, before=None, limit=1000)
        return [move.kind for move, _ in reversed(log)]
