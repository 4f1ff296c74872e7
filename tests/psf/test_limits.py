"""What stages get: the call before the session, the session before the server, nothing beyond the server's maximum."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executors.interfaces import Capabilities
from psf import config, limits
from psf.config import Settings
from psf.errors import GuaranteeMissing, InvalidField, NetworkRefused
from psf.limits import LimitRules
from store.asked import NAMES, NOTHING_ASKED, AskedLimits
from store.snapshot import Limits
from tests.store.test_asked import ASKED

ABLE = Capabilities("any", "overlay", {"cpus": "a quota", "egress": "a way out"}, ())
UNABLE = Capabilities("any", "overlay", {}, ("cpus: no group", "egress: no helper"))
NUMBERS = [name for name in NAMES if name != "network"]


def rules(capabilities: Capabilities = ABLE, **settings: Any) -> LimitRules:
    return limits.rules_of(Settings(**settings), capabilities)


def test_who_asks_for_nothing_gets_what_older_snapshots_say() -> None:
    """Else the same step would have another name."""
    assert limits.effective(NOTHING_ASKED, rules()) == Limits()
    assert LimitRules().default == Limits()


@given(ASKED, ASKED, ASKED, st.booleans())
def test_nobody_gets_more_than_the_maximum_and_the_call_comes_first(
    server: AskedLimits, session: AskedLimits, call: AskedLimits, bounded: bool
) -> None:
    default = msgspec.structs.replace(Limits(), **server.given())
    made = LimitRules(default, Limits(cpus=1.5) if bounded else LimitRules().maximum, allow_egress=True)
    (_, got), (_, other) = limits.of_stages({"compile": call, "run": NOTHING_ASKED}, session, made)
    for name in NAMES:
        wishes = [getattr(wish, name) for wish in (call, session, default)]
        asked_for, without = (next((w for w in some if w is not None), None) for some in (wishes, wishes[1:]))
        most = getattr(made.maximum, name) if name != "network" else None
        for value, wanted in ((getattr(got, name), asked_for), (getattr(other, name), without)):
            assert value == (wanted if most is None else most if wanted is None else min(wanted, most))


@given(ASKED)
def test_what_passes_the_check_is_given_as_asked(wish: AskedLimits) -> None:
    made = rules(allow_egress=True, cpus_max=4.0)
    got = limits.effective(wish, made)
    cut = [name for name, value in wish.given().items() if getattr(got, name) != value]
    if not cut:
        limits.check(wish, made, ("body", "limits"))
        return
    with pytest.raises(InvalidField, match=re.escape(f"at most {getattr(got, cut[0]):.15g} ")) as caught:
        limits.check(wish, made, ("body", "limits"))
    assert caught.value.location == ("body", "limits", cut[0])


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_has_a_default_and_a_maximum_of_its_name(name: str) -> None:
    kind = type(getattr(Limits(), name) or 1.0)
    values = {name: kind(20_000), f"{name}_max": kind(30_000)} if name != "cpus" else {"cpus": 2.0, "cpus_max": 3.0}
    made = rules(**values)
    assert getattr(limits.effective(NOTHING_ASKED, made), name) == values[name]
    most = AskedLimits(**{name: values[f"{name}_max"]})
    limits.check(most, made, ())
    assert getattr(limits.effective(most, made), name) == values[f"{name}_max"]
    more = AskedLimits(**{name: values[f"{name}_max"] + 1})
    with pytest.raises(InvalidField) as caught:
        limits.check(more, made, ("body", "limits"))
    assert caught.value.location == ("body", "limits", name)
    assert getattr(limits.effective(more, made), name) == values[f"{name}_max"]


def test_what_is_set_in_vain_is_said() -> None:
    (told,) = limits.cut_settings(Settings(memory_bytes=1 << 35, cpus=2.0, wall_time_s=5.0))
    assert told.startswith(f"memory_bytes is {1 << 35}, and runs get {1 << 34}: it is more than memory_bytes_max")
    assert limits.cut_settings(Settings(memory_bytes_max=1 << 30, cpus_max=1.0)) == []


def test_a_maximum_below_the_default_is_what_everybody_gets() -> None:
    made = limits.rules_of(config.load({}, {"PSF_MEMORY_BYTES_MAX": "20000000", "PSF_CPUS_MAX": "0.5"}), ABLE)
    got = limits.effective(NOTHING_ASKED, made)
    assert (got.memory_bytes, got.cpus) == (20_000_000, 0.5)


EGRESS = AskedLimits(network="egress")


def test_egress_needs_leave() -> None:
    for act in (
        lambda made: limits.check(EGRESS, made, ()),
        lambda made: limits.of_stages({"run": NOTHING_ASKED}, EGRESS, made),
        lambda made: limits.of_stages({"run": EGRESS}, NOTHING_ASKED, made),
    ):
        with pytest.raises(NetworkRefused, match="allow_egress"):
            act(rules())
        act(rules(allow_egress=True))
    for network in ("none", "loopback"):
        ((_, got),) = limits.of_stages({"run": AskedLimits(network=network)}, EGRESS, rules())
        assert got.network == network


@pytest.mark.parametrize(("wish", "missing"), [(EGRESS, "egress"), (AskedLimits(cpus=1.0), "cpus")])
def test_what_the_sandbox_cannot_give_is_refused_with_its_reason(wish: AskedLimits, missing: str) -> None:
    with pytest.raises(GuaranteeMissing, match=missing) as caught:
        limits.check(wish, rules(UNABLE, allow_egress=True), ())
    assert set(caught.value.missing) == {missing}
    limits.check(AskedLimits(network="none", memory_bytes=1 << 30), rules(UNABLE), ())
