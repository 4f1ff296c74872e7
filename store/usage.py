"""What live directories take up on disk: counted while they are written, so that nobody has to walk them to know."""

from __future__ import annotations

import os
import stat

import msgspec

from store.files import open_directory

STAT_BLOCK_BYTES = 512
DIRECTORY_BYTES = 4096
"""What a directory counts as. Its own size differs between file systems, and with the names it once held."""


class Usage(msgspec.Struct, frozen=True):
    """Bytes on disk, and inodes. Blocks that files share count once for each."""

    disk_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.disk_bytes + other.disk_bytes, self.inodes + other.inodes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.disk_bytes - other.disk_bytes, self.inodes - other.inodes)


def usage_of(status: os.stat_result) -> Usage:
    """Of one file, symlink or directory by itself."""
    if stat.S_ISDIR(status.st_mode):
        return Usage(DIRECTORY_BYTES, 1)
    return Usage(status.st_blocks * STAT_BLOCK_BYTES, 1)


def usage_below(name: bytes, directory: int) -> Usage:
    """Of what `name` is, with all that is in it: of a directory that psf wrote, which is never deeper than a tree."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    total = usage_of(status)
    if stat.S_ISDIR(status.st_mode):
        descriptor = open_directory(name, directory)
        try:
            for inner in os.listdir(descriptor):
                total += usage_below(os.fsencode(inner), descriptor)
        finally:
            os.close(descriptor)
    return total
