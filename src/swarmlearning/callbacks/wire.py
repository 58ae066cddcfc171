"""The program's end of the control socket: frames out and in, blocking. Spec: docs/spec/control.md (C-1 to C-6).

Knows nothing of what the messages mean; `session` does.
"""

import contextlib
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Closed, ConfigurationError, DecodeError, Unreachable, VerificationError, WaitExpired
from swarmlearning.sl.control import MAX_CONTROL_BYTES, Reply, Request

SILENCE_S: Final = 60.0
"""After this long without a frame the user is told that the SL is silent, seconds."""

_RETRY_S: Final = 0.1
_LENGTH: Final = struct.Struct(">I")
_UCRED: Final = struct.Struct("3i")


class ControlChannel:
    """A connection to the SL that carries one training.

    Made by `connect`; after any error it is closed, as the two sides may no longer agree on what comes next.
    """

    def __init__(self, connection: socket.socket, path: Path) -> None:
        self._connection: socket.socket | None = connection
        self._path = path
        self.lost = False
        """The SL has closed its end, or died."""
        connection.settimeout(SILENCE_S)

    @classmethod
    def connect(cls, path: Path, *, wait_s: float, waiting: Callable[[str], None]) -> Self:
        """Connect to the SL's socket; while nobody listens there, try again for `wait_s` seconds.

        Raises:
            ConfigurationError: the path cannot be a socket's, or may not be used by this user.
            Unreachable: nobody listens there within the time.
            VerificationError: another user than this one or root listens there.
        """
        deadline = time.monotonic() + wait_s
        while True:
            connection = try_connect(path)
            if connection is not None:
                break
            if time.monotonic() >= deadline:
                raise Unreachable(
                    f"no SL listens at {path} (waited {wait_s:.0f} s): start `swarm sl` with this control directory, "
                    "or correct SWARM_SL"
                )
            waiting(f"for an SL to listen at {path}")
            time.sleep(_RETRY_S)
        try:
            _check_peer(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path)

    def send(self, request: Request) -> None:
        """Send one request.

        Raises:
            Unreachable: the SL has closed the connection.
            ConfigurationError: the request is larger than a frame may be.
            Closed: used after `close`.
        """
        body = encode(request)
        if len(body) > MAX_CONTROL_BYTES:
            raise ConfigurationError(
                f"the description of this model takes {len(body)} bytes, at most {MAX_CONTROL_BYTES} are accepted: "
                "it has too many tensors"
            )
        connection = self._require()
        connection.settimeout(None)  # a frame is small and the SL always reads; a dead one resets the connection
        try:
            connection.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            self.close()
            raise self._gone() from error
        connection.settimeout(SILENCE_S)

    def receive(self, silent: Callable[[str], None], silence_max_s: float = math.inf) -> Reply:
        """Wait for one reply; `silent` is called with a text for the user after each `SILENCE_S` without a byte.

        Raises:
            Unreachable: the SL closed the connection (`lost`).
            WaitExpired: not a byte came for `silence_max_s`: the SL is there, but stopped.
            DecodeError: what came is not a reply.
            Closed: used after `close`.
        """
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, silent, silence_max_s))
            if not 0 < length <= MAX_CONTROL_BYTES:
                raise DecodeError(
                    f"the SL at {self._path} sent a frame of {length} bytes, expected 1-{MAX_CONTROL_BYTES}: "
                    "is it a swarm SL of this release?"
                )
            reply: Reply = decode(self._read(length, silent, silence_max_s), Reply, limit=MAX_CONTROL_BYTES)  # type: ignore[arg-type]  # a union is not a `type`, msgspec takes it
        except BaseException:
            # Also on Ctrl-C: half a frame may have been read.
            self.close()
            raise
        return reply

    def close(self) -> None:
        """Close the connection; again is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _require(self) -> socket.socket:
        if self._connection is None:
            raise Closed("the connection to the SL is closed: make a new session")
        return self._connection

    def _read(self, count: int, silent: Callable[[str], None], silence_max_s: float) -> bytearray:
        connection = self._require()
        data = bytearray()
        since = time.monotonic()
        while len(data) < count:
            try:
                # By pieces: a length alone must not make us allocate.
                part = connection.recv(min(count - len(data), 1 << 16))
            except TimeoutError as error:
                silence_s = time.monotonic() - since
                if silence_s >= silence_max_s:
                    raise WaitExpired(
                        f"the SL at {self._path} runs but has said nothing for {silence_s:.0f} s (SWARM_MAX_WAIT): see "
                        "what holds it up and start it again, then this program"
                    ) from error
                silent(f"the SL at {self._path} has said nothing for {silence_s:.0f} s")
                continue
            except OSError as error:
                raise self._gone() from error
            if not part:
                raise self._gone()
            data += part
        return data

    def _gone(self) -> Unreachable:
        self.lost = True
        return Unreachable(
            f"the SL at {self._path} closed the connection: its log says why; start it again, then this program "
            "(it joins with the newest swarm model)"
        )


def try_connect(path: Path) -> socket.socket | None:
    """A connection to the socket at `path`, or None if nobody listens there (yet).

    Raises:
        ConfigurationError: the path cannot be a socket's, or may not be used by this user.
    """
    if len(os.fsencode(path)) > 103:  # macOS's limit; Linux allows 107
        raise ConfigurationError(f"socket path {path} is longer than 103 bytes: choose a shorter control directory")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise ConfigurationError(
            f"cannot use the SL's socket {path} ({error.strerror}): SWARM_SL names the control directory of an SL "
            "that runs as the same user"
        ) from error
    return connection


def _check_peer(connection: socket.socket, path: Path) -> None:
    """C-2: parameters go to our own user's SL or root's only."""
    if sys.platform == "linux":
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(raw)
    else:
        # Best effort where the kernel's answer has another shape: the owner of the socket file.
        with contextlib.suppress(OSError):
            uid = path.stat().st_uid
    if uid not in (os.geteuid(), 0):
        raise VerificationError(
            f"the process that listens at {path} runs as user {uid}, expected {os.geteuid()} (this program's) or root: "
            "do not go on until you know what it is"
        )
