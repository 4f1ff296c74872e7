"""What is said when there is no Docker to be had: what is missing, and what to type."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import msgspec
import pytest

from executors.docker import DockerSandbox, DockerSettings
from executors.docker_daemon import OWN_IMAGE, Daemon, how_to_get, said
from executors.errors import SandboxBroken, SandboxUnavailable
from executors.profile import User
from tests.dockerd.daemon import TestDaemon
from tests.executors import bench, docker_bench

ROOT = msgspec.structs.replace(bench.profile(), privileged=True)


async def refusal(settings: DockerSettings) -> str:
    with pytest.raises(SandboxUnavailable) as raised:
        await DockerSandbox.start(ROOT, settings)
    return str(raised.value)


@pytest.fixture(params=["nobody", "a file", "somebody gone"])
def dead_end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where a daemon should listen and none does."""
    path = tmp_path / "docker.sock"
    if request.param == "a file":
        path.touch()
    elif request.param == "somebody gone":
        with socket.socket(socket.AF_UNIX) as closed:
            closed.bind(str(path))
    return path


async def test_without_a_daemon_it_is_said_where_one_was_looked_for_and_how_to_start_it(dead_end: Path) -> None:
    text = await refusal(DockerSettings("image", dead_end.parent, base_url=f"unix://{dead_end}"))
    assert f"no Docker daemon answers at unix://{dead_end}" in text
    assert "`sudo systemctl start docker`" in text


async def test_the_environment_says_where_the_daemon_is_when_the_settings_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/elsewhere.sock")
    assert f"{tmp_path}/elsewhere.sock" in await refusal(DockerSettings("image", tmp_path))


async def test_somebody_who_listens_and_is_no_daemon_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "docker.sock"))
        deaf.listen()
        text = await refusal(
            DockerSettings("image", tmp_path, base_url=f"unix://{tmp_path}/docker.sock", patience_s=0.2)
        )
    assert "does not answer" in text


def test_without_permission_it_is_said_how_to_get_it() -> None:
    text = said(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "unix:///x")
    assert "no permission to use the Docker daemon at unix:///x" in text
    assert "`sudo usermod -aG docker $USER`" in text


def test_what_the_daemon_refuses_is_said_in_its_words() -> None:
    assert (
        said(docker.errors.APIError("x", explanation="disk full"), "unix:///x")
        == "the Docker daemon refused: disk full"
    )


def test_an_image_without_a_shell_is_told_as_that() -> None:
    words = 'runc create failed: unable to start container process: exec: "/bin/sh": stat /bin/sh: no such file or directory'
    assert "has no /bin/sh" in said(docker.errors.APIError("x", explanation=words), "unix:///x")


@pytest.mark.parametrize("given", [True, False], ids=["by the settings", "by the environment"])
async def test_what_is_no_address_is_refused_by_the_name_it_was_given_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "/run/docker.sock")
    text = await refusal(DockerSettings("image", tmp_path, base_url="/run/docker.sock" if given else None))
    name = "docker.base_url" if given else "DOCKER_HOST"
    assert f"`{name}`: '/run/docker.sock' is no address" in text
    assert "unix:///var/run/docker.sock" in text


async def test_what_is_told_whoever_asked_is_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = await refusal(DockerSettings("image", tmp_path, base_url="tcp://127.0.0.1:1"))
    assert text.startswith("no Docker daemon answers at tcp://127.0.0.1:1; start one")
    assert "docker.base_url=unix:///" in text
    assert not caplog.records


async def test_a_plain_user_is_told_what_needs_root() -> None:
    plain = msgspec.structs.replace(ROOT, privileged=False, user=User(1, 1))
    with pytest.raises(SandboxUnavailable, match="run psf as root, or use bubblewrap"):
        await DockerSandbox.start(plain, DockerSettings("image", Path("/probes")))


async def test_settings_that_cannot_be_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    assert "`work_dir`" in await refusal(DockerSettings("image", tmp_path, work_dir="/tmp"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": "no-such:image"}, "image no-such:image is not here; type `docker -H unix:///"),
        ({"image": f"{OWN_IMAGE}:1"}, f" build -t {OWN_IMAGE}:1 - < "),
        ({"image": "127.0.0.1:1/no-such", "pull": "missing"}, "image 127.0.0.1:1/no-such could not be pulled: "),
        ({"image": "not an image"}, "`docker.image`: 'not an image' is no name of an image ("),
        ({"runtime": "runsc"}, "no runtime 'runsc' (it has "),
    ],
)
async def test_what_a_daemon_lacks_is_named_with_what_to_type(
    docker_daemon: TestDaemon, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    assert words in await refusal(docker_bench.settings(docker_daemon, tmp_path, **fields))


def test_whoever_names_a_daemon_is_told_to_bring_the_image_there() -> None:
    assert how_to_get("a:b", None) == "type `docker pull a:b`, or build it"
    assert how_to_get("a:b", "unix:///x") == "type `docker -H unix:///x pull a:b`, or build it"


async def test_the_recipe_that_is_named_is_there(docker_daemon: TestDaemon, tmp_path: Path) -> None:
    text = await refusal(docker_bench.settings(docker_daemon, tmp_path, image=OWN_IMAGE))
    (recipe,) = re.findall(r"< (\S+)`", text)
    assert "FROM debian" in Path(recipe).read_text()


async def test_of_a_daemon_that_was_let_go_nothing_can_be_asked(tmp_path: Path) -> None:
    """Such as by a cell that was being opened when its sandbox was closed."""
    daemon = Daemon(DockerSettings("image", tmp_path))
    await daemon.close()
    with pytest.raises(SandboxBroken):
        await daemon.start({})
    await daemon.close()
