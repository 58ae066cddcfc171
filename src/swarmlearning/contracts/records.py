"""What the ledger remembers: frozen records of members and trainings. Spec: docs/spec/membership.md, training.md."""

import enum
from typing import Final, Literal

from swarmlearning.encoding import Record
from swarmlearning.types import ContractName, Endpoint, NodeId, Role, TrustDomain

MICRO: Final = 1_000_000
"""Metrics stand on the ledger as integers in millionths."""

MAX_PEERS: Final = 256
"""Most peers enrolled in one training contract: with the longest names its record still fits into one message."""

MAX_WEIGHT: Final = 1_000_000
"""Largest weight of a contribution. The product's `nodeWeightage` is 1-100."""


# --- membership -------------------------------------------------------------------------------------------------


class Organisation(Record, frozen=True, kw_only=True):
    """A member institution: its trust domain, who may issue its certificates, which roles its nodes may hold."""

    domain: TrustDomain
    issuers: tuple[bytes, ...]
    """CA certificates (DER) that issue this organisation's leaf certificates directly."""
    roles: tuple[Role, ...] = (Role.SN, Role.SL, Role.SWOP, Role.OPERATOR, Role.AUDITOR)
    revoked: tuple[bytes, ...] = ()
    """SHA-256 of revoked leaf certificates (DER)."""


class Node(Record, frozen=True, kw_only=True):
    """A registered node: the raw key that signs its transactions, and where it is reached."""

    node: NodeId
    key: bytes
    """Ed25519 public key, 32 bytes; apart from the TLS key, so that certificates rotate without a transaction."""
    certificates: tuple[bytes, ...]
    """SHA-256 of the leaf certificate it registered with, in every form in which its signature holds: once one of them
    is revoked the key signs nothing any more."""
    endpoint: Endpoint | None
    registered_height: int


class Genesis(Record, frozen=True, kw_only=True):
    """What all founding organisations start from; its SHA-256 is the network's fingerprint."""

    network: str
    version: int
    """Version of `transition` from height 1 on."""
    created_ms: int
    sentinel: NodeId
    """The SN that orders transactions (embedded engine)."""
    sentinel_key: bytes
    """Ed25519 public key with which it signs block headers, 32 bytes."""
    organisations: tuple[Organisation, ...]


# --- training: settings -----------------------------------------------------------------------------------------


class Settings(Record, frozen=True, kw_only=True):
    """What all peers of a training must agree on; fixed when the contract is created or by the first enrolment."""

    sync_frequency: int
    """Batches between merges."""
    merge_method: str = "mean"
    checkin_mode: Literal["inactive", "snapshot", "active"] = "snapshot"
    """What a finished peer offers until all have finished: nothing, its last local parameters, or the last merged."""
    start: Literal["draw", "merge"] = "draw"
    """Round 0 adopts the parameters of one participant drawn by hash, or merges like any other round."""
    topology: Literal["auto", "leader", "sharded"] = "auto"
    witnesses: int = 0
    """Further participants that recompute each shard, 0-2."""
    grace_ms: int = 30_000
    """How long a round stays open for the others after `min_peers` have checked in."""
    lease_ms: int = 10_000
    """Silence (no bytes, no progress) after which a peer suspects a leader."""
    round_max_ms: int = 3_600_000
    """Longest attempt by block time."""


class Manifested(Record, frozen=True, kw_only=True):
    """The model of a training: hash and sizes of its parameter manifest."""

    hash: bytes
    """SHA-256 of the encoded manifest, 32 bytes."""
    size: int
    """Length of the canonical buffer, bytes."""


# --- training: peers --------------------------------------------------------------------------------------------


class PeerState(enum.StrEnum):
    """What a peer has last done."""

    LIVE = "live"  # enrolled, or has sent a message since it missed a round
    PAUSED = "paused"  # missed the close of a round; its next accepted message makes it live again
    FINISHED = "finished"  # its own training is over; its SL goes on checking in and serving
    LEFT = "left"  # left politely; may enrol again


class Progress(Record, frozen=True, kw_only=True):
    """What a peer chooses to show of its training; integers only. -1 stands for "not given"."""

    epoch: int = -1
    total_epochs: int = -1
    batch: int = -1
    loss_micro: int | None = None
    metric_micro: int | None = None
    metric_name: str = ""
    bytes_received: int = 0
    bytes_sent: int = 0


class Peer(Record, frozen=True, kw_only=True):
    """An enrolled peer."""

    node: NodeId
    endpoint: Endpoint
    state: PeerState
    min_peers: int
    weight: int
    restored: bool
    """It started from a private checkpoint, so its parameters are not drawn in round 0."""
    enrolled_round: int
    rounds_offered: int = 0
    """Rounds that became final while it was enrolled."""
    rounds_contributed: int = 0
    progress: Progress = Progress()


# --- training: a round ------------------------------------------------------------------------------------------


class CheckedIn(Record, frozen=True, kw_only=True):
    """A peer's check-in: a promise to serve exactly the chunks under `commitment`."""

    node: NodeId
    commitment: bytes
    """Merkle root over salted 64 KiB chunks, 32 bytes; empty in mode `inactive`."""
    weight: int
    """0 in mode `inactive`."""
    mode: Literal["active", "snapshot", "inactive", "last"]
    """Fresh parameters; the last local ones again; nothing; the last merged ones."""
    finished: bool
    """The peer had finished its own training."""
    at_ms: int


class Commit(Record, frozen=True, kw_only=True):
    """`node` merged `shard` and got `root`."""

    shard: int
    node: NodeId
    root: bytes


class Report(Record, frozen=True, kw_only=True):
    """`reporter`, leading `shard`, could not get verified, finite chunks from `contributor`."""

    reporter: NodeId
    contributor: NodeId
    reason: Literal["unreachable", "unverified", "nonfinite"]
    detail: str = ""
    """For people, such as the tensor that held NaN."""


class Suspicion(Record, frozen=True, kw_only=True):
    """`reporter` saw neither bytes nor progress from `suspect`, in charge of `shard`, for a lease."""

    reporter: NodeId
    suspect: NodeId
    shard: int


class Holding(Record, frozen=True, kw_only=True):
    """`node` has the whole result on disk."""

    node: NodeId
    sha256: bytes
    """Of the canonical buffer."""


class Dropped(Record, frozen=True, kw_only=True):
    """A contributor that a round went on without, and why."""

    node: NodeId
    reason: str


class Round(Record, frozen=True, kw_only=True):
    """The open round."""

    number: int
    attempt: int
    """Grows with every change of contributors or leaders; never falls within a round."""
    opened_ms: int
    """All `*_ms` of a round are elapsed time (`BlockTime.elapsed_ms`)."""
    quorum_ms: int | None
    """Since when it could close but for the grace period that it gives the others (T-13)."""
    checkins: tuple[CheckedIn, ...] = ()
    """By node id."""
    merging: bool = False
    attempt_ms: int = 0
    """When the current attempt began."""
    participants: tuple[NodeId, ...] = ()
    contributors: tuple[NodeId, ...] = ()
    shards: int = 0
    leaders: tuple[NodeId, ...] = ()
    """One a shard."""
    witnesses: tuple[tuple[NodeId, ...], ...] = ()
    """For each shard, who recomputes it."""
    benched: tuple[NodeId, ...] = ()
    """May not lead in this round any more."""
    commits: tuple[Commit, ...] = ()
    merged: tuple[bytes, ...] = ()
    """For each shard the agreed root, empty bytes while there is none."""
    reports: tuple[Report, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    holdings: tuple[Holding, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    """By node id; each once, with the newest reason."""
    closing: bool = False
    """Nobody was training any more when it closed: the training is complete with this round."""
    setback: str = ""
    """Why it collects check-ins again, or why the round before closed void; for people."""


class Result(Record, frozen=True, kw_only=True):
    """A final round's outcome. Enough for a late peer to fetch and verify it."""

    round: int
    roots: tuple[bytes, ...]
    """For each shard the Merkle root over its merged chunks."""
    result_root: bytes
    """Root over `roots` (`parameters.chunks.result_root`)."""
    sha256: bytes
    """Of the canonical buffer: the model's hash that people see."""
    holders: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    contributors: tuple[NodeId, ...]
    dropped: tuple[Dropped, ...]
    attempts: int
    height: int
    time_ms: int


class BlockTime(Record, frozen=True, kw_only=True):
    """Time as the contracts see it."""

    time_ms: int
    """Time of the last block, milliseconds since the epoch."""
    elapsed_ms: int
    """Sum of the gaps between blocks, each counted as at most a minute: what all deadlines are measured by, so that a
    network that stood still does not find every deadline passed when it wakes up."""
    transactions: int = 0
    """Transactions carried out so far."""


class Phase(enum.StrEnum):
    """Where a training contract stands."""

    UNINITIALIZED = "uninitialized"  # created or reset; nobody has enrolled
    COLLECTING = "collecting"  # a round is open for check-ins
    MERGING = "merging"  # a round has closed; its participants exchange and merge
    COMPLETED = "completed"  # nobody trains any more, and the last result there will be is final


class Training(Record, frozen=True, kw_only=True):
    """A training contract."""

    name: ContractName
    creator: TrustDomain
    created_height: int
    organisations: tuple[TrustDomain, ...] = ()
    """Who may enrol; empty: every member."""
    run: int = 1
    """Grows with every reset."""
    phase: Phase = Phase.UNINITIALIZED
    settings: Settings | None = None
    settings_fixed: bool = False
    """Settings were given at creation and survive a reset."""
    manifest: Manifested | None = None
    peers: tuple[Peer, ...] = ()
    """By node id."""
    round: Round | None = None
    last: Result | None = None
    """The newest final result of this run."""
    voids: int = 0
    """Rounds of this run that closed without a merge."""
    reset_votes: tuple[NodeId, ...] = ()
    """Enrolled peers that asked for a reset while the training runs."""
    distrusted: tuple[NodeId, ...] = ()
    """Contradicted by an agreement of others in this run: never leads or witnesses again in it."""
    version: int = 0
    """Grows with every change of this record."""
