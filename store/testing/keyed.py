"""The contract of requests that may be repeated, of lists, and of settings that change: what `/v1` needs of a head store."""

from __future__ import annotations

from typing import Protocol

import msgspec
import pytest

from store.asked import AskedLimits
from store.errors import HeadMoved
from store.interfaces import KEY_BYTES, HeadLister, Heads, HeadSweeper, Keyed, Repeats, SessionSettings
from store.testing import move, nobody, session, snapshot_name

KEYED = Keyed(b"k" * KEY_BYTES, b"a" * KEY_BYTES)
OTHER = Keyed(b"o" * KEY_BYTES, b"b" * KEY_BYTES)


class RepeatableHeads(Heads, HeadSweeper, HeadLister, Repeats, Protocol):
    """A head store that knows which requests it has carried out, and what each tenant has."""


class KeyedContract:
    """What every head store promises as `Repeats`, and of settings. Give a fixture `heads`."""

    def test_what_was_made_under_a_key_is_found_with_its_session_as_it_is_now(self, heads: RepeatableHeads) -> None:
        heads.create([session("a")], "create", keyed=KEYED)
        keyed = msgspec.structs.replace(move(1), key=OTHER.key, asked=OTHER.asked)
        heads.advance("a", snapshot_name(0), keyed)
        heads.advance("a", snapshot_name(1), move(2))
        assert heads.made_under(b"x" * KEY_BYTES) == heads.made_under(b"") == []
        (created,) = heads.made_under(KEYED.key)
        assert (created.move.sequence, created.move.kind, created.move.asked) == (1, "create", KEYED.asked)
        (advanced,) = heads.made_under(OTHER.key)
        assert (advanced.move.sequence, advanced.move.to_snapshot, advanced.move.asked) == (
            2,
            snapshot_name(1),
            OTHER.asked,
        )
        assert created.session == advanced.session == heads.get("a", "alice")
        assert [(entry.key, entry.asked) for entry in heads.log("a", before=None, limit=9)] == [
            (b"", b""), (OTHER.key, OTHER.asked), (KEYED.key, KEYED.asked),
        ]  # fmt: skip

    def test_all_that_one_request_made_is_found_by_session_id(self, heads: RepeatableHeads) -> None:
        heads.create([session(name) for name in ("c", "a", "b")], "fork", keyed=KEYED)
        assert [made.session.session_id for made in heads.made_under(KEYED.key)] == ["a", "b", "c"]

    def test_a_move_that_failed_was_not_made(self, heads: RepeatableHeads) -> None:
        heads.create([session("a")], "create")
        with pytest.raises(HeadMoved):
            heads.advance("a", snapshot_name(7), msgspec.structs.replace(move(1), key=KEYED.key, asked=KEYED.asked))
        assert heads.made_under(KEYED.key) == []

    def test_a_dropped_session_takes_its_keys_with_it(self, heads: RepeatableHeads) -> None:
        heads.create([session("a", used_at_s=1.0, ttl_s=1.0)], "create", keyed=KEYED)
        assert heads.drop_unused_since(1000.0, is_running=nobody) == 1
        assert heads.made_under(KEYED.key) == []

    def test_a_move_may_change_settings_and_one_without_changes_none(self, heads: RepeatableHeads) -> None:
        heads.create([session("a")], "create")
        settings = SessionSettings("named", 5.0, AskedLimits(processes=3))
        heads.advance("a", snapshot_name(0), move(0, at_s=2000.0), settings=settings)
        for number in (0, 1):
            heads.advance("a", snapshot_name(0), move(number, at_s=2000.0))
            kept = heads.get("a", "alice")
            assert SessionSettings(kept.name, kept.ttl_s, kept.limits) == settings
            if number == 0:
                assert kept == msgspec.structs.replace(
                    session("a"), used_at_s=2000.0, **msgspec.structs.asdict(settings)
                )

    def test_sessions_of_a_tenant_are_listed_last_first_in_pages(self, heads: RepeatableHeads) -> None:
        for number in range(5):
            made = [
                msgspec.structs.replace(session(f"{name}{number}", tenant=tenant), created_at_s=number // 2)
                for name, tenant in (("a", "alice"), ("b", "bob"))
            ]
            heads.create(made, "create")
        seen: list[str] = []
        before: tuple[float, str] | None = None
        while page := heads.sessions("alice", before=before, limit=2):
            seen += [one.session_id for one in page]
            before = (page[-1].created_at_s, page[-1].session_id)
        assert seen == ["a4", "a3", "a2", "a1", "a0"]
        assert heads.sessions("nobody", limit=9) == []
        assert [heads.count(tenant) for tenant in ("alice", "bob", "nobody")] == [5, 5, 0]

    def test_where_moves_led_is_known_to_their_tenant_alone(self, heads: RepeatableHeads) -> None:
        heads.create([session("a"), session("b", tenant="bob")], "create")
        heads.advance("a", snapshot_name(0), move(1))
        heads.advance("a", snapshot_name(1), move(2))
        assert [heads.led_to("alice", snapshot_name(number)) for number in range(4)] == [True, True, True, False]
        assert [heads.led_to("bob", snapshot_name(number)) for number in range(2)] == [True, False]

    def test_lost_settings_change_nothing(self, heads: RepeatableHeads) -> None:
        heads.create([session("a")], "create")
        with pytest.raises(HeadMoved):
            heads.advance("a", snapshot_name(7), move(1), settings=SessionSettings("n", 1.0, AskedLimits()))
        assert heads.get("a", "alice") == session("a")
