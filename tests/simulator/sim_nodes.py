"""The nodes of a simulated swarm: an SN and an SL, each with the real code on a simulated network."""

import asyncio
import contextlib
import random
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from sim_dishonest import DyingJournals, DyingStore, accuse_everybody
from sim_identity import NETWORK, certificate, node_name, proof, signing_key
from sim_loop import wall_clock

from swarmlearning.contracts.messages import RegisterNode, registration_bytes
from swarmlearning.encoding import decode
from swarmlearning.errors import Closed, PeerError, Unreachable
from swarmlearning.ledger.boundary import Event
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.ledger.embedded.crash import Crash, CrashPoint, HandoverPoint, never_crash
from swarmlearning.ledger.embedded.succession import Succession, open_succession
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.method import MergeMethod
from swarmlearning.merge.rebase import rebase_model
from swarmlearning.parameters.chunks import Commitment, commit
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, find_nonfinite
from swarmlearning.parameters.wire import apply_difference
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, MeasuredShard
from swarmlearning.sl.differences import encode_offer, file_reader
from swarmlearning.sl.exchange import STREAM_CHUNKS, STREAM_RESULT, ChunkRequest, ResultRequest
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.methods import method_of
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.results import OpenResult
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.sl.trainings import Trainings
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.client import SnClient, Submitter, sign_message
from swarmlearning.sn.service import SnService
from swarmlearning.sn.state import StateStore
from swarmlearning.transport.api import Address, Call, Caller, Client, Frame, Stream
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import DEFAULT_CONTRACT, Code, ContractName, Endpoint, NodeId, Role

T = TypeVar("T")


def sn_api(index: int) -> Address:
    """Where the SN of organisation `index` answers its own."""
    return Address(node=node_name(index, Role.SN).id, endpoint=Endpoint(host=f"org{index:02}", port=30304))


def sn_p2p(index: int) -> Address:
    """Where it answers other SNs."""
    return Address(node=node_name(index, Role.SN).id, endpoint=Endpoint(host=f"org{index:02}", port=30303))


def sl_endpoint(index: int, port: int = 30305) -> Endpoint:
    """Where the SL of organisation `index` answers other SLs."""
    return Endpoint(host=f"org{index:02}", port=port)


class _Service:
    """Handlers by name."""

    def __init__(self, calls: Mapping[str, Call], streams: Mapping[str, Stream] | None = None) -> None:
        self.calls = dict(calls)
        self.streams = dict(streams or {})


class SimSn:
    """One organisation's SN. Keeps its ledger in memory, or in `directory`, where it survives a crash."""

    def __init__(
        self,
        network: MemoryNetwork,
        index: int,
        genesis: bytes,
        rng: random.Random,
        directory: Path | None,
        on_commit: Callable[[SwarmApplication], None],
    ) -> None:
        self.index = index
        self.follows = 0
        """Index of the SN that orders, as far as its operator knows; its own: it orders."""
        self.peers: tuple[int, ...] = ()
        """Other SNs that it compares and levels with."""
        self.skew_ms = 0
        """How far its clock is ahead."""
        self.on_point: Crash = never_crash
        """Called at each numbered point of the commit path; may raise."""
        self.name = node_name(index, Role.SN)
        self._network = network
        self._genesis = genesis
        self._rng = rng
        self._directory = directory
        self._on_commit = on_commit
        self._task: asyncio.Task[None] | None = None
        self.app: SwarmApplication
        self.ledger: EmbeddedLedger

    async def start(self) -> None:
        """Start on what is on disk; everything in memory is new."""
        directory = self._directory
        if directory is not None:
            directory.mkdir(exist_ok=True)

        def on_commit(_events: tuple[Event, ...]) -> None:
            self._on_commit(self.app)

        self.app = SwarmApplication(StateStore(directory / "state.sqlite" if directory else None), on_commit)
        key = signing_key(self.name) if self.index == self.follows else None
        peers = (lambda: [sn_p2p(index) for index in self.peers]) if self.peers else None
        self.ledger = EmbeddedLedger(
            self._config(),
            self.app,
            key,
            self._network.client(self.name),
            self._clock,
            self._rng,
            peers=peers,
            crash=self._crash,
        )
        clock = self._clock
        await self.ledger.start()
        service = SnService(self.name, self.app, self.ledger, clock)
        self._network.serve(self.name, sn_p2p(self.index).endpoint, _Service(self.ledger.calls))
        self._network.serve(self.name, sn_api(self.index).endpoint, _Service(service.calls, service.streams))
        self._task = asyncio.ensure_future(self.ledger.run())

    def _config(self) -> EmbeddedConfig:
        founder = node_name(0, Role.SN)
        return EmbeddedConfig(
            network=NETWORK,
            genesis=self._genesis,
            data_dir=self._directory,
            node=self.name.id,
            sentinel=founder.id,
            sentinel_key=signing_key(founder).public,
            sentinel_address=None if self.index == self.follows else sn_p2p(self.follows),
        )

    async def register(self) -> None:
        """As `swarm sn` does: SNs that are registered vote on a handover."""
        key = signing_key(self.name)
        message = RegisterNode(
            node=self.name.id,
            certificate=certificate(self.name.id),
            proof=proof(self.name.id, registration_bytes(NETWORK, self.name.id, key.public)),
            endpoint=sn_p2p(self.index).endpoint,
        )
        nonce = random.Random(self.index).randbytes
        _, result = await self.ledger.submit(sign_message(key, NETWORK, message, 0, nonce), timeout_s=60.0)
        assert result.code is Code.OK, result.log

    @contextlib.contextmanager
    def stopped(self) -> Iterator[Succession]:
        """Its ledger, as its operator sees it while it is stopped."""
        assert self._directory is not None
        store = StateStore(self._directory / "state.sqlite")
        try:
            with open_succession(self._config(), SwarmApplication(store)) as succession:
                yield succession
        finally:
            store.close()

    def _clock(self) -> int:
        return wall_clock() + self.skew_ms

    def _crash(self, point: CrashPoint | HandoverPoint) -> None:
        self.on_point(point)

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not stopped, and its engine has not halted."""
        return self._task is not None and not self._task.done()

    def keep_copy(self) -> None:
        """Copy what is on disk, as a backup of a stopped node does."""
        assert self._directory is not None
        shutil.copytree(self._directory, self._directory.with_suffix(".copy"))

    def forget_ledger(self) -> None:
        """Move the ledger away, as an SN with void blocks asks for; keys and promises stay."""
        assert self._directory is not None
        for path in [*self._directory.glob("ledger.sqlite*"), *self._directory.glob("state.sqlite*")]:
            path.unlink()

    def restore_copy(self) -> None:
        """Put the copy in the place of what is on disk."""
        assert self._directory is not None
        shutil.rmtree(self._directory)
        shutil.copytree(self._directory.with_suffix(".copy"), self._directory)

    async def stop(self) -> None:
        """End at once."""
        self._network.stop(self.name)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.ledger.stop()
        self.app.store.close()


class Witnessed(Protocol):
    """What the simulation writes down of what SLs do."""

    models: dict[bytes, bytes]
    """Results that somebody has stored, by SHA-256."""

    rebased: dict[int, list[bytes]]
    """By peer: the newest results that what it had trained was carried over to."""

    def on_committed(self, index: int, root: bytes, buffer: bytes) -> None:
        """An SL has committed to parameters."""
        ...

    def on_write(self, who: int, write: Callable[[], None]) -> None:
        """An SL writes a file; raises if it dies of that."""
        ...

    def on_served(self, server: NodeId, caller: NodeId, request: ChunkRequest | ResultRequest) -> None:
        """A frame was served."""
        ...


class WrongMean(MergeMethod):
    """A dishonest leader's merge: everything one more than the mean."""

    name = "mean"

    def __init__(self, on_use: Callable[[], None]) -> None:
        super().__init__()
        self._honest = Mean()
        self._on_use = on_use

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        self._on_use()
        self._honest.merge_block(blocks, weights, out)
        np.add(out, 1, out=out, casting="unsafe")


class SimSl:
    """One organisation's SL: what `sl.node` wires together, without TLS, threads and the local door."""

    def __init__(self, network: MemoryNetwork, index: int, rng: random.Random, disk: Path, log: Witnessed) -> None:
        self.index = index
        self.name = node_name(index, Role.SL)
        self.port = 30305
        self.method: MergeMethod | None = None
        """Set on a dishonest node that merges by another method than agreed."""
        self.spoils_distances: Callable[[], None] | None = None
        """Set on a dishonest node that measures wrongly."""
        self.hides_nan: Callable[[], None] | None = None
        """Set on a dishonest node that does not check its own parameters."""
        self.accuses: Callable[[], None] | None = None
        """Set on a dishonest node that accuses everybody."""
        self.up = asyncio.Event()
        """Programs can connect."""
        self._network = network
        self._rng = rng
        self._disk = disk
        self._log = log
        self._accuser: asyncio.Task[None] | None = None
        self._client: Client
        self._sn: SnClient
        self._submitter: Submitter
        self.store: DyingStore
        self.journals: Journals
        self.trainings: Trainings | None = None

    @property
    def desks(self) -> dict[ContractName, Desk]:
        """Of its trainings; empty while it is down."""
        return self.trainings.desks if self.trainings is not None else {}

    @property
    def participation(self) -> Participation | None:
        """In the default contract, if there is one."""
        return self.trainings.participations.get(DEFAULT_CONTRACT) if self.trainings is not None else None

    async def start(self) -> None:
        """Open the disk, register, serve, and go on where an earlier process ended."""
        self._disk.mkdir(exist_ok=True)

        def on_write(write: Callable[[], None]) -> None:
            self._log.on_write(self.index, write)

        self.store = DyingStore(self._disk, self.name.id, on_write)
        self.journals = DyingJournals(self._disk, on_write)
        self._client = self._network.client(self.name)
        self._sn = SnClient(self._client, sn_api(self.index))
        key = signing_key(self.name)
        self._submitter = Submitter(self._sn, NETWORK, key, self._rng.randbytes)
        trainings = self.trainings = Trainings(self._make, self.journals, lambda _file: None)
        self._serve(trainings)
        message = RegisterNode(
            node=self.name.id,
            certificate=certificate(self.name.id),
            proof=proof(self.name.id, registration_bytes(NETWORK, self.name.id, key.public)),
            endpoint=self._endpoint,
        )
        while True:  # as `swarm sl` does: its SN may still be starting
            try:
                await self._submitter.require(message)
                break
            except (Unreachable, PeerError):
                await asyncio.sleep(0.5)
        if self.trainings is trainings:  # it may have been crashed meanwhile
            await trainings.resume()
            self.up.set()

    @property
    def _endpoint(self) -> Endpoint:
        return sl_endpoint(self.index, self.port)

    def _serve(self, trainings: Trainings) -> None:
        service = ExchangeService(trainings.desks)
        streams = dict(service.streams)
        for method, kind in ((STREAM_CHUNKS, ChunkRequest), (STREAM_RESULT, ResultRequest)):
            streams[method] = self._logged(streams[method], kind)
        self._network.serve(self.name, self._endpoint, _Service(service.calls, streams))

    def _logged(self, stream: Stream, kind: type[ChunkRequest] | type[ResultRequest]) -> Stream:
        async def logged(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
            frames = stream(caller, body)
            async with contextlib.aclosing(frames):  # type: ignore[type-var]  # handlers are generators
                async for frame in frames:
                    self._log.on_served(self.name.id, caller.node, decode(body, kind))
                    yield frame

        return logged

    async def _run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        if function is find_nonfinite and self.hides_nan is not None:
            self.hides_nan()
            return None  # type: ignore[return-value]  # what an honest check says of finite parameters
        result = function(*args)
        if isinstance(result, MeasuredShard) and self.spoils_distances is not None:
            self.spoils_distances()
            result.distances = struct.pack("<d", 1.0) * (len(result.distances) // 8)
        if function is commit:
            assert isinstance(result, Commitment)
            self._log.on_committed(self.index, result.root, bytes(args[0]))
        if function is encode_offer:
            assert isinstance(result, Commitment)
            # What the others make of it: the model that it is a difference from, and that.
            manifest, travels, _own, base, _before, into, *_ = args
            steps = apply_difference(manifest, travels, base, file_reader(into.descriptor))
            offered = b"".join(bytes(step) for step in steps)
            self._log.on_committed(self.index, result.root, offered)
        if function is rebase_model:
            self._log.rebased.setdefault(self.index, []).append(bytes(args[1]))
        if isinstance(result, OpenResult):
            self._log.models[result.record.sha256] = bytes(result.buffer)
        return result

    def _make(self, request: Open, manifest: Manifest, own: memoryview | None) -> Participation:
        desk = Desk(
            node=self.name.id,
            contract=request.contract,
            manifest=manifest,
            method=self.method or method_of(request.settings),
            client=self._client,
            submitter=self._submitter,
            store=self.store,
            journals=self.journals,
            scratch_dir=self._disk,
            run_blocking=self._run_blocking,
            random_bytes=self._rng.randbytes,
        )
        return Participation(desk, self._sn, request, self._endpoint, own)

    async def begin(self, request: Open, manifest: Manifest, own: memoryview) -> Participation:
        """What `sl.node` does when a program opens."""
        if self.trainings is None:
            raise Closed("this SL is down")
        participation = await self.trainings.begin(request, manifest, own)
        await self._end_accuser()
        if self.accuses is not None:
            self._accuser = asyncio.ensure_future(accuse_everybody(participation.desk, self.accuses))
        return participation

    async def _end_accuser(self) -> None:
        if self._accuser is not None:
            self._accuser.cancel()
            await asyncio.gather(self._accuser, return_exceptions=True)
            self._accuser = None

    def lose_disk(self) -> None:
        """All that was stored is gone."""
        shutil.rmtree(self._disk)

    async def stop(self) -> None:
        """End at once; only the disk stays."""
        self.up.clear()
        self._network.stop(self.name)
        await self._end_accuser()
        trainings, self.trainings = self.trainings, None
        if trainings is not None:
            await trainings.stop()
