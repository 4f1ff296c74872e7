"""`/v1`: files written and deleted, merges, snapshots and what they hold, diffs, tags, archives and bundles; and whose they are."""

from __future__ import annotations

import asyncio
import io
import tarfile
import zipfile
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient, TestServer

from psf.api import streams
from psf.api.keys import SERVICES
from store.snapshot import EMPTY_SNAPSHOT_ID
from tests.psf.api.conftest import Api, application
from tests.psf.api.test_v1_sessions import _JSON, _json, made, ran
from tests.psf.service import Bench


async def contents(api: Api, snapshot: str) -> dict[str, str]:
    _, manifest = await api.get(f"/v1/snapshots/{snapshot}/manifest")
    found = {}
    for entry in manifest["entries"]:
        if entry["kind"] in ("file", "executable"):
            async with api.client.get(f"/v1/snapshots/{snapshot}/files/{entry['path']}") as response:
                assert response.status == 200
                found[entry["path"]] = (await response.read()).decode()
    return found


async def long_tree(api: Api, count: int) -> str:
    session = (await made(api))["session_id"]
    for number in range(count):
        async with api.client.put(f"/v1/sessions/{session}/files/f{number}", data=b"x" * 400_000) as response:
            head: str = (await response.json())["head"]
    return head


async def test_files_are_written_and_deleted_in_one_step(api: Api) -> None:
    session = (await made(api, files={"old": {"text": "o"}, "d/x": {"text": "x"}, "d/y": {"text": "y"}}))["session_id"]
    body = {"write": {"new": {"text": "n"}, "d/x": {"text": "X"}}, "delete": ["old", "d/y"]}
    status, answer = await api.post(f"/v1/sessions/{session}/files", body)
    assert status == 200
    assert await contents(api, answer["head"]) == {"new": "n", "d/x": "X"}
    _, snapshot = await api.get(f"/v1/snapshots/{answer['head']}")
    assert (snapshot["kind"], snapshot["step"]) == ("write", 2)
    assert snapshot["did"] == {"written": {"new": 1, "d/x": 1}, "deleted": ["d/y", "old"]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_field"),
        ({"delete": ["nothing"]}, 404, "path_missing"),
        ({"delete": ["../x"]}, 422, "invalid_field"),
        ({"write": {"a": {"text": "", "base64": ""}}}, 422, "invalid_field"),
        ({"write": {"/etc/a": {"text": ""}}}, 422, "invalid_field"),
        ({"write": {"x": {"text": ""}, "x/y": {"text": ""}}}, 422, "invalid_field"),
    ],
)
async def test_what_cannot_be_written_or_deleted_changes_nothing(
    api: Api, body: dict[str, Any], status: int, code: str
) -> None:
    session = (await made(api))["session_id"]
    before = await api.state(session)
    answered = await api.post(f"/v1/sessions/{session}/files", body)
    assert (answered[0], answered[1]["error"]["code"]) == (status, code)
    assert await api.state(session) == before


async def test_one_file_is_put_and_deleted_by_its_path(api: Api) -> None:
    session = (await made(api))["session_id"]
    path = f"/v1/sessions/{session}/files/d/run.sh"
    data = bytes(range(256))
    async with api.client.put(f"{path}?executable=true", data=data) as response:
        assert response.status == 200
        head = (await response.json())["head"]
    async with api.client.get(f"/v1/snapshots/{head}/files/d/run.sh") as response:
        assert await response.read() == data
    _, manifest = await api.get(f"/v1/snapshots/{head}/manifest")
    assert [entry["kind"] for entry in manifest["entries"]] == ["directory", "executable"]
    status, answer = await api.send("DELETE", path, None)
    assert status == 200
    assert await contents(api, answer["head"]) == {}
    assert (await api.send("DELETE", path, None))[0] == 404


async def test_two_histories_are_merged_and_conflicts_are_told_with_both_sides(api: Api) -> None:
    session = (await made(api, files={"both": {"text": "1"}, "ours": {"text": "1"}}))["session_id"]
    _, forks = await api.post(f"/v1/sessions/{session}/fork", {})
    other = forks["sessions"][0]["session_id"]
    await ran(api, session, "ours=2")
    await ran(api, other, "theirs=2")
    status, answer = await api.post(f"/v1/sessions/{session}/merge", {"from": other})
    assert status == 200
    assert await contents(api, answer["head"]) == {"both": "1", "ours": "2", "theirs": "2"}
    await ran(api, session, "both=ours")
    await ran(api, other, "both=theirs")
    before = await api.state(session)
    status, answer = await api.post(f"/v1/sessions/{session}/merge", {"from": other})
    assert (status, answer["error"]["code"]) == (409, "merge_conflicts")
    (conflict,) = answer["error"]["conflicts"]
    assert conflict["path"] == "both"
    assert len({conflict[side]["id"] for side in ("base", "ours", "theirs")}) == 3
    assert await api.state(session) == before
    _, answer = await api.post(f"/v1/sessions/{session}/merge", {"from": other, "on_conflict": "theirs"})
    assert (await contents(api, answer["head"]))["both"] == "theirs"
    stranger = (await made(api))["session_id"]
    await ran(api, stranger, "x=1")
    assert (await api.post(f"/v1/sessions/{session}/merge", {"from": "nobody"}))[0] == 404


async def test_a_manifest_comes_in_pages_that_go_on_wherever_one_ended(api: Api) -> None:
    files = {f"{top}/{sub}/{number}": {"text": ""} for top in "ab" for sub in "xyz" for number in range(3)} | {
        "a!": {"text": ""}
    }
    head = (await made(api, files=files))["head"]
    _, whole = await api.get(f"/v1/snapshots/{head}/manifest?limit=10000")
    paths = [entry["path"] for entry in whole["entries"]]
    assert len(paths) == len(set(paths)) == 19 + 8
    assert paths == sorted(paths, key=lambda path: path.split("/"))
    for limit in (1, 2, 5, 26, 27):
        seen: list[str] = []
        cursor = ""
        while True:
            _, page = await api.get(f"/v1/snapshots/{head}/manifest?limit={limit}{cursor}")
            seen += [entry["path"] for entry in page["entries"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert seen == paths


@pytest.mark.parametrize(
    ("wanted", "status", "data"),
    [
        ("bytes=0-3", 206, b"0123"), ("bytes=4-", 206, b"456789"), ("bytes=-2", 206, b"89"), ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""), ("bytes=5-2", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"), ("", 200, b"0123456789"),
    ],
)  # fmt: skip
async def test_a_range_of_a_file_is_served(api: Api, wanted: str, status: int, data: bytes) -> None:
    head = (await made(api, files={"f.html": {"text": "0123456789"}}))["head"]
    async with api.client.get(
        f"/v1/snapshots/{head}/files/f.html", headers={"Range": wanted} if wanted else {}
    ) as response:
        assert (response.status, await response.read()) == (status, data)
        assert response.headers["Content-Security-Policy"] == "sandbox"
        tag = response.headers["ETag"]
    async with api.client.get(f"/v1/snapshots/{head}/files/f.html", headers={"If-None-Match": tag}) as response:
        assert response.status == 304


async def test_a_file_may_be_kept_under_an_id_and_not_under_a_tag(api: Api) -> None:
    session = await made(api, files={"f": {"text": "x"}})
    assert (await api.send("PUT", "/v1/tags/here", _json({"snapshot": session["head"]}), **_JSON))[0] == 200
    for name, lasts in ((session["head"], True), ("here", False)):
        async with api.client.get(f"/v1/snapshots/{name}/files/f") as response:
            assert ("immutable" in response.headers["Cache-Control"]) == lasts


async def test_what_is_no_file_is_not_served_as_one(api: Api) -> None:
    head = (await made(api, files={"d/f": {"text": ""}}))["head"]
    assert (await api.get(f"/v1/snapshots/{head}/files/d"))[0] == 422
    status, answer = await api.get(f"/v1/snapshots/{head}/files/x")
    assert (status, answer["error"]["code"]) == (404, "path_missing")


async def test_a_diff_tells_paths_kinds_and_sizes_and_lines_when_asked(api: Api) -> None:
    session = await made(api, files={"a": {"text": "one\ntwo\n"}, "gone": {"text": "x"}})
    body = {"write": {"a": {"text": "one\n2\n"}, "new": {"text": "n"}}, "delete": ["gone"]}
    _, after = await api.post(f"/v1/sessions/{session['session_id']}/files", body)
    path = f"/v1/diff?from={session['head']}&to={after['head']}"
    _, answer = await api.get(path)
    assert [(change["path"], change["change"]) for change in answer["changes"]] == [
        ("a", "changed"), ("gone", "removed"), ("new", "added"),
    ]  # fmt: skip
    assert (answer["changes"][0]["before"]["size_bytes"], answer["changes"][0]["after"]["size_bytes"]) == (8, 6)
    assert (answer["unified"], answer["truncated"]) == (None, False)
    _, answer = await api.get(f"{path}&unified=true")
    assert {"-two", "+2", "diff --git a/a b/a"} <= set(answer["unified"])
    for wrong in ("/v1/diff", "/v1/diff?from=x", f"/v1/diff?from={session['head']}&to="):
        assert (await api.get(wrong))[0] == 422


async def test_tags_name_snapshots_move_and_go(api: Api) -> None:
    session = (await made(api))["session_id"]
    heads = [(await ran(api, session, f"f{number}=x"))["snapshot"] for number in range(3)]
    status, answer = await api.send("PUT", "/v1/tags/v1.0", _json({"snapshot": heads[0]}), **_JSON)
    assert (status, answer["name"], answer["snapshot"]) == (200, "v1.0", heads[0])
    _, answer = await api.send("PUT", "/v1/tags/v1.0", _json({"session": session, "at": "-1"}), **_JSON)
    assert answer["snapshot"] == heads[1]
    _, listed = await api.get("/v1/tags")
    assert [(tag["name"], tag["snapshot"]) for tag in listed["tags"]] == [("v1.0", heads[1])]
    assert (await api.get("/v1/snapshots/v1.0"))[1]["id"] == heads[1]
    async with api.client.delete("/v1/tags/v1.0") as response:
        assert response.status == 204
    assert (await api.send("DELETE", "/v1/tags/v1.0", None))[0] == 404
    assert (await api.get("/v1/snapshots/v1.0"))[0] == 404
    for name in ("1a", "a%20b", "abcdef0", "a%2Fb", "x" * 101):
        status, answer = await api.send("PUT", f"/v1/tags/{name}", _json({"snapshot": heads[0]}), **_JSON)
        assert status in (404, 422), name
    for body in ({}, {"snapshot": heads[0], "session": session}, {"snapshot": "ab" * 32}, {"session": "nobody"}):
        assert (await api.send("PUT", "/v1/tags/t", _json(body), **_JSON))[0] in (404, 422)


async def test_a_tree_goes_out_as_an_archive_and_comes_in_again(api: Api) -> None:
    head = (await made(api, files={"d/a": {"text": "1"}, "b": {"text": "2", "executable": True}}))["head"]
    trees = set()
    for form in ("tar", "tar.gz", "zip"):
        async with api.client.get(f"/v1/snapshots/{head}/archive?format={form}") as response:
            assert response.status == 200
            data = await response.read()
        if form == "zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert archive.read("d/a") == b"1"
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert {member.name.rstrip("/") for member in archive} >= {"d/a", "b"}
        async with api.client.post(f"/v1/snapshots?tag=in-{form}", data=data) as response:
            assert response.status == 201, await response.text()
            imported = await response.json()
        assert (imported["files"], imported["left_out"], imported["tag"]) == (2, [], f"in-{form}")
        assert await contents(api, f"in-{form}") == {"d/a": "1", "b": "2"}
        trees.add((await api.get(f"/v1/snapshots/in-{form}"))[1]["tree"])
        await made(api, **{"from": f"in-{form}"})
    assert len(trees) == 1


async def test_what_is_no_archive_is_refused_and_names_nothing(api: Api) -> None:
    for data in (b"", b"no archive" * 100, b"PK\x03\x04" + bytes(100)):
        async with api.client.post("/v1/snapshots?tag=t", data=data) as response:
            assert response.status == 422, data[:10]
    async with api.client.post("/v1/snapshots", data=b"") as response:
        assert response.status == 422
    assert (await api.get("/v1/tags"))[1]["tags"] == []
    head = EMPTY_SNAPSHOT_ID.hex()
    assert (await api.get(f"/v1/snapshots/{head}/archive?format=rar"))[0] == 422


async def test_an_archive_that_fails_midway_is_cut_off_and_not_taken_for_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = await long_tree(api, 8)
    exchange = api.client.server.app[SERVICES].exchange  # type: ignore[union-attr]
    export = exchange.export_archive

    def broken(snapshot: Any, form: Any, stream: Any) -> None:
        export(snapshot, form, stream)
        stream.flush()
        raise OSError("the disk is gone")

    monkeypatch.setattr(exchange, "export_archive", broken)
    with pytest.raises(ClientPayloadError):
        async with api.client.get(f"/v1/snapshots/{head}/archive") as response:
            await response.read()


async def test_who_stops_reading_an_archive_lets_go_of_its_writer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECE_BYTES", 4096)
    head = await long_tree(api, 20)
    response = await api.client.get(f"/v1/snapshots/{head}/archive")
    await response.content.read(10)
    response.close()
    for _ in range(100):
        await asyncio.sleep(0.02)
    async with api.client.get(f"/v1/snapshots/{head}/archive") as response:
        assert len(await response.read()) > 8_000_000


async def test_a_session_goes_elsewhere_as_a_bundle_and_goes_on_there(api: Api, tmp_path: Any) -> None:
    session = (await made(api, name="travels"))["session_id"]
    for number in range(3):
        await ran(api, session, f"f{number}=x")
    async with api.client.get(f"/v1/sessions/{session}/bundle") as response:
        data = await response.read()
    elsewhere = Bench(tmp_path / "elsewhere")
    try:
        async with TestClient(TestServer(application(elsewhere))) as client:
            there = Api(client, elsewhere)
            for outcome in ("created", "unchanged"):
                async with client.post("/v1/bundles", data=data) as response:
                    assert (response.status, (await response.json())["change"]) == (201, outcome), await response.text()
            assert await elsewhere.head(session) == await api.bench.head(session)
            await ran(there, session, "more=x")
            async with client.post("/v1/bundles?session=copy", data=data) as response:
                assert (await response.json())["session_id"] == "copy"
            for wrong in (b"", data[:-10], data[:100] + b"x" + data[101:]):
                async with client.post("/v1/bundles", data=wrong) as response:
                    assert (response.status, (await response.json())["error"]["code"]) == (422, "bundle_refused")
    finally:
        elsewhere.close()


async def test_a_request_that_made_a_session_has_not_made_its_copy(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    session = (await made(api))["session_id"]
    path = f"/v1/sessions/{session}/execute"
    _, first = await api.post(path, {"code": "a=1"}, **key)
    _, forks = await api.post(f"/v1/sessions/{session}/fork", {}, **key)
    for copied, name in ((session, "copy"), (forks["sessions"][0]["session_id"], "forked")):
        async with api.client.get(f"/v1/sessions/{copied}/bundle") as response:
            data = await response.read()
        for outcome in ("created", "unchanged"):
            async with api.client.post(f"/v1/bundles?session={name}", data=data) as response:
                assert (await response.json())["change"] == outcome
    status, again = await api.post(path, {"code": "a=1"}, **key)
    assert (status, again["snapshot"], again["repeated"]) == (200, first["snapshot"], True)
    assert (await api.post(f"/v1/sessions/{session}/fork", {}, **key))[1] == forks


async def test_a_snapshot_is_seen_by_those_whose_histories_have_it_and_by_nobody_else(bench: Bench) -> None:
    reading, sessions, changes = bench.services.reading, bench.service, bench.changes
    from psf.errors import SnapshotUnknown
    from store.edit import FileEdit

    session = await sessions.create("bash", 60, "one")
    heads = [await changes.write(session.session_id, "one", {(b"f",): FileEdit(b"%d" % number)}) for number in range(4)]
    (fork,) = await sessions.fork(session.session_id, "one", start=3)
    assert [reading.find("one", head.hex()) for head in heads] == heads
    for head in heads:
        with pytest.raises(SnapshotUnknown):
            reading.find("two", head.hex())
    assert reading.find("two", EMPTY_SNAPSHOT_ID.hex()) == EMPTY_SNAPSHOT_ID
    # What the fork comes from is its history too, also when the session that made it is gone.
    bench.clock.now_s += 1000
    await bench.services.lifetimes.undelete(fork.session_id, "one", ttl_s=5000)
    bench.store.heads.drop_unused_since(bench.clock.now_s, is_running=lambda _: False)
    assert [reading.find("one", head.hex()) for head in heads[:3]] == heads[:3]
    with pytest.raises(SnapshotUnknown):
        reading.find("one", heads[3].hex())
    await bench.services.tags.set("two", "mine", lambda: heads[2])
    assert reading.find("two", "mine") == heads[2]
    assert reading.find("two", heads[0].hex()) == heads[0]
    with pytest.raises(SnapshotUnknown):
        reading.find("three", "mine")


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/v1/sessions?expired=yes", "expired"),
        ("GET", f"/v1/diff?from={EMPTY_SNAPSHOT_ID.hex()}&to={EMPTY_SNAPSHOT_ID.hex()}&unified=1", "unified"),
        ("PUT", "/v1/sessions/x/files/a?executable=", "executable"),
        ("POST", "/v1/bundles?extend=True", "extend"),
    ],
)
async def test_a_flag_is_true_or_false(api: Api, method: str, path: str, field: str) -> None:
    status, answer = await api.send(method, path, b"")
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (422, "invalid_field", field)
