"""What one process sees of packs that another renames meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PosixPath

import pytest

from store.files import Files
from store.ids import Kind
from store.pack_folder import PackFolder
from store.records import MARKER_BYTES, decode_marker
from tests.store.workbench import filled


class Blinking(PosixPath):
    """A folder whose listing shows none of the packs in `unseen`, as when they are renamed while it is read."""

    unseen: set[str]

    def iterdir(self) -> Iterator[Path]:
        return (path for path in Path(self).iterdir() if path.stem not in self.unseen)


class Overtaken(Files):
    """Packs are renamed between being listed and being opened."""

    renames: Callable[[Path], None] | None = None

    def open(self, path: str | bytes, flags: int, mode: int = 0o644, *, directory: int | None = None) -> int:
        rename, self.renames = self.renames, None
        if rename is not None:
            rename(Path(str(path)))
        return super().open(path, flags, mode, directory=directory)


def renamed(path: Path, suffix: str) -> None:
    path.rename(path.with_suffix(suffix))


@pytest.fixture
def blob(tmp_path: Path) -> bytes:
    """A store of one open pack that nobody holds, with one blob."""
    (name,) = filled(tmp_path, b"blob")
    return name


def seen(folder: PackFolder, blob: bytes) -> bool:
    return any(folder.places((Kind.BLOB, blob)))


def folder_of(root: Path, files: Files) -> PackFolder:
    marker = decode_marker((root / "marker").read_bytes())
    assert marker is not None
    assert len(marker) == MARKER_BYTES
    path = Blinking(root / "packs")
    path.unseen = set()
    return PackFolder(path, files, marker)


@pytest.mark.parametrize(("before", "after"), [(".open", ".pack"), (".pack", ".condemned"), (".open", ".condemned")])
def test_a_pack_is_not_forgotten_while_it_is_renamed(tmp_path: Path, blob: bytes, before: str, after: str) -> None:
    pack = tmp_path / "packs" / "00000001.open"
    renamed(pack, before)
    folder = folder_of(tmp_path, Files())
    folder.refresh()
    assert seen(folder, blob)
    assert isinstance(folder.path, Blinking)
    folder.path.unseen = {pack.stem}
    assert folder.numbers() == set()
    renamed(pack.with_suffix(before), after)
    folder.refresh()
    assert seen(folder, blob)
    assert [found.path.suffix for found in folder.sealed()] == [after]
    pack.with_suffix(after).unlink()
    folder.refresh()
    assert not seen(folder, blob)


@pytest.mark.parametrize(("before", "after"), [(".open", ".pack"), (".pack", ".condemned"), (".open", ".condemned")])
def test_a_pack_that_is_renamed_before_it_is_opened_is_found(
    tmp_path: Path, blob: bytes, before: str, after: str
) -> None:
    pack = tmp_path / "packs" / f"00000001{before}"
    renamed(pack.with_suffix(".open"), before)
    files = Overtaken()
    files.renames = lambda path: renamed(path, after)
    folder = folder_of(tmp_path, files)
    folder.refresh()
    assert not pack.exists()
    assert seen(folder, blob)
