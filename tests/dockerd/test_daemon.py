"""The tests' own daemon and image: made from this machine, the same each time, gone without a trace."""

from __future__ import annotations

from pathlib import Path

from tests.dockerd import image
from tests.dockerd.daemon import TestDaemon, with_client


def test_the_image_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        image.write(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_programs_of_this_machine_run_in_it(docker_daemon: TestDaemon) -> None:
    source = "import hashlib, json, socket, sqlite3, ssl, threading; print('works')"

    def run(api):
        limits = api.create_host_config(network_mode="none")
        made = api.create_container(image.NAME, ["python3", "-c", source], host_config=limits)
        try:
            api.start(made)
            assert api.wait(made)["StatusCode"] == 0
            return api.logs(made)
        finally:
            api.remove_container(made, force=True)

    assert with_client(docker_daemon.url, run) == b"works\n"


def test_nothing_of_it_is_mounted_for_others_to_see(docker_daemon: TestDaemon) -> None:
    folder = docker_daemon.url.removeprefix("unix://").removesuffix("/docker.sock")
    assert Path(folder).is_dir()
    assert folder not in Path("/proc/self/mountinfo").read_text()
