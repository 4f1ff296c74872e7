"""The launcher: a small process that mounts workspaces and starts sandboxes, so that the server need do neither.

It lives in mount namespaces of its own (as a plain user, in a user namespace too), so nothing it mounts is seen by the host and
nothing is left when it ends. It ends when its socket closes, that is when the server ends, however that ends; what it
started ends with it (child.py asks the kernel to).

Protocol: JSON datagrams on a SOCK_SEQPACKET socket, descriptors beside them. Requests: `setup` (first), `open` and `close` a cell,
`run` and `kill` a job. Every request but `kill` gets one answer with its `id`; a job's answer comes when all its processes are dead, and before it, of a job that is
`watched`, a word that its program has begun.

A job starts behind a gate: a shell inside the sandbox sets the process limit (which counts per namespace only when set inside),
says who it is (the kernel adds its pid to the message), waits, and becomes the program. So the launcher holds a pidfd of
the program before it runs, and can tell exit code 137 from death by signal 9, which confiners report alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executors import cgroups, child, connecting, kernel, stage, watching
from executors.running import Job, Message, parent

MESSAGE_BYTES_MAX = 1 << 18
DESCRIPTORS_MAX = 4
_CREDENTIALS = struct.Struct("3i")


class Launcher:
    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, Job] = {}
        self._disks: dict[str, watching.DiskWatch] = {}
        self._cgroups: cgroups.Cgroups | None = None
        self._stage = ""
        self._uid = self._gid = -1
        self._program, self._command, self._terminator = "", [""], b""
        self._filter = b""
        self._privileged = os.geteuid() == 0

    def serve(self) -> None:
        self._selector.register(self._server, selectors.EVENT_READ, None)
        try:
            while self._step():
                pass
        finally:
            for job in self._jobs.values():
                job.kill_now()
            if self._cgroups is not None:
                self._cgroups.close()

    def _step(self) -> bool:
        """Wait for one thing to happen and act on it; False when the server is gone."""
        for key, _ in self._selector.select(self._patience_s()):
            if self._selector.get_map().get(key.fd) is not key:
                continue  # nobody waits for it any more: what came before it in this round ended its job
            if key.data is None:
                if not self._receive():
                    return False
            else:
                key.data()
        now_s = time.monotonic()
        for job in self._jobs.values():
            if job.deadline_s is not None and job.deadline_s <= now_s:
                job.timed_out, job.deadline_s = True, None
                job.kill_now()
            if job.look_s is not None and job.look_s <= now_s:
                job.look()
        return True

    def _patience_s(self) -> float | None:
        moments = [
            moment for job in self._jobs.values() for moment in (job.deadline_s, job.look_s) if moment is not None
        ]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _receive(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._server, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
        if not data:
            return False
        message: Message = json.loads(data)
        try:
            getattr(self, f"_on_{message['op']}")(message, descriptors)
        except OSError as error:
            self._answer(message, error=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _answer(self, message: Message, descriptors: list[int] | None = None, **facts: Any) -> None:
        data = json.dumps({"id": message["id"], **facts}).encode()
        # When the server is gone, the next receive says so and ends us.
        with contextlib.suppress(OSError):
            socket.send_fds(self._server, [data], descriptors or [])

    # -- setup --------------------------------------------------------------------------------------------------------

    def _on_setup(self, message: Message, descriptors: list[int]) -> None:
        self._uid, self._gid = message["uid"], message["gid"]
        # Before the namespaces: groups are made with the rights that we have outside.
        self._cgroups, cgroup_word = cgroups.find()
        self._filter = os.pread(descriptors[0], 1 << 20, 0) if descriptors else b""
        stage.enter_namespaces(self._privileged)
        self._stage = stage.mount_stage()
        self._views = stage.Views(self._stage, message["system"])
        self._program = stage.copy_program(self._stage, message["program"], message["libraries"])
        self._command, self._terminator = message["command"], message["terminator"].encode()
        if message["litters"] is not None:
            stage.cover(message["litters"], self._uid, self._gid)
        for name, text in message["texts"].items():
            stage.write_text(self._stage, name, text)
        for name, source in message["binds"].items():
            stage.show(self._stage, name, source)
        self._answer(
            message,
            stage=self._stage,
            overlay=self._try_overlay(message["probe_folder"]),
            cgroup=cgroup_word if self._cgroups else None,
            cgroup_missing=None if self._cgroups else cgroup_word,
            cpus_missing=self._cgroups.cpus_missing if self._cgroups else cgroup_word,
            exact_status=kernel.tells_exit_status(),
            never_repeats=child.never_repeats(),
        )

    def _try_overlay(self, folder: str) -> str | None:
        """Mount an overlay where workspaces will be; None when that works, else why not."""
        target = f"{self._stage}/probe"
        mount = {"folder": folder, "lowers": ["probe-lower"], "upper": "probe-upper", "work": "probe-work"}
        try:
            for name in (target, *(f"{folder}/probe-{name}" for name in ("lower", "upper", "work"))):
                os.mkdir(name)
            try:
                stage.mount_overlay(mount, target, privileged=self._privileged)
                kernel.unmount(target)
            finally:
                os.rmdir(target)
        except OSError as error:
            return str(error)
        return None

    # -- cells --------------------------------------------------------------------------------------------------------

    def _on_open(self, message: Message, _: list[int]) -> None:
        cell, mount, scratch = f"{self._stage}/{message['cell']}", message["mount"], message["scratch"]
        os.mkdir(cell)
        for name in ("work", "scratch"):
            os.mkdir(f"{cell}/{name}")
        self._views.lend(cell)
        try:
            if "lowers" in mount:
                stage.mount_overlay(mount, f"{cell}/work", privileged=self._privileged)
            else:
                kernel.bind(mount["folder"], f"{cell}/work")
            shown = watching.Shown(device=os.stat(f"{cell}/work").st_dev)
            disk = watching.of_mount(mount, message["before"], shown)
            sizes: list[tuple[str, str | None]] = [
                ("size", str(scratch["bytes"])),
                ("nr_inodes", str(scratch["inodes"])),
            ]
            kernel.mount("tmpfs", f"{cell}/scratch", [*sizes, ("mode", "0755")])
            for name in scratch["folders"]:
                os.mkdir(f"{cell}/scratch/{name}", 0o755)
                os.chown(f"{cell}/scratch/{name}", self._uid, self._gid)
        except OSError:
            self._clear(cell)
            raise
        self._disks[message["cell"]] = disk
        descriptor = os.open(f"{cell}/scratch", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._answer(message, [descriptor])
        os.close(descriptor)

    def _on_close(self, message: Message, _: list[int]) -> None:
        self._disks.pop(message["cell"], None)
        busy = self._clear(f"{self._stage}/{message['cell']}")
        if busy:
            self._answer(message, error=f"still in use: {busy}")
        else:
            self._answer(message)

    def _clear(self, cell: str) -> str:
        """Unmount and remove a cell's folders; returns what could only be detached."""
        busy = ""
        for name in ("work", "scratch"):
            target = f"{cell}/{name}"
            if os.path.ismount(target):
                try:
                    kernel.unmount(target)
                except OSError:
                    kernel.unmount(target, detach=True)
                    busy += name
            os.rmdir(target)
        self._views.take_back(cell)
        os.rmdir(cell)
        return busy

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _on_run(self, message: Message, descriptors: list[int]) -> None:
        disk, group = self._disks.get(message["cell"]), None
        if disk is None:
            raise OSError("the cell is closed")
        if self._cgroups is not None:
            group = self._cgroups.create(message["memory_bytes"], message["group_processes"], message["cpus"])
        job = Job(message, group, disk)
        self._begin(job, descriptors, lambda: self._fork(job, message, descriptors), lambda: self._outer_ended(job))

    def _begin(self, job: Job, descriptors: list[int], fork: Callable[[], None], ended: Callable[[], None]) -> None:
        """Start what brings a program to the gate, and wait for both; `descriptors` are the program's streams."""
        try:
            if self._privileged:
                # Who may not open a pipe cannot write to /dev/stdout by that name.
                for stream in descriptors[:3]:
                    os.fchown(stream, self._uid, self._gid)
            fork()
            job.outer_pidfd = os.pidfd_open(job.outer_pid)
        except OSError:
            job.give_up()
            raise
        self._jobs[job.identity] = job
        assert job.gate is not None
        self._watch(job.gate.fileno(), lambda: self._release(job))
        self._watch(job.outer_pidfd, ended)

    def _fork(self, job: Job, message: Message, descriptors: list[int]) -> None:
        with contextlib.ExitStack() as ours:

            def closed_here(descriptor: int) -> int:
                ours.callback(os.close, descriptor)
                return descriptor

            job.gate, inner_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.enter_context(inner_gate)
            job.gate.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            arguments = b"".join(argument.encode() + self._terminator for argument in message["arguments"])
            inner = [
                *descriptors[:3],
                inner_gate.fileno(),
                closed_here(child.memory_file(arguments)),
                closed_here(child.memory_file(self._filter)),
            ]
            entrances = [closed_here(entrance) for entrance in job.group.open_entrances()] if job.group else []
            launcher = os.getpid()
            job.outer_pid = os.fork()
            if job.outer_pid == 0:
                user = (self._uid, self._gid) if self._privileged else None
                child.become_confiner(launcher, self._program, self._command, user, message, inner, entrances)

    def _release(self, job: Job) -> None:
        """The program stands at the gate: note who it is and let it go. Or it never came, and the gate is closed."""
        gate = self._unwatch_gate(job)
        try:
            _, ancillary, _, _ = gate.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
            pid = _CREDENTIALS.unpack(ancillary[0][2][: _CREDENTIALS.size])[0] if ancillary else 0
            if not pid:
                gate.close()
                return
            job.program_pid, job.program_pidfd = pid, os.pidfd_open(pid)
            job.init_pid = parent(pid)
            job.init_pidfd = os.pidfd_open(job.init_pid)
            with child.really((self._uid, self._gid)) if self._privileged else contextlib.nullcontext():
                child.limit_what_is_counted_together(pid)
        except (OSError, ValueError):
            job.doomed = True
        if job.egress is None or job.doomed:
            self._let_go(job, gate)
        else:
            self._connect(job, gate, pid)

    def _connect(self, job: Job, gate: socket.socket, pid: int) -> None:
        """Give the program its way out of the machine, and then let it go."""
        user = (self._uid, self._gid) if self._privileged else None
        assert job.egress is not None
        try:
            connection = connecting.connect(pid, job.egress, user, job.cpu_time_s)
        except OSError as error:
            job.fault, job.doomed = str(error), True
            self._let_go(job, gate)
            return
        connection.gate, job.connection = gate, connection
        self._watch(connection.ready, lambda: self._connected(job))

    def _connected(self, job: Job) -> None:
        gate = self._unwatch_connection(job)
        assert gate is not None
        assert job.connection is not None
        job.fault = job.connection.fault()
        job.doomed |= job.fault is not None
        self._let_go(job, gate)

    def _let_go(self, job: Job, gate: socket.socket) -> None:
        with gate:
            try:
                if not job.doomed:
                    gate.send(b"\n")
            except OSError:
                job.doomed = True
        if job.doomed:
            job.kill_now()
            return
        job.started_s = time.monotonic()
        job.deadline_s, job.look_s = job.started_s + job.wall_time_s, job.started_s + watching.PAUSE_S
        if job.watched:
            self._answer({"id": job.identity}, began=True)

    def _unwatch_gate(self, job: Job) -> socket.socket:
        assert job.gate is not None
        gate, job.gate = job.gate, None
        self._selector.unregister(gate.fileno())
        return gate

    def _unwatch(self, job: Job) -> None:
        """Wait no more for a job that is over before it began."""
        gate = self._unwatch_gate(job) if job.gate is not None else self._unwatch_connection(job)
        if gate is not None:
            gate.close()

    def _unwatch_connection(self, job: Job) -> socket.socket | None:
        """Wait no more for a way out; returns the gate that its program stands at, if it does."""
        if job.connection is None or job.connection.gate is None:
            return None
        self._selector.unregister(job.connection.ready)
        gate, job.connection.gate = job.connection.gate, None
        return gate

    def _outer_ended(self, job: Job) -> None:
        """The confiner is gone; its pid 1 inside is about to be, and takes every process of the run with it."""
        self._selector.unregister(job.outer_pidfd)
        self._unwatch(job)
        _, job.outer_status = os.waitpid(job.outer_pid, 0)
        job.ended_s, job.deadline_s, job.look_s = time.monotonic(), None, None
        if job.init_pidfd < 0:
            job.adopt_orphan(set().union(*(other.pids() for other in self._jobs.values())))
        if job.init_pidfd < 0:
            self._finish(job)
        else:
            self._watch(job.init_pidfd, lambda: self._init_ended(job))

    def _init_ended(self, job: Job) -> None:
        self._selector.unregister(job.init_pidfd)
        # Orphaned, it is ours to reap: not every host's pid 1 does. When it died first, the confiner has reaped it.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, job.init_pidfd, os.WEXITED)
        self._finish(job)

    def _finish(self, job: Job) -> None:
        del self._jobs[job.identity]
        exact = kernel.exit_status(job.program_pidfd) if job.program_pidfd >= 0 else None
        facts: Message = {
            "started": job.started_s is not None,
            "status": exact if exact is not None else job.outer_status,
            "exact": exact is not None,
            "timed_out": job.timed_out,
            "overrun": job.overrun,
            "wall_time_s": job.ended_s - (job.started_s or job.ended_s),
            "disk_bytes": job.disk_bytes(),
            "usage": None,
        }
        if job.group is not None:
            facts["usage"] = job.group.usage()
            job.group.remove()
        if job.fault is not None:
            facts["error"] = job.fault
        job.close()
        self._answer({"id": job.identity}, **facts)

    def _on_kill(self, message: Message, _: list[int]) -> None:
        job = self._jobs.get(message["id"])
        if job is not None:
            job.kill()

    def _watch(self, descriptor: int, act: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, act)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    kernel.become_subreaper()
    Launcher(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
