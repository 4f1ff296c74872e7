"""Limits over HTTP: of a call and of a session, which takes precedence, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from store.snapshot import Limits
from tests.psf.api.conftest import Api


def given(api: Api) -> Limits:
    """What the last program was given."""
    return api.bench.fake.requests[-1].stages[-1].limits


async def run(api: Api, session: str | None = None, **fields: Any) -> Limits:
    path, more = ("/execute_session", {"session_id": session}) if session else ("/run_code", {})
    status, answer = await api.post(path, {"language": "bash", "code": "x", **more, **fields})
    assert status == 200, answer
    return given(api)


async def test_each_limit_can_be_asked_for_by_its_name(api: Api) -> None:
    wanted = {
        "wall_time_s": 2.5, "cpu_time_s": 3, "memory_bytes": 1 << 25, "processes": 5, "output_kept_bytes": 7, "output_flood_bytes": 9, "file_bytes": 11,
        "scratch_bytes": 1 << 20, "scratch_inodes": 99, "open_files": 77, "disk_bytes": 1 << 21, "disk_inodes": 55, "cpus": 0.5, "network": "none",
    }  # fmt: skip
    assert set(wanted) == set(Limits.__struct_fields__)
    assert await run(api, limits=wanted) == Limits(**wanted)  # type: ignore[arg-type]
    assert await run(api, await api.session(limits=wanted)) == Limits(**wanted)  # type: ignore[arg-type]


async def test_a_call_comes_before_its_session_and_that_before_the_server(api: Api) -> None:
    session = await api.session(limits={"wall_time_s": 3, "processes": 9, "memory_bytes": 1 << 26})
    got = await run(api, session)
    assert (got.wall_time_s, got.processes, got.memory_bytes, got.open_files) == (3.0, 9, 1 << 26, 1024)
    got = await run(api, session, limits={"processes": 200, "open_files": 50})
    assert (got.wall_time_s, got.processes, got.open_files) == (3.0, 200, 50)
    got = await run(api, session, run_timeout=20, memory_limit_MB=128)
    assert (got.wall_time_s, got.memory_bytes, got.processes) == (20.0, 128 << 20, 9)
    got = await run(api, session, run_timeout=20, memory_limit_MB=-1, limits={"wall_time_s": 4})
    assert (got.wall_time_s, got.memory_bytes) == (4.0, 1 << 26)
    assert await run(api) == Limits()


async def test_a_fork_has_the_limits_of_what_it_was_forked_from_and_a_restart_changes_nothing(api: Api) -> None:
    session = await api.session(limits={"processes": 9})
    _, answer = await api.post(f"/v1/sessions/{session}/fork", {})
    fork = answer["sessions"][0]["session_id"]
    assert (await run(api, fork)).processes == 9
    api.bench.store.close()
    api.bench.reopen()
    for one in (session, fork):
        assert (await api.bench.service.get(one, "local")).limits.given() == {"processes": 9}


async def test_the_limits_a_step_got_are_part_of_its_snapshot(api: Api) -> None:
    session = await api.session(limits={"processes": 9})
    await run(api, session, limits={"wall_time_s": 2})
    ((_, snapshot), _) = await api.bench.service.log(session, "local", before=None, limit=5)
    assert snapshot.step is not None
    assert dict(snapshot.step.limits) == {"run": given(api)}
    assert (given(api).processes, given(api).wall_time_s) == (9, 2.0)


@pytest.mark.parametrize("path", ["/run_code", "/execute_session", "/create_session"])
async def test_egress_is_refused_by_name_of_the_setting_and_nothing_has_happened(api: Api, path: str) -> None:
    session = await api.session()
    before, roots = await api.state(session), len(list(api.bench.store.heads.roots()))
    body = {"session_id": session, "language": "bash", "code": "x", "limits": {"network": "egress"}}
    status, answer = await api.post(path, body)
    assert status == 403
    assert "`allow_egress`" in answer["detail"]
    assert "of the call or of its session" in answer["detail"]
    assert (await api.state(session), len(list(api.bench.store.heads.roots()))) == (before, roots)
    assert api.bench.fake.requests == []


async def test_the_words_of_a_wrong_network_are_told(api: Api) -> None:
    _, answer = await api.post("/run_code", {"language": "bash", "code": "x", "limits": {"network": "internet"}})
    assert answer["detail"][0]["msg"] == "Invalid enum value 'internet'; there are none, loopback, egress"


async def test_more_than_the_maximum_is_told_with_the_maximum(api: Api) -> None:
    _, answer = await api.post("/run_code", {"language": "bash", "code": "x", "limits": {"wall_time_s": 4000}})
    (detail,) = answer["detail"]
    words = "is more than this server gives; at most 3600 (its setting `wall_time_s_max`)"
    assert (detail["msg"], detail["input"]) == (words, 4000.0)
