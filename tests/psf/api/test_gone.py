"""Who goes away in the middle of an answer is no defect of the server's."""

from __future__ import annotations

import logging

import pytest
from aiohttp import ClientConnectionResetError, web
from aiohttp.test_utils import make_mocked_request

from psf.api import server


async def test_who_hangs_up_in_the_middle_of_an_answer_makes_no_incident(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise ClientConnectionResetError("Cannot write to closing transport")

    with caplog.at_level(logging.ERROR):
        await server._errors(make_mocked_request("GET", "/v1/tags"), handler)
    assert "incident" not in caplog.text
