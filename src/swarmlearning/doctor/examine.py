"""Runs all checks: first what lies here, then our SN, then, all at once, everybody whom it knows.

Three steps, none of which takes longer than `timeout_s`: our SN; all members at once, and the trainings; the ports of
this machine. Only a name server that does not answer may add its own time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning import __version__
from swarmlearning.clock import WallClock, system_clock
from swarmlearning.contracts.records import Node, Training
from swarmlearning.doctor.clocks import judge_clocks
from swarmlearning.doctor.credentials import Identity, Paths, check_identity
from swarmlearning.doctor.disk import FreeSpace, check_disks, free_space
from swarmlearning.doctor.failures import explain_failure
from swarmlearning.doctor.findings import Finding, Report, Topic, Verdict, problem, skipped, worst
from swarmlearning.doctor.members import Answer, Asker, Limit, ask_member, choose_members, judge_member, show_member
from swarmlearning.doctor.own_sn import OwnSn, ask_sn, ask_trainings, judge_failure, judge_sn
from swarmlearning.doctor.ports import Port, Watch, check_host, check_ports, is_own_address
from swarmlearning.doctor.program import check_program
from swarmlearning.doctor.trainings import judge_training, largest_model
from swarmlearning.doctor.versions import check_here, judge_versions
from swarmlearning.errors import SwarmError
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.transport.client import HttpClient
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

LOOPBACK: Final = "127.0.0.1"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the user gave; empty, None or 0 where nothing."""

    paths: Paths = Paths()
    sn: Endpoint | None = None
    host_ip: str = ""
    sl_fs_port: int = 0
    sn_api_port: int = 0
    sn_p2p_port: int = 0
    directories: tuple[tuple[str, Path], ...] = ()
    """Option and path."""
    without: tuple[str, ...] = ()
    """Nodes not to ask, as NAME@DOMAIN or identity."""
    timeout_s: float = 10.0
    environ: Mapping[str, str] = msgspec.field(default_factory=dict)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out by way of our SN."""

    findings: tuple[Finding, ...]
    sn: OwnSn | None = None
    trainings: tuple[Training, ...] = ()


async def examine(plan: Plan, *, clock: WallClock = system_clock, free: FreeSpace = free_space) -> Report:
    """Run all checks. `clock` is this machine's, `free` tells a directory's free space."""
    at_ms = clock()
    identity = check_identity(plan.paths, plan.host_ip, at_ms)
    local = [*check_here(), *identity.findings]
    program, network = await asyncio.gather(
        asyncio.to_thread(check_program, plan.environ, plan.timeout_s),  # in a thread: it may ask a name server
        _examine_network(plan, identity, clock),
    )
    disks = check_disks(plan.directories, largest_model(network.trainings), free)
    findings = [*program, *local, *disks, *network.findings]
    order = list(Topic)
    findings.sort(key=lambda finding: order.index(finding.topic))
    return Report(verdict=worst(findings), version=__version__, at_ms=at_ms, findings=tuple(findings))


async def _examine_network(plan: Plan, identity: Identity, clock: WallClock) -> Network:
    """Everything that needs others, or an identity."""
    if identity.source is None or identity.credential is None:
        ports = await _check_ports(plan, None, ())
        reason, advice = "needs an identity that can be used", "see Identity above"
        return Network(findings=(*ports, _skip_network(Topic.SN, reason, advice)))
    node = identity.credential.node
    own = {node.domain: Trust(issuers=identity.credential.issuers, roles=tuple(Role))}
    trust = TrustStore(node.network, system_clock, own)
    client = HttpClient(trust, identity.source)
    asker = Asker(
        trust=trust, source=identity.source, client=client, clock=clock, role=node.role, timeout_s=plan.timeout_s
    )
    try:
        network = await _ask_network(plan, asker)
        nodes = _speaking_tls(network.sn) if network.sn is not None else ()
        watch = Watch(trust=trust, source=identity.source, domain=node.domain)
        ports = await _check_ports(plan, watch, nodes)
    finally:
        await client.close()
    return msgspec.structs.replace(network, findings=(*ports, *network.findings))


async def _ask_network(plan: Plan, asker: Asker) -> Network:
    if plan.sn is None:
        return Network(findings=(_skip_network(Topic.SN, "it was not named", "give --sn HOST:PORT (SWARM_SN)"),))
    try:
        sn = await ask_sn(asker, plan.sn)
    except SwarmError as error:
        rest = _skip_network(Topic.MEMBERS, "the own SN, which knows them, was not reached", "see Own SN above")
        return Network(findings=(judge_failure(plan.sn, error), rest))
    asker.trust.update(
        {o.domain: Trust(issuers=o.issuers, roles=o.roles, revoked=o.revoked) for o in sn.directory.organisations}
    )
    asked, left_out = choose_members(sn.directory.nodes, plan.without)
    answers, (trainings, told) = await asyncio.gather(
        asyncio.gather(*(ask_member(asker, name, endpoint, sn.status.ledger) for name, endpoint in asked)),
        _ask_trainings(asker, sn),
    )
    at_ms = asker.clock()
    members = [finding for answer in answers for finding in judge_member(answer, at_ms)]
    return Network(
        findings=(*judge_sn(sn, at_ms), *left_out, *members, *_compare(sn, answers), *told),
        sn=sn,
        trainings=trainings,
    )


def _compare(sn: OwnSn, answers: Sequence[Answer]) -> list[Finding]:
    """Clocks and versions of all who told them."""
    name = show_member(sn.node)
    clocks = [(name, sn.skew), *((show_member(a.node), a.skew) for a in answers if a.skew is not None)]
    versions = [(name, sn.status.version)]
    versions += [(show_member(a.node), a.about.version) for a in answers if a.about is not None]
    return [*judge_clocks(clocks), *judge_versions(versions)]


async def _ask_trainings(asker: Asker, sn: OwnSn) -> tuple[tuple[Training, ...], list[Finding]]:
    try:
        trainings = await ask_trainings(asker, sn)
    except SwarmError as error:
        what, advice = explain_failure(error, sn.endpoint.host)
        return (), [problem(Topic.TRAININGS, str(sn.endpoint), f"the SN did not tell of them: {what}", advice)]
    return trainings, [finding for training in trainings for finding in judge_training(training)]


def _skip_network(topic: Topic, reason: str, advice: str) -> Finding:
    """What is asked of others, left out; one line stands for all of it."""
    rest = "members, clocks, versions, trainings"
    return skipped(topic, f"own SN, {rest}" if topic is Topic.SN else rest, reason, advice)


async def _check_ports(plan: Plan, watch: Watch | None, nodes: Sequence[Node]) -> list[Finding]:
    limit = Limit(plan.timeout_s)
    found = await check_host(plan.host_ip, limit) if plan.host_ip else []
    if worst(found) is Verdict.PROBLEM:
        return found  # what listens at another machine's address is not asked here
    local = await _local_nodes(nodes, watch.domain, limit) if watch is not None else []
    found += await check_ports(_choose_ports(plan, local), watch, limit)
    if not found:
        advice = "give --sl-fs-port, --sn-api-port or --sn-p2p-port, with --host-ip, of the nodes here"
        return [skipped(Topic.PORTS, "ports", "none was named, and no node of ours is registered here", advice)]
    return found


def _speaking_tls(sn: OwnSn) -> tuple[Node, ...]:
    """Registered nodes at whose port one of ours answers; where validators vote, CometBFT does so at an SN's."""
    if sn.status.ledger == "embedded":
        return sn.directory.nodes
    return tuple(node for node in sn.directory.nodes if NodeName.parse(node.node).role is not Role.SN)


def _choose_ports(plan: Plan, local: Sequence[tuple[NodeName, Endpoint]]) -> list[Port]:
    """The ports that were given, and those registered for nodes at this machine for which none was."""
    ports: list[Port] = []
    for label, role, number in (
        ("--sl-fs-port", Role.SL, plan.sl_fs_port),
        ("--sn-p2p-port", Role.SN, plan.sn_p2p_port),
        ("--sn-api-port", Role.SN, plan.sn_api_port),
    ):
        if number:
            registered = [endpoint.host for name, endpoint in local if name.role is role]
            hosts = (plan.host_ip,) if plan.host_ip else tuple(dict.fromkeys([*registered, LOOPBACK]))
            ports.append(Port(label=f"{label} {number}", role=role, hosts=hosts, port=number))
    for name, endpoint in local:
        given = plan.sl_fs_port if name.role is Role.SL else plan.sn_p2p_port
        if not given and not {name.id, name.short} & set(plan.without):
            label = f"registered {show_member(name)}"
            ports.append(Port(label=label, role=name.role, hosts=(endpoint.host,), port=endpoint.port))
    return ports


async def _local_nodes(nodes: Sequence[Node], domain: TrustDomain, limit: Limit) -> list[tuple[NodeName, Endpoint]]:
    """Registered SNs and SLs of our organisation whose address is one of this machine's."""
    ours = [(NodeName.parse(node.node), node.endpoint) for node in nodes]
    candidates = [
        (name, endpoint)
        for name, endpoint in ours
        if endpoint is not None and not endpoint.via and name.domain == domain and name.role in (Role.SN, Role.SL)
    ]
    here = await asyncio.gather(*(is_own_address(endpoint.host, limit.left()) for _, endpoint in candidates))
    return [candidate for candidate, is_here in zip(candidates, here, strict=True) if is_here]
