"""What a stage gets of what it asks for: the call comes before its session, the session before the server, and nobody gets more than
the server's maximum. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from executors import guarantees
from executors.interfaces import Capabilities
from psf.config import Settings
from psf.errors import GuaranteeMissing, InvalidField, NetworkRefused
from store import asked
from store.asked import AskedLimits
from store.snapshot import Limits

_AMOUNTS = tuple(name for name in asked.NAMES if name.endswith(("_bytes", "_inodes", "_s")))
_BOUNDLESS: dict[str, Any] = dict.fromkeys(_AMOUNTS, asked.AMOUNT_MAX) | {
    "processes": asked.PROCESSES_MAX,
    "open_files": asked.OPEN_FILES_MAX,
}
_ABLE = Capabilities("any", "copy", dict.fromkeys(guarantees.NAMES, "assumed"), ())
_NUMBERS = tuple(name for name in asked.NAMES if name != "network")

StageLimits = tuple[tuple[str, Limits], ...]
"""What each stage of a step gets, by its name, in their order."""


class LimitRules(msgspec.Struct, frozen=True):
    """`default`: what whoever asks for nothing gets. `maximum`: the most there is to be had; of `cpus`, None: all.

    `allow_egress`: whether runs may ask for a network beyond the machine. `capabilities`: what the sandbox can do here.
    """

    default: Limits = Limits()
    maximum: Limits = Limits(**_BOUNDLESS)
    allow_egress: bool = False
    capabilities: Capabilities = _ABLE


def rules_of(settings: Settings, capabilities: Capabilities) -> LimitRules:
    """The rules that the settings make, each number by its name and, for the maximum, by that with `_max`."""
    default: dict[str, Any] = {name: getattr(settings, name) for name in _NUMBERS}
    maximum: dict[str, Any] = {name: getattr(settings, f"{name}_max") for name in _NUMBERS}
    return LimitRules(Limits(**default), Limits(**maximum), settings.allow_egress, capabilities)


def cut_settings(settings: Settings) -> list[str]:
    """What is set and nobody gets, since the maximum is less: a sentence for each. A default that is cut is meant to be. Pure."""
    usual = Settings()
    return [
        f"{name} is {value:.15g}, and runs get {most:.15g}: it is more than {name}_max, which must be set too"
        for name in _NUMBERS
        if (value := getattr(settings, name)) != getattr(usual, name)
        and (most := getattr(settings, f"{name}_max")) is not None
        and value is not None
        and value > most
    ]


def merged(*wishes: AskedLimits) -> AskedLimits:
    """What is asked in all; what comes later takes precedence."""
    values: dict[str, Any] = {}
    for wish in wishes:
        values |= wish.given()
    return AskedLimits(**values)


def check(wish: AskedLimits, rules: LimitRules, location: tuple[str | int, ...]) -> None:
    """Raises InvalidField, at `location`, for more than the maximum; NetworkRefused, GuaranteeMissing."""
    for name in _NUMBERS:
        value, most = getattr(wish, name), getattr(rules.maximum, name)
        if value is not None and most is not None and value > most:
            raise InvalidField(
                (*location, name),
                f"is more than this server gives; at most {most:.15g} (its setting `{name}_max`)",
                value,
            )
    refuse(wish, rules)


def refuse(wish: AskedLimits, rules: LimitRules) -> None:
    """Raises NetworkRefused for a network that the configuration does not allow, GuaranteeMissing for what the sandbox cannot give."""
    if wish.network == "egress" and not rules.allow_egress:
        raise NetworkRefused
    needed = {"cpus": wish.cpus is not None, "egress": wish.network == "egress"}
    if missing := guarantees.missing_of((name for name, is_needed in needed.items() if is_needed), rules.capabilities):
        raise GuaranteeMissing(rules.capabilities.sandbox, missing, guarantees.there(rules.capabilities))


def of_stages(wishes: Mapping[str, AskedLimits], session: AskedLimits, rules: LimitRules) -> StageLimits:
    """What stages get that ask for `wishes`, in a session that asks for `session`. Raises NetworkRefused, GuaranteeMissing."""
    asked_in_all = {stage: merged(session, wish) for stage, wish in wishes.items()}
    for wish in asked_in_all.values():
        refuse(wish, rules)
    return tuple((stage, effective(wish, rules)) for stage, wish in asked_in_all.items())


def of_recorded(recorded: Limits, rules: LimitRules) -> Limits:
    """What a step gets that is run again: as recorded, and never more than whoever asks for it now would get.

    A record may have come from another store, or from somebody's own hand. Raises NetworkRefused, InvalidField.
    """
    try:
        wish = msgspec.convert(msgspec.structs.asdict(recorded), AskedLimits)
    except msgspec.ValidationError as error:
        raise InvalidField(("body", "from"), f"takes in a step whose recorded limits are none: {error}") from None
    if wish.network == "egress" and not rules.allow_egress:
        raise NetworkRefused
    return effective(wish, rules)


def effective(wish: AskedLimits, rules: LimitRules) -> Limits:
    """All limits of a stage: as asked, else the default, and never more than the maximum."""
    values: dict[str, Any] = msgspec.structs.asdict(rules.default) | wish.given()
    for name in _NUMBERS:
        most = getattr(rules.maximum, name)
        if most is not None:
            values[name] = most if values[name] is None else min(values[name], most)
    return Limits(**values)
