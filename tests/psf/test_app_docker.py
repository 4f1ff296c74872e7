"""A server whose programs run in Docker: which system its steps are said to depend on."""

from __future__ import annotations

from pathlib import Path

from psf import app
from psf.api.keys import SERVICE
from psf.config import Settings
from psf.record import Order
from store.snapshot import Run
from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon


async def environment(daemon: TestDaemon, folder: Path, *options: str) -> bytes:
    """The environment digest of a step on a new server."""
    told = (f"docker.image={image.NAME}", f"docker.base_url={daemon.url}", *options)
    settings = Settings(store=str(folder / "store"), executor="docker", workspace="copy", sandbox_options=told)
    async with app.build(settings) as application:
        service = application[SERVICE]
        session = await service.create("bash", 60.0, "local")
        executed = await service.execute(session.session_id, "local", Order(code=b"exit 0"))
        assert executed.result.stages[-1][1].exit_code == 0
        ((_, snapshot),) = await service.log(session.session_id, "local", before=None, limit=1)
    assert isinstance(snapshot.step, Run)
    return snapshot.step.environment


async def test_the_environment_of_a_step_is_the_images_not_this_machines(
    docker_daemon: TestDaemon, tmp_path: Path
) -> None:
    entered = await environment(docker_daemon, tmp_path)
    assert await environment(docker_daemon, tmp_path) == entered
    assert await environment(docker_daemon, tmp_path, "docker.runtime=runc") != entered
