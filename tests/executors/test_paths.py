"""Names of places: nothing ever leaves the work directory or scratch, however it is written."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.paths import FAULTS, HOME, PATH_BYTES_MAX, SCRATCH, WORK, Place, resolve

PART = st.one_of(
    st.sampled_from(["..", ".", "", "work", "tmp", "var", "mnt", "home", "sandbox", "etc", "_psf_x", "...", " ", "\n", "-"]),
    st.text(max_size=12),
)  # fmt: skip
NAMES = st.lists(PART, max_size=10).map("/".join)
ROOTED = st.tuples(
    st.sampled_from(["", "/", "//", "///", "./", "../", "/work/", "/tmp/", "/home/sandbox/", "\\"]), NAMES
)
PLACES = {b"": "/work", b"tmp": "/tmp", b"var-tmp": "/var/tmp", b"mnt": "/mnt", b"home": "/home/sandbox"}


@given(pieces=ROOTED)
def test_a_place_is_below_work_or_scratch_and_where_the_name_says(pieces: tuple[str, str]) -> None:
    name = "".join(pieces)
    place = resolve(name)
    if isinstance(place, str):
        assert place in FAULTS
        return
    assert place.path
    assert not {b"", b".", b".."} & set(place.path)
    assert not any(b"/" in part or b"\0" in part or len(part) > 255 for part in place.path)
    root = PLACES[place.scratch or b""]
    absolute = posixpath.join(root, *(part.decode() for part in place.path))
    assert absolute == "/" + posixpath.normpath(posixpath.join("/work", name)).lstrip("/")
    assert place.mount == tuple(root.encode().split(b"/")[1:])


@given(pieces=ROOTED)
def test_a_fault_is_a_fault_of_the_name(pieces: tuple[str, str]) -> None:
    """What is refused as outside really is: nothing that programs could write is turned away."""
    name = "".join(pieces)
    place = resolve(name)
    absolute = "/" + posixpath.normpath(posixpath.join("/work", name)).lstrip("/")
    below = [root for root in PLACES.values() if absolute.startswith(root + "/")]
    if place == "outside":
        assert not below
    elif place == "reserved":
        assert absolute.startswith("/work/_psf_")


@given(parts=st.lists(st.text("abc. ", min_size=1, max_size=5), min_size=1, max_size=5))
def test_all_ways_to_write_a_name_are_one_place(parts: list[str]) -> None:
    name = "/".join(parts)
    ways = (
        name,
        f"./{name}",
        f"x/../{name}",
        f"/work/{name}",
        f"//work///{name}",
        f"../work/{name}",
        f"/tmp/../work/{name}",
    )
    assert len({resolve(way) for way in ways}) == 1


@pytest.mark.parametrize("root", [WORK, *SCRATCH])
def test_each_root_is_known_and_is_itself_no_file(root: str) -> None:
    assert resolve(root) == resolve(root + "/") == "outside"
    assert resolve(f"{root}/a/b") == Place(SCRATCH.get(root), (b"a", b"b"), tuple(root[1:].encode().split(b"/")))
    assert resolve(root + "x/a") == "outside"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"), (".", "outside"), ("..", "outside"), ("/", "outside"), ("../etc/passwd", "outside"),
        ("a/../../etc/passwd", "outside"), ("/etc/passwd", "outside"), ("/tmp/../etc/passwd", "outside"),
        ("/workx/a", "outside"), ("/work/../work", "outside"), ("/home/sandboxx/a", "outside"), ("/home/other/a", "outside"),
        ("a\0b", "nul"), ("\0", "nul"), ("/etc\0/work/a", "nul"), ("\ud800", "surrogate"), ("a/\udfff/b", "surrogate"),
        ("x" * 256, "too_long"), ("\u00e9" * 128, "too_long"), ("a/" * 2049, "too_long"),
        ("x" * 256 + "/../a", "too_long"), ("_psf_main.py", "reserved"), ("/work/_psf_x/y", "reserved"),
        ("a/../_psf_x", "reserved"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_name_is_said(name: str, fault: str) -> None:
    assert resolve(name) == fault


@pytest.mark.parametrize(
    "name",
    [
        "a/_psf_x",
        "/tmp/_psf_x",
        "_psfx",
        "x" * 255,
        "\u00e9" * 127,
        "a" + "/b" * (PATH_BYTES_MAX // 2 - 1),
        "~",
        "a b\n",
    ],
)
def test_names_that_are_only_odd_are_allowed(name: str) -> None:
    assert isinstance(resolve(name), Place)


def test_home_is_scratch() -> None:
    assert SCRATCH[HOME] == b"home"
