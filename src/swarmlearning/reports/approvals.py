"""What people are told of approvals: what members said of a task, and what one can do about an agent that waits.

Spec: docs/spec/swci-tasks.md, CI-55, CI-58 and CI-70.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from swarmlearning.contracts.task_records import Approval
from swarmlearning.reports.view import show_time
from swarmlearning.types import NodeId, TaskName, TrustDomain, short_name

_MAX_NAMES: Final = 10


class ApprovalReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation said of a task, for all its agents."""

    organisation: TrustDomain
    granted: bool
    """False: denied."""
    by: NodeId
    """Who signed it."""
    caller: NodeId
    """On whose behalf; empty where the signer asked for it itself."""
    height: int
    time_ms: int
    """Block time, milliseconds since the epoch."""


def report_approval(approval: Approval) -> ApprovalReport:
    """What an organisation said of a task."""
    return ApprovalReport(
        organisation=approval.domain,
        granted=approval.granted,
        by=approval.by,
        caller=approval.caller,
        height=approval.height,
        time_ms=approval.time_ms,
    )


def describe_approval(report: ApprovalReport) -> tuple[str, str]:
    """An approval as label and text."""
    signer = short_name(report.by) + (f" for {short_name(report.caller)}" if report.caller else "")
    label = "APPROVED_BY" if report.granted else "DENIED_BY"
    return label, f"{report.organisation} , SIGNED_BY : {signer} , AT : {show_time(report.time_ms)}"


def explain_approval(task: TaskName, organisations: Iterable[TrustDomain]) -> str:
    """What can be done about agents that wait for an approval of their own organisations."""
    named = sorted(set(organisations))
    more = f" and {len(named) - _MAX_NAMES} more" if len(named) > _MAX_NAMES else ""
    each = "each of " if len(named) > 1 else ""
    whose = f"{each}{', '.join(named[:_MAX_NAMES])}{more}"
    return f"an operator of {whose} decides, by APPROVE TASK {task} or DENY TASK {task}"
