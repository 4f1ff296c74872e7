"""What a user installs: the wheel, built as anybody would, without a network."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import psf

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("psf", "executors", "store")
INFORMATION = f"persistent_sandbox_fusion-{psf.__version__}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.iterdir()
    return zipfile.Path(built)


def names(wheel: zipfile.Path) -> set[str]:
    return set(wheel.root.namelist())


def test_the_roots_are_the_three_packages(wheel: zipfile.Path) -> None:
    assert {name.split("/")[0] for name in names(wheel)} == {*PACKAGES, INFORMATION}


def test_every_module_is_carried(wheel: zipfile.Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names(wheel) if name.endswith(".py")} == modules


def test_the_table_of_languages_is_carried_unchanged(wheel: zipfile.Path) -> None:
    assert (wheel / "psf/runtimes.toml").read_bytes() == (ROOT / "psf/runtimes.toml").read_bytes()


def test_the_scripts_for_redis_are_carried(wheel: zipfile.Path) -> None:
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "store/lua").iterdir()}
    assert scripts
    assert {name for name in names(wheel) if name.endswith(".lua")} == scripts


def test_the_page_of_the_api_is_carried_with_its_licences(wheel: zipfile.Path) -> None:
    for file in (ROOT / "psf/api/static").iterdir():
        assert (wheel / "psf/api/static" / file.name).read_bytes() == file.read_bytes()
    carried = {name.rpartition("/")[2] for name in names(wheel) if "/licenses/" in name}
    assert {"swagger-ui.LICENSE", "swagger-ui.NOTICE", "swagger-ui-bundle.js.LICENSE.txt"} <= carried


def test_the_licence_is_carried(wheel: zipfile.Path) -> None:
    assert (wheel / INFORMATION / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_command_is_psf(wheel: zipfile.Path) -> None:
    scripts = configparser.ConfigParser()
    scripts.read_string((wheel / INFORMATION / "entry_points.txt").read_text())
    assert dict(scripts["console_scripts"]) == {"psf": "psf.cli:main"}
