"""`SwarmSession`: one program's part in one training, framework-neutral and blocking. Spec: docs/spec/control.md.

Arrays in, merged arrays out; the SL does the rest. No asyncio and no threads, so that it fits into any training loop.
Does not know frameworks (`tf`, `pyt`), nor when to sync (`loop`, `schedule`).
"""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from swarmlearning.callbacks.agreeing import agree
from swarmlearning.callbacks.configuration import SessionConfig, check_config, check_progress
from swarmlearning.callbacks.connection import Connection, unexpected
from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.callbacks.launch import Door, Loopback, find_door
from swarmlearning.callbacks.logs import default_logger, show_errors_plainly
from swarmlearning.callbacks.results import FinalResult, SyncResult
from swarmlearning.callbacks.saved import save_directory, save_model, saved_name
from swarmlearning.callbacks.stats import AgreedStats, Category, Number, parse_columns
from swarmlearning.clock import parse_duration
from swarmlearning.contracts.records import MICRO, Progress, Settings
from swarmlearning.encoding import encode
from swarmlearning.errors import Broken, Closed, ConfigurationError, NonFinite, SwarmError
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, lay_out
from swarmlearning.sl.control import CONTROL_VERSION, Finish, Leave, Open, Over, Sync, Synced
from swarmlearning.types import NodeId, check_contract_name, short_name

MAX_WAIT: Final = "2h"
"""How long an SL that was lost is waited for, where `SWARM_MAX_WAIT` does not say it."""


class SwarmSession:
    """One training, from `open` to `finish` or `leave`; a context manager that closes itself.

    It outlives its SL: one that dies and comes back is asked again (C-17). After any error the session is closed, and
    what was trained and not merged has been saved. With `SWARM_LOOPBACK=TRUE` every call is checked and hands back what
    it was given.
    """

    is_model = True
    """Whether the arrays are a model, which is saved where it would be lost with an error."""

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
            ConfigurationError: a field has another type or range than documented, the environment names no SL and no
                way to start one, or `SWARM_MAX_WAIT` is no time.
            InvalidName: the contract's name is malformed.
        """
        show_errors_plainly()
        check_config(config)
        self.config = config
        self.node = NodeId("")
        self.peers: tuple[NodeId, ...] = ()
        self.position = Progress()
        """How far this program had come in this run, as its SL last heard of it; known after `open`."""
        self.interval = config.settings.sync_frequency
        """Batches until the next `sync`, as agreed on; known after `open`."""
        self._environ = dict(os.environ if environ is None else environ)
        self._wait_max_s = _max_wait_s(self._environ)
        self._door: Door = find_door(self._environ)
        self._logger = logger or default_logger()
        self._connection: Connection | None = None
        self._round = 0
        self._final: FinalResult | None = None
        self._opened = self._closed = False

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
        if self._opened:
            raise Closed("this session has been opened before: make a new one for another training")
        if not isinstance(arrays, Mapping):
            raise ConfigurationError(f"open: expected a dict of arrays by name, got {type(arrays).__name__}")
        manifest = lay_out(arrays)
        self._opened = True
        if isinstance(self._door, Loopback):
            return None
        self._connection = Connection(self._door, self._environ, self._logger, wait_max_s=self._wait_max_s)
        try:
            self._connection.connect(manifest, self.config.connect_wait_s)
            return self._enrol(self._write(arrays), manifest)
        except BaseException:
            self.close()
            raise

    def _enrol(self, connection: Connection, manifest: Manifest) -> dict[str, Array] | None:
        opened = connection.open(self._open_request(manifest))
        self.node, self.peers, self._round = opened.node, opened.peers, opened.round
        self.position, self.interval = opened.position, opened.interval or self.interval
        return connection.read(opened.file, None) if opened.file else None

    @property
    def run(self) -> int:
        """The run of the contract that this session takes part in; 0 before `open` and in loopback."""
        return self._connection.run if self._connection is not None else 0

    @property
    def adopted(self) -> int:
        """The round of the swarm model that training goes on from; -1 while there is none, and in loopback."""
        return self._connection.adopted if self._connection is not None else -1

    def sync(self, arrays: Arrays, progress: Progress | None = None) -> SyncResult:
        """Offer parameters in the next round; blocks until it is final.

        Raises:
            NonFinite: the parameters hold NaN or infinity; the round goes on without this peer.
            ConfigurationError: `progress` is none; `ModelMismatch`: the arrays are not those of `open`.
            Unreachable: the SL went away, or a wait reached its limit (`WaitExpired`).
            PeerError: the swarm refuses this peer, or what came is not what was agreed.
        """
        self._require_open()
        shown = check_progress(progress)
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
            return self._offer(arrays, shown)
        except SwarmError as error:
            self._rescue(arrays, error, progress)
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def _offer(self, arrays: Arrays, progress: Progress) -> SyncResult:
        connection = self._write(arrays)
        reply = connection.ask(Sync(progress=progress), arrays)
        if isinstance(reply, Over):
            final = self._keep_final(reply, connection)
            return SyncResult(
                arrays=final.arrays,
                round=final.round,
                sha256=final.sha256,
                contributors=reply.contributors,
                participants=(),
                next_interval=0,
                over=True,
                reached=reply.reached,
            )
        if not isinstance(reply, Synced):
            raise unexpected("Sync", reply)
        if reply.next_interval < 1:
            raise Broken(f"the SL asks for a sync every {reply.next_interval} batches, expected at least 1")
        merged = connection.read(reply.file, reply.sha256) if reply.file else None
        self._round = reply.round + 1
        if merged is not None:
            connection.adopted = reply.round
        return SyncResult(
            arrays=merged,
            round=reply.round,
            sha256=reply.sha256.hex() if reply.file else "",
            contributors=reply.contributors,
            participants=reply.participants,
            next_interval=reply.next_interval,
            over=False,
            bytes_received=reply.bytes_received,
            bytes_sent=reply.bytes_sent,
            contributed=reply.contributed,
            recent=reply.recent,
            mean_loss=_from_micro(reply.mean_loss_micro),
            mean_metric=_from_micro(reply.mean_metric_micro),
            timings_ms={stage: us / 1000 for stage, us in reply.timings_us},
        )

    def finish(self, arrays: Arrays, progress: Progress | None = None) -> FinalResult:
        """Say that training is over here and wait until all peers have finished.

        Raises:
            NonFinite: the parameters hold NaN or infinity.
            ConfigurationError: `progress` is none; `ModelMismatch`: the arrays are not those of `open`.
            Unreachable: the SL went away, or a wait reached its limit (`WaitExpired`).
            PeerError: the swarm refuses this peer, or what came is not what was agreed.
        """
        if self._final is not None:  # C-15: a sync has told us already
            return self._final
        self._require_open()
        shown = check_progress(progress)
        if self.is_loopback:
            self._final = FinalResult(arrays=dict(arrays), sha256="", round=0)
            return self._final
        try:
            connection = self._write(arrays)
            over = connection.ask(Finish(progress=shown), arrays)
            if not isinstance(over, Over):
                raise unexpected("Finish", over)
            return self._keep_final(over, connection)
        except SwarmError as error:
            self._rescue(arrays, error, progress)
            raise
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
            if self._connection is not None:
                over = self._connection.ask(Leave(reason=reason), None)
                if not isinstance(over, Over):
                    raise unexpected("Leave", over)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection and delete this program's parameter file; again is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._closed = True

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
            session.is_model = False  # sums of rows: not to be left on a disk
            return agree(session, config.contract, columns)

    # --- the conversation -----------------------------------------------------------------------------------------

    @property
    def _program(self) -> str:
        script = Path(sys.argv[0]).name if sys.argv else ""
        return (self.config.program or script or "python")[:200]

    def _open_request(self, manifest: Manifest) -> Open:
        return Open(
            version=CONTROL_VERSION,
            program=self._program,
            contract=self.config.contract,
            settings=self.config.settings,
            min_peers=self.config.min_peers,
            weight=self.config.weight,
            restored=self.config.restored,
            share=self.config.share,
            manifest=encode(manifest),
            file="",
        )

    def _require_open(self) -> None:
        if not self._opened:
            raise Closed("this session is not open yet: call open() first")
        if self._closed:
            raise Closed("this session is closed: make a new one")

    def _write(self, arrays: Arrays) -> Connection:
        if self._connection is None:
            raise Closed("this session is closed: make a new one")
        bad = self._connection.write(arrays)
        if bad is not None:
            who = self.node or "this program"
            raise NonFinite(
                f"{who}: tensor {bad!r} holds NaN or infinity before round {self._round}, so nothing was offered and "
                "the round goes on without this peer: check the data and the learning rate, then start again"
            )
        return self._connection

    def _rescue(self, arrays: Arrays, error: SwarmError, progress: Progress | None) -> None:
        """Save parameters that would be lost with `error`, and let its message say where; never raises.

        What has not been trained is not lost: nothing is saved before that.
        """
        trained = progress is None or progress.batch != 0
        if not self.is_model or not (trained or self.adopted >= 0):
            return
        directory = save_directory(self._environ)
        try:
            who = short_name(self.node) if self.node else self._program
            path = save_model(arrays, directory, saved_name(self.config.contract, who, self._round))
        except (OSError, ValueError, SwarmError) as failure:
            note = f"the parameters as they stood could not be saved in {directory} ({failure}); see SWARM_SAVE_DIR"
        else:
            note = f"the parameters as they stood are in {path}: numpy.load() gives them by tensor name"
        error.args = (f"{error}; {note}", *error.args[1:])

    def _keep_final(self, over: Over, connection: Connection) -> FinalResult:
        arrays = connection.read(over.file, over.sha256) if over.file else None
        digest = over.sha256.hex() if over.file else ""
        self._final = FinalResult(arrays=arrays, sha256=digest, round=over.round, reached=over.reached)
        return self._final


def _from_micro(value: int | None) -> float | None:
    return None if value is None else value / MICRO


def _max_wait_s(environ: Mapping[str, str]) -> float:
    try:
        return parse_duration(environ.get("SWARM_MAX_WAIT") or MAX_WAIT)
    except ConfigurationError as error:
        raise ConfigurationError(f"SWARM_MAX_WAIT: {error}") from error
