"""What a transaction can say: canonical; integers, bytes and strings only. Spec: docs/spec/transactions.md."""

from typing import Final, Literal

import msgspec

from swarmlearning.contracts.proposals import DEFAULT_LASTS_MS, AnyChange
from swarmlearning.contracts.records import Manifested, Progress, Settings
from swarmlearning.contracts.task_records import Evidence, TaskType, Unit, WorkState
from swarmlearning.encoding import Record
from swarmlearning.types import ContractName, Endpoint, NodeId, RunnerName, TaskName, TrustDomain, Validator

MAX_TX_BYTES: Final = 64 * 1024
"""Largest transaction accepted, bytes."""

EXPIRY_WINDOW: Final = 1000
"""A transaction expires at most this many blocks ahead."""


class Message(Record, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag."""


class RegisterNode(Message, frozen=True, kw_only=True):
    """Bind a signing key to a certificate of a member organisation. Signed by the key it registers."""

    node: NodeId
    certificate: bytes
    """The node's leaf certificate, DER."""
    proof: bytes
    """Signature by the certificate's key over `registration_bytes(network, node, key)`."""
    endpoint: Endpoint | None = None


class RevokeCertificate(Message, frozen=True, kw_only=True):
    """An organisation revokes a certificate of its own. Signed by one of its SN or operator nodes."""

    fingerprint: bytes
    """SHA-256 of the certificate, DER."""


class Propose(Message, frozen=True, kw_only=True):
    """Propose a change of membership; counts as the sender's organisation's vote for it."""

    change: AnyChange
    reason: str = ""
    """For people."""
    lasts_ms: int = DEFAULT_LASTS_MS
    """How long votes count, by block time."""


class Vote(Message, frozen=True, kw_only=True):
    """The sender's organisation votes; its last vote counts."""

    proposal: int
    change: bytes
    """`hash_change` of what it votes on: after a handover a number may come to stand for something else."""
    yes: bool


class Withdraw(Message, frozen=True, kw_only=True):
    """The sender's organisation takes back what it proposed."""

    proposal: int


class LeaveNetwork(Message, frozen=True, kw_only=True):
    """The sender's organisation is a member no longer."""


class RotateValidator(Message, frozen=True, kw_only=True):
    """Another validator votes for the sender's organisation from now on."""

    validator: Validator


class CreateContract(Message, frozen=True, kw_only=True):
    """Create a training contract, with settings or leaving them to the first enrolment."""

    contract: ContractName
    settings: Settings | None = None
    organisations: tuple[TrustDomain, ...] = ()


class ResetContract(Message, frozen=True, kw_only=True):
    """Start a new run of a contract."""

    contract: ContractName
    run: int


class Enrol(Message, frozen=True, kw_only=True):
    """An SL joins a run with its program's settings and model."""

    contract: ContractName
    run: int
    settings: Settings
    manifest: Manifested
    min_peers: int
    weight: int
    endpoint: Endpoint
    restored: bool = False
    grace_ms: int | None = None
    leads: bool = True


class CheckIn(Message, frozen=True, kw_only=True):
    """Offer parameters for a round."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    base: bytes
    """SHA-256 of the newest final result this peer has adopted; empty before the first."""
    commitment: bytes
    weight: int
    mode: Literal["active", "snapshot", "inactive", "last"]
    progress: Progress = Progress()


class Tick(Message, frozen=True, kw_only=True):
    """A wait is over by the sender's clock; block time must agree."""

    contract: ContractName
    run: int
    round: int
    attempt: int


class Measure(Message, frozen=True, kw_only=True):
    """The sender, leader or witness of `shard`, measured it."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    shard: int
    distances: bytes
    """Squared, between the contributors, of this shard alone: see `contracts.distances`."""


class MergeCommit(Message, frozen=True, kw_only=True):
    """The sender, leader or witness of `shard`, merged it."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    shard: int
    root: bytes


class Stored(Message, frozen=True, kw_only=True):
    """The sender has the whole merged result, verified and on disk."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    result_root: bytes
    sha256: bytes
    whole: bytes = b""
    """Where differences travelled, the root of the canonical buffer as one shard; else empty."""


class Unreachable(Message, frozen=True, kw_only=True):
    """The sender, leader or witness of `shard`, could not get verified, finite chunks from `contributor`."""

    contract: ContractName
    run: int
    round: int
    attempt: int
    shard: int
    contributor: NodeId
    reason: Literal["unreachable", "unverified", "nonfinite"]
    detail: str = ""


class Suspect(Message, frozen=True, kw_only=True):
    """The sender saw neither bytes nor progress of `leader` for a lease.

    It names the leader of `shard`, or while that is not merged a witness that has not committed. With shard -1 it
    names a participant that has not stored what is merged.
    """

    contract: ContractName
    run: int
    round: int
    attempt: int
    shard: int
    leader: NodeId
    gone: bool = False
    """It did not even answer for half of it."""


class Here(Message, frozen=True, kw_only=True):
    """The sender, whom a round has closed without, still trains: it is to be waited for again."""

    contract: ContractName
    run: int


class Finish(Message, frozen=True, kw_only=True):
    """The sender's own training is over; its SL goes on checking in as the settings say until all have finished."""

    contract: ContractName
    run: int
    progress: Progress = Progress()


class Leave(Message, frozen=True, kw_only=True):
    """The sender leaves politely."""

    contract: ContractName
    run: int
    reason: str = ""


# --- tasks ----------------------------------------------------------------------------------------------------------


class CreateTask(Message, frozen=True, kw_only=True):
    """Begin a task: its body is appended, then it is finalized."""

    task: TaskName
    kind: TaskType
    """The task's type; that word says already which message this is."""
    author: str
    prereq: TaskName
    outcome: str


class AppendTask(Message, frozen=True, kw_only=True):
    """Write lines of an unfinished task's body, over those that are there."""

    task: TaskName
    first: int
    """Number of the first line, from 1 to one more than there are."""
    lines: tuple[str, ...]


class FinalizeTask(Message, frozen=True, kw_only=True):
    """From now on the task stands as it is, for good, and can be assigned."""

    task: TaskName
    hash: bytes
    """`hash_task` of what the sender believes it to be; another one is refused."""


class DeleteTask(Message, frozen=True, kw_only=True):
    """Remove a task that is not final."""

    task: TaskName


class ApproveTask(Message, frozen=True, kw_only=True):
    """The sender's organisation lets its agents carry out a task, or forbids it; what was said last counts."""

    task: TaskName
    hash: bytes
    """Of the task, as the sender knows it."""
    granted: bool
    """False: denied."""


class CreateTaskrunner(Message, frozen=True, kw_only=True):
    """Create a taskrunner."""

    runner: RunnerName


class AssignTask(Message, frozen=True, kw_only=True):
    """Give a taskrunner a task; or, with mode `target`, name one more agent for the task that it has."""

    runner: RunnerName
    task: TaskName
    hash: bytes
    """Of the task, as the sender knows it."""
    mode: Literal["peers", "all", "target"]
    peers: int = 0
    """With mode `peers`: how many have to complete."""
    target: NodeId = NodeId("")
    """With mode `target`: the agent that takes it, or takes it again."""


class ResetTaskrunner(Message, frozen=True, kw_only=True):
    """The taskrunner has no task any more; its agents stop what they began."""

    runner: RunnerName
    number: int
    """Of the assignment that is to be forgotten, 0 if there was none: another one is refused as stale."""


class ListenToRunner(Message, frozen=True, kw_only=True):
    """The sender, an agent, takes the tasks of a taskrunner from now on; or does no more."""

    runner: RunnerName
    listening: bool


class TakeTask(Message, frozen=True, kw_only=True):
    """The sender, an agent, takes the task that a taskrunner has."""

    runner: RunnerName
    number: int
    """Of the assignment."""
    planned: int
    """Peers that it will start; 1 for a task other than RUN_SWARM."""


class ReportTask(Message, frozen=True, kw_only=True):
    """How far the sender, an agent that has taken the task, is with it."""

    runner: RunnerName
    number: int
    """Of the assignment."""
    state: WorkState
    description: str = ""
    units: tuple[Unit, ...] = ()
    """All of its peers, by uid, each once."""
    approved_by: str = ""
    """Who agreed on the institution's behalf: a node id, or a policy's rule and hash."""
    evidence: Evidence | None = None
    """Of a task other than RUN_SWARM."""


TaskMessage = CreateTask | AppendTask | FinalizeTask | DeleteTask
"""What makes a task, or removes it."""

RunnerMessage = CreateTaskrunner | AssignTask | ResetTaskrunner | ListenToRunner | TakeTask | ReportTask
"""What is said of taskrunners."""

TrainingMessage = (
    ResetContract
    | Enrol
    | CheckIn
    | Tick
    | Measure
    | MergeCommit
    | Stored
    | Unreachable
    | Suspect
    | Here
    | Finish
    | Leave
)
"""What is said in a training contract."""

GovernanceMessage = Propose | Vote | Withdraw | LeaveNetwork | RotateValidator
"""What is said about membership."""

AnyMessage = (
    RegisterNode
    | RevokeCertificate
    | GovernanceMessage
    | CreateContract
    | TrainingMessage
    | TaskMessage
    | ApproveTask
    | RunnerMessage
)


class Payload(Record, frozen=True, kw_only=True):
    """What a transaction's signature covers."""

    network: str
    nonce: bytes
    """16 random bytes; replay protection is on (signer, nonce)."""
    expires: int
    """Last height at which the transaction may be ordered."""
    message: AnyMessage
    caller: NodeId = NodeId("")
    """On whose behalf the signer says it, where that is somebody else: claimed by the signer, and kept for audits."""


class Tx(Record, frozen=True, kw_only=True):
    """A transaction: exact payload bytes, who signed, and the signature."""

    payload: bytes
    signer: bytes
    """Ed25519 public key, 32 bytes."""
    signature: bytes
    """Over `TX_DOMAIN + payload`, 64 bytes."""


TX_DOMAIN: Final = b"swarmlearning transaction v1\x00"
"""Prefix of what a transaction's signature covers, so that it can pass for nothing else."""

REGISTRATION_DOMAIN: Final = b"swarmlearning registration v1\x00"
"""Prefix of what a registration's proof covers."""


def registration_bytes(network: str, node: NodeId, key: bytes) -> bytes:
    """What the certificate's key signs to bind the signing key `key` to `node`."""
    return REGISTRATION_DOMAIN + msgspec.msgpack.encode((network, node, key))
