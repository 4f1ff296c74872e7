"""Egress: what a configuration says of the way out that some programs get, what they find of it in /etc, and whether it can be had.

How it is made is in executors.connecting; what programs reach by it, in `connecting.rules`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec.structs import replace

from executors import connecting
from executors.connecting import RESOLVER, TUN
from executors.errors import EgressUnavailable, OptionRefused, SandboxBroken
from executors.interfaces import Capabilities, RunResult
from store.snapshot import Limits

SETTINGS = ("egress_allow", "egress_deny", "egress_resolvers")
MECHANISM = "slirp4netns; nftables in the network namespace"
TO_INSTALL = "install slirp4netns and nftables (Debian: apt install slirp4netns nftables)"


class Egress(msgspec.Struct, frozen=True):
    """`allow`: private networks that programs may reach. `deny`: networks that they may not, beside what nobody reaches.

    `resolvers`: addresses of name servers for programs; none: the machine's own, which slirp4netns asks for them. `lack`: why
    the `sandbox` of this name cannot give any of it here, once that is known.
    """

    sandbox: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    lack: str | None = None

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Files that programs with egress see instead of those that others see: path -> content."""
        names = "".join(f"nameserver {address}\n" for address in self.resolvers or (RESOLVER,))
        switch = "passwd: files\ngroup: files\nhosts: files dns\n"
        return (("/etc/resolv.conf", names), ("/etc/nsswitch.conf", switch))

    def order(self, limits: Limits) -> dict[str, list[str]] | None:
        """What the launcher is told of it for a run within `limits`; None: the run gets no way out.

        Raises EgressUnavailable when it asks for one and there is none to be had.
        """
        if limits.network != "egress":
            return None
        if self.lack is not None:
            raise EgressUnavailable(f"the sandbox {self.sandbox} cannot give egress here: {self.lack}")
        return {"allow": list(self.allow), "deny": list(self.deny), "resolvers": list(self.resolvers)}


def configured(sandbox: str, settings: Mapping[str, str]) -> Egress:
    """From the options of a sandbox; nothing was tried yet. Raises OptionRefused."""
    allow, deny, resolvers = (_networks(sandbox, name, settings.get(name, "")) for name in SETTINGS)
    for address in resolvers:
        if "/" in address or ipaddress.IPv4Address(address).is_loopback:
            raise OptionRefused(
                f"`sandbox_options`: {sandbox}.egress_resolvers: {address} must be an address that runs can reach, such as 9.9.9.9;"
                " the machine's own resolver is asked when the option is not set"
            )
    return Egress(sandbox, allow, deny, resolvers)


async def tried(egress: Egress, run: Callable[[Limits], Awaitable[RunResult]]) -> Egress:
    """What is configured, with its lack here: `run` runs a program that ends well, unless egress cannot be had."""
    return replace(egress, lack=await _lack(run))


async def _lack(run: Callable[[Limits], Awaitable[RunResult]]) -> str | None:
    if missing := connecting.missing_programs():
        return f"{' and '.join(missing)} not found; {TO_INSTALL}"
    if os.geteuid() != 0 and (fault := _device_fault()):  # root's launcher makes one of its own
        return fault
    try:
        result = await run(Limits(network="egress"))
    except SandboxBroken as error:
        return f"it was tried and failed: {'; '.join((error.detail or str(error)).splitlines())}"
    return None if result.exit_code == 0 else f"it was tried and the program ended by {result.ending}"


def _device_fault(device: str = TUN) -> str | None:
    """Why slirp4netns could not open its device, and what to type."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        cure = (
            "`modprobe tun` makes it"
            if isinstance(error, FileNotFoundError)
            else f"`chmod 666 {device}` lets everybody"
        )
        return f"{device} cannot be opened: {error.strerror}; as root, {cure} (for a container: --device {device})"
    return None


def told(capabilities: Capabilities, egress: Egress) -> Capabilities:
    """Capabilities that say that there is egress, or why not."""
    if egress.lack is not None:
        return replace(capabilities, missing=(*capabilities.missing, f"egress: {egress.lack}"))
    return replace(capabilities, enforced={**capabilities.enforced, "egress": MECHANISM})


def _networks(sandbox: str, name: str, text: str) -> tuple[str, ...]:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    for word in words:
        try:
            ipaddress.IPv4Network(word)
        except ValueError as error:
            raise OptionRefused(
                f"`sandbox_options`: {sandbox}.{name}: {error}; it must be IPv4 networks such as 10.1.0.0/16"
            ) from None
    return tuple(words)
