"""What the SL's tests stand on: a record of a training, a desk, a manifest, and a network of two."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from swarmlearning.contracts.records import (
    CheckedIn,
    Manifested,
    Peer,
    PeerState,
    Phase,
    Result,
    Round,
    Settings,
    Training,
)
from swarmlearning.identity.signing import SigningKey
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.chunks import CHUNK_BYTES, Buffer, Commitment, commit
from swarmlearning.parameters.dtypes import Array
from swarmlearning.parameters.manifest import Manifest, lay_out, write_arrays
from swarmlearning.sl.chunkfile import Chunks
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.exchange import Shard
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.methods import method_of
from swarmlearning.sl.store import ResultStore
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address, Call, Caller, Client, Frame, Stream
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import ContractName, Endpoint, NodeId, NodeName, Role, TrustDomain

T = TypeVar("T")

CONTRACT = ContractName("heart")
SETTINGS = Settings(sync_frequency=1, start="merge", grace_ms=5_000, lease_ms=1_000, round_max_ms=60_000)
FIVE_CHUNKS = 4 * 16384 + 100
SECRET = bytes(range(32))


def name(index: int, role: Role = Role.SL) -> NodeName:
    return NodeName(domain=TrustDomain(f"org{index}.example"), network="testnet", role=role, name=role.value)


def node(index: int) -> NodeId:
    return name(index).id


def address(index: int) -> Address:
    return Address(node=node(index), endpoint=Endpoint(host=f"org{index}", port=30305))


def peer(index: int, state: PeerState = PeerState.LIVE) -> Peer:
    return Peer(
        node=node(index),
        endpoint=address(index).endpoint,
        state=state,
        min_peers=2,
        weight=1,
        restored=False,
        enrolled_round=0,
    )


def checked_in(index: int, commitment: bytes = b"", mode: Any = "active") -> CheckedIn:
    promised = commitment or bytes([index + 1]) * 32
    empty = mode == "inactive"
    return CheckedIn(
        node=node(index),
        commitment=b"" if empty else promised,
        weight=0 if empty else 1,
        mode=mode,
        finished=False,
        at_ms=0,
    )


def training(
    *,
    peers: Sequence[Peer] = (peer(0), peer(1), peer(2)),
    phase: Phase = Phase.COLLECTING,
    round_: Round | None = None,
    last: Result | None = None,
    settings: Settings = SETTINGS,
    size: int = 64,
    **changes: Any,
) -> Training:
    """A record; by default its first round collects."""
    if round_ is None and phase is Phase.COLLECTING:
        round_ = Round(number=0 if last is None else last.round + 1, attempt=0, opened_ms=0, quorum_ms=None)
    return replace(
        Training(
            name=CONTRACT,
            creator=TrustDomain("org0.example"),
            created_height=1,
            phase=phase,
            settings=settings,
            manifest=Manifested(hash=bytes(32), size=size),
            peers=tuple(peers),
            round=round_,
            last=last,
            version=1,
        ),
        **changes,
    )


def merging(*, number: int = 0, attempt: int = 1, peers: int = 3, shards: int = 1, **changes: Any) -> Round:
    """A merging round of the first `peers`, shard s led by peer s."""
    nodes = tuple(node(index) for index in range(peers))
    round_ = Round(
        number=number,
        attempt=attempt,
        opened_ms=0,
        quorum_ms=None,
        checkins=tuple(checked_in(index) for index in range(peers)),
        merging=True,
        participants=nodes,
        contributors=nodes,
        shards=shards,
        leaders=nodes[:shards],
        witnesses=((),) * shards,
        merged=(b"",) * shards,
    )
    return replace(round_, **changes)


def result(
    round_: int = 0, sha256: bytes = b"s" * 32, roots: tuple[bytes, ...] = (b"r" * 32,), **changes: Any
) -> Result:
    nodes = (node(0), node(1), node(2))
    made = Result(
        round=round_,
        roots=roots,
        result_root=b"R" * 32,
        sha256=sha256,
        holders=nodes[:2],
        participants=nodes,
        contributors=nodes,
        dropped=(),
        attempts=1,
        height=9,
        time_ms=0,
    )
    return replace(made, **changes)


def model(size: int = FIVE_CHUNKS, fill: float = 1.0) -> tuple[Manifest, memoryview]:
    """A manifest and a canonical buffer of one float32 tensor."""
    arrays: dict[str, Array] = {"kernel": np.arange(size, dtype=np.float32) + np.float32(fill)}
    manifest = lay_out(arrays)
    buffer = memoryview(bytearray(manifest.size))
    write_arrays(manifest, arrays, buffer)
    return manifest, buffer


def committed(buffer: memoryview) -> Commitment:
    return commit(buffer, SECRET)


async def run_here(function: Callable[..., T], *args: Any) -> T:
    """Does at once what a node does in a thread."""
    return function(*args)


class Handlers:
    """A service."""

    def __init__(self, calls: dict[str, Call] | None = None, streams: dict[str, Stream] | None = None) -> None:
        self.calls = calls or {}
        self.streams = streams or {}


def serves(frames: Sequence[bytes]) -> Stream:
    """A stream that serves these frames to anybody."""

    async def stream(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        for frame in frames:
            yield frame
            await asyncio.sleep(0)

    return stream


def desk_of(index: int, tmp: Path, network: MemoryNetwork, manifest: Manifest, record: Training | None = None) -> Desk:
    """The desk of peer `index`, in run 1."""
    tmp.mkdir(exist_ok=True)
    client: Client = network.client(name(index))
    sn = SnClient(client, Address(node=name(index, Role.SN).id, endpoint=Endpoint(host=f"org{index}", port=30304)))
    desk = Desk(
        node=node(index),
        contract=CONTRACT,
        manifest=manifest,
        method=method_of(record.settings) if record is not None and record.settings is not None else Mean(),
        client=client,
        submitter=Submitter(sn, "testnet", SigningKey.create()),
        store=ResultStore(tmp, node(index), sync=False),
        journals=Journals(tmp, sync=False),
        scratch_dir=tmp,
        run_blocking=run_here,
        random_bytes=lambda count: SECRET[:count],
    )
    desk.run = 1
    desk.training = record
    return desk


class Kept:
    """Puts chunks where they belong in a canonical buffer."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer

    def write(self, index: int, chunk: Buffer) -> None:
        self.buffer[index * CHUNK_BYTES : index * CHUNK_BYTES + len(chunk)] = chunk


def read_all(chunks: Chunks, shard: Shard) -> bytes:
    """The chunks of a shard, one behind the other."""
    source = chunks.source()
    return b"".join(bytes(source(index)) for index in shard.indices)


async def collect(stream: AsyncIterator[Any]) -> list[bytes]:
    """All frames of a stream."""
    async with contextlib.aclosing(stream) as frames:  # type: ignore[type-var]  # handlers are generators
        return [bytes(frame) async for frame in frames]
