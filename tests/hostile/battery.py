"""The battery's rows and its judge. A row is one attack: a program, and what it prints or leaves when it got through.

A program says `GOT` and what, when it reached what it must not; it may also bring out what stands in the canary. What it cannot
say about itself is seen from outside: canaries and doors (`house`), processes, the next steps. Rows that do no harm where
nothing confines them (`tame`) are run so as well, to show that the judge notices.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from executors.interfaces import Result, StageRequest
from executors.testing.history import PYTHON, contents
from executors.testing.trial import LIMITS
from store.interfaces import Objects
from store.snapshot import Limits

SECRET = "psf-hostile-canary-8d21f0"
"""In names of what no program may see."""
LOOT = f"{SECRET} is out"
"""Stands in every file that no program may read. Where it is printed or kept, something was read."""
BASH = ("_psf_main.sh", ("bash", "_psf_main.sh"))
ROOMY = msgspec.structs.replace(LIMITS, memory_bytes=512 << 20, file_bytes=64 << 20, scratch_bytes=64 << 20)

C = """
cat > attack.c <<'END'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
@body
END
gcc -w -o attack attack.c && ./attack
"""
CALL = """
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    converted = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    return libc.syscall(ctypes.c_long(number), *converted, *[ctypes.c_long(0)] * (6 - len(converted)))
def got(what, result):
    if result >= 0:
        print('GOT', what, result, flush=True)
"""


class Places(msgspec.Struct, frozen=True):
    """Where the attacked things are. `@home`, `@canary`, `@port`, `@abstract` and `@server` stand for them in programs."""

    home: Path
    port: int
    server: int
    """The server's process id."""

    @property
    def canary(self) -> Path:
        return self.home / f"{SECRET}.txt"

    @property
    def abstract(self) -> str:
        """Name of a unix socket that is no file."""
        return f"{SECRET}-{self.port}"

    def put(self, program: str) -> str:
        for word in ("home", "canary", "port", "abstract", "server"):
            program = program.replace(f"@{word}", str(getattr(self, word)))
        return program


class Attack(msgspec.Struct, frozen=True):
    """One row. `seen` says where its success would show; `tame`, that it does no harm unconfined and succeeds there."""

    name: str
    program: str
    language: Literal["bash", "python", "call", "c"] = "bash"
    seen: str = "answer"
    tame: bool = False

    def source(self, places: Places) -> tuple[tuple[str, tuple[str, ...]], str]:
        """Which language runs it, and the program."""
        if self.language in ("bash", "c"):
            body = C.replace("@body", self.program) if self.language == "c" else self.program
            return BASH, places.put(body)
        return PYTHON, places.put((CALL if self.language == "call" else "") + self.program)


def each(attacks: Iterable[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", [pytest.param(attack, id=attack.name) for attack in attacks])


def each_tame(attacks: Iterable[Attack]) -> pytest.MarkDecorator:
    return each(attack for attack in attacks if attack.tame)


def stages(language: tuple[str, tuple[str, ...]], limits: Limits) -> tuple[StageRequest, ...]:
    return (StageRequest("run", language[1], limits),)


def breaches(printed: bytes, *elsewhere: bytes) -> list[bytes]:
    """What an attack brought out, by what it printed and what else came of it."""
    said = [line for line in printed.splitlines() if line.startswith(b"GOT")]
    return said + [data for data in (printed, *elsewhere) if LOOT.encode() in data]


def breaches_of(result: Result, objects: Objects) -> list[bytes]:
    """The same of a step: in its streams, the files it gave back, and the tree that is kept."""
    runs = [run for _, run in result.stages]
    kept = [data for data in contents(objects, result.tree).values() if data is not None]
    printed = b"".join(run.stdout.data for run in runs)
    return breaches(printed, *(run.stderr.data for run in runs), *result.fetched.values(), *kept)


def unconfined(attack: Attack, places: Places, folder: Path) -> list[bytes]:
    """What a tame attack brings out where nothing confines it."""
    assert attack.tame
    (name, argv), program = attack.source(places)
    (folder / name).write_text(program)
    command = [sys.executable if argv[0] == "python3" else argv[0], *argv[1:]]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    left = [path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != name]
    return breaches(ran.stdout, ran.stderr, *left)
