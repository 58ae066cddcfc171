"""What an SN tells of its ledger's past: all blocks, and proofs for those who hold no ledger.

Who may ask what: docs/spec/access.md, A-10 and A-11. What a proof is: docs/spec/proofs.md.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Final

from swarmlearning.contracts import membership
from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.transition import open_tx
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Refused
from swarmlearning.ledger.boundary import LedgerArchive
from swarmlearning.sn.api import STREAM_BLOCKS, STREAM_PROOF, BlocksRequest, ProofRequest
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.proofs import MAX_REGISTRATIONS, ProofFile, registered_key
from swarmlearning.sn.state import Overlay
from swarmlearning.transport.api import Caller, Frame, Stream
from swarmlearning.types import Code, NodeId, Role

MAX_AT_ONCE: Final = 2
"""Most exports and proofs of one node that are worked on at a time."""

HISTORIANS: Final = (Role.SN, Role.OPERATOR, Role.AUDITOR)
"""Who may read the whole history."""

Admit = Callable[..., None]


class Archiving:
    """The streams that read the past.

    Args:
        app: committed state, which knows when a signing key was registered.
        archive: the engine's.
        admit: raises unless a caller is of the own organisation and of one of some roles.
    """

    def __init__(self, app: SwarmApplication, archive: LedgerArchive, admit: Admit) -> None:
        self._app = app
        self._archive = archive
        self._admit = admit
        self._busy: Counter[NodeId] = Counter()

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Handlers by method."""
        return {STREAM_BLOCKS: self._blocks, STREAM_PROOF: self._proof}

    async def _blocks(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """A-10: every block from a height to the one that was the last when it was asked for."""
        self._admit(caller, *HISTORIANS)
        first = decode(body, BlocksRequest).first
        with self._admitted(caller):
            lowest, last = await self._archive.lowest(), self._archive.height
            if first < lowest:
                raise Refused(
                    f"blocks from {first} on: this SN keeps those from {lowest} on; ask for them (--first {lowest}), "
                    "or an SN that keeps more",
                    code="not-found",
                )
            for height in range(first, last + 1):
                block = await self._archive.stored(height)
                if block is None:
                    raise Refused(f"block {height} is not kept here any more; ask again", code="not-found")
                yield encode(block)

    async def _proof(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """A-11: the proof of a transaction or a block, and of the registrations of who signed what is in it."""
        self._admit(caller, *Role)
        request = decode(body, ProofRequest)
        if (len(request.tx), request.height > 0) not in ((32, False), (0, True)):
            raise Refused("a proof is of one transaction, by its SHA-256, or of a block, by height", code="malformed")
        with self._admitted(caller):
            if request.tx:
                proof = await self._archive.prove_tx(request.tx)
                missing = f"transaction {request.tx.hex()} is in no block that this SN keeps"
            else:
                proof = await self._archive.prove(request.height)
                lowest = await self._archive.lowest()
                missing = f"block {request.height}: this SN has {lowest} to {self._archive.height}"
            if proof is None:
                raise Refused(missing, code="not-found")
            registrations = [await self._prove_registration(signer) for signer in _signers(proof.txs)]
            yield encode(
                ProofFile(
                    ledger=self._app.genesis.ledger,
                    proof=proof.body,
                    registrations=tuple(found for found in registrations if found),
                )
            )

    async def _prove_registration(self, signer: bytes) -> bytes:
        """What proves that a signing key was registered; empty if it is registered no more."""
        node = membership.load_signer(Overlay(self._app.store), signer)
        block = None if node is None else await self._archive.stored(node.registered_height)
        if block is None:
            return b""
        for tx, result in zip(block.txs, block.results, strict=True):
            if result.code is Code.OK and registered_key(tx) == signer:
                proof = await self._archive.prove_tx(sha256(tx))
                return b"" if proof is None else proof.body
        return b""

    @contextlib.contextmanager
    def _admitted(self, caller: Caller) -> Iterator[None]:
        if self._busy[caller.node] >= MAX_AT_ONCE:
            raise Refused(f"{MAX_AT_ONCE} exports or proofs of {caller.node} are under way here already", code="busy")
        self._busy[caller.node] += 1
        try:
            yield
        finally:
            self._busy[caller.node] -= 1
            if not self._busy[caller.node]:
                del self._busy[caller.node]


def _signers(txs: Sequence[bytes]) -> list[bytes]:
    """Keys that signed `txs`, each once; a registration says itself whose its key is."""
    found: dict[bytes, None] = {}
    for tx in txs:
        with contextlib.suppress(Rejected):
            if registered_key(tx) is None:
                found[open_tx(tx).signer] = None
    return list(found)[:MAX_REGISTRATIONS]
