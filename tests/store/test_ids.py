"""Names of objects."""

from __future__ import annotations

import blake3
import pytest

from store.ids import Kind, blob_id, hasher, is_prefix, object_id


@pytest.mark.parametrize("kind", list(Kind))
def test_a_name_is_blake3_of_the_tag_and_the_bytes(kind: Kind) -> None:
    assert object_id(kind, b"abc") == blake3.blake3(bytes([kind]) + b"abc").digest()


def test_no_two_kinds_share_a_name() -> None:
    assert len({object_id(kind, b"abc") for kind in Kind}) == len(Kind)


def test_the_tag_cannot_be_moved_into_the_content() -> None:
    assert object_id(Kind.BLOB, b"\x02abc") != object_id(Kind.TREE, b"abc")
    assert object_id(Kind.BLOB, b"") != object_id(Kind.TREE, b"")


def test_bytes_may_be_hashed_in_pieces_or_from_a_view() -> None:
    assert hasher(Kind.BLOB).update(b"ab").update(b"c").digest() == blob_id(b"abc") == blob_id(memoryview(b"abc"))


@pytest.mark.parametrize("text", ["abcdef", "0" * 64, "123456789"])
def test_six_to_sixty_four_lower_case_digits_are_a_prefix(text: str) -> None:
    assert is_prefix(text)


@pytest.mark.parametrize("text", ["", "abcde", "0" * 65, "ABCDEF", "abcdeg", "abcdef\n", " abcdef", "../../"])
def test_anything_else_is_no_prefix(text: str) -> None:
    assert not is_prefix(text)


def test_kinds_have_the_numbers_and_words_of_the_format() -> None:
    assert {kind.word: int(kind) for kind in Kind} == {"blob": 1, "tree": 2, "snapshot": 3, "move": 4}
