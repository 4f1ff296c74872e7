"""The compilers that rows of the battery use: what an image needs of them, and a program for each that only works where it does."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from tests.dockerd import image

IMAGE = f"{image.NAME}-with-compilers"
PROGRAMS = ("as", "g++", "gcc", "ld", "strings")
_OF_GCC = (
    "cc1",
    "cc1plus",
    "collect2",
    "crtbegin*.o",
    "crtend*.o",
    "include/*.h",
    "libgcc*",
    "liblto_plugin.so",
    "libstdc++.so",
    "lto-wrapper",
)
_OF_LIBC = ("crt1.o", "Scrt1.o", "crti.o", "crtn.o", "libc.so", "libc_nonshared.a", "libm.so", "libmvec.so*")
_HEADERS = ("*.h", "asm*/**/*.h", "linux/**/*.h", "*-linux-gnu/**/*.h")

JAVA_SETTINGS = tuple(sorted(glob.glob("/etc/java-*")))
"""Without them a Java of Debian's does not start: they must be shown to programs."""
CONTROLS = {
    "gcc": "echo '#include <stdio.h>\nint main() { puts(\"works\"); }' > c.c && gcc -o c c.c && ./c",
    "g++": "echo 'template <class T> T same(T t) { return t; } int main() { return same(0); }' > c.cc && g++ -o c c.cc && ./c && echo works",
    "as": "echo .data > c.s && as -o c.o c.s && ld -r -o d.o c.o && strings d.o | grep -q data && echo works",
    "node": "echo 'console.log(\"works\")' > c.js && node c.js",
    "javac": "echo 'class C { }' > C.java && javac -J-Xmx128m C.java && test -s C.class && echo works",
    "rustc": "echo 'fn main() { println!(\"works\"); }' > c.rs && rustc c.rs && ./c",
}


def files() -> Iterator[str]:
    """What of this machine a container needs beside the programs: the compilers proper, headers, what is linked to all."""
    folders = {"/usr/lib/gcc/*/*": _OF_GCC, "/usr/lib/*-linux-gnu": _OF_LIBC, "/usr/include": _HEADERS}
    for folder, patterns in folders.items():
        for pattern in patterns:
            yield from (path for path in glob.iglob(f"{folder}/{pattern}", recursive=True) if Path(path).is_file())
