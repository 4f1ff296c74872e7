"""A disk that fails on purpose: for tests of what psf does then."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from store.files import Files, Owner


class FaultyFiles(Files):
    """A disk whose n-th operation fails, once or from then on; 0 never fails. `performed` lists what was asked for.

    With `torn`, a write or append that fails has written half of its bytes first, as a full disk does. A failed sync is
    final for its descriptor: `synced_after_failure` holds each descriptor on which it was tried again.
    """

    def __init__(self, fail_at: int = 0, error: int = errno.EIO, *, sticky: bool = False, torn: bool = True) -> None:
        self.fail_at, self.error, self.sticky, self.torn = fail_at, error, sticky, torn
        self.performed: list[str] = []
        self.failed: list[str] = []
        self.synced_after_failure: list[int] = []
        # Kept open, so that the inode of a file whose sync failed is not given to another file.
        self._spoilt: list[int] = []

    @property
    def operations(self) -> int:
        return len(self.performed)

    def close(self) -> None:
        for descriptor in self._spoilt:
            os.close(descriptor)
        self._spoilt.clear()

    def heal(self) -> None:
        """No operation fails from now on."""
        self.fail_at = 0

    def _fails(self, operation: str) -> bool:
        self.performed.append(operation)
        due = self.operations >= self.fail_at if self.sticky else self.operations == self.fail_at
        if not self.fail_at or not due:
            return False
        self.failed.append(operation)
        return True

    def _step(self, operation: str) -> None:
        if self._fails(operation):
            raise OSError(self.error, f"{os.strerror(self.error)} (injected into {operation})")

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        if self._fails("write"):
            if self.torn:
                super().write(descriptor, memoryview(data)[: len(data) // 2])
            raise OSError(self.error, "injected into write")
        super().write(descriptor, data)

    def append(self, descriptor: int, buffers: Sequence[bytes]) -> int:
        if self._fails("append"):
            if self.torn:
                joined = b"".join(buffers)
                super().append(descriptor, [joined[: len(joined) // 2]])
            raise OSError(self.error, "injected into append")
        return super().append(descriptor, buffers)

    def sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if any(os.path.samestat(status, os.fstat(spoilt)) for spoilt in self._spoilt):
            self.synced_after_failure.append(descriptor)
        if self._fails("sync"):
            self._spoilt.append(os.dup(descriptor))
            raise OSError(self.error, "injected into sync")
        super().sync(descriptor)

    def open(self, path: str | bytes, flags: int, mode: int = 0o644, *, directory: int | None = None) -> int:
        self._step("open")
        return super().open(path, flags, mode, directory=directory)

    def sync_directory(self, path: str | bytes) -> None:
        self._step("sync_directory")
        super().sync_directory(path)

    def truncate(self, descriptor: int, length: int) -> None:
        self._step("truncate")
        super().truncate(descriptor, length)

    def unnamed(self, directory: str, mode: int = 0o444) -> int:
        self._step("unnamed")
        return super().unnamed(directory, mode)

    def link(self, descriptor: int, path: str) -> None:
        self._step("link")
        super().link(descriptor, path)

    def clone(self, source: int, target: int, length: int) -> bool:
        self._step("clone")
        return super().clone(source, target, length)

    def copy(self, source: int, target: int, length: int) -> None:
        if self._fails("copy"):
            if self.torn:
                super().copy(source, target, length // 2)
            raise OSError(self.error, "injected into copy")
        super().copy(source, target, length)

    def make_directory(self, path: str | bytes, mode: int = 0o755, *, directory: int | None = None) -> None:
        self._step("make_directory")
        super().make_directory(path, mode, directory=directory)

    def symlink(self, target: bytes, path: bytes, *, directory: int) -> None:
        self._step("symlink")
        super().symlink(target, path, directory=directory)

    def rename(
        self, source: str | bytes, target: str | bytes, *, source_directory: int | None, target_directory: int | None
    ) -> None:
        self._step("rename")
        super().rename(source, target, source_directory=source_directory, target_directory=target_directory)

    def unlink(self, path: str | bytes, *, directory: int | None = None) -> None:
        self._step("unlink")
        super().unlink(path, directory=directory)

    def remove_directory(self, path: str | bytes, *, directory: int | None = None) -> None:
        self._step("remove_directory")
        super().remove_directory(path, directory=directory)

    def make_whiteout(self, path: bytes, *, directory: int) -> None:
        self._step("make_whiteout")
        super().make_whiteout(path, directory=directory)

    def set_attribute(self, descriptor: int, name: str, value: bytes) -> None:
        self._step("set_attribute")
        super().set_attribute(descriptor, name, value)

    def set_mode(self, descriptor: int, mode: int) -> None:
        self._step("set_mode")
        super().set_mode(descriptor, mode)

    def set_owner(self, path: bytes, owner: Owner, *, directory: int) -> None:
        self._step("set_owner")
        super().set_owner(path, owner, directory=directory)

    def set_time(self, path: bytes, time_s: int, *, directory: int | None) -> None:
        self._step("set_time")
        super().set_time(path, time_s, directory=directory)


class ShortFiles(Files):
    """A disk that takes little at a time: each call writes at most `bytes_max` bytes."""

    def __init__(self, bytes_max: int = 7) -> None:
        self.bytes_max = bytes_max

    def _write_some(self, descriptor: int, buffers: Sequence[memoryview]) -> int:
        return super()._write_some(descriptor, [buffers[0][: self.bytes_max]])
