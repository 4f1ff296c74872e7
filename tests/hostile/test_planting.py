"""Programs that leave traps where psf itself will read, write or look: under its own names and those of the next call.

`house` looks afterwards whether anything outside was changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from executors.interfaces import StageRequest
from executors.testing.history import SHELL, History, said
from executors.testing.trial import LIMITS
from tests.hostile.battery import SECRET
from tests.hostile.conftest import House

KEEPS = ("all", "fetched", "nothing")
# What stands at a name when the next call comes. {outside} is the server's file, {home} its folder.
TRAPS = {
    "a symlink to a host file": "ln -s {outside} {name}",
    "a relative symlink to a host file": "ln -s ../../../../../../../../..{outside} {name}",
    "a symlink through /proc": "ln -s /proc/self/root{outside} {name}",
    "a symlink to the host's home": "ln -s {home} {name}",
    "a symlink to itself": "ln -s {name} {name}",
    "a FIFO": "mkfifo {name}",
    "a socket": "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"{name}\")'",
    "a directory": "mkdir {name}",
    "a directory that nobody may enter": "mkdir {name}; echo x > {name}/in; chmod 000 {name}",
    "a deep directory": "mkdir -p {name}/$(yes d | head -200 | tr '\\n' /)",
    "a file that nobody may read": "echo x > {name}; chmod 000 {name}",
    "a hard link": "echo x > other; ln other {name}",
}
each_trap = pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS.keys())


def laid(trap: str, house: House, name: str) -> str:
    return f"rm -rf {name}; " + trap.format(outside=house.canary, home=house.home, name=name)


@each_trap
async def test_a_trap_under_the_programs_name_catches_nobody(house: House, session: History, trap: str) -> None:
    """The program's file is written anew for each run, and what stands there is what is removed."""
    for keep in KEEPS:
        await session.shell(laid(trap, house, "_psf_main.sh"), keep=keep)
        assert await session.says("echo the right program; ls -A | grep -v other", keep=keep) == (
            "the right program\n_psf_main.sh"
        )


@each_trap
async def test_a_trap_in_the_place_of_a_file_that_is_sent_catches_nobody(
    house: House, session: History, trap: str
) -> None:
    await session.shell(laid(trap, house, "sent"))
    assert await session.says("cat sent", files=(("sent", b"data"),)) == "data"


@each_trap
async def test_a_trap_above_a_file_that_is_sent_catches_nobody(house: House, session: History, trap: str) -> None:
    await session.shell(laid(trap, house, "above"))
    sent = ((f"above/{house.canary.name}", b"data"), ("above/below/more", b"more"))
    printed = await session.says(f"cat above/{house.canary.name} above/below/more", files=sent)
    assert printed == "datamore"


@each_trap
async def test_a_trap_under_the_name_of_a_file_that_is_fetched_gives_nothing(
    house: House, session: History, trap: str
) -> None:
    """In the work directory and in scratch: also as a directory on the way."""
    places = ("name", "/tmp/name", "/home/sandbox/name")
    script = "; ".join(laid(trap, house, place) for place in places)
    inner = tuple(f"{place}/{house.canary.name}" for place in places)
    result = await session.shell(script, fetch=(*places, *inner), keep="fetched")
    assert set(result.fetched.values()) <= {b"x\n"}
    assert SECRET.encode() not in b"".join(result.fetched.values())
    assert await session.says("echo goes on") == "goes on"


@each_trap
async def test_a_fetched_trap_of_an_earlier_step_gives_nothing(house: House, session: History, trap: str) -> None:
    await session.shell(laid(trap, house, "name"))
    result = await session.shell("true", fetch=("name", f"name/{house.canary.name}"))
    assert set(result.fetched.values()) <= {b"x\n"}


@each_trap
async def test_a_trap_of_the_compiler_catches_neither_the_run_nor_psf(
    house: House, session: History, trap: str
) -> None:
    script = "; ".join(laid(trap, house, place) for place in ("made", "/tmp/made", "_psf_main.sh"))
    stages = (StageRequest("compile", ("sh", "-c", script), LIMITS), StageRequest("run", ("echo", "ran"), LIMITS))
    result = await session.step(SHELL, "true", stages=stages, fetch=("made", "/tmp/made", "_psf_main.sh"))
    assert said(result) == "ran"
    assert set(result.fetched.values()) <= {b"x\n"}
    assert await session.says("echo goes on") == "goes on"


async def test_scratch_itself_may_be_made_unreadable_or_full_of_traps(house: House, session: History) -> None:
    script = f"echo x > /tmp/x; chmod 000 /tmp /mnt ~; ln -s {house.home} /var/tmp/link; chmod 000 /work"
    names = ("/tmp/x", f"/var/tmp/link/{house.canary.name}", "/mnt/x", "x")
    result = await session.shell(script, fetch=names)
    assert result.fetched == {"/tmp/x": b"x\n"}
    assert await session.says("echo y > made; cat made; echo z > /tmp/z") == "y"


async def test_names_that_climb_out_are_not_followed(house: House, session: History) -> None:
    outside = Path(f"/etc/psf-hostile-{os.getpid()}")
    names = (
        f"{outside}",
        f"../..{outside}",
        f"/work/../..{outside}",
        f"/tmp/..{outside}",
        f"//{outside}",
        f"a/../../{outside}",
    )
    result = await session.shell("ls -A", files=tuple((name, b"planted") for name in names), fetch=names)
    assert (said(result), result.fetched) == ("_psf_main.sh", {})
    assert not outside.exists()


async def test_overlay_marks_made_by_a_program_mean_nothing(session: History) -> None:
    """Attributes and device nodes by which the kernel hides and moves what lies below: a program cannot forge them."""
    await session.shell("mkdir -p d/e other; echo 1 > d/a; echo 2 > d/e/b; echo 3 > other/c")
    before = session.contents()
    program = """
import os, stat
for prefix in ('user.overlay.', 'trusted.overlay.', 'user.overlay.overlay.'):
    for folder in ('d', 'd/e', '.', 'other', 'd/a'):
        for name, value in (('opaque', b'y'), ('redirect', b'/other'), ('whiteout', b'y'), ('metacopy', b''), ('origin', b'x')):
            try:
                os.setxattr(folder, prefix + name, value)
            except OSError:
                pass
for name in ('d/a', 'd/new', '.wh.d', 'd/.wh..wh..opq'):
    try:
        os.mknod(name + ('' if name != 'd/a' else '-'), stat.S_IFCHR, os.makedev(0, 0))
    except OSError:
        pass
open('d/touched', 'w').close()
"""
    await session.python(program)
    assert session.contents() == before | {"d/touched": b""}
    listing = "./d/a\n./d/e/b\n./d/touched\n./other/c"
    assert await session.says("find . -type f ! -name '_psf*' | sort") == listing


async def test_what_one_session_does_to_a_shared_tree_another_does_not_see(house: House) -> None:
    """Both stand on one read-only tree on the host."""
    first, second = house.session(), house.session()
    await first.shell("mkdir d; echo shared > d/file; echo shared > run; chmod +x run")
    second.tree, second.number = first.tree, first.number
    await second.shell("true")
    await first.shell("echo spoilt >> d/file; ln d/file hard; echo spoilt > hard; mv d moved; chmod 000 run; rm -f run")
    assert await second.says("cat d/file run; ls") == "shared\nshared\n_psf_main.sh\nd\nrun"
    third = house.session()
    third.tree, third.number = second.tree, second.number
    assert await third.says("cat d/file run") == "shared\nshared"
