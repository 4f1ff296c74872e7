"""`psf doctor`: which sandboxes work here and what each guarantees, found by starting each and trying to get past it.

Each is examined in a forked child, so that one that crashes or hangs costs nobody else; nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import psf
from executors import doctor, guarantees, kernel, sandboxes
from executors import profile as profiles
from executors.errors import ExecutorError, OptionRefused
from executors.profile import Profile
from psf import app
from psf.config import Settings
from psf.errors import ConfigurationError

WORKS_WITH_LACKS, NOTHING_WORKS = 3, 4
"""Exit statuses beside 0, which says that the sandbox which would be used gives every guarantee."""
PATIENCE_S = 60.0
_REPORT_BYTES_MAX = 1 << 20


class Finding(msgspec.Struct, frozen=True):
    """What is known of one sandbox. `reason` says why it does not work here; `refused`: for what the configuration tells it.

    `missing` is what it says it cannot give, `failed` what it says it gives although a trial got past it; name -> why.
    """

    name: str
    distribution: str
    works: bool
    reason: str = ""
    refused: bool = False
    enforced: dict[str, str] = {}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}

    def lacks(self) -> dict[str, str]:
        return {name: reason for name, reason in (self.missing | self.failed).items() if name in guarantees.NAMES}


class Machine(msgspec.Struct, frozen=True):
    """What of this machine decides what can be had."""

    kernel: str
    architecture: str
    root: bool
    user_namespaces: bool


class Report(msgspec.Struct, frozen=True):
    """All of it. `executor` is the setting, `chosen` the sandbox that a server would use, `status` the exit status."""

    version: str
    machine: Machine
    executor: str
    chosen: str | None
    status: int
    sandboxes: tuple[Finding, ...]


def run(settings: Settings, offers: dict[str, sandboxes.Offer] | None = None, patience_s: float = PATIENCE_S) -> Report:
    """Examine every sandbox that is installed, or those of `offers`, for at most so many seconds. Raises ConfigurationError."""
    machine = Machine(platform.release(), platform.machine(), os.geteuid() == 0, _in_child(_enters_user_namespace))
    offers = sandboxes.find() if offers is None else offers
    app.check_options(settings, offers)
    names = [name for name in sandboxes.ORDER if name in offers]
    names += sorted(set(offers) - set(names))
    try:
        folder = Path(tempfile.mkdtemp(prefix="psf-doctor-", dir=_beside(Path(settings.store))))
    except OSError as error:
        raise ConfigurationError(
            f"store: no folder can be made where {settings.store} is: {error.strerror}; choose another"
        ) from None
    children: dict[str, tuple[int, int]] = {}
    found: list[Finding] = []
    try:
        for number, name in enumerate(names):
            children[name] = _begin(offers[name], settings, folder / str(number))
        deadline_s = time.monotonic() + patience_s
        for name in names:
            found.append(_end(offers[name], *children[name], deadline_s))
            del children[name]
    finally:
        for pid, _ in children.values():  # whoever interrupts us does not reach them
            _kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
    findings = tuple(found)
    chosen = choose(settings.executor, findings)
    return Report(psf.__version__, machine, settings.executor, chosen, status(chosen, findings), findings)


def choose(wanted: str, findings: tuple[Finding, ...]) -> str | None:
    """The sandbox that a server with this setting would use, if there is one. Pure."""
    candidates = sandboxes.ORDER if wanted == sandboxes.AUTO else (wanted,)
    decisive = {finding.name: finding for finding in findings if finding.works or finding.refused}
    first = next((decisive[name] for name in candidates if name in decisive), None)
    return first.name if first is not None and first.works else None


def status(chosen: str | None, findings: tuple[Finding, ...]) -> int:
    """The exit status. Pure."""
    if chosen is None:
        return NOTHING_WORKS
    (finding,) = (finding for finding in findings if finding.name == chosen)
    return WORKS_WITH_LACKS if set(finding.lacks()) & set(guarantees.GUARANTEES) else 0


# -- in a child of its own ---------------------------------------------------------------------------------------------


def _begin(offer: sandboxes.Offer, settings: Settings, folder: Path) -> tuple[int, int]:
    """Start examining; the child's pid and the descriptor that its finding comes from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        os.setpgid(0, 0)
        _silence()
        os.write(writing, msgspec.json.encode(_examined(offer, settings, folder)))
    except BaseException:  # noqa: BLE001 - the child must not go on as a second psf
        os._exit(1)
    os._exit(0)


def _end(offer: sandboxes.Offer, pid: int, reading: int, deadline_s: float) -> Finding:
    """Wait for a child and its finding."""
    data = b""
    while len(data) < _REPORT_BYTES_MAX:
        if not select.select([reading], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            break
        piece = os.read(reading, 1 << 16)
        if not piece:
            break
        data += piece
    os.close(reading)
    try:
        finding = msgspec.json.decode(data, type=Finding)
        os.waitpid(pid, 0)
    except msgspec.DecodeError:
        _kill(pid)
        late = time.monotonic() >= deadline_s
        reason = "did not come to an end and was given up" if late else "crashed while it was tried"
        return Finding(offer.name, offer.distribution, works=False, reason=reason)
    return finding


def _kill(pid: int) -> None:
    """Kill a child and what it started in its group."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _silence() -> None:
    """What is to be said goes into the finding."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    logging.disable()


def _examined(offer: sandboxes.Offer, settings: Settings, folder: Path) -> Finding:
    folder.mkdir()
    try:
        return asyncio.run(_examine(offer, settings, folder))
    except ExecutorError as error:
        refused = isinstance(error, OptionRefused)
        return Finding(offer.name, offer.distribution, works=False, reason=str(error), refused=refused)
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told
        reason = f"broke while it was tried: {type(error).__name__}: {error}"
        return Finding(offer.name, offer.distribution, works=False, reason=reason)


async def _examine(offer: sandboxes.Offer, settings: Settings, folder: Path) -> Finding:
    profile = _profile(settings)
    sandbox = await sandboxes.start_one(offer, profile, app.sandbox_options(settings, folder)(offer.name))
    try:
        trial = folder / "trial"
        trial.mkdir()
        tried = await doctor.examine(sandbox, trial, profile.user if profile.privileged else None)
        capabilities = sandbox.capabilities
    finally:
        await sandbox.close()
    missing = guarantees.lacks(capabilities)
    failed = {name: fault for name, fault in tried.items() if fault is not None and name not in missing}
    return Finding(offer.name, offer.distribution, works=True, enforced=capabilities.enforced, missing=missing, failed=failed)  # fmt: skip


def _profile(settings: Settings) -> Profile:
    return profiles.build(
        interpreter=settings.interpreter, uid=settings.sandbox_uid, read_only_paths=settings.read_only_paths
    )


def _beside(store: Path) -> Path | None:
    """A folder on the file system that the store is or will be on, outside of it; None: wherever temporary folders are."""
    folder = store.parent
    while not folder.is_dir():
        folder = folder.parent
    return folder if os.access(folder, os.W_OK) else None


def _in_child(act: Callable[[], None]) -> bool:
    """Whether a forked child can do something."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _enters_user_namespace() -> None:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)


# -- telling -----------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> str:
    """The report for programs; each lack with what to do about it."""
    facts = msgspec.to_builtins(report)
    for finding in facts["sandboxes"]:
        finding["remedies"] = {name: advice for name in (*finding["missing"], *finding["failed"]) if (advice := remedy(name, report.machine, finding["name"]))}  # fmt: skip
    return json.dumps(facts, indent=2)


_OVERLAYS = "put the store on a file system that overlays can be mounted on, such as ext4, xfs, btrfs or tmpfs"
_REMEDIES = {
    "workspace": _OVERLAYS,
    "paths": _OVERLAYS,
    "rename": "run psf as root; programs still run as nobody",
    "exit_status": "use Linux 6.15 or newer",
    "egress": "install the Debian packages slirp4netns and nftables, and let /dev/net/tun be opened by all (mode 666)",
    "deterministic": "let psf call personality (for a container: --security-opt seccomp=unconfined)",
    "system_calls": "use a machine of x86_64 or aarch64",
}
_NOT_ENTERED = ("exit_status", "user_id", "scratch")
"""What Docker lacks where containers are not entered, whatever else the machine has."""


def remedy(name: str, machine: Machine, sandbox: str) -> str:
    """What to install or set to get a guarantee of a sandbox; empty when there is nothing. Pure."""
    if sandbox == "docker" and name == "paths":
        return "use bubblewrap or nsjail (`executor`); Docker cannot hide it"
    if sandbox == "docker" and (
        name in _NOT_ENTERED or (name in ("egress", "workspace", "deterministic") and not machine.root)
    ):
        return "run psf as root and name no `docker.runtime`, or use bubblewrap (`executor`)"
    if name in ("memory", "cpus"):
        if machine.root:
            return "mount /sys/fs/cgroup writable, with the controllers memory, pids and cpu (for a container: --cgroupns=private and a writable /sys/fs/cgroup)"  # fmt: skip
        return "delegate a control group: in the systemd unit Delegate=yes, or start with `systemd-run --user --scope -p Delegate=yes psf serve`; or run as root"  # fmt: skip
    return _REMEDIES.get(name, "")


def advice_to_start(machine: Machine) -> str:
    """What to do when no sandbox starts for want of namespaces; empty when they can be had. Pure."""
    if machine.user_namespaces:
        return ""
    return (
        "allow user namespaces: sysctl user.max_user_namespaces=15000, and where they exist"
        " kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0;"
        " in a container also --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    )
