"""The battery, compile time: compilers and build tools run inside the same walls, whatever they are told to read, write or start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from executors import profile as profiles
from executors.interfaces import StageRequest
from executors.profile import Profile
from executors.testing.history import SHELL, said
from tests.hostile import compilers
from tests.hostile.battery import ROOMY, Attack, breaches_of, each, each_tame, stages, unconfined
from tests.hostile.conftest import KINDS, Doors, House

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
GXX = "cat > a.cc <<'END'\n{}\nEND\ng++ -w {} a.cc 2>&1"
NODE = "cat > a.js <<'END'\n{}\nEND\nnode a.js 2>&1"
JAVA = "cat > A.java <<'END'\n{}\nEND\n"
JAVAC = "javac -J-Xmx128m {} 2>&1; true"
RUST = "cat > a.rs <<'END'\n{}\nEND\nrustc {} a.rs 2>&1"
ROWS_OF: dict[str, tuple[Attack, ...]] = {
    "gcc": ROWS,
    "g++": (
        Attack("an include before all of C++", GXX.format("", "-E -include @canary"), tame=True),
        Attack("a test whether a host file is there", GXX.format('#define A(x, y) x##y\n#if __has_include("@canary")\nA(G, OT)\n#endif', "-E -P"), tame=True),
        Attack("a program that tells where modules lie", "printf '#!/bin/sh\\ncat @canary >&2\\n' > m.sh; chmod +x m.sh; " + GXX.format("import m;", "-fmodules-ts '-fmodule-mapper=|./m.sh' -c"), tame=True),
        Attack("an embedded file of C++", GXX.format('asm(".section .rodata; .incbin \\"@canary\\"");', "-c") + "; strings a.o", tame=True),
        Attack("a source that is a symlink", "ln -s @canary a.cc; g++ -c a.cc 2>&1", tame=True),
        Attack("modules put outside", GXX.format("export module m;", "-fmodules-ts -fmodule-mapper=made?@home -c; g++ -fmodules-ts -c -o @home/m.o"), seen="canary", tame=True),
    ),
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
        Attack("a file of javac's arguments", "javac -J-Xmx128m @@canary 2>&1 | grep 'flag: psf-hostile' && echo GOT; true", tame=True),
        Attack("a Java source that is a symlink", "ln -s @canary B.java; " + JAVAC.format("B.java"), tame=True),
        Attack("classes put outside", JAVA.format("class A { }") + JAVAC.format("-d @home A.java"), seen="canary", tame=True),
        Attack("a source that is run while it is compiled", JAVA.format("class A { public static void main(String[] a) throws Exception {\n"
            "System.out.println(java.nio.file.Files.readString(java.nio.file.Path.of(\"@canary\"))); } }") + "java -Xmx128m A.java 2>&1; true", tame=True),
    ),
    "rustc": (
        Attack("a macro that includes a host file", RUST.format('fn main() { println!("{}", include_str!("@canary")); }', "") + " && ./a", tame=True),
        Attack("a module that is a host file", RUST.format('#[path = "@canary"] mod a; fn main() { }', ""), tame=True),
        Attack("a crate put outside", RUST.format("", "--crate-type lib --out-dir @home"), seen="canary", tame=True),
    ),
}  # fmt: skip
LOCAL = "/usr/local/bin:/usr/bin"
"""Where sandboxes that show the machine's own system have tools from."""
SHOWING = [name for name in KINDS if name != "docker"]
"""Sandboxes that show the machine's own system; of the image of others only the C compilers are part."""
LIMITS = msgspec.structs.replace(ROOMY, processes=128)


def attacks_with(*tools: str) -> list[Attack]:
    """Those whose tool is there."""
    return [attack for tool in tools if shutil.which(tool, path=LOCAL) for attack in ROWS_OF[tool]]


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profiles.build(read_only_paths=compilers.JAVA_SETTINGS)


async def test_no_row_is_without_effect_for_want_of_its_tool(house: House) -> None:
    there = {tool for tool in compilers.CONTROLS if shutil.which(tool, path=LOCAL)}
    if house.sandbox.capabilities.sandbox not in SHOWING:
        there &= {*compilers.PROGRAMS}
    limits = stages(SHELL, LIMITS)
    assert {tool: await house.session().says(compilers.CONTROLS[tool], stages=limits) for tool in there} == (
        dict.fromkeys(there, "works")
    )


async def withstand_compiled(house: House, attack: Attack) -> None:
    """As the compile stage of a step: its run must not find more than the tree."""
    history = house.session()
    (name, _), program = attack.source(house.places)
    compiling = StageRequest("compile", ("bash", name), LIMITS)
    running = StageRequest("run", ("sh", "-c", "find . -type f -exec cat {} +; true"), ROOMY)
    result = await history.step((name, ()), program, stages=(compiling, running))
    assert breaches_of(result, history.objects) == []
    assert result.stages[0][1].exit_code is not None, result.stages[0][1]


@each(attacks_with("gcc", "g++"))
async def test_nothing_is_read_or_changed_at_compile_time_by(house: House, attack: Attack) -> None:
    await withstand_compiled(house, attack)


@each(attacks_with("node", "javac", "rustc"))
@pytest.mark.parametrize("shared_house", [KINDS[name] for name in SHOWING], ids=SHOWING, indirect=True)
async def test_nothing_is_read_or_changed_by_a_tool_of_the_machines(house: House, attack: Attack) -> None:
    await withstand_compiled(house, attack)


@each_tame(attacks_with(*ROWS_OF))
def test_unconfined_it_is_noticed_that_something_is_read_by(own_doors: Doors, tmp_path: Path, attack: Attack) -> None:
    places = own_doors.places
    before = places.canary.read_bytes()
    brought = unconfined(attack, places, tmp_path)
    made = {path.name for path in places.home.iterdir()} - {places.canary.name, "socket"}
    assert made or places.canary.read_bytes() != before if attack.seen == "canary" else brought


MACROS = "#define A B B B B B B B B\n#define B C C C C C C C C\n#define C D D D D D D D D\n#define D E E E E E E E E\n#define E F F F F F F F F\n#define F 1,1,1,1,1,1,1,1\nint x[] = {A A A A A A A A};"
TEMPLATES = "template <class T> struct A : A<A<T>> { }; A<int> a;"
BOMBS = {
    "itself": GCC.format("#include __FILE__", "-c"),
    "macros": GCC.format(MACROS, "-c"),
    "a giant object": GCC.format("char x[1ull << 33] = {1};", "-c"),
    "templates": GXX.format(TEMPLATES, "-ftemplate-depth=99999999 -c"),
    "an endless loop at compile time": GXX.format(
        "constexpr int f() { while (true); } constexpr int x = f();",
        "-fconstexpr-loop-limit=2147483647 -fconstexpr-ops-limit=99999999999 -c",
    ),
}


@pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS.keys())
async def test_a_compiler_bomb_ends_and_others_are_served(house: House, program: str) -> None:
    history = house.session()
    limits = msgspec.structs.replace(ROOMY, wall_time_s=2.0, memory_bytes=128 << 20)
    compiling = asyncio.create_task(
        history.step(("_psf_main.sh", ()), program, stages=(StageRequest("compile", ("bash", "_psf_main.sh"), limits),))
    )
    assert said(await house.session().shell("echo served")) == "served"
    run = (await compiling).stages[0][1]
    assert run.exit_code != 0
    assert await history.says("echo goes on") == "goes on"
