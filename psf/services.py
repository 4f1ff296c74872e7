"""All that a server does, made of one another. The API and the command line stand on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from executors.interfaces import Executor
from psf.changes import Changes
from psf.exchange import Exchange
from psf.lifetimes import Lifetimes
from psf.limits import LimitRules
from psf.memo import Memo
from psf.reading import Reading
from psf.replays import Replays
from psf.runtimes import Runtimes
from psf.sessions import SESSIONS_MAX, SessionHeads, SessionService
from psf.steps import Steps
from psf.systems import SystemRules
from psf.tags import Tags
from psf.turns import SHARE_MAX, Turns
from store.interfaces import HeadRestorer, HeadSweeper, Leases, ListedObjects, Pins


class ServiceHeads(SessionHeads, Pins, HeadSweeper, HeadRestorer, Protocol):
    """Heads with all that is asked of them here."""


class TenantLimits(NamedTuple):
    """What each tenant may have: sessions, and steps that run or wait at once."""

    sessions: int = SESSIONS_MAX
    steps: int = SHARE_MAX


AMPLE = TenantLimits()


class Services(NamedTuple):
    sessions: SessionService
    lifetimes: Lifetimes
    steps: Steps
    changes: Changes
    replays: Replays
    reading: Reading
    tags: Tags
    exchange: Exchange
    objects: ListedObjects
    heads: SessionHeads
    runtimes: Runtimes
    memo: Memo | None


def compose(
    objects: ListedObjects,
    heads: ServiceHeads,
    leases: Leases,
    executor: Executor,
    runtimes: Runtimes,
    *,
    folder: Path,
    systems: SystemRules,
    rules: LimitRules,
    run_facts: dict[str, object],
    clock: Callable[[], float],
    memo: Memo | None = None,
    tenants: TenantLimits = AMPLE,
) -> Services:
    """`folder` lies on the store's file system. `clock` gives seconds since 1970; `run_facts` is what every run record repeats."""
    turns = Turns(leases, tenants.steps)
    sessions = SessionService(
        objects, heads, leases, turns, executor, runtimes, systems=systems, clock=clock, sessions_max=tenants.sessions
    )
    steps = Steps(
        objects, heads, turns, sessions, executor, runtimes,
        systems=systems, run_facts=run_facts, clock=clock, rules=rules, memo=memo,
    )  # fmt: skip
    changes = Changes(objects, heads, sessions.once, clock)
    lifetimes = Lifetimes(heads, sessions.once, sessions, clock)
    replays = Replays(objects, heads, sessions, executor, runtimes, systems, rules, turns)
    tags = Tags(heads, turns, clock)
    reading = Reading(objects, heads, tags)
    exchange = Exchange(objects, heads, turns, tags, folder, clock, sessions.refuse_more)
    return Services(
        sessions, lifetimes, steps, changes, replays, reading, tags, exchange, objects, heads, runtimes, memo
    )
