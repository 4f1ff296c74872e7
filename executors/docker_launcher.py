"""The launcher that works in containers: mounts workspaces into running ones and brings programs into them.

Docker makes a container and keeps its init; from then on this process enters it directly (docs/adr/0011). The protocol is the launcher's (executors.launcher_process). Requests: `setup`; `adopt` and
`abandon` a container; `open` and `close` a cell, which is a container with a workspace; `run` and `kill` a job. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from executors import (
    cgroups,
    child,
    docker_child,
    docker_groups,
    docker_kernel,
    docker_mounts,
    kernel,
    launcher_process,
    watching,
)
from executors.running import Job, Message

_FAILED = 1
_END_PATIENCE_S = 5.0
_NOT_VISIBLE = (
    "the container's init is not visible from here: psf must run on the daemon's own machine, and not in a container"
)
_OWN_KERNEL = (
    "what runs is not the container's init: its runtime keeps programs in a kernel of its own, which psf cannot enter; "
    "use a runtime such as runc"
)


class Container:
    """A running container, held by its init: its pid, a descriptor of it, and where groups for runs are made."""

    def __init__(self, pid: int, pidfd: int, groups: cgroups.Cgroups | None, outer: list[Path]) -> None:
        self.pid, self.pidfd, self.groups = pid, pidfd, groups
        self.outer = outer
        """Docker's own groups of it, in hierarchies that runs have no group in: they keep Docker's limits."""
        self.disk: watching.DiskWatch | None = None
        """What a cell's programs write, while there is a cell."""
        self.clean = True

    @property
    def alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0]

    def end(self) -> None:
        """Kill its init, and with it all that lives in it; the kernel tells of the init's end when all are dead."""
        self.clean = False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        select.select([self.pidfd], [], [], _END_PATIENCE_S)


class _ContainerJob(Job):
    """Killed by its program alone: the container lives on, and the supervisor clears it out."""

    def __init__(
        self, message: Message, group: cgroups.Group | None, container: Container, disk: watching.DiskWatch
    ) -> None:
        super().__init__(message, group, disk)
        self.container = container
        self.said = -1
        """Where the supervisor says how the program ended."""

    def close(self) -> None:
        super().close()
        if self.said >= 0:
            os.close(self.said)

    def kill_now(self) -> None:
        target = self.program_pidfd if self.program_pidfd >= 0 else self.outer_pidfd
        if target >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(target, signal.SIGKILL)


class ContainerLauncher(launcher_process.Launcher):
    def __init__(self, server: socket.socket) -> None:
        super().__init__(server)
        self._containers: dict[str, Container] = {}
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._texts: dict[str, str] = {}

    # -- setup and containers -----------------------------------------------------------------------------------------

    def _on_setup(self, message: Message, descriptors: list[int]) -> None:
        self._uid, self._gid = message["uid"], message["gid"]
        self._filter = os.pread(descriptors[0], 1 << 20, 0) if descriptors else b""
        self._texts = message["texts"]
        self._answer(message)

    def _on_adopt(self, message: Message, _: list[int]) -> None:
        """Take over a container that Docker has started, after making sure that the pid is its init's."""
        pid, identity = message["pid"], message["container"]
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise OSError(_NOT_VISIBLE) from None
        try:
            own = cgroups.groups_of(Path(f"/proc/{pid}/cgroup"))
            if not any(identity in path for path in own.values()):
                raise OSError(_NOT_VISIBLE)
            if Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1] != message["command"]:
                raise OSError(_OWN_KERNEL)
            groups, word = docker_groups.make_groups(own, pid)
            with self._births_in(pidfd):
                _in_child(lambda: docker_child.choose_next_number(docker_child.SUPERVISOR_NUMBER))
            self._in_mount_namespace(pidfd, self._prepare)
        except OSError:
            os.close(pidfd)
            raise
        outer = docker_groups.outer_groups(own, groups)
        self._containers[identity] = Container(pid, pidfd, groups, outer)
        self._answer(
            message,
            cgroup=word if groups else None,
            cgroup_missing=None if groups else word,
            cpus_missing=groups.cpus_missing if groups else word,
            label=docker_groups.label_of(pid),
            never_repeats=child.never_repeats(),
        )

    def _prepare(self) -> None:
        """In a container's mount namespace, once: our files in place of its, and nothing that programs need not see."""
        docker_mounts.show_texts(self._texts)
        docker_mounts.take_away()
        docker_kernel.guard_proc()

    def _on_abandon(self, message: Message, _: list[int]) -> None:
        container = self._containers.pop(message["container"], None)
        if container is not None:
            os.close(container.pidfd)
            if container.groups is not None:
                container.groups.close()
        self._answer(message)

    # -- cells --------------------------------------------------------------------------------------------------------

    def _on_open(self, message: Message, _: list[int]) -> None:
        container, scratch = self._containers[message["container"]], message["scratch"]
        with contextlib.ExitStack() as stack:

            def closed_here(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            work = closed_here(docker_mounts.work_mount(message["mount"]))
            sizes: list[tuple[str, str | None]] = [
                ("size", str(scratch["bytes"])),
                ("nr_inodes", str(scratch["inodes"])),
            ]
            room = closed_here(kernel.new_mount("tmpfs", [*sizes, ("mode", "0755")]))
            for name in scratch["folders"].values():
                os.mkdir(name, 0o755, dir_fd=room)
                os.chown(name, self._uid, self._gid, dir_fd=room)
            shared = [("size", str(message["shared_memory_bytes"])), ("mode", "1777")]
            memory = closed_here(kernel.new_mount("tmpfs", list(shared)))

            def attach() -> None:
                kernel.attach(work, message["work_dir"])
                kernel.attach(memory, "/dev/shm")
                docker_mounts.attach_scratch(room, scratch["folders"])

            self._in_mount_namespace(container.pidfd, attach)
            shown = watching.Shown((message["work_dir"],), os.fstat(work).st_dev)
            container.disk = watching.of_mount(message["mount"], message["before"], shown)
            descriptor = closed_here(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=room))
            self._answer(message, [descriptor])

    def _on_close(self, message: Message, _: list[int]) -> None:
        """Take the mounts out of a container again. When it is gone, they are too."""
        container = self._containers[message["container"]]
        folders = message["scratch"]["folders"]
        container.disk = None
        if not container.alive:
            self._answer(message, clean=False)
            return

        def detach() -> None:
            docker_mounts.unmount_all([*folders, docker_mounts.scratch_root(folders), "/dev/shm", message["work_dir"]])

        self._in_mount_namespace(container.pidfd, detach)
        self._answer(message, clean=container.clean)

    def _in_mount_namespace(self, pidfd: int, act: Callable[[], None]) -> None:
        """Do something in a container's mount namespace, by a child: nobody comes back from there."""

        def there() -> None:
            kernel.enter(pidfd, kernel.CLONE_NEWNS)
            act()

        _in_child(there)

    @contextlib.contextmanager
    def _births_in(self, pidfd: int) -> Iterator[None]:
        """Meanwhile our children are born in the pid namespace of another process."""
        kernel.enter(pidfd, kernel.CLONE_NEWPID)
        try:
            yield
        finally:
            kernel.enter(self._own_pids, kernel.CLONE_NEWPID)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _on_run(self, message: Message, descriptors: list[int]) -> None:
        container, group = self._containers.get(message["container"]), None
        if container is None or container.disk is None:
            raise OSError("the cell is closed")
        if container.groups is not None:
            group = container.groups.create(message["memory_bytes"], message["group_processes"], message["cpus"])
        job = _ContainerJob(message, group, container, container.disk)
        self._begin(
            job, descriptors, lambda: self._enter(job, message, descriptors), lambda: self._supervisor_ended(job)
        )

    def _enter(self, job: _ContainerJob, message: Message, descriptors: list[int]) -> None:
        container = job.container
        entry = docker_child.Entry(message, container.pidfd, (self._uid, self._gid), self._filter)
        with contextlib.ExitStack() as ours:
            job.gate, inner_gate = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.enter_context(inner_gate)
            job.gate.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            job.said, entry.said = os.pipe()
            ours.callback(os.close, entry.said)
            entry.gate, entry.standard = inner_gate.fileno(), descriptors[:3]
            for descriptor in docker_groups.entrances(container.outer, job.group):
                entry.entrances.append(descriptor)
                ours.callback(os.close, descriptor)
            with self._births_in(container.pidfd):
                job.outer_pid = os.fork()
                if job.outer_pid == 0:
                    docker_child.supervise(entry)

    def _supervisor_ended(self, job: _ContainerJob) -> None:
        """The supervisor is gone, after all that ran: the init of the container stays."""
        self._selector.unregister(job.outer_pidfd)
        _, job.outer_status = os.waitpid(job.outer_pid, 0)
        job.ended_s, job.deadline_s, job.look_s = time.monotonic(), None, None
        self._conclude(job)

    def _conclude(self, job: _ContainerJob) -> None:
        del self._jobs[job.identity]
        self._unwatch(job)
        said = json.loads(os.read(job.said, 4096) or b"{}")
        if job.outer_status != 0:
            job.container.end()
        facts: Message
        if job.fault is not None:
            facts = {"error": job.fault}
        elif job.started_s is not None and not said:
            facts = {"error": "the container was ended from outside while a program ran in it"}
        else:
            ended_s = said.get("ended_s", job.ended_s)
            facts = {
                "started": job.started_s is not None,
                "status": said.get("status", docker_child.NOT_STARTED << 8),
                "exact": True,
                "timed_out": job.timed_out,
                "overrun": job.overrun,
                "wall_time_s": ended_s - (job.started_s or ended_s),
                "disk_bytes": job.disk_bytes(),
                "usage": None,
            }
        if job.group is not None:
            facts["usage"] = job.group.usage()
            job.container.clean &= job.group.remove()
        job.close()
        self._answer({"id": job.identity}, **facts)


def _in_child(act: Callable[[], None]) -> None:
    """Do something in a child. Raises OSError with what went wrong there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = _FAILED
        try:
            act()
            status = 0
        except BaseException as error:  # noqa: BLE001 - the child must not go on as a second launcher
            os.write(writing, str(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode(errors="replace")
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise OSError(said or "a child in the container failed")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    ContainerLauncher(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
