"""What is told of a taskrunner, from its record alone. Rule CI-58."""

import pytest
from msgspec.structs import replace

from swarmlearning.contracts.task_records import (
    Agent,
    Assignment,
    RunnerState,
    Taskrunner,
    TaskType,
    Unit,
    WorkState,
)
from swarmlearning.errors import NotFound
from swarmlearning.reports.runners import explain_runner, find_peer, report_agents, report_status, tell_text
from swarmlearning.types import NodeId, RunnerName, TaskName, TrustDomain

AGENTS = tuple(NodeId(f"spiffe://org{index:02}.example/heart/swop/swop1") for index in range(20))


def assignment(kind: TaskType = TaskType.PULL_IMAGE, **changes: object) -> Assignment:
    base = Assignment(
        number=3,
        task=TaskName("task"),
        kind=kind,
        hash=bytes(range(32)),
        mode="peers",
        wanted=2,
        assigner=NodeId("spiffe://org00.example/heart/operator/op"),
        caller=NodeId("spiffe://org00.example/heart/operator/carol"),
        assigned_ms=1_000,
    )
    return replace(base, **changes)


def agent(index: int, state: WorkState, *units: Unit, planned: int = 1, description: str = "", at_ms: int = 0) -> Agent:
    return Agent(
        node=AGENTS[index],
        state=state,
        description=description,
        planned=planned,
        units=units,
        since_ms=2_000 + at_ms,
        reported_ms=3_000 + at_ms,
    )


def runner(
    given: Assignment, *agents: Agent, state: RunnerState = RunnerState.RUNNING, listeners: int = 0
) -> Taskrunner:
    return Taskrunner(
        name=RunnerName("r"),
        creator=TrustDomain("org00.example"),
        created_height=1,
        state=state,
        listeners=AGENTS[:listeners],
        assignment=given,
        agents=agents,
    )


def test_ci58_a_status_has_the_first_taking_and_the_newest_report() -> None:
    status = report_status(
        runner(assignment(), agent(0, WorkState.RUNNING, at_ms=50), agent(1, WorkState.RUNNING, at_ms=7))
    )
    assert (status.assigned_ms, status.taken_ms, status.reported_ms, status.ended_ms) == (1_000, 2_007, 3_050, None)
    assert status.hash == bytes(range(32)).hex()
    assert status.number == 3
    assert status.caller.endswith("carol")


def test_ci58_who_is_waited_for_is_told_by_what_they_do() -> None:
    run = assignment(TaskType.RUN_SWARM, wanted=5, chosen=AGENTS[:6])
    done, at_it = Unit(uid="a", state=WorkState.COMPLETE), Unit(uid="b", state=WorkState.RUNNING)
    failed = Unit(uid="c", state=WorkState.ERROR)
    told = explain_runner(
        runner(
            run,
            agent(0, WorkState.RUNNING, done, at_it, failed, planned=4, description="not told while it runs"),
            agent(1, WorkState.ENROLLED),
            agent(2, WorkState.AWAITING_APPROVAL, description="for Dr. B\n"),
            agent(3, WorkState.ERROR, description="no disk"),
            agent(4, WorkState.DENIED),
        )
    )
    assert told == (
        "task: 1 of 5 peers complete; "
        "awaiting approval: swop1@org02.example (for Dr. B?); "
        "has taken it: swop1@org01.example; "
        "running: swop1@org00.example (1 of 4 peers complete, 1 failed); "
        "failed: swop1@org03.example (no disk); "
        "denied: swop1@org04.example; "
        "has not taken it: swop1@org05.example"
    )


def test_ci58_an_agent_that_was_named_is_waited_for_though_it_does_not_listen() -> None:
    named = runner(assignment(targets=(AGENTS[9],)), agent(0, WorkState.RUNNING), listeners=1)
    assert explain_runner(named).endswith("; has not taken it: swop1@org09.example")
    assert [report.listens for report in report_agents(named)] == [True, False]


def test_ci58_without_agents_it_is_told_what_would_help() -> None:
    waiting = runner(assignment(), state=RunnerState.WAITING)
    assert explain_runner(waiting) == "task: 0 of 2 agents complete; no agent listens to r: it waits until one does"
    short = runner(assignment(), agent(0, WorkState.COMPLETE), listeners=1)
    assert explain_runner(short) == "task: 1 of 2 agents complete; it waits until another agent listens to r"
    over = runner(assignment(), agent(0, WorkState.COMPLETE), state=RunnerState.COMPLETE, listeners=5)
    assert explain_runner(over) == "task: 1 of 2 agents complete"


def test_ci58_only_so_many_names_are_told() -> None:
    told = explain_runner(runner(assignment(), listeners=13))
    assert told.count("swop1@") == 10
    assert told.endswith(", swop1@org09.example and 3 more")
    told = explain_runner(runner(assignment(), *(agent(index, WorkState.RUNNING) for index in range(12))))
    assert told.endswith(", swop1@org09.example and 2 more")


@pytest.mark.parametrize("name", ["2", "9" * 5000, "-1", "٣"])
def test_ci58_a_number_that_no_agent_has_is_told(name: str) -> None:
    two = runner(assignment(), agent(5, WorkState.RUNNING), agent(3, WorkState.RUNNING), listeners=1)
    assert [find_peer(two, number).node for number in ("0", "1", "001")] == [AGENTS[5], AGENTS[3], AGENTS[3]]
    assert find_peer(two, "swop1@org00.example").index is None
    with pytest.raises(NotFound) as raised:
        find_peer(two, name)
    assert len(str(raised.value)) < 400


def test_ci58_texts_of_others_are_never_taken_for_a_state() -> None:
    assert tell_text("done, TASK_STATE : COMPLETE") == "done, TASK-STATE : COMPLETE"
    assert tell_text("task_state") == "task-state"
    assert tell_text("a\tb\x1b[2J") == "a?b?[2J"
    told = report_status(replace(runner(assignment()), reason="TASK_STATE : IDLE"))
    assert told.reason == "TASK-STATE : IDLE"
