"""Names that programs and requests use for places in a sandbox, resolved without ever touching the host's file system."""

from __future__ import annotations

import posixpath
from typing import Literal

import msgspec

from store.capture import RESERVED_PREFIX
from store.tree import NAME_BYTES_MAX

WORK = "/work"
HOME = "/home/sandbox"
SCRATCH = {"/tmp": b"tmp", "/var/tmp": b"var-tmp", "/mnt": b"mnt", HOME: b"home"}
"""Writable places beside the work directory, private to a run and never kept -> their folder in a cell's scratch."""
PATH_BYTES_MAX = 4096


class Place(msgspec.Struct, frozen=True):
    """A path below the work directory (`scratch` is None) or below one of the scratch folders."""

    scratch: bytes | None
    path: tuple[bytes, ...]
    mount: tuple[bytes, ...]


Fault = Literal["empty", "nul", "surrogate", "too_long", "outside", "reserved"]
FAULTS: dict[Fault, str] = {
    "empty": "is empty; give a file name",
    "nul": "contains a NUL character",
    "surrogate": "contains a lone surrogate; names are UTF-8",
    "too_long": f"is too long; at most {PATH_BYTES_MAX} bytes, {NAME_BYTES_MAX} for each part",
    "outside": "leaves the work directory; use a relative name or one below {work_dir}, " + ", ".join(SCRATCH),
    "reserved": "begins with _psf_, which is reserved",
}


def explained(fault: Fault, work_dir: str = WORK) -> str:
    """What is wrong with a name, in words."""
    return FAULTS[fault].format(work_dir=work_dir)


def resolve(name: str, work_dir: str = WORK) -> Place | Fault:
    """Where `name` (relative to the work directory, or absolute) lies, or what is wrong with it."""
    if not name:
        return "empty"
    if "\0" in name:
        return "nul"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "surrogate"
    parts = [part for part in encoded.split(b"/") if part]
    if len(encoded) > PATH_BYTES_MAX or any(len(part) > NAME_BYTES_MAX for part in parts):
        return "too_long"
    return _place(posixpath.normpath(posixpath.join(work_dir, name)), work_dir)


def _place(absolute: str, work_dir: str) -> Place | Fault:
    for root, scratch in (*SCRATCH.items(), (work_dir, None)):
        below = absolute.lstrip("/")
        prefix = root.lstrip("/") + "/"
        if below.startswith(prefix):
            path = tuple(below[len(prefix) :].encode().split(b"/"))
            if scratch is None and path[0].startswith(RESERVED_PREFIX):
                return "reserved"
            return Place(scratch, path, tuple(prefix.strip("/").encode().split(b"/")))
    return "outside"
