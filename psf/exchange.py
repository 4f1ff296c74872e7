"""Trees and sessions to and from elsewhere: archives and bundles, through a server. All of it in threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from executors.completion import completed
from psf.tags import Tags
from psf.turns import Turns, to_thread
from store import bundle_export, bundle_import
from store import snapshot as snapshots
from store.archives.members import Imported
from store.archives.read_tar import import_tar
from store.archives.read_zip import import_zip
from store.archives.write_tar import export_tar
from store.archives.write_zip import export_zip
from store.archives.writing import Gzipping
from store.files import Files
from store.ids import Kind, SnapshotId
from store.interfaces import HeadRestorer, Heads, HeadSweeper, ListedObjects, Session
from store.snapshot import Snapshot

ArchiveFormat = Literal["tar", "tar.gz", "zip"]
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")


class ExchangedHeads(Heads, HeadSweeper, HeadRestorer, Protocol):
    """Heads that take in whole sessions."""


class Exchange:
    """`folder`: of the store's file system, where what is read twice lies meanwhile. `clock` gives seconds since 1970.

    `refuse_more` raises QuotaReached for a tenant that may not have so many further sessions.
    """

    def __init__(
        self,
        objects: ListedObjects,
        heads: ExchangedHeads,
        turns: Turns,
        tags: Tags,
        folder: Path,
        clock: Callable[[], float],
        refuse_more: Callable[[str, int], None],
    ) -> None:
        self._objects, self._heads, self._turns, self._tags = objects, heads, turns, tags
        self.folder, self._clock, self._refuse_more = folder, clock, refuse_more

    def export_archive(self, snapshot: Snapshot, form: ArchiveFormat, stream: BinaryIO) -> None:
        """Write a snapshot's tree. Raises ArchiveRefused, ObjectMissing, ObjectDamaged, OSError."""
        if form == "zip":
            export_zip(self._objects, snapshot.tree, stream)
        elif form == "tar":
            export_tar(self._objects, snapshot.tree, stream)
        else:
            gzipping = Gzipping(stream)
            export_tar(self._objects, snapshot.tree, gzipping)
            gzipping.finish()

    async def import_archive(self, tenant: str, tag: str, file: BinaryIO) -> tuple[SnapshotId, Imported]:
        """A snapshot of a tar (compressed or not) or zip, kept by a tag. Raises ArchiveRefused, InvalidField."""
        found: list[Imported] = []

        def take_in() -> SnapshotId:
            is_zip = file.read(4) in _ZIP_MAGICS
            file.seek(0)
            imported = (import_zip if is_zip else import_tar)(file, self._objects, Files(), self.folder)
            found.append(imported)
            base = Snapshot(snapshots.VERSION, 0, (), imported.tree, None, None)
            identity = SnapshotId(self._objects.put(Kind.SNAPSHOT, snapshots.encode(base)))
            self._objects.sync()
            return identity

        pin = await self._tags.set(tenant, tag, take_in)
        return pin.snapshot, found[0]

    def export_bundle(self, session: Session, stream: BinaryIO, *, since: int | None, have: list[SnapshotId]) -> None:
        """Write a session with its history. Raises NotInHistory, BundleRefused."""
        bundle_export.export_bundle(self._objects, self._heads, session, stream, since=since, have=have)

    async def import_bundle(
        self, tenant: str, file: BinaryIO, *, as_session: str | None, extend: bool
    ) -> bundle_import.Imported:
        """Take in a session of the tenant's. Raises BundleRefused, QuotaReached, WriterFenced."""
        async with self._turns.take(f"import {tenant}") as epoch:

            def act() -> bundle_import.Imported:
                return bundle_import.import_bundle(
                    file, self._objects, self._heads,
                    tenant=tenant, now_s=self._clock(), epoch=epoch, as_session=as_session, extend=extend,
                    admit=lambda: self._refuse_more(tenant, 1),
                )  # fmt: skip

            return await completed(to_thread(act))
