"""The README's commands, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Server

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EXPECTED = "#=>"


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    for tool in ("bash", "curl", "jq"):
        if subprocess.run(["which", tool], capture_output=True, check=False).returncode:
            pytest.skip(f"{tool} is not installed, which the README's commands use")


def test_each_command_prints_what_the_readme_says(server: Server) -> None:
    """All blocks in one shell, since later ones go on with what earlier ones made."""
    assert len(BLOCKS) == 3
    script = "\n".join(["set -e", *BLOCKS]).replace("localhost:8080", server.url.removeprefix("http://"))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for block in BLOCKS for line in block.splitlines() if line.startswith(EXPECTED)]
    assert done.stdout.splitlines() == [line.removeprefix(EXPECTED).strip() for line in lines]


def test_the_server_starts_by_the_command_that_is_given(tmp_path: Path) -> None:
    assert "```sh\n.venv/bin/psf serve\n```" in README
    command = Path(sys.executable).with_name("psf")
    environment = {**os.environ, "PSF_PORT": "0", "PSF_STORE": str(tmp_path / "store")}
    with subprocess.Popen(
        [command, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert b" is ready on http://127.0.0.1:" in process.stdout.readline()
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0
