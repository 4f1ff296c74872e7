"""The sandboxes that are installed, found by entry points, and the choice among them.

A sandbox is offered by an entry point of the group `psf.sandboxes`, ours like anybody's: its name is the sandbox's, and it leads to
an asynchronous function (`StartSandbox`). What a plug-in does wrong is said of it by name, and costs nobody else.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol, cast

import msgspec

from executors.errors import OptionRefused, SandboxUnavailable
from executors.interfaces import Capabilities, Identified, Sandbox
from executors.profile import Profile

_log = logging.getLogger(__name__)
GROUP = "psf.sandboxes"
OWN_DISTRIBUTION = "persistent-sandbox-fusion"
AUTO = "auto"
ORDER = ("docker", "bubblewrap", "nsjail")
"""What `auto` tries, best first. Another plug-in is used when it is named: installing a package must not move anybody's walls."""


class Options(msgspec.Struct, frozen=True):
    """What a server tells the sandbox that it starts.

    `probe_parent` is a folder of the file system that workspaces will lie on: whether overlays work is tried there. `workspace`:
    overlay where it works, copy where it does not ("auto"), or one of them by force. `settings`: what the configuration says to this
    sandbox alone, by name.
    """

    probe_parent: Path
    workspace: Literal["auto", "overlay", "copy"] = "auto"
    settings: dict[str, str] = {}


def check_settings(sandbox: str, options: Options, known: tuple[str, ...]) -> None:
    """Raises OptionRefused when the configuration says something that this sandbox has no ears for."""
    for key in options.settings:
        if key not in known:
            raise OptionRefused(f"`sandbox_options`: {sandbox} has no option {key!r}; there is {', '.join(known)}")


class StartSandbox(Protocol):
    async def __call__(self, profile: Profile, options: Options, /) -> Sandbox:
        """A sandbox that was tried and works; its capabilities carry the entry point's name.

        Raises SandboxUnavailable, whose text says what is missing here and what to type next.
        """
        ...


class Offer(msgspec.Struct, frozen=True):
    """One sandbox that is installed: its name, the distribution that brings it, and how to get at its start function."""

    name: str
    distribution: str
    load: Callable[[], object]


class Choice(msgspec.Struct, frozen=True):
    """The sandbox that was started, and those that `auto` passed over: name -> why."""

    sandbox: Sandbox
    passed_over: dict[str, str]


def find(entries: Iterable[metadata.EntryPoint] | None = None) -> dict[str, Offer]:
    """The sandboxes that are installed, by name; nothing of them is imported yet. Default: the entry points of this Python."""
    offers: dict[str, Offer] = {}
    for entry in metadata.entry_points(group=GROUP) if entries is None else entries:
        offer = Offer(entry.name, entry.dist.name if entry.dist else "unknown", entry.load)
        known = offers.get(offer.name)
        if known is None:
            offers[offer.name] = offer
        elif known.distribution != offer.distribution:
            # A stranger must not take the place of a sandbox that somebody relies on by its name.
            kept, refused = (offer, known) if offer.distribution == OWN_DISTRIBUTION else (known, offer)
            offers[offer.name] = kept
            _log.warning("sandbox %s: the one of %s is left out, %s brings it too", offer.name, refused.distribution, kept.distribution)  # fmt: skip
    return offers


async def start(
    wanted: str, profile: Profile, options: Callable[[str], Options], offers: dict[str, Offer] | None = None
) -> Choice:
    """The sandbox called `wanted`, or for "auto" the first of ORDER that works here. `options` gives each its own.

    Raises SandboxUnavailable, with a reason for each that was tried; OptionRefused for what the configuration tells one of them.
    """
    offers = find() if offers is None else offers
    passed_over: dict[str, str] = {}
    for name in _candidates(wanted, offers):
        try:
            return Choice(await start_one(offers[name], profile, options(name)), passed_over)
        except OptionRefused:
            raise
        except SandboxUnavailable as error:
            passed_over[name] = str(error)
    if wanted != AUTO:
        raise SandboxUnavailable(passed_over[wanted])
    tried = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    raise SandboxUnavailable(f"no sandbox works here. {tried}. `psf doctor` says more")


def system_identity(sandbox: Sandbox, profile: Profile) -> bytes:
    """Digest of the system that programs see: the sandbox's own word where that is not this machine's, as the profile shows it."""
    return sandbox.identity() if isinstance(sandbox, Identified) else profile.identity()


def _candidates(wanted: str, offers: dict[str, Offer]) -> list[str]:
    """Names to try, in order. Raises SandboxUnavailable when there are none."""
    if not offers or (wanted == AUTO and not set(ORDER) & set(offers)):
        raise SandboxUnavailable(
            f"none of psf's sandboxes is registered ({GROUP}); install psf again (in a clone: make setup)"
        )
    if wanted == AUTO:
        return [name for name in ORDER if name in offers]
    if wanted not in offers:
        raise SandboxUnavailable(
            f"`executor`: there is no sandbox {wanted!r}; there are {AUTO}, {', '.join(sorted(offers))}"
        )
    return [wanted]


async def start_one(offer: Offer, profile: Profile, options: Options) -> Sandbox:
    """Start an offered sandbox. Raises SandboxUnavailable, also for a plug-in that breaks, which is then named."""
    try:
        begin = offer.load()
    except (Exception, SystemExit) as error:
        raise _faulty(offer, f"cannot be imported: {_told(error)}") from error
    if not callable(begin):
        raise _faulty(offer, f"is no function but {_kind(begin)}; it must be `async def start(profile, options)`")
    sandbox: object = None
    try:
        starting = begin(profile, options)
        if not hasattr(starting, "__await__"):
            raise _faulty(offer, f"gave {_kind(starting)} at once; it must be `async def start(profile, options)`")
        sandbox = await starting
    except SandboxUnavailable:
        raise
    except (Exception, SystemExit) as error:
        raise _faulty(offer, f"failed to start: {_told(error)}") from error
    fault = _shape_fault(offer.name, sandbox)
    if fault is not None:
        await _closed(sandbox)
        raise _faulty(offer, fault)
    return cast("Sandbox", sandbox)


def _shape_fault(name: str, sandbox: object) -> str | None:
    """What keeps a thing from being a Sandbox of this name, if anything."""
    for method in ("open", "close"):
        if not callable(getattr(sandbox, method, None)):
            return f"gave {_kind(sandbox)}, which has no method `{method}`"
    opening = getattr(sandbox, "open", None)
    if inspect.iscoroutinefunction(opening) or inspect.isasyncgenfunction(opening):
        return "gave a sandbox whose `open` is no context manager; it must be one, as @asynccontextmanager makes it"
    capabilities = getattr(sandbox, "capabilities", None)
    if not isinstance(capabilities, Capabilities):
        return f"gave a sandbox whose `capabilities` are {_kind(capabilities)}, not Capabilities"
    if capabilities.sandbox != name:
        return (
            f"gave a sandbox that calls itself {capabilities.sandbox!r}; sessions keep that name, so both must be equal"
        )
    return None


async def _closed(sandbox: object) -> None:
    """Give back what a sandbox of the wrong shape holds, as far as it can be asked to."""
    try:
        await sandbox.close()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - it has been refused already, with a better reason
        _log.debug("a refused sandbox could not be closed", exc_info=True)


def _faulty(offer: Offer, what: str) -> SandboxUnavailable:
    return SandboxUnavailable(f"the plug-in {offer.name!r} of {offer.distribution} {what}")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
