"""Sandboxes are found by entry points; `auto` keeps its order; what a plug-in does wrong is said and costs nobody else."""

from __future__ import annotations

import re
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import pytest

from executors import bubblewrap, sandboxes
from executors.errors import OptionRefused, SandboxUnavailable
from executors.interfaces import Capabilities, Cell, Sandbox
from executors.profile import Profile
from executors.sandboxes import AUTO, ORDER, Offer, Options
from executors.testing import SandboxContract
from store.files import Owner
from store.snapshot import Limits
from store.workspace import BindMount, OverlayMount
from tests.executors import bench

ROOT = Path(__file__).resolve().parent.parent.parent
SELF_NAMED = Options(Path("/nowhere"))


class Named:
    """A sandbox that has a name and nothing else."""

    def __init__(self, name: str) -> None:
        self.capabilities, self.closed = Capabilities(name, "copy", {}, ()), False

    @asynccontextmanager
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:
        raise NotImplementedError
        yield

    async def close(self) -> None:
        self.closed = True


class InImage(Named):
    """One whose programs see a system of its own."""

    def identity(self) -> bytes:
        return b"image"


def test_the_system_that_programs_see_is_the_sandboxs_own_or_this_machines() -> None:
    """Else steps in two images would count as done in equal environments."""
    assert sandboxes.system_identity(InImage("docker"), bench.profile()) == b"image"
    assert sandboxes.system_identity(Named("bubblewrap"), bench.profile()) == bench.profile().identity()


def working(name: str) -> Callable[..., Awaitable[Sandbox]]:
    async def start(profile: Profile, options: Options) -> Sandbox:
        return Named(name)

    return start


def missing(name: str) -> Callable[..., Awaitable[Sandbox]]:
    async def start(profile: Profile, options: Options) -> Sandbox:
        raise SandboxUnavailable(f"no {name} here; install it")

    return start


def offers(**starts: object) -> dict[str, Offer]:
    return {name: Offer(name, "stranger", lambda start=start: start) for name, start in starts.items()}


async def chosen(wanted: str, offered: dict[str, Offer]) -> tuple[str, dict[str, str]]:
    choice = await sandboxes.start(wanted, bench.profile(), lambda _: SELF_NAMED, offered)
    return choice.sandbox.capabilities.sandbox, choice.passed_over


async def refused(wanted: str, offered: dict[str, Offer]) -> str:
    with pytest.raises(SandboxUnavailable) as refusal:
        await chosen(wanted, offered)
    return str(refusal.value)


def test_ours_are_found_like_anybodys() -> None:
    offer = sandboxes.find()["bubblewrap"]
    assert (offer.distribution, callable(offer.load())) == (sandboxes.OWN_DISTRIBUTION, True)


@pytest.mark.parametrize("first", range(len(ORDER)))
async def test_auto_takes_the_first_of_its_order_that_works(first: int) -> None:
    starts = {name: (missing if place < first else working)(name) for place, name in enumerate(ORDER)}
    # In whatever order they were found.
    name, passed_over = await chosen(AUTO, dict(reversed(offers(**starts).items())))
    assert name == ORDER[first]
    assert passed_over == {name: f"no {name} here; install it" for name in ORDER[:first]}


async def test_auto_never_takes_a_stranger() -> None:
    assert (await chosen(AUTO, offers(aardvark=working("aardvark"), nsjail=working("nsjail"))))[0] == "nsjail"
    assert "install psf again" in await refused(AUTO, offers(aardvark=working("aardvark")))


async def test_a_stranger_is_taken_by_its_name() -> None:
    assert await chosen("aardvark", offers(aardvark=working("aardvark"), docker=working("docker"))) == ("aardvark", {})


async def test_when_none_works_each_has_its_reason() -> None:
    text = await refused(AUTO, offers(docker=missing("docker"), bubblewrap=missing("bubblewrap")))
    assert "docker: no docker here; install it" in text
    assert "bubblewrap: no bubblewrap here; install it" in text
    assert "psf doctor" in text


async def test_a_setting_that_makes_no_sense_is_told_and_not_passed_over() -> None:
    offered = offers(docker=bubblewrap.start, nsjail=working("nsjail"))
    for settings in ({"program": "/no/bwrap"}, {"porgram": "/usr/bin/bwrap"}):
        options = Options(Path("/nowhere"), settings=settings)
        with pytest.raises(OptionRefused, match=next(iter(settings.items()))[0 if "porgram" in settings else 1]):
            await sandboxes.start(AUTO, bench.profile(), lambda _, options=options: options, offered)


async def test_a_sandbox_that_is_named_is_not_replaced_by_another() -> None:
    text = await refused("docker", offers(docker=missing("docker"), bubblewrap=working("bubblewrap")))
    assert text == "no docker here; install it"


async def test_a_name_that_nobody_has_is_refused_with_those_there_are() -> None:
    text = await refused("dokcer", offers(docker=working("docker"), bubblewrap=working("bubblewrap")))
    assert "`executor`" in text
    assert "'dokcer'" in text
    assert "auto, bubblewrap, docker" in text


async def fails(profile: Profile, options: Options) -> Sandbox:
    raise RuntimeError("out of luck")


async def leaves(profile: Profile, options: Options) -> Sandbox:
    raise SystemExit(1)


async def gives_nothing(profile: Profile, options: Options) -> None:
    return None


async def takes_nothing() -> Sandbox:
    return Named("docker")


def is_not_asynchronous(profile: Profile, options: Options) -> Sandbox:
    return Named("docker")


class Undecorated(Named):
    async def open(self, mount: OverlayMount | BindMount, limits: Limits) -> AsyncIterator[Cell]:  # type: ignore[override]
        raise NotImplementedError
        yield


async def opens_nothing(profile: Profile, options: Options) -> Sandbox:
    return Undecorated("docker")  # type: ignore[return-value]


BROKEN = {
    "no function": (object(), "no function"),
    "fails": (fails, "RuntimeError: out of luck"),
    "leaves": (leaves, "SystemExit"),
    "gives nothing": (gives_nothing, "no method `open`"),
    "takes nothing": (takes_nothing, "TypeError"),
    "is not asynchronous": (is_not_asynchronous, "async def"),
    "has an open that cannot be entered": (opens_nothing, "@asynccontextmanager"),
    "calls itself otherwise": (working("bubblewrap"), "calls itself 'bubblewrap'"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_plug_in_is_named_and_the_next_one_is_taken(kind: str) -> None:
    start, told = BROKEN[kind]
    name, passed_over = await chosen(AUTO, offers(docker=start, bubblewrap=working("bubblewrap")))
    assert name == "bubblewrap"
    assert "'docker' of stranger" in passed_over["docker"]
    assert told in passed_over["docker"]


async def test_a_plug_in_that_cannot_be_imported_is_named_and_the_next_one_is_taken() -> None:
    entry = metadata.EntryPoint("docker", "psf_no_such_module:start", sandboxes.GROUP)
    broken = Offer("docker", "stranger", entry.load)
    _, passed_over = await chosen(AUTO, {"docker": broken, **offers(bubblewrap=working("bubblewrap"))})
    assert "cannot be imported: ModuleNotFoundError" in passed_over["docker"]


async def test_what_a_sandbox_of_the_wrong_name_holds_is_given_back() -> None:
    sandbox = Named("other")

    async def start(profile: Profile, options: Options) -> Sandbox:
        return sandbox

    await refused("docker", offers(docker=start))
    assert sandbox.closed


# -- distributions, as pip leaves them ---------------------------------------------------------------------------------


def install(site: Path, project: str, source: str) -> None:
    """What installing a distribution leaves: its module, and metadata that name it and its entry points."""
    facts = tomllib.loads(project)["project"]
    module = facts["name"].replace("-", "_")
    (site / f"{module}.py").write_text(source)
    information = site / f"{module}-{facts['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n"
    )
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in facts["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(sections))


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs/executors.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_a_stranger_cannot_take_the_place_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project = '[project]\nname = "cuckoo"\nversion = "1"\n[project.entry-points."psf.sandboxes"]\nbubblewrap = "cuckoo:start"\n'
    install(tmp_path, project, "raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sandboxes.find()["bubblewrap"].distribution == sandboxes.OWN_DISTRIBUTION
    assert "cuckoo" in caplog.text


class TestTheExampleOfTheDocumentation(SandboxContract):
    @pytest.fixture
    async def sandbox(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
        (project,), (source,) = blocks("toml"), blocks("python")
        site = tmp_path / "site"
        site.mkdir()
        install(site, project, source)
        monkeypatch.syspath_prepend(str(site))
        choice = await sandboxes.start("logged", bench.profile(), lambda _: Options(tmp_path))
        try:
            yield choice.sandbox
        finally:
            await choice.sandbox.close()

    @pytest.fixture
    def owner(self) -> Owner | None:
        return bench.owner()

    async def test_it_logs_what_it_runs(self, trial, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "psf_logged")
        await trial.shell("exit 3")
        assert "sh: exited 3" in caplog.text

    def test_it_is_about_forty_lines(self) -> None:
        assert 30 <= len("\n".join(blocks("python")).splitlines()) <= 50
