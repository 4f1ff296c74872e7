"""Tokens: who is let in, what for, and which files are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from psf import tokens
from psf.errors import ConfigurationError
from psf.tokens import Forbidden, Scope, Unauthenticated

DIGEST = hashlib.sha256(b"psf_secret").hexdigest()


def entry(**fields: str) -> str:
    values = {"name": '"ci"', "sha256": f'"{DIGEST}"', "tenant": '"team"', "scopes": '["read"]', **fields}
    return "[[token]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


@pytest.mark.parametrize(
    ("given", "scopes"),
    [(("read",), {"read"}), (("execute",), {"read", "execute"}), (("admin",), {"read", "execute", "admin"})],
)
def test_a_new_token_is_let_in_with_its_tenant_and_scopes(
    file: Path, given: tuple[Scope, ...], scopes: set[str]
) -> None:
    made = tokens.new("trainer", "team-a", given)
    file.write_text(made.lines)
    caller = tokens.load(file).authenticate(f"Bearer {made.token}")
    assert (caller.name, caller.tenant, caller.scopes) == ("trainer", "team-a", scopes)
    for scope in tokens.SCOPES:
        if scope in scopes:
            tokens.require(caller, scope)
        else:
            with pytest.raises(Forbidden, match=f"lacks the scope '{scope}'; it has"):
                tokens.require(caller, scope)


def test_tokens_are_long_and_never_the_same() -> None:
    made = [tokens.new("a", "b", ("read",)).token for _ in range(50)]
    assert len(set(made)) == 50
    assert all(token.startswith("psf_") and len(token) >= 47 for token in made)


def test_the_file_does_not_hold_the_token(file: Path) -> None:
    made = tokens.new("a", "b", ("read",))
    assert made.token not in made.lines
    assert made.token.removeprefix("psf_") not in made.lines


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic cHNmX3NlY3JldA==", "psf_secret", "Bearer psf_secre", "Bearer psf_secret2",
     f"Bearer {DIGEST}", "Bearer \udcff", "Bearer psf_secret psf_secret"],
)  # fmt: skip
def test_whoever_has_no_token_that_is_known_is_refused(file: Path, header: str | None) -> None:
    file.write_text(entry())
    with pytest.raises(Unauthenticated):
        tokens.load(file).authenticate(header)


@pytest.mark.parametrize("header", ["Bearer psf_secret", "bearer psf_secret", "BEARER  psf_secret "])
def test_the_scheme_is_read_as_http_has_it(file: Path, header: str) -> None:
    file.write_text(entry())
    assert tokens.load(file).authenticate(header).name == "ci"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no \[\[token\]\]; `psf token NAME` makes one"),
        ("[[token]\n", "tokens.toml: "),
        (entry(name=""), "missing required field `name`"),
        (entry(extra="1"), "unknown field `extra`"),
        (entry(sha256='"psf_secret"'), r"matching regex .* `\$.token\[0\].sha256`"),
        (entry(scopes="[]"), "length >= 1"),
        (entry(scopes='["root"]'), "Invalid enum value 'root'"),
        (entry(tenant='"a b"'), "token 1: `tenant` must be"),
        (entry(name='"../x"'), "token 1: `name` must be"),
        (entry() + entry(name='"other"'), r"token 2 \(other\) is the same as ci"),
        (entry() + entry(sha256=f'"{"0" * 64}"'), "two tokens are called ci"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        tokens.load(file)


def test_files_that_are_not_there_or_anybodys_or_endless_are_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        tokens.load(file)
    file.write_text(entry() + "#" * tokens.FILE_BYTES_MAX)
    with pytest.raises(ConfigurationError, match="longer than"):
        tokens.load(file)
    file.write_text(entry())
    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match="written by everybody"):
        tokens.load(file)


@pytest.mark.parametrize(("name", "tenant"), [("", "t"), ("a b", "t"), ("n", ""), ("n", 'x"\n[[token]]')])
def test_names_that_would_break_the_file_are_refused(name: str, tenant: str) -> None:
    with pytest.raises(ConfigurationError):
        tokens.new(name, tenant, ("read",))
