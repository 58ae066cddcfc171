"""Which nodes a network has, what serves what, and who its members are: as records and as rows of tables."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.records import Node, Organisation, Training
from swarmlearning.encoding import sha256
from swarmlearning.reports.nodes import node_uuid
from swarmlearning.reports.view import UNKNOWN, show_time
from swarmlearning.sn.api import Directory, Presence, Status
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain

NodeType = Literal["SENTINEL", "SN", "FULLNODE", "SWOP", "SL"]
"""As in the product we re-create: SNs by their part in the order, and the nodes that they serve."""

NODE_COLUMNS: Final = ("NodeType", "HostIP", "Port", "ContainerName", "UUID", "ParentUUID", "i-am-alive")
"""CI-45: the header that programs expect, in this order."""

_ORDER: Final[tuple[NodeType, ...]] = ("SENTINEL", "SN", "FULLNODE", "SWOP", "SL")
_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"

MEMBER_COLUMNS: Final = ("Organisation", "Roles", "SNs", "SLs", "Agents", "Validator")


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the network; operators and auditors are none."""

    kind: NodeType
    node: NodeId
    name: str
    """`name@domain`."""
    host: str
    """Empty where it is not known."""
    port: int | None
    uuid: str
    parent: NodeId
    """The SN that serves it; empty where that is not known."""
    parent_uuid: str
    seen_ms: int | None
    """When the SN that was asked last heard of it, milliseconds since the epoch; None: not since that SN started."""


class MemberReport(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation of the network."""

    domain: TrustDomain
    roles: tuple[Role, ...]
    """What its nodes may be."""
    nodes: dict[str, int]
    """How many of its nodes are registered, by role."""
    issuers: tuple[str, ...]
    """SHA-256 of its CA certificates, hexadecimal."""
    revoked: int
    """How many of its certificates are."""
    validator: str
    """Key with which it votes on blocks, hexadecimal; empty where a sentinel orders."""
    connected: bool | None
    """Whether its validator is connected to the SN that was asked; None where there are no validators."""


def report_nodes(
    directory: Directory, status: Status, presence: Iterable[Presence], trainings: Iterable[Training] = ()
) -> tuple[NodeReport, ...]:
    """The nodes in good standing: SNs first, then agents, then SLs.

    Args:
        directory: members and registered nodes.
        status: who orders.
        presence: when the SN heard of whom, and who serves whom.
        trainings: where enrolled peers said that they are reached, for those that did not when they registered.
    """
    members = {member.domain: member for member in directory.organisations}
    heard = {found.node: found for found in presence}
    enrolled = {peer.node: peer.endpoint for training in trainings for peer in training.peers}
    standing = [node for node in directory.nodes if is_in_good_standing(node, members)]
    sns = Counter(NodeName.parse(node.node).domain for node in standing if NodeName.parse(node.node).role is Role.SN)
    reports = []
    for node in standing:
        name = NodeName.parse(node.node)
        kind = _kind_of(node, name, members[name.domain], status, alone=sns[name.domain] == 1)
        if kind is not None:
            endpoint = node.endpoint or enrolled.get(node.node)
            reports.append(_report_node(kind, name, endpoint, heard.get(node.node)))
    return tuple(sorted(reports, key=lambda report: (_ORDER.index(report.kind), report.node)))


def lacks_endpoint(directory: Directory) -> bool:
    """Whether an SL did not say where it is reached when it registered."""
    return any(node.endpoint is None and NodeName.parse(node.node).role is Role.SL for node in directory.nodes)


def is_in_good_standing(node: Node, members: Mapping[TrustDomain, Organisation]) -> bool:
    """M-3: whether what a node signs counts: its organisation is a member and has withdrawn nothing."""
    name = NodeName.parse(node.node)
    member = members.get(name.domain)
    if member is None or name.role not in member.roles:
        return False
    return not set(node.certificates) & set(member.revoked) and node.issuer in map(sha256, member.issuers)


def _kind_of(node: Node, name: NodeName, member: Organisation, status: Status, *, alone: bool) -> NodeType | None:
    if name.role is Role.SWOP:
        return "SWOP"
    if name.role is Role.SL:
        return "SL"
    if name.role is not Role.SN:
        return None
    if node.node == status.sentinel:
        return "SENTINEL"
    # A validator runs beside the SN that is reached where it is, or beside the only one that there is.
    votes = member.validator is not None and (alone or node.endpoint == member.validator.endpoint)
    return "FULLNODE" if votes else "SN"


def _report_node(kind: NodeType, name: NodeName, endpoint: Endpoint | None, heard: Presence | None) -> NodeReport:
    parent = heard.parent if heard is not None else NodeId("")
    return NodeReport(
        kind=kind,
        node=name.id,
        name=name.short,
        host=endpoint.host if endpoint is not None else "",
        port=endpoint.port if endpoint is not None else None,
        uuid=node_uuid(name.id),
        parent=parent,
        parent_uuid=node_uuid(parent) if parent else "",
        seen_ms=heard.seen_ms or None if heard is not None else None,
    )


def node_cells(node: NodeReport) -> tuple[str, ...]:
    """A node in the columns `NODE_COLUMNS`."""
    return (
        node.kind,
        node.host or UNKNOWN,
        UNKNOWN if node.port is None else str(node.port),
        node.name,
        node.uuid,
        node.parent_uuid or UNKNOWN,
        UNKNOWN if node.seen_ms is None else show_time(node.seen_ms, _ISO),
    )


def report_members(directory: Directory, status: Status) -> tuple[MemberReport, ...]:
    """The members, by trust domain."""
    members = {member.domain: member for member in directory.organisations}
    names = [NodeName.parse(node.node) for node in directory.nodes if is_in_good_standing(node, members)]
    return tuple(
        MemberReport(
            domain=member.domain,
            roles=member.roles,
            nodes=dict(sorted(Counter(name.role.value for name in names if name.domain == member.domain).items())),
            issuers=tuple(sha256(issuer).hex() for issuer in member.issuers),
            revoked=len(member.revoked),
            validator=member.validator.key.hex() if member.validator is not None else "",
            connected=member.domain not in status.away if member.validator is not None else None,
        )
        for member in directory.organisations
    )


def member_cells(member: MemberReport) -> tuple[str, ...]:
    """A member in the columns `MEMBER_COLUMNS`."""
    connected = {None: UNKNOWN, True: "connected", False: "away"}[member.connected]
    return (
        member.domain,
        " ".join(role.value for role in member.roles),
        *(str(member.nodes.get(role.value, 0)) for role in (Role.SN, Role.SL, Role.SWOP)),
        connected,
    )
