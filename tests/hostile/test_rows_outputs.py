"""The battery, outputs: what a program leaves for psf to read. What is kept and given back is judged, and the next step's view of it."""

from __future__ import annotations

import msgspec
import pytest

from executors.testing.history import PYTHON, contents, said
from tests.hostile.battery import LOOT, ROOMY, SECRET, Attack, breaches_of, stages
from tests.hostile.conftest import House, fast_with_bubblewrap

LEFT, GIVEN, TEXT = "left out", "given back", "text"

CANARY = f"{SECRET}.txt"
EXCHANGING = """
import ctypes, os, time
os.makedirs(os.path.dirname('{file}') or '.', exist_ok=True)
open('{file}', 'w').write('x')
os.symlink('{link}', '{other}')
exchange = ctypes.CDLL(None).renameat2
assert exchange(-100, b'{one}', -100, b'{other}', 2) == 0
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True: exchange(-100, b'{one}', -100, b'{other}', 2)
time.sleep(0.1)
"""
"""Processes that trade two names without a moment between, when the first process ends."""


class Leaving(msgspec.Struct, frozen=True):
    """A row: a program that leaves `name`, and what becomes of it.

    `left out`: not kept, named with a reason. `given back`: kept and fetched as the bytes `x`. `text`: kept as a symlink, not followed
    out of the sandbox.
    """

    name: str
    program: str
    becomes: str = TEXT
    language: str = "bash"
    fetch: str = "out"


ROWS = (
    Leaving("a symlink to a host file", "ln -s @canary out"),
    Leaving("a symlink that climbs to a host file", "ln -s ../../../../../../../..@canary out"),
    Leaving("a symlink with many slashes and dots", "ln -s //.//..///./@canary out"),
    Leaving("a symlink through the work directory and out", "ln -s /work/../@canary out"),
    Leaving("a symlink through /proc/self/root", "ln -s /proc/self/root@canary out"),
    Leaving("a symlink through a process's cwd", "ln -s /proc/self/cwd/../../..@canary out"),
    Leaving("a symlink through the server's root", "ln -s /proc/@server/root@canary out"),
    Leaving("a symlink to a descriptor", "ln -s /proc/self/fd/3 out"),
    Leaving("a symlink to a standard stream", "ln -s /dev/stdin out"),
    Leaving("a symlink to a device that never ends", "ln -s /dev/zero out"),
    Leaving("a symlink to a device that waits", "ln -s /dev/tty out"),
    Leaving("a symlink to a symlink to a host file", "ln -s @canary a; ln -s a b; ln -s b out"),
    Leaving("a symlink through a folder that is one", "ln -s @home d; ln -s d/$(basename @canary) out"),
    Leaving("a symlink in scratch", "ln -s @canary /tmp/out", fetch="/tmp/out"),
    Leaving("a scratch folder's own place", "rmdir /tmp/x 2> /dev/null; ln -s @home /tmp/d; ln -s d/$(basename @canary) /tmp/out", fetch="/tmp/out"),
    Leaving("a symlink with a slash at its end", "ln -s @canary/ out"),
    Leaving("a symlink to the passwords", "ln -s /etc/shadow out"),
    Leaving("a symlink to the server's environment", "ln -s /proc/@server/environ out"),
    Leaving("a symlink to itself", "ln -s out out"),
    Leaving("a symlink that is not UTF-8", "import os\nos.symlink(b'/\\xff\\xfe', 'out')", language="python"),
    Leaving("a FIFO", "mkfifo out", LEFT),
    Leaving("a socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('out')", LEFT, "python"),
    Leaving("a FIFO without any right", "mkfifo -m 000 out", LEFT),
    Leaving("a file without any right", "printf x > out; chmod 000 out", GIVEN),
    Leaving("a file in a folder without any right", "mkdir d; printf x > d/out; chmod 000 d/out d", GIVEN, fetch="d/out"),
    Leaving("a file that only others may read", "printf x > out; chmod 004 out", GIVEN),
    Leaving("a setuid file", "printf x > out; chmod 6777 out", GIVEN),
    Leaving("a hard link to a file of scratch", "printf x > /tmp/f; ln /tmp/f out 2> /dev/null || cp /tmp/f out", GIVEN),
    Leaving("a file with another name", "printf x > a; ln a out; ln a b", GIVEN),
    Leaving("a file that is open and removed", "exec 3> gone; rm gone; printf x > out", GIVEN),
    Leaving("a file of the year 1901", "printf x > out; touch -d @-2147483648 out", GIVEN),
    Leaving("a file of the year 2400", "printf x > out; touch -d 2400-01-01 out", GIVEN),
    Leaving("a file whose name is 255 bytes", f"printf x > {'n' * 255}", GIVEN, fetch="n" * 255),
    Leaving("a file whose name has a newline", "printf x > $'a\\nb'", GIVEN, fetch="a\nb"),
    Leaving("a file whose name turns the text around", "printf x > $'\\u202eout'", GIVEN, fetch="\u202eout"),
    Leaving("a file whose name is composed", "printf x > $'e\\u0301'; printf y > $'\\u00e9'", GIVEN, fetch="e\u0301"),
    Leaving("a file beside one of another case", "printf x > out; printf y > OUT; printf z > Out", GIVEN),
    Leaving("a file named like an option", "printf x > ./-rf", GIVEN, fetch="./-rf"),
    Leaving("a file named like a whiteout", "printf x > .wh.out; printf y > .wh..wh..opq", GIVEN, fetch=".wh.out"),
    Leaving("a file with attributes", "import os\nopen('out', 'w').write('x')\nfor n in ('user.psf', 'user.overlay.metacopy', 'user.overlay.redirect'):\n"
            "    try: os.setxattr('out', n, b'/etc/shadow')\n    except OSError: pass", GIVEN, "python"),
    Leaving("a file under a folder that was a symlink", "ln -s @home d; rm d; mkdir d; printf x > d/out", GIVEN, fetch="d/out"),
    Leaving("a file that is swapped for a symlink by a leftover", "printf x > out; printf x > keep; ln -s @canary link; (while :; do mv -T link out; mv -T out link;"
            " cp keep out; done 2> /dev/null) & disown; sleep 0.1", "either"),
    Leaving("a folder that is swapped for a symlink by a leftover", f"mkdir d; printf x > d/{CANARY}; ln -s @home link; (while :; do mv -T d e; mv -T link d; mv -T d link;"
            " mv -T e d; done 2> /dev/null) & disown; sleep 0.1", "either", fetch=f"d/{CANARY}"),
    Leaving("a file that many leftovers exchange with a symlink", EXCHANGING.format(file="out", one="out", other="link", link="@canary"), "either", "python"),
    Leaving("a file of scratch that many leftovers exchange with a symlink", EXCHANGING.format(file="/tmp/out", one="/tmp/out", other="/tmp/link", link="@canary"), "either", "python",
            fetch="/tmp/out"),
    Leaving("a folder that many leftovers exchange with a symlink", EXCHANGING.format(file=f"d/{CANARY}", one="d", other="link", link="@home"), "either", "python",
            fetch=f"d/{CANARY}"),
    Leaving("a folder of scratch that many leftovers exchange with a symlink", EXCHANGING.format(file=f"/tmp/d/{CANARY}", one="/tmp/d", other="/tmp/link", link="@home"),
            "either", "python", fetch=f"/tmp/d/{CANARY}"),
    Leaving("a folder that leftovers move away from under its files", f"mkdir -p a/b; printf x > a/b/{CANARY}; ln -s @home/.. c; (while :; do mv -T a/b d; mv -T d a/b; done 2> /dev/null)"
            " & disown; sleep 0.1", "either", fetch=f"a/b/{CANARY}"),
    Leaving("a file whose name is 85 letters of three bytes", f"printf x > {'語' * 85}; mkdir {'文' * 85}; printf y > {'文' * 85}/{'字' * 85}", GIVEN, fetch="語" * 85),
    Leaving("a file beside names that are not UTF-8", "printf x > out; printf y > $'out\\xff'; printf z > $'\\xed\\xa0\\x80'; mkdir $'\\xc0\\xaf'; printf z > $'\\xc0\\xaf/out'", GIVEN),
    Leaving("a file beside one that looks the same", "printf x > $'a\\u200b'; printf y > a; printf z > $'\\u0430'", GIVEN, fetch="a\u200b"),
    Leaving("a file beside one that folds to the same", "printf x > $'\\u212a'; printf y > k; printf z > K; printf w > $'\\ufb01'; printf v > fi", GIVEN, fetch="\u212a"),
    Leaving("a file whose name is all newlines", "printf x > $'\\n\\n'; printf y > $'\\n'; printf z > $'a\\n-> b'", GIVEN, fetch="\n\n"),
)  # fmt: skip


@pytest.mark.parametrize("leaving", [pytest.param(leaving, id=leaving.name) for leaving in ROWS])
async def test_what_is_left_is_taken_for_what_it_is(house: House, leaving: Leaving) -> None:
    history = house.session()
    language, program = Attack(leaving.name, leaving.program, leaving.language).source(house.places)  # type: ignore[arg-type]
    names = (leaving.fetch, f"{leaving.fetch}/x", f"{leaving.fetch}/{house.canary.name}")
    result = await history.step(language, program, stages=stages(language, ROOMY), fetch=names)
    assert breaches_of(result, history.objects) == []
    fetched = result.fetched.get(leaving.fetch)
    assert set(result.fetched) <= {leaving.fetch}
    if leaving.becomes == GIVEN:
        assert (fetched, result.left_out) == (b"x", ())
    elif leaving.becomes == LEFT:
        assert [item.path for item in result.left_out] == [leaving.fetch.encode()]
        assert (fetched, contents(history.objects, result.tree)) == (None, {})
    elif leaving.becomes == TEXT:
        assert fetched is None
        kept = contents(history.objects, result.tree).get(leaving.fetch, b"-> in scratch")
        assert kept is not None
        assert kept.startswith(b"-> ")
    # The next step, live and after the workspace was lost, finds what is kept.
    listing = "find . -mindepth 1 ! -name '_psf*' ! -name '*.pyc' -printf '%y' | fold -w1 | sort | uniq -c"
    live = said(await history.shell(listing, keep="nothing"))
    again = house.session()
    again.tree, again.number = result.tree, 1
    assert said(await again.shell(listing, keep="nothing")) == live


async def test_the_judge_of_outputs_notices_a_file_that_came_back(house: House) -> None:
    """Were a symlink followed, the canary would stand in what is given back: as it does when a program is given it."""
    history = house.session()
    result = await history.shell("cat given > out", files=(("given", LOOT.encode()),), fetch=("out",))
    assert len(breaches_of(result, history.objects)) == 3


@fast_with_bubblewrap
async def test_60_000_files_come_back_as_they_were(house: House) -> None:
    """Half of them in one folder."""
    program = """
import os
for n in range(256): os.mkdir(f'd{n}')
for n in range(60_000):
    with open(f'd{n % 256 if n % 2 else 0}/{n}', 'w') as file: file.write(str(n % 9))
"""
    history = house.session()
    result = await history.python(program, stages=stages(PYTHON, ROOMY))
    assert result.left_out == (), result.stages
    kept = {path: data for path, data in history.contents().items() if data is not None}
    assert kept == {f"d{n % 256 if n % 2 else 0}/{n}": str(n % 9).encode() for n in range(60_000)}


async def test_a_nest_of_1_500_folders_with_the_longest_names_is_cut_and_leaves_nothing_behind(house: House) -> None:
    """Each of them denies everything; what would be reached below would be a host file."""
    program = """
import os
name = 'n' * 255
open('out', 'w').write('x')
for _ in range(1500):
    os.mkdir(name)
    os.chdir(name)
os.symlink('@canary', 'bottom')
for _ in range(1500):
    os.chdir('..')
    os.chmod(name, 0)
"""
    history, name = house.session(), "n" * 255
    language, source = Attack("nest", program, "python").source(house.places)
    deep = ("/".join([name] * 15 + ["bottom"]), "/".join([name] * 8))
    result = await history.step(language, source, stages=stages(language, ROOMY), fetch=("out", *deep))
    assert breaches_of(result, history.objects) == []
    assert (result.fetched, [item.reason for item in result.left_out]) == (
        {"out": b"x"},
        ["deeper than 256 directories"],
    )
    assert await history.says(f"rm -r {name}; ls") == "_psf_main.sh\nout"
    assert not [path for path in house.workspaces().glob("*/removed/*") if path.is_dir()]
