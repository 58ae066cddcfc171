"""The boundary between a ledger engine and its application: CometBFT's ABCI 2.0, narrowed.

Legal order of the calls, as a grammar::

    life   = info [init] {replay} {block}
    replay = apply commit                      ; one block after a crash, a few after a power cut
    block  = {check | query | voters | validators | expects_more | propose | accept} apply commit

`apply` writes nothing; `commit` is the only write, whole or not at all. It need not survive a power cut at once, if
what is lost are the newest blocks' alone: the engine has them. `apply` may be called again for the same height after
a crash, or after a block that was never committed, and must give the same answer.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from swarmlearning.encoding import Record
from swarmlearning.types import Code, NodeId, TrustDomain, Validator


class Header(Record, frozen=True, kw_only=True):
    """What `apply` may know of a block: all of it agreed upon, so that every replica computes the same."""

    height: int
    """From 1, without gaps."""
    time_ms: int
    """Block time, milliseconds since the epoch; never less than the previous block's."""
    previous_hash: bytes
    """The source of draws, 32 bytes, which nobody knew before the previous block was made: the hash of that block's
    header where a sentinel orders (of the genesis for height 1), its `app_hash` where validators vote."""
    proposer: str
    """Who proposed the block: a node id where a sentinel orders; where validators vote, the address in hex digits."""


class TxResult(Record, frozen=True, kw_only=True):
    """Outcome of one transaction. A transaction whose message fails is still ordered, with its code."""

    code: Code
    log: str = ""
    """For people: what was expected, what was got."""


class Event(Record, frozen=True, kw_only=True):
    """Something that happened, for those who watch; not part of the state."""

    kind: str
    subject: str
    """What it happened to, such as a contract's name."""
    body: bytes = b""


class Misbehaviour(Record, frozen=True, kw_only=True):
    """Evidence, verified by the engine, that a validator broke the rules of consensus."""

    kind: Literal["duplicate_vote", "light_client_attack"]
    address: bytes
    """Of the validator: the first 20 bytes of the SHA-256 of its key."""
    height: int
    """When it happened."""
    time_ms: int
    """Of the block at that height, milliseconds since the epoch."""


class Applied(Record, frozen=True, kw_only=True):
    """What executing a block gave."""

    results: tuple[TxResult, ...]
    app_hash: bytes
    """Merkle root over the whole state after the block, 32 bytes."""
    events: tuple[Event, ...]
    validators: tuple[Validator, ...] | None = None
    """All who vote after the block, if it changed them; None: as before."""


class Info(Record, frozen=True, kw_only=True):
    """Where the application stands: what it has committed."""

    height: int
    """0 before the first block."""
    app_hash: bytes
    initialised: bool


class Application(Protocol):
    """What an engine drives. Deterministic: same genesis and blocks give the same results and hashes."""

    def info(self) -> Info:
        """Tell what has been committed."""
        ...

    def init(self, genesis: bytes) -> bytes:
        """Start from the genesis bytes and return the app hash; durable. Called once, before the first block.

        Raises:
            DecodeError: the genesis is malformed.
        """
        ...

    def check(self, tx: bytes) -> TxResult:
        """Judge a transaction against committed state before it is offered to a block; may be stricter than `apply`."""
        ...

    def propose(self, txs: Sequence[bytes], max_bytes: int) -> list[bytes]:
        """Choose which of `txs` go into the next block, in order, at most `max_bytes` in all."""
        ...

    def expects_more(self, txs: Sequence[bytes]) -> bool:
        """Whether others are likely to follow `txs` within milliseconds, and nothing is gained by a block without them.

        Advice on when to make a block, asked of who proposes only; nothing depends on it but the number of blocks.
        """
        ...

    def accept(self, header: Header, txs: Sequence[bytes]) -> str:
        """Return "" or why the block is refused; from committed state and the block alone, no clock, no policy."""
        ...

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        """Execute a block on top of the committed state, in memory; `misbehaviour` came with it."""
        ...

    def commit(self) -> None:
        """Write the last applied block's state, whole or not at all."""
        ...

    def query(self, path: str, argument: bytes) -> bytes:
        """Read committed state.

        Raises:
            Refused: the path is unknown or the argument malformed.
        """
        ...

    def voters(self) -> Mapping[NodeId, bytes]:
        """Whose majority decides who orders, by committed state: node id to Ed25519 public key, 32 bytes."""
        ...

    def validators(self) -> Mapping[TrustDomain, Validator]:
        """Who proposes and votes with equal power, by committed state; empty where a sentinel orders."""
        ...


class StoredBlock(Record, frozen=True, kw_only=True):
    """A committed block and what came of its transactions, as any engine tells it."""

    height: int
    time_ms: int
    hash: bytes
    """Of the block's header, 32 bytes."""
    proposer: str
    """Node id or, where validators vote, the address in hexadecimal digits of who made it."""
    txs: tuple[bytes, ...]
    results: tuple[TxResult, ...]
    """One for each transaction, in order; not under the block's hash."""


class LedgerProof(Record, frozen=True, kw_only=True):
    """What proves, to those who hold no ledger, that transactions are in a block."""

    txs: tuple[bytes, ...]
    """Those that are proven."""
    body: bytes
    """As the engine that orders here encodes and verifies it."""


@runtime_checkable
class LedgerArchive(Protocol):
    """What has been committed: to be read, and to be proven to those who hold no ledger. An engine may be one."""

    @property
    def height(self) -> int:
        """Height of the last committed block; 0 before the first."""
        ...

    async def lowest(self) -> int:
        """Height of the first block that is still kept.

        Raises:
            SwarmError: it cannot be found out.
        """
        ...

    async def stored(self, height: int) -> StoredBlock | None:
        """The committed block of `height`; None if there is none (yet, or any more).

        Raises:
            SwarmError: it cannot be read.
        """
        ...

    async def prove(self, height: int) -> LedgerProof | None:
        """What proves a whole block; None if there is none (yet, or any more).

        Raises:
            SwarmError: it cannot be read.
        """
        ...

    async def prove_tx(self, tx_hash: bytes) -> LedgerProof | None:
        """What proves that the transaction with this SHA-256 is in a block; None if it is in none that is kept.

        Raises:
            SwarmError: it cannot be read.
        """
        ...


class LedgerView(Protocol):
    """What an SN needs of a running engine, whichever it is."""

    @property
    def height(self) -> int:
        """Height of the last committed block; 0 before the first."""
        ...

    @property
    def problem(self) -> str:
        """What keeps this node from taking part in the order, for people; empty while nothing does."""
        ...

    async def submit(self, tx: bytes, *, timeout_s: float) -> tuple[int, TxResult]:
        """Offer a transaction, wait until it is in a block committed *here*, and return the height and its result.

        A transaction that `check` refuses is not ordered; its result comes with height 0.

        Raises:
            Unreachable: the orderer did not answer within `timeout_s` seconds (the transaction may still be ordered).
        """
        ...

    async def wait_height(self, above: int) -> int:
        """Wait until the committed height exceeds `above`, and return it."""
        ...


class Snapshot(Record, frozen=True, kw_only=True):
    """The application's state after a block, as one node offers it to another that starts empty."""

    height: int
    format: int
    """How its chunks are made; one that is not known is refused."""
    chunks: int
    hash: bytes
    """Of all of it, 32 bytes: the same on every node that has the same state."""
    metadata: bytes
    """For the application: what it needs to verify the chunks."""


class Verdict(Record, frozen=True, kw_only=True):
    """What became of an offered snapshot, or of one chunk of it."""

    answer: Literal["accept", "retry", "reject", "reject_format", "abort"]
    """Go on; ask another node for this chunk; take another snapshot; one of another format; none at all."""
    reason: str = ""
    """For people: what was expected, what was got."""


class Snapshots(Protocol):
    """What an engine that catches up by snapshots asks of the application; another one need not know of it.

    A restoring is `offer {apply}`; nothing of it is kept before the last chunk has come and the state that they make
    has the app hash that the engine has verified.
    """

    def available(self) -> Sequence[Snapshot]:
        """Those that this node can give, the newest first."""
        ...

    def load(self, height: int, format_: int, chunk: int) -> bytes | None:
        """A chunk of one of them; None if it is not there (any more)."""
        ...

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> Verdict:
        """Begin to restore `snapshot`, or refuse it, above all ("abort") where blocks were executed here.

        An engine that died before it had noted that a state was restored offers one again: that is not refused.

        Args:
            snapshot: as another node offers it.
            app_hash: the state's that validators signed.
        """
        ...

    def apply(self, chunk: int, data: bytes) -> Verdict:
        """Take the chunk of this number, from 0, of the snapshot that was accepted last."""
        ...
