"""Approvals: docs/spec/tasks.md, W-16, with its attacks."""

import pytest
from contracts_world import name_of
from msgspec.structs import replace
from task_world import PULL, RUN, Ward, op, swop, ward_with

from swarmlearning.contracts import approvals
from swarmlearning.contracts.messages import ApproveTask
from swarmlearning.contracts.task_records import ROOT_TASK, Approval
from swarmlearning.types import Code, Role, TaskName


def approving(ward: Ward, task: str, *, granted: bool = True) -> ApproveTask:
    return ApproveTask(task=TaskName(task), hash=ward.task(TaskName(task)).hash, granted=granted)


def said(ward: Ward, task: str) -> list[tuple[str, bool]]:
    """Who said what of a task."""
    return [(found.domain, found.granted) for found in approvals.list_approvals(ward.state, TaskName(task))]


def test_w16_an_approval_says_of_what_for_whom_by_whom_and_when() -> None:
    ward = ward_with()
    ward.must(name_of(1, Role.SN), approving(ward, PULL), caller=op(1).id)
    assert list(approvals.list_approvals(ward.state, PULL)) == [
        Approval(
            task=PULL,
            domain=op(1).domain,
            hash=ward.task(PULL).hash,
            granted=True,
            by=name_of(1, Role.SN).id,
            caller=op(1).id,
            height=ward.height,
            time_ms=ward.now_ms,
        )
    ]
    assert said(ward, RUN) == []


def test_w16_each_organisation_speaks_for_its_own_hosts_and_what_it_said_last_counts() -> None:
    ward = ward_with()
    ward.must(op(2), approving(ward, PULL, granted=False))
    ward.must(op(0), approving(ward, PULL))
    assert said(ward, PULL) == [("org0.example", True), ("org2.example", False)]
    ward.must(op(2), approving(ward, PULL))
    ward.must(name_of(0, Role.SN), approving(ward, PULL, granted=False))
    assert said(ward, PULL) == [("org0.example", False), ("org2.example", True)]


def test_w16_saying_it_again_is_no_error_and_names_who_said_it_last() -> None:
    ward = ward_with()
    ward.must(op(0), approving(ward, PULL))
    ward.must(name_of(0, Role.SN), approving(ward, PULL))
    found = approvals.load_approval(ward.state, op(0).domain, PULL)
    assert found is not None
    assert (found.by, found.height) == (name_of(0, Role.SN).id, ward.height)


@pytest.mark.parametrize("role", [Role.SL, Role.SWOP, Role.AUDITOR])
def test_w16_an_agent_does_not_approve_what_it_is_to_carry_out(role: Role) -> None:
    ward = ward_with()
    ward.refusal(name_of(0, role), approving(ward, PULL), Code.NOT_ALLOWED)


def test_w16_who_approves_names_what_it_has_looked_at() -> None:
    """Else a service or a colleague could have another task approved than the one that was shown."""
    ward = ward_with()
    other = replace(approving(ward, PULL), hash=ward.task(RUN).hash)
    for message in (other, replace(other, hash=b""), replace(other, hash=bytes(64), granted=False)):
        assert "look at it again" in ward.refusal(op(0), message, Code.CONFLICT)


def test_w16_only_what_cannot_change_any_more_is_approved() -> None:
    ward = ward_with()
    ward.must(op(0), ward.creation("draft"), ward.append("draft", "x"))
    for digest in (b"", ward.hash_of(TaskName("draft"))):
        message = ApproveTask(task=TaskName("draft"), hash=digest, granted=True)
        assert "not final" in ward.refusal(op(0), message, Code.CONFLICT)
    assert "nothing to approve" in ward.refusal(op(0), approving(ward, ROOT_TASK), Code.CONFLICT)
    missing = ApproveTask(task=TaskName("x" * 1000), hash=bytes(32), granted=True)
    assert "there is no task" in ward.refusal(op(0), missing, Code.NOT_FOUND)


@pytest.mark.parametrize(("one", "other"), [("a", "a/b"), ("a/org0.example", "a"), ("org1.example/a", "a")])
def test_w16_of_two_tasks_with_names_alike_the_other_one_is_not_approved(one: str, other: str) -> None:
    ward = ward_with()
    ward.write(one)
    ward.write(other)
    ward.must(op(1), approving(ward, one))
    assert (said(ward, one), said(ward, other)) == ([("org1.example", True)], [])


def test_w16_a_former_member_approves_nothing_and_admitted_again_it_decides_anew() -> None:
    """It may have been expelled because somebody else had its operator's key."""
    ward = ward_with()
    ward.must(op(1), approving(ward, PULL), approving(ward, RUN))
    ward.must(op(2), approving(ward, PULL))
    before = set(ward.state.values)
    organisation = ward.state.values[f"org/{op(1).domain}"]
    ward.go_without(1)
    assert said(ward, PULL) == [("org2.example", True)]
    assert not [key for key in before & set(ward.state.values) if "approval" in key and op(1).domain in key]
    ward.state.put(f"org/{op(1).domain}", organisation)
    assert (said(ward, PULL), said(ward, RUN)) == ([("org2.example", True)], [])


def test_w16_an_organisation_has_said_so_of_so_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MAX_APPROVALS", 2)
    ward = ward_with()
    ward.write("third")
    ward.must(op(0), approving(ward, PULL), approving(ward, RUN), approving(ward, PULL, granted=False))
    assert "2 approvals" in ward.refusal(op(0), approving(ward, "third"), Code.CONFLICT)
    ward.must(op(0), approving(ward, RUN, granted=False))
    ward.must(op(1), approving(ward, "third"))


def test_w16_the_ledger_neither_waits_for_an_approval_nor_stops_what_was_denied() -> None:
    ward = ward_with(0)
    ward.must(op(0), approving(ward, PULL, granted=False), ward.assigning(PULL))
    ward.must(swop(0), ward.taking())
