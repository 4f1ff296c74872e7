"""A run's way out of the machine: rules in its own network namespace, and slirp4netns beside it. Standard library only.

The launcher makes it while the program waits at the gate, so the program starts with its network whole. The rules stand where
the program has no capability to change them; slirp4netns, which moves the packets, is nobody on the host, sees an almost empty root and is
killed with the run, with the launcher, and when the launcher's end of `leash` closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import NoReturn

from executors import child, kernel, stage

RESOLVER = "10.0.2.3"
"""Where slirp4netns answers for the machine's own resolver."""
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
"""This host, the link with its metadata service, groups and what has no meaning: nobody can allow these."""
_PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15")
"""Networks behind which others live, who trust their neighbours: refused unless allowed by name."""
_SLIRP, _RULES = "slirp4netns", "nft"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TUN = "/dev/net/tun"
_TUN_DEVICE = os.makedev(10, 200)
_SHOWN = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/resolv.conf")
_CAP_NET_ADMIN = 12
_NS_GET_USERNS = 0xB701
_READY, _LEASH, _NETWORK, _OWNER = 3, 4, 5, 6
_LIMITS = {"CORE": 0, "DATA": 256 << 20, "NOFILE": 1024}
_WORDS_BYTES_MAX = 2000


class Connection:
    """The way out of one run, while it is made and while it is there. `gate` is the program's, closed with it."""

    def __init__(self, pid: int, ready: int, words: int, leash: int) -> None:
        self.pid, self.ready = pid, ready
        self._words, self._leash = words, leash
        self.gate: socket.socket | None = None

    def fault(self) -> str | None:
        """Once `ready` can be read: None when the way is there, else why it is not."""
        if os.read(self.ready, 1) == b"1":
            return None
        os.set_blocking(self._words, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(self._words, _WORDS_BYTES_MAX).decode(errors="replace").strip() or "it ended without a word"
        return "it ended without a word"

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for descriptor in (self.ready, self._words, self._leash):
            os.close(descriptor)
        if self.gate is not None:
            self.gate.close()


def missing_programs() -> list[str]:
    return [name for name in (_SLIRP, _RULES) if shutil.which(name, path=_PATH) is None]


def connect(pid: int, asked: dict[str, list[str]], user: tuple[int, int] | None, cpu_time_s: int) -> Connection:
    """Begin to give the network namespace of a process a way out; `Connection.ready` says when it is there.

    `asked`: networks to `allow` and to `deny`, and `resolvers`. `user`: uid and gid to become, as root only. Raises OSError.
    """
    text = rules(own_networks(Path("/proc/self/net/fib_trie").read_text()), **asked)
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:

        def closed_here(descriptor: int) -> int:
            theirs.callback(os.close, descriptor)
            return descriptor

        network = closed_here(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        if os.path.samestat(os.fstat(network), os.stat("/proc/self/ns/net")):
            raise OSError("the program has no network namespace of its own")
        owner = closed_here(fcntl.ioctl(network, _NS_GET_USERNS))
        ready, their_ready = _pipe(ours, theirs)
        words, their_words = _pipe(ours, theirs)
        their_leash, leash = _pipe(theirs, ours)
        launcher = os.getpid()
        helper = os.fork()
        if helper == 0:
            _become_way_out(launcher, user, cpu_time_s, text, [their_words, their_ready, their_leash, network, owner])
        ours.pop_all()
    return Connection(helper, ready, words, leash)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Its ends to read and to write, each closed by whose it is."""
    reading, writing = os.pipe()
    reader.callback(os.close, reading)
    writer.callback(os.close, writing)
    return reading, writing


def own_networks(trie: str) -> list[str]:
    """The addresses that are this machine's own, from the kernel's table of routes (/proc/net/fib_trie). Pure."""
    found, prefix = set(), ""
    for line in trie.splitlines():
        words = line.split()
        if words and words[0] in ("|--", "+--"):
            prefix = words[1]
        elif words and words[-1] == "LOCAL":
            found.add(f"{prefix}{words[0]}")
    return sorted(found)


def rules(own: list[str], allow: list[str], deny: list[str], resolvers: list[str]) -> str:
    """What a program may reach, in nft's language. The first rule that fits decides. Pure."""
    names = ", ".join(resolvers or [RESOLVER])
    lines = [
        'oifname "lo" accept',
        "meta nfproto != ipv4 goto refused",
        *(f"ip daddr {{ {names} }} {protocol} dport 53 accept" for protocol in ("udp", "tcp")),
        "ip daddr @never goto refused",
        *(["ip daddr @allowed accept"] if allow else []),
        "ip daddr @private goto refused",
    ]
    sets = {"never": [*_NEVER, *own, *deny], "allowed": allow, "private": _PRIVATE}
    return "".join(
        [
            "table inet psf {\n",
            *(f"set {name} {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {', '.join(networks)} }}; }}\n" for name, networks in sets.items() if networks),
            # Of a refusal that is no reset, a connecting socket hears only when it tries again, a second later.
            "chain refused { meta l4proto tcp reject with tcp reset; reject; }\n",
            "chain output { type filter hook output priority filter; policy accept;\n",
            *(f"{line}\n" for line in lines),
            "}\n}\n",
        ]
    )  # fmt: skip


def _become_way_out(
    launcher: int, user: tuple[int, int] | None, cpu_time_s: int, text: str, descriptors: list[int]
) -> NoReturn:
    """Descriptors, a root of its own, identity, rules, exec. Whatever is wrong is said on stderr."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        _place([nowhere, nowhere, *descriptors])
        _move_into_a_root_of_its_own(mapped=user is None)
        for name, value in {**_LIMITS, "CPU": cpu_time_s + 1}.items():
            child.set_limit(name, value, value)
        if user is not None:
            os.setgroups([])
            os.setresgid(user[1], user[1], user[1])
            os.setresuid(user[0], user[0], user[0])
        # After the identity, whose change would forget it.
        kernel.die_with_parent(launcher)
        _set_rules(text)
        options = ["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-seccomp", "--netns-type=path"]
        options += [f"--ready-fd={_READY}", f"--exit-fd={_LEASH}", "--userns-path=/owner", "/network", "tap0"]
        os.set_inheritable(_READY, True)
        os.closerange(_NETWORK, 1 << 10)
        os.execve(str(shutil.which(_SLIRP, path=_PATH)), [_SLIRP, *options], {"PATH": _PATH})
    except BaseException as error:  # noqa: BLE001 - the child must not go on as a second launcher
        os.write(2, f"psf: no way out could be made: {error}".encode())
    finally:
        os._exit(125)


def _place(descriptors: list[int]) -> None:
    """Put descriptors in their places, from 0 on, and close all others."""
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in descriptors]
    for target, source in enumerate(moved):
        os.dup2(source, target)
    os.closerange(len(moved), 1 << 16)


def _move_into_a_root_of_its_own(*, mapped: bool) -> None:
    """Programs and their libraries, the resolver's address, the device for tunnels, the two namespaces; nothing else of the host.

    `mapped`: we are root of a user namespace only, which may make no devices.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.make_mounts_private()
    root = next(folder for folder in stage.CANDIDATES if os.path.isdir(folder))
    kernel.mount("tmpfs", root, [("size", "64k"), ("mode", "0755")], devices=True)
    for path in (*_SHOWN, *([TUN] if mapped else [])):
        _show(path, root)
    for name, descriptor in (("network", _NETWORK), ("owner", _OWNER)):
        Path(f"{root}/{name}").touch()
        kernel.bind(f"/proc/self/fd/{descriptor}", f"{root}/{name}")
    if not mapped:
        os.makedirs(root + os.path.dirname(TUN))
        os.mknod(root + TUN, 0o666 | 0o020000, _TUN_DEVICE)
        os.chmod(root + TUN, 0o666)
    os.chroot(root)
    os.chdir("/")


def _show(path: str, root: str) -> None:
    """Show a folder, a file or a device of the host below `root`, where it is; a link in `/` as a link."""
    target = root + path
    if os.path.islink(path) and os.path.dirname(path) == "/":
        os.symlink(os.readlink(path), target)
    elif os.path.isdir(path):
        os.makedirs(target)
        kernel.bind(path, target)
    elif os.path.exists(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
        kernel.bind(os.path.realpath(path), target)


def _set_rules(text: str) -> None:
    """Raises OSError when they do not stand; what nft says of it is on stderr."""
    pid = os.fork()
    if pid == 0:
        try:
            kernel.enter(_OWNER)
            kernel.enter(_NETWORK)
            kernel.keep_capability(_CAP_NET_ADMIN)
            source = os.memfd_create("rules")
            os.write(source, text.encode())
            os.lseek(source, 0, os.SEEK_SET)
            os.dup2(source, 0)
            os.execve(str(shutil.which(_RULES, path=_PATH)), [_RULES, "-f", "-"], {"PATH": _PATH})
        except BaseException as error:  # noqa: BLE001 - as above
            os.write(2, str(error).encode())
        finally:
            os._exit(125)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("its rules were refused")
