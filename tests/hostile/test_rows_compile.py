"""The battery, compile time: compilers and build tools run inside the same walls, whatever they are told to read, write or start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from executors.interfaces import StageRequest
from executors.testing.history import said
from tests.hostile.battery import ROOMY, Attack, breaches_of, each, each_tame, unconfined
from tests.hostile.conftest import Doors, House

GCC = "cat > a.c <<'END'\n{}\nEND\ngcc -w {} a.c 2>&1"
DUMP = GCC.format("{}", "-E")
MAKE = "printf '{}' > Makefile; make -s 2>&1"
ROWS = (
    Attack("an include of a host file", DUMP.format('#include "@canary"'), tame=True),
    Attack("an include through the root of a process", DUMP.format('#include "/proc/self/root@canary"'), tame=True),
    Attack("an include by a computed name", DUMP.format("#define A(x) #x\n#define B(x) A(x)\n#include B(@canary)")),
    Attack("an include of the server's environment", DUMP.format('#include "/proc/@server/environ"')),
    Attack("an include of the passwords, told in an error", GCC.format('#include "/etc/shadow"', "-c") + " | grep -e 'root:[*$!]' && echo GOT; true"),
    Attack("an assembler's inclusion", GCC.format('__asm__(".section .data; .incbin \\"@canary\\"");', "-S") + "; as -o a.o a.s && strings a.o", tame=True),
    Attack("an embedded file", "printf '.data\\n.incbin \"@canary\"\\n' > a.s; as -o a.o a.s && strings a.o", tame=True),
    Attack("a linker's script", "ld -r -b binary -o a.o @canary && strings a.o", tame=True),
    Attack("a linker's script that is a host file", "ld -T @canary 2>&1 | head -5; ld @@canary 2>&1 | head -5"),
    Attack("a file of arguments", "gcc @@canary 2>&1"),
    Attack("an include folder", DUMP.format("#include <ssh_host_rsa_key>").replace("-E", "-E -I/etc/ssh -I/root") + " | grep -e KEY && echo GOT; true"),
    Attack("a dependency file put outside", GCC.format("int main;", "-c -MD -MF @home/deps"), seen="canary", tame=True),
    Attack("an output put outside", GCC.format("int main;", "-c -o @home/made.o"), seen="canary", tame=True),
    Attack("an output over the canary", GCC.format("int main;", "-c -o @canary"), seen="canary", tame=True),
    Attack("a plug-in of the compiler", "echo 'int plugin_is_GPL_compatible; __attribute__((constructor)) void f() { system(\"cat @canary\"); }' > p.c; gcc -w -shared -fPIC"
           " -o p.so p.c && gcc -fplugin=./p.so -c p.c 2>&1; true", tame=True),
    Attack("a wrapper of the compiler", "echo 'int main;' > a.c; gcc -wrapper cat,@canary -c a.c 2>&1; gcc -B/tmp -c a.c"),
    Attack("a compiler's temporary folder", "echo 'int main;' > a.c; TMPDIR=@home gcc -save-temps=obj -dumpdir @home/x -c a.c 2>&1; true", seen="canary", tame=True),
    Attack("a build script", MAKE.format("all:\\n\\tcat @canary\\n"), tame=True),
    Attack("a build script at the time of reading", MAKE.format("$(info $(shell cat @canary))\\nall:\\n"), tame=True),
    Attack("a build script that loads a file", MAKE.format("include @canary\\n")),
    Attack("a build script that writes outside", MAKE.format("all:\\n\\techo x > @home/made\\n"), seen="canary", tame=True),
    Attack("Python while it compiles", "printf 'import os; print(open(\"@canary\").read())' > setup.py; python3 setup.py build 2>&1", tame=True),
    Attack("a package while it is installed", "mkdir p; printf 'from setuptools import setup\\nprint(open(\"@canary\").read())\\nsetup(name=\"p\")' > p/setup.py;"
           " pip install --no-deps --no-build-isolation ./p 2>&1 | grep -a -e 'is out'; true"),
    Attack("a coding of the source", "printf '# coding: unicode_escape\\nx = open(\\\\u0022@canary\\\\u0022).read(); print(x)' > a.py; python3 a.py 2>&1; python3 -c"
           " 'print(open(\"@canary\").read())'", tame=True),
    Attack("a linter's or debugger's start file", "echo 'shell cat @canary' > .gdbinit; (gdb -q -batch -x .gdbinit || cat @canary) 2>&1", tame=True),
    Attack("awk, sed, perl and other small compilers", "awk 'BEGIN { while ((getline l < \"@canary\") > 0) print l }' 2>&1; sed -n 'r @canary' /etc/passwd 2>&1; perl -e"
           " 'print `cat @canary`; do \"@canary\"; print $@' 2>&1; true", tame=True),
)  # fmt: skip
NODE = "cat > a.js <<'END'\n{}\nEND\nnode a.js 2>&1"
JAVA = "cat > A.java <<'END'\n{}\nEND\n"
OTHERS = {
    "node": (
        Attack("a script that requires a host file", NODE.format("try { require('@canary') } catch (e) { console.log(e.stack) }"), tame=True),
        Attack("a script that reads when it is parsed", NODE.format("console.log(require('fs').readFileSync('@canary', 'utf8'))"), tame=True),
        Attack("a script that asks the debugger of another", NODE.format("try { process._debugProcess(1); } catch (e) {}\ntry { process.kill(@server, 0); console.log('GOT') } catch (e) {}"), tame=True),
    ),
    "javac": (
        Attack("an annotation processor", JAVA.format(
            "import java.nio.file.*; import java.util.*; import javax.annotation.processing.*; import javax.lang.model.element.*;\n"
            "@SupportedAnnotationTypes(\"*\") public class A extends AbstractProcessor { public boolean process(Set<? extends TypeElement> s, RoundEnvironment e) {\n"
            "try { System.out.println(Files.readString(Path.of(\"@canary\"))); } catch (Exception x) {} return false; } }")
            + "javac -J-Xmx128m -proc:none A.java && javac -J-Xmx128m -cp . -processor A A.java 2>&1; true", tame=True),
    ),
    "rustc": (
        Attack("a macro that includes a host file", "echo 'fn main() { println!(\"{}\", include_str!(\"@canary\")); }' > a.rs; rustc a.rs 2>&1 && ./a"),
    ),
}  # fmt: skip
PRESENT = [
    attack
    for tool, attacks in OTHERS.items()
    if shutil.which(tool, path="/usr/local/bin:/usr/bin")
    for attack in attacks
]


@each((*ROWS, *PRESENT))
async def test_nothing_is_read_or_changed_at_compile_time_by(house: House, attack: Attack) -> None:
    """As the compile stage of a step: its run must not find more than the tree."""
    history = house.session()
    (name, _), program = attack.source(house.places)
    compiling = StageRequest("compile", ("bash", name), ROOMY)
    running = StageRequest("run", ("sh", "-c", "find . -type f -exec cat {} +; true"), ROOMY)
    result = await history.step((name, ()), program, stages=(compiling, running))
    assert breaches_of(result, history.objects) == []
    assert result.stages[0][1].exit_code is not None, result.stages[0][1]


@each_tame((*ROWS, *PRESENT))
def test_unconfined_it_is_noticed_that_something_is_read_by(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    places = own_doors.places
    before = places.canary.read_bytes()
    brought = unconfined(attack, places, tmp_path)
    made = {path.name for path in places.home.iterdir()} - {places.canary.name, "socket"}
    assert made or places.canary.read_bytes() != before if attack.seen == "canary" else brought


@pytest.mark.parametrize("bomb", [
    "#include __FILE__", "#define A B B B B B B B B\n#define B C C C C C C C C\n#define C D D D D D D D D\n#define D E E E E E E E E\n#define E F F F F F F F F\n#define F 1,1,1,1,1,1,1,1\nint x[] = {A A A A A A A A};",
    "char x[1ull << 33] = {1};",
], ids=["itself", "macros", "a giant object"])  # fmt: skip
async def test_a_compiler_bomb_ends_and_others_are_served(house: House, bomb: str) -> None:
    history = house.session()
    limits = msgspec.structs.replace(ROOMY, wall_time_s=2.0, memory_bytes=128 << 20)
    program = GCC.format(bomb, "-c")
    compiling = asyncio.create_task(
        history.step(("_psf_main.sh", ()), program, stages=(StageRequest("compile", ("bash", "_psf_main.sh"), limits),))
    )
    assert said(await house.session().shell("echo served")) == "served"
    run = (await compiling).stages[0][1]
    assert run.exit_code != 0
    assert await history.says("echo goes on") == "goes on"
