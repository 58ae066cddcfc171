"""Archives as they come: tar, plain or packed by gzip, bzip2 or xz, and zip. Memory is bounded, whatever they say.

Spec: docs/spec/swop-content.md, SW-69.
"""

import asyncio
import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.names import check_path, show_name
from swarmlearning.swop.content.unpacking import BLOCK, Bounds, Tell, Unpacking

MAX_HEADERS: Final = 1 << 18
"""Most bytes between two files of a tar: longer names and attributes than any system has."""

MAX_DIRECTORY: Final = 24 << 20
"""Most bytes of a zip's table of contents, which is read whole."""

MAX_AFTER: Final = 1 << 20
"""Most bytes after the end of a tar, which fill up its last record."""

XZ_MEMORY: Final = 128 << 20
"""Most bytes that unpacking xz may take; `xz -9` takes 65 MiB."""

_MAX_TARGET: Final = 4096

_DAMAGED: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError, IndexError,
    KeyError, RecursionError, NotImplementedError, RuntimeError, UnicodeError,
)  # fmt: skip
"""What the readers of formats raise where the bytes are not what they should be."""


async def unpack(
    archive: Path, root: Path, into: tuple[str, ...], bounds: Bounds, tell: Tell, sha256: str | None = None
) -> int:
    """Unpack an archive; if that fails nothing of it is left.

    Args:
        archive: the file.
        root: a directory that nobody else changes meanwhile.
        into: the directory below it that gets the content.
        bounds: how large that may be.
        tell: is given how far it is.
        sha256: what the archive has to have, hexadecimal.

    Returns:
        How many bytes came out of it.

    Raises:
        TaskFailed: it is damaged, too large, another than the expected one, or has something in it that it should not.
    """
    loop = asyncio.get_running_loop()

    def tell_from_thread(text: str) -> None:
        loop.call_soon_threadsafe(tell, text)

    packed = (await asyncio.to_thread(archive.stat)).st_size
    unpacking = Unpacking(root, into, bounds, packed, tell_from_thread)
    running = asyncio.ensure_future(asyncio.to_thread(_unpack, archive, unpacking, tell_from_thread, sha256))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        unpacking.cancelled.set()
        await asyncio.wait([running])
        if running.done() and not running.cancelled():
            running.exception()  # looked at, so that nobody is told of it
        raise


def _unpack(archive: Path, unpacking: Unpacking, tell: Tell, sha256: str | None) -> int:
    try:
        with archive.open("rb") as file:
            if sha256 is not None:
                _verify(file, sha256)
            unpacking.begin()
            if zipfile.is_zipfile(file) and _begins_like_zip(file):
                _read_zip(file, unpacking)
            else:
                _read_tar(file, unpacking)
        entries = unpacking.finish()
    except TaskFailed as error:
        raise TaskFailed(f"{show_name(archive.name)}: {error}") from error
    except OSError as error:
        reason = f"{error.strerror}; check the disk" if error.errno else f"it is damaged: {show_name(str(error))}"
        raise TaskFailed(f"{show_name(archive.name)}: cannot be unpacked ({reason})") from error
    except MemoryError as error:
        raise TaskFailed(f"{show_name(archive.name)}: unpacking it takes too much memory") from error
    except _DAMAGED as error:
        reason = show_name(str(error) or type(error).__name__)
        raise TaskFailed(f"{show_name(archive.name)}: cannot be unpacked as tar or zip ({reason})") from error
    finally:
        unpacking.remove()
    tell(f"{show_name(archive.name)}: {entries} entries, {unpacking.size} bytes")
    return unpacking.size


def _verify(file: IO[bytes], sha256: str) -> None:
    hasher = hashlib.sha256()
    while block := file.read(BLOCK):
        hasher.update(block)
    found = hasher.hexdigest()
    if found != sha256.lower():
        raise TaskFailed(f"its SHA-256 is {found}, expected {sha256.lower()}")


# --- tar ------------------------------------------------------------------------------------------------------------


def _read_tar(file: IO[bytes], unpacking: Unpacking) -> None:
    source = _Source(file, unpacking)
    # Read in one go from the beginning to the end; what it is packed by says its beginning, not its name.
    with tarfile.open(fileobj=source, mode="r:") as tar:
        count = 0
        while True:
            source.allow(MAX_HEADERS)
            member = tar.next()
            if member is None:
                break
            count += 1
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            source.allow(member.size + MAX_HEADERS)
            _read_member(tar, member, unpacking)
    source.end()
    if count == 0:
        raise TaskFailed("there is nothing in it")


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, unpacking: Unpacking) -> None:
    name = member.name
    check_path(name, "archive:")
    if member.isdir():
        unpacking.directory(name)
    elif member.issparse():
        raise TaskFailed(f"archive: {show_name(name)} has holes, which no file here may have")
    elif member.isreg():
        if hasattr(tarfile, "data_filter"):  # Python's own judgement, too; the first releases of 3.11 have none
            tarfile.data_filter(member, "/nowhere")
        data = tar.extractfile(member)
        assert data is not None
        unpacking.file(name, data.read, member.size, executable=bool(member.mode & stat.S_IXUSR))
    elif member.issym() or member.islnk():
        unpacking.link(name, member.linkname, hard=member.islnk())
    else:
        raise TaskFailed(f"archive: {show_name(name)} is no file, directory or link, but a device or pipe")


class _Source(io.RawIOBase):
    """The unpacked bytes of a tar, read forwards, of which only so many may be asked for at once.

    `tarfile` reads names and attributes whole, as long as they say that they are.
    """

    def __init__(self, file: IO[bytes], unpacking: Unpacking) -> None:
        super().__init__()
        self._blocks = _unpacked(file)
        self._unpacking = unpacking
        self._buffer = b""  # of what begins at `_begin`
        self._begin = 0
        self._at = 0
        self._allowed = MAX_HEADERS
        self._passed = 0
        self._newest = b""

    def allow(self, size: int) -> None:
        """From here on, only so many bytes may be read or passed over."""
        self._allowed = self._at + size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._begin:
            raise TaskFailed("archive: it is to be read backwards")
        self._check(offset)
        self._at = offset
        return offset

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            raise TaskFailed("archive: it is to be read whole")
        self._check(self._at + size)
        parts: list[bytes] = []
        while size > 0 and self._fill():
            start = self._at - self._begin
            part = self._buffer[start : start + size]
            parts.append(part)
            size -= len(part)
            self._at += len(part)
        self._newest = b"".join(parts)
        return self._newest

    def end(self) -> None:
        """The last member was read: see that it ends as archives do, and that what it is packed by is whole.

        Raises:
            TaskFailed: it is damaged, or goes on after its end.
        """
        # tarfile takes a header that it cannot read for the end.
        if len(self._newest) != tarfile.BLOCKSIZE or any(self._newest):
            raise TaskFailed("archive: it is damaged, or ends early")
        left = MAX_AFTER
        for block in self._blocks:
            left -= len(block)
            if left < 0:
                raise TaskFailed("archive: it goes on after its end")

    def _check(self, end: int) -> None:
        if end > self._allowed:
            raise TaskFailed(f"archive: more than {MAX_HEADERS} bytes of names and attributes before a file")

    def _fill(self) -> bool:
        """Have the byte at our place in the buffer; whether there is one."""
        while self._at >= self._begin + len(self._buffer):
            block = next(self._blocks, b"")
            if not block:
                return False
            self._passed += len(block)
            self._unpacking.check_ratio(self._passed)
            # The last byte is kept: tarfile goes back by one to see whether a file was whole.
            kept = self._buffer[-1:]
            self._begin += len(self._buffer) - len(kept)
            self._buffer = kept + block
        return True


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """What a file has in it when it is unpacked, in blocks."""
    file.seek(0)
    begin = file.read(6)
    file.seek(0)
    if begin[:2] == b"\x1f\x8b":
        stream: IO[bytes] = gzip.GzipFile(fileobj=file)  # type: ignore[assignment]
    elif begin[:3] == b"BZh":
        stream = bz2.BZ2File(file)
    elif begin == b"\xfd7zXZ\x00":
        yield from _unpack_xz(file)
        return
    else:
        stream = file
    while block := stream.read(BLOCK):
        yield block


def _unpack_xz(file: IO[bytes]) -> Iterator[bytes]:
    """As `lzma.open` does, which has no limit on memory."""
    while True:
        unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        while not unpacker.eof:
            packed = file.read(BLOCK) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                raise EOFError("it ends early")
            if block := unpacker.decompress(packed, BLOCK):
                yield block
        file.seek(-len(unpacker.unused_data), io.SEEK_CUR)
        if not (following := file.read(6)):
            return
        file.seek(-len(following), io.SEEK_CUR)
        if following != b"\xfd7zXZ\x00":
            return


# --- zip ------------------------------------------------------------------------------------------------------------


class _Bounded(io.BufferedReader):
    """A file of which not too much is read at once: `zipfile` reads the table of contents whole."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        if size > MAX_DIRECTORY:
            raise TaskFailed(f"archive: its table of contents has more than {MAX_DIRECTORY} bytes")
        return super().read(size)


def _begins_like_zip(file: IO[bytes]) -> bool:
    """Whether it is a zip from its first byte on: one may be hidden behind anything else, also in a tar."""
    file.seek(0)
    return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _read_zip(file: IO[bytes], unpacking: Unpacking) -> None:
    with zipfile.ZipFile(_Bounded(io.FileIO(file.fileno(), closefd=False))) as archive:
        members = archive.infolist()
        if not members:
            raise TaskFailed("there is nothing in it")
        _check_overlaps(archive, members)
        for member in members:
            name = member.filename
            if member.flag_bits & 0x1:
                raise TaskFailed(f"archive: {show_name(name)} is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                raise TaskFailed(f"archive: {show_name(name)} is packed in a way that is not read here")
            mode = member.external_attr >> 16
            if member.is_dir():
                unpacking.directory(name)
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise TaskFailed(f"archive: {show_name(name)} is no file, directory or link, but a device or pipe")
            with archive.open(member) as data:
                if stat.S_ISLNK(mode):
                    unpacking.link(name, data.read(_MAX_TARGET).decode(), hard=False)
                else:
                    unpacking.file(name, data.read, member.file_size, executable=bool(mode & stat.S_IXUSR))


def _check_overlaps(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> None:
    """No byte belongs to two files: otherwise a few kilobytes are as many files as one likes."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise TaskFailed(f"archive: {show_name(member.filename)} lies over another file in it; it is a bomb")
        end = member.header_offset + 30 + len(member.orig_filename.encode()) + member.compress_size
    if end > archive.start_dir:
        raise TaskFailed("archive: its table of contents lies over a file in it")
