"""The part of HTTP/1.1 (RFC 9112) that the client of a stream reads: a response's head, and where its body ends.

Our servers end the body of a stream with the connection. A proxy may pass it on in chunks or with a length, so that
these are read too. Strict: what is merely usual is refused. Does not read from connections (`receiving`).
"""

import re
from typing import Final, Protocol

import msgspec

MAX_LINE_BYTES: Final = 4096
"""Longest line of a head, bytes."""

MAX_HEADERS: Final = 32
"""Most lines of a head after its first, and of what follows the last chunk."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Largest head, bytes."""

MAX_CHUNK_LINE_BYTES: Final = 256
"""Longest line between chunks, bytes."""

_END: Final = b"\r\n\r\n"
_START: Final = b"HTTP/1."
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class NotHttp(Exception):
    """What came back is no response that we read; `explain` says whose fault it is."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a response's head."""

    status: int
    chunked: bool
    length: int | None
    """Of the body in bytes; None: it is chunked, or ends with the connection."""


class Framing(Protocol):
    """Tells the body of a response from what only says how long it is."""

    @property
    def until_close(self) -> bool:
        """Whether the body ends with the connection."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the body is complete without the connection's end."""
        ...

    def take(self, received: memoryview) -> int:
        """Move the bytes of the body to the front of `received`, and return how many they are.

        Raises:
            NotHttp: this is no such body.
        """
        ...


def parse_head(data: bytes) -> tuple[Head, int] | None:
    """The head at the beginning of `data` and its size in bytes; None if there is more to come.

    Raises:
        NotHttp: it is none, or beyond the limits.
    """
    if data[: len(_START)] != _START[: len(data)]:
        raise NotHttp(f"expected an HTTP/1.1 response, got {data[:20]!r}")
    size = data.find(_END, 0, MAX_HEAD_BYTES)
    lines = data[: size if size >= 0 else MAX_HEAD_BYTES].split(b"\r\n")
    if len(lines) > MAX_HEADERS + 1 or any(len(line) > MAX_LINE_BYTES for line in lines):
        raise NotHttp(f"a header of more than {MAX_HEADERS} lines or {MAX_LINE_BYTES} bytes a line")
    if size < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise NotHttp(f"a header of more than {MAX_HEAD_BYTES} bytes")
        return None
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise NotHttp(f"expected an HTTP/1.1 status line, got {lines[0][:40]!r}")
    head = _read_head(int(status[2]), status[1] == b"1", [_read_header(line) for line in lines[1:]])
    return head, size + len(_END)


def framing(head: Head) -> Framing:
    """How to read the body after `head`."""
    if head.chunked:
        return _Chunked()
    return _UntilClose() if head.length is None else _Length(head.length)


def _read_header(line: bytes) -> tuple[bytes, bytes]:
    header = _HEADER.fullmatch(line)
    if header is None:
        raise NotHttp(f"expected a header line, got {line[:40]!r}")
    return header[1].lower(), header[2]


def _read_head(status: int, is_1_1: bool, headers: list[tuple[bytes, bytes]]) -> Head:
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in headers):
        raise NotHttp("a compressed body, which was not asked for")
    # Both, or one twice: two readers could disagree about where the body ends (RFC 9112, 6.3).
    if len(codings) + len(lengths) > 1 or (codings and (codings != [b"chunked"] or not is_1_1)):
        raise NotHttp("a body of contradictory or unknown length")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise NotHttp(f"a body of length {lengths[0][:40]!r}")
    if status == 101:
        raise NotHttp("a switch of protocols, which was not asked for")
    return Head(status=status, chunked=bool(codings), length=int(lengths[0]) if lengths else None)


class _UntilClose:
    """A body that ends with its connection."""

    until_close: Final = True
    ended: Final = False

    def take(self, received: memoryview) -> int:
        return len(received)


class _Length:
    """A body of known length."""

    until_close: Final = False

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def ended(self) -> bool:
        return not self._left

    def take(self, received: memoryview) -> int:
        if len(received) > self._left:
            raise NotHttp("bytes after the end of the body")
        self._left -= len(received)
        return len(received)


class _Chunked:
    """A body in chunks, each with its size before it."""

    until_close: Final = False

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._line = b""
        """The beginning of a line."""
        self._read = self._read_size
        self._trailers = 0

    def take(self, received: memoryview) -> int:
        size = at = 0
        while at < len(received):
            if self.ended:
                raise NotHttp("bytes after the last chunk")
            if self._left:
                part = received[at : at + self._left]
                received[size : size + len(part)] = part  # may overlap, which is fine
                size += len(part)
                at += len(part)
                self._left -= len(part)
                continue
            piece = bytes(received[at : at + MAX_CHUNK_LINE_BYTES])
            end = piece.find(b"\n") + 1
            self._line += piece[:end] if end else piece
            at += end or len(piece)
            if len(self._line) > MAX_CHUNK_LINE_BYTES:
                raise NotHttp(f"a line of more than {MAX_CHUNK_LINE_BYTES} bytes between chunks")
            if end:
                line, self._line = self._line, b""
                if not line.endswith(b"\r\n"):
                    raise NotHttp("a line between chunks that does not end as it must")
                self._read(line[:-2])
        return size

    def _read_size(self, line: bytes) -> None:
        chunk = _CHUNK.fullmatch(line)
        if chunk is None:
            raise NotHttp(f"expected the size of a chunk, got {line[:40]!r}")
        self._left = int(chunk[1], 16)
        self._read = self._read_separator if self._left else self._read_trailer

    def _read_separator(self, line: bytes) -> None:
        if line:
            raise NotHttp("a chunk that is longer than it says")
        self._read = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        self._trailers += 1
        if self._trailers > MAX_HEADERS:
            raise NotHttp(f"more than {MAX_HEADERS} lines after the last chunk")
        if line:
            _read_header(line)
        else:
            self.ended = True
