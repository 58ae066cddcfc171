"""Measures the ledger: real SNs over mutual TLS on this machine, made-up peers, check-ins until they are final.

The peers are enrolled in trainings that never have enough of them: so no round closes, each check-in replaces the
peer's one before (T-10), and what is measured is one transaction from the submission at the own SN to its answer that
the block is committed there. Beside it the floor in the same run: a round trip to an SN, and an fsync.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.bench.peer import peak_rss_kb
from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import (
    AnyMessage,
    CheckIn,
    CreateContract,
    Enrol,
    RegisterNode,
    registration_bytes,
)
from swarmlearning.contracts.records import MAX_PEERS, Manifested, Settings
from swarmlearning.encoding import encode
from swarmlearning.errors import Broken, WaitExpired
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.local.genesis import load_genesis
from swarmlearning.local.network import NETWORK, LocalNetwork, Site
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import ContractName, Endpoint, LedgerKind, NodeName, Role, TrustDomain

WARM_UP: Final = 20
"""First check-ins that are not counted: connections are opened."""

IN_FLIGHT: Final = 64
"""Check-ins that wait for their answers at a time while throughput is measured."""

EACH_CONTRACT: Final = MAX_PEERS - 1
"""Most peers of a training that waits for one more than it has."""

FLOOR_TIMES: Final = 200

LEVEL_S: Final = 30.0
"""Longest wait until all SNs have committed what one has, seconds."""

_HOME: Final = Endpoint(host="127.0.0.1", port=30305)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured."""

    ledger: LedgerKind
    validators: int
    """Organisations, each with an SN."""
    transactions: int
    """Check-ins one after another, and as many again at once."""
    peers: int
    """Enrolled, dealt over organisations and trainings."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds."""

    median: float
    p99: float


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, medians."""

    round_trip: float
    """A request to an SN that changes nothing, over the same connection."""
    fsync: float
    """Of one block of 4 KiB, appended to a file beside the nodes'."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What came out."""

    latency_ms: Latency
    """From submission to the answer that the transaction is final, over all SNs in turn."""
    latency_by_sn_ms: list[Latency]
    """Of each; on the embedded engine the first is the sentinel's."""
    throughput_tps: float
    """Check-ins a second, `in_flight` at a time."""
    start_seconds: float
    """From nothing, certificates included, to a network whose SNs are all registered."""
    enrol_tps: float
    """Registrations and enrolments a second, `in_flight` at a time."""
    cpu_ms_per_tx: float
    """Processor time of all SNs and their validators together, a check-in, while throughput was measured; 0 where it is
    not known."""
    record_bytes: int
    """Of the largest training's record, which every check-in changes."""
    sn_rss_mb: list[float]
    """Peak resident memory of each SN, with its validator."""
    floor_ms: Floor
    ledger: LedgerKind
    validators: int
    transactions: int
    peers: int
    in_flight: int
    height: int
    """Blocks at the end."""


class _Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A made-up SL: its node's certificate and key, its signing key, and through which SN it speaks."""

    sn: int
    submitter: Submitter
    registration: RegisterNode
    contract: ContractName
    members: int
    """How many peers its training has."""


async def measure(plan: Plan, workdir: Path, tell: Callable[[str], None]) -> Measured:
    """Start a network, enrol peers, and measure.

    Args:
        plan: what is to be measured.
        workdir: an empty directory.
        tell: is given a line about what is being done.

    Raises:
        Unreachable, WaitExpired: a node does not start.
        Broken: the ledger refused what it should carry out.
    """
    sites = [Site(domain=TrustDomain(f"org-{k}.example"), sls=0) for k in range(plan.validators)]
    tell(f"starting {plan.validators} SNs")
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(LocalNetwork(sites, workdir, ledger=plan.ledger, say=tell))
        started = time.monotonic() - began
        tell(f"enrolling {plan.peers} peers")
        clients = [await _connect(network, index, stack) for index in range(plan.validators)]
        peers = _make_peers(plan, network, clients)
        enrolled = await _enrol(peers, clients)
        tell(f"{plan.transactions} check-ins, one after another")
        floor = await _measure_floor(clients[0], workdir)
        latencies = await _one_after_another(peers, plan.transactions)
        tell(f"{plan.transactions} check-ins, {IN_FLIGHT} at a time")
        before = sum(cpu_seconds(pid) for sn in network.sns for pid in list_processes(sn.process.pid))
        seconds = await _all_at_once(peers, plan.transactions)
        cpu_s = sum(cpu_seconds(pid) for sn in network.sns for pid in list_processes(sn.process.pid)) - before
        record = await clients[0].training(peers[0].contract)
        return Measured(
            latency_ms=rank_latencies([value for some in latencies for value in some]),
            latency_by_sn_ms=[rank_latencies(some) for some in latencies if some],
            throughput_tps=round(plan.transactions / seconds, 1),
            start_seconds=round(started, 2),
            enrol_tps=round(enrolled, 1),
            cpu_ms_per_tx=round(cpu_s * 1000 / plan.transactions, 2),
            record_bytes=len(encode(record)),
            sn_rss_mb=[
                round(sum(peak_rss_kb(pid) for pid in list_processes(sn.process.pid)) / 1000, 1) for sn in network.sns
            ],
            floor_ms=floor,
            ledger=plan.ledger,
            validators=plan.validators,
            transactions=plan.transactions,
            peers=plan.peers,
            in_flight=IN_FLIGHT,
            height=(await clients[0].status()).height,
        )


# --- made-up peers ------------------------------------------------------------------------------------------------


async def _connect(network: LocalNetwork, index: int, stack: AsyncExitStack) -> SnClient:
    """The SN of organisation `index`, asked by an SL of its own that there is no process of."""
    genesis = load_genesis(network.genesis)
    trusts = {o.domain: Trust(issuers=o.issuers, roles=o.roles) for o in genesis.organisations}
    source = _issue(network, index, "asker")
    client = HttpClient(TrustStore(NETWORK, system_clock, trusts), source)
    stack.push_async_callback(client.close)
    sn = SnClient(client, network.sns[index].address)
    await sn.status()
    return sn


def _issue(network: LocalNetwork, index: int, name: str) -> PemSource:
    base = network.workdir / network.sites[index].domain
    node = NodeName(domain=network.sites[index].domain, network=NETWORK, role=Role.SL, name=name)
    issued = issue_certificate(Authority.load(base / "ca"), node, (), base / "pki", at_ms=system_clock(), days=1)
    return PemSource(issued.certificate, issued.key, issued.issuer)


def deal_peers(peers: int) -> list[int]:
    """How many of `peers` each of as few trainings as possible has, all but equally many."""
    contracts = -(-peers // EACH_CONTRACT)
    return [len(range(number, peers, contracts)) for number in range(contracts)]


def _make_peers(plan: Plan, network: LocalNetwork, clients: Sequence[SnClient]) -> list[_Peer]:
    members = deal_peers(plan.peers)
    contracts = len(members)
    peers: list[_Peer] = []
    for number in range(plan.peers):
        index = number % plan.validators
        credential = _issue(network, index, f"peer-{number}").load(system_clock())
        key, node = SigningKey.create(), credential.node.id
        proof = credential.sign_proof(registration_bytes(NETWORK, node, key.public))
        peers.append(
            _Peer(
                sn=index,
                submitter=Submitter(clients[index], NETWORK, key),
                registration=RegisterNode(node=node, certificate=credential.certificate_der, proof=proof),
                contract=ContractName(f"bench-{number % contracts}"),
                members=members[number % contracts],
            )
        )
    return peers


async def _enrol(peers: Sequence[_Peer], clients: Sequence[SnClient]) -> float:
    """Register and enrol all, and let each check in once; registrations and enrolments a second."""
    began = time.monotonic()
    await _send((peer, peer.registration) for peer in peers)
    creators = {peer.contract: peer for peer in peers}
    await _send((peer, CreateContract(contract=contract)) for contract, peer in creators.items())
    # What one SN has committed, another may be about to: it would refuse who builds upon it.
    await _level(clients)
    await _send((peer, _enrolment(peer)) for peer in peers)
    seconds = time.monotonic() - began
    await _level(clients)
    await _send((peer, _check_in(peer)) for peer in peers)
    return 2 * len(peers) / seconds


async def _level(clients: Sequence[SnClient]) -> None:
    """Wait until every SN is as far as the furthest was."""
    top = max(client.height for client in clients)
    limit_s = time.monotonic() + LEVEL_S
    for client in clients:
        while (await client.status()).height < top:
            if time.monotonic() > limit_s:
                raise WaitExpired(f"{client.address.node} is not at block {top} within {LEVEL_S:g} s")
            await asyncio.sleep(0.01)


def _enrolment(peer: _Peer) -> Enrol:
    return Enrol(
        contract=peer.contract,
        run=1,
        settings=Settings(sync_frequency=1, start="merge", checkin_mode="inactive"),
        manifest=Manifested(hash=bytes(32), size=1_000_000),
        min_peers=peer.members + 1,
        weight=1,
        endpoint=_HOME,
    )


def _check_in(peer: _Peer) -> CheckIn:
    return CheckIn(
        contract=peer.contract,
        run=1,
        round=0,
        attempt=0,
        base=b"",
        commitment=secrets.token_bytes(32),
        weight=1,
        mode="active",
    )


# --- measuring ----------------------------------------------------------------------------------------------------


async def _one_after_another(peers: Sequence[_Peer], count: int) -> list[list[float]]:
    """Milliseconds of each check-in, by SN."""
    found: list[list[float]] = [[] for _ in range(1 + max(peer.sn for peer in peers))]
    turns = itertools.cycle(peers)
    for number in range(WARM_UP + count):
        peer = next(turns)
        tx = peer.submitter.sign(_check_in(peer))
        began = time.perf_counter()
        submitted = await peer.submitter.repeat(tx)
        milliseconds = (time.perf_counter() - began) * 1000
        if submitted.code:
            raise Broken(f"the ledger refused a check-in of the benchmark: {submitted.log}")
        if number >= WARM_UP:
            found[peer.sn].append(milliseconds)
    return found


async def _all_at_once(peers: Sequence[_Peer], count: int) -> float:
    """Seconds for `count` check-ins, `IN_FLIGHT` at a time."""
    turns = itertools.islice(itertools.cycle(peers), count)
    began = time.monotonic()
    await _send((peer, _check_in(peer)) for peer in turns)
    return time.monotonic() - began


async def _send(messages: Iterator[tuple[_Peer, AnyMessage]]) -> None:
    """Submit messages, `IN_FLIGHT` at a time, of which each must be carried out."""

    async def worker() -> None:
        for peer, message in messages:
            submitted = await peer.submitter.send(message)
            if submitted.code:
                raise Broken(f"the ledger refused a {type(message).__name__} of the benchmark: {submitted.log}")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())


async def _measure_floor(client: SnClient, workdir: Path) -> Floor:
    trips: list[float] = []
    for _ in range(FLOOR_TIMES):
        began = time.perf_counter()
        await client.status()
        trips.append((time.perf_counter() - began) * 1000)
    return Floor(
        round_trip=round(statistics.median(trips), 2), fsync=round(await asyncio.to_thread(_measure_fsync, workdir), 2)
    )


def _measure_fsync(workdir: Path) -> float:
    syncs: list[float] = []
    with (workdir / "fsync.bin").open("wb", buffering=0) as file:
        for _ in range(FLOOR_TIMES):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            syncs.append((time.perf_counter() - began) * 1000)
    return statistics.median(syncs)


def rank_latencies(values: Sequence[float]) -> Latency:
    """Median, and the smallest that is not exceeded by 99 % of `values`, milliseconds."""
    ranked = sorted(values)
    return Latency(median=round(statistics.median(ranked), 2), p99=round(ranked[-(-len(ranked) * 99 // 100) - 1], 2))


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has had so far, seconds; 0 where the system does not tell (not Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def list_processes(pid: int) -> list[int]:
    """A process and what it has started, as far as the system tells (Linux)."""
    found = [pid]
    for each in found:
        for path in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found
