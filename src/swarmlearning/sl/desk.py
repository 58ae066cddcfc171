"""What the steps of a round work with: one bundle for one training on one SL."""

import asyncio
import contextlib
import logging
import mmap
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.records import Phase, Result, Training
from swarmlearning.contracts.rounds import encoded_base
from swarmlearning.errors import Unreachable
from swarmlearning.merge.method import MergeMethod
from swarmlearning.parameters.chunks import Commitment, chunk_count
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.parameters.wire import Wire, wire_manifest
from swarmlearning.sl.chunkfile import BufferChunks, ChunkFile, Chunks, scratch, scratch_descriptor
from swarmlearning.sl.differences import Residual, new_residual
from swarmlearning.sl.exchange import Pull, Shard, store_steps
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.leaving import Farewell
from swarmlearning.sl.plan import past_results
from swarmlearning.sl.results import OpenResult, Part
from swarmlearning.sl.store import ResultStore
from swarmlearning.sn.client import Submitter
from swarmlearning.transport.api import Address, Client
from swarmlearning.transport.carrying import Carrier
from swarmlearning.types import ContractName, NodeId, short_name

log = logging.getLogger("swarmlearning.sl")

T = TypeVar("T")

Stage = Literal["asked", "offered", "checked_in", "closed", "pulled", "merged", "agreed", "stored", "final"]
"""Of a sync, in this order: asked for; committed to; on the ledger; its round closed; this SL's shards pulled; merged;
all shards agreed on; the whole on disk; final."""


class RunBlocking(Protocol):
    """Runs a function that computes or waits for a disk, away from the event loop."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:  # noqa: ANN401  # forwarded as is
        """Run `function(*args)` and return its result."""
        ...


class Gate(Protocol):
    """What stands between this SL and those that ask it, in a rehearsal (see `drills`)."""

    async def hold(self, caller: NodeId) -> None:
        """Before a caller is answered."""
        ...

    async def pace(self, caller: NodeId) -> None:
        """Before a frame of parameters goes to it."""
        ...


class Offer:
    """Parameters that were committed to: what we serve to leaders and witnesses."""

    def __init__(self, buffer: memoryview, commitment: Commitment, secret: bytes) -> None:
        self.buffer = buffer
        """The parameters, where they travel in full; else empty."""
        self.chunks: Chunks = BufferChunks(buffer)
        """What was committed to."""
        self.commitment = commitment
        self.secret = secret
        self.base = b""
        """SHA-256 of the result that `chunks` are an encoded difference from; empty where parameters travel in full."""
        self.residual: Residual | None = None
        """What encoding has lost, until it is known whether the offer was merged."""
        self.sent: int | None = None
        """The round that it was last checked in to."""


class MergedShard:
    """A merged shard that can be served: our own work until the round is final, or a part of a stored result."""

    def __init__(
        self, shard: Shard, root: bytes, leaves: bytes, chunks: Chunks, made_of: tuple[bytes, ...] = ()
    ) -> None:
        self.made_of = made_of
        """What it was merged of and by (`weighing.ingredients_of`); empty for a stored result."""
        self.shard = shard
        self.root = root
        self.leaves = leaves
        """Of this shard's chunks."""
        self.chunks = chunks
        """Where they lie."""


class Fetched:
    """A result on its way to disk, and how far each of its shards is."""

    def __init__(self, manifest: Manifest, roots: tuple[bytes, ...], chunks: ChunkFile, part: Part | None) -> None:
        self.manifest = manifest
        """By which the shards' buffer is laid out."""
        self.roots = roots
        """Of the shards."""
        self.chunks = chunks
        """Takes their chunks: of the result itself, or of a difference."""
        self.part = part
        """The result's file, where the chunks are in that; None: they are of a difference."""
        self.applied = 0
        """How many steps (R-10) of applying it are done."""
        self.pulls: dict[int, Pull] = {}
        """By shard: what comes from others."""
        self.own: dict[int, int] = {}
        """By shard that we merged ourselves: how many of its chunks are there."""

    def done(self, shard: int) -> int:
        """How many chunks of a shard are there."""
        return self.pulls[shard].done if shard in self.pulls else self.own.get(shard, 0)

    @property
    def total(self) -> int:
        """How many chunks the whole has."""
        return chunk_count(self.manifest.size)

    @property
    def steps(self) -> int:
        """R-10: how far it is."""
        return self.applied + sum(pull.steps for pull in self.pulls.values())

    @property
    def ready(self) -> int:
        """How many chunks of the whole, from the first on, are there."""
        shards = len(self.roots)
        # Of a shard that is complete the next one would be beyond the end.
        return min([self.total, *(shard + self.done(shard) * shards for shard in range(shards))])


class MeasuredShard:
    """What we measured of a shard; kept until the round is final, so that it can be said again."""

    def __init__(self, shard: Shard, distances: bytes, made_of: tuple[bytes, ...]) -> None:
        self.shard = shard
        self.distances = distances
        self.made_of = made_of
        """Commitments of those who were measured."""


class Watched:
    """What is known of somebody whom a round waits for; goes on from attempt to attempt."""

    def __init__(self, now_s: float) -> None:
        self.steps = -1
        """How far it was."""
        self.moved_s = now_s
        """When it last made an advance."""
        self.answered_s = now_s
        """When it last answered."""
        self.had_more = False
        """It has had a lease more because the ledger was out."""


class Desk:
    """One training on one SL: its identity and tools, the newest record, and the round's work in hand."""

    def __init__(
        self,
        *,
        node: NodeId,
        contract: ContractName,
        manifest: Manifest,
        method: MergeMethod,
        client: Client,
        submitter: Submitter,
        store: ResultStore,
        journals: Journals,
        scratch_dir: Path,
        run_blocking: RunBlocking,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Set up an empty desk.

        Args:
            node: who we are.
            contract: the training.
            manifest: of its model.
            method: merges.
            client: asks other SLs.
            submitter: tells the ledger.
            store: results on disk.
            journals: what survives this process.
            scratch_dir: for parameters on their way.
            run_blocking: runs what computes or waits for a disk.
            random_bytes: the secrets behind commitments.
        """
        self.node = node
        self.contract = contract
        self.manifest = manifest
        self.method = method
        self.client = client
        self.carrier = Carrier()
        """Of what the ledger is told: a step is cancelled as soon as the record shows that it was heard, often before
        the answer is there."""
        self.submitter = submitter.carried(self.carrier)
        self.store = store
        if method.needs == "history":
            store.keep_past(contract)
        self.journals = journals
        self.run_blocking = run_blocking
        self.random_bytes = random_bytes
        self._scratch_dir = scratch_dir
        self.training: Training | None = None
        self.changed = asyncio.Condition()
        self.catching_up = asyncio.Lock()
        """Held by whoever fetches a final result: two at a time would take each other's chunks for wrong ones."""
        self.run = 0
        """The run that our program has enrolled in; 0 before."""
        self.offer: Offer | None = None
        """What our last check-in promised."""
        self.farewell: Farewell | None = None
        """What the last program of this training that left has said; the next one enrols once it is heard."""
        self.pulls: dict[tuple[int, Shard, bytes], tuple[Pull, ChunkFile]] = {}
        """By round, shard and commitment: what was pulled and verified is kept across attempts. By commitment and not
        by contributor, because a round that collects again gets other parameters of the same peer."""
        self.merged: dict[tuple[int, int], MergedShard] = {}
        """By round, shard."""
        self.fetched: dict[tuple[int, tuple[bytes, ...]], Fetched] = {}
        """By round, roots: merged shards on their way to disk."""
        self.differences: dict[int, tuple[MergedShard, ...]] = {}
        """By round: all merged shards of a difference that has been applied; served until the next result is final."""
        self.residual: Residual | None = None
        """R-42: what the encodings of this program's offers have lost, and no round has merged yet."""
        self._encoded: tuple[Wire, Manifest] = ("float32", manifest)
        self.merging: dict[tuple[int, int], int] = {}
        """By round, shard: how many steps of merging it are done."""
        self.measured: dict[tuple[int, int], MeasuredShard] = {}
        """By round, shard."""
        self.measuring: dict[tuple[int, int], int] = {}
        """By round, shard: how many steps of measuring it are done."""
        self.watched: dict[tuple[int, int, int, NodeId, tuple[NodeId, ...], bool], Watched] = {}
        """By round, when it closed, shard, whom that waits for, whose parameters it merges (with others the work
        begins anew), and whether they are being measured."""
        self.lease_ms: int | None = None
        """This SL's own patience, where it does not leave that to the settings."""
        self.grace_ms: int | None = None
        """How long it wants rounds to wait for the others, where it does not leave that to the settings."""
        self.leads = True
        """Whether it may be in charge of shards."""
        self.drills: Gate | None = None
        """In a rehearsal: what goes wrong on purpose."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self.stages: dict[Stage, float] = {}
        """When the sync that the program waits for came to each stage, seconds of the loop's clock."""

    def reach(self, stage: Stage) -> None:
        """The sync that the program waits for has come to `stage`, now or before."""
        self.stages.setdefault(stage, asyncio.get_running_loop().time())

    def follow(self, record: Training) -> None:
        """A newer record: of the sync that is waited for it shows that its round has closed, or is agreed on."""
        self.training = record
        self._settle_residual(record)
        if record.phase is Phase.MERGING and "offered" in self.stages and record.round is not None:
            self.reach("closed")
            if all(record.round.merged):
                self.reach("agreed")

    def _settle_residual(self, record: Training) -> None:
        """R-42: what encoding our offer has lost counts from when a final round has the offer."""
        offer, last = self.offer, record.last
        if offer is None or offer.residual is None or offer.sent is None or last is None or record.run != self.run:
            return
        if last.round < offer.sent:
            return
        if last.round > offer.sent:
            self.residual = None  # our SN was silent: the offer may have been merged, and may not count twice
        elif self.node in last.contributors:
            self.residual = offer.residual
        offer.residual = None

    def new_residual(self, travels: Manifest) -> Residual:
        """Room for what encoding an offer loses.

        Raises:
            Broken: the disk has no room.
        """
        return new_residual(self._scratch_dir, self.manifest, travels)

    @property
    def size(self) -> int:
        """Of the canonical buffer, bytes."""
        return self.manifest.size

    @property
    def travels(self) -> Manifest:
        """By which the buffers are laid out that contributors commit to, and that are pulled and merged.

        That is as long as the open round is.
        """
        return self.encoded if self.training is not None and encoded_base(self.training) else self.manifest

    @property
    def encoded(self) -> Manifest:
        """By which differences are laid out, where the settings say that they travel."""
        settings = self.record.settings
        wire = settings.wire if settings is not None else "float32"
        if self._encoded[0] != wire:
            self._encoded = wire, wire_manifest(self.manifest, wire)
        return self._encoded[1]

    @property
    def record(self) -> Training:
        """The newest record.

        Raises:
            Unreachable: none has come yet.
        """
        if self.training is None:
            raise Unreachable(f"no word from the SN about {self.contract} yet")
        return self.training

    async def wait_attempt(self, round_: int, above: int) -> None:
        """Until the record is past an attempt of a round, or past the round; a lease at most."""

        def is_past() -> bool:
            now = self.record.round
            return now is None or (now.number, now.attempt) > (round_, above)

        with contextlib.suppress(TimeoutError):
            # Not `wait_for`: in Python 3.11 that may lose the cancellation of a step that nobody wants any more.
            async with asyncio.timeout(self.lease_s), self.changed:
                await self.changed.wait_for(is_past)

    def scratch(self, shard: Shard) -> ChunkFile:
        """Room on disk for the chunks of a shard.

        Raises:
            Broken: the disk has no room.
        """
        return scratch(self._scratch_dir, shard.size, shard.indices)

    def mapped_scratch(self) -> memoryview:
        """Room for a whole model, mapped: what is touched of it counts as memory of this process.

        Raises:
            Broken: the disk has no room.
        """
        if not self.size:
            return memoryview(bytearray())
        descriptor = scratch_descriptor(self._scratch_dir, self.size)
        try:
            return memoryview(mmap.mmap(descriptor, self.size))
        finally:
            os.close(descriptor)

    def address_of(self, node: NodeId) -> Address:
        """Where an enrolled peer is reached.

        Raises:
            Unreachable: it is not enrolled.
        """
        for peer in self.record.peers:
            if peer.node == node:
                return Address(node=node, endpoint=peer.endpoint)
        raise Unreachable(f"{short_name(node)} is not enrolled in {self.contract}")

    @property
    def lease_s(self) -> float:
        """Silence after which we suspect somebody, seconds."""
        if self.lease_ms is not None:
            return self.lease_ms / 1000
        settings = self.record.settings
        return (settings.lease_ms if settings else 10_000) / 1000

    def steps(self, round_: int, shard: int) -> int:
        """How far we are with a shard as its leader or witness; shard -1: with fetching the whole result."""
        if shard == STORING:
            round_now = self.record.round
            fetched = self.fetched.get((round_, round_now.merged)) if round_now is not None else None
            return fetched.steps if fetched is not None else 0
        pulls = [pull for (number, part, _), (pull, _) in self.pulls.items() if (number, part.shard) == (round_, shard)]
        worked = self.measuring.get((round_, shard), 0) + self.merging.get((round_, shard), 0)
        return sum(pull.steps for pull in pulls) + worked + self._past_steps()

    def _past_steps(self) -> int:
        """How far we are with having what merging needs of the past."""
        steps = 0
        for result in past_results(self.record):
            shards = len(result.roots)
            if self.stored(result) is not None:
                steps += store_steps(self.size, shards)
                continue
            fetched = self.fetched.get((result.round, result.roots))
            steps += sum(pull.steps for pull in fetched.pulls.values()) if fetched is not None else 0
        return steps

    def stored(self, result: Result) -> OpenResult | None:
        """A final result of our run, if it is on disk."""
        found = self.store.get(self.contract, self.run, result.round)
        return found if found is not None and found.record.sha256 == result.sha256 else None

    def merged_shard(self, run: int, round_: int, number: int) -> MergedShard | None:
        """A merged shard that we can serve: our own work, or a stored result. May hash a whole model."""
        own = self.merged.get((round_, number)) if run == self.run else None
        if own is not None:
            return own
        kept = self.differences.get(round_, ()) if run == self.run else ()
        if 0 <= number < len(kept):
            return kept[number]
        result = self.store.get(self.contract, run, round_)
        if result is None or result.record.whole or not 0 <= number < len(result.record.roots):
            return None
        shard = Shard(size=self.size, shards=len(result.record.roots), shard=number)
        return MergedShard(shard, result.record.roots[number], result.leaves(number), result.chunks)

    def whole_result(self, run: int, round_: int, number: int) -> MergedShard | None:
        """E-20: the model that a merged difference gave, as one shard. May hash a whole model."""
        result = self.store.get(self.contract, run, round_)
        if result is None or not result.record.whole or number != 0:
            return None
        shard = Shard(size=self.size, shards=1, shard=0)
        return MergedShard(shard, result.record.whole, result.leaves(0), result.chunks)

    def inherit(self, before: "Desk") -> None:
        """Go on with what an earlier program's desk promised and did: its offer stands until its round is over."""
        self.farewell = before.farewell
        if self.training is None:
            self.training = before.training
        if before.manifest == self.manifest:
            self.offer, self.pulls, self.merged = before.offer, before.pulls, before.merged
            self.differences = before.differences
            self.measured = before.measured

    def tidy(self, record: Training) -> None:
        """R-15: drop what is final: chunks received at once, what we merged ourselves once the result is on disk."""
        upto = record.last.round if record.last is not None else -1
        here = record.last is None or self.stored(record.last) is not None
        if record.phase is Phase.COMPLETED and here:
            # Also what belongs to a last round that collected again and never became final.
            self.pulls, self.merged, self.fetched, self.measured = {}, {}, {}, {}
        self.pulls = {key: value for key, value in self.pulls.items() if key[0] > upto}
        self.merging = {key: value for key, value in self.merging.items() if key[0] > upto}
        self.measured = {key: value for key, value in self.measured.items() if key[0] > upto}
        self.measuring = {key: value for key, value in self.measuring.items() if key[0] > upto}
        self.watched = {key: value for key, value in self.watched.items() if key[0] > upto}
        done = upto if here else upto - 1
        self.merged = {key: value for key, value in self.merged.items() if key[0] > done}
        self.differences = {key: value for key, value in self.differences.items() if key >= upto}
