"""What people are told of a taskrunner's agents: records for programs, and their lines. Spec: swci-tasks.md, CI-58.

Texts that others set are made printable here, once.
"""

from typing import Final, Literal

import msgspec

from swarmlearning.contracts.task_records import Agent, Evidence, Taskrunner, TaskType, Unit, WorkState
from swarmlearning.errors import NotFound
from swarmlearning.reports.approvals import explain_approval
from swarmlearning.reports.nodes import find_agent, node_uuid
from swarmlearning.reports.runners import tell_text
from swarmlearning.reports.view import UNKNOWN
from swarmlearning.types import NodeId, NodeName, TrustDomain, short_name

PEER_COLUMNS: Final = ("Index", "Name", "UUID", "Listens", "Status", "Peers", "Description")


class EvidenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ran on an agent's host and how that ended, as the agent says."""

    manager: str
    """What ran it, and what kept it apart from the host."""
    image: str
    """What it ran in."""
    exit_status: int | None
    """As a shell shows it, 0 to 255; None where nothing ended by itself."""
    log_hash: str
    """SHA-256 of the program's log, hexadecimal; empty where there is none."""


class UnitReport(msgspec.Struct, frozen=True, kw_only=True):
    """A peer that an agent started: an SL with its ML program."""

    uid: str
    state: WorkState
    description: str
    evidence: EvidenceReport | None
    """Of its ML program."""


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """An agent (SWOP) of a taskrunner."""

    index: int | None
    """Its number among those that have taken the task, from 0; None: it has not."""
    node: NodeId
    name: str
    uuid: str
    organisation: TrustDomain
    """Whose it is."""
    listens: bool
    state: WorkState | None
    """None: it has not taken the task."""
    description: str
    to_do: str
    """What can be done about it; empty unless it waits for an approval."""
    approved_by: str
    """Who agreed for its institution, as the agent says: a node id, or a policy's rule and hash; empty before that."""
    evidence: EvidenceReport | None
    """Of a task other than RUN_SWARM."""
    peer_type: Literal["SL", "SWOP"]
    planned: int | None
    """Peers that it starts."""
    units: tuple[UnitReport, ...]
    taken_ms: int | None
    reported_ms: int | None


def report_agents(runner: Taskrunner) -> tuple[AgentReport, ...]:
    """Who has taken the task, in that order; then who may, and who listens."""
    reports = [_report_agent(runner, agent, index) for index, agent in enumerate(runner.agents)]
    named = (*runner.assignment.chosen, *runner.assignment.targets) if runner.assignment else ()
    others = sorted({*named, *runner.listeners} - {agent.node for agent in runner.agents})
    return (*reports, *(_report_idle(runner, node) for node in others))


def find_peer(runner: Taskrunner, name: str) -> AgentReport:
    """The agent that a person means: its number among those that have taken the task, or one of its names.

    Raises:
        NotFound: there is none.
    """
    reports = report_agents(runner)
    taken = sum(report.index is not None for report in reports)
    # A name is never a plain number that could be meant as one: numbers come first.
    if name.isascii() and name.isdigit():
        if len(name) < 10 and int(name) < taken:
            return reports[int(name)]
        raise NotFound(f"there is no agent {name[:20]} of {runner.name}: {taken} have taken its task, numbered from 0")
    node = find_agent(name, [report.node for report in reports])
    return next(report for report in reports if report.node == node)


def _report_agent(runner: Taskrunner, agent: Agent, index: int) -> AgentReport:
    organisation, assignment = NodeName.parse(agent.node).domain, runner.assignment
    asks = agent.state is WorkState.AWAITING_APPROVAL
    return AgentReport(
        index=index,
        node=agent.node,
        name=short_name(agent.node),
        uuid=node_uuid(agent.node),
        organisation=organisation,
        listens=agent.node in runner.listeners,
        state=agent.state,
        description=tell_text(agent.description),
        to_do=explain_approval(assignment.task, [organisation]) if asks and assignment is not None else "",
        approved_by=tell_text(agent.approved_by),
        evidence=_report_evidence(agent.evidence),
        peer_type=_peer_type(runner),
        planned=agent.planned,
        units=tuple(map(_report_unit, agent.units)),
        taken_ms=agent.since_ms,
        reported_ms=agent.reported_ms,
    )


def _peer_type(runner: Taskrunner) -> Literal["SL", "SWOP"]:
    is_run = runner.assignment is not None and runner.assignment.kind is TaskType.RUN_SWARM
    return "SL" if is_run else "SWOP"


def _report_unit(unit: Unit) -> UnitReport:
    return UnitReport(
        uid=tell_text(unit.uid),
        state=unit.state,
        description=tell_text(unit.description),
        evidence=_report_evidence(unit.evidence),
    )


def _report_evidence(evidence: Evidence | None) -> EvidenceReport | None:
    if evidence is None:
        return None
    return EvidenceReport(
        manager=tell_text(evidence.manager),
        image=tell_text(evidence.image),
        exit_status=evidence.exit_status,
        log_hash=evidence.log_hash.hex(),
    )


def _report_idle(runner: Taskrunner, node: NodeId) -> AgentReport:
    return AgentReport(
        index=None,
        node=node,
        name=short_name(node),
        uuid=node_uuid(node),
        organisation=NodeName.parse(node).domain,
        listens=node in runner.listeners,
        state=None,
        description="",
        to_do="",
        approved_by="",
        evidence=None,
        peer_type=_peer_type(runner),
        planned=None,
        units=(),
        taken_ms=None,
        reported_ms=None,
    )


def describe_agent(agent: AgentReport) -> list[tuple[str, str]]:
    """An agent as labels and texts, its peers after it."""
    pairs = [
        ("SWOP_UID", agent.uuid),
        ("SWOP_NAME", agent.name),
        ("STATUS", _show_state(agent)),
        ("DESCRIPTION", agent.description or UNKNOWN),
    ]
    if agent.to_do:
        pairs.append(("TO_DO", agent.to_do))
    if agent.approved_by:
        pairs.append(("APPROVED_BY", agent.approved_by))
    if agent.evidence is not None:
        pairs.append(("RAN_BY", _describe_evidence(agent.evidence)))
    if agent.peer_type == "SL":
        pairs.append(("PEER_TYPE", agent.peer_type))
        pairs.append(("PEERS", UNKNOWN if agent.planned is None else str(agent.planned)))
        for unit in agent.units:
            described = f" , DESCRIPTION : {unit.description}" if unit.description else ""
            pairs.append(("PEER_UID", f"{unit.uid} , STATUS : {unit.state.value}{described}"))
            if unit.evidence is not None:
                pairs.append(("PEER_RAN_BY", _describe_evidence(unit.evidence)))
    return pairs


def _describe_evidence(evidence: EvidenceReport) -> str:
    exit_status = UNKNOWN if evidence.exit_status is None else str(evidence.exit_status)
    return (
        f"{evidence.manager or UNKNOWN} , IMAGE : {evidence.image or UNKNOWN} , EXIT_STATUS : {exit_status} , "
        f"LOG_HASH : {evidence.log_hash or UNKNOWN}"
    )


def _show_state(agent: AgentReport) -> str:
    return "NOT TAKEN" if agent.state is None else agent.state.value


def agent_cells(agent: AgentReport) -> tuple[str, ...]:
    """An agent as a row of `PEER_COLUMNS`."""
    return (
        UNKNOWN if agent.index is None else str(agent.index),
        agent.name,
        agent.uuid,
        "yes" if agent.listens else "no",
        _show_state(agent),
        UNKNOWN if agent.planned is None else str(agent.planned),
        "; ".join(text for text in (agent.description, agent.to_do) if text),
    )
