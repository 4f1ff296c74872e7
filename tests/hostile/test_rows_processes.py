"""The battery, processes: reaching others' and outliving one's own. Judged by who is alive on the host afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from executors.testing.history import SHELL, said
from store.snapshot import Ending
from tests.hostile.battery import ROOMY, Attack, each, each_tame, stages, unconfined
from tests.hostile.conftest import Doors, House

MARK = f"8{os.getpid():08}.75"
"""How long survivors would sleep: by this argument they are found in the host's list of processes, and told from others' there."""

REACH = (
    Attack("kill all that it can", "kill -9 -1; true"),
    Attack("kill every number", "for n in $(seq 2 4000); do kill -9 $n; done 2> /dev/null; true"),
    Attack("kill the server", "kill -9 @server 2> /dev/null && echo GOT; kill -0 @server 2> /dev/null && echo GOT; true"),
    Attack("kill its parent and process groups", "kill -9 $PPID 2> /dev/null; for n in 0 1 2 3; do kill -TERM -$n; done 2> /dev/null; true"),
    Attack("end the first process", "for s in KILL TERM INT HUP QUIT SEGV ABRT; do kill -$s 1 2> /dev/null; done; sleep 0.05; test -d /proc/1 || echo GOT"),
    Attack("stop the first process", "kill -STOP 1; sleep 0.05; grep -q 'State:.T' /proc/1/status && echo GOT; true"),
    Attack("signal the server by a pidfd", "import os, signal\nfor n in range(1, 9999):\n    try:\n        if os.getpid() != n != os.getppid(): signal.pidfd_send_signal(os.pidfd_open(n), 0);"
           " n > 1 and print('GOT', n)\n    except OSError: pass", "python", tame=True),
    Attack("see other processes", "for p in /proc/[0-9]*; do n=${p#/proc/}; test $n -gt 60 && echo GOT $p; done; true", tame=True),
    Attack("trace the first process", "got('attached', call(101, 16, 1, 0, 0))\ngot('seized', call(101, 0x4206, 1, 0, 0))", "call"),
    Attack("read the first process's memory", "room = ctypes.create_string_buffer(256)\nat = ctypes.addressof(room)\nstruct.pack_into('=QQQQ', room, 0, at + 64, 8, 0x400000, 8)\n"
           "got('read', call(310, 1, at, 1, at + 16, 1, 0))", "call"),
    Attack("write the first process's memory", "room = ctypes.create_string_buffer(256)\nat = ctypes.addressof(room)\nstruct.pack_into('=QQQQ', room, 0, at + 64, 8, 0x400000, 8)\n"
           "got('written', call(311, 1, at, 1, at + 16, 1, 0))", "call"),
    Attack("take a descriptor of the first process", "got('taken', call(438, os.pidfd_open(1), 0, 0))", "call"),
    Attack("limits of another process", "import resource\nfor n in (@server, os.getpid() + 1, 2000):\n    try:\n        resource.prlimit(n, resource.RLIMIT_NPROC, (9999, 9999)); print('GOT', n)\n"
           "    except OSError: pass", "call"),
    Attack("limits of its own, raised", "import resource\nfor what in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):\n"
           "    hard = resource.getrlimit(what)[1]\n    try:\n        resource.setrlimit(what, (hard + 1, hard + 1)); print('GOT', what)\n    except (OSError, ValueError): pass", "python"),
    Attack("the niceness of others", "import os\nfor n in (1, @server):\n    try:\n        os.setpriority(os.PRIO_PROCESS, n, -1); print('GOT', n)\n    except OSError: pass", "python"),
    Attack("a signal when somebody else's descriptor is ready", "import fcntl, os\nfor n in (0, 1, 2):\n    try:\n        fcntl.fcntl(n, fcntl.F_SETOWN, @server); fcntl.fcntl(n, 10, 9);"
           " fcntl.fcntl(n, fcntl.F_SETFL, os.O_ASYNC)\n    except OSError: pass", "python"),
    Attack("a terminal to control", "import os\ntry:\n    os.open('/dev/tty', os.O_RDWR); print('GOT')\nexcept OSError: pass", "python"),
    Attack("a library before the program", "echo 'int getuid(void) { return 0; }' > l.c; gcc -shared -fPIC -o l.so l.c; LD_PRELOAD=./l.so cat /root/.profile @canary 2> /dev/null; true"),
)  # fmt: skip
LINGER = {
    "a child in the background": f"sleep {MARK} &",
    "a child of nobody": f"(sleep {MARK} & ) & disown",
    "a session of its own": f"setsid sleep {MARK} &",
    "nohup": f"nohup sleep {MARK} > /dev/null 2>&1 &",
    "forked twice in a session of its own": f"python3 -c \"import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nos.execvp('sleep', ['sleep', '{MARK}'])\"",
    "all signals ignored": f"(trap '' HUP INT QUIT TERM PIPE USR1 USR2; exec sleep {MARK}) &",
    "stopped": f"sleep {MARK} & kill -STOP $!",
    "streams held open": f"sleep {MARK} <&0 >&1 2>&2 &",
    "streams closed": f"sleep {MARK} <&- >&- 2>&- &",
    "a descriptor in flight": f"python3 -c \"import os, socket, array\na, b = socket.socketpair()\na.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1, 2]))])\n"
    f"if os.fork() == 0: os.execvp('sleep', ['sleep', '{MARK}'])\"",
    "a cwd that is gone": f"mkdir d; cd d; rmdir ../d; sleep {MARK} &",
    "its parent killed": f"bash -c 'sleep {MARK} & kill -9 $$'",
    "a program of its own, removed": f"cp /usr/bin/sleep s; ./s {MARK} & rm s",
    "a chain that forks on": f"cat > f.sh <<'END'\nsleep {MARK} &\nsh f.sh &\nEND\nsh f.sh 2> /dev/null &",
    "a death by signal": f"sleep {MARK} & kill -9 $$",
    "a subreaper": f"python3 -c \"import ctypes, os, time\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\nif os.fork() == 0:\n    if os.fork() == 0: os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)\n\" &",
}  # fmt: skip


def asleep() -> list[str]:
    """Command lines of survivors, among all processes of the host."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if line.endswith(f"\0{MARK}\0".encode()):
                found.append(line.decode(errors="replace"))
    return found


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that no program may reach."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        assert process.poll() is None
        process.kill()


@each(REACH)
async def test_nobody_is_reached_by(house: House, bystander: subprocess.Popen[bytes], attack: Attack) -> None:
    waiting = asyncio.create_task(house.session().shell("sleep 0.3; echo unhurt"))
    await house.withstands(attack)
    assert said(await waiting) == "unhurt"


@each_tame(REACH)
def test_unconfined_it_is_noticed_that_somebody_is_reached_by(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    assert unconfined(attack, own_doors.places, tmp_path)


@each(Attack(name, program) for name, program in LINGER.items())
async def test_nobody_outlives_a_run_by(house: House, attack: Attack) -> None:
    history = house.session()
    language, program = attack.source(house.places)
    began_s = time.monotonic()
    await history.step(language, program, stages=stages(language, ROOMY))
    assert asleep() == []
    assert time.monotonic() - began_s < ROOMY.wall_time_s / 2, "the answer waited for somebody who was left"
    assert (
        said(await history.shell(f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c -e 'sleep {MARK[:-1]}[5]'; true"))
        == "0"
    )


def test_a_survivor_would_be_noticed() -> None:
    with subprocess.Popen(["sleep", MARK]) as process:
        deadline_s = time.monotonic() + 5
        while not asleep() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        found = asleep()
        process.kill()
    assert len(found) == 1


async def test_somebody_is_asleep_while_a_run_lasts(house: House) -> None:
    """The look itself sees into sandboxes: what the rows leave is there while the first process is."""
    running = asyncio.create_task(house.session().shell(f"sleep {MARK} & sleep 0.5"))
    seen = 0
    while not running.done():
        seen = max(seen, len(asleep()))
        await asyncio.sleep(0.02)
    assert seen == 1


PRELOADED = """
#include <sys/resource.h>
__attribute__((constructor)) void before() {
    char *what = getenv("WHAT");
    struct rlimit processes;
    getrlimit(RLIMIT_NPROC, &processes);
    if (what) printf("%s %lu\\n", what, (unsigned long) processes.rlim_max), fflush(stdout);
    if (what && *what == 'e') _exit(3);
    if (what && *what == 's') sleep(600);
}
"""


@pytest.mark.parametrize(("what", "ending"), [("end", (Ending.EXITED, 3)), ("sleep", (Ending.TIMED_OUT, None))])
async def test_a_library_named_by_the_call_runs_within_the_limits_only(
    house: House, what: str, ending: tuple[Ending, int | None]
) -> None:
    """Before the program is let go, nothing runs that the call chose: it would be neither limited nor timed."""
    history = house.session()
    body = PRELOADED + "int main() {}"
    language, program = Attack("preload", body, "c").source(house.places)
    program = program.replace("gcc -w -o attack attack.c && ./attack", "gcc -w -shared -fPIC -o l.so attack.c")
    assert (await history.step(language, program, stages=stages(language, ROOMY))).stages[0][1].exit_code == 0
    limits = msgspec.structs.replace(ROOMY, wall_time_s=1.0)
    variables = (("LD_PRELOAD", "/work/l.so"), ("WHAT", what))
    result = await history.step(SHELL, "true", stages=stages(SHELL, limits), env=variables)
    run = result.stages[0][1]
    assert (run.ending, run.exit_code) == ending, run
    word, most = run.stdout.data.decode().split()
    assert (word, int(most) <= limits.processes + 8) == (what, True)


async def test_variables_of_the_call_reach_the_program_as_they_are(house: House) -> None:
    variables = (("A", "a b=c\n'\""), ("PATH", "/usr/bin:/bin"), ("EMPTY", ""))
    script = 'printf \'%s|\' "$A" "${EMPTY-unset}" $PATH'
    assert said(await house.session().shell(script, env=variables)) == "a b=c\n'\"||/usr/bin:/bin|"
    result = await house.session().step(("_psf_x", ("no-such-program",)), "", env=variables)
    assert result.stages[0][1].exit_code == 127
