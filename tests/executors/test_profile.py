"""What is chosen for programs on this machine: their interpreter, their user, their bwrap."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from executors import profile as profiles
from executors.bubblewrap import BubblewrapSandbox, BubblewrapSettings
from executors.errors import SandboxUnavailable
from executors.profile import OWN_UID_FIRST, OWN_UID_LAST, Profile
from executors.testing import Trial
from store.files import Owner

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def private_python(tmp_path: Path) -> Path:
    """An interpreter in an installation of its own, without pip, below a folder that only we can enter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    return script(private / "python" / "bin" / "python3", 'exec /usr/bin/python3 "$@"')


def test_the_systems_python_comes_first() -> None:
    candidates = [path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.access(path, os.X_OK)]
    if not candidates:
        pytest.skip("this machine has no Python of its own")
    assert profiles.build().interpreter == candidates[0]


def test_a_configured_python_is_used_and_shown_and_comes_first_on_the_path(private_python: Path) -> None:
    profile = profiles.build(interpreter=str(private_python))
    assert profile.interpreter == str(private_python)
    prefix = str(private_python.parent.parent)
    assert (prefix, prefix) in profile.binds
    folders = dict(profile.environment)["PATH"].split(":")
    assert folders[:2] == ["/work/.local/bin", str(private_python.parent)]


@pytest.mark.parametrize("path", ["python3", "bin/python3", "/no/such/python", "/etc/passwd"])
def test_a_configured_python_that_cannot_be_run_is_refused_by_name(path: str) -> None:
    with pytest.raises(SandboxUnavailable, match=path):
        profiles.build(interpreter=path)


def test_pip_is_given_to_an_interpreter_that_has_none(private_python: Path) -> None:
    profile = profiles.build(interpreter=str(private_python))
    assert profile.pip_path == "/opt/psf/lib"
    assert {"/opt/psf/bin/pip", "/opt/psf/bin/pip3"} <= {path for path, _ in profile.texts}


@only_root
def test_roots_programs_run_under_an_id_that_nobody_has() -> None:
    user = profiles.build().user
    assert OWN_UID_FIRST <= user.uid <= OWN_UID_LAST
    assert user.uid == user.gid
    with pytest.raises(KeyError):
        pwd.getpwuid(user.uid)


@only_root
def test_a_configured_id_is_used() -> None:
    assert profiles.build(uid=70400).user.uid == 70400


@only_root
@pytest.mark.parametrize("uid", [0, *(entry.pw_uid for entry in pwd.getpwall()[1:4])])
def test_an_id_that_somebody_has_is_refused(uid: int) -> None:
    with pytest.raises(SandboxUnavailable):
        profiles.build(uid=uid)


def test_the_servers_environment_has_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    before = profiles.build()
    for name in ("HOME", "LANG", "PYTHONPATH", "LD_PRELOAD", "PATH_INFO"):
        monkeypatch.setenv(name, "/tmp/other")
    assert profiles.build() == before


def test_the_identity_is_the_same_for_the_same_system_and_another_for_another(private_python: Path) -> None:
    plain = profiles.build()
    assert plain.identity() == profiles.build().identity()
    assert len(plain.identity()) == 32
    other = profiles.build(interpreter=str(private_python))
    assert other.identity() != plain.identity()
    os.utime(private_python, (1, 1))
    assert other.identity() != profiles.build().identity()


def test_a_configured_bwrap_is_taken_before_all_others(tmp_path: Path) -> None:
    bwrap = script(tmp_path / "mine", "echo bubblewrap 0.11.3")
    assert profiles.find_bubblewrap(str(bwrap)) == (str(bwrap), ())


@pytest.mark.parametrize("answer", ["bubblewrap 0.8.0", "true (GNU coreutils) 9.1", ""])
def test_a_configured_bwrap_that_is_none_or_too_old_is_refused(tmp_path: Path, answer: str) -> None:
    with pytest.raises(SandboxUnavailable, match="bubblewrap"):
        profiles.find_bubblewrap(str(script(tmp_path / "mine", f"echo {answer}")))


@pytest.mark.parametrize("answer", ["bubblewrap 0.11.0", "bubblewrap 0.12", "bubblewrap 1.0.0"])
def test_a_new_enough_bwrap_of_the_system_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str) -> None:
    bwrap = script(tmp_path / "bwrap", f"echo {answer}")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profiles.find_bubblewrap(None) == (str(bwrap), ())


@pytest.mark.parametrize("answer", ["echo bubblewrap 0.8.0", "echo bubblewrap 0.10.9", "echo odd", "exit 1", "true"])
def test_instead_of_an_old_or_broken_bwrap_ours_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    script(tmp_path / "bwrap", answer)
    monkeypatch.setenv("PATH", str(tmp_path))
    bwrap, libraries = profiles.find_bubblewrap(None)
    assert not bwrap.startswith(str(tmp_path))
    assert all(Path(path).is_file() for path in (bwrap, *libraries))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts a sandbox with a profile; it is closed at the end."""
    started: list[BubblewrapSandbox] = []

    async def act(profile: Profile) -> Trial:
        bwrap, libraries = profiles.find_bubblewrap(None)
        settings = BubblewrapSettings(bwrap, libraries, tmp_path, "copy")
        started.append(await BubblewrapSandbox.start(profile, settings))
        work = tmp_path / "work"
        work.mkdir()
        owner: Owner | None = profile.user if profile.privileged else None
        if owner is not None:
            os.chown(work, owner.uid, owner.gid)
        return Trial(started[-1], work)

    yield act
    for sandbox in started:
        await sandbox.close()


async def test_an_interpreter_below_a_private_folder_works_and_has_pip(start, private_python: Path) -> None:
    trial = await start(profiles.build(interpreter=str(private_python)))
    result = await trial.shell(f"command -v python3; {private_python} -c 'print(6 * 7)'; pip --version | cut -c -4")
    assert result.stdout.data.decode().split() == [str(private_python), "42", "pip"]
    result = await trial.shell("cat /proc/self/mountinfo /proc/self/mounts; pip list > /dev/null && echo listed")
    assert b"site-packages" not in result.stdout.data
    assert result.stdout.data.endswith(b"listed\n")
    result = await trial.shell(f"ls {private_python.parent.parent.parent}; echo x >> {private_python}")
    assert (result.stdout.data, result.exit_code) == (b"python\n", 2)


async def test_read_only_paths_are_shown_where_they_are_and_cannot_be_written(start, tmp_path: Path) -> None:
    shown, hidden = tmp_path / "data" / "shown", tmp_path / "data" / "hidden"
    for folder in (shown, hidden):
        folder.mkdir(parents=True)
        (folder / "file").write_text(folder.name)
        (folder / "file").chmod(0o666)
    trial = await start(profiles.build(read_only_paths=(str(shown),)))
    result = await trial.shell(f"cat {shown}/file; cat {hidden}/file; echo changed > {shown}/file; touch {shown}/new")
    assert result.stdout.data == b"shown"
    assert [path.name for path in shown.iterdir()] == ["file"]
    assert (shown / "file").read_text() == "shown"


@pytest.mark.parametrize("path", ["/work", "/work/data", "/tmp/../work/data"])
def test_a_read_only_path_where_programs_work_is_refused(path: str) -> None:
    with pytest.raises(SandboxUnavailable, match="cannot be shown"):
        profiles.build(read_only_paths=(path,))


def test_what_programs_are_shown_and_how_they_are_confined_is_part_of_the_identity(tmp_path: Path) -> None:
    plain = profiles.build()
    assert profiles.build(read_only_paths=(str(tmp_path),)).identity() != plain.identity()
    for other in ({"filter_program": None}, {"hostname": "other"}, {"texts": ()}, {"shared_memory_bytes": 1}):
        assert msgspec.structs.replace(plain, **other).identity() != plain.identity()


def test_where_psf_itself_is_installed_is_not(tmp_path: Path) -> None:
    plain = profiles.build()
    moved = tuple((f"/elsewhere{source}" if source != target else source, target) for source, target in plain.binds)
    assert msgspec.structs.replace(plain, binds=moved).identity() == plain.identity()


def test_no_user_is_taken_from_those_that_are_given_out_however_their_file_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = f"# given out\n\nann:{OWN_UID_FIRST}:10\nbroken\nbob:{OWN_UID_FIRST + 10}:x\n"
    monkeypatch.setattr(profiles, "_lines", lambda _: lines.split())
    assert profiles._own_user(None).uid == OWN_UID_FIRST + 10
    with pytest.raises(SandboxUnavailable, match="belongs to an account"):
        profiles._own_user(OWN_UID_FIRST + 9)
