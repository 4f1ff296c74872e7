"""A store folder whose heads are in Redis: which Redis is theirs, moving them there, losing them, and keeping the packs in order."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from store.errors import HeadMoved, StoreUnusable
from store.files import Files
from store.ids import Kind, SnapshotId
from store.interfaces import Move, Pin
from store.journalled import moves_of, read_all
from store.local import LocalStore
from store.moves import first_move
from store.redis_address import RedisSettings
from store.redis_heads import HeadsLost
from store.snapshot import EMPTY_SNAPSHOT_ID
from store.testing import move, session
from tests.redisd.server import TestRedis
from tests.store.history import TENANT, begin, files_of, never, put_step, step
from tests.store.redis_workbench import settings


@pytest.fixture
def given(redis_server: TestRedis) -> RedisSettings:
    return settings(redis_server)


@pytest.fixture
def store(tmp_path: Path, given: RedisSettings) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store", redis=given)
    begin(store, "a")
    step(store, "a", {b"f": b"one"})
    yield store
    store.close()


def heads_of(store: LocalStore) -> dict[str, bytes]:
    return {last.session.session_id: last.session.head for last in store.heads.last_moves()}


def test_sessions_are_there_again_and_nothing_of_them_in_the_folder(store: LocalStore, given: RedisSettings) -> None:
    head = heads_of(store)
    store.close()
    assert not list(store.root.glob("heads.sqlite*"))
    again = LocalStore(store.root, redis=given)
    assert heads_of(again) == head
    assert files_of(again, again.heads.get("a", TENANT).head) == {b"f": b"one"}
    assert again.check(full=True)[0].clean
    again.close()


def test_two_stores_on_one_redis_need_two_prefixes(store: LocalStore, given: RedisSettings, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="another redis_prefix"):
        LocalStore(tmp_path / "other", redis=given)
    other = LocalStore(tmp_path / "third", redis=RedisSettings(given.url, "other"))
    assert heads_of(other) == {}
    other.close()
    assert len(heads_of(store)) == 1


def test_without_its_redis_a_store_does_not_look_empty(store: LocalStore) -> None:
    store.close()
    with pytest.raises(StoreUnusable, match="are in Redis: name it, as redis_url"):
        LocalStore(store.root)
    assert not list(store.root.glob("heads.sqlite*"))


def test_heads_in_sqlite_are_moved_by_repair_and_never_hidden(tmp_path: Path, given: RedisSettings) -> None:
    store = LocalStore(tmp_path / "store")
    begin(store, "a")
    step(store, "a", {b"f": b"one"})
    store.heads.pin(Pin("kept", EMPTY_SNAPSHOT_ID, 5.0))
    before, log, pins = heads_of(store), store.heads.log("a", before=None, limit=9), store.heads.pins()
    store.close()
    for act in (LocalStore, LocalStore.mend):
        with pytest.raises(StoreUnusable, match=r"are in heads\.sqlite, not in the Redis"):
            act(store.root, redis=given)  # type: ignore[operator]
    for path in store.root.glob("heads.sqlite*"):
        path.unlink()
    with pytest.raises(HeadsLost, match="--repair"):
        LocalStore(store.root, redis=given)
    assert LocalStore.mend(store.root, redis=given).report.clean
    moved = LocalStore(store.root, redis=given)
    assert heads_of(moved) == before
    assert moved.heads.log("a", before=None, limit=9) == log
    assert moved.heads.pins() == pins
    moved.close()


def test_what_an_emptied_redis_held_is_made_again_from_the_packs(
    store: LocalStore, given: RedisSettings, redis_server: TestRedis
) -> None:
    step(store, "a", {b"f": b"two"})
    begin(store, "gone", used_at_s=1.0)
    assert store.heads.drop_unused_since(500.0, is_running=lambda _: False) == 1
    pins = [Pin("kept", EMPTY_SNAPSHOT_ID, 5.0), Pin("moved", EMPTY_SNAPSHOT_ID, 7.0)]
    # "moved" by a clock that was set back.
    for pin in (Pin("moved", EMPTY_SNAPSHOT_ID, 9.0), *pins, Pin("away", EMPTY_SNAPSHOT_ID, 5.0)):
        store.heads.pin(pin)
    assert store.heads.unpin("away")
    before, log = heads_of(store), store.heads.log("a", before=None, limit=9)
    redis_server.command("FLUSHALL")
    with pytest.raises(HeadsLost):
        store.heads.get("a", TENANT)
    store.close()
    with pytest.raises(HeadsLost, match="holds nothing of this store"):
        LocalStore(store.root, redis=given)
    mended = LocalStore.mend(store.root, redis=given)
    assert mended.report.clean
    assert any("session a was brought to its move 3" in line for line in mended.done)
    again = LocalStore(store.root, redis=given)
    assert heads_of(again) == before
    assert again.heads.log("a", before=None, limit=9) == log
    assert again.heads.pins() == pins
    step(again, "a", {b"f": b"three"})
    again.close()


def test_an_old_copy_of_redis_is_told_and_brought_up_to_date(
    store: LocalStore, given: RedisSettings, redis_server: TestRedis, tmp_path: Path
) -> None:
    shutil.copytree(redis_server.folder / "appendonlydir", tmp_path / "old")
    step(store, "a", {b"f": b"two"})
    log = store.heads.log("a", before=None, limit=9)
    redis_server.kill()
    shutil.rmtree(redis_server.folder / "appendonlydir")
    shutil.copytree(tmp_path / "old", redis_server.folder / "appendonlydir")
    redis_server.start()
    with pytest.raises(HeadsLost, match="has lost changes"):
        store.heads.get("a", TENANT)
    store.close()
    again = LocalStore(store.root, redis=given)
    report, _ = again.check(full=True)
    assert report.behind == ("a: the packs know 3 moves, the heads database less",)
    again.close()
    assert LocalStore.mend(store.root, redis=given).report.clean
    again = LocalStore(store.root, redis=given)
    assert again.heads.log("a", before=None, limit=9) == log
    again.close()


def test_what_nothing_needs_is_swept_and_what_redis_names_is_kept(store: LocalStore) -> None:
    lease = store.leases.try_acquire("x")
    assert lease is not None
    assert lease.epoch == 0
    lease.release()
    lost = put_step(store, EMPTY_SNAPSHOT_ID, 1, {b"f": os.urandom(3000)})
    step(store, "a", {b"f": b"two"})
    store.objects.seal()
    report = store.sweep(dry=False, pause=never)
    assert report.packs
    assert not report.fenced
    assert store.check(full=True)[0].clean
    assert files_of(store, store.heads.get("a", TENANT).head) == {b"f": b"two"}
    with pytest.raises(Exception, match="has no snapshot"):
        files_of(store, lost)
    lease = store.leases.try_acquire("x")
    assert lease is not None
    assert lease.epoch == 1
    lease.release()
    step(store, "a", {b"f": b"three"})


def test_another_server_hears_of_an_epoch_without_asking(store: LocalStore, given: RedisSettings) -> None:
    other = LocalStore(store.root, redis=given)
    epoch = store.heads.begin_epoch()
    lease = other.leases.try_acquire("x")
    assert lease is not None
    assert lease.epoch == epoch == 1
    lease.release()
    other.close()


def test_a_store_that_was_made_while_redis_was_away_is_made_when_it_is_back(
    tmp_path: Path, given: RedisSettings, redis_server: TestRedis
) -> None:
    redis_server.kill()
    hasty = RedisSettings(given.url, given.prefix, patience_s=0.2)
    with pytest.raises(StoreUnusable, match="cannot be reached"):
        LocalStore(tmp_path / "store", redis=hasty)
    redis_server.start()
    store = LocalStore(tmp_path / "store", redis=hasty)
    begin(store, "a")
    store.close()


@pytest.mark.parametrize(
    "content", [b"", b"psf heads in redis 1\nxyz\n", b"psf heads in redis 2\n" + b"1" * 32 + b"\n"]
)
def test_a_damaged_file_about_redis_is_named(store: LocalStore, given: RedisSettings, content: bytes) -> None:
    store.close()
    path = store.root / "heads.redis"
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match=r"heads\.redis of the store is damaged"):
        LocalStore(store.root, redis=given)


_WITHOUT = """
import sys
sys.modules["redis"] = None
from pathlib import Path
from store.errors import StoreUnusable
from store.local import LocalStore
from store.redis_address import RedisSettings
try:
    LocalStore(Path(sys.argv[1]), redis=RedisSettings("redis://localhost"))
except StoreUnusable as error:
    print(error)
LocalStore(Path(sys.argv[1])).close()
"""


def test_without_the_client_it_is_said_what_to_install_and_other_stores_open(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT, str(tmp_path / "store")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "heads in Redis need its client: pip install 'persistent-sandbox-fusion[redis]'\n"


class FailingSync(Files):
    """A disk that syncs no more from a moment on."""

    broken = False

    def sync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        super().sync(descriptor)


def test_redis_hears_of_nothing_that_a_power_cut_could_take(tmp_path: Path, given: RedisSettings) -> None:
    files = FailingSync()
    store = LocalStore(tmp_path / "store", files, redis=given)
    begin(store, "a")
    log = store.heads.log("a", before=None, limit=9)
    files.broken = True
    put = SnapshotId(store.objects.put(Kind.SNAPSHOT, b"what is put and not durable"))
    other = msgspec.structs.replace(session("b"), head=put)
    changes: list[Callable[[], object]] = [
        lambda: store.heads.advance("a", EMPTY_SNAPSHOT_ID, msgspec.structs.replace(move(1), to_snapshot=put)),
        lambda: store.heads.create([other], "create"),
        lambda: store.heads.restore(other, [first_move(other, "create")]),
        lambda: store.heads.pin(Pin("p", put, 5.0)),
        lambda: store.heads.extend(
            "a", 1, [Move(2, "execute", EMPTY_SNAPSHOT_ID, put, 5.0, b"")], runtime="bash", used_at_s=5.0
        ),
    ]
    for change in changes:
        with pytest.raises(OSError, match="broken"):
            change()
    assert {snapshot for _, snapshot in store.heads.roots()} == {EMPTY_SNAPSHOT_ID}
    assert store.heads.log("a", before=None, limit=9) == log
    files.broken = False
    store.close()


@pytest.mark.parametrize("told_s", [3600.0, 0.05], ids=["just now", "a while ago"])
def test_a_server_that_is_killed_leaves_packs_that_know_no_more_than_redis(
    given: RedisSettings, tmp_path: Path, told_s: float
) -> None:
    store = LocalStore(tmp_path / "store", redis=msgspec.structs.replace(given, told_s=told_s))
    begin(store, "a")
    snapshot = step(store, "a", {b"f": b"one"})
    with pytest.raises(HeadMoved):
        store.heads.advance("a", EMPTY_SNAPSHOT_ID, msgspec.structs.replace(move(1), to_snapshot=snapshot))
    begin(store, "gone", used_at_s=1.0)
    store.heads.drop_unused_since(500.0, is_running=lambda _: False)
    step(store, "a", {b"f": b"two"})
    time.sleep(10 * told_s if told_s < 1 else 0)
    shutil.copytree(store.root, tmp_path / "killed")
    after = LocalStore(tmp_path / "killed", redis=given)
    report, _ = after.check(full=True)
    assert report.clean, report
    known = max(record.sequence for record in moves_of(read_all(after.objects).values()))
    assert known == (2 if told_s > 1 else 3)
    after.close()
    store.close()
