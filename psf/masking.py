"""Values of secrets in what programs print: they are taken out before anybody keeps or sees it."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from executors.interfaces import Output, Result, StageWatch

SECRET_CHARACTERS_MIN = 6
MASK = b"***"


def masked(result: Result, secrets: tuple[tuple[str, str], ...]) -> Result:
    """The result without the values of secrets in what the program printed. Short ones stand anywhere by chance, and stay."""
    values = _values(secrets)
    if not values:
        return result

    def mask(output: Output) -> Output:
        return msgspec.structs.replace(output, data=_without(output.data, values))

    stages = tuple(
        (name, msgspec.structs.replace(run, stdout=mask(run.stdout), stderr=mask(run.stderr)))
        for name, run in result.stages
    )
    return msgspec.structs.replace(result, stages=stages)


class MaskedWatch:
    """`StageWatch` that tells another one what it is told, without values of secrets: also where one comes in two pieces."""

    def __init__(self, watch: StageWatch, secrets: tuple[tuple[str, str], ...]) -> None:
        self._watch, self._values = watch, _values(secrets)
        self._held_bytes = max((len(value) for value in self._values), default=1) - 1
        self._held: defaultdict[tuple[str, str], bytes] = defaultdict(bytes)
        """The end of what has been told of each stream: a value may begin in it."""

    def __call__(self, stage: str, stream: str, data: bytes) -> None:
        place = stage, stream
        whole = _without(self._held[place] + data, self._values)
        told = len(whole) - self._held_bytes
        self._held[place] = whole[max(told, 0) :]
        if told > 0:
            self._watch(stage, stream, whole[:told])

    def end(self) -> None:
        """Tell what was held back."""
        for (stage, stream), data in self._held.items():
            if data:
                self._watch(stage, stream, data)
        self._held.clear()


def _values(secrets: tuple[tuple[str, str], ...]) -> list[bytes]:
    """Longest first: one may stand in another."""
    return sorted(
        (value.encode() for _, value in secrets if len(value) >= SECRET_CHARACTERS_MIN), key=len, reverse=True
    )


def _without(data: bytes, values: list[bytes]) -> bytes:
    for value in values:
        data = data.replace(value, MASK)
    return data
