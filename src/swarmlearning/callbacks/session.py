"""`SwarmSession`: one program's part in one training, framework-neutral and blocking. Spec: docs/spec/control.md.

Arrays in, merged arrays out; the SL does the rest. No asyncio and no threads, so that it fits into any training loop.
Does not know frameworks (`tf`, `pyt`), nor when to sync (`loop`, `schedule`).
"""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn, Self

import msgspec

from swarmlearning.callbacks.exchange import Arrays, ExchangeFile, read_result
from swarmlearning.callbacks.launch import Door, Loopback, find_door, open_door
from swarmlearning.callbacks.logs import WaitLog, default_logger, show_errors_plainly
from swarmlearning.callbacks.stats import AgreedStats, Category, Columns, Number, parse_columns
from swarmlearning.callbacks.wire import ControlChannel
from swarmlearning.contracts.records import Progress, Settings
from swarmlearning.encoding import encode
from swarmlearning.errors import (
    Broken,
    Closed,
    NonFinite,
    Refused,
    Unreachable,
    WaitExpired,
)
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, lay_out
from swarmlearning.sl.control import (
    CONTROL_VERSION,
    FAILURES,
    Failed,
    Finish,
    Leave,
    Open,
    Opened,
    Over,
    Reply,
    Request,
    Sync,
    Synced,
    Waiting,
)
from swarmlearning.types import DEFAULT_CONTRACT, ContractName, NodeId, check_contract_name

_VOID_ROUNDS: Final = 3
"""Void rounds after which agreeing on statistics gives up."""


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a program brings to a training."""

    settings: Settings = Settings(sync_frequency=1)
    min_peers: int
    contract: ContractName = DEFAULT_CONTRACT
    weight: int = 1
    restored: bool = False
    """It starts from a private checkpoint, so that round 0 does not draw its parameters."""
    program: str = ""
    """For people; by default the script's name."""
    connect_wait_s: float = 60.0
    """How long to wait for the SL to listen."""


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a round brought."""

    arrays: dict[str, Array] | None
    """The merged parameters; None if the round was void and the program keeps its own."""
    round: int
    sha256: str
    """Of the canonical buffer, hex; empty if void or in loopback."""
    contributors: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    next_interval: int
    """Batches until the next `sync`; 0 if the training is over."""
    over: bool
    """All peers have finished: these are the final parameters."""
    bytes_received: int = 0
    bytes_sent: int = 0


class FinalResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a training ended with."""

    arrays: dict[str, Array] | None
    """The final swarm model; None if no round ever became final."""
    sha256: str
    """Of the canonical buffer, hex; empty if there is none or in loopback."""
    round: int


class SwarmSession:
    """One training, from `open` to `finish` or `leave`; a context manager that closes itself.

    After any error it is closed. With `SWARM_LOOPBACK=TRUE` every call is checked and hands back what it was given.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        environ: Mapping[str, str] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Check the configuration; nothing is connected yet.

        Args:
            config: what this program brings.
            environ: where `SWARM_SL` and the like stand; by default the process's environment.
            logger: by default the logger `SwarmCallback`.

        Raises:
            ConfigurationError: the environment names no SL and no way to start one.
            InvalidName: the contract's name is malformed.
        """
        show_errors_plainly()
        check_contract_name(config.contract)
        self.config = config
        self.node = NodeId("")
        self.peers: tuple[NodeId, ...] = ()
        self._environ = dict(os.environ if environ is None else environ)
        self._door: Door = find_door(self._environ)
        self._logger = logger or default_logger()
        self._waits = WaitLog(self._logger)
        self._channel: ControlChannel | None = None
        self._file: ExchangeFile | None = None
        self._exchange = Path()
        self._manifest: Manifest | None = None
        self._round = 0
        self._final: FinalResult | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether `SWARM_LOOPBACK` bypasses the swarm."""
        return isinstance(self._door, Loopback)

    def open(self, arrays: Arrays) -> dict[str, Array] | None:
        """Enrol with the model's parameters; blocks until enrolled.

        Returns:
            The newest swarm model if this program is late, to be loaded before training; else None.

        Raises:
            ConfigurationError: settings, model or directories do not fit (`SettingsMismatch`, `ModelMismatch`).
            Unreachable: no SL listens, or it went away.
            PeerError: the swarm refuses this peer, or what came is not what was agreed.
        """
        if self._manifest is not None:
            raise Closed("this session has been opened before: make a new one for another training")
        manifest = self._manifest = lay_out(arrays)
        if isinstance(self._door, Loopback):
            return None
        try:
            door = open_door(self._door, self._environ, self._waits.show)
            self._exchange = door.exchange
            self._channel = ControlChannel.connect(
                door.socket, wait_s=self.config.connect_wait_s, waiting=self._waits.show
            )
            self._file = ExchangeFile(door.exchange, manifest)
            self._write(arrays)
            opened = self._ask(self._open_request(manifest, self._file.name))
            if not isinstance(opened, Opened):
                self._unexpected("Open", opened)
            self.node, self.peers, self._round = opened.node, opened.peers, opened.round
            return read_result(self._exchange, opened.file, manifest, None) if opened.file else None
        except BaseException:
            self.close()
            raise

    def sync(self, arrays: Arrays, progress: Progress | None = None) -> SyncResult:
        """Offer parameters in the next round; blocks until it is final.

        Raises:
            NonFinite: the parameters hold NaN or infinity; the round goes on without this peer.
            ModelMismatch: the arrays are not those of `open`.
            Unreachable: the SL went away, or a wait reached its limit (`WaitExpired`).
            PeerError: the swarm refuses this peer, or what came is not what was agreed.
        """
        manifest = self._require_open()
        if self.is_loopback:
            interval = self.config.settings.sync_frequency
            return SyncResult(
                arrays=dict(arrays),
                round=0,
                sha256="",
                contributors=(),
                participants=(),
                next_interval=interval,
                over=False,
            )
        try:
            self._write(arrays)
            reply = self._ask(Sync(progress=progress or Progress()))
            if isinstance(reply, Over):
                final = self._keep_final(reply, manifest)
                return SyncResult(
                    arrays=final.arrays,
                    round=final.round,
                    sha256=final.sha256,
                    contributors=reply.contributors,
                    participants=(),
                    next_interval=0,
                    over=True,
                )
            if not isinstance(reply, Synced):
                self._unexpected("Sync", reply)
            if reply.next_interval < 1:
                raise Broken(f"the SL asks for a sync every {reply.next_interval} batches, expected at least 1")
            self._round = reply.round + 1
            return SyncResult(
                arrays=read_result(self._exchange, reply.file, manifest, reply.sha256) if reply.file else None,
                round=reply.round,
                sha256=reply.sha256.hex() if reply.file else "",
                contributors=reply.contributors,
                participants=reply.participants,
                next_interval=reply.next_interval,
                over=False,
                bytes_received=reply.bytes_received,
                bytes_sent=reply.bytes_sent,
            )
        except BaseException:
            self.close()
            raise

    def finish(self, arrays: Arrays, progress: Progress | None = None) -> FinalResult:
        """Say that training is over here and wait until all peers have finished.

        Raises:
            NonFinite: the parameters hold NaN or infinity.
            ModelMismatch: the arrays are not those of `open`.
            Unreachable: the SL went away, or a wait reached its limit (`WaitExpired`).
            PeerError: the swarm refuses this peer, or what came is not what was agreed.
        """
        if self._final is not None:  # C-15: a sync has told us already
            return self._final
        manifest = self._require_open()
        if self.is_loopback:
            self._final = FinalResult(arrays=dict(arrays), sha256="", round=0)
            return self._final
        try:
            self._write(arrays)
            over = self._ask(Finish(progress=progress or Progress()))
            if not isinstance(over, Over):
                self._unexpected("Finish", over)
            return self._keep_final(over, manifest)
        finally:
            self.close()

    def leave(self, reason: str) -> None:
        """Give up this training politely and close.

        Raises:
            Unreachable: the SL went away.
            Refused: the swarm refuses.
        """
        self._require_open()
        try:
            if not self.is_loopback:
                over = self._ask(Leave(reason=reason))
                if not isinstance(over, Over):
                    self._unexpected("Leave", over)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection and delete this program's parameter file; again is harmless."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def agree_stats(
        self, numeric: Mapping[str, Number], categories: Mapping[str, Category] | None = None
    ) -> AgreedStats:
        """Agree on statistics over all sites' rows; blocks until all peers of the contract have called it.

        Uses a training contract of its own, `<contract>/stats`, and may be called before `open`. Only sums and counts
        leave the site (see `stats`).

        Args:
            numeric: for each number column its values; NaN is missing.
            categories: for each category column its values (None or "" is missing) and the vocabulary, the same at
                every site.

        Raises:
            ConfigurationError: a column is not fit, or sites have different columns or vocabularies.
            Unreachable: the SL went away, or sites were lost between the two rounds.
            PeerError: the swarm refuses this peer.
        """
        columns = parse_columns(numeric, categories or {})
        config = msgspec.structs.replace(
            self.config,
            contract=check_contract_name(f"{self.config.contract}/stats"),
            settings=Settings(sync_frequency=1, merge_method="mean", checkin_mode="inactive", start="merge"),
            weight=1,
            restored=False,
        )
        with SwarmSession(config, environ=self._environ, logger=self._logger) as session:
            return session._run_stats(columns)

    def _run_stats(self, columns: Columns) -> AgreedStats:
        if self.open(columns.first()) is not None:
            raise Refused(
                f"the sites of contract {self.config.contract} have begun to agree on statistics without this one: "
                "start all sites again in a new run of the contract"
            )
        first, one = self._merge_sums(columns.first())
        second, two = self._merge_sums(columns.second(columns.means(first)))
        if one != two:
            raise Unreachable(
                f"statistics: {len(one)} sites took part in the first round and {len(two)} in the second: start all "
                "sites again in a new run of the contract"
            )
        self.finish(second)
        return columns.agreed(first, second, max(1, len(one)))

    def _merge_sums(self, tensors: Arrays) -> tuple[dict[str, Array], tuple[NodeId, ...]]:
        for _ in range(_VOID_ROUNDS):
            result = self.sync(tensors)
            if result.over:
                raise Refused(
                    f"the training of contract {self.config.contract} is over before this site took part: start all "
                    "sites again in a new run of the contract"
                )
            if result.arrays is not None:
                return result.arrays, result.contributors
        raise WaitExpired(
            f"statistics: {_VOID_ROUNDS} rounds of {self.config.contract} closed without two sites in them"
        )

    # --- the conversation -----------------------------------------------------------------------------------------

    def _open_request(self, manifest: Manifest, file: str) -> Open:
        script = Path(sys.argv[0]).name if sys.argv else ""
        return Open(
            version=CONTROL_VERSION,
            program=(self.config.program or script or "python")[:200],
            contract=self.config.contract,
            settings=self.config.settings,
            min_peers=self.config.min_peers,
            weight=self.config.weight,
            restored=self.config.restored,
            manifest=encode(manifest),
            file=file,
        )

    def _require_open(self) -> Manifest:
        if self._manifest is None:
            raise Closed("this session is not open yet: call open() first")
        if self._channel is None and not self.is_loopback:
            raise Closed("this session is closed: make a new one")
        return self._manifest

    def _write(self, arrays: Arrays) -> None:
        if self._file is None:
            raise Closed("this session is closed: make a new one")
        bad = self._file.write(arrays)
        if bad is not None:
            who = self.node or "this program"
            raise NonFinite(
                f"{who}: tensor {bad!r} holds NaN or infinity before round {self._round}, so nothing was offered and "
                "the round goes on without this peer: check the data and the learning rate, then start again"
            )

    def _ask(self, request: Request) -> Reply:
        channel = self._channel
        if channel is None:
            raise Closed("this session is closed: make a new one")
        channel.send(request)
        while isinstance(reply := channel.receive(self._waits.show), Waiting):
            self._waits.show(reply.text)
        if isinstance(reply, Failed):
            raise FAILURES[reply.kind](reply.message)
        return reply

    def _keep_final(self, over: Over, manifest: Manifest) -> FinalResult:
        arrays = read_result(self._exchange, over.file, manifest, over.sha256) if over.file else None
        self._final = FinalResult(arrays=arrays, sha256=over.sha256.hex() if over.file else "", round=over.round)
        return self._final

    def _unexpected(self, request: str, reply: Reply) -> NoReturn:
        raise Broken(
            f"the SL answered {request} with {type(reply).__name__}, which does not answer it: is the SL of the same "
            "release as this program?"
        )
