"""Snapshots of the application's state, so that a new member need not execute every block. Implements `Snapshots`.

    DIR/<height>/manifest.msgpack, 0000.chunk, 0001.chunk, ...    one that is whole
    DIR/.<height>.<random>/                                       one that is being written
    DIR/.incoming/                                                chunks of one that is being restored

A snapshot is written by a thread, from a view of the state as it was; commits go on meanwhile.

Does not: trust anybody who offers one (the app hash comes from the engine). Spec: docs/spec/transactions.md, Snapshots.
"""

import contextlib
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken, DecodeError, VerificationError
from swarmlearning.ledger.boundary import Snapshot, Verdict
from swarmlearning.sn.snapshot_format import CHUNK_BYTES, FORMAT, MAX_BYTES, Manifest, cut, parse_entries, write_entries
from swarmlearning.sn.state import StateStore, StateView

_LOG: Final = logging.getLogger("swarmlearning.sn")

_MANIFEST: Final = "manifest.msgpack"
_INCOMING: Final = ".incoming"


class SnapshotStore:
    """The snapshots of one node.

    Args:
        store: the state.
        directory: where they are kept; made if it is missing. What was left half written in it is removed.
        every: a snapshot is written after each so many-th block.
        keep: so many of the newest stay.
        restored: called when a snapshot has taken the place of the state.
    """

    def __init__(
        self,
        store: StateStore,
        directory: Path,
        *,
        every: int = 1_000,
        keep: int = 2,
        restored: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._every = every
        self._keep = keep
        self._restored = restored
        self._writer: threading.Thread | None = None
        self._ended = threading.Event()
        self._incoming: _Incoming | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in directory.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    # --- writing ------------------------------------------------------------------------------------------------

    def after_commit(self) -> None:
        """Begin to write a snapshot, if one is due and the one before has been written; returns at once."""
        height = self._store.height
        if height < 1 or height % self._every or (self._writer is not None and self._writer.is_alive()):
            return
        try:
            view = self._store.view()
        except Broken as error:
            _LOG.warning("no snapshot of block %d: %s", height, error)
            return
        app_hash = self._store.root()
        writer = threading.Thread(target=self._write, args=(view, app_hash), name=f"snapshot {height}")
        try:
            writer.start()
        except RuntimeError as error:  # as many threads as this machine lets us have
            view.close()
            _LOG.warning("no snapshot of block %d: %s", height, error)
            return
        self._writer = writer

    def wait(self) -> None:
        """Wait until the snapshot that is being written is there; for tests and the end."""
        if self._writer is not None:
            self._writer.join()

    def close(self) -> None:
        """Give up what is being written."""
        self._ended.set()
        self.wait()

    def _write(self, view: StateView, app_hash: bytes) -> None:
        target = self._directory / f"{view.height:012d}"
        partial = self._directory / f".{target.name}.{secrets.token_hex(4)}"
        try:
            with view:
                partial.mkdir(mode=0o700)
                hashes, size = self._write_chunks(partial, cut(write_entries(view.entries())))
                manifest = Manifest(
                    format=FORMAT, height=view.height, app_hash=app_hash, size=size, chunks=tuple(hashes)
                )
                _write_file(partial / _MANIFEST, encode(manifest))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync(self._directory)
        except _EndedError:
            pass
        except (OSError, Broken) as error:
            _LOG.warning("no snapshot of block %d: %s", view.height, error)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self._heights()[self._keep :]:
            shutil.rmtree(self._directory / f"{old:012d}", ignore_errors=True)

    def _write_chunks(self, directory: Path, chunks: Iterable[bytes]) -> tuple[list[bytes], int]:
        hashes: list[bytes] = []
        size = 0
        for number, chunk in enumerate(chunks):
            if self._ended.is_set():
                raise _EndedError
            size += len(chunk)
            if size > MAX_BYTES:
                raise Broken(f"the state has more than {MAX_BYTES} bytes, the most that a snapshot holds")
            _write_file(directory / _chunk_name(number), chunk)
            hashes.append(sha256(chunk))
        _sync(directory)
        return hashes, size

    # --- giving -------------------------------------------------------------------------------------------------

    def available(self) -> Sequence[Snapshot]:
        """Those that are whole, the newest first; see `Snapshots.available`."""
        found = [(height, self._manifest(height)) for height in self._heights()]
        return [_describe(manifest) for _, manifest in found if manifest is not None]

    def newest(self, upto: int) -> int:
        """Height of the newest one that is whole, of block `upto` or before; 0 if there is none."""
        return next((height for height in self._heights() if height <= upto), 0)

    def load(self, height: int, format_: int, chunk: int) -> bytes | None:
        """A chunk as it was written; see `Snapshots.load`."""
        manifest = self._manifest(height)
        if manifest is None or format_ != FORMAT or not 0 <= chunk < len(manifest.chunks):
            return None
        path = self._directory / f"{height:012d}" / _chunk_name(chunk)
        try:
            with path.open("rb") as file:
                data = file.read(CHUNK_BYTES + 1)
        except OSError:
            return None
        if sha256(data) != manifest.chunks[chunk]:
            _LOG.warning("%s is damaged: it is not given to anybody; remove its directory", path)
            return None
        return data

    def _heights(self) -> list[int]:
        return sorted((int(path.name) for path in self._directory.iterdir() if path.name.isdecimal()), reverse=True)

    def _manifest(self, height: int) -> Manifest | None:
        try:
            return decode((self._directory / f"{height:012d}" / _MANIFEST).read_bytes(), Manifest)
        except (OSError, DecodeError):
            return None

    # --- restoring ----------------------------------------------------------------------------------------------

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> Verdict:
        """Accept a snapshot whose metadata are sound and say that it is the state of `app_hash`; see `Snapshots.offer`.

        Only a node that has executed no block restores one; or none since it restored one, if its engine died before it
        had noted that.
        """
        self._drop_incoming()
        if self._store.height > 0 and self._store.height != self._store.begun_at:
            return Verdict(answer="abort", reason=f"this node has executed {self._store.height} blocks already")
        if snapshot.format != FORMAT:
            return Verdict(
                answer="reject_format", reason=f"snapshot of format {snapshot.format}, this release knows {FORMAT}"
            )
        try:
            manifest = decode(snapshot.metadata, Manifest)
        except DecodeError as error:
            return Verdict(answer="reject", reason=f"snapshot of block {snapshot.height}: {error}")
        reason = _find_fault(snapshot, manifest, app_hash)
        if reason:
            return Verdict(answer="reject", reason=f"snapshot of block {snapshot.height}: {reason}")
        self._incoming = _Incoming(self._directory / _INCOMING, manifest)
        return Verdict(answer="accept")

    def apply(self, chunk: int, data: bytes) -> Verdict:
        """Take a chunk that is what the metadata say, and with the last one the whole state; see `Snapshots.apply`."""
        incoming = self._incoming
        if incoming is None:
            return Verdict(answer="abort", reason="a chunk came, but no snapshot has been accepted")
        if not 0 <= chunk < len(incoming.manifest.chunks):
            return Verdict(answer="reject", reason=f"chunk {chunk}: there are {len(incoming.manifest.chunks)}")
        length = incoming.manifest.length(chunk)
        if len(data) != length:
            return Verdict(answer="retry", reason=f"chunk {chunk} has {len(data)} bytes; expected {length}")
        if sha256(data) != incoming.manifest.chunks[chunk]:
            return Verdict(answer="retry", reason=f"chunk {chunk} is not the one that the snapshot's metadata name")
        try:
            incoming.add(chunk, data)
            if not incoming.is_complete:
                return Verdict(answer="accept")
            self._restore(incoming)
        except (DecodeError, VerificationError) as error:
            return Verdict(answer="reject", reason=f"snapshot of block {incoming.manifest.height}: {error}")
        except OSError as error:
            return Verdict(answer="abort", reason=f"{self._directory} cannot hold the snapshot: {error.strerror}")
        finally:
            if incoming.is_complete:
                self._drop_incoming()
        return Verdict(answer="accept")

    def _restore(self, incoming: "_Incoming") -> None:
        manifest = incoming.manifest
        self._store.replace(manifest.height, parse_entries(incoming.chunks()), manifest.app_hash)
        _LOG.info("the state after block %d was restored from a snapshot", manifest.height)
        self._restored()

    def _drop_incoming(self) -> None:
        self._incoming = None
        shutil.rmtree(self._directory / _INCOMING, ignore_errors=True)


class _EndedError(Exception):
    """The node ends: what is being written is given up."""


class _Incoming:
    """Chunks of an accepted snapshot, on disk until all are there."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._directory = directory
        self._there: set[int] = set()
        directory.mkdir(mode=0o700)

    @property
    def is_complete(self) -> bool:
        return len(self._there) == len(self.manifest.chunks)

    def add(self, chunk: int, data: bytes) -> None:
        (self._directory / _chunk_name(chunk)).write_bytes(data)
        self._there.add(chunk)

    def chunks(self) -> Iterator[bytes]:
        for chunk in range(len(self.manifest.chunks)):
            yield (self._directory / _chunk_name(chunk)).read_bytes()


def _describe(manifest: Manifest) -> Snapshot:
    data = encode(manifest)
    return Snapshot(
        height=manifest.height, format=manifest.format, chunks=len(manifest.chunks), hash=sha256(data), metadata=data
    )


def _find_fault(snapshot: Snapshot, manifest: Manifest, app_hash: bytes) -> str:
    """What speaks against a snapshot before any of it has come; empty: nothing."""
    expected = _describe(manifest)
    if snapshot != expected:
        return "its metadata are of another snapshot than it says"
    if manifest.app_hash != app_hash:
        return f"it is of state {manifest.app_hash.hex()[:16]}, validators signed {app_hash.hex()[:16]}"
    if len(manifest.chunks) != -(-manifest.size // CHUNK_BYTES):
        return f"{manifest.size} bytes in {len(manifest.chunks)} chunks; expected {CHUNK_BYTES} bytes in each"
    return ""


# --- files -----------------------------------------------------------------------------------------------------------


def _chunk_name(chunk: int) -> str:
    return f"{chunk:04d}.chunk"


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
