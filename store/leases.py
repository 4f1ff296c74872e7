"""Turns on this machine: locks on byte ranges of one file, which the kernel frees when their holder ends, however it ends.

    bytes 0 to 2^56       one for each session id, by its hash: exclusive, held by the step whose turn it is
    bytes from 2^62 on    one for each epoch: shared, held by everybody whose turn began in it; gc waits until nobody does

Open-file-description locks, since plain POSIX locks do not exclude threads of one process (docs/adr/0003).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import blake3

from store.interfaces import Lease
from store.layout import open_file, refuse_other_than_file

_EPOCHS = 1 << 62


def _always_first() -> int:
    return 0


def _nothing(_: int) -> None:
    return None


class FileLeases:
    """`Leases` among the threads and processes of one machine.

    `epoch` says which one it is; `entered` is told before a turn in that epoch is given. Raises StoreUnusable when something else
    than a file lies at `path`.
    """

    def __init__(
        self, path: Path, *, epoch: Callable[[], int] = _always_first, entered: Callable[[int], None] = _nothing
    ) -> None:
        self._path, self._epoch, self._entered = path, epoch, entered
        refuse_other_than_file(path, path.name)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))

    def try_acquire(self, session_id: str) -> Lease | None:
        descriptor = self._open()
        try:
            if not _lock(descriptor, fcntl.F_WRLCK, _position(session_id), 1):
                os.close(descriptor)
                return None
            return _FileLease(descriptor, self._enter(descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def is_held(self, session_id: str) -> bool:
        return self._is_locked(_position(session_id), 1)

    def any_before(self, epoch: int) -> bool:
        """Whether a turn that began before `epoch` is still held, by any process."""
        return epoch > 0 and self._is_locked(_EPOCHS, epoch)

    def _enter(self, descriptor: int) -> int:
        """Hold the present epoch. It is read again, since gc may have begun another before we held it."""
        while True:
            epoch = self._epoch()
            held = _lock(descriptor, fcntl.F_RDLCK, _EPOCHS + epoch, 1)
            assert held, "nobody holds an epoch for himself alone"
            if self._epoch() == epoch:
                self._entered(epoch)
                return epoch
            _lock(descriptor, fcntl.F_UNLCK, _EPOCHS + epoch, 1)

    def _is_locked(self, position: int, length: int) -> bool:
        descriptor = self._open()
        try:
            found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, position, length))
        finally:
            os.close(descriptor)
        (kind,) = struct.unpack_from("h", found)
        return bool(kind != fcntl.F_UNLCK)

    def _open(self) -> int:
        return open_file(self._path, os.O_RDWR, self._path.name)


class _FileLease:
    def __init__(self, descriptor: int, epoch: int) -> None:
        self._descriptor, self._epoch = descriptor, epoch

    @property
    def epoch(self) -> int:
        return self._epoch

    def release(self) -> None:
        os.close(self._descriptor)


def _lock(descriptor: int, kind: int, position: int, length: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, position, length))
    except BlockingIOError:
        return False
    return True


def _flock(kind: int, position: int, length: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, position, length, 0)


def _position(session_id: str) -> int:
    """The byte that stands for the session; two sessions may share it and then only take turns."""
    return int.from_bytes(blake3.blake3(session_id.encode()).digest()[:7], "little")
