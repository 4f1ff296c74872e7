"""A little machine of a test's own, in a network namespace: with a way to a world that the test made, and to no other.

Everything in it goes with the last process that is in it. Needs root.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from executors import kernel
from tests.executors import outside

OWN, OWN_PRIVATE, OWN_SIXTH = "203.0.113.1", "10.77.0.1", "2001:db8::1"
_PATIENCE_S = 20.0
_SETTLING_S = 0.3


class World:
    """`port` is that of the machine's own service, which listens on all its addresses."""

    def __init__(self, door: socket.socket, process: subprocess.Popen[str]) -> None:
        self.port: int = door.getsockname()[1]
        self._door, self._lines = door, queue.Queue[str]()
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        assert self._lines.get(timeout=_PATIENCE_S) == "ready"

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line.strip())

    def came(self) -> set[str]:
        """Who came in since the last look: `tcp ADDRESS PORT` in the world outside, `own` to the machine's own service."""
        guests = set()
        try:
            while True:
                guests.add(self._lines.get(timeout=_SETTLING_S))
        except queue.Empty:
            pass
        try:
            while True:
                self._door.accept()[0].close()
                guests.add("own")
        except BlockingIOError:
            return guests


@contextmanager
def machine() -> Iterator[World]:
    """Meanwhile this thread, and what it starts, is on a machine of its own."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, before)
        kernel.unshare(kernel.CLONE_NEWNET)
        stack.callback(kernel.enter, before)
        program = str(Path(outside.__file__))
        process = stack.enter_context(
            subprocess.Popen(
                ["unshare", "--net", sys.executable, "-I", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )  # fmt: skip
        assert process.stdin is not None
        stack.callback(process.stdin.close)
        _wait_for_its_namespace(process.pid)
        for words in (
            "link set lo up", f"link add inside type veth peer name outside netns {process.pid}", f"addr add {OWN}/24 dev inside",
            f"addr add {OWN_PRIVATE}/24 dev inside", f"addr add {OWN_SIXTH}/64 dev inside nodad", "link set inside up",
            f"route add default via {outside.HERE}", f"-6 route add default via {outside.SIXTH}",
        ):  # fmt: skip
            subprocess.run(["ip", *words.split()], check=True)
        process.stdin.write("\n")
        process.stdin.flush()
        door = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
        door.setblocking(False)
        yield World(door, process)


def _wait_for_its_namespace(pid: int) -> None:
    own = os.readlink("/proc/thread-self/ns/net")
    for _ in range(2000):
        if os.readlink(f"/proc/{pid}/ns/net") != own:
            return
        threading.Event().wait(0.005)
    raise TimeoutError("the world outside did not come up")
