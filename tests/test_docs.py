"""The documentation says what there is: every route, setting, error code and command, and nothing that is not."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, get_args

import aiohttp.web
import msgspec
import pytest

import executors.errors
import psf.errors
import store.errors
from executors import guarantees
from executors.interfaces import Keep
from psf import cli, runtimes
from psf.api import errors, openapi, server
from psf.api.operations import operation_of
from psf.api.schemas import ErrorAnswer
from psf.config import Settings
from store import asked
from store.snapshot import Ending

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EVERYTHING = "\n".join(page.read_text() for page in PAGES)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def documented(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def first_column(text: str, heading: str) -> set[str]:
    """The words in backquotes of the first column of the table that begins with `heading`."""
    table = text.split(f"| {heading} |")[1].split("\n\n", maxsplit=1)[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def heading(route: aiohttp.web.RouteDef) -> str:
    return f"{route.method} {route.path.replace('{session_id}', '{id}').replace(':.+', '')}"


ROUTES = {
    heading(route): route for table in server.TABLES for route in table if isinstance(route, aiohttp.web.RouteDef)
}


def section(name: str) -> str:
    return re.split(r"^##+ ", documented("api.md").partition(f"### {name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def examples(name: str) -> list[str]:
    """JSON that stands in a route's section: what is asked, what is answered."""
    blocks = re.findall(r"(?:^    .*\n?)+", section(name), re.MULTILINE)
    parts = [re.sub(r"^\s*\d{3} ", "", part).strip() for block in blocks for part in block.split("→")]
    return [part for part in parts if part.startswith("{")]


def lost(shown: Any, kept: Any, path: str = "$") -> list[str]:
    """What is shown and was not understood."""
    if isinstance(shown, list):
        return [fault for pair in zip(shown, kept, strict=True) for fault in lost(*pair, f"{path}[]")]
    if not isinstance(shown, dict):
        return [] if shown == kept else [path]
    gone = [f"{path}.{key}" for key in shown if key not in kept]
    return gone + [
        fault for key in shown.keys() & kept.keys() for fault in lost(shown[key], kept[key], f"{path}.{key}")
    ]


def test_every_route_has_a_section_and_every_section_a_route() -> None:
    assert set(re.findall(r"^### ([A-Z]+ /\S+)$", documented("api.md"), re.MULTILINE)) == ROUTES.keys()


@pytest.mark.parametrize("name", [name for name in ROUTES if name.split()[1].startswith("/v1/") and examples(name)])
def test_what_is_shown_of_a_route_is_what_it_takes_and_answers(name: str) -> None:
    said = operation_of(ROUTES[name].handler)
    assert said is not None
    kinds = [kind for kind in (said.body, said.answer, ErrorAnswer) if kind is not None]
    for text, kind in zip(examples(name), kinds, strict=False):
        value = msgspec.json.decode(text.encode(), type=kind)
        assert lost(json.loads(text), json.loads(msgspec.json.encode(value))) == []


def test_most_routes_of_the_native_family_have_an_example() -> None:
    assert sum(bool(examples(name)) for name in ROUTES if "/v1/" in name) >= 20


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    assert first_column(documented("operations.md"), "setting") == set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", [name for name in Settings.__struct_fields__ if name != "store"])
def test_a_settings_default_is_the_documented_one(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([^|]*) \|", documented("operations.md"), re.MULTILINE)
    assert row is not None
    default = getattr(Settings(), name)
    units = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "day": 86400, "days": 86400}
    if isinstance(default, bool):
        assert row[1] == str(default).lower()
    elif isinstance(default, (int, float)):
        number, _, unit = row[1].partition(" ")
        assert float(number) * units.get(unit, 1) == default
    elif isinstance(default, str):
        assert row[1] == default
    else:
        assert not default  # nothing chosen: the page says in words what happens then


def test_every_error_code_that_a_client_may_see_is_listed() -> None:
    codes = set()
    for module in (psf.errors, executors.errors, store.errors):
        codes |= {kind.code for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, "code")}
    never_sent = {
        "psf_error", "store_error", "executor_error", "configuration", "cannot_listen", "store_unusable", "not_canonical", "object_too_long",
    }  # fmt: skip
    assert codes - never_sent <= set(re.findall(r"`(\w+)`", documented("api.md")))


def test_every_code_that_a_route_is_described_to_answer_with_is_in_the_table_at_its_status() -> None:
    described = aiohttp.web.Application()
    for table in server.TABLES:
        described.add_routes(table)
    rows = re.findall(r"^\| (\d{3}[^|]*) \|.*\| ([^|]*) \|$", documented("api.md").split("## Errors")[1], re.MULTILINE)
    listed = {
        (status, code)
        for told, codes in rows
        for status in re.findall(r"\d{3}", told)
        for code in re.findall(r"`(\w+)`", codes)
    }
    for path, methods in openapi.document(described.router.routes())["paths"].items():
        for method, said in methods.items():
            for status, response in said["responses"].items():
                missing = {(status, code) for code in response.get("x-codes", ())} - listed
                assert missing == set(), (method, path)


def test_every_status_of_the_table_of_errors_is_listed() -> None:
    listed = set(re.findall(r"\b[45]\d\d\b", documented("api.md").split("## Errors")[1]))
    sent = {str(status) for table in (errors._COMPATIBLE, errors._NATIVE) for status in table.values()}
    assert sent <= listed


def test_every_guarantee_that_can_be_required_is_in_the_table_and_nothing_else() -> None:
    assert first_column(documented("api.md"), "guarantee") == set(guarantees.NAMES)


def test_every_limit_that_can_be_asked_for_is_in_the_table_with_the_least_there_is() -> None:
    assert first_column(documented("api.md"), "limit") == set(asked.NAMES)
    table = documented("api.md").split("| limit |")[1].split("\n\n", maxsplit=1)[0]
    for name, least in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", table, re.MULTILINE):
        number = float(least) if "." in least else int(least)
        msgspec.convert({name: number}, asked.AskedLimits)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({name: number * 0.99 if "." in least else number - 1}, asked.AskedLimits)


@pytest.mark.parametrize("word", [*Ending, *get_args(Keep)[:2], *runtimes.load()])
def test_a_word_that_clients_send_or_see_is_explained(word: str) -> None:
    assert re.search(rf"\b{word}\b", documented("api.md") + documented("glossary.md"))


def test_every_command_is_shown() -> None:
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert all(f"psf {command}" in EVERYTHING for command in commands.choices)


@each_page
def test_a_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@each_page
def test_a_module_or_test_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"`((?:psf|executors|store|tests|docs|benchmarks)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists() or "NNNN" in name, name


def test_the_targets_that_are_named_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^ *make (\w+)\b", EVERYTHING, re.MULTILINE)) <= targets
    assert set(re.findall(r"`make (\w+)`", EVERYTHING)) <= targets


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_decisions_are_numbered_and_fit_on_a_page() -> None:
    decisions = sorted((ROOT / "docs/adr").iterdir())
    assert [path.name[:4] for path in decisions] == [f"{number:04d}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text()
        assert len(text.splitlines()) <= 60, path.name
        assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], path.name
