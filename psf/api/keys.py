"""What handlers find in the application, by typed keys."""

from __future__ import annotations

import msgspec
from aiohttp import web

from executors.interfaces import Capabilities
from executors.paths import WORK
from psf.limits import LimitRules
from psf.services import Services


class Policy(msgspec.Struct, frozen=True):
    """What callers may ask for."""

    rules: LimitRules
    allowed_hosts: frozenset[str] | None
    """Names by which requests may call this server; None when it is not bound to loopback."""
    work_dir: str = WORK
    """Where programs see the work directory, unless their session asks for another place."""


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
POLICY: web.AppKey[Policy] = web.AppKey("policy", Policy)
CAPABILITIES: web.AppKey[Capabilities] = web.AppKey("capabilities", Capabilities)
