"""The processes that bring a program into a container and see it off. Forked by the launcher; standard library only.

The supervisor is born in the container's pid namespace and stays in the host's otherwise, and root's, where no program can
reach it. It forks the program and knows its exact status; orphans come to it. Then it kills all that is left but the
container's init, and goes when it has seen them dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

from executors import docker_kernel, docker_mounts, kernel
from executors.child import make_repeatable, raise_what_is_counted_together, restore_signals, set_limit

INSIDE_ID = 1000
UNCLEAN, NOT_STARTED = 3, 125
_SWEEP_PATIENCE_S = 5.0
_SWEEP_PAUSE_S = 0.0005
_LAST_PID = "/proc/sys/kernel/ns_last_pid"
PROGRAM_NUMBER, SUPERVISOR_NUMBER = 2, 30
_SHELL = ("/bin/sh", "-c", 'exec "$@"', "sh")


class Entry:
    """What the supervisor is told: the container's init, the descriptors, the program. All descriptors are its own."""

    def __init__(self, message: dict[str, Any], init_pidfd: int, user: tuple[int, int], filter_program: bytes) -> None:
        self.message, self.user, self.filter_program = message, user, filter_program
        self.init_pidfd = init_pidfd
        self.standard: list[int] = []
        self.gate = self.said = -1
        self.entrances: list[int] = []


def supervise(entry: Entry) -> NoReturn:
    """Start the program, wait for its end, clear out the container. Exits with UNCLEAN when something is left in it."""
    status = NOT_STARTED
    try:
        docker_kernel.die_with_parent()
        kernel.become_subreaper()
        choose_next_number(PROGRAM_NUMBER)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become_program(entry, theirs)
        _keep_only({2, ours.fileno(), entry.said})
        with contextlib.suppress(OSError):
            _give_identity(ours, entry.user)
        ended = {"status": _wait_for(pid), "ended_s": time.monotonic()}
        os.write(entry.said, json.dumps(ended).encode())
        status = _clear_out()
        choose_next_number(SUPERVISOR_NUMBER)
    except BaseException as error:  # noqa: BLE001 - the child must not go on as a second launcher
        os.write(2, f"psf: a supervisor failed: {error}\n".encode())
    finally:
        os._exit(status)


def choose_next_number(number: int) -> None:
    """The pid that the next process of our pid namespace gets: always the same, whatever ran there before."""
    Path(_LAST_PID).write_text(str(number - 1))


def _wait_for(pid: int) -> int:
    """The wait status of a child. Orphans come to us too, and are seen off meanwhile."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return status


def _clear_out() -> int:
    """Kill whatever lives in our pid namespace but its init and ourselves. 0 when all are seen dead."""
    deadline_s = time.monotonic() + _SWEEP_PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            # Atomic in the kernel: no fork escapes it.
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_SWEEP_PAUSE_S)
    return UNCLEAN


def _become_program(entry: Entry, link: socket.socket) -> NoReturn:
    """Groups, namespaces, identity, limits, filter; wait at the gate; exec."""
    message = entry.message
    try:
        own_pid = os.readlink("/proc/self")  # as the host counts, whose /proc this still is
        for entrance in entry.entrances:
            os.write(entrance, b"0")
        make_repeatable(message["turn"])
        kernel.enter(entry.init_pidfd, kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS)
        if message["egress"] is None:
            # Of its own: connections that have ended stand in a network namespace for a minute, and its counters for good.
            kernel.unshare(kernel.CLONE_NEWNET)
            if message["network"] != "none":
                docker_kernel.bring_loopback_up()
        else:
            kernel.unshare(kernel.CLONE_NEWNS)  # the container's other runs see other files
            kernel.make_mounts_private()
            docker_mounts.show_texts(message["texts"])
        # Of its own: what programs leave in an ipc namespace outlives them; and where a group lies tells how many ran before.
        kernel.unshare(kernel.CLONE_NEWIPC | kernel.CLONE_NEWCGROUP)
        for target, descriptor in enumerate(entry.standard):
            os.dup2(descriptor, target)
        _keep_only({0, 1, 2, entry.gate, link.fileno()})
        os.setsid()
        for name, pair in message["rlimits"].items():
            set_limit(name, *pair)
        raise_what_is_counted_together()
        _change_user(entry.user, link, own_pid)
        if message["egress"] is not None:
            # Of its own, and its user namespace's: who makes its way out is root in that one only.
            kernel.unshare(kernel.CLONE_NEWNET)
        # Counts this run alone only when it is set inside the user namespace.
        set_limit("NPROC", message["processes"], message["processes"])
        os.chdir(message["work_dir"])
        restore_signals()
        docker_kernel.drop_capabilities()
        if entry.filter_program:
            docker_kernel.filter_system_calls(entry.filter_program)
        docker_kernel.die_with_parent()
        with socket.socket(fileno=entry.gate) as gate:
            gate.send(b"\n")
            if not gate.recv(1):
                os._exit(NOT_STARTED)
        _keep_only({0, 1, 2})
        os.execve(_SHELL[0], [*_SHELL, *message["argv"]], dict(message["environment"]))
    except BaseException as error:  # noqa: BLE001 - the child must not go on as a second launcher
        os.write(2, f"psf: the program could not be brought into the container: {error}".encode())
    finally:
        os._exit(NOT_STARTED)


def _change_user(user: tuple[int, int], link: socket.socket, own_pid: str) -> None:
    """From root to psf's own user, seen inside as 1000, in a user namespace that nothing but this run is in."""
    os.setgroups([])
    os.setresgid(user[1], user[1], user[1])
    os.setresuid(user[0], user[0], user[0])
    kernel.unshare(kernel.CLONE_NEWUSER)
    link.send(own_pid.encode())
    if not link.recv(1):
        raise OSError("the user namespace got no identity")


def _give_identity(link: socket.socket, user: tuple[int, int]) -> None:
    """Say who is who in the program's user namespace: only we, who are root, may."""
    pid = link.recv(16).decode()
    if not pid:
        return
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_ID} {user[0]} 1"),
        ("gid_map", f"{INSIDE_ID} {user[1]} 1"),
    ):
        Path(f"/proc/{pid}/{name}").write_text(text)
    link.send(b"\n")


def _keep_only(wanted: set[int]) -> None:
    first = 0
    for descriptor in [*sorted(wanted), 1 << 16]:
        if first < descriptor:  # an empty range would close them all
            os.closerange(first, descriptor)
        first = descriptor + 1
