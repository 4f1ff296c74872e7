"""Pack files: the contract, and what only files can show: torn tails, reopening, sealing, sharing, damage."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from store.errors import ObjectMissing, ObjectTooLong, StoreUnusable
from store.faulty import FaultyFiles
from store.files import Files, open_directory
from store.ids import Kind, blob_id, object_id
from store.interfaces import Objects
from store.large import LARGE_BYTES
from store.packs import PENDING_BYTES_MAX, PackObjects
from store.records import OBJECT_BYTES_MAX, PACK_HEADER, PACK_MAGIC, RECORD
from store.testing import ObjectsContract
from tests.store.live import as_user
from tests.store.workbench import filled


class TestPackObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> Iterator[Objects]:
        objects = PackObjects(tmp_path, Files())
        yield objects
        objects.close()


class TestSmallPacks(ObjectsContract):
    """The same with a pack sealed at nearly every sync."""

    @pytest.fixture
    def objects(self, tmp_path: Path) -> Iterator[Objects]:
        objects = PackObjects(tmp_path, Files(), seal_bytes=100)
        yield objects
        objects.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[PackObjects]]:
    """Stores to close at the end."""
    stores: list[PackObjects] = []
    yield stores
    for store in stores:
        store.close()


def packs(root: Path) -> list[str]:
    """The packs that are there, without their indexes."""
    return sorted(path.name for path in (root / "packs").iterdir() if path.suffix != ".idx")


def test_a_torn_tail_is_cut_at_the_last_whole_record_wherever_it_tore(tmp_path: Path) -> None:
    contents = [b"first", b"second record", b"the last record, torn at each of its bytes"]
    names = filled(tmp_path, *contents)
    pack = tmp_path / "packs" / "00000001.open"
    whole = pack.read_bytes()
    last = RECORD.size + len(contents[-1])
    for size in range(len(whole) - last, len(whole)):
        pack.write_bytes(whole[:size])
        store = PackObjects(tmp_path, Files())
        assert [store.get(Kind.BLOB, name) for name in names[:2]] == contents[:2]
        assert store.find_missing([(Kind.BLOB, name) for name in names]) == {(Kind.BLOB, names[2])}
        assert pack.read_bytes() == whole[:-last]
        store.close()


@pytest.mark.parametrize("tail", [b"\0" * 100, PACK_MAGIC, bytes(range(200))], ids=["zeros", "magic", "noise"])
def test_a_tail_of_garbage_is_cut_and_written_over(tmp_path: Path, opened: list[PackObjects], tail: bytes) -> None:
    names = filled(tmp_path, b"kept")
    with (tmp_path / "packs" / "00000001.open").open("ab") as pack:
        pack.write(tail)
    store = PackObjects(tmp_path, Files())
    names.append(store.put(Kind.BLOB, b"after"))
    store.sync()
    store.close()
    again = PackObjects(tmp_path, Files())
    opened.append(again)
    assert [again.get(Kind.BLOB, name) for name in names] == [b"kept", b"after"]
    assert packs(tmp_path) == ["00000001.open"]


def test_what_was_not_synced_is_gone_after_reopening(tmp_path: Path, opened: list[PackObjects]) -> None:
    store = PackObjects(tmp_path, Files())
    name = store.put(Kind.BLOB, b"pending")
    store.close()
    again = PackObjects(tmp_path, Files())
    opened.append(again)
    with pytest.raises(ObjectMissing):
        again.get(Kind.BLOB, name)


def test_reopening_goes_on_with_the_same_pack(tmp_path: Path) -> None:
    names = [name for number in range(5) for name in filled(tmp_path, b"%d" % number)]
    assert packs(tmp_path) == ["00000001.open"]
    store = PackObjects(tmp_path, Files())
    assert [store.get(Kind.BLOB, name) for name in names] == [b"%d" % number for number in range(5)]
    store.close()


def test_packs_are_sealed_at_their_size_and_still_read(tmp_path: Path, opened: list[PackObjects]) -> None:
    contents = [os.urandom(300) for _ in range(10)]
    names = filled(tmp_path, *contents, seal_bytes=1000)
    assert packs(tmp_path) == ["00000001.pack", "00000002.pack", "00000003.pack", "00000004.open"]
    store = PackObjects(tmp_path, Files(), seal_bytes=1000)
    opened.append(store)
    assert [store.get(Kind.BLOB, name) for name in names] == contents


def test_an_equal_object_is_written_once(tmp_path: Path) -> None:
    filled(tmp_path, *[b"equal"] * 5)
    filled(tmp_path, b"equal")
    size = (tmp_path / "packs" / "00000001.open").stat().st_size
    assert size == PACK_HEADER.size + RECORD.size + len(b"equal")


def test_one_commit_is_one_append_and_one_sync(tmp_path: Path, opened: list[PackObjects]) -> None:
    files = FaultyFiles()
    store = PackObjects(tmp_path, files)
    opened.append(store)
    store.put(Kind.BLOB, b"makes the pack")
    store.sync()
    before = files.operations
    for number in range(2000):
        store.put(Kind.BLOB, b"%d" % number)
    store.sync()
    assert files.operations - before == 2


def test_what_is_stored_can_be_listed_while_more_is(tmp_path: Path, opened: list[PackObjects]) -> None:
    """As a sweep and a check list the pack to which steps append."""
    store = PackObjects(tmp_path, Files())
    opened.append(store)
    before = {(Kind.BLOB, store.put(Kind.BLOB, b"%d" % number)) for number in range(100)}
    store.sync()
    (pack,) = store.open_packs()
    lists = [iter(pack.records), iter(pack.records.items()), iter(pack.records.keys()), iter(pack.records.values())]
    after = (Kind.BLOB, store.put(Kind.BLOB, b"meanwhile"))
    store.sync()
    assert after in pack.records
    names, items, keys, values = map(list, lists)
    assert set(names) == set(keys) == {name for name, _ in items} == {record.name for record in values} == before


@pytest.mark.parametrize("kind", [Kind.TREE, Kind.SNAPSHOT, Kind.MOVE])
def test_what_could_not_be_read_again_is_not_put(tmp_path: Path, opened: list[PackObjects], kind: Kind) -> None:
    store = PackObjects(tmp_path, Files())
    opened.append(store)
    with pytest.raises(ObjectTooLong, match=f"a {kind.word} of {OBJECT_BYTES_MAX + 1} bytes is too long"):
        store.put(kind, bytes(OBJECT_BYTES_MAX + 1))
    name = store.put(kind, bytes(OBJECT_BYTES_MAX))
    store.sync()
    assert list(store) == [(kind, name)]
    assert len(store.get(kind, name)) == OBJECT_BYTES_MAX
    store.close()
    again = PackObjects(tmp_path, Files())
    opened.append(again)
    assert list(again) == [(kind, name)]


def performed(root: Path, *contents: bytes, seal_bytes: int = 1 << 20) -> list[str]:
    """What opening a store and one sync for each content ask of the disk, but for folders."""
    root.mkdir(exist_ok=True)
    files = FaultyFiles()
    store = PackObjects(root, files, seal_bytes=seal_bytes)
    for content in contents:
        store.put(Kind.BLOB, content)
        store.sync()
    store.close()
    return [operation for operation in files.performed if operation != "make_directory"]


def test_nothing_is_relied_on_before_it_is_durable(tmp_path: Path) -> None:
    """A power cut cannot be had in a test; the order of what is asked of the disk can be. Each sync is needed."""
    new_pack = ["unnamed", "append", "sync", "link", "sync_directory"]
    commit = ["append", "sync"]
    first = ["open", "unnamed", "write", "sync", "link", "open", "sync_directory"]
    opened, seal = ["open", "sync_directory"], ["rename", "unnamed", "write", "sync", "link", "open"]
    assert performed(tmp_path / "a", b"1", b"2") == [*first, *new_pack, *commit, *commit]
    assert performed(tmp_path / "a", b"3") == [*opened, "open", "truncate", "sync", *commit]
    assert performed(tmp_path / "b", b"1" * 50, b"2", seal_bytes=110) == [
        *first,
        *(*new_pack, *commit),
        *(*seal, *new_pack, *commit),
    ]
    large = ["unnamed", "write", "sync", "link", "sync_directory", "sync_directory"]
    assert performed(tmp_path / "c", b"x" * LARGE_BYTES) == [*first, *large]
    # Known to be durable only to the process that made it so.
    assert performed(tmp_path / "c", b"x" * LARGE_BYTES) == [*opened, "sync_directory", "sync_directory"]


def test_pending_bytes_are_bounded(tmp_path: Path, opened: list[PackObjects]) -> None:
    """What was put is in memory until the sync: a large step must not fill it."""
    store = PackObjects(tmp_path, Files())
    opened.append(store)
    for number in range(100):
        store.put(Kind.BLOB, b"%d" % number + b"x" * (LARGE_BYTES - 10))
    written = (tmp_path / "packs" / "00000001.open").stat().st_size
    assert 100 * LARGE_BYTES - written < PENDING_BYTES_MAX + 2 * LARGE_BYTES


def test_two_stores_on_one_folder_see_each_others_objects_after_a_sync(
    tmp_path: Path, opened: list[PackObjects]
) -> None:
    one, other = PackObjects(tmp_path, Files(), seal_bytes=500), PackObjects(tmp_path, Files(), seal_bytes=500)
    opened += [one, other]
    for number in range(30):
        writer, reader = (one, other) if number % 2 else (other, one)
        data = b"%d" % number * 20
        name = writer.put(Kind.BLOB, data)
        with pytest.raises(ObjectMissing):
            reader.get(Kind.BLOB, name)
        writer.sync()
        assert reader.get(Kind.BLOB, name) == data
        assert not reader.find_missing([(Kind.BLOB, name)])
    assert set(one) == set(other)


def test_an_object_of_another_live_process_is_written_again(tmp_path: Path, opened: list[PackObjects]) -> None:
    """It may not be durable yet: only our own and sealed packs count as known."""
    one, other = PackObjects(tmp_path, Files()), PackObjects(tmp_path, Files())
    opened += [one, other]
    name = one.put(Kind.BLOB, b"shared")
    one.sync()
    assert other.get(Kind.BLOB, name) == b"shared"
    other.put(Kind.BLOB, b"shared")
    other.sync()
    one.close()
    (tmp_path / "packs" / "00000001.open").unlink()
    again = PackObjects(tmp_path, Files())
    opened.append(again)
    assert again.get(Kind.BLOB, name) == b"shared"


def test_large_blobs_are_seen_by_others_at_once(tmp_path: Path, opened: list[PackObjects]) -> None:
    one, other = PackObjects(tmp_path, Files()), PackObjects(tmp_path, Files())
    opened += [one, other]
    data = os.urandom(LARGE_BYTES)
    assert other.get(Kind.BLOB, one.put(Kind.BLOB, data)) == data
    assert (Kind.BLOB, blob_id(data)) in set(other)


_WRITER = """
import os, sys
from pathlib import Path
from store.files import Files
from store.ids import Kind
from store.packs import PackObjects
store = PackObjects(Path(sys.argv[1]), Files())
store.put(Kind.BLOB, b"synced by another process")
store.sync()
os.write(store._own.file.descriptor, b"half a record")
print("ready", flush=True)
sys.stdin.read()
"""


def test_nobody_cuts_a_pack_that_a_live_process_holds(tmp_path: Path, opened: list[PackObjects]) -> None:
    name = blob_id(b"synced by another process")
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        pack = tmp_path / "packs" / "00000001.open"
        before = pack.read_bytes()
        store = PackObjects(tmp_path, Files())
        assert store.get(Kind.BLOB, name) == b"synced by another process"
        store.put(Kind.BLOB, b"ours")
        store.sync()
        assert pack.read_bytes() == before
        assert packs(tmp_path) == ["00000001.open", "00000002.open"]
        store.close()
        writer.kill()
        writer.wait()
    heir = PackObjects(tmp_path, Files())
    opened.append(heir)
    assert heir.get(Kind.BLOB, name) == b"synced by another process"
    assert heir.get(Kind.BLOB, blob_id(b"ours")) == b"ours"
    assert pack.read_bytes() == before[: -len(b"half a record")]


@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_a_pack_of_another_format_is_refused(tmp_path: Path, suffix: str) -> None:
    PackObjects(tmp_path, Files()).close()
    (tmp_path / "packs" / f"00000001{suffix}").write_bytes(b"psfpack\x05" + b"x" * 100)
    with pytest.raises(StoreUnusable, match="format 5"):
        PackObjects(tmp_path, Files())
    assert (tmp_path / "packs" / f"00000001{suffix}").stat().st_size == 108


@pytest.mark.parametrize("header", [b"", b"psf", b"something else entirely"])
@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_a_pack_with_a_damaged_header_costs_no_object_that_is_whole(tmp_path: Path, suffix: str, header: bytes) -> None:
    names = filled(tmp_path, b"one", b"two")
    pack = tmp_path / "packs" / "00000001.open"
    body = pack.read_bytes()[PACK_HEADER.size :] if header else b""
    pack.write_bytes(header + body)
    pack.rename(pack.with_suffix(suffix))
    store = PackObjects(tmp_path, Files())
    found = [] if store.find_missing([(Kind.BLOB, name) for name in names]) else names
    assert [store.get(Kind.BLOB, name) for name in found] == ([b"one", b"two"] if header else [])
    store.put(Kind.BLOB, b"three")
    store.sync()
    store.close()


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("suffix", [".open", ".pack"])
def test_a_damaged_number_of_the_format_costs_nothing(tmp_path: Path, suffix: str, bit: int) -> None:
    """A pack with the store's own marker is of no other format."""
    (name,) = filled(tmp_path, b"one")
    pack = tmp_path / "packs" / "00000001.open"
    data = bytearray(pack.read_bytes())
    data[7] ^= 1 << bit
    pack.write_bytes(data)
    pack.rename(pack.with_suffix(suffix))
    store = PackObjects(tmp_path, Files())
    assert store.get(Kind.BLOB, name) == b"one"
    store.close()


def test_a_stranger_in_the_packs_folder_is_named(tmp_path: Path) -> None:
    PackObjects(tmp_path, Files()).close()
    (tmp_path / "packs" / "notes.txt").touch()
    with pytest.raises(StoreUnusable, match="notes"):
        PackObjects(tmp_path, Files())


def test_a_failed_sync_keeps_what_was_put_and_a_later_one_writes_it_to_a_new_pack(tmp_path: Path) -> None:
    files = FaultyFiles()
    store = PackObjects(tmp_path, files)
    store.put(Kind.BLOB, b"first")
    store.sync()
    files.fail_at, files.error = files.operations + 2, errno.EIO
    name = store.put(Kind.BLOB, b"second")
    with pytest.raises(OSError, match="sync"):
        store.sync()
    assert store.get(Kind.BLOB, name) == b"second"
    files.heal()
    store.sync()
    assert packs(tmp_path) == ["00000001.open", "00000002.open"]
    assert files.synced_after_failure == []
    files.close()
    store.close()


def test_a_user_without_rights_can_go_on_with_a_store(tmp_path: Path) -> None:
    """Root may write to any file, which hides a pack that its owner may not open again."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    directory = open_directory(str(tmp_path))
    os.fchmod(directory, 0o777)

    def work() -> None:
        os.fchdir(directory)
        names = filled(Path("store"), b"first", os.urandom(LARGE_BYTES))
        names += filled(Path("store"), b"second", seal_bytes=10)
        names += filled(Path("store"), b"third")
        store = PackObjects(Path("store"), Files())
        assert not store.find_missing([(Kind.BLOB, name) for name in names])
        store.close()

    as_user(12345, work)
    os.close(directory)


class RecordingFiles(Files):
    """Remembers which directories were synced."""

    def __init__(self) -> None:
        self.directories: list[str] = []

    def sync_directory(self, path: str | bytes) -> None:
        self.directories.append(os.fsdecode(path))
        super().sync_directory(path)


def test_the_names_on_the_way_to_a_large_blob_are_synced_even_when_they_were_there(tmp_path: Path) -> None:
    """Whoever made a directory may have died, or failed, before syncing it."""
    data = os.urandom(LARGE_BYTES)
    fan = tmp_path / "large" / object_id(Kind.BLOB, data).hex()[:2]
    fan.mkdir(parents=True)
    files = RecordingFiles()
    store = PackObjects(tmp_path, files)
    store.put(Kind.BLOB, data)
    assert {str(tmp_path), str(tmp_path / "large"), str(fan)} <= set(files.directories)
    store.close()


def test_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    gc.collect()  # what other tests left in cycles must not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        filled(tmp_path, *(b"%d %d" % (number, turn) for turn in range(20)), seal_bytes=200)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_stays_full_is_not_filled_with_attempts(tmp_path: Path) -> None:
    class Full(Files):
        full = True

        def append(self, descriptor: int, buffers: Sequence[bytes]) -> int:
            if self.full and len(buffers) > 1:
                super().append(descriptor, [buffers[0]])
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().append(descriptor, buffers)

    files = Full()
    store = PackObjects(tmp_path, files)
    name = store.put(Kind.BLOB, b"waits")
    descriptors = None
    for _ in range(20):
        with pytest.raises(OSError, match="No space"):
            store.sync()
        descriptors = descriptors or len(os.listdir("/proc/self/fd"))
    assert packs(tmp_path) == ["00000001.open"]
    assert (tmp_path / "packs" / "00000001.open").stat().st_size == PACK_HEADER.size
    assert len(os.listdir("/proc/self/fd")) == descriptors
    files.full = False
    store.sync()
    store.close()
    again = PackObjects(tmp_path, Files())
    assert again.get(Kind.BLOB, name) == b"waits"
    again.close()


def test_a_number_that_another_process_seals_meanwhile_is_not_taken(tmp_path: Path) -> None:
    class Stalled(Files):
        """Between looking for a free number and taking it, another process fills and seals a pack of that number."""

        def __init__(self) -> None:
            self.other: list[bytes] = []

        def link(self, descriptor: int, path: str) -> None:
            if path.endswith("00000001.open") and not self.other:
                self.other.extend(filled(tmp_path, b"a" * 100, seal_bytes=50))
                PackObjects(tmp_path, Files(), seal_bytes=50).close()
            super().link(descriptor, path)

    files = Stalled()
    store = PackObjects(tmp_path, files, seal_bytes=50)
    mine = store.put(Kind.BLOB, b"b" * 100)
    store.sync()
    store.close()
    assert packs(tmp_path) == ["00000001.pack", "00000002.open"]
    again = PackObjects(tmp_path, Files())
    assert [again.get(Kind.BLOB, name) for name in (*files.other, mine)] == [b"a" * 100, b"b" * 100]
    again.close()


def test_what_is_put_after_a_torn_append_can_be_read(tmp_path: Path, opened: list[PackObjects]) -> None:
    """On the pack that this process made itself: its descriptor has a position, which a half-written append has moved."""
    files = FaultyFiles(error=errno.ENOSPC)
    store = PackObjects(tmp_path, files)
    opened.append(store)
    store.put(Kind.BLOB, b"makes the pack")
    store.sync()
    files.fail_at = files.operations + 1
    names = [store.put(Kind.BLOB, b"torn")]
    with pytest.raises(OSError, match="injected into append"):
        store.sync()
    store.sync()
    names.append(store.put(Kind.BLOB, b"after"))
    store.sync()
    assert [store.get(Kind.BLOB, name) for name in names] == [b"torn", b"after"]


def test_what_a_failed_sync_left_in_the_kernels_memory_is_not_trusted_by_the_next_process(tmp_path: Path) -> None:
    """The kernel may show it, believe it written, and lose it: the next process must write it again."""
    files = FaultyFiles()
    store = PackObjects(tmp_path, files)
    name = store.put(Kind.BLOB, b"synced")
    store.sync()
    size_bytes = (tmp_path / "packs" / "00000001.open").stat().st_size
    store.put(Kind.BLOB, b"not synced")
    files.fail_at = files.operations + 2
    with pytest.raises(OSError, match="injected into sync"):
        store.sync()
    store.close()
    files.close()
    assert (tmp_path / "packs" / "00000001.open").stat().st_size == size_bytes
    again = PackObjects(tmp_path, Files())
    assert list(again) == [(Kind.BLOB, name)]
    again.close()
