"""A process that takes part in a round with a model of some size, and says how much memory that took.

Usage: python memory_world.py DIRECTORY MIB CONTRIBUTORS. It offers, leads, serves, stores, and catches up with a result
of others; the others' parameters come from a file and take no memory. Prints the bytes that its peak of resident
memory, mapped files included, lies above what it needed before.
"""

import asyncio
import mmap
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from sl_world import CONTRACT, Handlers, address, checked_in, desk_of, merging, name, node, peer, result, training

from swarmlearning.contracts.messages import AnyMessage
from swarmlearning.contracts.records import Phase
from swarmlearning.encoding import decode
from swarmlearning.parameters.chunks import CHUNK_BYTES, chunk_count, commit, salt
from swarmlearning.parameters.manifest import lay_out
from swarmlearning.sl.chunkfile import ChunkFile
from swarmlearning.sl.desk import Offer
from swarmlearning.sl.exchange import STREAM_CHUNKS, STREAM_RESULT, ChunkRequest, ResultRequest, Shard, send_frames
from swarmlearning.sl.fetching import catch_up, store_and_say
from swarmlearning.sl.merging import merge_and_commit
from swarmlearning.sl.node import to_thread
from swarmlearning.sl.offering import promise
from swarmlearning.sl.plan import MergeShard, StoreResult
from swarmlearning.sl.results import leaves_of
from swarmlearning.transport.api import Caller, Frame
from swarmlearning.transport.memory import MemoryNetwork


def memory(what: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))


class Told:
    """Takes what is said to the ledger."""

    def __init__(self) -> None:
        self.told: list[AnyMessage] = []

    async def require(self, message: AnyMessage) -> None:
        self.told.append(message)


async def take_part(directory: Path, mebibytes: int, contributors: int) -> int:
    path = directory / "model"
    elements = mebibytes << 18
    np.arange(elements, dtype=np.float32).tofile(path)
    manifest = lay_out({"w": np.broadcast_to(np.float32(0), (elements,))})
    descriptor = os.open(path, os.O_RDONLY)
    own = memoryview(mmap.mmap(descriptor, manifest.size, access=mmap.ACCESS_READ))
    chunks = ChunkFile(descriptor, manifest.size, range(chunk_count(manifest.size)))
    shard = Shard(size=manifest.size, shards=1, shard=0)
    before = memory("VmRSS")

    network, told = MemoryNetwork(), Told()
    desk = desk_of(0, directory / "sl", network, manifest)
    desk.submitter = told  # type: ignore[assignment]  # all that the steps need of it
    desk.run_blocking = to_thread
    desk.offer = await promise(desk, own)
    leaves = leaves_of(own)
    checkins = [checked_in(0, desk.offer.commitment.root)]
    for index in range(1, contributors):
        secret = bytes([index]) * 32
        offer = Offer(own[:0], commit(own, secret), secret)
        checkins.append(checked_in(index, offer.commitment.root))

        async def serve(caller: Caller, body: bytes, offer: Offer = offer) -> AsyncIterator[Frame]:
            start = decode(body, ChunkRequest).start
            for frame in send_frames(shard, offer.commitment.leaves, chunks, start, lambda i: salt(offer.secret, i)):
                yield frame

        async def serve_result(caller: Caller, body: bytes) -> AsyncIterator[Frame]:
            for frame in send_frames(shard, leaves, chunks, decode(body, ResultRequest).start, None):
                yield frame

        streams: Any = {STREAM_CHUNKS: serve, STREAM_RESULT: serve_result}
        network.serve(name(index), address(index).endpoint, Handlers(streams=streams))
    round_ = merging(peers=contributors, checkins=tuple(checkins))
    peers = [peer(index) for index in range(contributors)]
    record = training(phase=Phase.MERGING, round_=round_, peers=peers, size=manifest.size)
    desk.training = record
    await merge_and_commit(desk, MergeShard(round=0, shard=0, contributors=round_.contributors))
    merged = desk.merged[0, 0]
    for frame in send_frames(shard, desk.offer.commitment.leaves, desk.offer.chunks, 0, lambda _: bytes(16)):
        assert frame
    for frame in send_frames(shard, merged.leaves, merged.chunks, 0, None):
        assert frame
    desk.training = replace(record, round=replace(round_, merged=(merged.root,)))
    await store_and_say(desk, StoreResult(round=0, roots=(merged.root,), attempt=1))
    stored = desk.store.get(CONTRACT, 1, 0)
    assert stored is not None
    final = result(1, stored.record.sha256, (merged.root,), holders=(node(1),), participants=(node(1),))
    desk.merged.clear()
    again = await catch_up(desk, final)
    for frame in send_frames(shard, again.leaves(0), again.chunks, 0, None):
        assert frame
    assert [type(message).__name__ for message in told.told] == ["MergeCommit", "Stored"]
    assert bytes(again.chunks.source()(1)) == bytes(own[CHUNK_BYTES : 2 * CHUNK_BYTES])
    return memory("VmHWM") - before


if __name__ == "__main__":
    where, size, count = sys.argv[1:]
    print(asyncio.run(take_part(Path(where), int(size), int(count))))
