"""Names of objects: BLAKE3-256 of a one-byte domain tag and the object's bytes.

The tag makes the same bytes have different names as a blob and as a tree, so a file can never alias a directory.
Ids are 32 raw bytes inside psf and 64 hex digits at its rim.
"""

from __future__ import annotations

import enum
import re
from typing import NewType

import blake3

BlobId = NewType("BlobId", bytes)
TreeId = NewType("TreeId", bytes)
SnapshotId = NewType("SnapshotId", bytes)

ID_BYTES = 32
PREFIX_DIGITS_MIN = 6
_PREFIX = re.compile(r"[0-9a-f]{6,64}\Z")


class Kind(enum.IntEnum):
    """What an object is. The number is its domain tag and is part of the on-disk format.

    A move is what `store.moves` writes down of a session's head, so that lost heads can be made again from the packs.
    """

    BLOB = 1
    TREE = 2
    SNAPSHOT = 3
    MOVE = 4

    @property
    def word(self) -> str:
        return self.name.lower()


def hasher(kind: Kind) -> blake3.blake3:
    """A hasher that has already seen the domain tag; feed it the object's bytes."""
    return blake3.blake3(bytes((kind,)))


def object_id(kind: Kind, data: bytes | memoryview) -> bytes:
    digest: bytes = hasher(kind).update(data).digest()
    return digest


def blob_id(data: bytes | memoryview) -> BlobId:
    return BlobId(object_id(Kind.BLOB, data))


def is_prefix(text: str) -> bool:
    """Whether `text` may name a snapshot: 6 to 64 hex digits, lower case."""
    return _PREFIX.match(text) is not None
