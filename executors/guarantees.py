"""What a sandbox may promise, by name: the words of `Capabilities.enforced`, of its lacks, and of `require`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from executors.interfaces import Capabilities

GUARANTEES = {
    "files": "programs see a read-only system and what is theirs, nothing else of the host",
    "identity": "programs are nobody on the host, see no other processes and can gain no rights",
    "system_calls": "a filter refuses system calls that lead beyond files, memory, processes and sockets",
    "network": "there is no network that a run's limits do not ask for",
    "wall_time": "a program is killed when its time is over",
    "cpu_time": "a program is killed when it has used its CPU time",
    "cpus": "`cpus` in limits is how many processors' time a run gets",
    "memory": "memory is limited for a run as a whole, and measured",
    "processes": "the number of processes is limited",
    "output": "output is kept up to a cap and a flood is killed",
    "file_size": "no file grows beyond its limit",
    "open_files": "the number of open files is limited",
    "scratch": "scratch has a size and a number of files",
    "disk": "what a program writes into the work directory is limited in bytes while it runs",
    "inodes": "what a program writes into the work directory is limited in number while it runs",
}
"""Each is there when something enforces it and no lack is told."""

FACILITIES = {
    "egress": "a run whose limits ask for it reaches what lies beyond the machine, and nothing of the machine",
    "deterministic": "a run that asks for it has fixed variables, addresses that are not random and one processor",
}
"""Each is there when something provides it (in `Capabilities.enforced` too) and no lack is told. Without them no wall is lower."""

QUALITIES = {
    "workspace": "trees become directories without being copied",
    "rename": "directories of earlier steps can be renamed",
    "paths": "no path of the host shows in a program's table of mounts",
    "exit_status": "exit code 128+n is told from death by signal n",
    "user_id": "programs have user id 1000, whoever they are on the host",
}
"""Each is there when no lack is told: nothing needs to enforce it."""

NAMES = (*GUARANTEES, *FACILITIES, *QUALITIES)


def lacks(capabilities: Capabilities) -> dict[str, str]:
    """What is missing, by name, with the sentence that says why."""
    told = {_name(lack): lack.partition(": ")[2] for lack in capabilities.missing}
    silent = {name: "nothing enforces it" for name in GUARANTEES if name not in capabilities.enforced}
    absent = {name: "nothing provides it" for name in FACILITIES if name not in capabilities.enforced}
    return silent | absent | told


def there(capabilities: Capabilities) -> tuple[str, ...]:
    """The names that can be relied on, in their usual order."""
    missing = lacks(capabilities)
    return tuple(name for name in NAMES if name not in missing)


def missing_of(required: Iterable[str], capabilities: Capabilities) -> dict[str, str]:
    """Those of `required` that are missing, with the reason for each."""
    missing = lacks(capabilities)
    return {name: missing[name] for name in required if name in missing}


def _name(lack: str) -> str:
    return lack.partition(":")[0].replace(" ", "_")
