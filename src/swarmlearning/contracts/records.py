"""What the ledger remembers: frozen records of members and trainings. Spec: docs/spec/membership.md, training.md."""

import enum
from typing import Final, Literal

from swarmlearning.encoding import Record
from swarmlearning.types import ContractName, Endpoint, LedgerKind, NodeId, Role, TrustDomain, Validator

MICRO: Final = 1_000_000
"""Metrics stand on the ledger as integers in millionths."""

MAX_PEERS: Final = 256
"""Most peers enrolled in one training contract: with the longest names its record still fits into one message."""

MAX_MEASURED_PEERS: Final = 120
"""Most peers where the merge method needs their distances: 7,140 pairs of eight bytes fit into one transaction."""

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
    validator: Validator | None = None
    """Who votes for it on blocks; None where a sentinel orders."""


class Node(Record, frozen=True, kw_only=True):
    """A registered node: the raw key that signs its transactions, and where it is reached."""

    node: NodeId
    key: bytes
    """Ed25519 public key, 32 bytes; apart from the TLS key, so that certificates rotate without a transaction."""
    certificates: tuple[bytes, ...]
    """SHA-256 of the leaf certificate it registered with, in every form in which its signature holds: once one of them
    is revoked the key signs nothing any more."""
    issuer: bytes
    """SHA-256 of the authority (DER) that issued it: once that is not the organisation's any more, no more either."""
    endpoint: Endpoint | None
    registered_height: int


class Genesis(Record, frozen=True, kw_only=True):
    """What all founding organisations start from; its SHA-256 is the network's fingerprint."""

    network: str
    version: int
    """Version of `transition` from height 1 on."""
    created_ms: int
    ledger: LedgerKind = "embedded"
    """Who orders transactions: one sentinel, or the organisations' validators by more than two thirds."""
    sentinel: NodeId
    """The SN that orders transactions; empty where validators do."""
    sentinel_key: bytes
    """Ed25519 public key with which it signs block headers, 32 bytes; empty where there is no sentinel."""
    organisations: tuple[Organisation, ...]


# --- training: settings -----------------------------------------------------------------------------------------

RECENT_ROUNDS: Final = 10
"""Rounds over which a peer's recent share is counted."""

MAX_HISTORY: Final = 1_000
"""Round summaries kept of each contract; older ones give way."""


class Adaptive(Record, frozen=True, kw_only=True):
    """T-36: the interval between merges grows while the swarm's mean validation loss falls, else it shrinks."""

    shortest: int
    """Batches."""
    longest: int
    """Batches."""
    factor_percent: int = 150
    """By how much it grows or shrinks; 150: by half."""
    window: int = 10
    """How many earlier means the newest one is compared with."""


class Target(Record, frozen=True, kw_only=True):
    """T-35: the training is complete once the swarm's mean validation figures are good enough."""

    loss_micro: int | None = None
    """The mean loss is at most this."""
    metric_micro: int | None = None
    """The mean metric is at least this."""
    metric_falls: bool = False
    """The metric is an error: at most `metric_micro` is good."""
    patience: int = 1
    """Models in a row that must reach it."""


class Settings(Record, frozen=True, kw_only=True):
    """What all peers of a training must agree on; fixed when the contract is created or by the first enrolment."""

    sync_frequency: int
    """Batches between merges."""
    merge_method: str = "mean"
    merge_options: tuple[tuple[str, int], ...] = ()
    """By name, rising, in millionths: `(("trim", 200_000),)`; what is not given is as the method has it."""
    method_source: str = ""
    """Of a method that a plug-in brings: its distribution, version and the SHA-256 of its files; empty if built in."""
    needs: Literal["", "distances", "history"] = ""
    """What the method needs beside the shard itself: the contributors' pairwise distances over all shards, or the two
    newest results. Follows from the method."""
    wire: Literal["float32", "bf16", "fp16", "int8"] = "float32"
    """How floats travel: in full, or once there is a result as encoded differences from the newest (T-50)."""
    checkin_mode: Literal["inactive", "snapshot", "active"] = "snapshot"
    """What a finished peer offers until all have finished: nothing, its last local parameters, or the last merged."""
    start: Literal["draw", "merge"] = "draw"
    """Round 0 adopts the parameters of one participant drawn by hash, or merges like any other round."""
    topology: Literal["auto", "leader", "sharded"] = "auto"
    witnesses: int = -1
    """Further participants that recompute each shard, 0-2; -1: as the method has it (`wanted_witnesses`)."""
    grace_ms: int = 30_000
    """How long a round stays open for the others after `min_peers` have checked in."""
    lease_ms: int = 10_000
    """Silence (no bytes, no progress) after which a peer suspects a leader."""
    round_max_ms: int = 3_600_000
    """Longest attempt by block time."""
    adaptive: Adaptive | None = None
    """None: always `sync_frequency`."""
    target: Target | None = None
    """None: until all have finished."""


def wanted_witnesses(settings: Settings) -> int:
    """How many further participants recompute each shard: none for the mean, whose leaders are trusted, else one."""
    if settings.witnesses >= 0:
        return settings.witnesses
    return 0 if settings.merge_method in ("mean", "fedavgm") else 1


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
    """Begun so far."""
    total_epochs: int = -1
    eta_s: int = -1
    """Seconds until the peer expects to have finished."""
    batch: int = -1
    loss_micro: int | None = None
    metric_micro: int | None = None
    metric_name: str = ""
    figures_round: int = -1
    """Of which round's merged model loss and metric are."""
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
    grace_ms: int | None = None
    """How long it wants rounds to wait for the others, where it does not leave that to the settings."""
    leads: bool = True
    """False: it declines to lead and to witness."""
    rounds_offered: int = 0
    """Rounds that became final while it was enrolled."""
    rounds_contributed: int = 0
    recent: int = 0
    """Of the last `RECENT_ROUNDS` of them a bit each, the newest lowest: 1 where it contributed."""
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
    """`node` merged `shard` and got `root`; or measured it, and got distances with that SHA-256."""

    shard: int
    node: NodeId
    root: bytes


class Part(Record, frozen=True, kw_only=True):
    """What somebody measured of a shard."""

    shard: int
    distances: bytes
    """Between the contributors, squared, of this shard alone: see `contracts.distances`."""


class Report(Record, frozen=True, kw_only=True):
    """`reporter`, leading `shard`, could not get verified, finite chunks from `contributor`."""

    reporter: NodeId
    contributor: NodeId
    reason: Literal["unreachable", "unverified", "nonfinite"]
    detail: str = ""
    """For people, such as the tensor that held NaN."""


class Suspicion(Record, frozen=True, kw_only=True):
    """`reporter` saw neither bytes nor progress from `suspect`, whom `shard` waits for, for a lease."""

    reporter: NodeId
    suspect: NodeId
    shard: int
    gone: bool = False
    """It did not even answer for half of it."""


class Holding(Record, frozen=True, kw_only=True):
    """`node` has the whole result on disk."""

    node: NodeId
    sha256: bytes
    """Of the canonical buffer."""
    whole: bytes = b""
    """Where differences travelled, the root of the canonical buffer; else empty."""


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
    closed_ms: int = 0
    """When it closed."""
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
    absent: tuple[NodeId, ...] = ()
    """Participants that have not stored the result, and of whom a majority of the others saw nothing for a lease."""
    measuring: bool = False
    """The contributors' distances are measured, before anything is merged: T-42."""
    parts: tuple[Part, ...] = ()
    """While it measures: what was measured of each shard, by shard; once one is agreed on, only that."""
    distances: bytes = b""
    """Squared, between the contributors, over the whole model, once all shards are measured."""
    commits: tuple[Commit, ...] = ()
    merged: tuple[bytes, ...] = ()
    """For each shard the agreed root, empty bytes while there is none. While it measures, the SHA-256 of the agreed
    part."""
    reports: tuple[Report, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    holdings: tuple[Holding, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    """By node id; each once, with the newest reason."""
    strikes: tuple[NodeId, ...] = ()
    """Who was dropped because its bytes did not verify or were not finite, once for each time."""
    closing: bool = False
    """Nobody was training any more when it closed: the training is complete with this round."""
    setback: str = ""
    """Why it collects check-ins again, or why the round before closed void; for people."""


class Result(Record, frozen=True, kw_only=True):
    """A final round's outcome. Enough for a late peer to fetch and verify it."""

    round: int
    roots: tuple[bytes, ...]
    """For each shard the Merkle root over its merged chunks: of the difference from `base`, if that is given."""
    result_root: bytes
    """Root over `roots` (`parameters.chunks.result_root`)."""
    sha256: bytes
    """Of the canonical buffer: the model's hash that people see."""
    base: bytes = b""
    """SHA-256 of the result that differences were from; empty if parameters travelled in full."""
    whole: bytes = b""
    """Where differences travelled, the Merkle root of the canonical buffer as one shard; else empty."""
    holders: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    contributors: tuple[NodeId, ...]
    dropped: tuple[Dropped, ...]
    attempts: int
    height: int
    time_ms: int
    elapsed_ms: int = 0
    """When it became final, by the clock that deadlines go by."""


class PeerFigures(Record, frozen=True, kw_only=True):
    """What a peer showed of its training at a check-in."""

    node: NodeId
    progress: Progress


class RoundSummary(Record, frozen=True, kw_only=True):
    """A final round for the history: T-37."""

    run: int
    round: int
    sha256: bytes
    participants: tuple[NodeId, ...]
    contributors: tuple[NodeId, ...]
    dropped: tuple[Dropped, ...]
    attempts: int
    height: int
    time_ms: int
    """When it became final, milliseconds since the epoch."""
    collect_ms: int
    """Elapsed from its opening to its close."""
    merge_ms: int
    """Elapsed from its close to its finality."""
    interval: int
    """Batches between merges from then on."""
    mean_loss_micro: int | None
    """Over those who showed it with their check-ins: of the model of the round before."""
    mean_metric_micro: int | None
    figures: tuple[PeerFigures, ...]
    """By node id; who showed nothing is left out."""


class BlockTime(Record, frozen=True, kw_only=True):
    """Time as the contracts see it; empty blocks let none pass (TX-17)."""

    time_ms: int
    """Time of the last block that was not empty, milliseconds since the epoch."""
    elapsed_ms: int
    """Sum of the gaps between blocks, each counted as at most a minute: what all deadlines are measured by, so that a
    network that stood still does not find every deadline passed when it wakes up."""
    transactions: int = 0
    """Transactions carried out so far."""
    height: int = 0
    """Of that block."""


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
    previous: Result | None = None
    """The one before it, where the merge method needs the history."""
    voids: int = 0
    """Rounds of this run that closed without a merge."""
    finals: int = 0
    """Rounds that became final in all runs: how many summaries there have been."""
    interval: int = 0
    """Batches until the next merge, agreed on; 0 before the first enrolment."""
    losses: tuple[int, ...] = ()
    """Newest means of the validation loss, millionths, the newest last."""
    judged: int = -1
    """Round of the newest model whose figures have been counted."""
    streak: int = 0
    """How many models in a row have reached the target."""
    reached: bool = False
    """The training is complete because its target was reached."""
    reset_votes: tuple[NodeId, ...] = ()
    """Enrolled peers that asked for a reset while the training runs."""
    distrusted: tuple[NodeId, ...] = ()
    """Contradicted by an agreement of others in this run: never leads or witnesses again in it."""
    version: int = 0
    """Grows with every change of this record."""
