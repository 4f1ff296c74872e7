"""A server whose programs run in Docker: which system they see, and which its steps are said to depend on."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from psf import app
from psf.api.keys import SERVICES
from psf.config import Settings
from psf.record import Order
from store.snapshot import Run
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client


async def environment(daemon: TestDaemon, folder: Path, *options: str) -> bytes:
    """The environment digest of a step on a new server."""
    told = (f"docker.image={image.NAME}", f"docker.base_url={daemon.url}", *options)
    settings = Settings(store=str(folder / "store"), executor="docker", workspace="copy", sandbox_options=told)
    async with app.build(settings) as application:
        services = application[SERVICES]
        session = await services.sessions.create("bash", 60.0, "local")
        executed = await services.steps.execute(session.session_id, "local", Order(code=b"exit 0"))
        assert executed.result.stages[-1][1].exit_code == 0
        ((_, snapshot),) = await services.sessions.log(session.session_id, "local", before=None, limit=1)
    assert isinstance(snapshot.step, Run)
    return snapshot.step.environment


async def test_the_environment_of_a_step_is_the_images_not_this_machines(
    docker_daemon: TestDaemon, tmp_path: Path
) -> None:
    entered = await environment(docker_daemon, tmp_path)
    assert await environment(docker_daemon, tmp_path) == entered
    assert await environment(docker_daemon, tmp_path, "docker.runtime=runc") != entered


@asynccontextmanager
async def serving(daemon: TestDaemon, folder: Path, **settings: Any) -> AsyncIterator[TestClient]:
    told = (f"docker.image={image.NAME}", f"docker.base_url={daemon.url}")
    wanted = Settings(store=str(folder / "store"), executor="docker", sandbox_options=told, **settings)
    async with app.build(wanted) as application, TestClient(TestServer(application)) as client:
        yield client


async def post(client: TestClient, path: str, **body: object) -> tuple[int, Any]:
    async with client.post(path, json=body) as answered:
        return answered.status, await answered.json()


async def test_a_session_has_the_image_and_the_work_directory_that_it_asks_for(
    docker_daemon: TestDaemon, tmp_path: Path
) -> None:
    other = "psf-test:other"
    with_client(docker_daemon.url, lambda api: api.tag(image.NAME, "psf-test", "other"))
    program = "pwd; cat sent; echo $PYTHONUSERBASE; echo made > made; ln -s /srv/app/made link"
    async with serving(docker_daemon, tmp_path, docker_images=(other,)) as client:
        for fields, place in (({}, "/work"), ({"image": other, "work_dir": "/srv/app"}, "/srv/app")):
            _, session = await post(client, "/create_session", language="bash", **fields)
            sent = {f"{place}/sent": base64.b64encode(b"hello\n").decode()}
            fetched = [f"{place}/made", "link"]
            status, answer = await post(
                client, "/execute_session", **session, code=program, files=sent, fetch_files=fetched, keep="all"
            )
            assert status == 200, answer
            assert answer["run_result"]["stdout"] == f"{place}\nhello\n{place}/.local\n"
            assert set(answer["files"]) == {f"{place}/made", "link"} - ({"link"} if place == "/work" else set())
            status, answer = await post(client, "/execute_session", **session, code="cat made", fetch_files=[])
            assert answer["run_result"]["stdout"] == "made\n"
        status, answer = await post(client, "/execute_session", **session, code="", files={"/work/x": ""})
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", "files", "/work/x"])
        assert "one below /srv/app" in answer["detail"][0]["msg"]


async def test_an_image_that_is_not_offered_or_not_there_makes_no_session(
    docker_daemon: TestDaemon, tmp_path: Path
) -> None:
    async with serving(docker_daemon, tmp_path, docker_images=("missing:1",)) as client:
        status, answer = await post(client, "/create_session", image="alpine")
        assert (status, answer["detail"][0]["loc"]) == (422, ["body", "image"])
        status, answer = await post(client, "/create_session", image="missing:1")
        assert status == 503
        assert " pull missing:1`" in answer["detail"]
        assert (await post(client, "/run_code", language="bash", code="true"))[1]["status"] == "Success"


async def test_a_run_may_have_as_much_memory_as_the_server_gives(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    """The container's own limit lies above."""
    async with serving(docker_daemon, tmp_path) as client:
        await post(client, "/run_code", language="bash", code="true")
        limits = with_client(
            docker_daemon.url, lambda api: [api.inspect_container(one)["HostConfig"] for one in api.containers()]
        )
        assert min(limit["Memory"] for limit in limits) >= Settings().memory_bytes_max
        assert min(limit["PidsLimit"] for limit in limits) > Settings().processes_max
