"""Each call of the client, against the server's own API over a scripted executor."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from executors.fake import Script
from executors.interfaces import Request
from psf.client import (
    NO_RETRIES,
    Client,
    HeadMoved,
    Invalid,
    KeyReused,
    Limits,
    MergeConflicts,
    Misused,
    NewFile,
    NotFound,
    Session,
    Unreachable,
)  # fmt: skip
from store.snapshot import Ending
from tests.psf.service import Bench


@pytest.fixture
async def session(client: Client) -> Session:
    return await client.session("python", name="mine")


async def test_a_session_of_one_line_runs_a_step(url: str) -> None:
    async with Client(url).session("bash") as session:
        result = await session.run("hello")
        assert (result.ok, result.stdout, result.status, result.runtime) == (True, "hello", 0, "bash")
        assert result.snapshot == (await session.info()).head


async def test_a_session_may_be_deleted_at_the_end_of_its_block(client: Client, bench: Bench) -> None:
    async with client.session(delete=True) as session:
        assert not (await session.info()).expired
    bench.clock.now_s += 1
    assert (await session.info()).expired


async def test_a_program_that_fails_is_a_result_and_no_exception(
    client: Client, session: Session, bench: Bench
) -> None:
    def play(request: Request) -> Script:
        return Script(stderr=b"\xff", exit_code=3)

    bench.fake._play = play
    result = await session.run("x")
    assert (result.ok, result.exit_code, result.status, result.ending) == (False, 3, 3, "exited")
    assert result.last.stderr_data == b"\xff"


async def test_a_time_out_has_the_status_that_shells_know(session: Session, bench: Bench) -> None:
    bench.fake._play = lambda _: Script(ending=Ending.TIMED_OUT)
    assert (await session.run("x")).status == 124


async def test_all_that_a_step_can_be_told_reaches_its_program(session: Session, bench: Bench) -> None:
    result = await session.run(
        "out=1", stdin="in", args=["a"], env={"A": "1"}, secrets={"B": "2"}, files={"f": b"\xff", "g": "text"}, fetch=["out"],
        limits=Limits(wall_time_s=5.0), note="why",
    )  # fmt: skip
    assert result.files["out"].data == b"1"
    request = bench.fake.requests[-1]
    assert dict(request.files) == {"f": b"\xff", "g": b"text"}
    assert request.stages[-1].limits.wall_time_s == 5.0
    (move, *_) = [move async for move in session.log()]
    assert move.run["note"] == "why"


async def test_a_stream_tells_what_is_printed_and_then_the_result(session: Session) -> None:
    stream = session.stream("hello")
    with pytest.raises(Misused):
        _ = stream.result
    assert [(event.kind, event.stage, event.text) async for event in stream] == [("stdout", "run", "hello")]
    assert stream.result.stdout == "hello"
    assert (await session.stream("again").finish()).stdout == "again"


async def test_cancelling_where_nothing_runs_says_so(session: Session) -> None:
    assert await session.cancel() is False


async def test_settings_change_and_what_is_not_named_stays(session: Session) -> None:
    info = await session.change(ttl_s=50.0)
    assert (info.name, info.ttl_s) == ("mine", 50.0)
    assert (await session.change(name="other", limits=Limits(processes=7))).limits == Limits(processes=7)


async def test_sessions_are_listed_over_pages_newest_first(client: Client, bench: Bench) -> None:
    made = []
    for _ in range(5):
        bench.clock.now_s += 1
        made.append((await client.session()).session_id)
    assert [info.session_id async for info in client.sessions(page=2)] == made[::-1]


async def test_a_deleted_session_can_be_undeleted(client: Client, session: Session, bench: Bench) -> None:
    await session.delete()
    bench.clock.now_s += 1
    assert [info async for info in client.sessions()] == []
    assert [info.expired async for info in client.sessions(expired=True)] == [True]
    assert not (await session.undelete(ttl_s=9.0)).expired


async def test_places_of_a_history_are_found_as_servers_find_them(session: Session, client: Client) -> None:
    heads = [(await session.info()).head]
    heads += [(await session.run(f"a={number}")).snapshot for number in range(4)]
    await session.rollback(2)
    heads.append((await session.run("b=1")).snapshot)
    await client.tag("good", session=session, at=1)
    for place in (None, 0, 1, 4, "3", "-1", "-2", "-3", heads[4], heads[4][:10], "good"):
        found = await session.find(place)
        there = await client.read_file(found, "a") if place not in (0, "-3") else b""
        fork = await session.fork(start=place) if place is not None else session
        assert (await fork.info()).head == (found if place != "good" else heads[1]), place
        assert there == (await client.read_file((await fork.info()).head, "a") if there else b"")
        if fork is not session:
            assert await fork.find("-0") == (await fork.info()).head
    for place in (9, "-7", "abcdef0"):
        with pytest.raises(Misused):
            await session.find(place)


async def test_a_forks_history_goes_back_beyond_its_own_log(session: Session) -> None:
    heads = [(await session.run(f"a={number}")).snapshot for number in range(3)]
    fork = await session.fork(name="second")
    assert [await fork.find(place) for place in ("-1", 1, heads[0][:8])] == [heads[1], heads[0], heads[0]]


async def test_many_forks_are_made_at_once(session: Session) -> None:
    head = (await session.run("a=1")).snapshot
    forks = [*await session.fork_many(2), *await session.fork_many(names=["x", "y"])]
    assert {(await fork.info()).head for fork in forks} == {head}
    assert [(await fork.info()).name for fork in forks[2:]] == ["x", "y"]


async def test_histories_are_merged_and_conflicts_name_the_paths(session: Session) -> None:
    await session.run("a=1")
    other = await session.fork()
    await other.write({"b": "theirs"})
    await session.write({"c": "ours"})
    await session.merge(other)
    assert [entry.path async for entry in session.files()] == ["a", "b", "c"]
    await other.write({"c": "theirs"})
    with pytest.raises(MergeConflicts) as raised:
        await session.merge(other)
    assert raised.value.paths == ("c",)
    await session.merge(other, on_conflict="theirs")
    assert await session.read_file("c") == b"theirs"


async def test_files_are_written_read_by_ranges_and_deleted(session: Session) -> None:
    await session.write({"d/a": "text", "d/b": NewFile(b"#!", executable=True)})
    await session.write_file("d/c ü?#%41", bytes(range(100)), executable=True)
    kinds = {entry.path: entry.kind async for entry in session.files()}
    assert kinds == {"d": "directory", "d/a": "file", "d/b": "executable", "d/c ü?#%41": "executable"}
    whole = await session.read_file("d/c ü?#%41")
    assert whole == bytes(range(100))
    for start, stop in ((0, 10), (90, None), (None, 5), (50, 51), (200, None), (5, 5), (-7, None)):
        assert await session.read_file("d/c ü?#%41", start=start, stop=stop) == whole[start:stop]
    await session.delete_file("d/a")
    await session.write(delete=["d"])
    assert [entry async for entry in session.files()] == []
    assert await session.read_file("d/a", at="-3") == b"text"
    with pytest.raises(NotFound):
        await session.read_file("d/a")


async def test_a_manifest_is_read_over_pages(session: Session, client: Client) -> None:
    head = await session.write({f"{number:03}": "x" for number in range(25)})
    assert len([entry async for entry in client.manifest(head, page=10)]) == 25


async def test_a_snapshot_tells_what_was_asked_and_seen(session: Session, client: Client) -> None:
    first = await session.run("hello")
    snapshot = await client.snapshot(first.snapshot)
    assert (snapshot.step, snapshot.kind, snapshot.did["code"], snapshot.stages["run"].stdout) == (
        1,
        "run",
        "hello",
        "hello",
    )


async def test_differences_are_told_by_path_and_as_text(session: Session) -> None:
    await session.write({"a": "1\n"})
    await session.write({"a": "2\n", "b": "3\n"})
    diff = await session.diff("-1", unified=True)
    assert [(change.path, change.change) for change in diff.changes] == [("a", "changed"), ("b", "added")]
    assert diff.unified is not None
    assert {"-1", "+2", "+3"} <= set(diff.unified)


async def test_a_history_is_replayed_verified_bisected_and_blamed(session: Session, bench: Bench) -> None:
    for number in range(4):
        await session.run(f"a{number}=x")
    assert (await session.replay()).same
    changed = await session.replay(change={2: {"code": "a1=y"}})
    assert (changed.same, changed.different[0].step) == (False, 2)
    assert (await session.verify()).steps == 4
    blame = await session.blame("a2")
    assert (blame.step, blame.kind) == (3, "run")
    assert (await session.bisect("check", runtime="bash")).step is None


async def test_tags_name_snapshots(session: Session, client: Client) -> None:
    head = await session.write({"a": "1"})
    assert (await client.tag("good", head)).snapshot == head
    await session.write({"a": "2"})
    await client.tag("newer", session=session)
    assert [tag.name for tag in await client.tags()] == ["good", "newer"]
    assert await client.read_file("good", "a") == b"1"
    begun = await client.session(start="good")
    assert await begun.read_file("a") == b"1"
    await client.untag("good")
    with pytest.raises(NotFound):
        await client.untag("good")


async def test_archives_go_out_and_come_in(session: Session, client: Client, tmp_path: Path) -> None:
    head = await session.write({"d/a": "1"})
    out = io.BytesIO(b"before")
    out.seek(6)
    size_bytes = await client.archive(head, out, format="tar.gz")
    assert out.getvalue()[:6] == b"before"
    assert len(out.getvalue()) == 6 + size_bytes
    data = out.getvalue()[6:]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["d", "d/a"]
    (tmp_path / "x.tgz").write_bytes(data)
    for number, source in enumerate((data, io.BytesIO(data), tmp_path / "x.tgz")):
        uploaded = await client.upload(source, f"in{number}")
        assert uploaded.files == 1
        assert await (await client.session(start=f"in{number}")).read_file("d/a") == b"1"


async def test_a_bundle_carries_a_session(session: Session, client: Client) -> None:
    await session.run("a=1")
    out = io.BytesIO()
    await client.export_bundle(session.session_id, out)
    taken = await client.import_bundle(out.getvalue(), session_id="copy")
    assert (taken.session_id, taken.change) == ("copy", "created")
    assert await client.attach("copy").read_file("a") == b"1"
    assert (await client.import_bundle(out.getvalue(), session_id="copy")).change == "unchanged"


async def test_the_server_tells_its_languages_and_its_health(client: Client) -> None:
    assert {"python", "bash"} <= {runtime.name for runtime in await client.runtimes()}
    health = await client.health()
    assert (health.status, health.sandbox["sandbox"]) == ("ok", "fake")


async def test_errors_are_told_apart(session: Session, client: Client) -> None:
    head = (await session.info()).head
    await session.run("a=1", key="k")
    with pytest.raises(HeadMoved) as moved:
        await session.run("a=2", expected=head)
    assert moved.value.expected == head
    with pytest.raises(KeyReused):
        await session.run("a=3", key="k")
    with pytest.raises(Invalid) as invalid:
        await session.run("x", env={"1": "no name"})
    assert (invalid.value.status, invalid.value.field, invalid.value.code) == (422, "env.1", "invalid_field")
    with pytest.raises(NotFound) as missing:
        await client.attach("nobody's").info()
    assert missing.value.code == "session_missing"
    with pytest.raises(Misused):
        Client("localhost:8080")


async def test_a_repeat_under_one_key_is_told_and_done_once(session: Session, bench: Bench) -> None:
    first = await session.run("a=1", key="k")
    again = await session.run("a=1", key="k")
    assert (first.snapshot, again.repeated) == (again.snapshot, True)
    assert await bench.moves(session.session_id) == ["create", "execute"]


async def test_folders_are_put_and_got_and_nothing_leads_out_of_them(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub/run.sh").write_text("#!")
    (folder / "sub/run.sh").chmod(0o755)
    (folder / "link").symlink_to("/etc/passwd")
    await session.put(folder, "data")
    await session.put(folder / "a.txt", "single")
    assert await session.get("data", tmp_path / "out") == ()
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == {
        "a.txt", "sub", "sub/run.sh",
    }  # fmt: skip
    assert (tmp_path / "out/sub/run.sh").stat().st_mode & 0o100
    await session.get("single", tmp_path / "one")
    await session.get("single", tmp_path)
    assert (tmp_path / "one").read_text() == (tmp_path / "single").read_text() == "a"
    with pytest.raises(Misused):
        await session.get("nothing", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misused):
        await session.put(tmp_path / "empty", "x")


async def test_a_stream_tells_bytes_that_are_no_text_as_they_are(session: Session, bench: Bench) -> None:
    data = b"a\xff" + "ü".encode() + b"\xc3"
    bench.fake._play = lambda _: Script(stdout=data)
    events = [event async for event in session.stream("x")]
    assert b"".join(event.data for event in events) == data
    assert "".join(event.text for event in events).startswith("a\ufffdü")


async def test_a_file_that_cannot_be_written_is_no_lost_connection(session: Session, client: Client) -> None:
    class Full(io.BytesIO):
        writes = 0

        def write(self, data: object) -> int:
            self.writes += 1
            raise BrokenPipeError("nobody reads")

    head = await session.write({"a": "1"})
    full = Full()
    with pytest.raises(BrokenPipeError):
        await client.archive(head, full)
    assert full.writes == 1


def test_a_client_of_another_loop_says_so() -> None:
    client = Client("http://127.0.0.1:9", retries=NO_RETRIES)

    async def ask() -> None:
        await client.health()

    first = asyncio.new_event_loop()
    with pytest.raises(Unreachable):
        first.run_until_complete(ask())
    with pytest.raises(Misused, match="another loop"):
        asyncio.run(ask())
    first.run_until_complete(client.close())
    first.close()
    with pytest.raises(Unreachable):
        asyncio.run(_ask_and_close(client))


async def _ask_and_close(client: Client) -> None:
    try:
        await client.health()
    finally:
        await client.close()
