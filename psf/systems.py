"""Which image and which work directory a session may ask for. Pure."""

from __future__ import annotations

import msgspec

from executors import docker_container
from executors.errors import SystemUnknown
from executors.interfaces import System
from executors.paths import WORK
from psf.errors import InvalidField, SandboxDiffers
from store.interfaces import Session

DOCKER = "docker"


class SystemRules(msgspec.Struct, frozen=True):
    """`sandbox`: what the server has; `own`: the image (Docker's) and the work directory of all who ask for nothing.

    `images`: those that sessions may ask for beside it.
    """

    sandbox: str
    own: System = System("", WORK)
    images: tuple[str, ...] = ()

    def work_dir_of(self, asked: System) -> str:
        """Where programs see the work directory."""
        return asked.work_dir or self.own.work_dir


def system_of(session: Session) -> System:
    """What the session asked for."""
    return System(session.image, session.work_dir)


def refuse(session: Session, rules: SystemRules) -> None:
    """Raises SandboxDiffers, SystemUnknown for a session whose programs would see another system here than it was made with."""
    if session.sandbox != rules.sandbox:
        raise SandboxDiffers(session.sandbox, rules.sandbox)
    refuse_system(session, rules)


def refuse_system(session: Session, rules: SystemRules) -> None:
    """Raises SystemUnknown for a session whose image or work directory this server does not give: it may have come from elsewhere."""
    try:
        check(system_of(session), rules)
    except InvalidField as error:
        raise SystemUnknown(
            f"the session asked for a system that this server has no more: {error.location[-1]} {error.message}"
        ) from None


def check(asked: System, rules: SystemRules) -> None:
    """Raises InvalidField for an image or a work directory that this server does not give."""
    allowed = tuple(dict.fromkeys((rules.own.image, *rules.images)))
    if rules.sandbox != DOCKER:
        for field, value, own in (("image", asked.image, ""), ("work_dir", asked.work_dir, rules.own.work_dir)):
            if value not in ("", own):
                message = f"cannot be chosen on this server: its sandbox is {rules.sandbox}, and only {DOCKER} has more than one"
                raise InvalidField(("body", field), message, value)
    elif asked.image and asked.image not in allowed:
        message = f"is none that this server offers: {', '.join(allowed)}; its setting docker_images offers more"
        raise InvalidField(("body", "image"), message, asked.image)
    elif asked.work_dir and (fault := docker_container.work_dir_fault(asked.work_dir)):
        raise InvalidField(("body", "work_dir"), fault, asked.work_dir)
