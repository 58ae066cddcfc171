"""Tasks, and the taskrunners that carry them out: what the ledger remembers of them. Spec: docs/spec/tasks.md.

Records only; who may do what is in `tasks` and `taskrunners`.
"""

import enum
from typing import Final, Literal

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

MAX_TASKS: Final = 1000
"""Most finalized tasks of one organisation, and as many that are not."""

MAX_RUNNERS: Final = 100
"""Most taskrunners that one organisation creates."""

MAX_AGENTS: Final = 256
"""Most agents that listen to one taskrunner."""

MAX_UNITS: Final = 64
"""Most peers (pairs of SL and ML program) that one agent starts for a task."""


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


# --- taskrunners ----------------------------------------------------------------------------------------------------


class RunnerState(enum.StrEnum):
    """Where a taskrunner stands. `IDLE`, `COMPLETE` and `ERROR` mean: nothing is being done."""

    IDLE = "IDLE"  # nothing is assigned
    WAITING = "WAITING"  # assigned; no agent has taken it yet
    RUNNING = "RUNNING"  # an agent has
    COMPLETE = "COMPLETE"  # as many peers as were wanted have completed
    ERROR = "ERROR"  # so many cannot complete any more


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


class Unit(Record, frozen=True, kw_only=True):
    """A peer that an agent started for a task: an SL with its ML program."""

    uid: str
    """The SL's node id, or whatever the agent calls it before there is one."""
    state: WorkState
    description: str = ""


class Agent(Record, frozen=True, kw_only=True):
    """What an agent (SWOP) reported of the task that its taskrunner has."""

    node: NodeId
    state: WorkState
    description: str = ""
    planned: int
    """Peers that it starts; for a task other than RUN_SWARM 1, itself."""
    units: tuple[Unit, ...] = ()
    """By uid; empty for a task other than RUN_SWARM."""
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
    """How many peers (RUN_SWARM) or agents have to complete; with `all`: agents that listened at that moment."""
    chosen: tuple[NodeId, ...] = ()
    """Who may take it; empty: every agent that listens, also later ones."""
    assigner: NodeId
    caller: NodeId = NodeId("")
    """On whose behalf it was signed, where that was somebody else."""
    assigned_ms: int
    """Block time."""
    ended_ms: int = 0
    """Block time at which it was decided; 0 while it is not."""


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
    """How many peers (RUN_SWARM) or agents there are of a task."""

    active: int
    completed: int
    failed: int


def count_work(runner: Taskrunner) -> Counts:
    """W-8: the peers of RUN_SWARM, else the agents; what an agent has not reported on yet counts as active."""
    assignment = runner.assignment
    if assignment is None:
        return Counts(active=0, completed=0, failed=0)
    completed = failed = total = 0
    for agent in runner.agents:
        if assignment.kind is not TaskType.RUN_SWARM:
            states = [agent.state]
        elif agent.state in FAILED:
            # What it had not begun will not be begun any more.
            states = [unit.state for unit in agent.units if unit.state is WorkState.COMPLETE]
            states += [agent.state] * max(0, agent.planned - len(states))
        else:
            states = [unit.state for unit in agent.units]
            states += [agent.state] * max(0, agent.planned - len(states))
        total += len(states)
        completed += sum(state is WorkState.COMPLETE for state in states)
        failed += sum(state in FAILED for state in states)
    return Counts(active=total - completed - failed, completed=completed, failed=failed)
