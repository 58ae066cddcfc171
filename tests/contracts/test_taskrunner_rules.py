"""Taskrunners and their agents: docs/spec/tasks.md, W-6 to W-15, each with its attack."""

from typing import Literal

import pytest
from contracts_world import name_of
from governance_world import Parliament
from msgspec.structs import replace
from task_world import PULL, RUN, RUNNER, Ward, op, second_runner, swop, unit, units, ward_with

from swarmlearning.contracts import changes, taskrunners
from swarmlearning.contracts.messages import CreateTaskrunner, ListenToRunner, ReportTask, ResetTaskrunner, TakeTask
from swarmlearning.contracts.proposals import ChangeRoles
from swarmlearning.contracts.task_records import (
    ENDED,
    MAX_AGENTS,
    MAX_DESCRIPTION,
    MAX_PLANNED,
    MAX_RUNNERS,
    MAX_UID,
    MAX_UNITS,
    ROOT_TASK,
    Counts,
    RunnerState,
    Taskrunner,
    TaskType,
    WorkState,
    count_towards_wanted,
    count_work,
)
from swarmlearning.types import Code, NodeId, Role, RunnerName, TaskName

IDLE, WAITING, RUNNING = RunnerState.IDLE, RunnerState.WAITING, RunnerState.RUNNING
COMPLETE, ERROR = RunnerState.COMPLETE, RunnerState.ERROR
DONE, FAILED, BUSY, DENIED = WorkState.COMPLETE, WorkState.ERROR, WorkState.RUNNING, WorkState.DENIED


def began(task: TaskName, *listening: int, peers: int = 1, organisations: int = 4) -> Ward:
    """A ward whose agents listen, with a task assigned to so many peers."""
    ward = ward_with(*listening, organisations=organisations)
    ward.must(op(0), ward.assigning(task, peers))
    return ward


# --- W-6: creation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.SN, Role.OPERATOR, Role.SWOP])
def test_w6_taskrunners_are_created_once_and_by_whom_they_are_used(role: Role) -> None:
    ward = Ward()
    message = CreateTaskrunner(runner=RunnerName("ward-3"))
    ward.must(name_of(1, role), message)
    found = taskrunners.load_runner(ward.state, message.runner)
    assert found == Taskrunner(name=message.runner, creator=op(1).domain, created_height=ward.height, version=1)
    ward.refusal(op(0), message, Code.CONFLICT)
    ward.refusal(op(0), CreateTaskrunner(runner=RUNNER), Code.CONFLICT)
    ward.refusal(op(0), CreateTaskrunner(runner=RunnerName("a b")), Code.MALFORMED)


def test_w6_an_organisation_has_so_many_taskrunners() -> None:
    ward = Ward()
    for number in range(MAX_RUNNERS):
        ward.must(op(0), CreateTaskrunner(runner=RunnerName(f"r{number}")))
    more = CreateTaskrunner(runner=RunnerName("more"))
    assert "100 taskrunners" in ward.refusal(op(0), more, Code.CONFLICT)
    ward.must(op(1), more)


def test_w6_what_is_said_of_a_runner_that_is_not_there_is_refused() -> None:
    ward = ward_with()
    none = RunnerName("none")
    for sender, message in (
        (op(0), replace(ward.assigning(PULL), runner=none)),
        (op(0), ResetTaskrunner(runner=none, number=0)),
        (swop(0), ListenToRunner(runner=none, listening=True)),
        (swop(0), TakeTask(runner=none, number=1, planned=1)),
        (swop(0), ReportTask(runner=none, number=1, state=DONE)),
    ):
        assert "no taskrunner none" in ward.refusal(sender, message, Code.NOT_FOUND)


# --- W-7: assignments -----------------------------------------------------------------------------------------------


def test_w7_an_assignment_says_all_that_agents_and_auditors_need() -> None:
    ward = ward_with(1, 2)
    ward.must(op(3), ward.assigning(RUN, peers=2), caller=op(3).id)
    found = ward.assignment
    assert (found.number, found.task, found.kind, found.hash) == (1, RUN, TaskType.RUN_SWARM, ward.task(RUN).hash)
    assert (found.mode, found.wanted, found.chosen, found.targets) == ("peers", 2, (), ())
    assert (found.assigner, found.caller) == (op(3).id, op(3).id)
    assert (found.assigned_ms, found.ended_ms) == (ward.now_ms, 0)
    assert ward.standing is WAITING
    assert ward.runner.assignments == 1


def test_w7_only_what_is_final_and_of_the_named_hash_is_assigned() -> None:
    ward = ward_with(0)
    ward.must(op(0), ward.creation("draft"), ward.append("draft", "x"))
    message = ward.assigning(PULL)
    assert "not final" in ward.refusal(op(0), replace(message, task=TaskName("draft")), Code.CONFLICT)
    assert "hash" in ward.refusal(op(0), replace(message, hash=bytes(32)), Code.CONFLICT)
    assert "no task none" in ward.refusal(op(0), replace(message, task=TaskName("none")), Code.NOT_FOUND)
    root = replace(message, task=ROOT_TASK, hash=ward.task(ROOT_TASK).hash)
    assert "nothing to carry out" in ward.refusal(op(0), root, Code.CONFLICT)


@pytest.mark.parametrize(
    ("mode", "peers", "target"),
    [
        ("peers", 0, ""),
        ("peers", -1, ""),
        ("peers", MAX_PLANNED + 1, ""),
        ("peers", 1, swop(0).id),
        ("all", 1, ""),
        ("all", -5, ""),
        ("all", 0, swop(0).id),
        ("target", 0, ""),
        ("target", 1, swop(0).id),
    ],
)
def test_w7_a_mode_comes_with_what_it_needs_and_nothing_else(
    mode: Literal["peers", "all", "target"], peers: int, target: str
) -> None:
    ward = ward_with(0)
    message = replace(ward.assigning(PULL), mode=mode, peers=peers, target=NodeId(target))
    ward.refusal(op(0), message, Code.MALFORMED)


def test_w7_a_runner_has_one_task_at_a_time_and_says_what_to_do() -> None:
    ward = began(PULL, 0)
    for message in (ward.assigning(PULL), ward.assigning(RUN), ward.assigning_all(RUN)):
        log = ward.refusal(op(1), message, Code.CONFLICT)
        assert "is WAITING" in log
        assert "RESET" in log
        assert "TARGET" in log
    ward.take(0)
    ward.report(0, DONE)
    assert "is COMPLETE" in ward.refusal(op(1), ward.assigning(RUN), Code.CONFLICT)


def test_w7_all_are_those_that_listen_at_that_moment() -> None:
    ward = ward_with()
    assert f"no agent listens to {RUNNER}" in ward.refusal(op(0), ward.assigning_all(PULL), Code.CONFLICT)
    ward.listen(2, 1)
    ward.must(op(0), ward.assigning_all(PULL))
    assert (ward.assignment.wanted, ward.assignment.chosen) == (2, (swop(1).id, swop(2).id))
    ward.listen(3)
    assert "was not chosen" in ward.refusal(swop(3), ward.taking(), Code.NOT_ALLOWED)
    # Who is chosen takes it, also if it listens no more.
    ward.must(swop(2), ward.listening(False))
    ward.take(1, 2)


# --- W-8: what is counted -------------------------------------------------------------------------------------------


def test_w8_of_a_swarm_peers_are_counted_and_what_is_not_named_stands_as_its_agent() -> None:
    ward = began(RUN, 0, 1, peers=8)
    assert count_work(ward.runner) == Counts(active=0, completed=0, failed=0)
    ward.take(0, planned=3)
    ward.take(1, planned=2)
    assert count_work(ward.runner) == Counts(active=5, completed=0, failed=0)
    ward.report(0, BUSY, DONE, FAILED)
    assert count_work(ward.runner) == Counts(active=3, completed=1, failed=1)
    ward.report(0, FAILED, DONE, FAILED)
    assert count_work(ward.runner) == Counts(active=2, completed=1, failed=2)
    ward.report(1, DONE, DONE, DONE)
    assert count_work(ward.runner) == Counts(active=0, completed=3, failed=2)


def test_w8_of_other_tasks_agents_are_counted() -> None:
    ward = began(PULL, 0, 1, 2, peers=3)
    ward.take(0, 1, 2)
    ward.report(0, DONE)
    ward.report(1, BUSY)
    assert count_work(ward.runner) == Counts(active=2, completed=1, failed=0)
    assert count_work(Ward().runner) == Counts(active=0, completed=0, failed=0)


# --- W-9: how it ends -----------------------------------------------------------------------------------------------


def test_w9_a_runner_is_complete_as_soon_as_so_many_peers_have_completed() -> None:
    ward = began(RUN, 0, 1, peers=3)
    ward.take(0, planned=2)
    assert ward.standing is RUNNING
    ward.take(1, planned=2)
    ward.report(0, DONE, DONE, DONE)
    assert ward.standing is RUNNING
    assert ward.assignment.ended_ms == 0
    ward.report(1, BUSY, DONE, BUSY)
    assert ward.standing is COMPLETE
    assert ward.assignment.ended_ms == ward.now_ms
    assert ward.runner.reason == ""
    # More than were wanted finish in their own time (W-12), and change nothing of it.
    ended_ms = ward.assignment.ended_ms
    ward.report(1, FAILED, DONE, FAILED, description="late")
    assert (ward.standing, ward.assignment.ended_ms) == (COMPLETE, ended_ms)
    assert ward.agent(1).description == "late"


def test_w9_with_all_every_agent_completes_all_that_it_planned() -> None:
    """Two of one agent's peers are not two agents."""
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(RUN))
    ward.take(0, 1, planned=2)
    ward.report(0, DONE, DONE, DONE)
    assert ward.standing is RUNNING
    assert count_work(ward.runner) == Counts(active=2, completed=2, failed=0)
    assert count_towards_wanted(ward.runner) == Counts(active=1, completed=1, failed=0)
    ward.report(1, DONE, DONE, DONE)
    assert ward.standing is COMPLETE


def test_w9_with_all_one_failure_is_one_too_many_at_once() -> None:
    ward = ward_with(0, 1, 2)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.take(0)
    ward.report(0, DENIED, description="not in our hospital")
    assert ward.standing is ERROR
    assert ward.runner.reason == "at most 2 of 3 agents can complete; swop0@org0.example: DENIED: not in our hospital"
    assert ward.assignment.ended_ms == ward.now_ms


def test_w9_an_error_is_said_when_so_many_cannot_complete_any_more_and_not_before() -> None:
    ward = began(PULL, 0, 1, 2, peers=2)
    ward.take(0, 1)
    ward.report(0, FAILED, description="disk full")
    # Two are left: the one at it and the one that has yet to take it.
    assert ward.standing is RUNNING
    ward.must(swop(2), ward.listening(False))
    assert ward.standing is ERROR
    assert ward.runner.reason == "at most 1 of 2 agents can complete; swop0@org0.example: ERROR: disk full"


def test_w9_a_peer_that_failed_is_named_by_its_agent_and_its_own_words() -> None:
    ward = began(RUN, 0, 1, peers=4)
    ward.take(0, 1, planned=2)
    ward.report(0, DONE, DONE, DONE)
    ward.must(
        swop(1), ward.reporting(BUSY, (unit("a", BUSY), unit("b", FAILED, "CUDA out of memory")), "still running")
    )
    assert ward.standing is ERROR
    assert ward.runner.reason == "at most 3 of 4 peers can complete; swop1@org1.example: ERROR: CUDA out of memory"


def test_w9_of_whom_no_peers_are_counted_an_agent_with_a_failed_peer_is_not_named() -> None:
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(RUN))
    ward.take(0, 1, planned=2)
    ward.report(1, BUSY, FAILED, description="one is lost")
    assert ward.standing is RUNNING
    ward.report(0, FAILED)
    assert ward.runner.reason == "at most 1 of 2 agents can complete; swop0@org0.example: ERROR"


def test_w9_as_long_as_none_failed_others_may_come() -> None:
    ward = began(PULL, 0, peers=2)
    ward.take(0)
    ward.report(0, DONE)
    assert ward.standing is RUNNING
    ward.listen(1)
    ward.take(1)
    ward.report(1, DONE)
    assert ward.standing is COMPLETE


def test_w9_who_has_yet_to_take_it_may_bring_many_peers() -> None:
    ward = began(RUN, 0, 1, peers=MAX_UNITS)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is RUNNING
    ward.take(1, planned=MAX_UNITS)
    ward.report(1, DONE, *[DONE] * MAX_UNITS)
    assert ward.standing is COMPLETE


def test_w9_who_has_yet_to_take_it_brings_no_more_than_an_agent_may() -> None:
    ward = began(RUN, 0, 1, peers=MAX_UNITS + 1)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is ERROR


def test_w9_who_has_yet_to_take_it_brings_no_more_than_there_is_room_for() -> None:
    agents = MAX_PLANNED // MAX_UNITS
    ward = began(RUN, *range(agents + 1), peers=MAX_PLANNED, organisations=agents + 1)
    ward.take(*range(agents), planned=MAX_UNITS)
    ward.report(0, FAILED)
    assert ward.standing is ERROR


def test_w9_of_an_agent_that_failed_with_its_peers_its_own_words_are_told() -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=2)
    ward.must(swop(0), ward.reporting(FAILED, (unit("a", FAILED, "exit 1"), unit("b", BUSY)), "no peer is left"))
    assert ward.runner.reason == "at most 0 of 2 peers can complete; swop0@org0.example: ERROR: no peer is left"


def test_w9_another_agent_completes_in_the_place_of_one_that_fell_silent() -> None:
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.take(0, 1)
    ward.report(0, DONE)
    ward.now_ms += 10**12
    assert ward.standing is RUNNING
    ward.must(op(0), ward.targeting(PULL, 3))
    ward.take(3)
    ward.report(3, DONE)
    assert ward.standing is COMPLETE


def test_w9_what_is_decided_stays_whatever_comes() -> None:
    ward = began(PULL, 0, 1, peers=2)
    ward.take(0, 1)
    ward.report(0, FAILED)
    assert ward.standing is ERROR
    reason = ward.runner.reason
    ward.listen(2)
    ward.report(1, DONE)
    assert (ward.standing, ward.runner.reason) == (ERROR, reason)
    assert "taken no more" in ward.refusal(swop(2), ward.taking(), Code.CONFLICT)


# --- W-10: listening ------------------------------------------------------------------------------------------------


def test_w10_an_agent_says_itself_that_it_listens_or_does_no_more() -> None:
    ward = Ward()
    ward.listen(1, 0)
    assert list(ward.runner.listeners) == [swop(0).id, swop(1).id]
    version = ward.runner.version
    ward.listen(1)
    assert ward.runner.version == version, "said twice is said once"
    ward.must(swop(1), ward.listening(False))
    ward.must(swop(1), ward.listening(False))
    assert list(ward.runner.listeners) == [swop(0).id]
    for role in set(Role) - {Role.SWOP}:
        ward.refusal(name_of(0, role), ward.listening(), Code.NOT_ALLOWED)


def test_w10_so_many_listen_to_one_runner() -> None:
    ward = Ward(1)
    ward.listen(*range(MAX_AGENTS))
    assert "256 agents" in ward.refusal(swop(MAX_AGENTS), ward.listening(), Code.CONFLICT)
    ward.listen(0)
    ward.must(swop(0), ward.listening(False))
    ward.listen(MAX_AGENTS)


# --- W-11: taking ---------------------------------------------------------------------------------------------------


def test_w11_an_agent_that_listens_takes_the_task_once() -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=2)
    agent = ward.agent(0)
    assert (agent.state, agent.planned, agent.units) == (WorkState.ENROLLED, 2, ())
    assert agent.since_ms == agent.reported_ms == ward.now_ms
    assert "already" in ward.refusal(swop(0), ward.taking(), Code.CONFLICT)
    assert "does not listen" in ward.refusal(swop(1), ward.taking(), Code.NOT_ALLOWED)
    ward.refusal(op(0), ward.taking(), Code.NOT_ALLOWED)


@pytest.mark.parametrize("number", [-1, 0, 2])
def test_w11_another_assignment_than_the_runners_is_stale(number: int) -> None:
    ward = began(PULL, 0)
    message = replace(ward.taking(), number=number)
    ward.refusal(swop(0), message, Code.STALE)
    ward.take(0)
    ward.refusal(swop(0), replace(ward.reporting(DONE), number=number), Code.STALE)
    idle = ward_with(0)
    assert "has no task" in idle.refusal(swop(0), message, Code.STALE)


@pytest.mark.parametrize(("task", "planned"), [(RUN, 0), (RUN, -1), (RUN, MAX_UNITS + 1), (PULL, 0), (PULL, 2)])
def test_w11_an_agent_plans_a_bounded_number_of_peers(task: TaskName, planned: int) -> None:
    ward = began(task, 0)
    ward.refusal(swop(0), ward.taking(planned), Code.MALFORMED)
    ward.take(0, planned=MAX_UNITS if task == RUN else 1)


def test_w11_all_agents_together_plan_as_many_peers_as_a_training_admits() -> None:
    agents = MAX_PLANNED // MAX_UNITS
    ward = began(RUN, *range(agents + 1), peers=2, organisations=agents + 1)
    ward.take(*range(agents - 1), planned=MAX_UNITS)
    ward.take(agents - 1, planned=MAX_UNITS - 1)
    assert "too many" in ward.refusal(swop(agents), ward.taking(2), Code.CONFLICT)
    ward.take(agents)


def test_w11_more_than_are_wanted_may_take_it() -> None:
    ward = began(PULL, 0, 1, peers=1)
    ward.take(0, 1)
    ward.report(1, DONE)
    assert ward.standing is COMPLETE


# --- W-12: reports --------------------------------------------------------------------------------------------------


def test_w12_a_report_says_how_far_an_agent_and_its_peers_are() -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=2)
    since = ward.now_ms
    ward.report(0, WorkState.AWAITING_APPROVAL, description="asked Dr. Meier")
    ward.must(swop(0), ward.reporting(BUSY, (unit("a", BUSY, "epoch 1"), unit("b", WorkState.ENROLLED)), "2 started"))
    agent = ward.agent(0)
    assert (agent.state, agent.description) == (BUSY, "2 started")
    assert agent.units == (unit("a", BUSY, "epoch 1"), unit("b", WorkState.ENROLLED))
    assert (agent.since_ms, agent.reported_ms) == (since, ward.now_ms)


def test_w12_only_who_has_taken_it_reports() -> None:
    ward = began(PULL, 0, 1)
    assert "has not taken" in ward.refusal(swop(0), ward.reporting(DONE), Code.CONFLICT)
    ward.take(0)
    assert "has not taken" in ward.refusal(swop(1), ward.reporting(DONE), Code.CONFLICT)


def test_w12_a_description_is_never_refused_but_cut_and_cleaned() -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=1)
    nasty = "\x1b[2Jbuild failed\n\x9b" + "ü" * 500
    ward.must(swop(0), ward.reporting(BUSY, (unit("a", BUSY, nasty),), nasty))
    agent = ward.agent(0)
    assert agent.description == agent.units[0].description
    assert agent.description.startswith("?[2Jbuild failed??üü")
    # The last ü would have its second byte beyond the limit.
    assert len(agent.description.encode()) == MAX_DESCRIPTION - 2
    ward.must(swop(0), ward.reporting(BUSY, (), "x" * 500))
    assert ward.agent(0).description == "x" * MAX_DESCRIPTION


@pytest.mark.parametrize(
    "uids", [["b", "a"], ["a", "a"], ["a", "b", "c"], [""], ["x" * (MAX_UID + 1)], ["\x1b[2J"], ["a", "x" * 201 + "\n"]]
)
def test_w12_peers_are_named_once_in_order_and_no_more_than_planned(uids: list[str]) -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=2)
    ward.refusal(swop(0), ward.reporting(BUSY, tuple(unit(uid, BUSY) for uid in uids)), Code.MALFORMED)
    ward.must(swop(0), ward.reporting(BUSY, (unit("x" * MAX_UID, BUSY),)))


def test_w12_what_has_no_peers_reports_none() -> None:
    ward = began(PULL, 0)
    ward.take(0)
    assert "has no peers" in ward.refusal(swop(0), ward.reporting(BUSY, units(BUSY)), Code.MALFORMED)
    ward.report(0, DONE)


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_w12_an_agent_that_has_ended_reports_no_more(ended: WorkState) -> None:
    ward = began(PULL, 0, 1, peers=2)
    ward.take(0)
    ward.report(0, ended)
    for state in WorkState:
        assert ended.value in ward.refusal(swop(0), ward.reporting(state), Code.CONFLICT)


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_w12_a_peer_that_has_ended_stays_as_it_was_and_another_may_get_its_name(ended: WorkState) -> None:
    ward = began(RUN, 0, peers=4)
    ward.take(0, planned=2)
    ward.must(swop(0), ward.reporting(BUSY, (unit("a", ended), unit("container-1", WorkState.ENROLLED))))
    for state in set(WorkState) - {ended}:
        ward.refusal(swop(0), ward.reporting(BUSY, (unit("a", state),)), Code.CONFLICT)
    assert "stays so" in ward.refusal(swop(0), ward.reporting(BUSY, (unit("b", BUSY),)), Code.CONFLICT)
    ward.must(swop(0), ward.reporting(BUSY, (unit("a", ended, "more words"), unit("sl-1", BUSY))))


@pytest.mark.parametrize("peers", [(), (DONE,), (DONE, BUSY), (DONE, FAILED)])
def test_w12_complete_is_who_names_all_planned_peers_as_complete(peers: tuple[WorkState, ...]) -> None:
    ward = began(RUN, 0, peers=2)
    ward.take(0, planned=2)
    ward.refusal(swop(0), ward.reporting(DONE, units(*peers)), Code.MALFORMED)
    ward.report(0, DONE, DONE, DONE)


@pytest.mark.parametrize("failed", [FAILED, DENIED])
def test_w12_with_an_agent_that_fails_end_its_peers_that_had_not(failed: WorkState) -> None:
    ward = began(RUN, 0, 1, peers=2)
    ward.take(0, planned=4)
    ward.report(0, failed, DONE, BUSY, WorkState.ENROLLED)
    assert [peer.state for peer in ward.agent(0).units] == [DONE, failed, failed]
    assert count_work(ward.runner) == Counts(active=0, completed=1, failed=3)


# --- W-13: resetting ------------------------------------------------------------------------------------------------


def test_w13_a_reset_runner_has_no_task_and_its_listeners() -> None:
    ward = began(PULL, 0, 1, peers=2)
    ward.take(0, 1)
    ward.report(0, FAILED, description="x")
    report = ward.reporting(DONE)
    ward.must(op(0), ward.resetting())
    runner = ward.runner
    assert (runner.state, runner.assignment, runner.agents, runner.reason) == (IDLE, None, (), "")
    assert runner.listeners == (swop(0).id, swop(1).id)
    # What was assigned before is over, also when the same task is assigned again.
    ward.must(op(0), ward.assigning(PULL))
    assert ward.assignment.number == 2
    ward.refusal(swop(1), report, Code.STALE)


def test_w13_who_resets_names_what_it_resets() -> None:
    ward = began(PULL, 0)
    for number in (0, 2, -1):
        ward.refusal(op(0), ResetTaskrunner(runner=RUNNER, number=number), Code.STALE)
    seen = ward.resetting()
    ward.must(op(0), seen, ward.assigning(PULL))
    ward.refusal(op(0), seen, Code.STALE)


def test_w13_a_runner_without_a_task_may_be_reset_and_nothing_happens() -> None:
    ward = ward_with(0)
    before = ward.runner
    ward.must(op(3), ward.resetting())
    assert ward.runner == before
    ward.refusal(op(3), ResetTaskrunner(runner=RUNNER, number=1), Code.STALE)


def test_w13_who_may_stop_what_is_under_way_and_what_is_over() -> None:
    ward = ward_with(0)
    name = second_runner(ward, by=1)
    ward.must(swop(0), ward.listening(runner=name))
    message = replace(ward.assigning(PULL), runner=name)
    reset = ResetTaskrunner(runner=name, number=1)
    ward.must(op(2), message)
    log = ward.refusal(op(3), reset, Code.NOT_ALLOWED)
    assert "org1.example or org2.example" in log
    ward.must(swop(0), TakeTask(runner=name, number=1, planned=1))
    ward.refusal(op(3), reset, Code.NOT_ALLOWED)
    owner, assigner = ward.fork(), ward.fork()
    owner.must(op(1), reset)
    assigner.must(name_of(2, Role.SN), reset)
    ward.must(swop(0), ReportTask(runner=name, number=1, state=DONE))
    ward.must(op(3), reset)


def test_w13_a_task_whose_organisations_have_left_is_anybodys_to_stop() -> None:
    ward = ward_with(0)
    name = second_runner(ward, by=1)
    ward.must(swop(0), ward.listening(runner=name))
    ward.must(op(2), replace(ward.assigning(PULL), runner=name))
    reset = ResetTaskrunner(runner=name, number=1)
    ward.go_without(1)
    assert "only org2.example resets it" in ward.refusal(op(3), reset, Code.NOT_ALLOWED)
    ward.go_without(2)
    ward.must(op(3), reset)


# --- W-14: who goes -------------------------------------------------------------------------------------------------


def test_w14_agents_of_who_leaves_listen_nowhere_and_what_they_had_not_ended_has_failed() -> None:
    ward = began(RUN, 0, 1, peers=3)
    other = second_runner(ward)
    ward.must(swop(1), ward.listening(runner=other))
    ward.take(0, 1, planned=2)
    ward.report(0, BUSY, DONE, BUSY)
    ward.report(1, BUSY, DONE, BUSY)
    ward.go_without(1)
    assert ward.runner.listeners == (swop(0).id,)
    found = taskrunners.load_runner(ward.state, other)
    assert found is not None
    assert found.listeners == ()
    agent = ward.agent(1)
    assert (agent.state, agent.description) == (FAILED, "org1.example left the network")
    assert [peer.state for peer in agent.units] == [DONE, FAILED]
    # One of its peers had completed: that counts.
    assert count_work(ward.runner) == Counts(active=1, completed=2, failed=1)
    assert ward.standing is RUNNING
    ward.report(0, DONE, DONE, DONE)
    assert ward.standing is COMPLETE


def test_w14_what_has_ended_stays() -> None:
    ward = began(PULL, 0, 1, peers=2)
    ward.take(1)
    ward.report(1, DONE, description="pulled")
    ward.go_without(1)
    assert (ward.agent(1).state, ward.agent(1).description) == (DONE, "pulled")
    ward.take(0)
    ward.report(0, DONE)
    assert ward.standing is COMPLETE


def test_w14_who_was_chosen_and_left_is_not_waited_for() -> None:
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.take(0)
    ward.go_without(1)
    assert ward.standing is ERROR
    assert ward.runner.reason.endswith("swop1@org1.example: ERROR: org1.example left the network")
    named = ward_with()
    named.must(op(0), named.targeting(PULL, 1))
    named.go_without(1)
    assert named.standing is ERROR
    assert named.assignment.targets == ()


def test_w14_who_was_merely_listening_and_left_is_not_waited_for() -> None:
    ward = began(PULL, 0, 1, peers=1)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is RUNNING
    ward.go_without(1)
    assert ward.standing is ERROR


def test_w14_an_organisation_that_may_not_hold_the_role_has_no_agents() -> None:
    ward = began(PULL, 0, 1)
    ward.take(1)
    change = ChangeRoles(domain=op(1).domain, roles=(Role.SN, Role.OPERATOR))
    changes.make_change(ward.state, ward.context(op(0)), change)
    assert ward.runner.listeners == (swop(0).id,)
    assert ward.agent(1).description == "org1.example may not hold the role swop any more"
    kept = ChangeRoles(domain=op(0).domain, roles=(Role.SN, Role.SWOP))
    changes.make_change(ward.state, ward.context(op(0)), kept)
    assert ward.runner.listeners == (swop(0).id,)


def test_w14_members_expel_an_organisation_with_its_agents() -> None:
    parliament = Parliament(4)
    agent = name_of(3, Role.SWOP)
    parliament.chain.register(agent)
    assert parliament.chain.do(agent, ListenToRunner(runner=RUNNER, listening=True)).code is Code.OK
    parliament.expel(3, 0, 1, 2)
    found = taskrunners.load_runner(parliament.state, RUNNER)
    assert found is not None
    assert (found.listeners, found.version) == ((), 2)
    assert parliament.chain.do(agent, ListenToRunner(runner=RUNNER, listening=True)).code is Code.UNKNOWN_SIGNER


# --- W-15: targets --------------------------------------------------------------------------------------------------


def test_w15_an_idle_runner_gets_the_task_for_one_agent_alone() -> None:
    ward = ward_with(0, 1)
    ward.must(op(0), ward.targeting(RUN, 2))
    assert (ward.assignment.mode, ward.assignment.wanted, ward.assignment.chosen) == ("target", 1, (swop(2).id,))
    assert ward.standing is WAITING
    ward.refusal(swop(0), ward.taking(), Code.NOT_ALLOWED)
    ward.take(2, planned=2)
    assert ward.assignment.targets == ()
    # One agent is wanted, with all that it planned.
    ward.report(2, BUSY, DONE, BUSY)
    assert ward.standing is RUNNING
    ward.report(2, DONE, DONE, DONE)
    assert ward.standing is COMPLETE


def test_w15_a_target_is_a_registered_agent() -> None:
    ward = ward_with()
    message = ward.targeting(PULL, 9)
    assert "no registered node" in ward.refusal(op(0), message, Code.NOT_FOUND)
    assert "role swop" in ward.refusal(op(0), replace(message, target=op(1).id), Code.CONFLICT)
    ward.refusal(op(0), replace(message, target=NodeId("swop1")), Code.NOT_FOUND)
    ward.refusal(op(0), replace(message, target=NodeId("x" * 10_000)), Code.NOT_FOUND)


def test_w15_a_late_agent_joins_the_task_that_is_there_and_no_other() -> None:
    ward = began(RUN, 0, peers=3)
    ward.take(0, planned=2)
    assert f"has the task {RUN}" in ward.refusal(op(0), ward.targeting(PULL, 1), Code.CONFLICT)
    ward.must(op(0), ward.targeting(RUN, 1))
    found = ward.assignment
    assert (found.number, found.mode, found.wanted, found.chosen) == (1, "peers", 3, ())
    assert found.targets == (swop(1).id,)
    assert ward.standing is RUNNING
    ward.take(1, planned=2)
    ward.report(0, DONE, DONE, DONE)
    ward.report(1, BUSY, DONE, BUSY)
    assert ward.standing is COMPLETE


def test_w15_who_may_not_stop_a_task_cannot_drop_what_its_agents_have_reported() -> None:
    ward = ward_with(0)
    name = second_runner(ward, by=1)
    ward.must(swop(0), ward.listening(runner=name))
    ward.must(op(2), replace(ward.assigning(PULL, peers=2), runner=name))
    ward.must(swop(0), TakeTask(runner=name, number=1, planned=1), ReportTask(runner=name, number=1, state=DONE))
    for index in (0, 3):  # one that has completed it, and one that takes part in it unasked
        again = replace(ward.targeting(PULL, index), runner=name)
        log = ward.refusal(op(3), again, Code.NOT_ALLOWED)
        assert "only org1.example or org2.example names agents for it" in log
        for domain in (1, 2):
            ward.fork().must(op(domain), again)
    # What is over anybody may begin again, as anybody may reset it.
    ward.must(op(1), replace(ward.targeting(PULL, 1), runner=name))
    ward.must(swop(1), TakeTask(runner=name, number=1, planned=1), ReportTask(runner=name, number=1, state=DONE))
    ward.must(op(3), replace(ward.targeting(PULL, 1), runner=name))


def test_w15_an_agent_that_failed_tries_again() -> None:
    ward = began(PULL, 0, 1, peers=2)
    ward.take(0, 1)
    ward.report(0, DONE)
    ward.report(1, FAILED, description="registry does not answer")
    assert ward.standing is ERROR
    ward.must(op(0), ward.targeting(PULL, 1))
    assert (ward.standing, ward.runner.reason, ward.assignment.ended_ms) == (RUNNING, "", 0)
    assert [agent.node for agent in ward.runner.agents] == [swop(0).id]
    # What is still on its way of the first try counts for nothing.
    assert "take it again" in ward.refusal(swop(1), ward.reporting(DONE), Code.CONFLICT)
    ward.take(1)
    ward.report(1, DONE)
    assert ward.standing is COMPLETE


def test_w15_another_agent_that_does_not_listen_yet_takes_the_place_of_one_that_failed() -> None:
    ward = began(PULL, 0, peers=1)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is ERROR
    ward.must(op(0), ward.targeting(PULL, 3))
    assert ward.standing is RUNNING
    ward.take(3)
    ward.report(3, DONE)
    assert ward.standing is COMPLETE


def test_w15_alone_an_agent_that_tries_again_is_waited_for() -> None:
    ward = began(PULL, 0, peers=1)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is ERROR
    ward.must(op(0), ward.targeting(PULL, 0))
    assert ward.standing is WAITING


def test_w15_a_target_is_chosen_with_the_others_where_some_are() -> None:
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.take(0, 1)
    ward.report(1, FAILED)
    assert ward.standing is ERROR
    ward.must(op(0), ward.targeting(PULL, 2))
    assert ward.assignment.chosen == (swop(0).id, swop(1).id, swop(2).id)
    assert (ward.assignment.wanted, ward.standing) == (2, RUNNING)
    ward.take(2)
    ward.report(0, DONE)
    ward.report(2, DONE)
    assert ward.standing is COMPLETE


def test_w15_a_complete_runner_stays_that_and_the_agent_works_beside_it() -> None:
    ward = began(PULL, 0, 1, peers=1)
    ward.take(0)
    ward.report(0, DONE)
    ended_ms = ward.assignment.ended_ms
    ward.refusal(swop(1), ward.taking(), Code.CONFLICT)
    ward.must(op(0), ward.targeting(PULL, 1))
    assert (ward.standing, ward.assignment.ended_ms) == (COMPLETE, ended_ms)
    ward.take(1)
    ward.report(1, FAILED)
    assert ward.standing is COMPLETE


def test_w15_a_complete_runner_whose_agent_is_to_do_it_again_waits_for_it() -> None:
    ward = began(PULL, 0, peers=1)
    ward.take(0)
    ward.report(0, DONE)
    ward.must(op(0), ward.targeting(PULL, 0))
    assert (ward.standing, ward.assignment.ended_ms) == (WAITING, 0)
    ward.take(0)
    ward.report(0, FAILED)
    assert ward.standing is ERROR


def test_w15_an_error_stays_where_one_more_agent_does_not_help() -> None:
    ward = ward_with(0, 1, 2)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.take(0, 1, 2)
    ward.report(0, FAILED)
    ward.report(1, FAILED)
    ended_ms = ward.assignment.ended_ms
    ward.must(op(0), ward.targeting(PULL, 3))
    assert (ward.standing, ward.assignment.ended_ms) == (ERROR, ended_ms)
    ward.must(op(0), ward.targeting(PULL, 0))
    assert ward.standing is RUNNING


def test_w15_no_more_agents_are_named_than_there_may_be() -> None:
    ward = ward_with(organisations=MAX_AGENTS + 1)
    ward.must(op(0), *[ward.targeting(PULL, index) for index in range(MAX_AGENTS)])
    assert "256 agents" in ward.refusal(op(0), ward.targeting(PULL, MAX_AGENTS), Code.CONFLICT)
    ward.must(op(0), ward.targeting(PULL, 0))
