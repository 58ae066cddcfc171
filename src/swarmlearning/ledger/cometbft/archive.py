"""What has been committed, told and proven from the blocks that the child keeps. A `LedgerArchive`.

Does not: verify for others (`proofs`), or keep blocks itself. Spec: docs/spec/proofs.md.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from msgspec.structs import replace

from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import Broken, Refused, VerificationError
from swarmlearning.ledger.boundary import LedgerProof, StoredBlock, TxResult
from swarmlearning.ledger.cometbft.answers import (
    BlockAnswer,
    CommitAnswer,
    RangeAnswer,
    ValidatorsAnswer,
    read_commit,
    read_header,
    read_members,
)
from swarmlearning.ledger.cometbft.headers import Member, hash_header
from swarmlearning.ledger.cometbft.proofs import MAX_LINKS, CometProof, Link, verify_link
from swarmlearning.ledger.proofs import Content, Whole, prove_part

T = TypeVar("T")

PAGE: Final = 100
"""Most validators that CometBFT tells of at a time."""


class Ask(Protocol):
    """Asks the child, as `rpc.Rpc.call` does."""

    async def __call__(self, method: str, params: dict[str, Any], kind: type[T]) -> T:
        """The result of a call, decoded as `kind`."""
        ...


class CometArchive:
    """Tells of blocks and proves them.

    Args:
        network: the chain's id.
        first: the validators that the genesis names, in CometBFT's order (`proofs.first_members`).
        ask: asks the child.
        height: of the last block that is committed here.
        find: height and result of the transaction with this SHA-256, None if it is in no block: a transaction is
            ordered at most once.
    """

    def __init__(
        self,
        network: str,
        first: tuple[Member, ...],
        ask: Ask,
        height: Callable[[], int],
        find: Callable[[bytes], tuple[int, TxResult] | None],
    ) -> None:
        self._network = network
        self._first = first
        self._ask = ask
        self._height = height
        self._find = find

    @property
    def height(self) -> int:
        """Height of the last block that is committed here; 0 before the first."""
        return self._height()

    async def lowest(self) -> int:
        """See `LedgerArchive.lowest`.

        Raises:
            Unreachable, Refused, DecodeError: the child does not answer as it should.
        """
        return max(1, int((await self._ask("status", {}, RangeAnswer)).sync_info.earliest_block_height))

    async def stored(self, height: int) -> StoredBlock | None:
        """See `LedgerArchive.stored`.

        Raises:
            Unreachable, Refused, DecodeError: the child does not answer as it should.
            Broken: it tells of transactions that were not committed here.
        """
        told = await self._block(height)
        if told is None or told.block is None:
            return None
        header = read_header(told.block.header)
        return StoredBlock(
            height=height,
            time_ms=header.time.milliseconds,
            hash=hash_header(header),
            proposer=header.proposer.hex(),
            txs=told.txs,
            results=tuple(self._result(tx, height) for tx in told.txs),
        )

    def _result(self, tx: bytes, height: int) -> TxResult:
        found = self._find(sha256(tx))
        if found is None or found[0] != height:
            where = "unknown" if found is None else f"of block {found[0]}"
            raise Broken(f"transaction {sha256(tx).hex()} of CometBFT's block {height} is {where} here")
        return found[1]

    async def prove(self, height: int) -> LedgerProof | None:
        """See `LedgerArchive.prove`.

        Raises:
            Unreachable, Refused, DecodeError: the child does not answer as it should.
            Broken: what it answers cannot be followed from the genesis.
        """
        told = await self._block(height)
        return None if told is None else await self._prove(height, told.txs, Whole(txs=told.txs))

    async def prove_tx(self, tx_hash: bytes) -> LedgerProof | None:
        """See `LedgerArchive.prove_tx`.

        Raises:
            Unreachable, Refused, DecodeError, Broken: as for `prove`.
        """
        found = self._find(tx_hash)
        told = None if found is None else await self._block(found[0])
        if told is None or found is None:
            return None
        height = found[0]
        hashes = [sha256(tx) for tx in told.txs]
        if tx_hash not in hashes:
            raise Broken(
                f"CometBFT's block {height} does not hold transaction {tx_hash.hex()}, which was committed in it"
            )
        index = hashes.index(tx_hash)
        return await self._prove(height, (told.txs[index],), prove_part(told.txs, index))

    async def _prove(self, height: int, txs: tuple[bytes, ...], content: Content) -> LedgerProof:
        links = await self._follow(height)
        return LedgerProof(txs=txs, body=encode(CometProof(links=tuple(links), content=content)))

    async def _block(self, height: int) -> BlockAnswer | None:
        if not 1 <= height <= self.height:
            return None
        if height < await self.lowest():
            return None
        told = await self._ask("block", {"height": str(height)}, BlockAnswer)
        return None if told.block is None else told

    async def _follow(self, target: int) -> list[Link]:
        """Links from the genesis's validators to block `target`: straight, or where that cannot be, over the middle."""
        links: list[Link] = []
        known, at = self._first, 0
        waiting = [target]
        while waiting:
            height = waiting[-1]
            link = await self._link(height)
            try:
                verify_link(link, known, at, self._network)
            except VerificationError as error:
                if height > at + 1 and len(links) + len(waiting) < MAX_LINKS:
                    waiting.append((at + height) // 2)
                    continue
                if not links or known == link.members:
                    raise Broken(f"block {height} cannot be proven from the genesis: {error}") from error
                # So much changed at once that only the block before says who votes on this one.
                links[-1] = replace(links[-1], next_members=link.members)
                known = link.members
                continue
            links.append(link)
            known, at = link.members, height
            waiting.pop()
        return self._shorten(links)

    def _shorten(self, links: Sequence[Link]) -> list[Link]:
        """The same way, without links over which it need not go."""
        kept: list[Link] = []
        known, at, left = self._first, 0, list(links)
        while left:
            step = next(k for k in reversed(range(len(left))) if self._leads_to(left[k], known, at))
            kept.append(left[step])
            known, at = left[step].next_members or left[step].members, left[step].header.height
            left = left[step + 1 :]
        return kept

    def _leads_to(self, link: Link, known: tuple[Member, ...], above: int) -> bool:
        try:
            verify_link(link, known, above, self._network)
        except VerificationError:
            return False
        return True

    async def _link(self, height: int) -> Link:
        try:
            signed = (await self._ask("commit", {"height": str(height)}, CommitAnswer)).signed_header
        except Refused as error:
            raise Refused(
                f"block {height}, over which the proof must go, is not kept here any more; ask an SN that keeps all "
                f"blocks ({error})",
                code="not-found",
            ) from error
        return Link(
            header=read_header(signed.header), commit=read_commit(signed.commit), members=await self._members(height)
        )

    async def _members(self, height: int) -> tuple[Member, ...]:
        found: list[Member] = []
        page = 1
        while True:
            params = {"height": str(height), "page": str(page), "per_page": str(PAGE)}
            told = await self._ask("validators", params, ValidatorsAnswer)
            found += read_members(told.validators)
            if len(found) >= int(told.total) or not told.validators:
                return tuple(found)
            page += 1
