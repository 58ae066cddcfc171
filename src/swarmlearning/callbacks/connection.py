"""The way to the SL, across its restarts. Spec: docs/spec/control.md (C-6, C-8, C-12, C-17).

An SL may die and come back while the program trains or waits for it. That shows when the program next asks or is still
waiting: then it waits for the SL to listen again, or starts it again where it had started it, opens again with what it
has of the swarm, and asks once more. A `Failed` is an answer, not a loss, and is never asked again.

Does not know what a training is (`session`), nor frames (`wire`).
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from swarmlearning.callbacks.exchange import Arrays, ExchangeFile, read_result
from swarmlearning.callbacks.launch import Attach, Launch, open_door
from swarmlearning.callbacks.logs import WaitLog
from swarmlearning.callbacks.wire import ControlChannel
from swarmlearning.errors import Broken, Closed, Refused, Unreachable, WaitExpired
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.control import FAILURES, Failed, Open, Opened, Reply, Request, Waiting

STEADY_S: Final = 60.0
"""An SL that was there for so long before it went away again was back in between: the wait begins anew, seconds."""

KNOCK_S: Final = 0.5
"""How often it is looked whether an SL listens again, seconds."""

CALM_S: Final = 5.0
"""Pause after an SL that was there has failed again, or could not be started, seconds."""


class _LostError(Exception):
    """The SL is not there: it has gone, or has not come back yet."""

    def __init__(self, text: str, pause_s: float) -> None:
        super().__init__(text)
        self.pause_s = pause_s


class Connection:
    """One training's connection to the SL and the file for this program's parameters."""

    def __init__(
        self,
        door: Attach | Launch,
        environ: Mapping[str, str],
        logger: logging.Logger,
        *,
        wait_max_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember where the SL is; nothing is connected yet.

        Args:
            door: where this program meets its SL.
            environ: of an SL that is to be started.
            logger: for the user.
            wait_max_s: an SL that was lost is waited for so long, seconds.
            clock: monotonic seconds.
            sleep: waits so many seconds.
        """
        self._door = door
        self._environ = environ
        self._logger = logger
        self._waits = WaitLog(logger)
        self._wait_max_s = wait_max_s
        self._clock = clock
        self._sleep = sleep
        self._request: Open | None = None
        self._manifest: Manifest | None = None
        self._at = Attach(socket=Path(), exchange=Path())
        self._channel: ControlChannel | None = None
        self._file: ExchangeFile | None = None
        self.run = 0
        """The run of the contract that this program takes part in."""
        self.adopted = -1
        """The round of the swarm model that its training started from; whoever reads a result keeps it up to date."""

    def connect(self, manifest: Manifest, wait_s: float) -> None:
        """Find the SL, and make a file for parameters.

        Args:
            manifest: of the parameters.
            wait_s: how long to wait for the SL to listen, seconds.

        Raises:
            ConfigurationError: the directories cannot be used.
            Unreachable: no SL listens in time.
            VerificationError: another user's process listens there.
        """
        self._at = open_door(self._door, self._environ, self._waits.show)
        self._channel = ControlChannel.connect(self._at.socket, wait_s=wait_s, waiting=self._waits.show)
        self._file = ExchangeFile(self._at.exchange, manifest)
        self._manifest = manifest

    def open(self, request: Open) -> Opened:
        """Take part in a training; an SL that hangs up is an error here (C-6).

        Args:
            request: without a file's name.

        Raises:
            ConfigurationError: what was asked does not fit the contract.
            Unreachable: the SL hung up.
            PeerError: the swarm refuses this peer.
        """
        self._request = request
        try:
            opened = self._introduce()
        except _LostError as error:
            raise Unreachable(str(error)) from error
        self.run, self.adopted = opened.run, opened.newest if opened.file else -1
        return opened

    def write(self, arrays: Arrays) -> str | None:
        """Put parameters where the SL sees them; the first tensor that holds NaN or infinity, if any.

        Raises:
            ModelMismatch: the arrays are not those of `open`.
            Closed: used after `close`.
        """
        if self._file is None:
            raise _closed()
        return self._file.write(arrays)

    def ask(self, request: Request, arrays: Arrays | None) -> Reply:
        """The SL's answer, however often it has to be asked (C-17).

        Args:
            request: what to ask.
            arrays: as written last, for the SL that comes back; None gives up with the SL.

        Raises:
            WaitExpired: the SL did not come back within the longest wait, or says nothing.
            Unreachable: there are no `arrays` and the SL went away.
            SwarmError: the SL's `Failed`, by its kind.
        """
        since: float | None = None
        while True:
            asked = self._clock()
            try:
                return self._exchange(request)
            except _LostError as lost:
                self._drop()
                if arrays is None:
                    raise Unreachable(str(lost)) from lost
                now = self._clock()
                if since is None or now - asked >= STEADY_S:
                    since = now
                    self._logger.warning("The SL at %s went away; training goes on when it is back", self._at.socket)
                else:
                    self._pause(lost, since)
            self._come_back(arrays, since)

    def read(self, name: str, expected: bytes | None) -> dict[str, Array]:
        """A result that the SL wrote; see `exchange.read_result`.

        Raises:
            DecodeError: it is not one.
            VerificationError: its SHA-256 is not `expected`.
            Closed: used before `open`.
        """
        if self._manifest is None:
            raise _closed()
        return read_result(self._at.exchange, name, self._manifest, expected)

    def close(self) -> None:
        """Close the connection and delete this program's parameter file; again is harmless."""
        self._drop()
        self._request = None

    # --- an SL that was lost --------------------------------------------------------------------------------------

    def _come_back(self, arrays: Arrays, since: float) -> None:
        while True:
            try:
                self._connect_again(arrays)
            except _LostError as lost:
                self._drop()
                self._pause(lost, since)
            else:
                self._logger.info("The SL at %s is back; going on", self._at.socket)
                return

    def _connect_again(self, arrays: Arrays) -> None:
        if self._manifest is None:
            raise _closed()
        try:
            self._at = open_door(self._door, self._environ, self._waits.show)
        except Unreachable as error:
            raise _LostError(str(error), CALM_S) from error
        try:
            self._channel = ControlChannel.connect(self._at.socket, wait_s=0, waiting=self._waits.show)
        except Unreachable as error:
            raise _LostError("nobody listens there", KNOCK_S) from error
        # A new one: an SL that still lives deletes the file of a connection that has ended (C-12).
        self._file = ExchangeFile(self._at.exchange, self._manifest)
        self._file.write(arrays)
        opened = self._introduce()
        if opened.run != self.run:
            raise Refused(
                f"the contract was reset to run {opened.run} while this program's SL was away; this program trained in "
                f"run {self.run}: start it again to take part in the new one"
            )

    def _pause(self, lost: _LostError, since: float) -> None:
        if self._clock() - since >= self._wait_max_s:
            raise WaitExpired(
                f"waited {self._wait_max_s:.0f} s (SWARM_MAX_WAIT) for the SL at {self._at.socket} to come back, last: "
                f"{lost}; {self._advice()}, then this program: it goes on from the newest swarm model"
            ) from lost
        self._waits.show(f"for the SL at {self._at.socket} to come back; {self._advice()} if it does not by itself")
        self._sleep(lost.pause_s)

    def _advice(self) -> str:
        if isinstance(self._door, Launch):
            return f"see {self._door.data / 'sl.log'} for what keeps it from starting"
        return f"start `swarm sl` with --control {self._at.socket.parent} again"

    # --- the conversation -----------------------------------------------------------------------------------------

    def _introduce(self) -> Opened:
        if self._request is None or self._file is None:
            raise _closed()
        reply = self._exchange(replace(self._request, file=self._file.name, run=self.run, adopted=self.adopted))
        if not isinstance(reply, Opened):
            raise unexpected("Open", reply)
        return reply

    def _exchange(self, request: Request) -> Reply:
        channel = self._channel
        if channel is None:
            raise _closed()
        try:
            channel.send(request)
            while isinstance(reply := channel.receive(self._waits.show, self._wait_max_s), Waiting):
                self._waits.show(reply.text)
        except Unreachable as error:
            if not channel.lost:
                raise
            raise _LostError(str(error), CALM_S) from error
        if isinstance(reply, Failed):
            raise FAILURES[reply.kind](reply.message)
        return reply

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._file is not None:
            self._file.close()
            self._file = None


def unexpected(request: str, reply: Reply) -> Broken:
    """C-4: the error for a reply that does not answer the request."""
    return Broken(
        f"the SL answered {request} with {type(reply).__name__}, which does not answer it: is the SL of the same "
        "release as this program?"
    )


def _closed() -> Closed:
    return Closed("this session is closed: make a new one")
