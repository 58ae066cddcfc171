"""What is told of a taskrunner, from its record alone. Rule CI-58."""

import pytest
from msgspec.structs import replace

from swarmlearning.contracts.task_records import (
    Agent,
    Assignment,
    Evidence,
    RunnerState,
    Taskrunner,
    TaskType,
    Unit,
    WorkState,
)
from swarmlearning.errors import NotFound
from swarmlearning.reports.agents import agent_cells, describe_agent, find_peer, report_agents
from swarmlearning.reports.runners import explain_runner, report_status, tell_text
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
        "awaiting approval: swop1@org02.example (for Dr. B?) "
        "(an operator of org02.example decides, by APPROVE TASK task or DENY TASK task); "
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


# --- approvals and evidence -----------------------------------------------------------------------------------------


def test_ci58_who_waits_for_an_approval_is_told_with_what_to_do_and_whose_operator_does_it() -> None:
    asking = runner(
        assignment(wanted=4),
        agent(1, WorkState.AWAITING_APPROVAL, description="for Dr. B"),
        agent(0, WorkState.AWAITING_APPROVAL),
        agent(2, WorkState.RUNNING),
    )
    assert "awaiting approval: swop1@org01.example (for Dr. B), swop1@org00.example " in explain_runner(asking)
    assert (
        "(an operator of each of org00.example, org01.example decides, by APPROVE TASK task or DENY TASK task); running"
        in explain_runner(asking)
    )
    first, second, third = report_agents(asking)
    assert first.organisation == "org01.example"
    assert first.to_do == "an operator of org01.example decides, by APPROVE TASK task or DENY TASK task"
    assert ("TO_DO", first.to_do) in describe_agent(first)
    assert agent_cells(first)[-1] == f"for Dr. B; {first.to_do}"
    assert agent_cells(second)[-1] == second.to_do
    assert third.to_do == ""
    assert "TO_DO" not in dict(describe_agent(third))


def test_ci58_only_so_many_organisations_are_asked_for_by_name() -> None:
    told = explain_runner(runner(assignment(), *(agent(index, WorkState.AWAITING_APPROVAL) for index in range(12))))
    assert "org09.example and 2 more decides" in told
    assert "org10" not in told.partition("(an operator")[2]


def test_ci58_evidence_is_told_of_an_agent_and_of_peers() -> None:
    ran = Evidence(manager="PROCESS\x1b", image="TASK_STATE", exit_status=137, log_hash=bytes(range(32)))
    node = NodeId("spiffe://org00.example/heart/operator/op")
    built = replace(agent(0, WorkState.ERROR), evidence=ran, approved_by=node)
    told = dict(describe_agent(report_agents(runner(assignment(), built))[0]))
    digest = bytes(range(32)).hex()
    assert told["RAN_BY"] == f"PROCESS? , IMAGE : TASK-STATE , EXIT_STATUS : 137 , LOG_HASH : {digest}"
    assert told["APPROVED_BY"] == node
    peers = (Unit(uid="a", state=WorkState.RUNNING, evidence=Evidence()), Unit(uid="b", state=WorkState.RUNNING))
    running = replace(agent(0, WorkState.RUNNING, *peers, planned=2), approved_by="policy\x07 heart 7f")
    report = report_agents(runner(assignment(TaskType.RUN_SWARM), running))[0]
    assert describe_agent(report)[4:] == [
        ("APPROVED_BY", "policy? heart 7f"),
        ("PEER_TYPE", "SL"),
        ("PEERS", "2"),
        ("PEER_UID", "a , STATUS : RUNNING"),
        ("PEER_RAN_BY", "- , IMAGE : - , EXIT_STATUS : - , LOG_HASH : -"),
        ("PEER_UID", "b , STATUS : RUNNING"),
    ]
    assert report.units[1].evidence is None
