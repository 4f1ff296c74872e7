"""Settings: where they come from, and what is said of a wrong one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from psf import config
from psf.config import Settings
from psf.errors import ConfigurationError

VALUES: dict[str, tuple[str, Any]] = {
    "host": ("localhost", "localhost"), "port": ("9", 9), "store": ("/s", "/s"), "allow_unauthenticated": ("true", True),
    "redis_url": ("redis://h/1", "redis://h/1"), "redis_prefix": ("a:b", "a:b"), "redis_durability": ("server", "server"),
    "tokens": ("/t.toml", "/t.toml"), "audit_log": ("/a.log", "/a.log"),
    "allowed_hosts": ("a,b", ("a", "b")), "slots": ("3", 3), "queue_patience_s": ("0.5", 0.5), "body_bytes_max": ("9", 9),
    "retention_s": ("0", 0.0), "gc_period_s": ("0", 0.0), "interpreter": ("/p", "/p"), "runtimes": ("/r.toml", "/r.toml"),
    "read_only_paths": ("/a,/b", ("/a", "/b")), "executor": ("nsjail", "nsjail"), "bubblewrap": ("/b", "/b"), "nsjail": ("/n", "/n"), "sandbox_uid": ("77", 77), "sandbox_options": ("a.b=c,d.e=f=g", ("a.b=c", "d.e=f=g")),
    "workspace": ("copy", "copy"), "workspace_bytes_max": ("1000", 1000), "memory_bytes": ("20000000", 20000000), "memory_bytes_max": ("30000000", 30000000), "wall_time_s_max": ("7", 7.0),
    "wall_time_s": ("0.5", 0.5), "cpu_time_s": ("6", 6), "cpu_time_s_max": ("7", 7), "processes": ("8", 8), "processes_max": ("9", 9),
    "output_kept_bytes": ("9", 9), "output_kept_bytes_max": ("10", 10), "output_flood_bytes": ("10", 10), "output_flood_bytes_max": ("11", 11),
    "file_bytes": ("11", 11), "file_bytes_max": ("12", 12), "scratch_bytes": ("5000", 5000), "scratch_bytes_max": ("6000", 6000), "scratch_inodes": ("40", 40),
    "scratch_inodes_max": ("50", 50), "open_files": ("60", 60), "open_files_max": ("70", 70), "disk_bytes": ("80", 80), "disk_bytes_max": ("90", 90),
    "disk_inodes": ("100", 100), "disk_inodes_max": ("110", 110), "cpus": ("0.5", 0.5), "cpus_max": ("2", 2.0), "allow_egress": ("true", True),
    "log_level": ("debug", "debug"), "docker_images": ("a:1,b", ("a:1", "b")), "memo_audit_rate": ("0.5", 0.5), "tenant_sessions_max": ("5", 5), "tenant_steps_max": ("6", 6),
}  # fmt: skip
each_setting = pytest.mark.parametrize("name", VALUES)


def flags(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args(arguments))


def flag(name: str) -> list[str]:
    text, value = VALUES[name]
    option = "--" + name.replace("_", "-")
    return [option] if value is True else [option, text]


def in_toml(name: str) -> str:
    value = VALUES[name][1]
    shown = str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value
    return f"{name} = {shown!r}\n" if not isinstance(value, bool) else f"{name} = {shown}\n"


def test_every_setting_is_tried_here() -> None:
    assert set(VALUES) == set(Settings.__struct_fields__)


@each_setting
def test_a_setting_can_be_given_by_flag_by_variable_and_by_file(name: str, tmp_path: Path) -> None:
    text, value = VALUES[name]
    file = tmp_path / "psf.toml"
    file.write_text(in_toml(name))
    for settings in (
        config.load(flags(*flag(name)), {}),
        config.load({}, {f"PSF_{name.upper()}": text}),
        config.load({}, {"PSF_CONFIG": str(file)}),
        config.load(flags("--config", str(file)), {}),
    ):
        assert getattr(settings, name) == value


def test_paths_are_taken_as_a_shell_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    settings = config.load({"store": "~/psf", "read_only_paths": "~/data,here"}, {"PSF_BUBBLEWRAP": "./bwrap"})
    assert settings.store == "/home/somebody/psf"
    assert settings.read_only_paths == ("/home/somebody/data", str(tmp_path / "here"))
    assert settings.bubblewrap == str(tmp_path / "bwrap")


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("On", True), ("1", True), ("no", False), ("FALSE", False)])
def test_yes_and_no_have_many_spellings(text: str, value: bool) -> None:
    assert config.load({}, {"PSF_ALLOW_UNAUTHENTICATED": text}).allow_unauthenticated is value


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "psf.toml"
    file.write_text("port = 1\nslots = 1\nprocesses = 1\n")
    environment = {"PSF_CONFIG": str(file), "PSF_PORT": "2", "PSF_SLOTS": "2"}
    settings = config.load(flags("--port", "3"), environment)
    assert (settings.port, settings.slots, settings.processes) == (3, 2, 1)


def test_nothing_given_means_the_defaults() -> None:
    assert config.load({}, {"HOME": "/h", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        (["--port", "x"], {}, ["--port"]),
        (["--port", "70000"], {}, ["port", "65535"]),
        (["--port", "-1"], {}, ["port"]),
        ([], {"PSF_SLOTS": "many"}, ["PSF_SLOTS"]),
        ([], {"PSF_SLOTS": "-1"}, ["slots"]),
        ([], {"PSF_PROT": "1"}, ["PSF_PROT", "prot", "psf serve --help"]),
        ([], {"PSF_EXECUTER": "docker"}, ["PSF_EXECUTER", "is executor meant?"]),
        (["--sandbox-uid", "4294967295"], {}, ["sandbox_uid", "at most 4294967294"]),
        ([], {"PSF_QUEUE_PATIENCE_S": "nan"}, ["queue_patience_s"]),
        ([], {"PSF_QUEUE_PATIENCE_S": "0"}, ["queue_patience_s"]),
        ([], {"PSF_MEMORY_BYTES": "0"}, ["memory_bytes"]),
        ([], {"PSF_MEMORY_BYTES": "1"}, ["memory_bytes", "16777216"]),
        ([], {"PSF_PROCESSES_MAX": "0"}, ["processes_max: must be >= 1", "PSF_PROCESSES_MAX"]),
        ([], {"PSF_SCRATCH_BYTES": "12"}, ["scratch_bytes: must be >= 4096", "12"]),
        ([], {"PSF_CPUS": "0"}, ["cpus: must be >= 0.01"]),
        ([], {"PSF_CPUS": "all"}, ["cpus: must be a number", "'all'"]),
        ([], {"PSF_CPUS_MAX": "nan"}, ["cpus_max"]),
        ([], {"PSF_WALL_TIME_S": "-1"}, ["wall_time_s: must be > 0.0"]),
        ([], {"PSF_WORKSPACE": "zfs"}, ["PSF_WORKSPACE", "auto, overlay, copy"]),
        ([], {"PSF_LOG_LEVEL": "loud"}, ["PSF_LOG_LEVEL", "debug, info, warning, error"]),
        ([], {"PSF_FILE_BYTES": "2GiB"}, ["PSF_FILE_BYTES", "whole number", "2GiB"]),
        ([], {"PSF_ALLOW_UNAUTHENTICATED": "maybe"}, ["PSF_ALLOW_UNAUTHENTICATED"]),
        (["--host", "0.0.0.0"], {}, ["host", "--tokens FILE", "--allow-unauthenticated"]),
        (["--config", "/nowhere/psf.toml"], {}, ["config: /nowhere/psf.toml"]),
    ],
)
def test_a_wrong_setting_is_named_with_where_it_came_from(
    given: list[str], environment: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.load(flags(*given), environment)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("text", ["port = ", "prot = 1", "port = 'x'", "[port]\na = 1", "port = -1"])
def test_a_wrong_line_of_the_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "psf.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"psf\.toml|port"):
        config.load({}, {"PSF_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.1.1", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert config.is_loopback(host) is expected


@pytest.mark.parametrize("text", ["image=x", "docker.image", "docker.=x", ".image=x", "docker.image=", "c,a.b=d"])
def test_an_option_of_a_sandbox_says_of_which_and_what(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"sandbox_options: must be texts like docker\.image=psf/pybash.*PSF_SANDBOX_OPTIONS"
    ):
        config.load({}, {"PSF_SANDBOX_OPTIONS": text})


def test_what_an_option_says_may_hold_commas() -> None:
    text = "bubblewrap.egress_allow=10.1.0.0/16,10.2.0.0/16,docker.image=x,"
    settings = config.load({}, {"PSF_SANDBOX_OPTIONS": text})
    assert settings.sandbox_options == ("bubblewrap.egress_allow=10.1.0.0/16,10.2.0.0/16", "docker.image=x")


def test_help_says_which_settings_are_numbers() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    page = parser.format_help()
    assert all(f"--{name} NUMBER" in page for name in ("cpus", "sandbox-uid", "memory-bytes", "wall-time-s"))
    assert "--store TEXT" in page


def test_the_redis_that_others_use_is_ours_unless_we_are_told_of_another(tmp_path: Path) -> None:
    common = {"REDIS_URL": "redis://common"}
    file = tmp_path / "psf.toml"
    file.write_text('redis_url = "redis://file"')
    assert config.load({}, common).redis_url == "redis://common"
    assert config.load({}, {**common, "PSF_REDIS_URL": "redis://own"}).redis_url == "redis://own"
    assert config.load({"redis_url": "redis://flag"}, common).redis_url == "redis://flag"
    assert config.load({"config": str(file)}, common).redis_url == "redis://file"
    assert config.load({}, {"REDIS_URL": ""}).redis_url is None


def test_a_prefix_of_keys_has_no_braces_of_its_own() -> None:
    for wrong in ("", "{a}", "a b", "a" * 101):
        with pytest.raises(ConfigurationError, match="redis_prefix: must be letters"):
            config.load({"redis_prefix": wrong}, {})


def test_heads_are_in_redis_when_an_address_is_given() -> None:
    assert Settings().heads_in_redis() is None
    heads = Settings(redis_url="redis://h", redis_prefix="a", redis_durability="server").heads_in_redis()
    assert heads is not None
    assert (heads.url, heads.prefix, heads.durability) == ("redis://h", "a", "server")


def test_what_clients_are_told_by_variables_is_no_setting_and_no_fault() -> None:
    told = {"PSF_URL": "http://127.0.0.1:1", "PSF_TOKEN": "psf_x", "PSF_PORT": "9"}
    assert config.load({}, told).port == 9
