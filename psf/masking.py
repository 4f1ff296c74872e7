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
        self._longest = max((len(value) for value in self._values), default=1)
        self._held: defaultdict[tuple[str, str], bytes] = defaultdict(bytes)
        """The end of what has come of each stream: a value may begin in it."""

    def __call__(self, stage: str, stream: str, data: bytes) -> None:
        place = stage, stream
        whole = self._held[place] + data
        spans = _spans(whole, self._values)
        # What begins before this ends in what is there.
        told = max(len(whole) - self._longest + 1, 0)
        for start, end in spans:
            if start < told < end:
                # Another value may begin in it. Those that go on and on in one another are told all the same.
                told = start if len(whole) - start <= 4 * self._longest else end
        self._held[place] = whole[told:]
        if told:
            self._watch(stage, stream, _cut(whole[:told], [span for span in spans if span[1] <= told]))

    def end(self) -> None:
        """Tell what was held back."""
        for (stage, stream), data in self._held.items():
            if data:
                self._watch(stage, stream, _without(data, self._values))
        self._held.clear()


def _values(secrets: tuple[tuple[str, str], ...]) -> list[bytes]:
    return [value.encode() for _, value in secrets if len(value) >= SECRET_CHARACTERS_MIN]


def _without(data: bytes, values: list[bytes]) -> bytes:
    return _cut(data, _spans(data, values))


def _spans(data: bytes, values: list[bytes]) -> list[tuple[int, int]]:
    """Where values stand, in order; those that overlap as one."""
    found: list[tuple[int, int]] = []
    for value in values:
        start = data.find(value)
        while start >= 0:
            found.append((start, start + len(value)))
            start = data.find(value, start + len(value))
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if spans and start < spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans


def _cut(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    parts, done = [], 0
    for start, end in spans:
        parts += [data[done:start], MASK]
        done = end
    return b"".join((*parts, data[done:]))
