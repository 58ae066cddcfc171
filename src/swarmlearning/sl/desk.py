"""What the steps of a round work with: one bundle for one training on one SL."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from swarmlearning.contracts.records import Training
from swarmlearning.errors import Unreachable
from swarmlearning.merge.method import MergeMethod
from swarmlearning.parameters.chunks import Commitment
from swarmlearning.parameters.manifest import Manifest
from swarmlearning.sl.exchange import Pull, Shard
from swarmlearning.sl.store import ResultStore, scratch
from swarmlearning.sn.client import Submitter
from swarmlearning.transport.api import Address, Client
from swarmlearning.types import ContractName, NodeId, short_name

log = logging.getLogger("swarmlearning.sl")

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a function that computes or waits for a disk, away from the event loop."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:  # noqa: ANN401  # forwarded as is
        """Run `function(*args)` and return its result."""
        ...


class Offer:
    """Parameters that were committed to: what we serve to leaders and witnesses."""

    def __init__(self, buffer: memoryview, commitment: Commitment, secret: bytes) -> None:
        self.buffer = buffer
        self.commitment = commitment
        self.secret = secret


class MergedShard:
    """A shard that we merged ourselves, until the round is final."""

    def __init__(self, root: bytes, leaves: bytes, buffer: memoryview) -> None:
        self.root = root
        self.leaves = leaves
        """Of this shard's chunks."""
        self.buffer = buffer
        """The whole canonical buffer; only the shard's chunks are filled."""


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
        scratch_dir: Path,
        run_blocking: RunBlocking,
    ) -> None:
        self.node = node
        self.contract = contract
        self.manifest = manifest
        self.method = method
        self.client = client
        self.submitter = submitter
        self.store = store
        self.run_blocking = run_blocking
        self._scratch_dir = scratch_dir
        self.training: Training | None = None
        self.changed = asyncio.Condition()
        self.run = 0
        """The run that our program has enrolled in; 0 before."""
        self.offer: Offer | None = None
        self.pulls: dict[tuple[int, int, NodeId], tuple[Pull, memoryview]] = {}
        """By round, shard, contributor: what was pulled and verified is kept across attempts."""
        self.merged: dict[tuple[int, int], MergedShard] = {}
        """By round, shard."""
        self.fetched: dict[tuple[int, bytes], tuple[Pull, memoryview]] = {}
        """By shard, root: merged shards on their way to disk."""
        self.steps: dict[tuple[int, int], int] = {}
        """By round, shard: grows while we work on it as its leader."""
        self.bytes_received = 0
        self.bytes_sent = 0

    @property
    def size(self) -> int:
        """Of the canonical buffer, bytes."""
        return self.manifest.size

    @property
    def record(self) -> Training:
        """The newest record.

        Raises:
            Unreachable: none has come yet.
        """
        if self.training is None:
            raise Unreachable(f"no word from the SN about {self.contract} yet")
        return self.training

    def scratch(self) -> memoryview:
        """Room for one model."""
        return scratch(self._scratch_dir, self.size)

    def address_of(self, node: NodeId) -> Address:
        """Where an enrolled peer is reached.

        Raises:
            Unreachable: it is not enrolled.
        """
        for peer in self.record.peers:
            if peer.node == node:
                return Address(node=node, endpoint=peer.endpoint)
        raise Unreachable(f"{short_name(node)} is not enrolled in {self.contract}")

    def step(self, round_: int, shard: int) -> None:
        """Note progress as the leader of a shard."""
        key = (round_, shard)
        self.steps[key] = self.steps.get(key, 0) + 1

    def merged_shard(self, run: int, round_: int, shard: Shard) -> tuple[bytes, memoryview] | None:
        """Leaves and buffer of a merged shard that we can serve: our own work, or a stored result."""
        if run == self.run:
            own = self.merged.get((round_, shard.shard))
            if own is not None:
                return own.leaves, own.buffer
        result = self.store.get(self.contract, run, round_)
        if result is None or len(result.record.roots) != shard.shards:
            return None
        return result.leaves(shard.shard), result.buffer

    def forget_rounds(self, upto: int) -> None:
        """Drop chunks received and merged in rounds up to and including `upto`: they are final."""
        self.pulls = {key: value for key, value in self.pulls.items() if key[0] > upto}
        self.merged = {key: value for key, value in self.merged.items() if key[0] > upto}
        self.steps = {key: value for key, value in self.steps.items() if key[0] > upto}
        self.fetched = {}
