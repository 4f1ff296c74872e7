"""What each route takes and answers, said beside its handler: as much as OpenAPI wants to know and the code does not tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web

from executors.errors import (
    DeterminismUnavailable,
    EgressUnavailable,
    FilesTooLarge,
    Overloaded,
    SandboxBroken,
    SandboxUnavailable,
    SystemUnknown,
)
from psf.errors import GuaranteeMissing, NetworkRefused, QuotaReached, RuntimeUnknown, SandboxDiffers, StepCancelled
from store.errors import HeadMoved, NotInHistory, WriterFenced

Errors = tuple[type[Exception], ...]

MOVING: Errors = (Overloaded, HeadMoved, WriterFenced)
"""What may keep a head from moving."""
STARTING: Errors = (QuotaReached, RuntimeUnknown, SystemUnknown, NetworkRefused, SandboxUnavailable)
"""What may keep a session from being made."""
RUNNING: Errors = (
    RuntimeUnknown, SystemUnknown, NetworkRefused, GuaranteeMissing, EgressUnavailable, DeterminismUnavailable, FilesTooLarge,
    SandboxUnavailable, SandboxBroken, Overloaded,
)  # fmt: skip
"""What may keep a program from running."""
STEPPING: Errors = (*RUNNING, *MOVING, SandboxDiffers, StepCancelled)
"""What may keep a step of a session from being done."""
FINDING: Errors = (NotInHistory,)
"""What may be wrong with a reference to a snapshot of a session's history."""


class Given(msgspec.Struct, frozen=True):
    """A parameter of the query, or a header."""

    name: str
    kind: Any
    """Its type, whose schema is shown."""
    about: str
    required: bool = False


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A route. Summary and description are its handler's docstring; what follows from its path is not said again."""

    answer: Any = None
    """The Struct, or other type, of the JSON answer; None: it has no body, or is no JSON."""
    status: int = 200
    answer_media: tuple[str, ...] = ()
    """Further content types of the answer."""
    other_answers: dict[int, str] = {}
    """What else may come, with the same content or none, by status."""
    body: Any = None
    """The Struct of the JSON body."""
    body_optional: bool = False
    body_media: tuple[str, ...] = ()
    """Content types of a body that is no JSON."""
    query: tuple[Given, ...] = ()
    headers: tuple[Given, ...] = ()
    keyed: bool = False
    """Whether it takes an Idempotency-Key."""
    errors: Errors = ()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Handler = TypeVar("_Handler", bound=Handler)
_DESCRIBED: dict[Any, Operation] = {}


def described(operation: Operation) -> Callable[[_Handler], _Handler]:
    """Says what a handler's route takes and answers."""

    def remember(handler: _Handler) -> _Handler:
        _DESCRIBED[handler] = operation
        return handler

    return remember


def operation_of(handler: object) -> Operation | None:
    """What was said of a handler."""
    return _DESCRIBED.get(handler)


def number(name: str, maximum: int, about: str) -> Given:
    """A whole number of the query, from 1 on."""
    return Given(name, Annotated[int, msgspec.Meta(ge=1, le=maximum)], about)


def flag(name: str, about: str) -> Given:
    """A yes or no of the query."""
    return Given(name, bool, about)


def text(name: str, about: str, *, required: bool = False) -> Given:
    """Words of the query."""
    return Given(name, str, about, required)
