"""The second table of docs/spec/access.md, row by row: which roles may send which message (A-5)."""

import re
from pathlib import Path
from typing import get_args

import pytest
from chain_world import validator_of
from contracts_world import CONTRACT, World, name_of, node_of

from swarmlearning.contracts.messages import (
    AnyMessage,
    AppendTask,
    ApproveTask,
    AssignTask,
    CheckIn,
    CreateContract,
    CreateTask,
    CreateTaskrunner,
    DeleteTask,
    Enrol,
    FinalizeTask,
    Finish,
    Here,
    Leave,
    LeaveNetwork,
    ListenToRunner,
    Measure,
    MergeCommit,
    Propose,
    RegisterNode,
    ReportTask,
    ResetContract,
    ResetTaskrunner,
    RevokeCertificate,
    RotateValidator,
    Stored,
    Suspect,
    TakeTask,
    Tick,
    Unreachable,
    Vote,
    Withdraw,
)
from swarmlearning.contracts.proposals import ExpelOrganisation
from swarmlearning.contracts.task_records import ROOT_TASK, TaskType, WorkState
from swarmlearning.types import DEFAULT_RUNNER, Code, Role, TaskName

ACCESS = Path(__file__).parents[2] / "docs" / "spec" / "access.md"


def table() -> dict[str, set[Role]]:
    """Message to roles, as the document says."""
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", ACCESS.read_text(), re.MULTILINE)
    found: dict[str, set[Role]] = {}
    for messages, roles in rows:
        allowed = set(Role) if roles == "any" else {Role(role) for role in roles.split(", ")}
        found |= dict.fromkeys(re.findall(r"`(\w+)`", messages), allowed)
    return found


def messages(world: World) -> dict[type[AnyMessage], AnyMessage]:
    leader = node_of(world.leader())
    task = TaskName("new")
    return {
        CreateTask: CreateTask(task=task, kind=TaskType.PULL_IMAGE, author="", prereq=ROOT_TASK, outcome=""),
        AppendTask: AppendTask(task=task, first=1, lines=("line",)),
        FinalizeTask: FinalizeTask(task=task, hash=bytes(32)),
        DeleteTask: DeleteTask(task=task),
        ApproveTask: ApproveTask(task=task, hash=bytes(32), granted=True),
        CreateTaskrunner: CreateTaskrunner(runner=DEFAULT_RUNNER),
        AssignTask: AssignTask(runner=DEFAULT_RUNNER, task=task, hash=bytes(32), mode="all"),
        ResetTaskrunner: ResetTaskrunner(runner=DEFAULT_RUNNER, number=0),
        ListenToRunner: ListenToRunner(runner=DEFAULT_RUNNER, listening=True),
        TakeTask: TakeTask(runner=DEFAULT_RUNNER, number=1, planned=1),
        ReportTask: ReportTask(runner=DEFAULT_RUNNER, number=1, state=WorkState.RUNNING),
        CreateContract: CreateContract(contract=type(CONTRACT)("new")),
        RevokeCertificate: RevokeCertificate(fingerprint=bytes(32)),
        Propose: Propose(change=ExpelOrganisation(domain=name_of(1).domain)),
        Vote: Vote(proposal=1, change=bytes(32), yes=True),
        Withdraw: Withdraw(proposal=1),
        LeaveNetwork: LeaveNetwork(),
        RotateValidator: RotateValidator(validator=validator_of(1)),
        ResetContract: world.resetting(),
        Enrol: world.enrolment(),
        CheckIn: world.offer(0),
        Tick: world.ticking(),
        Measure: world.measurement(0),
        MergeCommit: world.commitment(0),
        Stored: world.storing(),
        Unreachable: world.report(0, 0),
        Suspect: world.suspicion(0, leader),
        Here: world.here(),
        Finish: world.finishing(),
        Leave: world.leaving(),
    }


def test_the_table_has_every_message_once() -> None:
    assert set(table()) == {kind.__name__ for kind in get_args(AnyMessage)}


@pytest.mark.parametrize("kind", [kind for kind in get_args(AnyMessage) if kind is not RegisterNode])
@pytest.mark.parametrize("role", list(Role))
def test_only_the_roles_in_the_table_get_past_the_door(kind: type[AnyMessage], role: Role) -> None:
    world = World()
    world.merging(3)
    sender = name_of(5, role)
    rejected = world.send(sender, messages(world)[kind])
    by_role = (
        rejected is not None
        and rejected.code is Code.NOT_ALLOWED
        and f"{sender.short} has the role {role.value}, needs" in rejected.log
    )
    assert by_role == (role not in table()[kind.__name__])
