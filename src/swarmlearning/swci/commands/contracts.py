"""Training contracts: create and reset them, look at them, their peers and rounds, and watch. Spec: CI-40 to CI-44."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import CreateContract
from swarmlearning.contracts.records import MAX_HISTORY, Phase
from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.contract import (
    PairReport,
    describe_history,
    describe_info,
    describe_reset,
    describe_status,
    report_pairs,
)
from swarmlearning.reports.status import ContractLine, ContractReport, PeerReport, report_contract, report_line
from swarmlearning.reports.view import (
    PEER_COLUMNS,
    ROUND_COLUMNS,
    UNKNOWN,
    describe_metrics,
    peer_cells,
    round_cells,
    show_figure,
)
from swarmlearning.reports.watching import DEFAULT_ROUNDS, LineShow, LiveShow, Show, follow, only_contract
from swarmlearning.sn.asking import find_training, reset_training
from swarmlearning.swci.entries import Entry, Grid, Route, Shown, label_lines, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command
from swarmlearning.types import ContractName, Role

PERFDATA_COLUMNS: Final = ("UID", "Admin", "Loss", "Metric", "TotalEpochs", "CompletedEpochs", "Name")


class NewContract(Command, frozen=True, kw_only=True):
    """`CREATE CONTRACT`."""

    contract: ContractName


class GetContractInfo(Command, frozen=True, kw_only=True):
    """`GET CONTRACT INFO`."""

    contract: ContractName


class GetContractStatus(Command, frozen=True, kw_only=True):
    """`GET CONTRACT STATUS`."""

    contract: ContractName


class ListContracts(Command, frozen=True, kw_only=True):
    """`LIST CONTRACTS`."""


class ResetTraining(Command, frozen=True, kw_only=True):
    """`RESET CONTRACT`."""

    contract: ContractName


class GetPerformance(Command, frozen=True, kw_only=True):
    """`PERFDATA`."""

    contract: ContractName


class ListPeers(Command, frozen=True, kw_only=True):
    """`LIST PEERS`."""

    contract: ContractName | None = None


class GetHistory(Command, frozen=True, kw_only=True):
    """`GET CONTRACT HISTORY`."""

    contract: ContractName
    rounds: int = DEFAULT_ROUNDS


class WatchContract(Command, frozen=True, kw_only=True):
    """`WATCH CONTRACT`."""

    contract: ContractName


class ContractReset(msgspec.Struct, frozen=True, kw_only=True):
    """A contract that begins anew."""

    contract: ContractName
    run: int
    """The one that begins when peers enrol."""


class PeersReport(msgspec.Struct, frozen=True, kw_only=True):
    """The peers of a contract, and what it waits for."""

    contract: ContractName
    run: int
    phase: Phase
    round: int | None
    waits_for: str
    peers: tuple[PeerReport, ...]


# --- creating and resetting -----------------------------------------------------------------------------------------


async def create_contract(session: Session, command: NewContract) -> ContractName:
    """Create a training contract, whose settings the first enrolment brings.

    Raises:
        Refused: there is one of that name, or the organisation has too many.
        SwarmError: see `Session.submitter`.
    """
    await (await session.submitter()).require(CreateContract(contract=command.contract))
    return command.contract


async def reset_contract(session: Session, command: ResetTraining) -> ContractReset:
    """Start a new run of a contract.

    Raises:
        NotFound: there is no such contract.
        Refused: the ledger refused it, or took it as a vote; says what is still needed.
        SwarmError: see `Session.submitter`.
    """
    client = await session.sn()
    # A name that is not there is told before a key is registered for it.
    training = await find_training(client, command.contract)
    after = await reset_training(client, await session.submitter(also=(Role.SL,)), training.name)
    return ContractReset(contract=after.name, run=after.run)


def _show_reset(reset: ContractReset) -> Shown:
    return Shown((f"Contract Reset : {reset.contract}", describe_reset(reset.contract, reset.run)))


# --- looking --------------------------------------------------------------------------------------------------------


async def list_contracts(session: Session, _command: ListContracts) -> tuple[ContractLine, ...]:
    """All contracts in short, by name.

    Raises:
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    return tuple([report_line(await find_training(client, name)) for name in await client.contracts()])


def _show_names(contracts: tuple[ContractLine, ...]) -> Shown:
    return Shown(tuple(contract.name for contract in contracts))


async def get_info(session: Session, command: GetContractInfo) -> ContractReport:
    """A contract in full, without its rounds.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return await _report(session, command.contract)


async def get_status(session: Session, command: GetContractStatus) -> ContractReport:
    """A contract in full, without its rounds.

    Raises:
        NotFound: there is none of that name; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return await _report(session, command.contract)


async def _report(session: Session, name: ContractName) -> ContractReport:
    return report_contract(await find_training(await session.sn(), name))


def _show_info(report: ContractReport) -> Shown:
    return Shown(label_lines(describe_info(report)), folds=True)


def _show_status(report: ContractReport) -> Shown:
    return Shown(label_lines(describe_status(report)), folds=True)


async def get_performance(session: Session, command: GetPerformance) -> tuple[PairReport, ...]:
    """The figures of a contract's peers, each an SL and its ML program.

    Raises:
        NotFound: there is no such contract; the message has the nearest.
        SwarmError: see `Session.sn`.
    """
    return report_pairs(await find_training(await session.sn(), command.contract))


def _show_performance(pairs: tuple[PairReport, ...]) -> Shown:
    rows = tuple(
        (
            pair.uid,
            str(pair.admin),
            show_figure(pair.loss),
            show_figure(pair.metric),
            _show_number(pair.total_epochs),
            _show_number(pair.completed_epochs),
            pair.name,
        )
        for pair in pairs
    )
    return Shown(grid=Grid(PERFDATA_COLUMNS, rows, spare=("UID",)))


def _show_number(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)


async def list_peers(session: Session, command: ListPeers) -> PeersReport:
    """Who takes part in a contract, how far each is, and what all wait for.

    Raises:
        NotFound: there is no such contract.
        ConfigurationError: none was named, and several are in use.
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    name = command.contract
    report = report_contract(await find_training(client, name) if name is not None else await only_contract(client))
    return PeersReport(
        contract=report.name,
        run=report.run,
        phase=report.phase,
        round=report.round,
        waits_for=report.waits_for,
        peers=report.peers,
    )


def _show_peers(report: PeersReport) -> Shown:
    where = f", round {report.round}" if report.round is not None else ""
    lines = (
        f"CONTRACT : {report.contract}, run {report.run}",
        f"PHASE : {report.phase.value}{where}",
        f"WAITING : {report.waits_for}",
        *describe_metrics(report.peers),
    )
    rows = tuple(peer_cells(peer) for peer in report.peers)
    return Shown(lines, Grid(PEER_COLUMNS, rows, spare=("last 10", "of round")), folds=True)


async def get_history(session: Session, command: GetHistory) -> ContractReport:
    """A contract in full, with the newest of its final rounds, the oldest of them first.

    Raises:
        NotFound: there is no such contract.
        ConfigurationError: no ledger keeps that many rounds.
        SwarmError: see `Session.sn`.
    """
    if not 1 <= command.rounds <= MAX_HISTORY:
        raise ConfigurationError(f"<rounds> {command.rounds}; expected 1-{MAX_HISTORY}")
    client = await session.sn()
    training = await find_training(client, command.contract)
    return report_contract(training, await client.history(training.name, command.rounds))


def _show_history(report: ContractReport) -> Shown:
    lines = (
        f"CONTRACT : {report.name}, run {report.run}",
        f"ROUNDS : the newest {len(report.rounds)} of {report.finals} final rounds",
        *describe_history(report.rounds),
    )
    rows = tuple((str(round_.run), *round_cells(round_, wide=True)) for round_ in report.rounds)
    return Shown(lines, Grid(("run", *ROUND_COLUMNS), rows, spare=("every",)), folds=True)


# --- watching -------------------------------------------------------------------------------------------------------


async def watch_contract(session: Session, command: WatchContract) -> ContractReport:
    """Show every change of a contract until it is complete; its last report, with its newest rounds.

    Raises:
        NotFound: there is no such contract; the message has the nearest.
        WaitExpired: the SN fell silent.
        SwarmError: see `Session.sn`.
    """
    client = await session.sn()
    name = (await find_training(client, command.contract)).name
    with _open_show(session) as show:
        await follow(client, name, DEFAULT_ROUNDS, show)
    training = await find_training(client, name)
    return report_contract(training, await client.history(name, DEFAULT_ROUNDS))


def _open_show(session: Session) -> AbstractContextManager[Show]:
    """On a terminal a live view; elsewhere, and for programs, a line for every change."""
    console = session.output.console
    if console is None or session.as_json:
        return nullcontext(LineShow(system_clock, session.tell))
    return LiveShow(console, DEFAULT_ROUNDS)


def _show_watched(_report: ContractReport) -> Shown:
    return Shown()


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "CREATE CONTRACT <contract>",
        NewContract,
        create_contract,
        lambda name: Shown((f"Contract Created : {name}",)),
        topic="Contracts",
        help="Create a training contract; the first peer that enrols brings its settings.",
        example="CREATE CONTRACT heart",
        route=Route("POST", "/contracts"),
        signs=True,
    ),
    make_entry(
        "GET CONTRACT INFO <contract>",
        GetContractInfo,
        get_info,
        _show_info,
        topic="Contracts",
        help="Tell who created a contract, who may enrol, and what its peers have agreed on.",
        example="GET CONTRACT INFO defaultbb.cqdb.sml.hpe",
        route=Route("GET", "/contracts/{contract}"),
    ),
    make_entry(
        "GET CONTRACT STATUS <contract>",
        GetContractStatus,
        get_status,
        _show_status,
        topic="Contracts",
        help="Tell where a contract stands: phase, what it waits for, newest model, warnings.",
        example="GET CONTRACT STATUS defaultbb.cqdb.sml.hpe",
        route=Route("GET", "/contracts/{contract}/status"),
    ),
    make_entry(
        "GET CONTRACT HISTORY <contract> [<rounds>]",
        GetHistory,
        get_history,
        _show_history,
        topic="Contracts",
        help="List the newest final rounds: who contributed, who did not and why, times, mean figures, model.",
        example="GET CONTRACT HISTORY heart 20",
        route=Route("GET", "/contracts/{contract}/history"),
    ),
    make_entry(
        "LIST CONTRACTS",
        ListContracts,
        list_contracts,
        _show_names,
        topic="Contracts",
        help="List the training contracts; SHOW STATUS tells where they stand.",
        example="LIST CONTRACTS",
        route=Route("GET", "/contracts"),
    ),
    make_entry(
        "RESET CONTRACT <contract>",
        ResetTraining,
        reset_contract,
        _show_reset,
        topic="Contracts",
        help="Start a new run of a contract; while two or more train, a majority of its SLs has to ask for it.",
        example="RESET CONTRACT defaultbb.cqdb.sml.hpe",
        route=Route("POST", "/contracts/{contract}/reset"),
        signs=True,
    ),
    make_entry(
        "PERFDATA <contract>",
        GetPerformance,
        get_performance,
        _show_performance,
        topic="Contracts",
        help="List loss, metric and epochs of each peer, as far as it shows them.",
        example="PERFDATA defaultbb.cqdb.sml.hpe",
        route=Route("GET", "/contracts/{contract}/performance"),
    ),
    make_entry(
        "LIST PEERS [<contract>]",
        ListPeers,
        list_peers,
        _show_peers,
        topic="Contracts",
        help="List who takes part in a contract and how far each is; without a name, in the one that is in use.",
        example="LIST PEERS heart",
        route=Route("GET", "/contracts/{contract}/peers"),
    ),
    make_entry(
        "WATCH CONTRACT <contract>",
        WatchContract,
        watch_contract,
        _show_watched,
        topic="Contracts",
        help="Show every change of a contract until its training is complete, or Ctrl-C.",
        example="WATCH CONTRACT heart",
        route=Route("GET", "/contracts/{contract}/watch"),
        waits=True,
    ),
)
