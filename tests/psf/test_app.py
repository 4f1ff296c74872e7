"""What a server says of its sandbox at start."""

from __future__ import annotations

import logging

import pytest

from executors.interfaces import Capabilities
from psf import app

CAPABILITIES = Capabilities("any", "copy", {}, ("cpus: no group", "egress: no helper"))


@pytest.mark.parametrize(
    ("allow_egress", "said"), [(False, ["cpus: no group"]), (True, ["cpus: no group", "egress: no helper"])]
)
def test_what_nobody_can_ask_for_is_not_said_to_be_missing(
    caplog: pytest.LogCaptureFixture, allow_egress: bool, said: list[str]
) -> None:
    app._report(CAPABILITIES, {}, allow_egress=allow_egress)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"not guaranteed here: {lack}" for lack in said]
