"""The world outside of a test's own little machine. Started by `world`, in a network namespace of its own; standard library only.

Told on stdin when its interface is there, it says `ready`, and then on stdout of every guest at which address and port it came in.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

HERE = "203.0.113.2"
WORLD, NEIGHBOUR, METADATA = "198.51.100.7", "10.77.0.2", "169.254.169.254"
SIXTH = "2001:db8::2"
NAME = "service.example"


def _serve_tcp(door: socket.socket) -> None:
    while True:
        guest, _ = door.accept()
        address, port = guest.getsockname()[:2]
        print("tcp", address.removeprefix("::ffff:"), port, flush=True)
        with guest:
            guest.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe world")


def _serve_udp(door: socket.socket) -> None:
    while True:
        question, guest = door.recvfrom(2048)
        print("udp", *door.getsockname()[:2], flush=True)
        door.sendto(answer(question) if door.getsockname()[1] == 53 else b"the world", guest)


def answer(question: bytes) -> bytes:
    """The name that is asked for has the address WORLD, and no other."""
    end = question.index(b"\0", 12) + 5
    wants_address = question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if wants_address else b"\0\0") + bytes(4)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(WORLD) if wants_address else b""
    return head + question[12:end] + record


def main() -> None:
    sys.stdin.readline()
    for words in (
        "link set lo up", f"addr add {HERE}/24 dev outside", f"addr add {NEIGHBOUR}/24 dev outside", f"addr add {WORLD}/32 dev outside",
        f"addr add {METADATA}/32 dev outside", f"addr add {SIXTH}/64 dev outside nodad", "link set outside up",
    ):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True)
    for port in (53, 80):
        door = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=_serve_tcp, args=(door,), daemon=True).start()
        for address in (HERE, WORLD, NEIGHBOUR, METADATA):
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind((address, port))
            threading.Thread(target=_serve_udp, args=(datagrams,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
