"""A Docker daemon of the tests' own, in a folder of its own, seen by nobody else and gone without a trace.

It runs in a mount namespace of its own: whatever it mounts goes with it, and nothing is ever deleted through a mount point.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.dockerd import image

_START_PATIENCE_S = 30.0
_STOP_PATIENCE_S = 20.0
_LENT = "PSF_TEST_DOCKER_FOLDER"
OTHER_RUNTIMES = ("crun",)
_ONE_HIERARCHY = (
    "sh", "-c", '! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; exec "$@"', "sh",
)  # fmt: skip
"""crun refuses a machine that shows control groups of both versions; the daemon need not see the second."""
_DRIVERS = ("overlay2", "fuse-overlayfs", "vfs")


class TestDaemon:
    """`url` is where it listens. `stop` and `start` it as often as wanted. `options` are dockerd's, beside ours."""

    __test__ = False

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder, self._options = folder, options
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._driver = ""

    def start(self) -> None:
        for driver in [self._driver] if self._driver else _DRIVERS:
            if self._start(driver):
                self._driver = driver
                return
        raise RuntimeError((self._folder / "log").read_text()[-4000:])

    def _start(self, driver: str) -> bool:
        command = [
            "setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "slave", *_ONE_HIERARCHY, "dockerd", "--data-root", f"{self._folder}/data", "--exec-root",
            f"{self._folder}/exec", "--pidfile", f"{self._folder}/pid", "-H", self.url, "--bridge", "none", "--iptables=false",
            "--ip6tables=false", "--storage-driver", driver, "--shutdown-timeout", "5",
            *self._options,
            *(f"--add-runtime={name}={path}" for name in OTHER_RUNTIMES if (path := shutil.which(name))),
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline_s = time.monotonic() + _START_PATIENCE_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            if self.answers():
                return True
            time.sleep(0.05)
        self.stop()
        return False

    def lent_to(self, group: int) -> dict[str, str]:
        """Let members of a group use it. Gives the variable by which their tests find it."""
        self._folder.chmod(0o711)
        os.chown(self._folder / "docker.sock", 0, group)
        return {_LENT: str(self._folder)}

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.url.removeprefix("unix://"))
            except OSError:
                return False
        with_client(self.url, lambda client: client.ping())
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and its containerd with it, by their pids."""
        if self._process is None:
            return
        containerd = _pid_in(self._folder / "exec" / "containerd" / "containerd.pid")
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for pid in [*_shims(str(self._folder)), *([containerd] if containerd else [])]:
            _kill(pid, f"{self._folder}")


def with_client(url: str, act):
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    try:
        return act(client)
    finally:
        client.close()


def missing() -> str | None:
    """Why no daemon can be had here, or None."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    return None if shutil.which("dockerd") else "dockerd is not installed"


@contextmanager
def running(options: Sequence[str] = ()) -> Iterator[TestDaemon]:
    """A daemon with the image of `image` in it. Skips where there is none to be had.

    Tests that run as somebody else are lent one that runs (`lent_to`).
    """
    if lent := os.environ.get(_LENT):
        yield TestDaemon(Path(lent))
        return
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    # A short name: names of sockets below it have 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="psf-dockerd-", dir="/var/tmp"))
    daemon = TestDaemon(folder, options)
    try:
        daemon.start()
        image.write(folder / "image.tar")
        with_client(daemon.url, lambda client: client.import_image(str(folder / "image.tar"), *image.NAME.split(":")))
        yield daemon
    finally:
        daemon.stop()
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove the daemon's folder, once nothing is mounted below it here."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [path for path in mounted if path.startswith(f"{folder}/")]
    for path in reversed(below):
        subprocess.run(["umount", path], check=True)
    shutil.rmtree(folder)


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _shims(folder: str) -> list[int]:
    """Processes between containerd and a container that outlive both."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if folder in _command(pid) and "containerd-shim" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int, folder: str) -> None:
    """End a process that is the daemon's, and see it gone."""
    deadline_s = time.monotonic() + _STOP_PATIENCE_S
    while folder in _command(pid) and time.monotonic() < deadline_s:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
