"""Bundles that were altered anywhere and sealed again: each is refused with the one error, or what it brought is whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.check import check
from store.errors import BundleRefused
from tests.store.bundles import Place, filled, sealed

HASH_BYTES = 32
WHOLE = filled().export()[:-HASH_BYTES]
STEPS = st.lists(
    st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=3), max_size=3)
    | st.integers(0, 5),
    min_size=1,
    max_size=6,
)  # fmt: skip


@given(st.data())
def test_an_altered_bundle_is_refused_or_whole(data: st.DataObject) -> None:
    altered = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(altered) - 1))
        length = data.draw(st.integers(0, 4))
        altered[position : position + length] = data.draw(st.binary(max_size=4))
    place = Place.in_memory()
    try:
        place.take(sealed(bytes(altered)))
    except BundleRefused:
        assert place.visible() == {}
    else:
        assert check(place.objects, place.heads).clean


@given(STEPS, st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_a_history_comes_over_in_any_pieces(
    steps: list[dict[bytes, bytes] | int], one: int, two: int, told: bool
) -> None:
    """Numbers go back to that move. Pieces end anywhere; each leaves out what the one before brought."""
    sender, receiver = Place.in_memory(), Place.in_memory()
    sender.begin()
    for step in steps:
        log = sender.log()[::-1]
        if isinstance(step, int):
            sender.move_to(log[min(step, len(log) - 1)].to_snapshot, kind="rollback")
        else:
            sender.step(step)
    last = len(sender.log())
    since: int | None = None
    for until in sorted({min(1 + one, last), min(1 + two, last), last}):
        have = [move.to_snapshot for move in receiver.log()] if told else []
        receiver.take(sender.export(since=since, until=until, have=have))
        since = until
    assert receiver.log() == sender.log()
    assert check(receiver.objects, receiver.heads).clean
