"""The bubblewrap sandbox: namespaces, seccomp and limits through bwrap, started by the launcher. Portable and unprivileged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from executors import egress
from executors.child import ARGUMENTS_DESCRIPTOR, FILTER_DESCRIPTOR, GATE
from executors.launched import Confiner, LaunchedSandbox, comes_with_etc, is_reachable, staged
from executors.paths import SCRATCH, WORK
from executors.profile import EMPTY, TOOLS, Profile, find_bubblewrap, in_view
from executors.sandboxes import Options, check_settings
from store.snapshot import Network


class BubblewrapSettings(msgspec.Struct, frozen=True):
    """`workspace`: overlay where it works, copy where it does not ("auto"), or one of them by force.

    `probe_parent` is a folder of the file system that workspaces will lie on: whether overlays work is tried there.
    """

    bwrap: str
    libraries: tuple[str, ...]
    probe_parent: Path
    workspace: Literal["auto", "overlay", "copy"] = "auto"
    egress: dict[str, str] = {}
    """The settings among `egress.SETTINGS`."""


async def start(profile: Profile, options: Options) -> BubblewrapSandbox:
    """`StartSandbox`. The setting `program` is the bwrap to use; others are `egress.SETTINGS`. Raises SandboxUnavailable."""
    check_settings("bubblewrap", options, ("program", *egress.SETTINGS))
    bwrap, libraries = find_bubblewrap(options.settings.get("program"))
    settings = BubblewrapSettings(bwrap, libraries, options.probe_parent, options.workspace, options.settings)
    return await BubblewrapSandbox.start(profile, settings)


class BubblewrapSandbox(LaunchedSandbox):
    """`Sandbox` whose walls bwrap puts up. Made by `start`."""

    @classmethod
    async def start(cls, profile: Profile, settings: BubblewrapSettings) -> BubblewrapSandbox:
        """As `launch`. Raises SandboxUnavailable."""
        command = ("bwrap", "--args", str(ARGUMENTS_DESCRIPTOR), "--", "/bin/sh", "-c", GATE, "sh")
        confiner = Confiner("bubblewrap", settings.bwrap, settings.libraries, command, _arguments)
        return await cls.launch(profile, confiner, Options(settings.probe_parent, settings.workspace, settings.egress))


def _arguments(profile: Profile, stage: str, cell: str, network: Network) -> list[str]:
    """The profile in bwrap's terms, for one cell."""
    arguments = (
        "--unshare-user --unshare-ipc --unshare-pid --unshare-uts --unshare-cgroup --disable-userns"
        " --uid 1000 --gid 1000 --die-with-parent --new-session --cap-drop ALL --clearenv"
        f" --hostname {profile.hostname}"
    ).split()
    if network != "none":
        arguments.append("--unshare-net")
    if profile.filter_program is not None:
        arguments += ["--seccomp", str(FILTER_DESCRIPTOR)]
    arguments += [*_system(profile, stage, cell), *_places(profile, stage, cell)]
    for key, value in profile.environment:
        arguments += ["--setenv", key, value]
    return arguments


def _system(profile: Profile, stage: str, cell: str) -> list[str]:
    """What every cell sees alike, read-only."""
    arguments: list[str] = []
    for path in profile.system:
        arguments += ["--ro-bind", in_view(profile, stage, cell, path), path]
    for target, path in profile.links:
        arguments += ["--symlink", target, path]
    for source, target in profile.binds:
        if is_reachable(source) and not comes_with_etc(source, target):
            arguments += ["--ro-bind", in_view(profile, stage, cell, source), target]
    # As a whole: for each path that it binds bwrap reads the table of mounts, which grows by each.
    arguments += ["--ro-bind", f"{stage}/root/etc", "/etc"]
    arguments += ["--ro-bind", f"{stage}/root{TOOLS}/bin", f"{TOOLS}/bin"]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(profile.shared_memory_bytes), "--tmpfs", "/dev/shm"]
    for path in profile.masked:
        arguments += ["--ro-bind", f"{stage}/root{EMPTY}", path]
    # /proc/sys holds settings that belong to the run's own namespaces and would be the program's to change.
    return [*arguments, "--remount-ro", "/proc", "--remount-ro", "/dev", "--dir", "/run"]


def _places(profile: Profile, stage: str, cell: str) -> list[str]:
    """Scratch and the work directory of one cell, and what is shown from private folders of the host."""
    arguments: list[str] = []
    for path, folder in SCRATCH.items():
        arguments += ["--bind", f"{stage}/{cell}/scratch/{folder.decode()}", path]
    for source, target in profile.binds:
        # After scratch: what is shown may lie below /mnt or /tmp, and must not be hidden by it.
        if not is_reachable(source) and not comes_with_etc(source, target):
            arguments += ["--ro-bind", f"{stage}/{staged(target)}", target]
    return [*arguments, "--bind", f"{stage}/{cell}/work", WORK, "--chdir", WORK, "--remount-ro", "/"]
