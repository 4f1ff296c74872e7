"""What is missing is missing, whoever forgot to say so; what is there can be required."""

from __future__ import annotations

from pathlib import Path

import msgspec

from executors import docker_exec, guarantees, launched
from executors.docker_container import DockerSettings
from executors.interfaces import Capabilities
from tests.executors import bench

FULL = Capabilities("any", "overlay", dict.fromkeys((*guarantees.GUARANTEES, *guarantees.FACILITIES), "something"), ())
LACKING = Capabilities(
    "any",
    "copy",
    {name: "something" for name in guarantees.GUARANTEES if name != "disk"},
    ("memory: no control group: limited for each process", "system calls: no filter", "rename: not here"),
)


def test_what_is_enforced_and_not_said_to_be_missing_is_there() -> None:
    assert guarantees.lacks(FULL) == {}
    assert guarantees.there(FULL) == guarantees.NAMES
    assert guarantees.missing_of(guarantees.NAMES, FULL) == {}


def test_a_lack_counts_although_something_enforces_a_part_of_it() -> None:
    assert guarantees.missing_of(["memory", "files"], LACKING) == {
        "memory": "no control group: limited for each process"
    }


def test_a_name_of_two_words_is_one_name() -> None:
    assert guarantees.missing_of(["system_calls"], LACKING) == {"system_calls": "no filter"}


def test_what_nothing_enforces_is_missing_although_nobody_says_so() -> None:
    assert guarantees.missing_of(["disk"], LACKING) == {"disk": "nothing enforces it"}


def test_a_quality_is_there_until_its_lack_is_told() -> None:
    assert guarantees.missing_of(guarantees.QUALITIES, LACKING) == {"rename": "not here"}
    assert not set(guarantees.there(LACKING)) & {"memory", "system_calls", "rename", "disk"}


def test_a_facility_that_nothing_provides_is_missing() -> None:
    assert guarantees.missing_of(["egress"], LACKING) == {"egress": "nothing provides it"}


def test_our_sandboxes_tell_each_lack_by_the_name_that_can_be_required() -> None:
    profile = msgspec.structs.replace(bench.profile(), filter_program=None, privileged=False)
    nothing = {"cgroup": None, "cgroup_missing": "x", "cpus_missing": "x", "exact_status": False, "never_repeats": "x"}
    all_lacks = [
        *launched._capabilities(profile, "any", "auto", nothing | {"overlay": "none"}).missing,
        *launched._capabilities(profile, "any", "auto", nothing | {"overlay": None}).missing,
        *docker_exec._capabilities(profile, DockerSettings("x", Path("/")), {"filtered": False}, "none").missing,
    ]
    assert {lack.partition(": ")[0] for lack in all_lacks} <= set(guarantees.NAMES)
