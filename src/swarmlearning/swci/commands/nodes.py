"""LIST NODES, SHOW STATUS: what a network consists of, and where it stands. Spec: CI-45, CI-46."""

from typing import Final

from swarmlearning.reports.status import StatusReport
from swarmlearning.reports.topology import NODE_COLUMNS, NodeReport, lacks_endpoint, node_cells, report_nodes
from swarmlearning.reports.view import CONTRACT_COLUMNS, contract_cells, describe_network
from swarmlearning.reports.watching import DEFAULT_ROUNDS, look
from swarmlearning.sn.asking import find_training
from swarmlearning.swci.entries import Entry, Grid, Route, Shown, label_lines, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command


class ListNodes(Command, frozen=True, kw_only=True):
    """`LIST NODES`."""


class ShowStatus(Command, frozen=True, kw_only=True):
    """`SHOW STATUS`."""


async def list_nodes(session: Session, _command: ListNodes) -> tuple[NodeReport, ...]:
    """The nodes of the network, in the order SENTINEL, SN, FULLNODE, SWOP, SL.

    Raises:
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    directory = await client.directory()
    status, presence = await client.status(), await client.presence()
    # Records are large: they are asked for only where they tell more.
    names = await client.contracts() if lacks_endpoint(directory) else ()
    trainings = [await find_training(client, name) for name in names]
    return report_nodes(directory, status, presence, trainings)


def _show_nodes(nodes: tuple[NodeReport, ...]) -> Shown:
    rows = tuple(node_cells(node) for node in nodes)
    return Shown(grid=Grid(NODE_COLUMNS, rows, spare=("ParentUUID", "UUID")))


async def show_status(session: Session, _command: ShowStatus) -> StatusReport:
    """The network, all contracts in short, and in full the one that is in use if it is the only one.

    Raises:
        SwarmError: see `Session.sn`.
    """
    return await look(await session.sn(), None, DEFAULT_ROUNDS)


def _show_status(report: StatusReport) -> Shown:
    lines = label_lines(describe_network(report.network, "LIST PROPOSALS"))
    return Shown(lines, Grid(CONTRACT_COLUMNS, tuple(contract_cells(line) for line in report.contracts)), folds=True)


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "LIST NODES",
        ListNodes,
        list_nodes,
        _show_nodes,
        topic="Nodes",
        help="List SNs, agents (SWOP) and SLs: address, UUID, which SN serves it, and when ours last heard of it.",
        example="LIST NODES",
        route=Route("GET", "/nodes"),
    ),
    make_entry(
        "SHOW STATUS",
        ShowStatus,
        show_status,
        _show_status,
        topic="Nodes",
        help="Tell where the network, its ledger and its contracts stand.",
        example="SHOW STATUS",
        route=Route("GET", "/status"),
    ),
)
