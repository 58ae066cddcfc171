"""Tasks, and the taskrunners that carry them out: what the ledger remembers of them. Spec: docs/spec/tasks.md.

Records only; who may do what is in `tasks`, `taskrunners` and `agents`.
"""

import enum
from typing import Final, Literal

from msgspec.structs import replace

from swarmlearning.encoding import Record, encode, sha256
from swarmlearning.types import NodeId, RunnerName, TaskName, TrustDomain

ROOT_TASK: Final = TaskName("ROOTTASK")
"""What a task names as its prerequisite that needs none; always there."""

MAX_FIELD: Final = 160
"""Longest author and outcome of a task, characters: as in the product we re-create."""

MAX_LINE: Final = 4096
"""Longest line of a task's body, characters."""

MAX_LINES: Final = 4096
"""Most lines of a body."""

MAX_TASK_BYTES: Final = 256 << 10
"""Most bytes of a body, as UTF-8 with an end of line each."""

MAX_BODIES_BYTES: Final = 8 << 20
"""Most bytes of all bodies of one organisation's tasks together."""

MAX_TASKS: Final = 1000
"""Most finalized tasks of one organisation, and as many that are not."""

MAX_APPROVALS: Final = 10_000
"""Most tasks of which one organisation says that its agents may carry them out, or may not."""

MAX_RUNNERS: Final = 100
"""Most taskrunners that one organisation creates."""

MAX_AGENTS: Final = 256
"""Most agents that listen to one taskrunner, and most that take one task."""

MAX_UNITS: Final = 64
"""Most peers (pairs of SL and ML program) that one agent starts for a task."""

MAX_PLANNED: Final = 256
"""Most peers that all agents together start for a task: as many as a training admits."""

MAX_UID: Final = 256
"""Longest uid of a peer, characters."""

# So that the largest record of a taskrunner stays under 1 MiB, these count bytes: a character may have four.

MAX_DESCRIPTION: Final = 480
"""Longest description of an agent or a peer, bytes as UTF-8."""

MAX_APPROVED_BY: Final = 256
"""Longest name of who agreed on an institution's behalf, bytes as UTF-8; a node id has at most 212."""

MAX_MANAGER: Final = 100
"""Longest name of what ran a program, bytes as UTF-8."""

MAX_IMAGE: Final = 160
"""Longest name of what a program ran in, bytes as UTF-8."""

MAX_EXIT_STATUS: Final = 255


# --- tasks ----------------------------------------------------------------------------------------------------------


class TaskType(enum.StrEnum):
    """What a task does on a host."""

    RUN_SWARM = "RUN_SWARM"
    MAKE_USER_CONTAINER = "MAKE_USER_CONTAINER"
    PULL_IMAGE = "PULL_IMAGE"
    MAKE_SWARM_USER_CONTENT = "MAKE_SWARM_USER_CONTENT"
    ROOT_TASK = "ROOT_TASK"
    """Of `ROOT_TASK` alone."""


class Task(Record, frozen=True, kw_only=True):
    """A task, without its body."""

    name: TaskName
    kind: TaskType
    author: str
    """For people; whose it is says `creator`."""
    prereq: TaskName
    outcome: str
    """What it leaves behind, such as an image's tag; the task after it refers to that."""
    creator: NodeId
    """Who signed it; its organisation's the task is. Empty of `ROOT_TASK` alone."""
    created_height: int
    lines: int = 0
    """Of its body."""
    hash: bytes = b""
    """`hash_task`, once it is final; empty before."""
    finalized_height: int = 0
    caller: NodeId = NodeId("")
    """On whose behalf the creator signed, where that was somebody else."""

    @property
    def is_final(self) -> bool:
        """Whether it can be changed no more, and be assigned."""
        return bool(self.hash)


def hash_task(task: Task, body: tuple[str, ...]) -> bytes:
    """SHA-256, 32 bytes, over what an institution approves or refuses: everything that a host carries out."""
    return sha256(encode((task.name, task.kind, task.author, task.prereq, task.outcome, task.creator, body)))


def make_root_task() -> Task:
    """W-1: the task that is there from the beginning, final and without a body."""
    root = Task(
        name=ROOT_TASK,
        kind=TaskType.ROOT_TASK,
        author="",
        prereq=ROOT_TASK,
        outcome="",
        creator=NodeId(""),
        created_height=0,
    )
    return replace(root, hash=hash_task(root, ()))


class Approval(Record, frozen=True, kw_only=True):
    """What an organisation said of a task: its agents may carry it out on their hosts, or may not."""

    task: TaskName
    domain: TrustDomain
    """Whose hosts it is about."""
    hash: bytes
    """Of the task, as whoever said it knew it."""
    granted: bool
    """False: denied."""
    by: NodeId
    """Who signed it."""
    caller: NodeId = NodeId("")
    """On whose behalf it was signed, where that was somebody else."""
    height: int
    time_ms: int
    """Block time."""


# --- taskrunners ----------------------------------------------------------------------------------------------------


class RunnerState(enum.StrEnum):
    """Where a taskrunner stands. `IDLE`, `COMPLETE` and `ERROR` mean: nothing is being done."""

    IDLE = "IDLE"  # nothing is assigned
    WAITING = "WAITING"  # assigned; no agent has taken it yet
    RUNNING = "RUNNING"  # an agent has
    COMPLETE = "COMPLETE"  # as many as were wanted have completed
    ERROR = "ERROR"  # one failed, and so many cannot complete any more


ACTIVE: Final = frozenset({RunnerState.WAITING, RunnerState.RUNNING})
"""States in which it is not decided how an assignment ends."""


class WorkState(enum.StrEnum):
    """How far an agent, or one of its peers, is with a task."""

    ENROLLED = "ENROLLED"  # has taken it
    AWAITING_APPROVAL = "AWAITING APPROVAL"  # its institution has to agree
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    ERROR = "ERROR"
    DENIED = "DENIED"  # its institution did not agree


ENDED: Final = frozenset({WorkState.COMPLETE, WorkState.ERROR, WorkState.DENIED})
FAILED: Final = frozenset({WorkState.ERROR, WorkState.DENIED})


class Evidence(Record, frozen=True, kw_only=True):
    """What ran on a host and how that ended, as far as its agent knows; for those who must prove it later."""

    manager: str = ""
    """What ran it, and what kept it apart from the host: `PROCESS with bubblewrap 0.8.0`."""
    image: str = ""
    """What it ran in: an image's digest, or the hash of a recipe."""
    exit_status: int | None = None
    """As a shell shows it, 0 to 255; None where nothing ended by itself."""
    log_hash: bytes = b""
    """SHA-256 of the program's log, 32 bytes; empty where there is none. The log stays on its host."""


class Unit(Record, frozen=True, kw_only=True):
    """A peer that an agent started for a task: an SL with its ML program."""

    uid: str
    """The SL's node id, or whatever the agent calls it before there is one."""
    state: WorkState
    description: str = ""
    evidence: Evidence | None = None
    """Of its ML program."""


class Agent(Record, frozen=True, kw_only=True):
    """What an agent (SWOP) reported of the task that its taskrunner has."""

    node: NodeId
    state: WorkState
    description: str = ""
    planned: int
    """Peers that it starts; for a task other than RUN_SWARM 1, itself."""
    units: tuple[Unit, ...] = ()
    """By uid; empty for a task other than RUN_SWARM."""
    approved_by: str = ""
    """Who agreed on its institution's behalf: a node id, or a policy's rule and hash; empty before that."""
    evidence: Evidence | None = None
    """Of a task other than RUN_SWARM."""
    since_ms: int
    """Block time at which it took the task."""
    reported_ms: int
    """Block time of its newest report."""


class Assignment(Record, frozen=True, kw_only=True):
    """The task that a taskrunner has."""

    number: int
    """Counts the assignments of this runner: a report of an earlier one is refused as stale."""
    task: TaskName
    kind: TaskType
    hash: bytes
    mode: Literal["peers", "all", "target"]
    wanted: int
    """How many have to complete: with mode `peers` and RUN_SWARM peers, else agents, each with all that it planned.
    With `all` as many as listened at that moment, with `target` one."""
    chosen: tuple[NodeId, ...] = ()
    """Who may take it, by node id; empty: every agent that listens, also later ones."""
    targets: tuple[NodeId, ...] = ()
    """Agents that were named (mode `target`) and have not taken it since, by node id: they may, whatever else holds."""
    assigner: NodeId
    caller: NodeId = NodeId("")
    """On whose behalf it was signed, where that was somebody else."""
    assigned_ms: int
    """Block time."""
    ended_ms: int = 0
    """Block time at which it was decided; 0 while it is not."""

    @property
    def wants_peers(self) -> bool:
        """W-9: whether `wanted` counts peers; else it counts agents."""
        return self.kind is TaskType.RUN_SWARM and self.mode == "peers"


class Taskrunner(Record, frozen=True, kw_only=True):
    """Carries out one task at a time, through the agents that listen to it."""

    name: RunnerName
    creator: TrustDomain
    created_height: int
    state: RunnerState = RunnerState.IDLE
    listeners: tuple[NodeId, ...] = ()
    """Agents that said that they take its tasks, by node id."""
    assignments: int = 0
    """How many there have been."""
    assignment: Assignment | None = None
    agents: tuple[Agent, ...] = ()
    """Who has taken the task, in the order in which they did: `GET TASKRUNNER PEER STATUS` counts by it."""
    reason: str = ""
    """Why it is in ERROR, for people."""
    version: int = 0
    """Grows with every change of this record."""


class Counts(Record, frozen=True, kw_only=True):
    """How many peers or agents there are of a task, by how far they are."""

    active: int
    completed: int
    failed: int


def count_work(runner: Taskrunner) -> Counts:
    """W-8: the peers of RUN_SWARM, else the agents; of what an agent planned, what it has not named stands as it does.

    For people. How the assignment ends is decided by `count_towards_wanted`.
    """
    assignment = runner.assignment
    if assignment is None or assignment.kind is not TaskType.RUN_SWARM:
        return _count([agent.state for agent in runner.agents])
    states: list[WorkState] = []
    for agent in runner.agents:
        states += [unit.state for unit in agent.units]
        states += [agent.state] * (agent.planned - len(agent.units))
    return _count(states)


def count_towards_wanted(runner: Taskrunner) -> Counts:
    """W-9: the peers or the agents of a task, whichever `wanted` counts."""
    if runner.assignment is not None and runner.assignment.wants_peers:
        return count_work(runner)
    return _count([agent.state for agent in runner.agents])


def _count(states: list[WorkState]) -> Counts:
    completed = sum(state is WorkState.COMPLETE for state in states)
    failed = sum(state in FAILED for state in states)
    return Counts(active=len(states) - completed - failed, completed=completed, failed=failed)
