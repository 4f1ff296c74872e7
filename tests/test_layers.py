"""The rule that psf imports executors, executors import store, and never the other way: it holds, and it bites."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("psf", "executors", "store", "psf/client", "psf/api")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_layers_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def empty_house(tmp_path: Path) -> Path:
    """Our contracts over three empty packages: what is broken then is broken by one line."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def test_empty_packages_break_nothing(empty_house: Path) -> None:
    result = lint_imports(empty_house)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("package", "imported"),
    [
        ("store", "executors"),
        ("store", "psf"),
        ("executors", "psf"),
        ("store", "aiohttp"),
        ("executors", "aiohttp"),
        ("psf/client", "store"),
        ("psf/client", "executors"),
        ("psf/client", "psf.api"),
    ],
)
def test_an_import_against_the_rule_is_found(empty_house: Path, package: str, imported: str) -> None:
    (empty_house / package / "__init__.py").write_text(f"import {imported}\n")
    result = lint_imports(empty_house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{package.replace('/', '.')} -> {imported}" in result.stdout
