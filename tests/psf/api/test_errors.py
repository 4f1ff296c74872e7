"""Errors: one table of statuses, two shapes, and nothing of the server in either."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from aiohttp import web

from executors.errors import ExecutorError, FilesTooLarge, Overloaded, SandboxBroken, SandboxUnavailable
from psf.api import errors
from psf.api.decode import BodyTooSlow, UnsupportedBody
from psf.errors import GuaranteeMissing, InvalidField, RuntimeUnknown, SandboxDiffers, SessionExpired
from store.errors import (
    HeadMoved,
    HeadsUnreachable,
    NotInHistory,
    ObjectDamaged,
    ObjectMissing,
    SessionMissing,
    StoreError,
)

OLD, NATIVE = "/execute_session", "/v1/sessions/x/fork"
SECRET = "/srv/psf/store/heads.sqlite"

TABLE: list[tuple[Exception, int, int, str]] = [
    (SessionMissing("x"), 410, 404, "session_missing"),
    (SessionExpired("x"), 410, 410, "session_expired"),
    (NotInHistory("x", "is nothing"), 404, 404, "snapshot_missing"),
    (HeadMoved("x", "a", "b"), 409, 409, "head_moved"),
    (GuaranteeMissing("bubblewrap", {"memory": "no control group"}, ("files",)), 501, 501, "guarantee_missing"),
    (SandboxDiffers("docker", "bubblewrap"), 409, 409, "sandbox_differs"),
    (UnsupportedBody("send JSON"), 415, 415, "unsupported_body"),
    (Overloaded("all slots are taken"), 504, 429, "overloaded"),
    (BodyTooSlow("it did not arrive"), 408, 408, "body_too_slow"),
    (FilesTooLarge("do not fit"), 422, 422, "files_too_large"),
    (ObjectDamaged("blob", "ab", "torn"), 500, 500, "object_damaged"),
    (ObjectMissing("blob", "ab"), 500, 500, "object_missing"),
    (HeadsUnreachable("it does not answer"), 503, 503, "heads_unreachable"),
    (SandboxBroken("it broke"), 503, 503, "sandbox_broken"),
    (SandboxUnavailable("there is none"), 503, 503, "sandbox_unavailable"),
    (InvalidField(("body", "a"), "is wrong"), 422, 422, "invalid_field"),
    (RuntimeUnknown("cobol", ("python",)), 422, 422, "runtime_unknown"),
    (web.HTTPNotFound(), 404, 404, "http_404"),
    (web.HTTPMethodNotAllowed("GET", ["POST"]), 405, 405, "http_405"),
    (web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2), 413, 413, "http_413"),
    (web.HTTPForbidden(reason="not from there"), 403, 403, "http_403"),
    (OSError(28, "No space left on device", SECRET), 500, 500, "internal"),
    (KeyError(SECRET), 500, 500, "internal"),
]  # fmt: skip
each_error = pytest.mark.parametrize(
    ("error", "old", "native", "code"), TABLE, ids=lambda value: type(value).__name__ if isinstance(value, Exception) else ""
)  # fmt: skip


def answered(error: Exception, path: str) -> tuple[int, Any, web.Response]:
    response = errors.to_response(error, path)
    assert response.content_type == "application/json"
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body), response


@each_error
def test_an_error_has_its_status_and_shape_on_the_native_family(
    error: Exception, old: int, native: int, code: str
) -> None:
    status, body, _ = answered(error, NATIVE)
    assert status == native
    assert set(body) == {"error"}
    assert body["error"]["code"] == code
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    facts = {"invalid_field": {"field"}, "files_too_large": {"field"}, "head_moved": {"expected", "actual"}}
    assert set(body["error"]) - {"code", "message"} == facts.get(code, set())


@each_error
def test_an_error_has_its_status_and_shape_on_the_compatible_family(
    error: Exception, old: int, native: int, code: str
) -> None:
    status, body, _ = answered(error, OLD)
    assert status == old
    assert set(body) == {"detail"}
    if old == 422:
        (detail,) = body["detail"]
        assert set(detail) == {"type", "loc", "msg", "input"}
        assert detail["loc"][0] == "body"
        assert detail["msg"]
    else:
        assert isinstance(body["detail"], str)
        assert body["detail"]


@each_error
def test_an_answer_tells_no_path_and_no_line_of_the_server(error: Exception, old: int, native: int, code: str) -> None:
    for path in (OLD, NATIVE):
        _, body, _ = answered(error, path)
        assert SECRET not in json.dumps(body)
        assert "Traceback" not in json.dumps(body)


def test_an_unexpected_error_is_found_in_the_log_by_the_number_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        _, body, _ = answered(ValueError(SECRET), OLD)
    (entry,) = caplog.records
    assert entry.getMessage().removeprefix("incident ") in body["detail"]
    assert SECRET in caplog.text


def test_what_psf_itself_could_not_do_is_logged_and_what_was_asked_wrongly_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        for error, *_ in TABLE:
            answered(error, NATIVE)
    logged = {entry.getMessage().split(":")[0] for entry in caplog.records if "incident" not in entry.getMessage()}
    assert logged == {"ObjectDamaged", "ObjectMissing", "HeadsUnreachable", "SandboxBroken", "SandboxUnavailable"}


@pytest.mark.parametrize("path", [OLD, NATIVE])
def test_who_came_too_late_is_told_when_to_try_again(path: str) -> None:
    assert int(answered(Overloaded("all slots are taken"), path)[2].headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", [OLD, NATIVE])
def test_a_wrong_method_is_answered_with_the_right_ones(path: str) -> None:
    assert answered(web.HTTPMethodNotAllowed("GET", ["POST"]), path)[2].headers["Allow"] == "POST"


def test_an_unknown_language_is_a_wrong_field_of_the_compatible_family() -> None:
    _, body, _ = answered(RuntimeUnknown("cobol", ("python", "bash")), OLD)
    assert body["detail"][0]["loc"] == ["body", "language"]
    assert body["detail"][0]["input"] == "cobol"
    assert "python, bash" in body["detail"][0]["msg"]


def test_a_kind_of_error_that_is_new_has_the_status_of_its_kin() -> None:
    class NewStoreError(StoreError):
        code = "new"

    class NewExecutorError(ExecutorError):
        code = "newer"

    assert answered(NewStoreError("x"), NATIVE)[0] == 500
    assert answered(NewExecutorError("x"), NATIVE)[0] == 503


@pytest.mark.parametrize("path", [OLD, NATIVE])
@pytest.mark.parametrize(
    "error",
    [
        InvalidField(("body", "x" * 100_000), "y" * 100_000, "z" * 100_000),
        InvalidField(("body", *range(100_000)), "is wrong"),
        RuntimeUnknown("x" * 100_000, ("python",)),
    ],
    ids=["long", "deep", "language"],
)
def test_a_refusal_does_not_send_back_all_that_was_sent(error: Exception, path: str) -> None:
    _, _, response = answered(error, path)
    assert isinstance(response.body, bytes)
    assert len(response.body) < 5000


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/run_code", "detail"), ("/", "detail"), ("/v1", "detail"), ("/v1/ping", "detail"), ("/healthz", "detail"),
        ("/v1/", "error"), ("/v1/ping/x", "error"), ("/v1/sessions", "error"), ("/v10", "detail"), ("/V1/sessions", "detail"),
    ],
)  # fmt: skip
def test_the_shape_goes_by_the_path(path: str, shape: str) -> None:
    assert set(answered(web.HTTPNotFound(), path)[1]) == {shape}


@pytest.mark.parametrize("path", [OLD, NATIVE])
def test_what_is_no_text_is_quoted_all_the_same(path: str) -> None:
    error = InvalidField(("header", "x\udcff"), "is \udcff", "\udcff")
    status, body, _ = answered(error, path)
    assert status == 422
    assert "\\udcff" in json.dumps(body, ensure_ascii=False)
