"""Answers CometBFT's calls about snapshots: given to newcomers, and restored where this node starts empty.

CometBFT verifies by the validators' signatures which state hash belongs to a snapshot's height; whether the chunks make
that state is the application's to see. Spec: docs/spec/ledger-cometbft.md, section 6.
"""

import logging
from typing import Final

from swarmlearning.ledger.boundary import Snapshot, Snapshots, Verdict
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.order import CallOrder
from swarmlearning.ledger.cometbft.store import OrderedStore
from swarmlearning.types import NodeId

_LOG: Final = logging.getLogger("swarmlearning.ledger")

MOST: Final = 10
"""Most snapshots that are offered; CometBFT passes over more."""

_OFFERED: Final = {
    "accept": pb.OFFER_ACCEPT,
    "retry": pb.OFFER_REJECT,
    "reject": pb.OFFER_REJECT,
    "reject_format": pb.OFFER_REJECT_FORMAT,
    "abort": pb.OFFER_ABORT,
}
_APPLIED: Final = {
    "accept": pb.CHUNK_ACCEPT,
    "retry": pb.CHUNK_RETRY,
    "reject": pb.CHUNK_REJECT_SNAPSHOT,
    "reject_format": pb.CHUNK_REJECT_SNAPSHOT,
    "abort": pb.CHUNK_ABORT,
}


class SnapshotCalls:
    """The four calls.

    Args:
        node: this one, for the log.
        snapshots: the application's; None: none are given, none are taken.
        store: the engine's own file.
    """

    def __init__(self, node: NodeId, snapshots: Snapshots | None, store: OrderedStore) -> None:
        self._node = node
        self._snapshots = snapshots
        self._store = store
        self._offered: tuple[Snapshot, bytes] | None = None
        self._left: set[int] = set()

    def list(self, _: pb.RequestListSnapshots) -> pb.Response:
        """B-31: those that the application can give, the newest first."""
        known = () if self._snapshots is None else self._snapshots.available()[:MOST]
        return pb.Response(
            list_snapshots=pb.ResponseListSnapshots(
                snapshots=[
                    pb.Snapshot(
                        height=each.height,
                        format=each.format,
                        chunks=each.chunks,
                        hash=each.hash,
                        metadata=each.metadata,
                    )
                    for each in known
                ]
            )
        )

    def load(self, request: pb.RequestLoadSnapshotChunk) -> pb.Response:
        """A chunk; empty if it is not there any more."""
        found = None
        if self._snapshots is not None:
            found = self._snapshots.load(request.height, request.format, request.chunk)
        return pb.Response(load_snapshot_chunk=pb.ResponseLoadSnapshotChunk(chunk=found or b""))

    def offer(self, request: pb.RequestOfferSnapshot, order: CallOrder) -> pb.Response:
        """B-32: begin to restore; what a restoring before left is forgotten.

        Raises:
            Broken: this node is past its beginning.
        """
        order.offer_snapshot()
        self._offered, self._left = None, set()
        offered = request.snapshot
        snapshot = Snapshot(
            height=offered.height,
            format=offered.format,
            chunks=offered.chunks,
            hash=offered.hash,
            metadata=offered.metadata,
        )
        verdict = Verdict(answer="reject", reason="this node restores no snapshots")
        if self._snapshots is not None:
            verdict = self._snapshots.offer(snapshot, request.app_hash)
        if verdict.answer == "accept":
            # Before the state is there: a file that is ahead of the application does no harm, one that is behind does.
            self._store.begin_at(snapshot.height, request.app_hash, keep=order.height)
            self._offered, self._left = (snapshot, request.app_hash), set(range(snapshot.chunks))
        else:
            _LOG.warning("%s: the snapshot of block %d is not taken: %s", self._node, snapshot.height, verdict.reason)
        return pb.Response(offer_snapshot=pb.ResponseOfferSnapshot(result=_OFFERED[verdict.answer]))

    def apply(self, request: pb.RequestApplySnapshotChunk, order: CallOrder) -> pb.Response:
        """B-33: take a chunk, and with the last one the state.

        Raises:
            Broken: no snapshot was offered.
        """
        order.apply_chunk()
        if self._snapshots is None or self._offered is None:
            return pb.Response(apply_snapshot_chunk=pb.ResponseApplySnapshotChunk(result=pb.CHUNK_ABORT))
        snapshot, _ = self._offered
        verdict = self._snapshots.apply(request.index, request.chunk)
        answer = pb.ResponseApplySnapshotChunk(result=_APPLIED[verdict.answer])
        if verdict.answer == "retry":
            answer.refetch_chunks.append(request.index)
            answer.reject_senders.append(request.sender)
        if verdict.answer == "accept":
            self._left.discard(request.index)
            if not self._left:
                order.restored(snapshot.height)
                _LOG.info("%s: the state of block %d was restored from a snapshot", self._node, snapshot.height)
        else:
            _LOG.warning(
                "%s: chunk %d of the snapshot of block %d: %s",
                self._node,
                request.index,
                snapshot.height,
                verdict.reason,
            )
        return pb.Response(apply_snapshot_chunk=answer)
