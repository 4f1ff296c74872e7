"""Damage to stored bytes: always an error that names the object, never wrong bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from store.errors import ObjectDamaged, ObjectMissing
from store.files import Files
from store.ids import Kind
from store.index import PACK_HEADER
from store.packs import LARGE_BYTES, PackObjects
from tests.store.workbench import filled


def test_a_flipped_bit_in_a_pack_never_gives_wrong_bytes(tmp_path: Path) -> None:
    """While the store is open it is an error that names the object."""
    content = os.urandom(64)
    (name,) = filled(tmp_path, content)
    pack = tmp_path / "packs" / "00000001.open"
    store = PackObjects(tmp_path, Files())
    whole = pack.read_bytes()
    for bit in range(8 * len(PACK_HEADER), 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        pack.write_bytes(damaged)
        with pytest.raises(ObjectDamaged) as caught:
            store.get(Kind.BLOB, name)
        assert caught.value.object_id == name.hex()
    store.close()


@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_a_flipped_bit_found_at_opening_never_gives_wrong_bytes(tmp_path: Path, suffix: str) -> None:
    contents = [os.urandom(40) for _ in range(3)]
    names = filled(tmp_path, *contents, seal_bytes=1 << 20 if suffix == ".open" else 250)
    pack = tmp_path / "packs" / f"00000001{suffix}"
    whole = pack.read_bytes()
    chance = random.Random(7)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(PACK_HEADER), len(whole))] ^= 1 << chance.randrange(8)
        pack.write_bytes(damaged)
        store = PackObjects(tmp_path, Files())
        read = 0
        for name, content in zip(names, contents, strict=True):
            try:
                assert store.get(Kind.BLOB, name) == content
                read += 1
            except (ObjectDamaged, ObjectMissing) as error:
                assert error.object_id == name.hex()  # noqa: PT017 - some can still be read
        assert read < len(names)
        store.close()


def test_damage_to_a_large_blob_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = PackObjects(tmp_path, Files())
    name = store.put(Kind.BLOB, os.urandom(LARGE_BYTES))
    path = tmp_path / "large" / name.hex()[:2] / name.hex()[2:]
    whole = path.read_bytes()
    path.chmod(0o644)
    for damaged in (whole[:-1], whole + b"\0", b"", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ObjectDamaged) as caught:
            store.get(Kind.BLOB, name)
        assert caught.value.object_id == name.hex()
    path.unlink()
    with pytest.raises(ObjectMissing):
        store.get(Kind.BLOB, name)
    store.close()
