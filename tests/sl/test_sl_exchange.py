"""Pulling chunks from somebody who may lie. Spec: docs/spec/exchange.md."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import numpy as np
import pytest
from sl_world import FIVE_CHUNKS, SECRET, Handlers, Kept, address, committed, model, name, serves

from swarmlearning.errors import NonFinite, Unreachable, VerificationError
from swarmlearning.parameters.chunks import CHUNK_BYTES, HASH_BYTES, SALT_BYTES, merged_root, salt
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.chunkfile import BufferChunks
from swarmlearning.sl.exchange import GROUP, STREAM_CHUNKS, ChunkRequest, Pull, Shard, send_frames
from swarmlearning.sl.results import leaves_of, shard_leaves
from swarmlearning.transport.api import Address, Client
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import ContractName

REQUEST = ChunkRequest(contract=ContractName("heart"), run=1, round=0, attempt=1, shard=0, start=0)


def frames_of(buffer: memoryview, shard: Shard, start: int = 0) -> list[bytes]:
    """What an honest contributor sends."""
    leaves = committed(buffer).leaves
    return [
        bytes(f) for f in send_frames(shard, leaves, BufferChunks(buffer), start, lambda index: salt(SECRET, index))
    ]


def run_pull(pull: Pull, frames: Sequence[bytes]) -> list[int]:
    """Pull from somebody who serves these frames; the steps that were noted."""
    steps: list[int] = []

    async def go() -> None:
        network = MemoryNetwork()
        network.serve(name(1), address(1).endpoint, Handlers(streams={STREAM_CHUNKS: serves(frames)}))
        client = network.client(name(0))
        await pull.run(client, address(1), STREAM_CHUNKS, REQUEST, idle_s=1.0, step=steps.append)

    asyncio.run(go())
    return steps


def new_pull(size: int = FIVE_CHUNKS, shards: int = 1, shard: int = 0) -> tuple[Pull, Shard, memoryview, memoryview]:
    manifest, buffer = model(size)
    part = Shard(size=manifest.size, shards=shards, shard=shard)
    into = memoryview(bytearray(manifest.size))
    return Pull(manifest, part, committed(buffer).root, Kept(into), salted=True), part, buffer, into


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_all_shards_together_are_the_model(shards: int) -> None:
    together = bytearray()
    for shard in range(shards):
        pull, part, buffer, into = new_pull(shards=shards, shard=shard)
        steps = run_pull(pull, frames_of(buffer, part))
        assert pull.complete
        assert sum(steps) == sum(len(frame) for frame in frames_of(buffer, part))
        together = together or bytearray(len(buffer))
        for index in part.indices:
            at = slice(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES)
            assert into[at] == buffer[at]
            together[at] = into[at]
    assert bytes(together) == bytes(buffer)


def test_an_interrupted_pull_goes_on_where_it_was() -> None:
    """E-5: what was verified is kept; only what is missing is sent again."""
    pull, part, buffer, into = new_pull(size=16384 * (GROUP + 2))
    frames = frames_of(buffer, part)
    with pytest.raises(VerificationError, match=f"served {GROUP} of {GROUP + 2} chunks"):
        run_pull(pull, frames[:2])
    assert pull.done == GROUP
    steps = run_pull(pull, frames_of(buffer, part, start=pull.done))
    assert sum(steps) < sum(len(frame) for frame in frames) / 2
    assert bytes(into) == bytes(buffer)


def test_a_complete_pull_asks_nobody() -> None:
    pull, part, buffer, _ = new_pull()
    run_pull(pull, frames_of(buffer, part))
    assert run_pull(pull, [b"whoever asks gets this"]) == []


def test_the_transport_is_told_how_much_is_left() -> None:
    """E-11: so that little comes without a handshake."""
    asked: list[int | None] = []

    class Asked:
        async def stream(
            self, to: Address, method: str, body: bytes, *, idle_s: float, expect: int | None = None
        ) -> AsyncIterator[memoryview]:
            del to, method, body, idle_s
            asked.append(expect)
            for frame in frames_of(buffer, part, pull.done):
                yield memoryview(frame)

    pull, part, buffer, into = new_pull()
    sizes = []
    for left in (5, 1):
        pull.done = 5 - left
        sizes.append(sum(len(frame) for frame in frames_of(buffer, part, pull.done)))
        client = cast("Client", Asked())
        asyncio.run(pull.run(client, address(1), STREAM_CHUNKS, REQUEST, idle_s=1.0, step=lambda _: None))
    assert bytes(into) == bytes(buffer)
    assert asked == sizes


def change(at: int, bit: int = 1) -> Callable[[list[bytes]], list[bytes]]:
    """Flip a bit of the frame that holds the first chunks."""

    def changed(frames: list[bytes]) -> list[bytes]:
        bad = bytearray(frames[1])
        bad[at] ^= bit
        return [frames[0], bytes(bad), *frames[2:]]

    return changed


ATTACKS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "another salt": (change(0), "chunk 0 does not match its leaf"),
    "another byte of a chunk": (change(SALT_BYTES + 77), "chunk 0 does not match its leaf"),
    "another byte of a later chunk": (change(CHUNK_BYTES + 3 * SALT_BYTES), "chunk 1 does not match its leaf"),
    "chunks in another order": (
        lambda f: [f[0], f[1][CHUNK_BYTES + SALT_BYTES :] + f[1][: CHUNK_BYTES + SALT_BYTES], *f[2:]],
        "chunk 0 does not match its leaf",
    ),
    "other leaves": (lambda f: [bytes(len(f[0])), *f[1:]], "leaves do not give the commitment"),
    "no leaves": (lambda f: f[:0], "expected 160 bytes of leaves, got 0"),
    "too few leaves": (lambda f: [f[0][:-HASH_BYTES]], "bytes of leaves, got 128"),
    "too many leaves": (lambda f: [f[0] + bytes(32), *f[1:]], "bytes of leaves, got 0"),
    "too few chunks": (lambda f: f[:2], "served 4 of 5 chunks"),
    "too many chunks": (lambda f: [*f, f[1]], "more chunks than were asked for"),
    "half a chunk": (lambda f: [f[0], f[1][: SALT_BYTES + 1000]], "chunk 0 has 1000 bytes"),
    "less than a salt": (lambda f: [f[0], f[1][:5]], "chunk 0"),
    "chunks of another frame size that are right": (
        lambda f: [f[0], f[1][: CHUNK_BYTES + SALT_BYTES], f[1][CHUNK_BYTES + SALT_BYTES :], *f[2:]],
        "",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_does_not_verify_is_not_taken(attack: str) -> None:
    """E-4: verified as it comes; nothing that does not verify is written."""
    pull, part, buffer, into = new_pull()
    spoil, said = ATTACKS[attack]
    if said:
        with pytest.raises(VerificationError, match=said):
            run_pull(pull, spoil(frames_of(buffer, part)))
    else:
        run_pull(pull, spoil(frames_of(buffer, part)))
    done = pull.done * CHUNK_BYTES
    assert into[:done] == buffer[:done]
    assert not any(into[min(done, len(into)) :])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(value: float) -> None:
    manifest, buffer = model()
    view = np.frombuffer(buffer, np.float32)
    view[2 * 16384 + 5] = value
    into = memoryview(bytearray(manifest.size))
    part = Shard(size=manifest.size, shards=1, shard=0)
    pull = Pull(manifest, part, committed(buffer).root, Kept(into), salted=True)
    with pytest.raises(NonFinite, match="tensor kernel holds NaN or infinity"):
        run_pull(pull, frames_of(buffer, part))
    assert pull.done == 2  # the chunks before it were good


def test_a_server_that_falls_silent_is_given_up_after_the_limit() -> None:
    pull, part, buffer, _ = new_pull()

    async def go() -> float:
        network = MemoryNetwork()

        async def stalls(*_: object) -> object:
            yield frames_of(buffer, part)[0]
            await asyncio.sleep(3600)

        network.serve(name(1), address(1).endpoint, Handlers(streams={STREAM_CHUNKS: stalls}))  # type: ignore[dict-item]  # a stream in all that matters
        client = network.client(name(0))
        before = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match=r"no frame of exchange/chunks within 0.05 s"):
            await pull.run(client, address(1), STREAM_CHUNKS, REQUEST, idle_s=0.05, step=lambda _: None)
        return asyncio.get_running_loop().time() - before

    assert asyncio.run(go()) < 5


def merged_pull(manifest: Manifest, buffer: memoryview, shard: Shard) -> tuple[Pull, list[bytes], memoryview]:
    leaves = shard_leaves(leaves_of(buffer), shard.shards, shard.shard)
    root = merged_root(leaves, manifest.size, shard=shard.shard, shards=shard.shards)
    into = memoryview(bytearray(manifest.size))
    frames = [bytes(frame) for frame in send_frames(shard, leaves, BufferChunks(buffer), 0, None)]
    return Pull(manifest, shard, root, Kept(into), salted=False), frames, into


def test_a_merged_shard_travels_without_salts() -> None:
    manifest, buffer = model()
    part = Shard(size=manifest.size, shards=2, shard=1)
    pull, frames, into = merged_pull(manifest, buffer, part)
    run_pull(pull, frames)
    assert all(
        into[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] == buffer[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
        for i in part.indices
    )


def test_a_merged_shard_cannot_be_passed_off_as_another() -> None:
    manifest, buffer = model()
    _, frames, _ = merged_pull(manifest, buffer, Shard(size=manifest.size, shards=5, shard=0))
    pull, _, _ = merged_pull(manifest, buffer, Shard(size=manifest.size, shards=5, shard=1))
    with pytest.raises(VerificationError, match="leaves of merged shard 1"):
        run_pull(pull, frames)


def test_a_model_without_parameters_is_pulled_too() -> None:
    manifest, buffer = model(0)
    part = Shard(size=0, shards=1, shard=0)
    pull = Pull(manifest, part, committed(buffer).root, Kept(memoryview(bytearray())), salted=True)
    assert run_pull(pull, frames_of(buffer, part)) == []
