"""What a step prints while it runs: server-sent events, and what becomes of them when the connection breaks in between."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Literal

import msgspec

from psf.client.calling import Asked, Caller, decoded
from psf.client.errors import Misused, NotPsf, Refused, Unreachable, refusal
from psf.client.models import Result

EVENT_BYTES_MAX = 1 << 30


class Event(msgspec.Struct, frozen=True):
    """A piece of output as it comes. `restarted`: what was told before was of a run that the server lost, and it all begins anew."""

    kind: Literal["stdout", "stderr", "restarted"]
    stage: str = ""
    text: str = ""
    base64: str | None = None

    @property
    def data(self) -> bytes:
        """The very bytes, also where they are not UTF-8."""
        return self.text.encode() if self.base64 is None else b64decode(self.base64)


def _event_of(kind: Literal["stdout", "stderr"], stage: str, data: bytes) -> Event:
    try:
        return Event(kind, stage, data.decode())
    except UnicodeDecodeError:
        return Event(kind, stage, data.decode(errors="replace"), b64encode(data).decode())


class EventParser:
    """Bytes of a `text/event-stream`, in any pieces, as events: their names and their data. No I/O."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self._rest += data
        while (end := self._rest.find(b"\n\n", max(0, self._searched - 1))) >= 0:
            block = bytes(self._rest[:end])
            del self._rest[: end + 2]
            self._searched = 0
            event = _event(block)
            if event is not None:
                yield event
        self._searched = len(self._rest)
        if self._searched > EVENT_BYTES_MAX:
            raise NotPsf(f"an event of more than {EVENT_BYTES_MAX} bytes")


def _event(block: bytes) -> tuple[str, bytes] | None:
    name, data = "message", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode(errors="replace")
        elif field == b"data":
            data.append(value)
    return (name, b"\n".join(data)) if data else None


class Stream:
    """A step that runs. Iterate over it for its output; then `result` is what became of it, or `await finish()` without looking.

    When the connection breaks, the same step is asked for again under the same key. It goes on meanwhile or is done: then what had not
    been told yet comes from its result.
    """

    def __init__(self, caller: Caller, asked: Asked) -> None:
        self._caller, self._asked = caller, asked
        self._result: Result | None = None
        self._events: AsyncGenerator[Event, None] | None = None

    @property
    def key(self) -> str:
        """Under which the same step can be asked for again."""
        return self._asked.key or ""

    @property
    def result(self) -> Result:
        """What became of the step. Raises Misused before the end of the events."""
        if self._result is None:
            raise Misused("the step has not ended; read its events to their end first, or `await stream.finish()`")
        return self._result

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._events is None:
            self._events = self._told()
        return self._events

    async def finish(self) -> Result:
        """Read to the end. Raises Refused, Unreachable."""
        async for _ in self:
            pass
        return self.result

    async def close(self) -> None:
        """Look no longer. The step goes on; `cancel` of its session stops it."""
        if self._events is not None:
            await self._events.aclose()

    async def _told(self) -> AsyncGenerator[Event, None]:
        told: Counter[tuple[str, str]] = Counter()
        attempt, broken = 0, False
        while True:
            try:
                async for event in self._attempt():
                    if broken and told:
                        told.clear()
                        yield Event("restarted")
                    broken = False
                    told[event.stage, event.kind] += len(event.data)
                    yield event
                break
            except (Unreachable, Refused) as error:
                attempt, broken = attempt + 1, True
                await self._caller.pause(self._asked, error, attempt)
        if broken and told and not self.result.repeated:
            told.clear()
            yield Event("restarted")
        # Of what was done before, and of what is taken from a record, nothing was told while it ran.
        for event in _untold(self.result, told):
            yield event

    async def _attempt(self) -> AsyncIterator[Event]:
        parser = EventParser()
        async with self._caller.opened(self._asked) as response:
            if response.content_type != "text/event-stream":
                raise NotPsf(f"expected events, and got {response.content_type}")
            async for piece in response.content.iter_any():
                for name, data in parser.feed(piece):
                    if name == "result":
                        self._result = decoded(data, Result)
                        return
                    if name == "error":
                        raise _failure(data)
                    if name in ("stdout", "stderr"):
                        given = decoded(data, dict[str, Any])
                        yield msgspec.convert({**given, "kind": name}, Event)
        raise Unreachable("the events ended before the step did")


def _untold(result: Result, told: Counter[tuple[str, str]]) -> Iterator[Event]:
    """What a step printed after that which was told of it. Of output that was cut it cannot be said where that ended."""
    for name, stage in result.stages.items():
        kinds: tuple[tuple[Literal["stdout", "stderr"], bytes], ...]
        kinds = (("stdout", stage.stdout_data), ("stderr", stage.stderr_data))
        for kind, data in kinds:
            known = told[name, kind]
            if (not known or not stage.truncated) and (rest := data[known:]):
                yield _event_of(kind, name, rest)


def _failure(data: bytes) -> Refused:
    status = decoded(data, dict[str, Any]).get("status")
    return refusal(status if isinstance(status, int) else 500, data)
