"""The table of languages: rows, what they become on a machine, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from psf import runtimes
from psf.errors import ConfigurationError, RuntimeUnknown
from psf.runtimes import Runtimes


def table(pip_path: str | None = "/opt/psf/lib", interpreter: str = "/usr/bin/python3") -> Runtimes:
    return Runtimes(runtimes.load(), interpreter, pip_path)


def test_the_languages_are_there() -> None:
    assert {"python", "bash", "pybash"} <= set(table().names)


def test_a_row_says_what_is_executed() -> None:
    row = table().get("python")
    assert table(interpreter="/opt/py").command(row.run) == ("/opt/py", row.file)
    assert row.file.startswith("_psf_")


def test_pip_is_offered_to_shell_scripts_of_pybash_only() -> None:
    languages = table()
    assert languages.environment(languages.get("pybash")) == (("PYTHONPATH", "/opt/psf/lib"),)
    assert languages.environment(languages.get("python")) == ()


def test_an_unknown_language_is_answered_with_those_there_are() -> None:
    with pytest.raises(RuntimeUnknown, match=r"'cobol'; there are .*python"):
        table().get("cobol")


def test_the_environment_digest_depends_on_row_system_interpreter_and_sandbox() -> None:
    languages = table()
    digests = {
        languages.environment_digest(languages.get(name), sandbox, system)
        for name in languages.names
        for sandbox, system in (("a", b"s"), ("b", b"s"), ("a", b"t"))
    }
    other = table(interpreter="/p")
    digests.add(other.environment_digest(other.get("bash"), "a", b"s"))
    assert len(digests) == 3 * len(languages.names) + 1


def test_a_file_of_ones_own_adds_and_replaces_languages(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text(
        '[awk]\ntitle = "AWK"\nfile = "_psf_main.awk"\nrun = ["awk", "-f", "_psf_main.awk"]\n[bash]\ntitle = "mine"\nfile = "_psf_mine.sh"\nrun = ["sh", "_psf_mine.sh"]\n'
    )
    rows = runtimes.load(file)
    assert rows["awk"].name == "awk"
    assert rows["bash"].title == "mine"
    assert "python" in rows


@pytest.mark.parametrize(
    "text",
    [
        "[a",
        "[a]",
        '[a]\ntitle = 1\nfile = "f"\nrun = []',
        '[a]\ntitle = "t"\nfile = "f"\nrun = ["r"]\nspeed = 1',
        '[a]\ntitle = "t"\nfile = "Main.java"\nrun = ["r"]',
        '[a]\ntitle = "t"\nfile = "_psf_/x"\nrun = ["r"]',
        "a = 1",
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "more.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"more\.toml"):
        runtimes.load(file)
    with pytest.raises(ConfigurationError, match="nowhere"):
        runtimes.load(tmp_path / "nowhere.toml")
