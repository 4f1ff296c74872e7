"""Programs that take all there is of space and names. The next step must work as if nothing had been.

What programs take of processes, memory, time and output is in test_rows_resources.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio

from executors.interfaces import Result, StageRequest
from executors.testing.history import PYTHON, SHELL, History, said
from executors.testing.trial import LIMITS
from store.snapshot import Limits
from tests.hostile.conftest import House

ROOMY = msgspec.structs.replace(LIMITS, wall_time_s=30.0, file_bytes=1 << 30)


@pytest_asyncio.fixture(loop_scope="module")
async def session(house: House) -> AsyncIterator[History]:
    """A session with something to lose: it must be there afterwards, and a step in it must work."""
    history = house.session()
    await history.shell("echo mine > kept")
    yield history
    assert await history.says("cat kept; echo works") == "mine\nworks"
    assert await house.session().says("echo another works") == "another works"


async def shell(session: History, program: str, limits: Limits) -> Result:
    return await session.shell(program, stages=(StageRequest("run", SHELL[1], limits),))


async def python(session: History, program: str, limits: Limits) -> Result:
    return await session.python(program, stages=(StageRequest("run", PYTHON[1], limits),))


async def test_scratch_that_is_full_hinders_only_its_run(session: History) -> None:
    script = "for f in /tmp /var/tmp /mnt ~; do head -c 99000000 /dev/zero > $f/x; done 2> /dev/null; echo x > /tmp/y || echo full"
    assert "full" in said(await shell(session, script, ROOMY))


async def test_names_in_scratch_that_run_out_hinder_only_their_run(session: History) -> None:
    script = "i=0; while mkdir /tmp/$i; do i=$((i+1)); done 2> /dev/null; echo $i"
    assert 0 < int(said(await shell(session, script, ROOMY))) <= LIMITS.scratch_inodes


async def test_a_nest_of_directories_is_cut_at_a_depth_and_said_so(session: History) -> None:
    program = """
import os
for _ in range(3000):
    os.mkdir('n')
    os.chdir('n')
open('bottom', 'w').close()
"""
    result = await python(session, program, ROOMY)
    assert [item.reason for item in result.left_out] == ["deeper than 256 directories"]
    assert max(path.count("/") for path in session.contents()) == 255
    assert await session.says("rm -r n; ls") == "_psf_main.sh\nkept"


async def test_very_many_files_are_kept_and_can_go_again(session: History) -> None:
    result = await python(session, "for n in range(3000): open(f'{n}', 'w').close()", ROOMY)
    assert result.left_out == ()
    assert len(session.contents()) == 3001
    assert await session.says("ls | wc -l; ls | grep -v -e kept -e _psf | xargs rm; ls") == "3002\n_psf_main.sh\nkept"


async def test_a_file_with_a_hole_is_no_larger_than_a_file_may_be(session: History) -> None:
    limits = msgspec.structs.replace(ROOMY, file_bytes=64 << 20)
    program = """
import os
for size in (1 << 50, 1 << 40, 64 << 20):
    try:
        os.truncate(os.open('hole', os.O_CREAT | os.O_WRONLY), size)
        print(size)
    except OSError as error:
        print(error.strerror)
"""
    assert said(await python(session, program, limits)).split("\n") == [
        "File too large",
        "File too large",
        str(64 << 20),
    ]
    assert session.contents()["hole"] == bytes(64 << 20)
    assert await session.says("stat -c %s hole; rm hole") == str(64 << 20)


async def test_names_are_bytes_of_any_kind(session: History) -> None:
    program = """
import os
for name in (b'new\\nline', b'\\xff\\xfe', b' ', b'-rf', b'*', b'a' * 255, b'\\x1b[31m', b'tab\\t', b'..x', b'\\xe2\\x80\\xae', b'%s',
             b'~', b'.lifted-1', b'C:', b'con'):
    os.mkdir(name)
    open(name + b'/' + name, 'wb').write(name)
"""
    result = await session.python(program)
    assert result.left_out == ()
    assert session.contents()["new\nline/new\nline"] == b"new\nline"
    check = "import os\nfor name in os.listdir(b'.'):\n    if os.path.isdir(name): assert open(name + b'/' + name, 'rb').read() == name; print(1)"
    assert said(await session.python(check)).count("1") == 15
    assert (
        await session.says("find . -mindepth 1 -not -name kept -not -name '_psf*' -delete; ls") == "_psf_main.sh\nkept"
    )


async def test_a_tree_that_denies_everything_is_kept_and_opened_again(session: History) -> None:
    script = "mkdir -p a/b/c; echo 1 > a/b/c/d; chmod 000 a/b/c/d a/b/c a/b a; chmod 000 kept; chmod 000 ."
    result = await session.shell(script)
    assert result.left_out == ()
    assert await session.says("cat a/b/c/d kept; rm -r a") == "1\nmine"


async def test_a_tree_that_denies_everything_is_removed_when_it_is_not_kept(house: House, session: History) -> None:
    await session.shell("mkdir -p a/b/c; echo 1 > a/b/c/d; chmod 000 a/b/c/d a/b/c a/b a; chmod 000 .", keep="nothing")
    assert await session.says("ls -A") == "_psf_main.sh\nkept"


async def test_links_without_end_are_text(session: History) -> None:
    script = "ln -s . here; ln -s loop loop; ln -s a b; ln -s b a; ln -s $(yes /.. | head -1300 | tr -d '\\n') far; for i in $(seq 300); do ln kept hard$i; done"
    result = await shell(session, script, ROOMY)
    assert result.left_out == ()
    assert session.contents()["loop"] == b"-> loop"
    assert await session.says("rm here loop a b far hard*; ls") == "_psf_main.sh\nkept"


async def test_a_server_is_not_held_up_by_a_program_that_reads_nothing_and_says_nothing(session: History) -> None:
    result = await session.shell("exec 0<&- 1>&- 2>&-; sleep 0.1; exit 9", stdin=b"x" * (1 << 20))
    assert result.stages[0][1].exit_code == 9
