"""What an SN's API says: requests and replies. Who may ask what: docs/spec/access.md."""

from typing import Final

from swarmlearning.contracts.proposals import Offence, Proposal
from swarmlearning.contracts.records import Node, Organisation
from swarmlearning.contracts.task_records import Approval, Task
from swarmlearning.encoding import Record
from swarmlearning.types import Code, ContractName, LedgerKind, NodeId, RunnerName, TaskName, TrustDomain

CALL_STATUS: Final = "status"
CALL_SUBMIT: Final = "tx"
CALL_CONTRACT: Final = "contract"
CALL_CONTRACTS: Final = "contracts"
CALL_HISTORY: Final = "history"
CALL_DIRECTORY: Final = "directory"
CALL_TICKET: Final = "ticket"
CALL_GOVERNANCE: Final = "governance"
CALL_LIGHT: Final = "light"
CALL_TASKS: Final = "tasks"
CALL_TASK: Final = "task"
CALL_RUNNERS: Final = "runners"
CALL_RUNNER: Final = "runner"
CALL_PRESENCE: Final = "presence"
STREAM_CHANGES: Final = "changes"
STREAM_WATCH: Final = "watch"
STREAM_BLOCKS: Final = "blocks"
STREAM_PROOF: Final = "proof"

KEEPALIVE_S: Final = 5.0
"""A watch that has nothing to say sends an empty notice this often, seconds."""


class Status(Record, frozen=True, kw_only=True):
    """Where an SN stands."""

    node: NodeId
    network: str
    ledger: LedgerKind = "embedded"
    sentinel: NodeId
    """Who orders; empty where validators vote."""
    validators: int = 0
    """How many vote; 0 where a sentinel orders."""
    away: tuple[TrustDomain, ...] = ()
    """Members whose validator is not connected to this SN's."""
    height: int
    transactions: int
    """Carried out since height 1."""
    app_hash: bytes
    time_ms: int
    """Time of the last block, milliseconds since the epoch; 0 before the first."""
    clock_ms: int
    """This SN's own clock when it answered, milliseconds since the epoch."""
    problem: str
    """What keeps this SN from following the sentinel, for people; empty while nothing does."""
    version: str
    open_proposals: int = 0
    offences: tuple[Offence, ...] = ()
    """The newest of what validators have been accused of, the oldest of them first."""


class Submitted(Record, frozen=True, kw_only=True):
    """What became of a transaction; height 0 if it was refused before it was ordered."""

    height: int
    code: Code
    log: str


class Directory(Record, frozen=True, kw_only=True):
    """Members and registered nodes, as of a height."""

    network: str
    height: int
    organisations: tuple[Organisation, ...]
    nodes: tuple[Node, ...]


class Governance(Record, frozen=True, kw_only=True):
    """What members decide together, as of a height."""

    height: int
    clock_ms: int
    """This SN's own clock when it answered, milliseconds since the epoch."""
    members: tuple[TrustDomain, ...]
    proposals: tuple[Proposal, ...]
    """By number."""
    left_out: int
    """Proposals that did not fit into the reply, the oldest closed ones first."""
    offences: tuple[Offence, ...]
    """The oldest first."""


class HistoryRequest(Record, frozen=True, kw_only=True):
    """The newest `most` summaries of a contract's final rounds; as many as fit into a reply come."""

    contract: ContractName
    most: int


class WatchRequest(Record, frozen=True, kw_only=True):
    """Follow a training from after `version`."""

    contract: ContractName
    version: int


class Notice(Record, frozen=True, kw_only=True):
    """A training changed; `training` is empty in a keep-alive. Its `height` dates it."""

    height: int
    training: bytes
    problem: str = ""
    """What keeps this SN from following the ledger, for people; empty while nothing does."""


class BlocksRequest(Record, frozen=True, kw_only=True):
    """All committed blocks from height `first` on, each a frame: `ledger.boundary.StoredBlock`."""

    first: int


class ProofRequest(Record, frozen=True, kw_only=True):
    """What proves a transaction, or a whole block, in one frame: `sn.proofs.ProofFile`."""

    tx: bytes = b""
    """SHA-256 of the transaction; empty where a block is asked for."""
    height: int = 0
    """Of the block; 0 where a transaction is asked for."""


class TasksRequest(Record, frozen=True, kw_only=True):
    """Tasks in the order of their names, those after `after`; as many as fit into a reply come."""

    after: TaskName = TaskName("")


class RunnersRequest(Record, frozen=True, kw_only=True):
    """Names of taskrunners in their order, those after `after`; as many as fit into a reply come."""

    after: RunnerName = RunnerName("")


class PresenceRequest(Record, frozen=True, kw_only=True):
    """Presences of nodes in the order of their ids, those after `after`; as many as fit into a reply come."""

    after: NodeId = NodeId("")


class WholeTask(Record, frozen=True, kw_only=True):
    """A task with its body, and what the members said of it."""

    task: Task
    body: tuple[str, ...]
    approvals: tuple[Approval, ...] = ()
    """By trust domain, one of each member that said something."""


class Presence(Record, frozen=True, kw_only=True):
    """When this SN last heard of a node."""

    node: NodeId
    seen_ms: int
    """By its own clock: a request of the node's to it, or a transaction of the node's in a block; of an SN that it is
    connected with, now. 0: not since it was started."""
    parent: NodeId
    """The SN that serves it, as far as this SN knows; for an SN the sentinel; empty where there is none."""


class Changes(Record, frozen=True, kw_only=True):
    """What changed on the ledger since the last notice; a stream's first notice names nothing, but says everything."""

    height: int
    """Up to and with this block."""
    contracts: tuple[ContractName, ...] = ()
    tasks: tuple[TaskName, ...] = ()
    runners: tuple[RunnerName, ...] = ()
    members: bool = False
    """Organisations or nodes."""
    proposals: bool = False
    """Proposals, or what validators are accused of."""
    everything: bool = False
    """Anything may have changed, also what is not named: look at all of it."""
    problem: str = ""
    """What keeps this SN from following the ledger, for people; empty while nothing does."""
