"""What a way out lets through, as text, and what is left of one that cannot be begun: what it does is in egress_contract."""

from __future__ import annotations

import itertools
import os

import pytest

from executors import connecting
from executors.connecting import RESOLVER, own_networks, rules

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.168.7.0/24 2 0 2
        |-- 192.168.7.0
           /24 link UNICAST
        |-- 192.168.7.9
           /32 host LOCAL
        |-- 192.168.7.255
           /32 link BROADCAST
Local:
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 203.0.113.0
        /25 link LOCAL
        /24 link UNICAST
     |-- 192.168.7.9
        /32 host LOCAL
"""


def test_a_machines_own_networks_are_those_that_it_answers_for() -> None:
    assert own_networks(TRIE) == ["127.0.0.0/8", "192.168.7.9/32", "203.0.113.0/25"]


def test_what_is_never_reached_comes_before_what_is_allowed_and_only_names_come_before_that() -> None:
    lines = rules(["203.0.113.9/32"], ["10.1.0.0/16"], ["198.51.100.0/24"], []).splitlines()
    accepted = [line for line in lines if line.endswith("accept")]
    assert accepted == [
        'oifname "lo" accept', f"ip daddr {{ {RESOLVER} }} udp dport 53 accept", f"ip daddr {{ {RESOLVER} }} tcp dport 53 accept",
        "ip daddr @allowed accept",
    ]  # fmt: skip
    order = [
        lines.index(line)
        for line in (accepted[2], "ip daddr @never goto refused", accepted[3], "ip daddr @private goto refused")
    ]
    assert order == sorted(order)
    (never,) = (line for line in lines if line.startswith("set never "))
    assert all(network in never for network in ("203.0.113.9/32", "198.51.100.0/24", "127.0.0.0/8", "169.254.0.0/16"))


def test_resolvers_that_are_configured_take_the_place_of_the_machines_own() -> None:
    text = rules([], [], [], ["9.9.9.9", "10.0.0.53"])
    assert "ip daddr { 9.9.9.9, 10.0.0.53 } udp dport 53 accept" in text
    assert RESOLVER not in text
    assert "allowed" not in text


@pytest.mark.parametrize("failing", ["fork", "pipe"])
def test_a_way_out_that_cannot_be_begun_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    times, pipe = itertools.count(), os.pipe

    def fails() -> tuple[int, int]:
        if failing == "fork" or next(times):
            raise OSError("refused")
        return pipe()

    monkeypatch.setattr(os.path, "samestat", lambda *_: False)  # our own namespace will do
    monkeypatch.setattr(os, failing, fails)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="refused"):
        connecting.connect(os.getpid(), {"allow": [], "deny": [], "resolvers": []}, None, 1)
    assert len(os.listdir("/proc/self/fd")) == before
