"""Values of secrets in output: all of them go, however it is cut and however they lie in one another."""

from __future__ import annotations

import pytest

from psf.masking import MaskedWatch

SECRETS = (("SHORT", "abcdef"), ("LONG", "abcdefXYZ123"), ("LATER", "Z123456"))


def told(pieces: list[bytes]) -> bytes:
    parts: list[bytes] = []
    watch = MaskedWatch(lambda stage, stream, data: parts.append(data), SECRETS)
    for piece in pieces:
        watch("run", "stdout", piece)
    watch.end()
    return b"".join(parts)


@pytest.mark.parametrize(
    ("output", "masked"),
    [
        (b"<abcdef>", b"<***>"),
        (b"<abcdefXYZ123>", b"<***>"),
        (b"<abcdefXYZ12>", b"<***XYZ12>"),
        (b"<abcdefXYZ123456>", b"<***>"),
        (b"<abcdefabcdefXYZ123>", b"<******>"),
        (b"nothing at all of them, and long enough to be told", b"nothing at all of them, and long enough to be told"),
    ],
)
def test_a_value_is_masked_wherever_the_output_is_cut(output: bytes, masked: bytes) -> None:
    assert told([output]) == masked
    for first in range(len(output)):
        for second in range(first, len(output)):
            assert told([output[:first], output[first:second], output[second:]]) == masked, (first, second)
    assert told([output[at : at + 1] for at in range(len(output))]) == masked


def test_values_that_go_on_in_one_another_are_not_held_back_for_ever() -> None:
    parts: list[bytes] = []
    watch = MaskedWatch(lambda stage, stream, data: parts.append(data), (("A", "aaaaab"), ("B", "abaaaa")))
    for _ in range(1000):
        watch("run", "stdout", b"aaaaab")
    assert parts
    assert len(watch._held["run", "stdout"]) < 100
