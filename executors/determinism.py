"""The profile under which programs repeat, as far as a sandbox can see to it: what it is made of, and who cannot give it. Pure.

Variables are fixed here; addresses and the processor where a program is started (`child.make_repeatable`). Beyond it are clocks,
the kernel's random numbers, the turns of threads, and inode numbers.
"""

from __future__ import annotations

from executors import guarantees
from executors.errors import DeterminismUnavailable
from executors.interfaces import Capabilities
from store.tree import EPOCH_S

NAME = "deterministic"
MECHANISM = "fixed variables, addresses that are not random (personality), one processor (affinity)"
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    # Compilers and packers write it instead of the time.
    "SOURCE_DATE_EPOCH": str(EPOCH_S),
    "TZ": "UTC",
}
"""Above the sandbox's own variables, below those of a call."""


def variables(own: dict[str, str], *, deterministic: bool) -> dict[str, str]:
    """A program's variables, but for its call's."""
    return {**own, **ENVIRONMENT} if deterministic else own


def refuse(capabilities: Capabilities) -> None:
    """Raises DeterminismUnavailable when the sandbox does not say that it can give the profile."""
    lack = guarantees.lacks(capabilities).get(NAME)
    if lack is not None:
        raise DeterminismUnavailable(f"the sandbox {capabilities.sandbox} cannot make programs repeat here: {lack}")


def told(missing: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a sandbox says of it in `Capabilities`, enforced and missing; `missing`: why it cannot be had here."""
    return ({NAME: MECHANISM}, ()) if missing is None else ({}, (f"{NAME}: {missing}",))
