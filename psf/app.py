"""The composition root: every `if settings...` lives here, and here alone it is decided what is made of what."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from executors import docker_container, sandboxes
from executors import profile as profiles
from executors.bounded import BoundedExecutor
from executors.errors import SandboxUnavailable
from executors.interfaces import Capabilities, Sandbox, System
from executors.local import LocalExecutor
from executors.paths import WORK
from executors.profile import Profile
from executors.systems import ManySystems, OneSystem, Site, Systems
from psf import audit, runtimes, tokens
from psf.api import server
from psf.api.keys import Policy
from psf.config import Settings, is_loopback
from psf.descriptors import raise_descriptor_limit
from psf.errors import CannotListen, ConfigurationError
from psf.limits import LimitRules, cut_settings, rules_of
from psf.memo import Memo
from psf.services import Services, TenantLimits, compose
from psf.sweeper import Sweeper
from psf.systems import DOCKER, SystemRules
from store.files import Files
from store.local import LocalStore
from store.workspace import IdleLimits, WorkspaceSettings

_log = logging.getLogger("psf")
STOP_PATIENCE_S = 30.0


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[str]:
    """A running server; gives its URL. When the context ends, running steps are finished first, for a while.

    Raises ConfigurationError, StoreUnusable, SandboxUnavailable, CannotListen.
    """
    async with build(settings) as application:
        runner = web.AppRunner(
            # aiohttp waits that long twice: for connections to end, and for each handler.
            application,
            handler_cancellation=True,
            shutdown_timeout=STOP_PATIENCE_S / 2,
            access_log=None,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port)
            await _listen(site, settings)
            port = runner.addresses[0][1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


async def _listen(site: web.TCPSite, settings: Settings) -> None:
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise CannotListen(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; --host and --port choose another address"
        ) from None


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[web.Application]:
    """The application with everything it stands on, and the sweeper beside it."""
    raise_descriptor_limit()
    known = tokens.load(Path(settings.tokens)) if settings.tokens is not None else None
    profile = profiles.build(
        interpreter=settings.interpreter, uid=settings.sandbox_uid, read_only_paths=settings.read_only_paths
    )
    files = Files()
    store = await asyncio.to_thread(_open_store, settings, profile, files)
    try:
        executor, capabilities, system_rules = await _local_executor(settings, store, files, profile)
        try:
            for cut in cut_settings(settings):
                _log.warning(cut)
            rules = rules_of(settings, capabilities)
            memo = Memo(store.root, store.objects, store.heads, settings.memo_audit_rate)
            services = _services(settings, store, executor, rules, profile, system_rules, memo)
            policy = _policy(settings, rules, system_rules)
            sweeper = asyncio.create_task(_sweeper(settings, store).run())
            try:
                with audit.kept_in(Path(settings.audit_log) if settings.audit_log is not None else None):
                    yield server.build(services, capabilities, policy, settings.body_bytes_max, known)
            finally:
                sweeper.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sweeper
                memo.close()
        finally:
            await executor.close()
    finally:
        store.close()


async def _local_executor(
    settings: Settings, store: LocalStore, files: Files, profile: Profile
) -> tuple[BoundedExecutor, Capabilities, SystemRules]:
    offers = sandboxes.find()
    check_options(settings, offers)
    options = sandbox_options(settings, store.root)
    choice = await sandboxes.start(settings.executor, profile, options, offers)
    sandbox = choice.sandbox
    _report(sandbox.capabilities, choice.passed_over, allow_egress=settings.allow_egress)
    owner = profile.user if profile.privileged else None
    try:
        workspaces = await asyncio.to_thread(
            store.workspaces,
            WorkspaceSettings(
                sandbox.capabilities.workspace,
                profile.privileged,
                owner,
                idle=IdleLimits(disk_bytes=settings.workspace_bytes_max),
            ),
        )
    except BaseException:
        await sandbox.close()
        raise
    systems, rules = _systems(settings, sandbox, profile, options, offers)
    local = LocalExecutor(systems, workspaces, store.objects, owner, files)
    return BoundedExecutor(local, settings.slots_here(), settings.queue_patience_s), sandbox.capabilities, rules


def _systems(
    settings: Settings,
    sandbox: Sandbox,
    profile: Profile,
    options: Callable[[str], sandboxes.Options],
    offers: dict[str, sandboxes.Offer],
) -> tuple[Systems, SystemRules]:
    """The systems that sessions may have, and what they may ask for."""
    name = sandbox.capabilities.sandbox
    if name != DOCKER:
        return OneSystem(Site(sandbox, WORK, sandboxes.system_identity(sandbox, profile))), SystemRules(name)
    own = docker_container.own_system(options(name).settings)

    async def start(system: System) -> Site:
        told = options(name)
        named = {**told.settings, "image": system.image, "work_dir": system.work_dir}
        another = msgspec.structs.replace(told, workspace=sandbox.capabilities.workspace, settings=named)
        started = await sandboxes.start_one(offers[name], profile, another)
        return Site(started, system.work_dir, sandboxes.system_identity(started, profile))

    site = Site(sandbox, own.work_dir, sandboxes.system_identity(sandbox, profile))
    return ManySystems(site, own, start), SystemRules(name, own, settings.docker_images)


def check_options(settings: Settings, offers: dict[str, sandboxes.Offer]) -> None:
    """Raises ConfigurationError when a sandbox is named, or told something, that is not installed."""
    if offers and settings.executor not in (sandboxes.AUTO, *offers):
        known = ", ".join(sorted(offers))
        raise ConfigurationError(
            f"executor: there is no sandbox {settings.executor!r}; there are {sandboxes.AUTO}, {known}"
        )
    for text in settings.sandbox_options:
        if (name := text.partition(".")[0]) not in offers:
            known = ", ".join(sorted(offers))
            raise ConfigurationError(f"sandbox_options: there is no sandbox {name!r}; there are {known}")


def sandbox_options(settings: Settings, folder: Path) -> Callable[[str], sandboxes.Options]:
    """What each sandbox is told, by its name; `folder` lies where workspaces will."""
    own: dict[str, dict[str, str]] = {}
    for name, program in (("bubblewrap", settings.bubblewrap), ("nsjail", settings.nsjail)):
        own[name] = {"program": program} if program else {}
    own[DOCKER] = _ceilings(settings)
    for text in settings.sandbox_options:
        option, _, value = text.partition("=")
        name, _, key = option.partition(".")
        own.setdefault(name, {})[key] = value
    return lambda name: sandboxes.Options(folder, settings.workspace, own.get(name, {}))


def _ceilings(settings: Settings) -> dict[str, str]:
    """What Docker is told of containers, so that no run's own limit lies above that of its container."""
    processes = settings.processes_max + docker_container.SPARE_PROCESSES
    return {
        "memory_bytes": str(max(docker_container.MEMORY_BYTES, settings.memory_bytes_max)),
        "processes": str(max(docker_container.PROCESSES, processes)),
    }


def _services(
    settings: Settings,
    store: LocalStore,
    executor: BoundedExecutor,
    rules: LimitRules,
    profile: Profile,
    systems: SystemRules,
    memo: Memo,
) -> Services:
    capabilities = rules.capabilities
    rows = runtimes.load(Path(settings.runtimes) if settings.runtimes else None)
    table = runtimes.Runtimes(rows, profile.interpreter, profile.pip_path)
    facts: dict[str, object] = {"sandbox": capabilities.sandbox, "enforced": capabilities.enforced}
    return compose(
        store.objects, store.heads, store.leases, executor, table,
        folder=store.root, systems=systems, rules=rules, run_facts=facts, clock=time.time, memo=memo,
        tenants=TenantLimits(settings.tenant_sessions_max, settings.tenant_steps_max),
    )  # fmt: skip


def _policy(settings: Settings, rules: LimitRules, systems: SystemRules) -> Policy:
    names = server.LOOPBACK_NAMES | {name.lower() for name in (*settings.allowed_hosts, settings.host)}
    allowed = names if is_loopback(settings.host) else None
    return Policy(rules, allowed, systems.own.work_dir)


def _sweeper(settings: Settings, store: LocalStore) -> Sweeper:
    # A step may compile and run, each as long as it may ask for.
    patience_s = 2 * settings.wall_time_s_max + STOP_PATIENCE_S
    return Sweeper(store, retention_s=settings.retention_s, gc_period_s=settings.gc_period_s, patience_s=patience_s)


def _report(capabilities: Capabilities, passed_over: dict[str, str], *, allow_egress: bool) -> None:
    """Said once, at start: which sandbox it is and why, what is enforced here and, loudly, what is not."""
    for name, reason in passed_over.items():
        _log.info("not used here: %s: %s", name, reason)
    _log.info("sandbox %s, workspaces by %s", capabilities.sandbox, capabilities.workspace)
    for lack in capabilities.missing:
        if lack.partition(":")[0] == "egress" and not allow_egress:
            continue  # nobody can ask for it
        _log.warning("not guaranteed here: %s", lack)


def _open_store(settings: Settings, profile: Profile, files: Files) -> LocalStore:
    root = Path(settings.store).absolute()
    _check_store_is_hidden(root, profile)
    return LocalStore(root, files, redis=settings.heads_in_redis())


def _check_store_is_hidden(store: Path, profile: Profile) -> None:
    """Refuse a store that programs could read."""
    visible = [*profile.system, *(source for source, _ in profile.binds)]
    for folder in visible:
        shown, hidden = Path(folder).resolve(), store.resolve()
        if hidden.is_relative_to(shown) or shown.is_relative_to(hidden):
            raise SandboxUnavailable(
                f"the store {store} and {folder}, which programs can read, overlap; choose another folder"
            )
