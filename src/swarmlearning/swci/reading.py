"""Lines of a script from a file, a pipe or a list, as bytes, without ever holding a long one. Spec: swci.md, CI-14."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from typing import Final

import msgspec

from swarmlearning.swci.lexer import MAX_LINE_BYTES

_CHUNK: Final = 64 << 10
_BOM: Final = b"\xef\xbb\xbf"


class RawScriptLine(msgspec.Struct, frozen=True):
    """A line without its end."""

    data: bytes
    """At most `MAX_LINE_BYTES` + 1 bytes of it."""
    size: int
    """How many it has."""


class _Splitter:
    """Cuts chunks into lines."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> list[RawScriptLine]:
        """The lines that end in `chunk`."""
        *ended, last = chunk.split(b"\n")
        lines = []
        for part in ended:
            self._add(part)
            lines.append(self._take())
        self._add(last)
        return lines

    def finish(self) -> list[RawScriptLine]:
        """The last line, where no end of line follows it."""
        return [self._take()] if self._size else []

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        self._kept += part[: MAX_LINE_BYTES + 1 - len(self._kept)]

    def _take(self) -> RawScriptLine:
        line = RawScriptLine(bytes(self._kept), self._size)
        self._kept, self._size = bytearray(), 0
        return line


async def read_lines(descriptor: int) -> AsyncIterator[RawScriptLine]:
    """The lines of an open file or pipe; waits without a thread, so that it can be cancelled.

    Raises:
        OSError: it cannot be read.
    """
    splitter, first = _Splitter(), True
    while True:
        await _readable(descriptor)
        chunk = os.read(descriptor, _CHUNK)
        lines = splitter.feed(chunk) if chunk else splitter.finish()
        for line in lines:
            yield _without_bom(line) if first else line
            first = False
        if not chunk:
            return


async def given_lines(lines: Iterable[str]) -> AsyncIterator[RawScriptLine]:
    """Lines that are at hand; what follows an end of line within one is a line of its own."""
    for text in lines:
        splitter = _Splitter()
        data = text.encode(errors="surrogateescape")
        for line in [*splitter.feed(data), *splitter.finish()]:
            yield line


def _without_bom(line: RawScriptLine) -> RawScriptLine:
    if not line.data.startswith(_BOM):
        return line
    return RawScriptLine(line.data[len(_BOM) :], line.size - len(_BOM))


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _settle, ready)
    except PermissionError:
        return  # a plain file: there is nothing to wait for
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
