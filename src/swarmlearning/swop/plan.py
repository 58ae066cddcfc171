"""What an agent has to do about a taskrunner, as a pure function of its record and of the agent's own journal.

Level-triggered: nothing is remembered of how the record came about, so a lost, repeated or late notice changes
nothing, and an agent that was restarted goes on where ledger and journal stand. Spec: docs/spec/swop.md, SW-2.
"""

import enum
from collections.abc import Sequence

import msgspec

from swarmlearning.contracts.outcome import planned_peers
from swarmlearning.contracts.task_records import (
    ACTIVE,
    ENDED,
    MAX_AGENTS,
    MAX_PLANNED,
    MAX_UNITS,
    Agent,
    Assignment,
    Taskrunner,
    TaskType,
)
from swarmlearning.types import NodeId


class Step(enum.StrEnum):
    """What is to be done about one assignment."""

    TAKE = "TAKE"  # it can be taken: write it down, then say so
    WORK = "WORK"  # we have taken it and it is not over: go on
    LOST = "LOST"  # the ledger says that we took it, and our journal does not: say that it failed
    ABANDON = "ABANDON"  # the runner does not have it any more, or it ended without us: stop, clean up
    REDO = "REDO"  # what we did was dropped, and we may take it once more: stop, clean up, take anew


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal says of one assignment of a runner."""

    id: str = ""
    """Of the entry."""
    number: int
    hash: bytes
    """Of the task."""
    assigned_ms: int
    version: int = 0
    """Of the runner's record in which it was last seen."""
    since_ms: int = 0
    """Block time at which we took it, as the ledger has it; 0: not known to be taken."""
    ended: bool = False
    """All that we did has ended, and how is written down."""
    cleaned: bool = False
    """Nothing of it is left on this host but its logs."""
    dropped: bool = False
    """What we did does not count any more: it was to be taken anew."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One step, and which assignment it is about."""

    step: Step
    number: int
    known: Known | None = None
    """The entry it is about; None: there is none."""
    why: str = ""
    """For people."""


def may_take(runner: Taskrunner, me: NodeId, planned: int) -> bool:
    """W-11: whether the ledger would let this agent take the task with so many peers."""
    assignment = runner.assignment
    if assignment is None or find_agent(runner, me) is not None:
        return False
    named = me in assignment.targets
    if not named and (me not in (assignment.chosen or runner.listeners) or runner.state not in ACTIVE):
        return False
    most = MAX_UNITS if assignment.kind is TaskType.RUN_SWARM else 1
    fits = len(runner.agents) < MAX_AGENTS and planned_peers(runner) + planned <= MAX_PLANNED
    return 1 <= planned <= most and fits


def find_agent(runner: Taskrunner, me: NodeId) -> Agent | None:
    """What the ledger has of an agent's work for the present assignment."""
    return next((agent for agent in runner.agents if agent.node == me), None)


def is_same(known: Known, assignment: Assignment) -> bool:
    """Whether an entry is of this assignment: a network that was founded anew counts from 1 again."""
    same = known.number == assignment.number and known.assigned_ms == assignment.assigned_ms
    return same and known.hash == assignment.hash


def is_behind(runner: Taskrunner, known: Sequence[Known]) -> bool:
    """Whether the journal knows of a newer record than this one: then our SN has yet to catch up."""
    assigned_ms = 0 if runner.assignment is None else runner.assignment.assigned_ms
    return any(entry.version > runner.version and assigned_ms <= entry.assigned_ms for entry in known)


def plan(runner: Taskrunner, me: NodeId, known: Sequence[Known], planned: int) -> list[Action]:
    """What to do now.

    Args:
        runner: as our SN has it.
        me: this agent.
        known: what the journal has of this runner's assignments.
        planned: how many peers this agent would start for the task that the runner has.
    """
    if is_behind(runner, known):
        return []
    assignment = runner.assignment
    current: Known | None = None
    actions = []
    for entry in known:
        if assignment is not None and not entry.dropped and is_same(entry, assignment):
            current = entry
        elif not entry.cleaned:
            why = "it was named for it anew" if entry.dropped else f"{runner.name} does not have it any more"
            actions.append(Action(step=Step.ABANDON, number=entry.number, known=entry, why=why))
    if assignment is not None:
        actions += _plan_current(runner, assignment, me, current, planned)
    return actions


def _plan_current(
    runner: Taskrunner, assignment: Assignment, me: NodeId, known: Known | None, planned: int
) -> list[Action]:
    """What to do about the assignment that the runner has."""
    mine = find_agent(runner, me)

    def action(step: Step, why: str = "") -> list[Action]:
        return [Action(step=step, number=assignment.number, known=known, why=why)]

    if mine is None:
        takes = may_take(runner, me, planned)
        if known is None or not known.since_ms:
            return action(Step.TAKE) if takes else []
        # It had been taken: it counts no more, W-15.
        if takes:
            return action(Step.REDO, "it was named for it anew")
        return [] if known.cleaned else action(Step.ABANDON, "what it did was dropped, and it cannot take it anew")
    if mine.state in ENDED:
        if known is None or known.ended:
            return []
        return action(Step.ABANDON, f"on the ledger it is {mine.state.value}: {mine.description}")
    if known is None or (known.since_ms and known.since_ms != mine.since_ms):
        return action(Step.LOST)
    return action(Step.WORK)
