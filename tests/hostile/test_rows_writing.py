"""The battery, writing: whatever is not the program's own. Judged by what stands there afterwards, on the host and in the next run."""

from __future__ import annotations

from pathlib import Path

from executors.testing.history import said
from tests.hostile.battery import LOOT, ROOMY, Attack, each, each_tame, stages, unconfined
from tests.hostile.conftest import Doors, House

PUT = "for f in {}; do (echo psf > $f) 2> /dev/null && echo GOT $f; done; true"
OPENED = "for f in {}; do test -e $f && (exec 3>> $f) 2> /dev/null && echo GOT $f; done; true"
MADE = "for d in {}; do (echo x > $d/psf-new) 2> /dev/null && echo GOT $d && rm -f $d/psf-new; done; true"

ROWS = (
    Attack("the canary by its name", "echo broken > @canary", seen="canary", tame=True),
    Attack("the canary by the root of a process", "for p in /proc/[0-9]*/root; do echo broken > $p@canary; done 2> /dev/null; true", seen="canary", tame=True),
    Attack("the canary by a symlink", "ln -s @canary here; echo broken > here", seen="canary", tame=True),
    Attack("the canary by a hard link", "ln @canary here 2> /dev/null; echo broken >> here", seen="canary"),
    Attack("the canary by moving over it", "echo broken > mine; mv mine @canary", seen="canary", tame=True),
    Attack("the canary by removing it", "rm -f @canary; rm -rf @home/*", seen="canary", tame=True),
    Attack("the canary by cutting it off", "import os\nos.truncate('@canary', 1)", "python", "canary", tame=True),
    Attack("the canary's mode", "chmod 000 @canary && echo GOT", tame=True),
    Attack("the canary's time", "touch -d 2001-01-01 @canary && stat -c %y @canary | grep -q ^2001 && echo GOT", tame=True),
    Attack("a file beside the canary", "echo x > @home/new", seen="canary", tame=True),
    Attack("the whole house by a symlink to a folder", "ln -s @home d; echo x > d/new; echo broken > d/*canary*", seen="canary", tame=True),
    Attack("the store", "for f in @home/store/* @home/store/*/*; do echo broken > $f; done 2> /dev/null; true", seen="store"),
    Attack("folders of the system", MADE.format("/ /usr /usr/bin /usr/lib /usr/local/bin /etc /opt /opt/psf /opt/psf/bin /run /var /var/lib /home /dev /boot /srv")),
    Attack("programs of the system", OPENED.format("/usr/bin/env /bin/sh /usr/bin/python3 /lib64/ld-linux-x86-64.so.2 /opt/psf/bin/python3")),
    Attack("a program over one of the system's", "cp /usr/bin/id id && mv id /usr/bin/id && echo GOT; rm -f /usr/bin/env && echo GOT; true"),
    Attack("settings of the system", OPENED.format("/etc/passwd /etc/group /etc/hosts /etc/resolv.conf /etc/ld.so.cache /etc/nsswitch.conf /etc/hostname")),
    Attack("a loader's list", PUT.format("/etc/ld.so.preload /etc/ld.so.conf.d/psf.conf")),
    Attack("Python's folders of packages", "import os, site, sys\nfor d in {*sys.path, *site.getsitepackages()} - {'/work'}:\n    try:\n"
           "        open(d + '/psf_new.pth', 'w').close(); print('GOT', d)\n    except OSError: pass", "python"),
    Attack("Python's compiled library", "import glob, os\nfor f in glob.glob('/usr/lib/python3*/__pycache__/os.*'):\n    try:\n"
           "        open(f, 'ab').close(); print('GOT', f)\n    except OSError: pass", "python"),
    Attack("the kernel's core pattern", OPENED.format("/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug")),
    Attack("the kernel's settings", "for f in $(find /proc/sys -type f 2> /dev/null); do (exec 3>> $f) 2> /dev/null && echo GOT $f; done; true"),
    Attack("the kernel's magic keys", OPENED.format("/proc/sysrq-trigger /proc/mtrr /proc/acpi/wakeup")),
    Attack("interrupts and buses", "for f in $(find /proc/irq /proc/bus /proc/fs /proc/scsi /proc/acpi -type f 2> /dev/null); do (exec 3>> $f) 2> /dev/null"
           " && echo GOT $f; done; true"),
    Attack("settings of the network", "for f in /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn; do (echo 1 > $f) 2> /dev/null && echo GOT; done; true"),
    Attack("/sys", "mount | grep -w sysfs && echo GOT; find /sys -writable 2> /dev/null | grep . && echo GOT; true", tame=True),
    Attack("control groups", "find /sys/fs/cgroup -name cgroup.procs 2> /dev/null | head -1 | grep . && echo GOT; true", tame=True),
    Attack("a release agent", PUT.format("/sys/fs/cgroup/release_agent /sys/fs/cgroup/memory/release_agent /tmp/no/release_agent")),
    Attack("its own ids", "for f in uid_map gid_map setgroups projid_map; do (echo 0 0 1 > /proc/self/$f) 2> /dev/null && echo GOT $f; done; true"),
    Attack("its audit user and security label", "for f in loginuid attr/current attr/exec; do (echo 0 > /proc/self/$f) 2> /dev/null && echo GOT $f; done; true"),
    Attack("another process's affairs", "for f in mem oom_score_adj oom_adj coredump_filter clear_refs sched timerslack_ns comm; do (echo 1 > /proc/1/$f) 2> /dev/null"
           " && echo GOT $f; done; true"),
    Attack("what is masked", OPENED.format("/proc/cmdline /proc/keys /proc/config.gz /proc/interrupts") + "; rm -f /proc/keys 2> /dev/null && echo GOT; true"),
    Attack("devices", "for kind in 'c 1 1' 'c 1 3' 'c 10 237' 'b 7 0' 'b 254 0'; do for d in /work /tmp /dev /dev/shm /mnt ~; do"
           " mknod $d/psf $kind 2> /dev/null && echo GOT && rm $d/psf; done; done; true", tame=True),
    Attack("a device in /dev", OPENED.format("/dev/vda /dev/sda /dev/mem /dev/kmsg /dev/fuse /dev/loop-control /dev/net/tun /dev/kvm /dev/cpu_dma_latency /dev/tty0")),
    Attack("a setuid file of root's", "cp /usr/bin/id id; chown 0:0 id 2> /dev/null; chmod 6755 id; ./id -u | grep -x 0 && echo GOT", tame=True),
    Attack("a file with capabilities", "import os, struct\nopen('f', 'w').close()\nos.setxattr('f', 'security.capability', struct.pack('=IIIII', 0x02000001, 1 << 21, 0, 0, 0))\n"
           "print('GOT')", "python", tame=True),
    Attack("another owner", "for f in 0:0 1:1 70386:70386 65534:65534; do chown $f . 2> /dev/null && echo GOT $f; done; chown 1000:1000 .; true", tame=True),
    Attack("an unchangeable file", "echo x > f; chattr +i f 2> /dev/null && echo GOT && chattr -i f; chattr +a f 2> /dev/null && echo GOT && chattr -a f; true", tame=True),
    Attack("marks of the overlay", "import os\nfor name in ('trusted.overlay.opaque', 'trusted.overlay.redirect', 'security.psf'):\n    try:\n"
           "        os.setxattr('.', name, b'y'); print('GOT', name); os.removexattr('.', name)\n    except OSError: pass", "python", tame=True),
)  # fmt: skip
# What the next run must not find poisoned: program, and what shows it. The home is scratch; the work directory is the session's own.
POISONS = {
    "a profile of the shell": "echo 'echo POISON' | tee ~/.bashrc ~/.profile ~/.bash_profile ~/.bash_login > /tmp/.bashrc",
    "what Python runs first": "mkdir -p ~/.local/lib/python3.11/site-packages; echo 'print(\"POISON\")' | tee ~/.local/lib/python3.11/site-packages/usercustomize.py"
    " ~/sitecustomize.py /tmp/sitecustomize.py /tmp/os.py > ~/.pythonrc",
    "Python's compiled caches": "mkdir -p ~/.cache/python/usr/lib/python3.11; cp /usr/lib/python3.11/__pycache__/antigravity* ~/.cache/python/usr/lib/python3.11/ 2> /dev/null;"
    " echo POISON > ~/.cache/python/usr/lib/python3.11/os.cpython-311.pyc",
    "programs in scratch": "for d in ~/bin ~/.local/bin /tmp /var/tmp /mnt; do mkdir -p $d; printf '#!/bin/sh\\necho POISON\\n' > $d/ls; cp $d/ls $d/python3;"
    " chmod +x $d/ls $d/python3; done",
    "settings of tools": "printf '[alias]\\nx = !echo POISON\\n' > ~/.gitconfig; echo 'POISON' > ~/.inputrc; mkdir -p ~/.config/pip; echo '[global]' > ~/.config/pip/pip.conf",
    "shared memory and temporary files": "echo POISON | tee /dev/shm/sem.psf /tmp/psf /var/tmp/psf > /mnt/psf; ipcmk -M 4096 > /dev/null; true",
}
LOOK = (
    "find ~ /tmp /var/tmp /mnt /dev/shm -type f; command -v ls; command -v python3; ipcs -m | grep 0x; ls / > /dev/null; bash -l -c true;"
    " bash -i -c true 2> /dev/null; python3 -c 'import os, antigravity' 2> /dev/null; ls ~ /tmp > /dev/null"
)


@each(ROWS)
async def test_nothing_is_changed_by(house: House, attack: Attack) -> None:
    store = sorted(path.name for path in (house.home / "store").iterdir())
    time_ns = house.canary.stat().st_mtime_ns
    await house.withstands(attack)
    status = house.canary.stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777, status.st_nlink) == (time_ns, 0o666, 1)
    assert sorted(path.name for path in (house.home / "store").iterdir()) == store


@each_tame(ROWS)
def test_unconfined_it_is_noticed_that_something_is_changed_by(
    own_doors: Doors, tmp_path: Path, attack: Attack
) -> None:
    places = own_doors.places
    brought = unconfined(attack, places, tmp_path)
    names = {path.name for path in places.home.iterdir()}
    broken = names != {places.canary.name, "socket"} or places.canary.read_text() != LOOT
    assert broken if attack.seen == "canary" else brought


async def test_a_poison_in_the_work_directory_would_be_noticed(house: House) -> None:
    """The look itself: what a session keeps in its own work directory is found where the next run looks."""
    history = house.session()
    await history.shell(
        "mkdir -p .local/bin; printf '#!/bin/sh\\necho POISON\\n' > .local/bin/ls; chmod +x .local/bin/ls"
    )
    assert "/work/.local/bin/ls" in said(await history.shell(LOOK))


@each([Attack(name, program) for name, program in POISONS.items()])
async def test_the_next_run_is_not_poisoned_by(house: House, attack: Attack) -> None:
    history = house.session()
    language, program = attack.source(house.places)
    run = (await history.step(language, program, stages=stages(language, ROOMY))).stages[0][1]
    assert run.exit_code == 0, run
    for following in (history, house.session()):
        found = said(await following.shell(LOOK))
        assert "POISON" not in found
        assert found.splitlines() == ["/usr/bin/ls", "/usr/bin/python3"]
