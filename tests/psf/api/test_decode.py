"""From bytes to values: what a body, a time, a name may be, without a server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors import paths
from executors.paths import Place
from psf.api import decode
from psf.api.schemas import CreateSessionRequest, ExecuteSessionRequest, ForkRequest, RunCodeRequest
from psf.api.v1_schemas import CreateRequest, ExecuteRequest, MoveRequest, ReplayRequest, SettingsRequest
from psf.errors import InvalidField
from store import asked
from store.capture import DEPTH_MAX

KINDS = [CreateSessionRequest, ExecuteSessionRequest, ForkRequest, MoveRequest, RunCodeRequest]
RUN = '"code": "1", "language": "bash"'


def refusal(act: Callable[[], object]) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        act()
    return caught.value


def refused(data: str | bytes, kind: type = RunCodeRequest) -> InvalidField:
    return refusal(lambda: decode.decode(data.encode() if isinstance(data, str) else data, kind))


@pytest.mark.parametrize(
    ("field", "location", "kind"),
    [
        ('"run_timeout": NaN', ("run_timeout",), "finite_number"),
        ('"run_timeout": Infinity', ("run_timeout",), "finite_number"),
        ('"run_timeout": -Infinity', ("run_timeout",), "finite_number"),
        ('"memory_limit_MB": NaN', ("memory_limit_MB",), "finite_number"),
        ('"files": {"a": NaN}', ("files", "a"), "finite_number"),
        ('"fetch_files": ["a", NaN]', ("fetch_files", 1), "finite_number"),
        ('"colour": [{"deep": NaN}]', ("colour", 0, "deep"), "finite_number"),
        ('"stdin": "\\ud800"', ("stdin",), "string_unicode"),
        ('"files": {"\\ud800": "YQ=="}', ("files", "'\\ud800'"), "string_unicode"),
        ('"fetch_files": ["a", "\\udfff"]', ("fetch_files", 1), "string_unicode"),
        ('"run_timeout": 1e400', ("run_timeout",), "type_error"),
        ('"memory_limit_MB": ' + "9" * 5000, ("memory_limit_MB",), "type_error"),
        ('"keep": "x - at `$.code`"', ("keep",), "type_error"),
        ('"keep": "Object missing required field `code`"', ("keep",), "type_error"),
    ],
)
def test_what_json_has_no_word_for_is_told_by_its_field(field: str, location: tuple[str | int, ...], kind: str) -> None:
    error = refused(f'{{{RUN}, "session_id": "x", {field}}}', ExecuteSessionRequest)
    assert (error.location, error.kind) == (("body", *location), kind)


def test_the_first_such_field_is_told() -> None:
    assert refused(f'{{{RUN}, "a": {{"b": "\\ud800"}}, "run_timeout": NaN}}').location == ("body", "a", "b")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [500, 900, 990, 100_000])
def test_a_body_may_be_nested_as_deep_as_it_likes(opening: str, depth: int) -> None:
    """It is refused at whatever depth the interpreter ends."""
    closing = "".join({"[": "]", "{": "}"}.get(character, "") for character in reversed(opening))
    nested = opening * depth + "NaN" + closing * depth
    assert refused(f'{{{RUN}, "z": {nested}}}').location[0] == "body"


@pytest.mark.parametrize(
    "data", [b"", b" ", b"{", b'{"code": "\xff"}', b"\xef\xbb\xbf{}", '{"code": "1"}'.encode("utf-16")]
)
def test_what_is_not_json_is_told_as_that(data: bytes) -> None:
    error = refused(data)
    assert (error.location, error.kind) == (("body",), "json_invalid")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"limits": {"memory_bytes": "1GB"}', "must be a whole number or null, not a text"),
        ('"limits": {"memory_bytes": 1e99}', "must be a whole number or null, not one like 1.5 or 1e9"),
        ('"limits": {"wall_time_s": "10s"}', "must be a number or null, not a text"),
        ('"limits": {"wall_time_s": 0}', "must be greater than 0"),
        ('"limits": {"cpus": 0}', "must be at least 0.01"),
        ('"limits": {"open_files": 3}', "must be at least 32"),
        ('"limits": {"cpus": 20000}', "must be at most 10000"),
        ('"limits": []', "must be an object, not a list"),
        ('"limits": null', "must be an object, not null"),
        ('"require": "memory"', "must be a list, not a text"),
        ('"limits": {"memory": 5}', f"There is no such field; there are {', '.join(asked.NAMES)}"),
    ],
)
def test_what_a_field_must_be_is_said_in_words_that_fit_json(fields: str, words: str) -> None:
    assert refused(f"{{{RUN}, {fields}}}").message == words


def test_the_fields_there_are_have_the_names_that_clients_send() -> None:
    assert "there are from, count, names" in refused('{"to": 1}', ForkRequest).message


def test_an_empty_body_is_told_as_that() -> None:
    assert "is empty" in refused("").message


def test_of_two_fields_of_one_name_the_last_counts() -> None:
    assert decode.decode(b'{"code": "1", "code": "2", "language": "x"}', RunCodeRequest).code == "2"


def test_a_line_that_ends_in_a_backslash_goes_on_with_the_next() -> None:
    body = b'{"code": "a",\\\n "language": \\\n\\\n"bash"}'
    assert decode.decode(body, RunCodeRequest).language == "bash"
    assert refused(b'{"code": "a",\\\n "language": 1}').location == ("body", "language")
    assert refused(b'{"code": "a",\\\n "run_timeout": NaN}').location == ("body", "run_timeout")


def test_backslashes_without_end_are_just_no_json() -> None:
    assert refused(b"\\" * 5000 + b"\n" * 5000).kind == "json_invalid"


def test_a_backslash_before_a_line_break_stays_in_what_is_valid() -> None:
    code = "echo a\\\nb"
    body = json.dumps({"code": code, "language": "bash"}).encode()
    assert decode.decode(body, RunCodeRequest).code == code


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\\n0eN codetlanguage', max_size=40).map(str.encode))
def test_any_bytes_are_a_body_or_a_refusal_that_begins_at_the_body(data: bytes) -> None:
    for kind in KINDS:
        try:
            assert isinstance(decode.decode(data, kind), kind)
        except InvalidField as error:
            assert error.location[0] == "body"  # noqa: PT017 - either is right
            assert error.message  # noqa: PT017


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_a_time_limit_is_finite_and_greater_than_0(value: float) -> None:
    assert refusal(lambda: decode.seconds("run_timeout", value, 60.0)).location == ("body", "run_timeout")


@given(st.floats(min_value=5e-324, allow_infinity=False), st.floats(1, 1e9))
def test_a_time_limit_is_at_most_the_servers(value: float, maximum: float) -> None:
    assert decode.seconds("run_timeout", value, maximum) == min(value, maximum)


@given(st.integers())
def test_a_memory_limit_is_the_clients_up_to_the_servers_most(value: int) -> None:
    most = 1 << 34
    if value < -1:
        assert refusal(lambda: decode.memory("m", value, most)).location == ("body", "m")
    else:
        expected = None if value in (-1, 0) else min(value << 20, most)
        assert decode.memory("m", value, most) == expected


def test_code_is_bounded_and_has_no_nul() -> None:
    assert decode.code("é") == b"\xc3\xa9"
    assert len(decode.code("x" * decode.CODE_BYTES_MAX)) == decode.CODE_BYTES_MAX
    for code in ("a\0", "\0", "é" * (decode.CODE_BYTES_MAX // 2 + 1)):
        assert refusal(lambda code=code: decode.code(code)).location == ("body", "code")


@pytest.mark.parametrize(
    ("names", "blamed"),
    [
        (["a", "a/b"], "a/b"),
        (["a/b", "a"], "a/b"),
        (["a/b/c/d", "x", "a-", "a0", "a"], "a/b/c/d"),
        (["a", "./a"], "a"),
        (["a", "/work/a"], "a"),
        (["a/b", "a//b"], "a/b"),
        (["a/b", "a/x/../b"], "a/x/../b"),
        (["/tmp/x", "/tmp/x/y"], "/tmp/x/y"),
        (["/tmp/x", "/tmp/./x"], "/tmp/x"),
        (["a", "a/"], "a/"),
    ],
)
def test_two_files_that_cannot_both_be_there_are_refused(names: list[str], blamed: str) -> None:
    error = refusal(lambda: decode.files("files", dict.fromkeys(names, "YQ==")))
    assert error.location == ("body", "files", blamed)


def test_files_that_only_look_alike_are_placed() -> None:
    names = ["a/b", "a/c", "a-", "ab", "b/a", "tmp/x", "/tmp/x", "/var/tmp/x", "x"]
    assert [name for name, _ in decode.files("files", dict.fromkeys(names, "YQ=="))] == names


def test_skipped_files_are_in_nobodys_way() -> None:
    given_files = {"a": "YQ==", "a/b": None, "./a": None, "IGNORE_THIS_FILE/..": "!", "\0": None}
    assert decode.files("files", given_files) == (("a", b"a"),)


def test_a_file_of_each_place_arrives_as_it_was_sent() -> None:
    data = bytes(range(256))
    names = ["a", "/work/d/e", "/tmp/x", "/home/sandbox/.x", "é/\U0001f600", "d/.." + "/b", "a b\n"]
    content = base64.b64encode(data).decode()
    assert decode.files("files", dict.fromkeys(names, content)) == tuple((name, data) for name in names)


@pytest.mark.parametrize("content", ["!", "YQ", "YQ=", "YQ===", "YQ==x", "Y Q==", "YQ==\n", "é", "YQ==\0", "-_=="])
def test_content_that_is_not_base64_is_refused_by_its_files_name(content: str) -> None:
    error = refusal(lambda: decode.files("files", {"ok": "", "d/a": content}))
    assert (error.location, error.message) == (("body", "files", "d/a"), "the content is not base64")


def test_deep_and_many_names_are_refused() -> None:
    deep = "a/" * DEPTH_MAX + "f"
    assert refusal(lambda: decode.files("files", {deep: ""})).location[:2] == ("body", "files")
    assert refusal(lambda: decode.fetch("fetch_files", ["ok", deep])).location == ("body", "fetch_files", 1)
    assert decode.fetch("fetch_files", [deep[2:]]) == (deep[2:],)
    many = [str(number) for number in range(decode.FILES_MAX + 1)]
    assert refusal(lambda: decode.files("files", dict.fromkeys(many, ""))).location == ("body", "files")
    assert refusal(lambda: decode.fetch("fetch_files", many)).location == ("body", "fetch_files")
    assert len(decode.fetch("fetch_files", many[1:])) == decode.FILES_MAX


def test_what_can_never_be_there_may_be_asked_for_once_or_often() -> None:
    names = ["a", "../x", "/etc/passwd", ".", "/work", "_psf_main.py", "a", "/proc/1/environ"]
    assert decode.fetch("fetch_files", names) == tuple(dict.fromkeys(names))


NAMES = st.text(st.sampled_from("a./_psf \0é\U0001f600") | st.characters(), max_size=20)


@given(st.dictionaries(NAMES | NAMES.map("/tmp/".__add__) | NAMES.map("../work/".__add__), st.just(""), max_size=5))
def test_names_lead_below_the_work_directory_or_scratch_or_are_refused(given_files: dict[str, str]) -> None:
    try:
        placed: Any = decode.files("files", given_files)
    except InvalidField as error:
        assert error.location[:2] == ("body", "files")  # noqa: PT017 - either is right
        return
    places = [paths.resolve(name) for name, _ in placed]
    for place in places:
        assert isinstance(place, Place)
        assert not {b"", b".", b".."} & set(place.path)
        assert not any(b"\0" in part or b"/" in part for part in place.path)
        assert place.scratch is not None or not place.path[0].startswith(b"_psf_")
    assert len(set(places)) == len(places)


def test_files_lie_in_so_many_directories_and_no_more() -> None:
    """Whatever makes them up: a name of 250 short parts asks for as many directories."""
    deep = {f"{number}/" + "d/" * 240 + "x": "" for number in range(42)}
    assert refusal(lambda: decode.files("files", deep)).location == ("body", "files")
    del deep["41/" + "d/" * 240 + "x"]
    assert len(decode.files("files", deep)) == 41
    assert len(decode.files("files", {"d/" * 240 + str(number): "" for number in range(5000)})) == 5000


def test_where_a_long_body_goes_wrong_is_said_and_nobody_waits_for_more() -> None:
    long = '{"code": "' + "x" * decode.EXPLAINED_BYTES_MAX + '", "language": "bash", "run_timeout": NaN}'
    fault = refused(long)
    assert (fault.location, fault.kind) == (("body",), "json_invalid")
    assert str(long.index("NaN")) in fault.message


async def test_what_is_large_is_done_in_a_thread() -> None:
    where = [await decode.aside(threading.current_thread, size) for size in (0, decode.ASIDE_BYTES, 1 << 20)]
    assert [thread is threading.main_thread() for thread in where] == [True, True, False]


@pytest.mark.parametrize("body", [b'{"ttl_s": "30"}', b'{"files": {"a": {"text": "", "executable": "true"}}}'])
def test_the_native_family_takes_no_word_for_a_number_or_a_flag(body: bytes) -> None:
    with pytest.raises(InvalidField):
        decode.decode(body, CreateRequest)


def test_the_compatible_family_does_as_its_clients_are_used_to() -> None:
    assert decode.decode(b'{"ttl": "30"}', CreateSessionRequest).ttl == 30


@pytest.mark.parametrize(
    ("body", "kind", "field", "known"),
    [
        ('{"files": {"a": {"content": ""}}}', CreateRequest, "content", "base64, text, executable"),
        ('{"compile_limits": {"time": 1}, "code": ""}', ExecuteRequest, "time", "wall_time_s, "),
        ('{"limits": {"time": 1}}', SettingsRequest, "time", "wall_time_s, "),
        ('{"change": {"1": {"program": ""}}}', ReplayRequest, "program", "code, runtime"),
    ],
)
def test_a_field_that_is_not_there_is_named_with_those_that_are_however_deep(
    body: str, kind: type[Any], field: str, known: str
) -> None:
    with pytest.raises(InvalidField, match=known) as refused:
        decode.decode(body.encode(), kind)
    assert refused.value.location[-1] == field
