"""What a store holds and takes, counted without reading what lies in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from store.local import LocalStore
from store.pack_folder import INDEX

BLOCK_BYTES = 512
"""What `st_blocks` counts, whatever the file system."""


class Stats(msgspec.Struct, frozen=True):
    """Numbers of things, and sizes in bytes: what files take on disk, so holes do not count, and never more than they are long."""

    sessions: int
    moves: int
    pins: int
    objects: dict[str, int]
    packs: int
    packs_compressed: int
    packs_bytes: int
    indexes_bytes: int
    large: int
    large_bytes: int
    heads_bytes: int
    put_aside_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.packs_bytes + self.indexes_bytes + self.large_bytes + self.heads_bytes + self.put_aside_bytes


def stats(store: LocalStore) -> Stats:
    """Raises StoreUnusable, OSError."""
    root, last = store.root, list(store.heads.last_moves())
    names = set(store.objects)
    packs = [path for path in (root / "packs").iterdir() if path.suffix != INDEX]
    large = [path for name in ("large", "condemned") for path in _files(root / name)]
    return Stats(
        sessions=len(last),
        moves=sum(moved.move.sequence for moved in last),
        pins=len(store.heads.pins()),
        objects={kind.word: count for kind, count in sorted(Counter(kind for kind, _ in names).items())},
        packs=len(packs),
        packs_compressed=sum(pack.file.compacted for pack in store.objects.folder.sealed()),
        packs_bytes=_size_bytes(packs),
        indexes_bytes=_size_bytes(list((root / "packs").glob(f"*{INDEX}"))),
        large=len(large),
        large_bytes=_size_bytes(large),
        heads_bytes=_size_bytes(list(root.glob("heads.sqlite*"))),
        put_aside_bytes=_size_bytes(_files(root / "damaged")),
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size_bytes(paths: list[Path]) -> int:
    statuses = [path.stat() for path in paths if path.exists()]
    return sum(min(status.st_size, status.st_blocks * BLOCK_BYTES) for status in statuses)
