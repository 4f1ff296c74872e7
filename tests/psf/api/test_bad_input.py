"""Bad input: a 4xx that names the field and the reason, and nothing has changed."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from store.asked import AskedLimits
from tests.psf.api.conftest import BODY_BYTES_MAX, TOO_LARGE, Api, application
from tests.psf.service import Bench

LONG = "n" * 256

LIMITS: list[tuple[dict[str, Any], list[str | int]]] = [
    ({"limits": None}, ["limits"]),
    ({"limits": 5}, ["limits"]),
    ({"limits": []}, ["limits"]),
    ({"limits": {"speed": 1}}, ["limits", "speed"]),
    ({"limits": {"memory": 1}}, ["limits", "memory"]),
    ({"limits": {"memory_bytes": "much"}}, ["limits", "memory_bytes"]),
    ({"limits": {"memory_bytes": (1 << 34) + 1}}, ["limits", "memory_bytes"]),
    ({"limits": {"memory_bytes": 10**30}}, ["limits", "memory_bytes"]),
    ({"limits": {"wall_time_s": 3600.5}}, ["limits", "wall_time_s"]),
    ({"limits": {"wall_time_s": float("inf")}}, ["limits", "wall_time_s"]),
    ({"limits": {"cpu_time_s": 1.5}}, ["limits", "cpu_time_s"]),
    ({"limits": {"scratch_inodes": 15}}, ["limits", "scratch_inodes"]),
    ({"limits": {"network": "all"}}, ["limits", "network"]),
    ({"limits": {"network": 5}}, ["limits", "network"]),
    ({"limits": {"processes": True}}, ["limits", "processes"]),
    ({"limits": {"cpus": {}}}, ["limits", "cpus"]),
    *(
        ({"limits": {name: wrong}}, ["limits", name])
        for name in AskedLimits.__struct_fields__
        for wrong in (-1, float("nan"))
    ),
]
EXECUTE: list[tuple[dict[str, Any], list[str | int]]] = [
    ({"code": None}, ["code"]),
    ({"code": 5}, ["code"]),
    ({"code": ["x"]}, ["code"]),
    ({"code": "a\0b"}, ["code"]),
    ({"code": "x" * BODY_BYTES_MAX}, []),
    ({"language": "cobol"}, ["language"]),
    ({"language": ""}, ["language"]),
    ({"language": 3}, ["language"]),
    ({"session_id": 7}, ["session_id"]),
    ({"run_timeout": -1}, ["run_timeout"]),
    ({"run_timeout": 0}, ["run_timeout"]),
    ({"run_timeout": "soon"}, ["run_timeout"]),
    ({"run_timeout": None}, ["run_timeout"]),
    ({"run_timeout": {}}, ["run_timeout"]),
    ({"run_timeout": float("nan")}, ["run_timeout"]),
    ({"run_timeout": float("inf")}, ["run_timeout"]),
    ({"compile_timeout": float("-inf")}, ["compile_timeout"]),
    ({"compile_timeout": -0.5}, ["compile_timeout"]),
    ({"memory_limit_MB": -2}, ["memory_limit_MB"]),
    ({"memory_limit_MB": 1.5}, ["memory_limit_MB"]),
    ({"memory_limit_MB": "much"}, ["memory_limit_MB"]),
    *LIMITS,
    ({"stdin": 1}, ["stdin"]),
    ({"files": []}, ["files"]),
    ({"files": {"a": 1}}, ["files"]),
    ({"files": {"a": "!!!"}}, ["files", "a"]),
    ({"files": {"a": "YQ"}}, ["files", "a"]),
    ({"files": {"": "YQ=="}}, ["files", ""]),
    ({"files": {"a\0": "YQ=="}}, ["files", "a\0"]),
    ({"files": {"..": "YQ=="}}, ["files", ".."]),
    ({"files": {".": "YQ=="}}, ["files", "."]),
    ({"files": {"/work": "YQ=="}}, ["files", "/work"]),
    ({"files": {"../x": "YQ=="}}, ["files", "../x"]),
    ({"files": {"a/../../x": "YQ=="}}, ["files", "a/../../x"]),
    ({"files": {"/etc/passwd": "YQ=="}}, ["files", "/etc/passwd"]),
    ({"files": {"/work/../etc/x": "YQ=="}}, ["files", "/work/../etc/x"]),
    ({"files": {"/tmp/../root/x": "YQ=="}}, ["files", "/tmp/../root/x"]),
    ({"files": {"//etc/x": "YQ=="}}, ["files", "//etc/x"]),
    ({"files": {LONG: "YQ=="}}, ["files"]),
    ({"files": {"a/" * 3000 + "b": "YQ=="}}, ["files"]),
    ({"files": {"_psf_main.py": "YQ=="}}, ["files", "_psf_main.py"]),
    ({"require": "files"}, ["require"]),
    ({"require": None}, ["require"]),
    ({"require": ["files", 3]}, ["require", 1]),
    ({"require": ["files", "safety"]}, ["require", 1]),
    ({"require": ["network", ""]}, ["require", 1]),
    ({"fetch_files": "a"}, ["fetch_files"]),
    ({"fetch_files": [1]}, ["fetch_files", 0]),
    ({"fetch_files": ["a", ""]}, ["fetch_files", 1]),
    ({"fetch_files": ["a\0"]}, ["fetch_files", 0]),
    ({"fetch_files": [LONG]}, ["fetch_files", 0]),
    ({"fetch_files": ["x"] * 10_001}, ["fetch_files"]),
    ({"keep": "some"}, ["keep"]),
    ({"code": "\ud800"}, ["code"]),
    ({"stdin": "\udfff"}, ["stdin"]),
    ({"files": {"\ud800": "YQ=="}}, ["files"]),
    ({"fetch_files": ["\ud800"]}, ["fetch_files", 0]),
]


@pytest.mark.parametrize(("fields", "location"), EXECUTE, ids=lambda value: repr(value)[:50])
async def test_a_wrong_field_is_named_and_the_session_is_as_it_was(
    api: Api, fields: dict[str, Any], location: list[str | int]
) -> None:
    session = await api.session()
    before = await api.state(session)
    status, answer = await api.post("/execute_session", {"session_id": session, "code": "x", **fields})
    if not location:
        assert (status, answer) == (413, {"detail": TOO_LARGE})
    else:
        assert status == 422, answer
        (detail,) = answer["detail"]
        assert detail["loc"][: 1 + len(location)] == ["body", *location]
        assert detail["msg"]
        assert set(detail) == {"type", "loc", "msg", "input"}
    assert await api.state(session) == before
    assert api.bench.fake.requests == []


@pytest.mark.parametrize(("fields", "location"), LIMITS, ids=lambda value: repr(value)[:50])
async def test_a_wrong_limit_of_a_session_is_named_and_none_is_made(
    api: Api, fields: dict[str, Any], location: list[str | int]
) -> None:
    status, answer = await api.post("/create_session", fields)
    assert status == 422
    assert answer["detail"][0]["loc"] == ["body", *location]
    assert list(api.bench.store.heads.roots()) == []


@pytest.mark.parametrize("path", ["/run_code", "/execute_session", "/create_session"])
@pytest.mark.parametrize(
    "data",
    [b"{", b"[1]", b'"x"', b"5", b"null", b"\xff\xfe", b'{"language": "\xff"}', b"[" * 100_000, b'{"a":' * 50_000, b"{}x", b"{'a': 1}"],
    ids=lambda data: repr(data)[:20],
)  # fmt: skip
async def test_a_body_that_is_no_json_object_is_refused(api: Api, path: str, data: bytes) -> None:
    status, answer = await api.send("POST", path, data, **{"Content-Type": "application/json"})
    assert status == 422
    assert answer["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize(
    ("path", "missing"),
    [("/run_code", {"code", "language"}), ("/execute_session", {"code", "session_id"})],
)
async def test_a_missing_field_is_named(api: Api, path: str, missing: set[str]) -> None:
    status, answer = await api.post(path, {})
    assert status == 422
    assert answer["detail"][0]["loc"][1] in missing
    assert answer["detail"][0]["type"] == "missing"


@pytest.mark.parametrize("ttl", [0, -5, float("nan"), float("inf"), "long", None, [], True])
async def test_a_session_needs_a_time_to_live_that_makes_sense(api: Api, ttl: object) -> None:
    status, answer = await api.post("/create_session", {"ttl": ttl})
    assert status == 422
    assert answer["detail"][0]["loc"] == ["body", "ttl"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("rollback", {}, "to"),
        ("rollback", {"to": None}, "to"),
        ("rollback", {"to": 1, "too": 1}, "too"),
        ("fork", {"count": 0}, "count"),
        ("fork", {"count": 10_001}, "count"),
        ("fork", {"count": "x"}, "count"),
        ("fork", {"names": ["a"], "count": 2}, "count"),
        ("fork", {"names": [""]}, "names.0"),
        ("fork", {"names": ["ok", "a\nb"]}, "names.1"),
        ("fork", {"names": ["x" * 201]}, "names.0"),
        ("fork", {"from": []}, "from"),
        ("fork", {"start": 1}, "start"),
        ("log?limit=0", None, "limit"),
        ("log?limit=501", None, "limit"),
        ("log?limit=x", None, "limit"),
        ("log?cursor=-1", None, "cursor"),
        ("log?cursor=" + "9" * 5000, None, "cursor"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_the_native_family_names_the_field_too(api: Api, path: str, body: object, field: str) -> None:
    session = await api.session()
    before = await api.state(session)
    url = f"/v1/sessions/{session}/{path}"
    status, answer = await (api.get(url) if body is None else api.post(url, body))
    assert status == 422, answer
    assert answer["error"]["code"] == "invalid_field"
    assert answer["error"]["field"] == field
    assert await api.state(session) == before


async def test_a_snapshot_that_is_not_in_the_history_is_404_and_changes_nothing(api: Api) -> None:
    session = await api.session()
    before = await api.state(session)
    for reference in ("abcdef", 9, "-9", "HEAD"):
        status, answer = await api.post(f"/v1/sessions/{session}/rollback", {"to": reference})
        assert (status, answer["error"]["code"]) == (404, "snapshot_missing")
    assert await api.state(session) == before


async def test_an_unknown_session_is_410_for_the_compatible_family_and_404_for_the_native(api: Api) -> None:
    status, answer = await api.post("/execute_session", {"session_id": "0" * 40, "code": "x"})
    assert (status, answer) == (410, {"detail": "Session expired or not found"})
    status, answer = await api.post(f"/v1/sessions/{'0' * 40}/rollback", {"to": 1})
    assert (status, answer["error"]["code"]) == (404, "session_missing")


async def test_an_expired_session_is_410_everywhere(api: Api) -> None:
    session = await api.session(ttl=1)
    api.bench.clock.now_s += 2
    assert (await api.post("/execute_session", {"session_id": session, "code": "x"}))[0] == 410
    assert (await api.post(f"/v1/sessions/{session}/rollback", {"to": 0}))[0] == 410


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/run_code", 405), ("DELETE", "/v1/ping", 405), ("GET", "/nothing", 404)]
)
async def test_a_wrong_method_or_path_is_told_in_the_familys_shape(
    api: Api, method: str, path: str, status: int
) -> None:
    seen, answer = await api.send(method, path, None)
    assert seen == status
    assert isinstance(answer["detail"], str)


async def test_a_wrong_path_below_v1_is_told_in_its_own_shape(api: Api) -> None:
    status, answer = await api.get("/v1/nothing")
    assert (status, answer["error"]["code"]) == (404, "http_404")


async def test_what_is_not_said_to_be_json_is_415(api: Api) -> None:
    body = json.dumps({"language": "python"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert (await api.send("POST", "/create_session", body, **{"Content-Type": kind}))[0] == 415


async def test_a_compressed_body_is_refused_before_it_is_unpacked(api: Api) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert (await api.send("POST", "/run_code", bomb, **headers))[0] in (413, 415)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": ""}, {"Host": "["}],
)
async def test_a_page_from_elsewhere_may_not_call_a_loopback_server(api: Api, headers: dict[str, str]) -> None:
    status, answer = await api.post("/create_session", {}, **headers)
    assert status == 403
    assert "detail" in answer


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "code",
    "language",
    "session_id",
    "files",
    "fetch_files",
    "stdin",
    "run_timeout",
    "memory_limit_MB",
    "keep",
    "ttl",
    "to",
    "from",
    "count",
    "names",
]


@given(
    body=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6) | JSON,
    raw=st.binary(max_size=30),
)
async def test_no_body_whatsoever_makes_the_server_fail(
    body: object, raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every answer is a 2xx or a 4xx in its family's shape."""
    bench = Bench(tmp_path_factory.mktemp("store"))
    async with TestClient(TestServer(application(bench))) as client:
        session = await bench.session()
        paths = ["/run_code", "/execute_session", "/create_session"]
        native = [f"/v1/sessions/{session}/fork", f"/v1/sessions/{session}/rollback"]
        for path in paths + native:
            for data in (json.dumps(body).encode(), raw):
                async with client.post(path, data=data, headers={"Content-Type": "application/json"}) as response:
                    answer = json.loads(await response.read())
                    assert response.status < 500, answer
                    if response.status >= 400:
                        assert ("error" if path in native else "detail") in answer
    bench.close()
