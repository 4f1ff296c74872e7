"""`psf store ...` on a store whose sessions are in Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from psf import cli
from store.local import LocalStore
from tests.redisd.server import TestRedis
from tests.store.history import begin, step
from tests.store.redis_workbench import settings


def test_commands_find_the_heads_by_the_same_settings(
    shared_redis: TestRedis, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(shared_redis)
    store = LocalStore(tmp_path / "store", redis=given)
    begin(store, "a")
    for content in (b"one", b"two"):
        step(store, "a", {b"f": content})
    store.close()
    for name in ("PSF_REDIS_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["store", "log", "a", "--store", str(store.root)]
    assert cli.main(arguments) == 1
    assert "are in Redis" in capsys.readouterr().err
    monkeypatch.setenv("PSF_REDIS_PREFIX", given.prefix)
    assert cli.main([*arguments, "--redis-url", given.url]) == 0
    assert capsys.readouterr().out.count("execute") == 2
    monkeypatch.setenv("REDIS_URL", given.url)
    assert cli.main(["store", "check", "--store", str(store.root)]) == 0
    assert cli.main(["store", "stats", "--store", str(store.root)]) == 0
    monkeypatch.setenv("PSF_REDIS_PREFIX", "another")
    assert cli.main(["store", "check", "--store", str(store.root)]) == 3
    assert "holds nothing of this store" in capsys.readouterr().out
